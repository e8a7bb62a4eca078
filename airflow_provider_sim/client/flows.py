"""Flows: the requests of each client method, without I/O, for both clients.

A flow is a generator. It yields request steps, receives their results or has their errors thrown into it, and returns
the method's result. The sync and the async client only perform the steps. So the choice between v2 and legacy, and
every request that depends on a response, are written once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, Unpack

from airflow_provider_sim.client.api import legacy, v2
from airflow_provider_sim.client.api.http import Call
from airflow_provider_sim.client.api.legacy_responses import JOB_PREFIX
from airflow_provider_sim.client.ids import selectors_of
from airflow_provider_sim.client.models import (
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
from airflow_provider_sim.client.retry import NO_RETRY, RetryPolicy
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.client.steps import DEFAULT_OPTIONS, Flow, RequestStep, StepOptions
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
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

RECHECK_AFTER = 300.0
"""Seconds after which a missing feature is tried again: the server may have been upgraded or reconfigured."""

_PAGES_UNTIL_MISSING = 2


class Feature:
    """Whether a server has a feature."""

    __slots__ = ("_missing_since", "_pages", "_present")

    def __init__(self) -> None:
        self._present: bool | None = None
        self._missing_since = 0.0
        self._pages = 0

    @property
    def present(self) -> bool | None:
        """Whether the server has it; None while unknown, and when a missing feature is to be tried again."""
        if self._present is False and time.monotonic() > self._missing_since + RECHECK_AFTER:
            return None
        return self._present

    def found(self) -> None:
        """Record that the server has it."""
        self._present, self._pages = True, 0

    def missing(self) -> None:
        """Record that the server doesn't have it."""
        self._present, self._missing_since, self._pages = False, time.monotonic(), 0

    def page_instead(self) -> None:
        """Record a 404 that isn't Sim's own: from a server too old for the feature or, rarely, from a proxy."""
        self._pages += 1
        if self._pages >= _PAGES_UNTIL_MISSING:
            self.missing()


class ServerFacts:
    """What this process knows about a server, for one key (Sim switches v2 on per user).

    :ivar v2: the v2 API.
    :ivar executions: the status route for runs (v0.6.81 and later).
    :ivar accepts_run_ids: whether the legacy API accepts the caller's run ID (v0.7.32 and later); None until known.
    """

    def __init__(self) -> None:
        self.v2 = Feature()
        self.executions = Feature()
        self.accepts_run_ids: bool | None = None


@functools.lru_cache(maxsize=256)
def _facts_about(account: str) -> ServerFacts:
    return ServerFacts()


forget_servers = _facts_about.cache_clear


class Flows:
    """The flows of one client; its methods of the same names perform them.

    :ivar facts: shared by all clients of this process for the same server and key.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.facts = _facts_about(settings.rate_limited_as)

    @property
    def speaks_v2(self) -> bool | None:
        """Whether requests go to v2; None until known."""
        chosen = self._settings.api_version
        return self.facts.v2.present if chosen == "auto" else chosen == "v2"

    @property
    def accepts_run_ids(self) -> bool:
        """Whether the server is known to accept the caller's run ID, so the same ID starts no second run."""
        return bool(self.speaks_v2 or self.facts.accepts_run_ids)

    @property
    def start_bucket(self) -> str | None:
        """The rate bucket that a start spends; None on the legacy API, which meters no requests."""
        return None if self.speaks_v2 is False else v2.EXECUTE_BUCKET

    def start_limit(self, usage: UsageLimits) -> RateLimit | None:
        """Return the execution limit that async starts spend; on the legacy API, that of sync ones."""
        return usage.sync if self.speaks_v2 is False else usage.asynchronous

    def check_input(self, workflow_id: str, input: Any) -> None:
        """Reject an input that can't be sent; sends nothing.

        :raises SimInputError: it isn't JSON, is too large, or has fields that the API reserves.
        """
        api: Any = legacy if self.speaks_v2 is False else v2
        api.execute_async(workflow_id, input, run_id=None, run_timeout=None)

    # --- runs ----------------------------------------------------------------------------------------------------

    def get_workflow_run(
        self,
        workflow_id: str,
        run_id: str,
        *,
        include_output: bool = False,
        selected_outputs: Sequence[str] | None = None,
        job_id: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> Flow[WorkflowRun]:
        """Get a run, however it was started.

        :param run_id: the run's ID; on old servers a job's ID, too.
        :param include_output: with the output of a completed run, as a display copy.
        :param selected_outputs: block IDs, optionally with a path, whose outputs to add.
        :param job_id: the run's queue entry, if its receipt has one; required on servers before v0.6.81 if its ID isn't
            derived from the run's.
        :param retry: default: the client's policy.
        :raises SimRunNotFoundError: the run doesn't exist.
        """
        return self.read_run(
            workflow_id,
            run_id,
            StepOptions(retry=retry),
            job_id=job_id,
            include_output=include_output,
            selected_outputs=selected_outputs,
        )

    def read_run(
        self,
        workflow_id: str,
        run_id: str,
        options: StepOptions,
        *,
        job_id: str | None = None,
        include_output: bool = False,
        selected_outputs: Sequence[str] | None = None,
    ) -> Flow[WorkflowRun]:
        """Get a run; arguments as for :meth:`get_workflow_run`."""
        if isinstance(run_id, str):
            run_id = run_id.removeprefix(JOB_PREFIX)
        query: dict[str, Any] = {"include_output": include_output, "selected_outputs": selectors_of(selected_outputs)}
        return self.either_api(
            lambda: v2.get_run(workflow_id, run_id, **query),
            lambda: self._read_legacy_run(workflow_id, run_id, job_id, query, options),
            options,
        )

    def _read_legacy_run(
        self, workflow_id: str, run_id: str, job_id: str | None, query: dict[str, Any], options: StepOptions
    ) -> Flow[WorkflowRun]:
        not_found: SimError | None = None
        executions, is_page = self.facts.executions, False
        if executions.present is not False:
            try:
                run: WorkflowRun = yield RequestStep(legacy.get_run(workflow_id, run_id, **query), options)
            except SimRouteMissingError:
                is_page = True
            except SimRunNotFoundError as error:
                executions.found()
                not_found = error
            else:
                executions.found()
                return run
        if executions.present:  # the retries are used up
            options = replace(options, retry_on=())
        # An ID from a server before v0.5.80 is that of a job; servers before v0.6.81 only have jobs.
        for candidate in [job_id] if job_id else [f"{JOB_PREFIX}{run_id}", run_id]:
            try:
                job: JobStatus = yield RequestStep(legacy.get_job(candidate, workflow_id=workflow_id), options)
            except (SimRunNotFoundError, SimPermissionError) as error:
                not_found = not_found or error
            else:
                if is_page and not executions.present:
                    executions.page_instead()
                return job
        assert not_found is not None
        if executions.present is not True and isinstance(not_found, SimRunNotFoundError):
            raise SimRunNotFoundError(
                f"{not_found} This Sim server is older than v0.6.81 and knows only async runs, for a day.",
                status=not_found.status,
                request_id=not_found.request_id,
                workflow_id=workflow_id,
                run_id=run_id,
                outcome=Outcome.REFUSED,
            ) from not_found
        raise not_found

    def get_workflow_result(self, workflow_id: str, run_id: str, *, job_id: str | None = None) -> Flow[WorkflowRun]:
        """Get a completed run with its output: the raw one if the server still has it, else the display copy."""
        candidate = job_id or f"{JOB_PREFIX}{run_id.removeprefix(JOB_PREFIX)}"
        try:  # the queue entry spends no rate limit, so it is read for failed runs, too
            job: JobStatus = yield RequestStep(
                legacy.get_job(candidate, workflow_id=workflow_id), StepOptions(retry=NO_RETRY)
            )
        except SimError:
            job_has_result = False
        else:
            job_has_result = job.output is not None if job.status is RunStatus.COMPLETED else job.error is not None
        if job_has_result:
            return job
        return (yield from self.get_workflow_run(workflow_id, run_id, include_output=True, job_id=job_id))

    def get_output(self, run: WorkflowRun, selected_outputs: Sequence[str] | None = None) -> Flow[RunOutput]:
        """Get the output of a finished run: the raw output if Sim still has it.

        :param selected_outputs: block IDs, optionally with a path, whose outputs to get instead, as a dict.
        :raises SimRunFailedError: the run failed.
        :raises SimRunCancelledError: the run was cancelled.
        :raises SimOutputError: a selector has no output.
        """
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
        self, workflow_id: str, *, retry: RetryPolicy | None = None, **filters: Unpack[v2.RunFilters]
    ) -> Flow[Page[WorkflowRun]]:
        """List one page of a workflow's runs; queued runs are not listed. Requires the v2 API.

        :param retry: default: the client's policy.
        :param filters: ``status`` (pending, running, completed, failed, cancelled, paused), ``trigger``,
            ``start_date`` and ``end_date`` (ISO 8601 with Z, or seconds since the epoch), ``limit`` (1 to 100),
            ``cursor``, ``order`` (desc, asc).
        :raises SimUnsupportedError: the server has no v2 API, as for all methods that require it.
        """
        what = f"list the runs of workflow {workflow_id!r}"
        return self._only_v2(what, lambda: v2.list_runs(workflow_id, **filters), StepOptions(retry=retry))

    def list_logs(
        self, workspace_id: str, *, retry: RetryPolicy | None = None, **filters: Unpack[v2.LogFilters]
    ) -> Flow[Page[WorkflowRun]]:
        """List one page of a workspace's runs; queued runs are not listed. Requires the v2 API.

        A run that waits for a person is ``pending`` here; :meth:`get_workflow_run` returns ``paused``.

        :param retry: default: the client's policy.
        :param filters: ``workflow_ids`` and ``triggers`` (iterables), ``level`` (info, error), ``start_date`` and
            ``end_date`` (ISO 8601 with Z, or seconds since the epoch; both of a run's start), ``run_id``,
            ``include_output``, ``limit`` (1 to 1000), ``cursor``, ``order`` (desc, asc).
        """
        what = f"list the runs of workspace {workspace_id!r}"
        return self._only_v2(what, lambda: v2.list_logs(workspace_id, **filters), StepOptions(retry=retry))

    def cancel_workflow_run(
        self, workflow_id: str, run_id: str, *, retry: RetryPolicy | None = None
    ) -> Flow[Cancellation]:
        """Request the cancellation of a run; only its status shows whether it was cancelled.

        :param retry: default: the client's policy.
        :raises SimUnsupportedError: the server is older than v0.5.44.
        """
        return self._cancel(workflow_id, run_id, StepOptions(retry=retry))

    def _cancel(self, workflow_id: str, run_id: str, options: StepOptions) -> Flow[Cancellation]:
        try:
            return (
                yield from self.either_api(
                    lambda: v2.cancel_run(workflow_id, run_id),
                    lambda: legacy.cancel_run(workflow_id, run_id),
                    options,
                )
            )
        except SimRateLimitError:
            if self.speaks_v2 is False:
                raise
        # The legacy API meters no requests, and a cancellation must not wait.
        cancellation: Cancellation = yield RequestStep(legacy.cancel_run(workflow_id, run_id), options)
        return cancellation

    def stop_workflow_run(
        self, workflow_id: str, run_id: str, *, job_id: str | None = None, retry: RetryPolicy | None = None
    ) -> Flow[Cancellation]:
        """Cancel a run, also one whose start may be in flight, and get its status.

        :param job_id: as for :meth:`get_workflow_run`.
        :param retry: default: the client's policy; also limits how long to look for the run.
        :raises SimRunNotFoundError: the run doesn't exist.
        :raises SimUnsupportedError: the server is older than v0.5.44.
        """
        options = StepOptions(retry=retry, retry_on=(SimRunNotFoundError,))
        cancellation = yield from self._cancel(workflow_id, run_id, options)
        try:
            run = yield from self.get_workflow_run(workflow_id, run_id, job_id=job_id, retry=NO_RETRY)
        except SimError:
            return cancellation
        return replace(cancellation, status=run.status)

    def get_paused_run(self, workflow_id: str, run_id: str) -> Flow[PausedRun]:
        """Get all pause points of a run, with their questions and fields.

        If the server, or the key, can't list them: the one at which the run waits now, without these.

        :raises SimRunNotFoundError: the run doesn't exist.
        """
        try:
            paused: PausedRun = yield RequestStep(legacy.get_paused_run(workflow_id, run_id))
        except (SimNotFoundError, SimUnsupportedError, SimPermissionError, SimResponseError):
            run = yield from self.get_workflow_run(workflow_id, run_id)
        else:
            return paused
        pause = run.paused if run.status is RunStatus.PAUSED else None
        if pause is None or pause.context_id is None:
            return PausedRun(run_id=run_id)
        point = PausePoint(context_id=pause.context_id, kind=pause.kind, block_id=pause.block_id)
        return PausedRun(run_id=run_id, points=(point,))

    def resume_workflow_run(
        self, workflow_id: str, run_id: str, *, context_id: str, input: Any = None
    ) -> Flow[Resumption]:
        """Answer a human pause; the run keeps its ID.

        :param context_id: the pause point, from the run's ``paused.context_id``.
        :param input: the answer, as the pause block's fields.
        :raises SimConflictError: the pause was answered already.
        """
        return self.either_api(
            lambda: v2.resume_run(workflow_id, run_id, context_id, input),
            lambda: legacy.resume_run(workflow_id, run_id, context_id, input),
        )

    def get_job_status(self, job_id: str) -> Flow[JobStatus]:
        """Get a run's queue entry; Sim keeps it for a day after the run's end."""
        return _single(legacy.get_job(job_id))

    # --- workflows and limits ------------------------------------------------------------------------------------

    def get_workflow_status(self, workflow_id: str) -> Flow[WorkflowStatus]:
        """Get whether a workflow is deployed."""
        return _single(legacy.get_workflow_status(workflow_id))

    def validate_workflow(self, workflow_id: str) -> Flow[bool]:
        """Return whether a workflow can be run; False also if that can't be found out."""
        try:
            status: WorkflowStatus = yield RequestStep(legacy.get_workflow_status(workflow_id))
        except SimError:
            return False
        return status.is_deployed

    def get_workflow(self, workflow_id: str, *, retry: RetryPolicy | None = None) -> Flow[Workflow]:
        """Get a workflow's name, workspace and declared inputs.

        :param retry: default: the client's policy.
        """
        return self.either_api(
            lambda: v2.get_workflow(workflow_id), lambda: legacy.get_workflow(workflow_id), StepOptions(retry=retry)
        )

    def list_workflows(
        self,
        workspace_id: str,
        *,
        deployed_only: bool = False,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Flow[Page[Workflow]]:
        """List the workflows of a workspace, without their inputs. Requires the v2 API.

        :param deployed_only: leave out workflows that are not deployed.
        :param limit: most workflows on the page.
        :param cursor: ``next_cursor`` of the previous page.
        """
        return self._only_v2(
            "list the workflows",
            lambda: v2.list_workflows(workspace_id, deployed_only=deployed_only, limit=limit, cursor=cursor),
        )

    def get_deployment(self, workflow_id: str) -> Flow[Deployment]:
        """Get a workflow's live version and its latest deployment attempt. Requires the v2 API."""
        return self._only_v2("deploy workflows", lambda: v2.get_deployment(workflow_id))

    def deploy_workflow(
        self, workflow_id: str, *, name: str | None = None, description: str | None = None
    ) -> Flow[Deployment]:
        """Deploy a workflow's draft as a new version; Sim does it in the background. Requires the v2 API.

        :param name: of the version, up to 100 characters.
        :param description: of the version.
        :raises SimPermissionError: the key is not a workspace admin's personal key.
        """
        return self._only_v2("deploy workflows", lambda: v2.deploy(workflow_id, name=name, description=description))

    def undeploy_workflow(self, workflow_id: str) -> Flow[Deployment]:
        """Undeploy a workflow. Requires the v2 API, and the same key as :meth:`deploy_workflow`."""
        return self._only_v2("undeploy workflows", lambda: v2.undeploy(workflow_id))

    def rollback_workflow(self, workflow_id: str, version: int | None = None) -> Flow[Deployment]:
        """Deploy an earlier version. Requires the v2 API, and the same key as :meth:`deploy_workflow`.

        :param version: its number; default: the one before the live one.
        """
        return self._only_v2("roll workflows back", lambda: v2.rollback(workflow_id, version))

    def list_workspaces(self) -> Flow[Page[Workspace]]:
        """List the workspaces that the key can access. Requires the v2 API."""
        return self._only_v2("list the workspaces", v2.list_workspaces)

    def get_usage_limits(self) -> Flow[UsageLimits]:
        """Get limits and usage of the key's owner; of a workspace key, those of its creator."""
        return _single(legacy.get_usage_limits())

    def get_billing_status(self) -> Flow[BillingStatus]:
        """Get plan, billing period and credits of the key's owner. Requires the v2 API."""
        return self._only_v2("read the billing status", v2.get_billing_status)

    def get_usage(self) -> Flow[tuple[UsageLimits, BillingStatus | None]]:
        """Get :meth:`get_usage_limits` and :meth:`get_billing_status`; None for the latter if it fails."""
        limits: UsageLimits = yield RequestStep(legacy.get_usage_limits())
        try:
            return limits, (yield from self.get_billing_status())
        except SimError:
            return limits, None

    # --- choice of the API ---------------------------------------------------------------------------------------

    def _only_v2(self, what: str, on_v2: Callable[[], Call[T]], options: StepOptions = DEFAULT_OPTIONS) -> Flow[T]:
        def on_legacy() -> Call[T]:
            raise SimUnsupportedError(
                f"Could not {what}: this requires Sim's v2 API, which this server doesn't have or has switched off"
                " (Sim v0.8.0 and later, V2_API=true).",
                outcome=Outcome.NEVER_SENT,
            )

        return self.either_api(on_v2, on_legacy, options)

    def either_api(
        self,
        on_v2: Callable[[], Call[T]],
        on_legacy: Callable[[], Call[T] | Flow[T]],
        options: StepOptions = DEFAULT_OPTIONS,
    ) -> Flow[T]:
        """Make a call on the server's API, and find out which one it has."""
        is_page = False
        result: T
        if self.speaks_v2 is not False:
            try:
                result = yield RequestStep(on_v2(), options)
            except SimV2OffError:
                if self._settings.api_version == "v2":
                    raise
                self.facts.v2.missing()
            except SimRouteMissingError as error:
                if self.facts.v2.present:
                    raise SimResponseError(
                        f"{error} The server had this API before; a proxy may have failed.",
                        status=error.status,
                        request_id=error.request_id,
                        workflow_id=error.workflow_id,
                        run_id=error.run_id,
                        outcome=error.outcome,
                    ) from error
                if self._settings.api_version == "v2":
                    raise
                # A server before v0.8.0, or no Sim server: a response on the legacy API proves the former.
                is_page = True
            except SimNotFoundError:
                self.facts.v2.found()  # v2 names the missing resource
                raise
            else:
                self.facts.v2.found()
                return result
        call = on_legacy()
        if isinstance(call, Call):
            result = yield RequestStep(call, options)
        else:
            result = yield from call
        if is_page:
            self.facts.v2.page_instead()
        return result


def _single(call: Call[T]) -> Flow[T]:
    result: T = yield RequestStep(call)
    return result


def _selected(run: WorkflowRun, outputs: Mapping[str, Any], selectors: Sequence[str]) -> dict[str, Any]:
    """The raw outputs of single blocks, by selector.

    :raises SimOutputError: a selector has no output, which Sim doesn't report.
    """
    missing = [name for name in selectors if name not in outputs]
    if missing:
        raise SimOutputError(
            f"Run {run.run_id!r} of workflow {run.workflow_id!r} has no block output {', '.join(missing)}. Without"
            " stream=True, selected_outputs requires block IDs, optionally with a path (block-id.field), not block"
            " names.",
            workflow_id=run.workflow_id,
            run_id=run.run_id,
            outcome=Outcome.RAN,
        )
    return {name: outputs[name] for name in selectors}
