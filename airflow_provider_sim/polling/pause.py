"""Exactly-once answer to a run's pause."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow_provider_sim.client import NO_RETRY, RunStatus, approval_url
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConflictError,
    SimError,
    SimInputError,
    SimPauseAnsweredError,
    SimRunTimeoutError,
)
from airflow_provider_sim.polling.poll_state import PollState, poll_until_finished, share_limit

if TYPE_CHECKING:
    from airflow_provider_sim.client import PausePoint, SimClient

log = logging.getLogger(__name__)

E = TypeVar("E", bound=SimError)


class _Pauses(NamedTuple):
    status: RunStatus  # of the run
    open: dict[str, PausePoint]  # by ID; none unless the run is paused
    answered: set[str]


@dataclass(eq=False, kw_only=True)
class PauseAnswer(PollState[_Pauses]):
    """An answer to a pause of a run, and the state of polling for the pause."""

    client: SimClient
    workflow_id: str
    run_id: str
    context_id: str | None  # the pause point; None for the only open one
    input: Any  # the pause's fields
    persist: Callable[[str], None]  # called with the pause point before the first request
    previous: str | None = None  # the pause point that an earlier try may have answered

    def send(self) -> str:
        """Wait for the pause and answer it; return the pause point.

        Sim accepts one answer for each pause. If the outcome of a request is unknown, the pause point is read: an
        answered one was answered by that request; an open one is answered again.

        :raises SimPauseAnsweredError: the pause was answered by another user or task, or the run is finished.
        :raises SimInputError: several pauses are open, and ``context_id`` names none of them.
        :raises SimRunTimeoutError: the run was not paused before the deadline.
        """
        share_limit(self.client, self)
        if self.previous is None:
            pauses = poll_until_finished(self._read, self)
            point = self.context_id or next(iter(pauses.open))
        elif (point := self.previous) not in self._read().open:
            log.info("Pause %s of run %s was answered by an earlier try.", point, self.run_id)
            return point
        self.persist(point)
        may_be_ours = self.previous is not None
        while True:
            try:
                self.client.resume_workflow_run(self.workflow_id, self.run_id, context_id=point, input_data=self.input)
                return point
            except SimConflictError as error:  # answered, or Sim has not stored yet what it needs to resume
                failure: SimError = error
            except SimError as error:
                if error.outcome is not Outcome.UNKNOWN:
                    raise
                failure, may_be_ours = error, True
            if point not in self._read().open:
                if may_be_ours:
                    log.info("%s The pause is answered nevertheless.", failure)
                    return point
                raise self._answered_error(f"pause {point} was answered by another user or task") from failure
            if self.clock() >= (self.deadline or 0.0):
                raise failure
            log.info("%s The pause is still open. Sending the answer again.", failure)
            time.sleep(self.interval)

    def _read(self) -> _Pauses:
        status = self.client.with_retry(NO_RETRY).get_workflow_run(self.workflow_id, self.run_id).status
        points = () if status.is_terminal else self.client.get_paused_run(self.workflow_id, self.run_id).points
        open_points = {point.context_id: point for point in points if point.is_open and status is RunStatus.PAUSED}
        return _Pauses(status, open_points, {point.context_id for point in points if not point.is_open})

    def is_finished(self, response: _Pauses) -> bool:
        """Return whether the pause to answer is open; raise an error if it accepts no answer."""
        if response.status.is_terminal:
            raise self._answered_error(f"the run is {response.status}")
        if self.context_id in response.answered:
            raise self._answered_error(f"pause {self.context_id} was answered by another user or task")
        if self.context_id is None and len(response.open) > 1:
            names = [name + (f" ({point.question})" if point.question else "") for name, point in response.open.items()]
            listed = "; ".join(names).replace("\n", ", ")
            raise self._error(SimInputError, f"has {len(names)} open pauses. Set context_id to one of them: {listed}.")
        return bool(response.open) if self.context_id is None else self.context_id in response.open

    def _answered_error(self, reason: str) -> SimPauseAnsweredError:
        url = approval_url(self.client.base_url, self.workflow_id, self.run_id)
        return self._error(SimPauseAnsweredError, f"accepts no answer: {reason}. The answer is at {url}.")

    def timeout_error(self) -> SimRunTimeoutError:
        last = self.last_response
        others = f" at {', '.join(last.open)}" if last and last.open else ""
        status = f" Its status is {last.status}{others}." if last else ""
        problem = f"was not paused at {self.context_id or 'any pause point'} within the timeout.{status}"
        advice = "Raise timeout, or check context_id."
        return self._error(SimRunTimeoutError, f"{problem} {advice}", outcome=Outcome.NEVER_SENT)

    def _error(self, kind: type[E], problem: str, **fields: Any) -> E:
        message = f"Run {self.run_id!r} of workflow {self.workflow_id!r} {problem}"
        return kind(message, workflow_id=self.workflow_id, run_id=self.run_id, **fields)
