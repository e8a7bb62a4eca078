"""Sim's changes to outputs: the truncated and redacted display copy, and references in place of large values."""

from __future__ import annotations

import json
import math
from typing import Any

from airflow_provider_sim.emulator.workflows import new_name

MAX_TEXT = 15_000
MAX_DEPTH = 50
MAX_VALUE_BYTES = 8 * 1024 * 1024

_SECRET_ENDINGS = ("token", "secret", "password", "credential", "apikey", "api_key")
_FILE_FIELDS = {"id", "name", "url", "size", "type", "key"}
_SECRET_NAMES = frozenset({"auth", "authorization", "bearer", "private", "passphrase"})


def display_copy(value: Any, *, depth: int = 0) -> Any:
    """Truncate and redact a value, as Sim does in logs and polled runs."""
    if depth > MAX_DEPTH:
        return "[MAX_DEPTH_EXCEEDED]"
    if isinstance(value, str):
        rest = len(value) - MAX_TEXT
        return f"{value[:MAX_TEXT]}... [truncated {rest} chars]" if rest > 0 else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [display_copy(item, depth=depth + 1) for item in value]
    if isinstance(value, dict):
        # Seen of files that an input refers to; files that a run has made have a context.
        hidden = {"key"} if value.keys() >= _FILE_FIELDS and "context" not in value else ()
        return {key: _shown(key, item, depth) for key, item in value.items() if key not in hidden}
    return value


def _shown(key: str, item: Any, depth: int) -> Any:
    name = key.lower()
    if name.endswith(_SECRET_ENDINGS) or name in _SECRET_NAMES:
        return "[REDACTED]"
    return "[TRUNCATED]" if name == "base64" else display_copy(item, depth=depth + 1)


def with_large_values_referred(value: Any, *, run_id: str, place: str, is_nested: bool = False) -> Any:
    """Replace nested values larger than 8 MiB by references; no API returns the values themselves.

    :param place: the storage folder in the reference.
    """
    if isinstance(value, dict):
        where: dict[str, Any] = {"run_id": run_id, "place": place, "is_nested": True}
        value = {key: with_large_values_referred(item, **where) for key, item in value.items()}
    if not is_nested or not isinstance(value, str | list | dict):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= MAX_VALUE_BYTES:
        return value
    name = f"lv_{new_name(12)}"
    return {
        "__simLargeValueRef": True,
        "version": 1,
        "id": name,
        "kind": {str: "string", list: "array", dict: "object"}[type(value)],
        "size": len(text) + 2 * isinstance(value, str),
        "key": f"execution/{place}/large-value-{name}.json",
        "executionId": run_id,
        "preview": text[:200],
    }
