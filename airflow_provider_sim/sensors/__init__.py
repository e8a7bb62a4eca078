"""See ``docs/design/architecture.md`` for what this room is for."""
