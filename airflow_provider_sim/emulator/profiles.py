"""Server versions that the emulator can be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """The differences between server versions that a client can see."""

    name: str
    v2: bool = False  # has /api/v2
    v2_on: bool = False  # /api/v2 is switched on
    run_ids: bool = False  # the legacy API accepts the caller's run ID and time limit
    executions: bool = False  # the legacy API has a status route for runs
    queue_metadata: bool = True  # jobs show the queue's raw statuses and metadata, and responses the run's ID


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("v0.5.44", queue_metadata=False),
        Profile("v0.6.40"),
        Profile("v0.7", executions=True),
        Profile("v0.8-legacy", executions=True, run_ids=True, v2=True),
        Profile("v0.8", executions=True, run_ids=True, v2=True, v2_on=True),
    )
}
"""By name; ``v0.8-legacy`` is a self-hosted v0.8 with its default settings, which leave v2 switched off."""
