"""Start flow: at most one run, also if a response is lost."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from airflow_provider_sim.client import api
from airflow_provider_sim.client.api.http import Call
from airflow_provider_sim.client.checks import MAX_RUN_TIMEOUT, selectors_of
from airflow_provider_sim.client.file_flows import FileFlows
from airflow_provider_sim.client.models import AsyncExecutionResult, RunStatus, WorkflowExecutionResult, WorkflowRun
from airflow_provider_sim.client.retry import NO_RETRY, RequestOptions, RetryPolicy, RunId, RunIds, StopToken
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimInputError,
    SimPermanentError,
    SimRunIdConflictError,
    SimRunNotFoundError,
)
from airflow_provider_sim.metrics import Metric

if TYPE_CHECKING:
    from airflow_provider_sim.client.async_client import AsyncWorkflowStream

log = logging.getLogger(__name__)

# For a run whose ID Sim has registered: one that it doesn't know after a minute was never queued.
FIND_RUN_RETRIES = RetryPolicy(max_retries=1000, initial_delay=1.0, max_delay=10.0, max_elapsed=60.0)
_FIND_RUN_ELAPSED = FIND_RUN_RETRIES.max_elapsed - FIND_RUN_RETRIES.max_delay * (1 + FIND_RUN_RETRIES.jitter)


_Result = TypeVar("_Result", covariant=True)
_Receipt = TypeVar("_Receipt", covariant=True)
_Stream = TypeVar("_Stream", covariant=True)


class Execute(Protocol[_Result, _Receipt, _Stream]):
    """Type of a client's methods that start a run: what they return depends on the mode."""

    @overload
    def __call__(
        self, workflow_id: str, input_data: Any = ..., *, async_execution: Literal[True], **options: Any
    ) -> _Receipt: ...
    @overload
    def __call__(
        self, workflow_id: str, input_data: Any = ..., *, stream: Literal[True], **options: Any
    ) -> _Stream: ...
    @overload
    def __call__(
        self,
        workflow_id: str,
        input_data: Any = ...,
        *,
        async_execution: Literal[False] = ...,
        stream: Literal[False] = ...,
        **options: Any,
    ) -> _Result: ...
    @overload
    def __call__(self, workflow_id: str, input_data: Any = ..., **options: Any) -> _Result | _Receipt | _Stream: ...


def _typed(
    flow: Any,
) -> Execute[Awaitable[WorkflowExecutionResult], Awaitable[AsyncExecutionResult], Awaitable[AsyncWorkflowStream]]:
    """Add the types of what a flow returns in each mode."""
    typed: Execute[Any, Any, Any] = flow
    return typed


class StartFlows(FileFlows):
    """The flows that start a run, and those of :class:`.FileFlows` and :class:`.Flows`."""

    @_typed
    async def execute_workflow(
        self,
        workflow_id: str,
        input_data: Any = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        stream: bool = False,
        selected_outputs: list[str] | None = None,
        async_execution: bool = False,
        run_id: str | None = None,
        run_timeout: int | None = None,
    ) -> Any:
        """Run a deployed workflow with one request, and return its result: status, output, error, duration and cost.

        A run that failed or was cancelled is a result, too: check ``success``. There are no retries, so an error of the
        connection leaves open whether the workflow runs; :meth:`execute_with_retry` finds out.

        :param workflow_id: ID of the workflow: the last part of its URL in Sim's editor.
        :param input_data: the workflow's input: an object with the fields that its Start block declares. Any other
            value arrives as the field ``input``.
        :param timeout: seconds to wait for the response; default: 3600, or the connection's timeout if
            ``async_execution``.
        :param stream: whether to return the output as it arrives, as an iterator of events.
        :param selected_outputs: the block outputs to stream, as ``Block name.path``; requires ``stream``.
        :param async_execution: whether to queue the run and return its receipt at once, with ``run_id`` and
            ``task_id``.
        :param run_id: ID of the new run: 1 to 128 letters, digits, dots, underscores, colons and hyphens; default: a
            random one.
        :param run_timeout: seconds after which Sim stops the run, up to 604800; requires ``async_execution``.
        :returns: a :class:`~.models.WorkflowExecutionResult`; with ``stream``, a :class:`~.sync_client.WorkflowStream`;
            with ``async_execution``, an :class:`~.models.AsyncExecutionResult`.
        :raises SimError: the workflow could not be started, or its result not be read. ``code`` has the reason, such as
            ``UNAUTHORIZED``, ``NOT_FOUND``, ``WORKFLOW_NOT_DEPLOYED``, ``INVALID_INPUT``, ``RATE_LIMIT_EXCEEDED``,
            ``USAGE_LIMIT_EXCEEDED`` or ``TIMEOUT``; see :mod:`airflow_provider_sim.exceptions`.
        """
        return await self.start_workflow_run(
            workflow_id,
            input_data,
            timeout=timeout,
            stream=stream,
            selected_outputs=selected_outputs,
            async_execution=async_execution,
            run_id=run_id,
            run_timeout=run_timeout,
            retry=NO_RETRY,
            unsent_ids=None,
        )

    @_typed
    async def execute_with_retry(
        self,
        workflow_id: str,
        input_data: Any = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        stream: bool = False,
        selected_outputs: list[str] | None = None,
        async_execution: bool = False,
        run_id: str | None = None,
        run_timeout: int | None = None,
        max_retries: int | None = None,
        initial_delay: float | None = None,
        max_delay: float | None = None,
        backoff_multiplier: float | None = None,
    ) -> Any:
        """Run a deployed workflow once, with retries that can't start it twice, and return its result.

        Rejected starts are retried after Sim's ``Retry-After``, or after a growing delay. If a response is lost, the
        client looks for the run and re-attaches to it: the result may then be of a run that is still active, for which
        :meth:`get_workflow_run` polls.

        :param workflow_id: ID of the workflow: the last part of its URL in Sim's editor.
        :param input_data: the workflow's input: an object with the fields that its Start block declares. Any other
            value arrives as the field ``input``.
        :param timeout: seconds to wait for each response; default: 3600, or the connection's timeout if
            ``async_execution``.
        :param stream: whether to return the output as it arrives, as an iterator of events.
        :param selected_outputs: the block outputs to stream, as ``Block name.path``; requires ``stream``.
        :param async_execution: whether to queue the run and return its receipt at once, with ``run_id`` and
            ``task_id``.
        :param run_id: ID of the new run, as for :meth:`execute_workflow`; a retry can't replace it. Default: random
            ones.
        :param run_timeout: seconds after which Sim stops the run, up to 604800; requires ``async_execution``.
        :param max_retries: retries after the first attempt; default of this and the next three: the connection's.
        :param initial_delay: seconds before the first retry, unless Sim sends ``Retry-After``.
        :param max_delay: upper limit of the growing delay in seconds.
        :param backoff_multiplier: factor by which the delay grows with each retry, at least 1.
        :returns: as :meth:`execute_workflow`.
        :raises SimError: the last attempt's error, as of :meth:`execute_workflow`.
        """
        retry = self._client.settings.retry.adjusted(
            max_retries=max_retries,
            initial_delay=initial_delay,
            max_delay=max_delay,
            backoff_multiplier=backoff_multiplier,
        )
        return await self.start_workflow_run(
            workflow_id,
            input_data,
            timeout=timeout,
            stream=stream,
            selected_outputs=selected_outputs,
            async_execution=async_execution,
            run_id=run_id,
            run_timeout=run_timeout,
            retry=retry,
        )

    @_typed
    async def start_workflow_run(
        self,
        workflow_id: str,
        input_data: Any = None,
        *,
        run_id: RunId | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        stream: bool = False,
        selected_outputs: Sequence[str] | None = None,
        async_execution: bool = False,
        run_timeout: int | None = None,
        deadline: float | None = None,
        stop: StopToken | None = None,
        unsent_ids: Container[str] | None = (),
        retry: RetryPolicy | None = None,
    ) -> Any:
        """Start a run as :meth:`execute_with_retry` does, for callers that persist its ID or can be killed.

        The parameters that aren't listed are those of :meth:`execute_workflow`.

        :param run_id: an ID, or an endless iterator of IDs, of which each attempt that needs a new one takes the next,
            just before it is sent.
        :param deadline: seconds since the epoch after which no retry starts.
        :param stop: keeps further attempts from being sent.
        :param unsent_ids: IDs that were not used before this call, so if Sim rejects one of them as used, it belongs to
            another run; None if a request without a response is an error, and no run is looked for.
        :param retry: retry policy; default: the client's.
        :raises StartStoppedError: ``stop`` was set.
        """
        mode = checked_mode(stream, selected_outputs, async_execution, run_timeout)
        ids, retry = RunIds(run_id), retry or self._client.settings.retry
        options = RequestOptions(
            retry, run_ids=ids, stop=stop, timeout=timeout, stream=mode["stream"], deadline=deadline
        )
        unanswered: set[str | None] = set()

        def call(api: Any) -> Any:
            return api.execute(workflow_id, input_data, run_id=ids.current, **mode)

        for attempt in itertools.count(1):
            try:
                started = await self._result_or_receipt(workflow_id, call, options)
                break
            except SimError as failure:
                error = failure.with_traceback(None)
            if unsent_ids is None or not _may_have_started(error):
                raise error from error.__cause__
            is_conflict = isinstance(error, SimRunIdConflictError)
            if is_conflict and error.run_id not in unanswered and error.run_id in unsent_ids:  # another caller used it
                if not ids.can_renew:
                    raise error from error.__cause__
                ids.renew()
                log.warning("Run ID %s belongs to another run: starting run %s.", error.run_id, ids.current)
                continue
            unanswered.add(error.run_id)
            log.warning("%s Checking for run %s.", error, error.run_id)
            run = await self._find_run(workflow_id, error, retry, options)
            if run is not None and not api.errors.is_rejection(run):
                log.warning("Run %s exists and is %s: re-attaching to it.", run.run_id, run.status)
                started = await self._result_of(workflow_id, run, receipt=mode["async_execution"])
                break
            is_spent = run is not None or _is_run_id_spent(error)
            # A second request can't start a second run if the server is known to accept each ID once.
            is_safe = ids.can_renew if is_spent else self._client.accepts_run_ids
            is_late = deadline is not None and time.time() >= deadline
            if attempt > retry.max_retries or is_late or not is_safe:
                raise error from error.__cause__
            if is_spent:
                ids.renew()
            log.warning("The run doesn't exist: starting it as %s (%d of %d).", ids.current, attempt, retry.max_retries)
        Metric.RUN_STARTED.incr()
        if options.stream and isinstance(started, WorkflowExecutionResult):
            return self._client.open_stream(_only(started), _nothing)
        return started

    async def _result_or_receipt(
        self, workflow_id: str, call: Callable[[Any], Call[Any]], options: RequestOptions
    ) -> Any:
        try:
            started = await self._either_api(call, options)
        except api.legacy.AmbiguousResponseError as error:
            started = await self._settle(workflow_id, error)
        if isinstance(started, AsyncExecutionResult):
            self._client.facts.accepts_run_ids = started.run_id_is_ours
        return started

    async def _settle(self, workflow_id: str, ambiguous: api.legacy.AmbiguousResponseError) -> WorkflowExecutionResult:
        """Find out by the run's ID whether a response was a rejection or the workflow's Response block."""
        result, rejection = ambiguous.result, ambiguous.rejection
        if result.run_id is None:
            raise rejection from None
        try:
            run = await self._request(api.legacy.get_run(workflow_id, result.run_id))
        except SimRunNotFoundError:
            raise rejection from None
        except SimError:
            rejection.outcome = Outcome.UNKNOWN
            raise rejection from None
        if run.status is RunStatus.COMPLETED:
            return result
        return replace(result, status=run.status, output=None, error=run.error, paused=run.paused)

    async def _find_run(
        self, workflow_id: str, error: SimError, retry: RetryPolicy, start: RequestOptions
    ) -> WorkflowRun | None:
        """Look for the run that a request may have started; raise the request's error if that can't be found out."""
        is_spent = _is_run_id_spent(error)
        if is_spent:  # another ID comes next; only this check keeps it from starting a second run
            policy, delays = FIND_RUN_RETRIES, []
        else:
            policy = retry.adjusted(max_retries=max(2, retry.max_retries), retry_on_rate_limit=True)
            delays = start.delays
        options = RequestOptions(policy, retry_on=(SimRunNotFoundError,), deadline=start.deadline, delays=delays)
        try:
            return await self._read_run(workflow_id, error.run_id or "", options)
        except SimRunNotFoundError as not_found:
            if is_spent and sum(delays) < _FIND_RUN_ELAPSED:  # cut short by the deadline
                raise error from not_found
            return None
        except SimError as unreadable:
            raise error from unreadable

    async def _result_of(
        self, workflow_id: str, run: WorkflowRun, *, receipt: bool
    ) -> AsyncExecutionResult | WorkflowExecutionResult:
        """Return what the start of a run that was found would have returned: a receipt, or the result so far."""
        if receipt:
            return AsyncExecutionResult(run_id=run.run_id or "", workflow_id=workflow_id, status=run.status)
        if run.status is RunStatus.COMPLETED:
            run = await self.get_workflow_result(workflow_id, run.run_id or "")
        return WorkflowExecutionResult(**{field.name: getattr(run, field.name) for field in fields(WorkflowRun)})


async def _only(result: WorkflowExecutionResult) -> AsyncIterator[Any]:
    from airflow_provider_sim.client.stream import StreamEnd

    yield StreamEnd(result, streamed=False)


async def _nothing() -> None:
    pass


def _may_have_started(error: SimError) -> bool:
    """Whether there may be a run although the request failed."""
    if isinstance(error, SimPermanentError) or error.run_id is None:
        return False
    return error.outcome is Outcome.UNKNOWN or isinstance(error, SimRunIdConflictError)


def _is_run_id_spent(error: SimError) -> bool:
    """Whether the ID can't be sent again although no run has it."""
    return error.code == api.errors.AMBIGUOUS_ENQUEUE or isinstance(error, SimRunIdConflictError)


def checked_mode(
    stream: bool, selected_outputs: Sequence[str] | None, async_execution: bool, run_timeout: int | None
) -> dict[str, Any]:
    """Return the mode of a start; reject combinations that Sim rejects, before anything is sent."""
    selectors = selectors_of(selected_outputs)
    if stream and async_execution:
        raise SimInputError("stream and async_execution can't be combined: a stream needs an open connection.")
    if selectors and not stream:
        raise SimInputError("selected_outputs requires stream=True; set it or omit selected_outputs.")
    if run_timeout is not None:
        if not async_execution:
            raise SimInputError("run_timeout requires an async execution; a sync one has the plan's limit.")
        if isinstance(run_timeout, bool) or not isinstance(run_timeout, int) or not 1 <= run_timeout <= MAX_RUN_TIMEOUT:
            raise SimInputError(f"run_timeout is {run_timeout!r}; it can be 1 to {MAX_RUN_TIMEOUT} whole seconds.")
    mode = {"async_execution": bool(async_execution), "stream": bool(stream)}
    return {**mode, "run_timeout": run_timeout, "selected_outputs": selectors}
