"""Answering a run's pause, once: whatever becomes of the request that does it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.client import NO_RETRY, RunStatus, approval_url
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConflictError,
    SimError,
    SimInputError,
    SimPauseAnsweredError,
    SimRunTimeoutError,
)

if TYPE_CHECKING:
    from airflow_provider_sim.client import PausePoint, SimClient

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseAnswer:
    """What to answer, and for how long to try.

    :param context_id: the pause point; None for the only one that is open.
    :param input: the answer, as the pause's fields.
    :param poll_interval: seconds between looks.
    :param deadline: seconds since the epoch.
    :param note: called with the pause point before the answer is sent for the first time.
    :param earlier: the pause point that an earlier try has perhaps answered.
    """

    workflow_id: str
    run_id: str
    context_id: str | None
    input: Any
    poll_interval: float
    deadline: float
    note: Callable[[str], None]
    earlier: str | None = None

    def give(self, client: SimClient, *, sleep: Callable[[float], None] | None = None) -> str:
        """Wait for the pause and answer it; return the pause point.

        Sim takes an answer once and refuses another. Where it isn't known whether it took ours, the pause point is
        looked at: answered, that was us; open, the answer is sent again.

        :raises SimPauseAnsweredError: somebody else has answered it, or the run is over.
        :raises SimInputError: several are open, and ``context_id`` doesn't say which.
        :raises SimRunTimeoutError: the run wasn't paused by the deadline.
        :raises SimError: it can't be done.
        """
        if self.earlier is not None and self._is_taken(client, self.earlier):
            log.info("An earlier try has answered pause %s of run %s.", self.earlier, self.run_id)
            return self.earlier
        point = self.earlier or self._await_pause(client, sleep or time.sleep)
        self.note(point)
        ours = self.earlier is not None
        while True:
            try:
                client.resume_workflow_run(self.workflow_id, self.run_id, context_id=point, input=self.input)
                return point
            except SimConflictError as error:  # answered, or Sim hasn't yet written down what it needs to go on
                refusal: SimError = error
            except SimError as error:
                if error.outcome is not Outcome.UNKNOWN:
                    raise
                refusal, ours = error, True
            if self._is_taken(client, point):
                if ours:
                    log.info("%s The pause is answered all the same.", refusal)
                    return point
                raise self._answered(client, f"pause {point} was answered by somebody else") from refusal
            if time.time() >= self.deadline:
                raise refusal
            log.info("%s The pause is still open: answering it again.", refusal)
            (sleep or time.sleep)(self.poll_interval)

    def _await_pause(self, client: SimClient, sleep: Callable[[float], None]) -> str:
        """The pause point to answer, once there is one."""
        while True:
            run = client.get_workflow_run(self.workflow_id, self.run_id)
            if run.status.is_terminal:
                raise self._answered(client, f"it is {run.status}")
            points = client.get_paused_run(self.workflow_id, self.run_id)
            waiting = points.open_points if run.status is RunStatus.PAUSED else ()
            named = [point for point in waiting if self.context_id in (None, point.context_id)]
            if len(named) == 1:
                return named[0].context_id
            if len(named) > 1:
                raise self._several(named)
            if self.context_id is not None and any(
                point.context_id == self.context_id and not point.is_open for point in points.points
            ):
                raise self._answered(client, f"pause {self.context_id} was answered by somebody else")
            if time.time() >= self.deadline:
                others = ", ".join(point.context_id for point in waiting)
                raise SimRunTimeoutError(
                    f"Run {self.run_id!r} of workflow {self.workflow_id!r} is {run.status}, and waits for no person at"
                    f" {self.context_id or 'any pause'} when the time to wait for that was up."
                    f"{f' It waits at {others}.' if others else ''} Give the task a longer timeout.",
                    workflow_id=self.workflow_id,
                    run_id=self.run_id,
                    outcome=Outcome.NEVER_SENT,
                )
            log.info("Run %s is %s; waiting until it asks a person.", self.run_id, run.status)
            sleep(self.poll_interval)

    def _is_taken(self, client: SimClient, context_id: str) -> bool:
        """Whether a pause point isn't open any more."""
        run = client.get_workflow_run(self.workflow_id, self.run_id, retry=NO_RETRY)
        if run.status is not RunStatus.PAUSED:
            return True
        points = client.get_paused_run(self.workflow_id, self.run_id).points
        return not any(point.context_id == context_id and point.is_open for point in points)

    def _answered(self, client: SimClient, why: str) -> SimPauseAnsweredError:
        return SimPauseAnsweredError(
            f"Run {self.run_id!r} of workflow {self.workflow_id!r} waits for no answer of this task: {why}. What was"
            f" answered is at {approval_url(client.base_url, self.workflow_id, self.run_id)}.",
            workflow_id=self.workflow_id,
            run_id=self.run_id,
        )

    def _several(self, points: list[PausePoint]) -> SimInputError:
        told = "; ".join(
            f"{point.context_id}{f' ({point.question})' if point.question else ''}".replace("\n", ", ")
            for point in points
        )
        return SimInputError(
            f"Run {self.run_id!r} of workflow {self.workflow_id!r} waits at {len(points)} pauses. Name one of them by"
            f" context_id: {told}.",
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            outcome=Outcome.NEVER_SENT,
        )
