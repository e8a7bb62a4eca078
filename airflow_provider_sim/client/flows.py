"""What is said to a server, and in which order, for both clients; no I/O here either.

A conversation is a generator: it yields what to ask and receives the answer's meaning, or has the error thrown into it.
The blocking and the asyncio client only carry the questions to the server. So the choice between v2 and legacy, and
every second question that an answer asks for, is written once.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from airflow_provider_sim.client.api import legacy, v2
from airflow_provider_sim.client.api.http import Call
from airflow_provider_sim.client.ids import selectors_of
from airflow_provider_sim.client.limits import MAX_RUN_TIMEOUT
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    BillingStatus,
    Cancellation,
    Deployment,
    JobStatus,
    Page,
    PausedRun,
    PausePoint,
    RateLimit,
    Resumption,
    RunOutput,
    RunStatus,
    UsageLimits,
    Workflow,
    WorkflowExecutionResult,
    WorkflowRun,
    WorkflowStatus,
    Workspace,
)
from airflow_provider_sim.client.retry import NO_RETRY, Delays, RetryPolicy
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimInputError,
    SimNotFoundError,
    SimOutputError,
    SimPermissionError,
    SimRateLimitError,
    SimResponseError,
    SimRouteMissingError,
    SimRunNotFoundError,
    SimUnsupportedError,
    SimV2OffError,
)

T = TypeVar("T")

RunId = str | Callable[[], str]
"""A run id of the caller's choice, or what gives one for each attempt that needs a new one."""


@dataclass(frozen=True, slots=True)
class RequestStep:
    """One question of a conversation.

    :param retry: other than the client's own policy.
    :param new_run_id: for attempts that must not use the former run id.
    :param before_attempt: called when it is about to be sent, each time; what it raises ends the conversation.
    :param timeout: seconds, other than the client's own.
    :param streamed: the answer is read as it comes.
    :param patient_with: errors that pass by themselves here, beside those that do everywhere.
    :param deadline: seconds since the epoch after which it is not asked again.
    :param delays: a patience of its own, whatever the conversation's other questions have spent.
    """

    call: Call[Any]
    retry: RetryPolicy | None = None
    new_run_id: Callable[[], str] | None = None
    before_attempt: Callable[[], None] | None = None
    timeout: float | None = None
    streamed: bool = False
    patient_with: tuple[type[SimError], ...] = ()
    deadline: float | None = None
    delays: Delays | None = None


Flow = Generator[RequestStep, Any, T]


def request_step(call: Call[T], **how: Any) -> Flow[T]:
    """Ask one question; ``how`` are the other fields of :class:`Ask`."""
    answer: T = yield RequestStep(call, **how)
    return answer


def new_run_id() -> str:
    """A run id that no other run has."""
    return f"airflow-{uuid.uuid4()}"


RECHECK_AFTER = 300.0
"""Seconds after which a feature that a server lacked is tried again: it may have been upgraded or configured."""

_PAGES_OF_PROOF = 2


class Feature:
    """Whether a server has a feature.

    ``present`` is None until known, and again when a missing feature is to be tried again.
    """

    __slots__ = ("_missing_since", "_pages", "_present")

    def __init__(self) -> None:
        self._present: bool | None = None
        self._missing_since = 0.0
        self._pages = 0

    @property
    def present(self) -> bool | None:
        """Whether the server has it, as far as known."""
        if self._present is False and time.monotonic() > self._missing_since + RECHECK_AFTER:
            return None
        return self._present

    def found(self) -> None:
        """Record that the server has it."""
        self._present, self._pages = True, 0

    def missing(self) -> None:
        """Record that the server says it doesn't have it."""
        self._present, self._missing_since, self._pages = False, time.monotonic(), 0

    def page_instead(self) -> None:
        """Record a 404 that isn't Sim's own: from a server too old for the feature or, rarely, from a proxy."""
        self._pages += 1
        if self._pages >= _PAGES_OF_PROOF:
            self.missing()


class ServerFacts:
    """What this process knows about a server, for one key (Sim switches v2 on by user).

    :ivar v2: the v2 API.
    :ivar executions: the status route for runs (v0.6.81 and later).
    :ivar run_ids: whether the legacy API accepts the caller's run ID (v0.7.32 and later); None until known.
    """

    def __init__(self) -> None:
        self.v2 = Feature()
        self.executions = Feature()
        self.run_ids: bool | None = None


@functools.lru_cache(maxsize=256)
def _facts_about(account: str) -> ServerFacts:
    return ServerFacts()


def facts_about(settings: ClientSettings) -> ServerFacts:
    """Return the facts that all clients of this process share about a server."""
    return _facts_about(settings.rate_limited_as)


def forget_servers() -> None:
    """Forget what is known about all servers."""
    _facts_about.cache_clear()


class Flows:
    """Every conversation that the clients offer; their methods of the same names say what the arguments are."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._facts = facts_about(settings)

    @property
    def speaks_v2(self) -> bool | None:
        """Whether the server is spoken to in v2; None until known."""
        chosen = self._settings.api_version
        return self._facts.v2.present if chosen == "auto" else chosen == "v2"

    @property
    def takes_run_ids(self) -> bool:
        """Whether the server is known to take the caller's run id, so that the same id starts no second run."""
        return bool(self.speaks_v2 or self._facts.run_ids)

    def execute(
        self,
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
        before_attempt: Callable[[], None] | None = None,
        retry: RetryPolicy = NO_RETRY,
    ) -> Flow[Any]:
        """Start a workflow: its result, the receipt of an asynchronous start, or the transport's stream."""
        selected_outputs = selectors_of(selected_outputs)
        check_execution(stream, selected_outputs, async_execution, run_timeout)
        more = run_id if callable(run_id) else new_run_id
        sent_id = run_id if isinstance(run_id, str) else more()

        def another_id() -> str:
            nonlocal sent_id
            sent_id = more()
            return sent_id

        how: dict[str, Any] = {
            "retry": retry,
            "new_run_id": None if isinstance(run_id, str) else another_id,
            "before_attempt": before_attempt,
            "timeout": timeout,
            "streamed": stream,
            "deadline": deadline,
        }

        def call(dialect: Any) -> Call[Any]:
            if stream:
                started = dialect.execute_stream(workflow_id, input, run_id=sent_id, selected_outputs=selected_outputs)
            elif async_execution:
                started = dialect.execute_async(workflow_id, input, run_id=sent_id, run_timeout=run_timeout)
            else:
                started = dialect.execute(workflow_id, input, run_id=sent_id)
            result: Call[Any] = started
            return result

        def on_legacy() -> Flow[Any]:
            try:
                started = yield from request_step(call(legacy), **how)
            except legacy.AmbiguousResponseError as ambiguous:
                return (yield from self._settle(workflow_id, ambiguous))
            if isinstance(started, AsyncExecutionResult):
                self._facts.run_ids = started.run_id_is_ours
            return started

        return (yield from self._either(lambda: request_step(call(v2), **how), on_legacy))

    @property
    def start_bucket(self) -> str | None:
        """The rate bucket that starting a run spends; None on the legacy API, which meters no requests."""
        return None if self.speaks_v2 is False else v2.EXECUTE_BUCKET

    def limit_of_starts(self, usage: UsageLimits) -> RateLimit | None:
        """What the usage report says of the executions that asynchronous starts spend."""
        return usage.sync if self.speaks_v2 is False else usage.asynchronous  # the legacy API spends the others'

    def check_input(self, workflow_id: str, input: Any) -> None:
        """Refuse an input that can't be sent, as the start of a run would.

        :raises SimInputError: it isn't JSON, is too large, or has fields that the server's API keeps to itself.
        """
        dialect: Any = legacy if self.speaks_v2 is False else v2
        dialect.execute_async(workflow_id, input, run_id=None, run_timeout=None)

    def _settle(self, workflow_id: str, ambiguous: legacy.AmbiguousResponseError) -> Flow[WorkflowExecutionResult]:
        """Find out by the run's own id whether an error answer was the workflow's Response block or a refusal."""
        result, refusal = ambiguous.result, ambiguous.refusal
        if result.run_id is None:
            raise refusal
        try:
            run = yield from request_step(legacy.get_execution(workflow_id, result.run_id))
        except SimRunNotFoundError:
            raise refusal from None
        except SimError:
            refusal.outcome = Outcome.UNKNOWN
            raise refusal from None
        if run.status is RunStatus.COMPLETED:
            return result
        return replace(result, status=run.status, output=None, error=run.error, paused=run.paused)

    def get_workflow_run(
        self,
        workflow_id: str,
        run_id: str,
        *,
        include_output: bool = False,
        selected_outputs: Sequence[str] | None = None,
        job_id: str | None = None,
        **how: Any,
    ) -> Flow[WorkflowRun]:
        """Ask for a run by whatever route the server has; ``how`` are fields of :class:`Ask`."""
        of_job = run_id.startswith(legacy.JOB_PREFIX) if isinstance(run_id, str) else False
        run_id = run_id.removeprefix(legacy.JOB_PREFIX) if of_job else run_id
        options: dict[str, Any] = {
            "include_output": include_output,
            "selected_outputs": selectors_of(selected_outputs),
        }
        return (
            yield from self._either(
                lambda: request_step(v2.get_run(workflow_id, run_id, **options), **how),
                lambda: self._legacy_run(workflow_id, run_id, job_id, options, how),
            )
        )

    def _legacy_run(
        self,
        workflow_id: str,
        run_id: str,
        job_id: str | None,
        options: dict[str, Any],
        how: dict[str, Any],
    ) -> Flow[WorkflowRun]:
        not_found: SimError | None = None
        executions, page = self._facts.executions, False
        if executions.present is not False:
            try:
                run = yield from request_step(legacy.get_execution(workflow_id, run_id, **options), **how)
            except SimRouteMissingError:
                page = True
            except SimRunNotFoundError as error:
                executions.found()
                not_found = error
            else:
                executions.found()
                return run
        if executions.present:  # the patience is spent
            how = {**how, "patient_with": ()}
        # An id that a server before v0.5.80 gave out names a job; on one before v0.6.81 jobs are all there is.
        for candidate in [job_id] if job_id else [f"{legacy.JOB_PREFIX}{run_id}", run_id]:
            try:
                job = yield from request_step(legacy.get_job(candidate, workflow_id=workflow_id), **how)
            except (SimRunNotFoundError, SimPermissionError) as error:
                not_found = not_found or error
            else:
                if page and not executions.present:
                    executions.page_instead()
                return job
        assert not_found is not None
        if executions.present is not True and isinstance(not_found, SimRunNotFoundError):
            raise SimRunNotFoundError(
                f"{not_found} This Sim server is older than v0.6.81 and knows only asynchronous runs, for a day.",
                status=not_found.status,
                request_id=not_found.request_id,
                workflow_id=workflow_id,
                run_id=run_id,
                outcome=Outcome.REFUSED,
            ) from not_found
        raise not_found

    def get_workflow_result(self, workflow_id: str, run_id: str, *, job_id: str | None = None) -> Flow[WorkflowRun]:
        """Ask for a finished run's output: the raw one where the server still has it, else the display copy.

        The queue's entry is free on every server; so it also tells of a failure.
        """
        candidate = job_id or f"{legacy.JOB_PREFIX}{run_id.removeprefix(legacy.JOB_PREFIX)}"
        try:
            job: JobStatus = yield from request_step(legacy.get_job(candidate, workflow_id=workflow_id), retry=NO_RETRY)
        except SimError:
            job_ended = False
        else:
            job_ended = job.output is not None if job.status is RunStatus.COMPLETED else job.error is not None
        if job_ended:
            return job
        return (yield from self.get_workflow_run(workflow_id, run_id, include_output=True, job_id=job_id))

    def get_output(self, run: WorkflowRun, selected_outputs: Sequence[str] | None = None) -> Flow[RunOutput]:
        """Give what a run that is over has returned, or raise how else it has ended."""
        run.raise_for_status()
        workflow_id, run_id = run.workflow_id or "", run.run_id or ""
        if selectors := selectors_of(selected_outputs):
            read = yield from self.get_workflow_run(workflow_id, run_id, selected_outputs=selectors)
            return RunOutput(value=_selected(run, read.block_outputs or {}, selectors))
        if not isinstance(run, WorkflowExecutionResult | JobStatus):
            run = yield from self.get_workflow_result(workflow_id, run_id)
            run.raise_for_status()
        return RunOutput(value=run.output, is_display_copy=run.output_is_display_copy)

    def list_workflow_runs(
        self, workflow_id: str, *, retry: RetryPolicy | None = None, **filters: Any
    ) -> Flow[Page[WorkflowRun]]:
        """List runs of a workflow; only v2 can."""
        what = f"list the runs of workflow {workflow_id!r}"
        return (
            yield from self._only_on_v2(what, lambda: request_step(v2.list_runs(workflow_id, **filters), retry=retry))
        )

    def list_logs(
        self, workspace_id: str, *, retry: RetryPolicy | None = None, **filters: Any
    ) -> Flow[Page[WorkflowRun]]:
        """List runs of a workspace; only v2 can."""
        what = f"list the runs of workspace {workspace_id!r}"
        return (
            yield from self._only_on_v2(what, lambda: request_step(v2.list_logs(workspace_id, **filters), retry=retry))
        )

    def cancel_workflow_run(self, workflow_id: str, run_id: str, **how: Any) -> Flow[Cancellation]:
        """Ask for a run to be cancelled; ``how`` are fields of :class:`Ask`."""

        def on_legacy() -> Flow[Cancellation]:
            return request_step(legacy.cancel_run(workflow_id, run_id), **how)

        def on_v2() -> Flow[Cancellation]:
            try:
                return (yield from request_step(v2.cancel_run(workflow_id, run_id), **how))
            except SimRateLimitError:
                return (yield from on_legacy())  # which counts no requests: a run that isn't wanted mustn't wait

        return (yield from self._either(on_v2, on_legacy))

    def stop_workflow_run(
        self, workflow_id: str, run_id: str, *, job_id: str | None = None, retry: RetryPolicy | None = None
    ) -> Flow[Cancellation]:
        """Cancel a run whose start may still be on its way, and look what became of it."""
        how: dict[str, Any] = {"retry": retry, "patient_with": (SimRunNotFoundError,)}
        asked = yield from self.cancel_workflow_run(workflow_id, run_id, **how)
        try:
            run = yield from self.get_workflow_run(workflow_id, run_id, job_id=job_id, retry=NO_RETRY)
        except SimError:
            return asked
        return replace(asked, status=run.status)

    def resume_workflow_run(
        self, workflow_id: str, run_id: str, *, context_id: str, input: Any = None
    ) -> Flow[Resumption]:
        """Answer a human pause."""
        return (
            yield from self._either(
                lambda: request_step(v2.resume_run(workflow_id, run_id, context_id, input)),
                lambda: request_step(legacy.resume_run(workflow_id, run_id, context_id, input)),
            )
        )

    def get_paused_run(self, workflow_id: str, run_id: str) -> Flow[PausedRun]:
        """Ask for a run's pause points; a server that can't list them tells the one at which the run waits."""
        try:
            return (yield from request_step(legacy.get_paused_run(workflow_id, run_id)))
        except (SimNotFoundError, SimUnsupportedError, SimPermissionError, SimResponseError):
            run = yield from self.get_workflow_run(workflow_id, run_id)
        pause = run.paused if run.status is RunStatus.PAUSED else None
        if pause is None or pause.context_id is None:
            return PausedRun(run_id=run_id)
        point = PausePoint(context_id=pause.context_id, kind=pause.kind, block_id=pause.block_id)
        return PausedRun(run_id=run_id, points=(point,))

    def get_workflow(self, workflow_id: str, *, retry: RetryPolicy | None = None) -> Flow[Workflow]:
        """Ask for a workflow's name, workspace and inputs."""
        return (
            yield from self._either(
                lambda: request_step(v2.get_workflow(workflow_id), retry=retry),
                lambda: request_step(legacy.get_workflow(workflow_id), retry=retry),
            )
        )

    def get_deployment(self, workflow_id: str) -> Flow[Deployment]:
        """Ask what of a workflow is live; only v2 tells how a deploying goes."""
        return (yield from self._only_on_v2("deploy workflows", lambda: request_step(v2.get_deployment(workflow_id))))

    def deploy_workflow(
        self, workflow_id: str, *, name: str | None = None, description: str | None = None
    ) -> Flow[Deployment]:
        """Ask for a workflow's draft to be made live; only v2 can."""
        return (
            yield from self._only_on_v2(
                "deploy workflows", lambda: request_step(v2.deploy(workflow_id, name=name, description=description))
            )
        )

    def undeploy_workflow(self, workflow_id: str) -> Flow[Deployment]:
        """Take a workflow's live version back; only v2 can."""
        return (yield from self._only_on_v2("undeploy workflows", lambda: request_step(v2.undeploy(workflow_id))))

    def rollback_workflow(self, workflow_id: str, version: int | None = None) -> Flow[Deployment]:
        """Ask for an earlier version to be made live; only v2 can."""
        return (
            yield from self._only_on_v2("roll workflows back", lambda: request_step(v2.rollback(workflow_id, version)))
        )

    def list_workspaces(self) -> Flow[Page[Workspace]]:
        """List the workspaces that the key may see; only v2 can."""
        return (yield from self._only_on_v2("list the workspaces", lambda: request_step(v2.list_workspaces())))

    def get_workflow_status(self, workflow_id: str) -> Flow[WorkflowStatus]:
        """Ask whether a workflow is deployed, by the route that all servers have and that costs nothing."""
        return (yield from request_step(legacy.get_workflow_status(workflow_id)))

    def validate_workflow(self, workflow_id: str) -> Flow[bool]:
        """Whether a workflow can be run; False also where that can't be found out."""
        try:
            status = yield from self.get_workflow_status(workflow_id)
        except SimError:
            return False
        return status.is_deployed

    def get_job_status(self, job_id: str) -> Flow[JobStatus]:
        """Ask for a queue entry; both kinds of servers have them."""
        return (yield from request_step(legacy.get_job(job_id)))

    def get_usage_limits(self) -> Flow[UsageLimits]:
        """Ask for limits and usage, by the route that all servers have and that costs nothing."""
        return (yield from request_step(legacy.get_usage_limits()))

    def get_billing_status(self) -> Flow[BillingStatus]:
        """Ask for plan, period and credits; only v2 tells them."""
        return (yield from self._only_on_v2("read the billing status", lambda: request_step(v2.get_billing_status())))

    def get_usage(self) -> Flow[tuple[UsageLimits, BillingStatus | None]]:
        """Ask for limits and usage, and for plan, period and credits where the server tells them at the moment."""
        limits = yield from self.get_usage_limits()
        try:
            return limits, (yield from self.get_billing_status())
        except SimError:
            return limits, None

    def _only_on_v2(self, what: str, on_v2: Callable[[], Flow[T]]) -> Flow[T]:
        """Hold a conversation that the legacy API has no words for.

        :raises SimUnsupportedError: the server has no v2 API.
        """

        def on_legacy() -> Flow[T]:
            raise SimUnsupportedError(
                f"Could not {what}: that takes Sim's v2 API, which this server has not or which is switched off"
                " (Sim v0.8.0 and later, V2_API=true).",
                outcome=Outcome.NEVER_SENT,
            )

        return (yield from self._either(on_v2, on_legacy))

    def _either(self, on_v2: Callable[[], Flow[T]], on_legacy: Callable[[], Flow[T]]) -> Flow[T]:
        """Hold the conversation in the server's dialect, finding out which it is."""
        chosen = self._settings.api_version
        if self.speaks_v2 is False:
            return (yield from on_legacy())
        try:
            answer = yield from on_v2()
        except SimV2OffError:
            if chosen == "v2":
                raise
            self._facts.v2.missing()
            return (yield from on_legacy())
        except SimRouteMissingError as error:
            if self._facts.v2.present:
                raise SimResponseError(
                    f"{error} The server answered here before; a proxy may have failed.",
                    status=error.status,
                    request_id=error.request_id,
                    workflow_id=error.workflow_id,
                    run_id=error.run_id,
                    outcome=error.outcome,
                ) from error
            if chosen == "v2":
                raise
            # A server before v0.8.0, or no Sim server: only an answer on the legacy API proves the former.
            answer = yield from on_legacy()
            self._facts.v2.page_instead()
            return answer
        except SimNotFoundError:
            self._facts.v2.found()  # v2 names what is missing
            raise
        self._facts.v2.found()
        return answer


def _selected(run: WorkflowRun, outputs: Mapping[str, Any], selectors: Sequence[str]) -> dict[str, Any]:
    """The raw outputs of single blocks, by what selected them.

    :raises SimOutputError: a selector has selected nothing, which Sim doesn't say.
    """
    missing = [name for name in selectors if name not in outputs]
    if missing:
        raise SimOutputError(
            f"Run {run.run_id!r} of workflow {run.workflow_id!r} has no block output {', '.join(missing)}. Without"
            " stream=True, selected_outputs takes the ids of blocks, with or without a path (block-id.field), not their"
            " names.",
            workflow_id=run.workflow_id,
            run_id=run.run_id,
            outcome=Outcome.RAN,
        )
    return {name: outputs[name] for name in selectors}


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Options without those left at None, so that the conversation's own defaults hold."""
    return {name: value for name, value in options.items() if value is not None}


def check_execution(
    stream: bool, selected_outputs: Sequence[str] | None, async_execution: bool, run_timeout: int | None
) -> None:
    """Refuse combinations that Sim refuses, before anything is sent.

    :raises SimInputError: they contradict each other.
    """
    if stream and async_execution:
        raise _contradiction("stream and async_execution can't be combined: a stream is held open until the run's end")
    if selected_outputs and not stream:
        raise _contradiction("selected_outputs takes effect on streams only; set stream=True or leave it out")
    if run_timeout is not None:
        if not async_execution:
            raise _contradiction("run_timeout is for asynchronous executions; a held-open one has the plan's limit")
        if isinstance(run_timeout, bool) or not isinstance(run_timeout, int) or not 1 <= run_timeout <= MAX_RUN_TIMEOUT:
            raise _contradiction(f"run_timeout is {run_timeout!r}; it can be 1 to {MAX_RUN_TIMEOUT} whole seconds")


def _contradiction(what: str) -> SimInputError:
    return SimInputError(f"{what}.", outcome=Outcome.NEVER_SENT)
