"""Flows: the methods of both clients as coroutines.

The retries, the choice between v2 and legacy, and every request that depends on a response, are written once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from tenacity import AsyncRetrying, RetryCallState

from airflow_provider_sim.client import api, models
from airflow_provider_sim.client.api.http import Call
from airflow_provider_sim.client.base import RESPONSE_TOO_LARGE, BaseClient
from airflow_provider_sim.client.checks import selectors_of
from airflow_provider_sim.client.models import JOB_PREFIX
from airflow_provider_sim.client.retry import NO_RETRY, RequestOptions, StartStoppedError
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConflictError,
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
from airflow_provider_sim.metrics import Metric

T = TypeVar("T")

log = logging.getLogger(__name__)


class Flows:
    """The flows of a client."""

    def __init__(self, client: BaseClient) -> None:
        self._of = client

    @property
    def _client(self) -> BaseClient:
        return self._of

    async def get_workflow_run(
        self,
        workflow_id: str,
        run_id: str,
        *,
        include_output: bool = False,
        selected_outputs: list[str] | None = None,
        job_id: str | None = None,
    ) -> models.WorkflowRun:
        """Get a run, however it was started: its status, error, pause, times and cost.

        :param workflow_id: ID of the workflow.
        :param run_id: ID of the run; on old servers that of a job, too.
        :param include_output: whether to add the output of a completed run, as Sim's display copy, in which long texts
            are truncated; :meth:`get_output` returns the raw output.
        :param selected_outputs: block IDs, optionally with a path (``block-id.field``), whose outputs to add as
            ``block_outputs``.
        :param job_id: ID of the run's queue entry, if its receipt has one; required on servers before v0.6.81 if it
            isn't derived from the run's.
        :raises SimRunNotFoundError: the run doesn't exist.
        """
        return await self._read_run(
            workflow_id,
            run_id,
            RequestOptions(),
            job_id=job_id,
            include_output=include_output,
            selected_outputs=selectors_of(selected_outputs),
        )

    async def _read_run(
        self, workflow_id: str, run_id: str, options: RequestOptions, *, job_id: str | None = None, **query: Any
    ) -> models.WorkflowRun:
        """Get a run; arguments as for :meth:`get_workflow_run`."""
        if isinstance(run_id, str):
            run_id = run_id.removeprefix(JOB_PREFIX)
        return await self._either_api(
            lambda api: api.get_run(workflow_id, run_id, **query),
            options,
            on_legacy=lambda: self._read_legacy_run(workflow_id, run_id, job_id, options, query),
        )

    async def _read_legacy_run(
        self, workflow_id: str, run_id: str, job_id: str | None, options: RequestOptions, query: Mapping[str, Any]
    ) -> models.WorkflowRun:
        not_found: SimError | None = None
        executions, is_page = self._client.facts.executions, False
        if executions.present is not False:
            try:
                run = await self._request(api.legacy.get_run(workflow_id, run_id, **query), options)
                executions.found()
                return run
            except SimRouteMissingError:
                is_page = True
            except SimRunNotFoundError as error:
                executions.found()
                not_found = error
        if executions.present:  # the retries are used up
            options = replace(options, retry_on=())
        # An ID from a server before v0.5.80 is that of a job; servers before v0.6.81 only have jobs.
        for candidate in [job_id] if job_id else [f"{JOB_PREFIX}{run_id}", run_id]:
            try:
                job = await self._request(api.legacy.get_job(candidate, workflow_id=workflow_id), options)
            except (SimRunNotFoundError, SimPermissionError) as error:
                not_found = not_found or error
            else:
                if is_page and not executions.present:
                    executions.page_instead()
                return job
        assert not_found is not None
        if executions.present is not True and isinstance(not_found, SimRunNotFoundError):
            message = f"{not_found} This Sim server is older than v0.6.81 and knows only async runs, for a day."
            not_found.args = (message,)
        raise not_found

    async def get_workflow_result(
        self, workflow_id: str, run_id: str, *, job_id: str | None = None
    ) -> models.WorkflowRun:
        """Get a completed run with its output: the raw one if the server still has it, else the display copy.

        :param workflow_id: ID of the workflow.
        :param run_id: ID of the run.
        :param job_id: as for :meth:`get_workflow_run`.
        """
        candidate = job_id or f"{JOB_PREFIX}{run_id.removeprefix(JOB_PREFIX)}"
        try:  # the queue entry spends no rate limit, so it is read for failed runs, too
            job = await self._request(
                api.legacy.get_job(candidate, workflow_id=workflow_id), RequestOptions(retry=NO_RETRY)
            )
            if job.error is not None or (job.status is models.RunStatus.COMPLETED and job.output is not None):
                return job
        except SimError as error:
            if error.code == RESPONSE_TOO_LARGE:
                raise
        return await self.get_workflow_run(workflow_id, run_id, include_output=True, job_id=job_id)

    async def get_output(
        self, workflow_id: str, run_id: str, *, selected_outputs: list[str] | None = None, job_id: str | None = None
    ) -> Any:
        """Get the output of a completed run, however it was started.

        For a day after the run, it is the raw output; later, Sim only has a display copy, in which strings over 15,000
        characters are truncated and values under names such as ``password`` are redacted; a warning is logged.

        :param workflow_id: ID of the workflow.
        :param run_id: ID of the run.
        :param selected_outputs: block IDs, optionally with a path (``block-id.field``), whose outputs to get instead,
            as a dict by selector.
        :param job_id: as for :meth:`get_workflow_run`.
        :raises SimConflictError: the run has not finished.
        :raises SimRunFailedError: the run failed.
        :raises SimRunCancelledError: the run was cancelled.
        :raises SimRunNotFoundError: the run doesn't exist.
        :raises SimOutputError: a selector has no output.
        """
        if selectors := selectors_of(selected_outputs):
            run = await self.get_workflow_run(workflow_id, run_id, selected_outputs=selectors, job_id=job_id)
        else:
            run = await self.get_workflow_result(workflow_id, run_id, job_id=job_id)
        run.raise_for_status()
        if run.status is not models.RunStatus.COMPLETED:
            raise run.error_as(SimConflictError, f"is {run.status} and has no output before it is completed.")
        if selectors:
            return _selected(run, selectors)
        if run.output_is_display_copy:
            log.warning("The output of run %s is Sim's display copy; Sim no longer has the raw output.", run_id)
        return run.output

    async def get_run_output(
        self, run: models.WorkflowRun, selected_outputs: str | Sequence[str] | None = None
    ) -> models.RunOutput:
        """Get the output of a run that was read: its own if that is raw, else as :meth:`get_output`.

        :param run: the finished run.
        :param selected_outputs: as for :meth:`get_output`.
        :raises SimError: as :meth:`get_output`.
        """
        run.raise_for_status()
        workflow_id, run_id = run.workflow_id or "", run.run_id or ""
        if selectors := selectors_of(selected_outputs):
            read = await self.get_workflow_run(workflow_id, run_id, selected_outputs=selectors)
            return models.RunOutput(value=_selected(read, selectors))
        if not isinstance(run, models.WorkflowExecutionResult) and (run.output is None or run.output_is_display_copy):
            run = await self.get_workflow_result(workflow_id, run_id)
            run.raise_for_status()
        return models.RunOutput(value=run.output, is_display_copy=run.output_is_display_copy)

    async def list_workflow_runs(
        self,
        workflow_id: str,
        *,
        status: str | None = None,
        trigger: str | None = None,
        start_date: str | float | None = None,
        end_date: str | float | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        order: str | None = None,
    ) -> models.Page[models.WorkflowRun]:
        """List one page of a workflow's runs; queued runs are not listed. Requires the v2 API.

        :param workflow_id: ID of the workflow.
        :param status: only these runs: ``pending``, ``running``, ``paused``, ``completed``, ``failed`` or
            ``cancelled``.
        :param trigger: only runs that were started this way, such as ``api``, ``schedule`` or ``manual``.
        :param start_date: only runs started since then: ISO 8601 with Z, or seconds since the epoch.
        :param end_date: only runs started until then, as ``start_date``.
        :param limit: runs per page, 1 to 100; default: 50.
        :param cursor: ``next_cursor`` of the previous page, with the same filters; default: the first page.
        :param order: by start: ``desc`` (default) or ``asc``.
        :raises SimUnsupportedError: the server has no v2 API, as for all methods that require it.
        """
        filters = {"status": status, "trigger": trigger, "start_date": start_date, "end_date": end_date}
        return await self._only_v2(api.v2.list_runs(workflow_id, **filters, limit=limit, cursor=cursor, order=order))

    async def list_logs(
        self,
        workspace_id: str | None = None,
        *,
        workflow_ids: list[str] | None = None,
        triggers: list[str] | None = None,
        start_date: str | float | None = None,
        end_date: str | float | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        order: str | None = None,
    ) -> models.Page[models.WorkflowRun]:
        """List one page of a workspace's runs; queued runs are not listed. Requires the v2 API.

        A run that waits for a person is ``pending`` here; :meth:`get_workflow_run` returns ``paused``.

        :param workspace_id: ID of the workspace; default: the connection's, else the only one of the key.
        :param workflow_ids: only runs of these workflows.
        :param triggers: only runs that were started these ways, such as ``api``, ``schedule`` or ``manual``.
        :param start_date: only runs started since then: ISO 8601 with Z, or seconds since the epoch.
        :param end_date: only runs started until then, as ``start_date``.
        :param limit: runs per page, 1 to 1000; default: 100.
        :param cursor: ``next_cursor`` of the previous page, with the same filters; default: the first page.
        :param order: by start: ``desc`` (default) or ``asc``.
        :raises SimInputError: the key can access several workspaces, and neither names one.
        """
        filters = {"workflow_ids": workflow_ids, "triggers": triggers, "start_date": start_date, "end_date": end_date}
        workspace_id = workspace_id or await self._default_workspace()
        return await self._only_v2(api.v2.list_logs(workspace_id, **filters, limit=limit, cursor=cursor, order=order))

    async def cancel_workflow_run(self, workflow_id: str, run_id: str) -> models.Cancellation:
        """Request the cancellation of a run; only its status shows whether it was cancelled.

        :param workflow_id: ID of the workflow.
        :param run_id: ID of the run.
        :raises SimRunNotFoundError: the run doesn't exist.
        """
        return await self._cancel(workflow_id, run_id, RequestOptions())

    async def _cancel(self, workflow_id: str, run_id: str, options: RequestOptions) -> models.Cancellation:
        try:
            cancellation: models.Cancellation = await self._either_api(
                lambda api: api.cancel_run(workflow_id, run_id), options
            )
        except SimRateLimitError:
            if self._client.speaks_v2 is False:
                raise
            # The legacy API meters no requests, and a cancellation must not wait.
            cancellation = await self._request(api.legacy.cancel_run(workflow_id, run_id), options)
        Metric.RUN_CANCELLED.incr(int(cancellation.accepted))
        return cancellation

    async def stop_workflow_run(
        self, workflow_id: str, run_id: str, *, job_id: str | None = None
    ) -> models.Cancellation:
        """Cancel a run, also one whose start may be in flight, and get its status.

        The retry policy also limits how long to look for the run.

        :param workflow_id: ID of the workflow.
        :param run_id: ID of the run.
        :param job_id: as for :meth:`get_workflow_run`.
        :raises SimRunNotFoundError: the run doesn't exist.
        """
        cancellation = await self._cancel(workflow_id, run_id, RequestOptions(retry_on=(SimRunNotFoundError,)))
        try:
            run = await self._read_run(workflow_id, run_id, RequestOptions(NO_RETRY), job_id=job_id)
        except SimError:
            return cancellation
        return replace(cancellation, status=run.status)

    async def get_paused_run(self, workflow_id: str, run_id: str) -> models.PausedRun:
        """Get all pause points of a run, with their questions and fields.

        If the server, or the key, can't list them: the one at which the run waits now, without these.

        :param workflow_id: ID of the workflow.
        :param run_id: ID of the run.
        :raises SimRunNotFoundError: the run doesn't exist.
        """
        try:
            return await self._request(api.legacy.get_paused_run(workflow_id, run_id))
        except (SimNotFoundError, SimUnsupportedError, SimPermissionError, SimResponseError):
            run = await self.get_workflow_run(workflow_id, run_id)
        pause = run.paused if run.status is models.RunStatus.PAUSED else None
        if pause is None or pause.context_id is None:
            return models.PausedRun()
        point = models.PausePoint(context_id=pause.context_id, kind=pause.kind)
        return models.PausedRun(points=(point,))

    async def resume_workflow_run(
        self, workflow_id: str, run_id: str, *, context_id: str, input_data: Any = None
    ) -> models.RunStatus:
        """Answer a human pause, and return the run's status; the run keeps its ID.

        :param workflow_id: ID of the workflow.
        :param run_id: ID of the paused run.
        :param context_id: ID of the pause point, from the run's ``paused.context_id``.
        :param input_data: the answer: the pause block's fields as an object.
        :raises SimConflictError: the pause was answered already.
        """
        return await self._either_api(lambda api: api.resume_run(workflow_id, run_id, context_id, input_data))

    async def get_job_status(self, job_id: str) -> models.WorkflowRun:
        """Get an async run by its queue entry, which Sim keeps for a day after the run's end, with its raw output.

        The status is the run's: the queue entry of a cancelled or paused run is ``completed``.

        :param job_id: ``task_id`` of the run's receipt.
        :raises SimRunNotFoundError: there is no such entry, or not any more.
        """
        return await self._request(api.legacy.get_job(job_id))

    async def get_workflow_status(self, workflow_id: str) -> models.Deployment:
        """Get whether a workflow is deployed, since when, and whether its draft has changed since.

        :param workflow_id: ID of the workflow.
        :raises SimNotFoundError: the workflow doesn't exist, or the key may not see it.
        """
        return await self._request(api.legacy.get_workflow_status(workflow_id))

    async def validate_workflow(self, workflow_id: str) -> bool:
        """Return whether a workflow is deployed and can be run; False also if that can't be found out.

        :param workflow_id: ID of the workflow.
        """
        try:
            return (await self.get_workflow_status(workflow_id)).is_deployed
        except SimError:
            return False

    async def get_workflow(self, workflow_id: str) -> models.Workflow:
        """Get a workflow's name, workspace, and the names and types of its declared inputs.

        :param workflow_id: ID of the workflow.
        :raises SimNotFoundError: the workflow doesn't exist, or the key may not see it.
        """
        return await self._either_api(lambda api: api.get_workflow(workflow_id))

    async def list_workflows(
        self,
        workspace_id: str | None = None,
        *,
        deployed_only: bool = False,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> models.Page[models.Workflow]:
        """List one page of a workspace's workflows, without their inputs. Requires the v2 API.

        :param workspace_id: ID of the workspace; default: the connection's, else the only one of the key.
        :param deployed_only: whether to leave out workflows that are not deployed.
        :param limit: workflows per page, 1 to 100; default: 50.
        :param cursor: ``next_cursor`` of the previous page; default: the first page.
        :raises SimInputError: the key can access several workspaces, and neither names one.
        """
        workspace_id = workspace_id or await self._default_workspace()
        query = {"deployed_only": deployed_only, "limit": limit, "cursor": cursor}
        return await self._only_v2(api.v2.list_workflows(workspace_id, **query))

    async def _default_workspace(self) -> str:
        if (of_connection := self._client.settings.workspace_id) is not None:
            return of_connection
        spaces = (await self.list_workspaces()).items
        if len(spaces) == 1:
            return spaces[0].workspace_id
        names = ", ".join(f"{space.workspace_id} ({space.name})" for space in spaces)
        raise SimInputError(
            f"The API key can access {len(spaces)} workspaces: {names}. Pass a workspace_id, or set the connection's"
            " extra workspace_id."
        )

    async def get_deployment(self, workflow_id: str) -> models.Deployment:
        """Get a workflow's live version and its latest deployment attempt. Requires the v2 API.

        :param workflow_id: ID of the workflow.
        """
        return await self._only_v2(api.v2.deployment(workflow_id))

    async def list_workflow_versions(
        self, workflow_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> models.Page[models.WorkflowVersion]:
        """List one page of a workflow's deployed versions, newest first. Requires the v2 API.

        :param workflow_id: ID of the workflow.
        :param limit: versions per page, 1 to 100; default: 50.
        :param cursor: ``next_cursor`` of the previous page; default: the first page.
        """
        return await self._only_v2(api.v2.list_versions(workflow_id, limit=limit, cursor=cursor))

    async def deploy_workflow(
        self, workflow_id: str, *, name: str | None = None, description: str | None = None
    ) -> models.Deployment:
        """Deploy a workflow's draft as a new version; Sim does it in the background. Requires the v2 API.

        :meth:`get_deployment` shows when it is live.

        :param workflow_id: ID of the workflow.
        :param name: name of the version, up to 100 characters.
        :param description: description of the version.
        :raises SimPermissionError: the key is not a workspace admin's personal key.
        """
        return await self._only_v2(api.v2.deployment(workflow_id, "deploy", name=name, description=description))

    async def undeploy_workflow(self, workflow_id: str) -> models.Deployment:
        """Undeploy a workflow. Requires the v2 API, and the same key as :meth:`deploy_workflow`.

        :param workflow_id: ID of the workflow.
        """
        return await self._only_v2(api.v2.deployment(workflow_id, "undeploy"))

    async def rollback_workflow(self, workflow_id: str, version: int | None = None) -> models.Deployment:
        """Deploy an earlier version. Requires the v2 API, and the same key as :meth:`deploy_workflow`.

        :param workflow_id: ID of the workflow.
        :param version: its number; default: the one before the live one.
        """
        return await self._only_v2(api.v2.deployment(workflow_id, "rollback", version=version))

    async def list_workspaces(self) -> models.Page[models.Workspace]:
        """List the workspaces that the key can access. Requires the v2 API."""
        return await self._only_v2(api.v2.list_workspaces())

    async def get_usage_limits(self) -> models.UsageLimits:
        """Get rate limits, cost in US dollars and plan of the key's owner; of a workspace key, of its creator."""
        return await self._request(api.legacy.get_usage_limits())

    async def get_billing_status(self) -> models.BillingStatus:
        """Get plan, billing period and credits of the key's owner. Requires the v2 API."""
        return await self._only_v2(api.v2.get_billing_status())

    async def get_usage(self) -> tuple[models.UsageLimits, models.BillingStatus | None]:
        """Get :meth:`get_usage_limits` and :meth:`get_billing_status`; None for the latter if it fails."""
        limits = await self.get_usage_limits()
        try:
            return limits, await self.get_billing_status()
        except SimError:
            return limits, None

    async def _only_v2(self, call: Call[T], options: RequestOptions | None = None) -> T:
        async def on_legacy() -> NoReturn:
            raise SimUnsupportedError(
                f"Could not {call.request.subject}: this requires Sim's v2 API, which this server doesn't have or has"
                " switched off (Sim v0.8.0 and later, V2_API=true).",
                outcome=Outcome.NEVER_SENT,
            )

        return await self._either_api(lambda _: call, options, on_legacy=on_legacy)

    async def _either_api(
        self,
        call: Callable[[Any], Call[T]],  # gets the module v2 or legacy
        options: RequestOptions | None = None,
        *,
        on_legacy: Callable[[], Awaitable[T]] | None = None,
    ) -> T:
        """Make a call on the server's API, and find out which one it has; ``on_legacy`` replaces the legacy call."""
        feature, is_page, options = self._client.facts.v2, False, options or RequestOptions()
        if self._client.speaks_v2 is not False:
            try:
                result = await self._request(call(api.v2), options)
                feature.found()
                return result
            except SimV2OffError:
                if self._client.settings.api_version == "v2":
                    raise
                feature.missing()
            except SimRouteMissingError as error:
                if feature.present:
                    message = f"{error} The server had this API before; a proxy may have failed."
                    kept = ("status", "request_id", "workflow_id", "run_id", "outcome")
                    raise SimResponseError(message, **{name: getattr(error, name) for name in kept}) from error
                if self._client.settings.api_version == "v2":
                    raise
                # A server before v0.8.0, or no Sim server: a response on the legacy API proves the former.
                is_page = True
            except SimNotFoundError:
                feature.found()  # v2 names the missing resource
                raise
        result = await (on_legacy() if on_legacy else self._request(call(api.legacy), options))
        if is_page:
            feature.page_instead()
        return result

    async def _request(self, call: Call[T], options: RequestOptions | None = None) -> T:
        """Send a request, with retries; raise the last attempt's SimError, or StartStoppedError by the token."""
        attempts = _Attempts(self._client, call, options or RequestOptions())
        retrying = AsyncRetrying(
            sleep=self._client.sleep,
            retry=attempts.may_retry,
            wait=attempts.delay,
            stop=attempts.are_exhausted,
            before_sleep=attempts.before_sleep,
            reraise=True,
        )
        try:
            result: T = await retrying(attempts.send)
            return result
        except SimError as error:
            raise self._client.with_connection(error).with_traceback(None) from error.__cause__


def _selected(run: models.WorkflowRun, selectors: Sequence[str]) -> dict[str, Any]:
    """Return the outputs of a run's blocks by their selectors."""
    outputs = run.block_outputs or {}
    if missing := [name for name in selectors if name not in outputs]:  # Sim doesn't report them
        raise run.error_as(
            SimOutputError,
            f"has no block output {', '.join(missing)}. Without stream=True, selected_outputs requires block IDs,"
            " optionally with a path (block-id.field), not block names.",
        )
    return {name: outputs[name] for name in selectors}


class _Attempts:
    """The attempts of one request, with the decisions after each as tenacity's callbacks."""

    def __init__(self, client: BaseClient, call: Call[Any], options: RequestOptions) -> None:
        self._client = client
        self._call = call
        self._options = options
        self._policy = options.retry or client.settings.retry
        self._is_run_id_spent = False

    async def send(self) -> Any:
        options, run_ids = self._options, self._options.run_ids
        if options.stop is not None and options.stop.stopped:
            raise StartStoppedError
        if self._is_run_id_spent and run_ids is not None and run_ids.can_renew:
            self._call = self._call.with_run_id(run_ids.renew())  # not before: every chosen ID is sent
        result = await self._client.send(self._call, options)
        if options.then is not None:
            await options.then(result)
        return result

    def may_retry(self, state: RetryCallState) -> bool:
        """Decide by what the server did; :mod:`.retry` has the table."""
        error, run_ids = _error_of(state), self._options.run_ids
        if error is None or isinstance(error, self._options.retry_on):
            return error is not None
        if state.attempt_number > error.max_retries or (error.retry_after or 0) > self._policy.max_retry_after:
            return False
        if isinstance(error, SimRateLimitError) and not self._policy.retry_on_rate_limit:
            return False
        if error.outcome is Outcome.UNKNOWN:
            return self._call.request.idempotent
        if error.outcome is Outcome.RAN:
            return False
        return not error.run_id_spent or run_ids is None or run_ids.can_renew

    def delay(self, state: RetryCallState) -> float:
        error = _error_of(state)
        return 0.0 if error is None else self._policy.delay(error, state.attempt_number)

    def are_exhausted(self, state: RetryCallState) -> bool:
        delay, deadline = state.upcoming_sleep, self._options.deadline
        is_late = deadline is not None and time.time() + delay > deadline
        too_many = state.attempt_number > self._policy.max_retries
        return is_late or too_many or sum(self._options.delays) + delay > self._policy.max_elapsed

    def before_sleep(self, state: RetryCallState) -> None:
        error, delay, retry = _error_of(state), state.upcoming_sleep, state.attempt_number
        self._options.delays.append(delay)
        self._is_run_id_spent = error is not None and error.run_id_spent
        if isinstance(error, SimRateLimitError):
            Metric.RATE_LIMIT_WAIT.timing(delay)
        log.warning("%s Retrying in %.1f s (%d of %d).", error, delay, retry, self._policy.max_retries)


def _error_of(state: RetryCallState) -> SimError | None:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, SimError) else None
