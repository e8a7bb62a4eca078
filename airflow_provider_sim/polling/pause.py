"""Exactly-once answer to a run's pause."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_sim.client import NO_RETRY, RunStatus, approval_url
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConflictError,
    SimError,
    SimInputError,
    SimPauseAnsweredError,
    SimRunTimeoutError,
)
from airflow_provider_sim.polling.poll_state import PollState, poll_until_finished

if TYPE_CHECKING:
    from airflow_provider_sim.client import PausePoint, SimClient

log = logging.getLogger(__name__)


class _Pause(NamedTuple):
    """Pauses of a run: the one to answer, if it is open, and others."""

    status: RunStatus
    context_id: str | None
    others: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseAnswer:
    """An answer to a pause of a run.

    :param context_id: the pause point; None for the only open one.
    :param input: the pause's fields.
    :param poll_interval: seconds between polls.
    :param deadline: seconds since the epoch.
    :param persist: called with the pause point before the first request.
    :param previous: the pause point that an earlier try may have answered.
    """

    workflow_id: str
    run_id: str
    context_id: str | None
    input: Any
    poll_interval: float
    deadline: float
    persist: Callable[[str], None]
    previous: str | None = None

    def send(self, client: SimClient, *, sleep: Callable[[float], None] | None = None) -> str:
        """Wait for the pause and answer it; return the pause point.

        Sim accepts one answer for each pause. If the outcome of a request is unknown, the pause point is read: an
        answered one was answered by that request; an open one is answered again.

        :raises SimPauseAnsweredError: the pause was answered by another user or task, or the run is finished.
        :raises SimInputError: several pauses are open, and ``context_id`` names none of them.
        :raises SimRunTimeoutError: the run was not paused before the deadline.
        """
        if self.previous is not None and not self._is_open(client, self.previous):
            log.info("Pause %s of run %s was answered by an earlier try.", self.previous, self.run_id)
            return self.previous
        point = self.previous or self._wait_for_pause(client, sleep)
        self.persist(point)
        may_be_ours = self.previous is not None
        while True:
            try:
                client.resume_workflow_run(self.workflow_id, self.run_id, context_id=point, input=self.input)
                return point
            except SimConflictError as error:  # answered, or Sim has not stored yet what it needs to resume
                failure: SimError = error
            except SimError as error:
                if error.outcome is not Outcome.UNKNOWN:
                    raise
                failure, may_be_ours = error, True
            if not self._is_open(client, point):
                if may_be_ours:
                    log.info("%s The pause is answered nevertheless.", failure)
                    return point
                raise self._answered_error(client, f"pause {point} was answered by another user or task") from failure
            if time.time() >= self.deadline:
                raise failure
            log.info("%s The pause is still open. Sending the answer again.", failure)
            (sleep or time.sleep)(self.poll_interval)

    def _wait_for_pause(self, client: SimClient, sleep: Callable[[float], None] | None) -> str:
        state: PollState[_Pause] = PollState(
            lambda pause: pause.context_id is not None,
            self._timeout_error,
            poll_interval=self.poll_interval,
            deadline=self.deadline,
        )
        return poll_until_finished(lambda: self._poll(client), state, sleep=sleep).context_id or ""

    def _poll(self, client: SimClient) -> _Pause:
        run = client.get_workflow_run(self.workflow_id, self.run_id, retry=NO_RETRY)
        if run.status.is_terminal:
            raise self._answered_error(client, f"the run is {run.status}")
        paused = client.get_paused_run(self.workflow_id, self.run_id)
        is_open = paused.open_points if run.status is RunStatus.PAUSED else ()
        points = [point for point in is_open if self.context_id in (None, point.context_id)]
        if len(points) == 1:
            return _Pause(run.status, points[0].context_id)
        if len(points) > 1:
            raise self._ambiguous_error(points)
        if any(point.context_id == self.context_id and not point.is_open for point in paused.points):
            raise self._answered_error(client, f"pause {self.context_id} was answered by another user or task")
        return _Pause(run.status, None, [point.context_id for point in is_open])

    def _is_open(self, client: SimClient, context_id: str) -> bool:
        run = client.get_workflow_run(self.workflow_id, self.run_id, retry=NO_RETRY)
        if run.status is not RunStatus.PAUSED:
            return False
        points = client.get_paused_run(self.workflow_id, self.run_id).points
        return any(point.context_id == context_id and point.is_open for point in points)

    def _answered_error(self, client: SimClient, reason: str) -> SimPauseAnsweredError:
        url = approval_url(client.base_url, self.workflow_id, self.run_id)
        return SimPauseAnsweredError(
            f"Run {self.run_id!r} of workflow {self.workflow_id!r} accepts no answer: {reason}. The answer is"
            f" at {url}.",
            workflow_id=self.workflow_id,
            run_id=self.run_id,
        )

    def _ambiguous_error(self, points: list[PausePoint]) -> SimInputError:
        names = "; ".join(
            f"{point.context_id}{f' ({point.question})' if point.question else ''}".replace("\n", ", ")
            for point in points
        )
        return SimInputError(
            f"Run {self.run_id!r} of workflow {self.workflow_id!r} has {len(points)} open pauses. Set context_id to one"
            f" of them: {names}.",
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            outcome=Outcome.NEVER_SENT,
        )

    def _timeout_error(self, last: _Pause | None) -> SimRunTimeoutError:
        where = f" at {', '.join(last.others)}" if last and last.others else ""
        status = f" Its status is {last.status}{where}." if last else ""
        return SimRunTimeoutError(
            f"Run {self.run_id!r} of workflow {self.workflow_id!r} was not paused at"
            f" {self.context_id or 'any pause point'} within the timeout.{status} Raise timeout, or check context_id.",
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            outcome=Outcome.NEVER_SENT,
        )
