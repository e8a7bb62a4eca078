"""Start flow: at most one run, also if a response is lost."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Container, Sequence
from dataclasses import fields, replace
from typing import Any

from airflow_provider_sim.client.api import legacy, v2
from airflow_provider_sim.client.api.errors import AMBIGUOUS_ENQUEUE, is_rejection
from airflow_provider_sim.client.api.http import Call
from airflow_provider_sim.client.api.legacy_responses import AmbiguousResponseError
from airflow_provider_sim.client.flows import Flows
from airflow_provider_sim.client.ids import selectors_of
from airflow_provider_sim.client.limits import MAX_RUN_TIMEOUT
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    RunStatus,
    WorkflowExecutionResult,
    WorkflowRun,
)
from airflow_provider_sim.client.retry import NO_RETRY, RetryPolicy
from airflow_provider_sim.client.steps import Delays, Flow, RequestStep, RunId, RunIds, StepOptions, StopToken
from airflow_provider_sim.client.stream import StreamEnd
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimInputError,
    SimPermanentError,
    SimRunIdConflictError,
    SimRunNotFoundError,
)

log = logging.getLogger(__name__)

FIND_RUN_RETRIES = RetryPolicy(max_retries=1000, initial_delay=1.0, max_delay=10.0, max_elapsed=60.0)
"""For a run whose ID Sim has registered: one that it doesn't know after a minute was never queued."""
_FIND_RUN_ELAPSED = FIND_RUN_RETRIES.max_elapsed - FIND_RUN_RETRIES.max_delay * (1 + FIND_RUN_RETRIES.jitter)


def start(
    flows: Flows,
    workflow_id: str,
    input: Any = None,
    *,
    timeout: float | None = None,
    stream: bool = False,
    selected_outputs: Sequence[str] | None = None,
    async_execution: bool = False,
    run_id: RunId | None = None,
    run_timeout: int | None = None,
    deadline: float | None = None,
    stop: StopToken | None = None,
    unsent_ids: Container[str] = (),
    retry: RetryPolicy | None = None,
) -> Flow[Any]:
    """Start a workflow and return the result, the receipt, the stream, or the run whose response was lost.

    :param retry: None sends one request only, and doesn't look for the run if its response is lost.
    """
    selectors = selectors_of(selected_outputs)
    check_options(stream, selectors, async_execution, run_timeout)
    ids = RunIds(run_id)
    options = StepOptions(
        retry=retry or NO_RETRY, run_ids=ids, stop=stop, timeout=timeout, stream=stream, deadline=deadline
    )

    def call(api: Any) -> Call[Any]:
        started: Call[Any]
        if stream:
            started = api.execute_stream(workflow_id, input, run_id=ids.current, selected_outputs=selectors)
        elif async_execution:
            started = api.execute_async(workflow_id, input, run_id=ids.current, run_timeout=run_timeout)
        else:
            started = api.execute(workflow_id, input, run_id=ids.current)
        return started

    unanswered: set[str | None] = set()
    for attempt in itertools.count(1):
        try:
            try:
                started = yield from flows.either_api(lambda: call(v2), lambda: call(legacy), options)
            except AmbiguousResponseError as error:
                started = yield from _settled(workflow_id, error)
            if isinstance(started, AsyncExecutionResult):
                flows.facts.accepts_run_ids = started.run_id_is_ours
            break
        except SimError as error:
            if retry is None or not _may_have_started(error):
                raise
            if _is_foreign(error, unanswered, unsent_ids):
                if not ids.can_renew:
                    raise
                ids.renew()
                log.warning("Run ID %s belongs to another run: starting run %s.", error.run_id, ids.current)
                continue
            unanswered.add(error.run_id)
            log.warning("%s Checking for run %s.", error, error.run_id)
            run, failure = yield from _find_run(flows, workflow_id, error, retry, deadline)
            if failure is not None:
                error.__cause__ = failure
                raise
            if run is not None and not is_rejection(run):
                log.warning("Run %s exists and is %s: re-attaching to it.", run.run_id, run.status)
                started = yield from _result_of(flows, workflow_id, run, receipt=async_execution)
                break
            # A second request can't start a second run if the server is known to accept each ID once.
            is_safe = run is not None or flows.accepts_run_ids or _is_run_id_spent(error)
            is_expired = deadline is not None and time.time() >= deadline
            if attempt > retry.max_retries or is_expired or not is_safe:
                raise
            if run is not None or _is_run_id_spent(error):
                if not ids.can_renew:
                    raise
                ids.renew()
            log.warning("The run doesn't exist: starting it as %s (%d of %d).", ids.current, attempt, retry.max_retries)
    is_unstreamed = stream and isinstance(started, WorkflowExecutionResult)
    return StreamEnd(started, streamed=False) if is_unstreamed else started


def _may_have_started(error: SimError) -> bool:
    """Whether there may be a run although the request failed."""
    if isinstance(error, SimPermanentError) or error.run_id is None:
        return False
    return error.outcome is Outcome.UNKNOWN or isinstance(error, SimRunIdConflictError)


def _is_foreign(error: SimError, unanswered: set[str | None], unsent_ids: Container[str]) -> bool:
    """Whether the ID was rejected because another caller has used it."""
    return isinstance(error, SimRunIdConflictError) and error.run_id not in unanswered and error.run_id in unsent_ids


def _is_run_id_spent(error: SimError) -> bool:
    """Whether the ID can't be sent again although no run has it."""
    return error.code == AMBIGUOUS_ENQUEUE or isinstance(error, SimRunIdConflictError)


def _settled(workflow_id: str, ambiguous: AmbiguousResponseError) -> Flow[WorkflowExecutionResult]:
    """Find out by the run's ID whether a response was a rejection or the workflow's Response block."""
    result, rejection = ambiguous.result, ambiguous.rejection
    if result.run_id is None:
        raise rejection from None
    try:
        run: WorkflowRun = yield RequestStep(legacy.get_run(workflow_id, result.run_id))
    except SimRunNotFoundError:
        raise rejection from None
    except SimError:
        rejection.outcome = Outcome.UNKNOWN
        raise rejection from None
    if run.status is RunStatus.COMPLETED:
        return result
    return replace(result, status=run.status, output=None, error=run.error, paused=run.paused)


def _find_run(
    flows: Flows, workflow_id: str, error: SimError, retry: RetryPolicy, deadline: float | None
) -> Flow[tuple[WorkflowRun | None, SimError | None]]:
    """Look for the run that a request may have started; return it, if any, or why that is unknown."""
    delays: Delays | None = None
    policy = retry.adjusted(max_retries=max(2, retry.max_retries), retry_on_rate_limit=True)
    if _is_run_id_spent(error):  # another ID comes next; only this check keeps it from starting a second run
        policy, delays = FIND_RUN_RETRIES, Delays()
    options = StepOptions(retry=policy, retry_on=(SimRunNotFoundError,), deadline=deadline, delays=delays)
    assert error.run_id is not None
    try:
        return (yield from flows.read_run(workflow_id, error.run_id, options)), None
    except SimRunNotFoundError as not_found:
        was_cut_short = delays is not None and delays.elapsed < _FIND_RUN_ELAPSED
        return None, not_found if was_cut_short else None
    except SimError as unreadable:
        return None, unreadable


def _result_of(
    flows: Flows, workflow_id: str, run: WorkflowRun, *, receipt: bool
) -> Flow[AsyncExecutionResult | WorkflowExecutionResult]:
    """Return what the start of a run that was found would have returned: a receipt, or the result so far."""
    if receipt:
        return AsyncExecutionResult(run_id=run.run_id or "", workflow_id=workflow_id, status=run.status)
    if run.status is RunStatus.COMPLETED:
        run = yield from flows.get_workflow_result(workflow_id, run.run_id or "")
    return WorkflowExecutionResult(**{field.name: getattr(run, field.name) for field in fields(WorkflowRun)})


def check_options(
    stream: bool, selected_outputs: Sequence[str], async_execution: bool, run_timeout: int | None
) -> None:
    """Reject combinations that Sim rejects, before anything is sent.

    :raises SimInputError: they contradict each other.
    """
    if stream and async_execution:
        raise _invalid("stream and async_execution can't be combined: a stream needs an open connection")
    if selected_outputs and not stream:
        raise _invalid("selected_outputs requires stream=True; set it or omit selected_outputs")
    if run_timeout is not None:
        if not async_execution:
            raise _invalid("run_timeout requires an async execution; a sync one has the plan's limit")
        if isinstance(run_timeout, bool) or not isinstance(run_timeout, int) or not 1 <= run_timeout <= MAX_RUN_TIMEOUT:
            raise _invalid(f"run_timeout is {run_timeout!r}; it can be 1 to {MAX_RUN_TIMEOUT} whole seconds")


def _invalid(what: str) -> SimInputError:
    return SimInputError(f"{what}.", outcome=Outcome.NEVER_SENT)
