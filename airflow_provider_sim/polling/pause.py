"""Exactly-once answer to a run's pause."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
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
    status: RunStatus
    points: Sequence[PausePoint]
    context_id: str | None = None  # of the open one to answer


@dataclass(eq=False, kw_only=True)
class PauseAnswer(PollState[_Pauses]):
    """An answer to a pause of a run, and the state of polling for the pause."""

    workflow_id: str
    run_id: str
    context_id: str | None  # the pause point; None for the only open one
    input: Any  # the pause's fields
    persist: Callable[[str], None]  # called with the pause point before the first request
    previous: str | None = None  # the pause point that an earlier try may have answered

    def send(self, client: SimClient) -> str:
        """Wait for the pause and answer it; return the pause point.

        Sim accepts one answer for each pause. If the outcome of a request is unknown, the pause point is read: an
        answered one was answered by that request; an open one is answered again.

        :raises SimPauseAnsweredError: the pause was answered by another user or task, or the run is finished.
        :raises SimInputError: several pauses are open, and ``context_id`` names none of them.
        :raises SimRunTimeoutError: the run was not paused before the deadline.
        """
        share_limit(client, self)
        if self.previous is not None and not self._is_open(client, self.previous):
            log.info("Pause %s of run %s was answered by an earlier try.", self.previous, self.run_id)
            return self.previous
        point = self.previous or poll_until_finished(lambda: self._find(client), self).context_id or ""
        self.persist(point)
        may_be_ours = self.previous is not None
        while True:
            try:
                client.resume_workflow_run(self.workflow_id, self.run_id, context_id=point, input_data=self.input)
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
            if self.clock() >= (self.deadline or 0.0):
                raise failure
            log.info("%s The pause is still open. Sending the answer again.", failure)
            time.sleep(self.interval)

    def _find(self, client: SimClient) -> _Pauses:
        pauses = self._read(client)
        if pauses.status.is_terminal:
            raise self._answered_error(client, f"the run is {pauses.status}")
        named = [point for point in pauses.points if self.context_id in (None, point.context_id)]
        found = [point for point in named if point.is_open and pauses.status is RunStatus.PAUSED]
        if len(found) > 1:
            names = [f"{point.context_id}{f' ({point.question})' if point.question else ''}" for point in found]
            listed = "; ".join(names).replace("\n", ", ")
            problem = f"has {len(found)} open pauses. Set context_id to one of them: {listed}."
            raise self._error(SimInputError, problem)
        if self.context_id and any(not point.is_open for point in named):
            raise self._answered_error(client, f"pause {self.context_id} was answered by another user or task")
        return pauses._replace(context_id=found[0].context_id if found else None)

    def _read(self, client: SimClient) -> _Pauses:
        status = client.with_retry(NO_RETRY).get_workflow_run(self.workflow_id, self.run_id).status
        if status.is_terminal:
            return _Pauses(status, ())
        return _Pauses(status, client.get_paused_run(self.workflow_id, self.run_id).points)

    def _is_open(self, client: SimClient, context_id: str) -> bool:
        pauses = self._read(client)
        is_paused = pauses.status is RunStatus.PAUSED
        return is_paused and any(point.context_id == context_id and point.is_open for point in pauses.points)

    def _answered_error(self, client: SimClient, reason: str) -> SimPauseAnsweredError:
        url = approval_url(client.base_url, self.workflow_id, self.run_id)
        return self._error(SimPauseAnsweredError, f"accepts no answer: {reason}. The answer is at {url}.")

    def is_finished(self, response: _Pauses) -> bool:
        """Return whether the pause to answer is open."""
        return response.context_id is not None

    def timeout_error(self) -> SimRunTimeoutError:
        """Return the error to raise at the deadline."""
        last = self.last_response
        others = ", ".join(point.context_id for point in last.points if point.is_open) if last else ""
        status = f" Its status is {last.status}{f' at {others}' if others else ''}." if last else ""
        problem = f"was not paused at {self.context_id or 'any pause point'} within the timeout.{status}"
        advice = "Raise timeout, or check context_id."
        return self._error(SimRunTimeoutError, f"{problem} {advice}", outcome=Outcome.NEVER_SENT)

    def _error(self, kind: type[E], problem: str, **fields: Any) -> E:
        message = f"Run {self.run_id!r} of workflow {self.workflow_id!r} {problem}"
        return kind(message, workflow_id=self.workflow_id, run_id=self.run_id, **fields)
