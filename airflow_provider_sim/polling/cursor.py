"""Cursor over the finished runs of one workflow; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from airflow_provider_sim.client import WorkflowRun

OVERLAP = 60.0
"""Seconds by which each poll overlaps the one before: a run may appear in Sim's log some time after its start."""

_LONG = 86_400.0
"""Seconds for which a delivered run without a start time is remembered."""

_MARGIN = 5.0
"""Seconds by which a run's start time may move in its first moments."""


@dataclass(slots=True)
class Cursor:
    """Which finished runs of a workflow were delivered to a trigger, and which runs are known but not delivered.

    Sim lists runs in the order of their starts, not of their ends, so that a single timestamp is not enough.

    :param since: seconds since the epoch; each run that started earlier is either in ``open`` or needs no delivery.
    :param open: IDs of known runs that have not been delivered.
    :param delivered: IDs of delivered runs, and their starts, for as long as a poll may list them again.
    """

    since: float
    open: set[str] = field(default_factory=set)
    delivered: dict[str, float] = field(default_factory=dict)

    def saw(self, run: WorkflowRun) -> None:
        """Record a run that was listed, perhaps for another trigger whose cursor is older."""
        run_id = run.run_id or ""
        if run_id not in self.delivered and (run.start_time is None or run.start_time >= self.since):
            self.open.add(run_id)

    def deliver(self, run: WorkflowRun) -> None:
        """Record that a run was delivered, or needs no delivery."""
        run_id = run.run_id or ""
        self.open.discard(run_id)
        self.delivered[run_id] = self.since + _LONG if run.start_time is None else run.start_time

    def advance(self, since: float) -> None:
        """Record that all runs that started before a moment are known."""
        self.since = max(self.since, since)
        keep = self.since - _MARGIN
        self.delivered = {run_id: began for run_id, began in self.delivered.items() if began >= keep}

    def to_dict(self) -> dict[str, Any]:
        """Return the cursor as plain JSON."""
        return {"since": self.since, "open": sorted(self.open), "delivered": dict(self.delivered)}

    @classmethod
    def from_dict(cls, value: Any) -> Self | None:
        """Return a stored cursor; None if the value is not one."""
        match value:
            case {"since": int() | float() as since, "open": [*run_ids], "delivered": Mapping() as delivered}:
                began = {str(run_id): float(start) for run_id, start in delivered.items()}
                return cls(float(since), {str(run_id) for run_id in run_ids}, began)
        return None


def cursors_of(stored: Any) -> dict[str, Cursor]:
    """Return stored cursors by workflow ID; without what is not one."""
    found = {str(key): Cursor.from_dict(value) for key, value in stored.items()} if isinstance(stored, Mapping) else {}
    return {workflow_id: cursor for workflow_id, cursor in found.items() if cursor is not None}
