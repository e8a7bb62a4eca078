"""Server versions that the emulator can be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """The differences between server versions that a client can see.

    :param v2: whether the version has ``/api/v2``.
    :param v2_on: whether ``/api/v2`` is switched on.
    :param run_ids: whether the legacy API accepts the caller's run ID and time limit.
    :param executions: whether the legacy API has a status route for runs.
    :param queue_metadata: whether jobs show the queue's raw statuses and metadata, and responses the run's ID.
    """

    name: str
    v2: bool = False
    v2_on: bool = False
    run_ids: bool = False
    executions: bool = False
    queue_metadata: bool = True


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
