"""What somebody who is told of every ended run has been told so far; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from airflow_provider_sim.client.models import WorkflowRun

OVERLAP = 60.0
"""Seconds for which a look goes back behind the one before: a run may appear in Sim's log after its start."""

_LONG = 86_400.0
"""Seconds for which a run without a start is remembered."""

_MARGIN = 5.0
"""Seconds by which a run's start may move in its first moments."""


@dataclass(slots=True)
class Position:
    """Which ended runs were told, and which runs are known that haven't ended.

    Sim lists runs in the order of their starts, not of their ends. So a position is the start up to which all runs are
    known, those of them that are still to be told, and those behind it, within the overlap, that were told.

    :param since: seconds since the epoch: each run that has started before was told, or is ``open``, or wasn't wanted.
    :param open: runs that are still to be told, with their workflows.
    :param told: runs that were told, with their starts, as far as they may be listed again.
    :ivar on_way: runs that are being told; whether that has succeeded isn't known yet.
    """

    since: float
    open: dict[str, str] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    on_way: set[str] = field(default_factory=set)

    def saw(self, run: WorkflowRun) -> None:
        """Take note of a run in a list."""
        run_id = run.run_id or ""
        if run_id not in self.told:
            self.open.setdefault(run_id, run.workflow_id or "")

    def wants(self, run: WorkflowRun) -> bool:
        """Whether an ended run is to be told now."""
        return run.run_id in self.open and run.run_id not in self.on_way

    def confirm(self, run_id: str, began: float | None) -> None:
        """A run was told, and that is certain; perhaps by an earlier listener, and never seen by this one."""
        self.on_way.discard(run_id)
        self.open.pop(run_id, None)
        self.told[run_id] = self.since + _LONG if began is None else began

    def forget(self, run_id: str) -> None:
        """A run doesn't exist any more."""
        self.open.pop(run_id, None)
        self.on_way.discard(run_id)

    def advance(self, since: float) -> None:
        """All runs that have started before this moment are known."""
        self.since = max(self.since, since)
        keep = self.since - _MARGIN
        self.told = {run_id: began for run_id, began in self.told.items() if began >= keep}

    def as_json(self) -> dict[str, Any]:
        """To be written down. Runs that are on their way are still open: whether they were told isn't certain."""
        return {"since": self.since, "open": dict(self.open), "told": dict(self.told)}

    @classmethod
    def of_json(cls, value: Any) -> Self | None:
        """What was written down; None if it is no position."""
        if not isinstance(value, Mapping) or not isinstance(value.get("since"), int | float):
            return None
        open_runs, told = value.get("open"), value.get("told")
        if not isinstance(open_runs, Mapping) or not isinstance(told, Mapping):
            return None
        return cls(
            since=float(value["since"]),
            open={str(run_id): str(workflow_id) for run_id, workflow_id in open_runs.items()},
            told={str(run_id): float(began) for run_id, began in told.items()},
        )
