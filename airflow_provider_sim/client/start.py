"""Starting a run once, whatever becomes of the request.

The run id is ours and known before anything is sent, so that a lost answer can be made up for: ask for the run, take it
up if it is there, and send the request again only where that can't start a second one. Sim takes each id once.

================================================  ===================================================================
outcome                                           then
================================================  ===================================================================
never sent; refused for a reason that passes      sent again by :mod:`.retry`; under a new id if this one is used up
refused for another reason; ran                   the error, or the run
unknown: no or half an answer, 499, 500, 502 …    look for the run: found, take it up; not found, the same id again
``ASYNC_ENQUEUE_AMBIGUOUS``                       look for a minute: found, take it up; not found, a new id
run ID used before, by this caller                the same; a rejected start's trace: a new ID
run ID used before, by another caller             a new ID; without one, the error
================================================  ===================================================================

Where the server chooses its ids itself (the legacy API before v0.7.32), or isn't known not to, "not found" proves
nothing: the error is raised, and the run isn't started a second time. The same holds where the caller's deadline cuts
that minute short.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from airflow_provider_sim.client.api.errors import AMBIGUOUS_ENQUEUE, is_rejection
from airflow_provider_sim.client.flows import Flow, Flows, RunId, new_run_id
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    RunStatus,
    WorkflowExecutionResult,
    WorkflowRun,
)
from airflow_provider_sim.client.retry import Delays, RetryPolicy
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimPermanentError,
    SimRunIdConflictError,
    SimRunNotFoundError,
)

log = logging.getLogger(__name__)

UNTIL_NO_DOUBT = RetryPolicy(max_retries=1000, initial_delay=1.0, max_delay=10.0, max_elapsed=60.0)
"""Looks for a run whose id Sim has taken: one that it doesn't know after a minute was never queued."""


def submit(
    talk: Flows,
    workflow_id: str,
    input: Any,
    *,
    retry: RetryPolicy,
    run_id: RunId | None = None,
    deadline: float | None = None,
    may_have_sent: Callable[[str], bool] = lambda run_id: True,
    **options: Any,
) -> Flow[Any]:
    """Start a workflow once; return the start's result, or the run whose response was lost.

    :param run_id: text is used for all attempts; a function returns one for each attempt that needs a new one.
    :param may_have_sent: whether the caller may have sent this ID before this call. If not, and no response to it was
        lost during this call, a run that has the ID is another caller's.
    :param options: of :meth:`.Flows.execute`.
    """
    more = run_id if callable(run_id) else None if run_id is not None else new_run_id
    current = run_id if isinstance(run_id, str) else more() if more else new_run_id()
    unanswered: set[str | None] = set()
    for repetition in itertools.count(1):
        ids: RunId = current if more is None else _first(current, more)
        try:
            started = yield from talk.execute(workflow_id, input, run_id=ids, retry=retry, deadline=deadline, **options)
        except SimError as error:
            if not _may_have_started(error):
                raise
            if _is_foreign(error, unanswered, may_have_sent):
                if more is None:
                    raise
                current = more()
                log.warning("Run ID %s belongs to another run: starting run %s.", error.run_id, current)
                continue
            unanswered.add(error.run_id)
            log.warning("%s Asking Sim for run %s.", error, error.run_id)
            run = yield from _look_for(talk, workflow_id, error, retry, deadline)
            if run is not None and not is_rejection(run):
                log.warning("The run is there and %s: going on with it.", run.status)
                return (yield from _taken_up(talk, workflow_id, run, receipt=bool(options.get("async_execution"))))
            out_of_time = deadline is not None and time.time() >= deadline
            if repetition > retry.max_retries or out_of_time or not _may_be_sent_again(talk, error, run):
                raise
            if run is None and not _uses_the_id_up(error):
                current = error.run_id or current
            elif more is not None:
                current = more()
            else:
                raise
            log.warning("The run isn't there: starting it as %s (%d of %d).", current, repetition, retry.max_retries)
        else:
            return started


def _first(run_id: str, more: Callable[[], str]) -> Callable[[], str]:
    """Give this id, and after it those of ``more``."""
    first = iter([run_id])
    return lambda: next(first, None) or more()


def _may_have_started(error: SimError) -> bool:
    """Whether there may be a run although the request failed."""
    if isinstance(error, SimPermanentError) or error.run_id is None:
        return False
    return error.outcome is Outcome.UNKNOWN or isinstance(error, SimRunIdConflictError)


def _is_foreign(error: SimError, unanswered: set[str | None], may_have_sent: Callable[[str], bool]) -> bool:
    """Whether the ID was rejected because another caller has used it.

    :param unanswered: the IDs whose responses were lost.
    """
    if not isinstance(error, SimRunIdConflictError) or error.run_id in unanswered:
        return False
    return error.run_id is not None and not may_have_sent(error.run_id)


def _uses_the_id_up(error: SimError) -> bool:
    """Whether the id can't be sent once more although no run has it."""
    return error.code == AMBIGUOUS_ENQUEUE or isinstance(error, SimRunIdConflictError)


def _may_be_sent_again(talk: Flows, error: SimError, run: WorkflowRun | None) -> bool:
    """Whether sending it again can't start a second run: the server is known to take each id once."""
    return run is not None or talk.takes_run_ids or _uses_the_id_up(error)


def _look_for(
    talk: Flows, workflow_id: str, error: SimError, retry: RetryPolicy, deadline: float | None
) -> Flow[WorkflowRun | None]:
    """Ask for the run that a request may have started; None if there is none.

    :raises SimError: the request's own error, if that can't be found out.
    """
    how: dict[str, Any] = {"retry": retry.adjusted(max_retries=max(2, retry.max_retries), waits_out_limits=True)}
    looked = Delays()
    if _uses_the_id_up(error):  # another id comes next, and nothing but this look keeps it from being a second run
        how = {"retry": UNTIL_NO_DOUBT, "delays": looked}
    assert error.run_id is not None
    try:
        return (
            yield from talk.get_workflow_run(
                workflow_id, error.run_id, patient_with=(SimRunNotFoundError,), deadline=deadline, **how
            )
        )
    except SimRunNotFoundError as blind:
        if _uses_the_id_up(error) and looked.spent < UNTIL_NO_DOUBT.max_elapsed - UNTIL_NO_DOUBT.longest_delay:
            raise error from blind
        return None
    except SimError as blind:
        raise error from blind


def _taken_up(
    talk: Flows, workflow_id: str, run: WorkflowRun, *, receipt: bool
) -> Flow[AsyncExecutionResult | WorkflowExecutionResult]:
    """A run that was found, as what its start would have given: a receipt, or the result so far."""
    if receipt:
        return AsyncExecutionResult(run_id=run.run_id or "", workflow_id=workflow_id, status=run.status)
    if run.status is RunStatus.COMPLETED:
        run = yield from talk.get_workflow_result(workflow_id, run.run_id or "")
    return WorkflowExecutionResult(**{field.name: getattr(run, field.name) for field in fields(WorkflowRun)})
