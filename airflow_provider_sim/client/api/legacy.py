"""Requests and responses of the legacy API (``/api/workflows``, ``/api/jobs``, …), which every Sim server has.

This API calls a run an execution; the ID is the same as on v2. Servers since v0.5.44 are supported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from airflow_provider_sim.client import models
from airflow_provider_sim.client.api import errors, fields, resources
from airflow_provider_sim.client.api.http import Call, Request, Response, endpoint, error_of, read_json
from airflow_provider_sim.client.checks import check_run_id
from airflow_provider_sim.client.models import JOB_PREFIX
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimInputError,
    SimResponseError,
    SimRunIdConflictError,
    SimUnsupportedError,
)

T = TypeVar("T")

_WORKFLOW = "workflows/{workflow_id}"
_RUN = f"{_WORKFLOW}/executions/{{run_id}}"

_CONTROL_FIELDS = (
    "base64MaxBytes copilotToolCallId deploymentVersionId executionId includeFileBase64 includeThinking "
    "includeToolCalls inputFromExecutionId isClientSession parentWorkspaceId runFromBlock selectedOutputs "
    "startBlockId stopAfterBlockId stream triggerBlockId triggerType useDraftState workflowId "
    "workflowStateOverride"
)
CONTROL_FIELDS = frozenset(_CONTROL_FIELDS.split())
"""Input fields that the server drops or interprets, because here the whole body is the input."""

_JOB_STATUSES = dict.fromkeys(("pending", "waiting", "admitting", "admitted"), "queued") | {"processing": "running"}
"""Run statuses of job statuses with other names."""

_REJECTIONS = (
    "400 API key callers cannot",
    "400 Async execution does not support",
    "400 External callers cannot",
    "400 File processing failed",
    "400 Invalid JSON in request body",
    "400 Invalid execution ID header",
    "400 Invalid execution timeout header",
    "400 Invalid request body",
    "400 X-Execution-Timeout-Seconds is supported only",
    "401 Authentication",
    "401 Invalid API key",
    "401 Unauthorized",
    "402 Usage limit exceeded",
    "403 API key is not authorized",
    "403 Access denied",
    "403 Account suspended",
    "403 Personal API keys are not allowed",
    "403 Unauthorized",
    "403 Workflow is not deployed",
    "404 Workflow not found",
    "409 Execution ID has already been used",
    "413 Workflow execution request body exceeds",
    "429 Rate limit exceeded",
    "429 Too many concurrent executions",
    "429 Too many requests",
    "500 Failed to queue async execution",
    "503 Async execution queue acceptance",
    "503 Service temporarily at capacity",
    "503 Unable to allocate workflow execution identity",
    "503 Usage admission is temporarily unavailable",
    "503 Workflow execution identity is temporarily unavailable",
)
"""How Sim's own rejections start, after the status. A workflow's Response block can return any status and any body, so
any other error response to a sync execution proves nothing."""

_DETAIL_CODES = {
    "Rate limit exceeded.": errors.EXECUTION_LIMIT,  # of executions; v1's buckets of requests omit the period
    "Too many concurrent executions": errors.CONCURRENCY_LIMIT,
    "Personal API keys are not allowed": "PERSONAL_API_KEYS_DISABLED",
}


def execute(
    workflow_id: str,
    input: Any,
    *,
    run_id: str | None = None,
    async_execution: bool = False,
    run_timeout: int | None = None,
    stream: bool = False,
    selected_outputs: Sequence[str] | None = None,
) -> Call[Any]:
    """Run a workflow; arguments as for :func:`.v2.execute`. Servers before v0.7.59 ignore ``run_timeout``."""
    content = as_body(input, workflow_id=workflow_id)
    if stream:
        content["stream"] = True
    if selected_outputs:
        content["selectedOutputs"] = list(selected_outputs)
    headers = {"X-Execution-Mode": "async"} if async_execution else {}
    if run_timeout is not None:
        headers["X-Execution-Timeout-Seconds"] = str(run_timeout)
    request = endpoint(
        "POST",
        f"{_WORKFLOW}/execute",
        "start {workflow}",
        workflow_id,
        content=content,
        headers=headers,
        idempotent=False,
        sync=not async_execution,
        run_id_header="X-Execution-Id",
    )
    read = _read_receipt if async_execution else _read_unstreamed if stream else _read_execution
    call: Call[Any] = Call(request, read, _execution_error)
    return call if run_id is None else call.with_run_id(run_id)


def as_body(value: Any, *, workflow_id: str) -> dict[str, Any]:
    """Return the workflow input as this API expects it: its fields at the top level; a non-object as ``input``."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return {"input": value}
    reserved = sorted(CONTROL_FIELDS.intersection(value))
    if reserved:
        raise SimInputError(
            f"The input for workflow {workflow_id!r} has the field(s) {', '.join(reserved)}. On the legacy API"
            " these are control fields: Sim would interpret or drop them. Rename them in the workflow's Start block, or"
            " use a server with the v2 API.",
            workflow_id=workflow_id,
        )
    return dict(value)


def get_run(
    workflow_id: str, run_id: str, *, include_output: bool = False, selected_outputs: Sequence[str] | None = None
) -> Call[models.WorkflowRun]:
    """Get a run (servers v0.6.81 and later)."""
    query = {"include_output": include_output, "selected_outputs": list(selected_outputs or ())}
    return _call(resources.parse_run, "GET", _RUN, "read {run}", workflow_id, run_id, query=query)


def get_job(job_id: str, *, workflow_id: str | None = None) -> Call[models.WorkflowRun]:
    """Get a run's queue entry: the only view before v0.6.81, and the raw output for a day on all servers."""
    path, run_id = f"jobs/{check_run_id(job_id)}", job_id.removeprefix(JOB_PREFIX)
    return _call(_read_job, "GET", path, f"read job {job_id!r}", workflow_id, run_id)


def cancel_run(workflow_id: str, run_id: str) -> Call[models.Cancellation]:
    request = endpoint("POST", f"{_RUN}/cancel", "cancel {run}", workflow_id, run_id)
    return Call(request, _read_cancellation, lambda request, got: None if got.status == 409 else _error(request, got))


def resume_run(workflow_id: str, run_id: str, context_id: str, input: Any) -> Call[models.RunStatus]:
    path = "resume/{workflow_id}/{run_id}/" + quote(context_id, safe=":")
    route = ("POST", path, "resume {run}", workflow_id, run_id)
    content = {"input": {} if input is None else input}
    return _call(resources.resumed_status, *route, content=content, idempotent=False, sync=True)


def get_paused_run(workflow_id: str, run_id: str) -> Call[models.PausedRun]:
    """Get a run's pause points; spends no rate limit."""
    path = "resume/{workflow_id}/{run_id}"
    return _call(_read_paused_run, "GET", path, "read the pauses of {run}", workflow_id, run_id)


def get_workflow_status(workflow_id: str) -> Call[models.Deployment]:
    """Get whether a workflow is deployed; spends no rate limit."""
    route = ("GET", f"{_WORKFLOW}/status", "read the deployment of {workflow}", workflow_id)
    return _call(lambda request, body: fields.model(models.Deployment, body, workflow_id=workflow_id), *route)


def get_workflow(workflow_id: str) -> Call[models.Workflow]:
    """Get a workflow's name, workspace and declared inputs from v1."""
    route = ("GET", f"v1/{_WORKFLOW}", "read {workflow}", workflow_id)
    return _call(lambda request, body: resources.workflow_of(request, fields.mapping(body, "data")), *route)


def get_usage_limits() -> Call[models.UsageLimits]:
    """Get the limits and usage of the key's owner; spends no rate limit."""
    return _call(_read_usage, "GET", "users/me/usage-limits", "read the usage limits")


class AmbiguousResponseError(Exception):
    """An error response to a sync execution: either Sim's rejection or the workflow's own Response block."""

    def __init__(self, rejection: SimError, result: models.WorkflowExecutionResult) -> None:
        super().__init__(rejection, result)
        self.rejection = rejection  # the error to raise if nothing ran
        self.result = result  # the run's result if it did


def _error(request: Request, response: Response) -> SimError:
    """The error in an error response that can only be Sim's own."""
    try:
        body = read_json(request, response)
    except SimResponseError:
        return errors.unreadable_error(request, response)
    return _rejection(body, request, response)


def _rejection(body: Any, request: Request, response: Response) -> SimError:
    message = fields.text(body, "error")
    if message is None:
        return errors.unreadable_error(request, response)
    code = fields.text(body, "code")
    detail = next((known for start, known in _DETAIL_CODES.items() if message.startswith(start)), code)
    issues, wait = fields.sequence(body, "details"), fields.number(body, "retryAfterSeconds")
    error = errors.error_from_body(request, response, message, detail, issues, wait)
    if response.status == 401:
        error.max_retries = 2  # this API also returns it while its key store is down
    if isinstance(error, SimRunIdConflictError) or error.code == errors.AMBIGUOUS_ENQUEUE:
        error.run_id = fields.text(body, "executionId") or error.run_id  # the server's, if it accepts none
    return error


def _execution_error(request: Request, response: Response) -> Exception | None:
    """The error in an error response to a start; None if it is a finished run."""
    try:
        body = read_json(request, response)
    except SimResponseError:
        return errors.unreadable_error(request, response)
    if _is_finished_run(body):
        return None
    rejection = _rejection(body, request, response)
    is_known = f"{response.status} {fields.text(body, 'error')}".startswith(_REJECTIONS)
    if is_known or not request.sync:  # no Response block answers an async start
        return rejection
    return AmbiguousResponseError(rejection, _response_block_result(request, response, body))


def _call(read: Callable[[Request, Any], T], *route: Any, **attributes: Any) -> Call[T]:
    """A call whose every error response is Sim's own; further arguments as for :func:`.endpoint`."""
    request = endpoint(*route, **attributes)
    return Call(request, lambda request, response: read(request, read_json(request, response)), _error)


def _read_execution(request: Request, response: Response) -> models.WorkflowExecutionResult:
    body = read_json(request, response)
    if not _is_finished_run(body):
        return _response_block_result(request, response, body)
    metadata = fields.mapping(body, "metadata")
    code = "TIMEOUT" if response.status == 408 else None
    return models.WorkflowExecutionResult(
        run_id=fields.text(body, "executionId") or fields.text(metadata, "executionId") or request.run_id,
        workflow_id=request.workflow_id,
        started_at=fields.text(metadata, "startTime"),
        ended_at=fields.text(metadata, "endTime"),
        duration_ms=fields.number(metadata, "duration"),
        **resources.ending_of(body, code=code, failed=response.status >= 400),
    )


def _is_finished_run(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("success"), bool) and bool(body.keys() & {"output", "error"})


def _response_block_result(request: Request, response: Response, body: Any) -> models.WorkflowExecutionResult:
    """A Response block's response in the shape in which v2 and jobs show it."""
    return models.WorkflowExecutionResult(
        run_id=request.run_id,
        workflow_id=request.workflow_id,
        status=models.RunStatus.COMPLETED,
        output={
            "data": body,
            "status": response.status,
            "headers": {"Content-Type": response.headers.get("content-type", "application/json")},
        },
    )


def _read_unstreamed(request: Request, response: Response) -> models.WorkflowExecutionResult:
    """Read the JSON response to a streamed execution: a run that failed before its stream started."""
    if response.status < 400:
        raise _not_as_requested(request, response)
    return _read_execution(request, response)


def _read_receipt(request: Request, response: Response) -> models.AsyncExecutionResult:
    body = read_json(request, response)
    job_id, run_id = fields.text(body, "jobId"), fields.text(body, "executionId")
    if response.status != 202 or (job_id is None and run_id is None):
        raise _not_as_requested(request, response)
    job_id = job_id or f"{JOB_PREFIX}{run_id}"
    run_id = run_id or job_id.removeprefix(JOB_PREFIX)
    return models.AsyncExecutionResult(
        run_id=run_id,
        run_id_is_ours=run_id == request.run_id,
        workflow_id=request.workflow_id or "",
        job_id=job_id,
    )


def _not_as_requested(request: Request, response: Response) -> SimError:
    """The error of servers that ignore ``stream`` or the async mode, or whose receipts have a ``taskId``."""
    body = read_json(request, response)
    job_id = fields.text(body, "taskId")
    if job_id is None and not _is_finished_run(body):
        raise fields.MissingFieldError
    run_id = job_id or fields.text(body, "executionId")
    what = f"Sim v0.5.44 or later is required. This server is older and started run {run_id!r} in another mode"
    return error_of(SimUnsupportedError, request, response, what, outcome=Outcome.RAN, run_id=run_id)


def _read_job(request: Request, body: Any) -> models.WorkflowRun:
    word = fields.required(fields.text(body, "status"))
    entry, metadata = body.get("output"), fields.mapping(body, "metadata")
    is_execution = isinstance(entry, dict) and isinstance(entry.get("success"), bool) and "output" in entry
    execution = entry if is_execution else {"success": True, "output": entry}
    status = resources.run_status(_JOB_STATUSES.get(word, word))
    ending = {"status": status, "output": execution["output"]}
    if status is models.RunStatus.COMPLETED:
        ending = resources.ending_of(execution)
    elif status is models.RunStatus.FAILED:
        ending["error"] = resources.run_error(body.get("error") or execution.get("error"))
    job_id = fields.text(body, "taskId") or (request.run_id or "")
    correlation = fields.mapping(metadata, "correlation")
    return models.WorkflowRun(
        run_id=fields.text(entry, "executionId")
        or fields.text(correlation, "executionId")
        or job_id.removeprefix(JOB_PREFIX),
        workflow_id=fields.text(entry, "workflowId") or fields.text(metadata, "workflowId") or request.workflow_id,
        server_status=word,
        trigger=fields.text(correlation, "triggerType"),
        started_at=fields.text(metadata, "startedAt"),
        ended_at=fields.text(metadata, "completedAt"),
        duration_ms=fields.number(metadata, "duration"),
        **ending,
    )


def _read_cancellation(request: Request, response: Response) -> models.Cancellation:
    if response.status == 409:
        return models.Cancellation(run_id=request.run_id or "", accepted=False, reason="already_over")
    return resources.cancellation(request, read_json(request, response))


def _read_paused_run(request: Request, body: Any) -> models.PausedRun:
    if not isinstance(fields.mapping(body).get("pausePoints"), list):
        raise fields.MissingFieldError
    return models.PausedRun(
        points=tuple(point for entry in body["pausePoints"] if (point := resources.pause_point(entry))),
        resumed_count=fields.whole(body, "resumedCount"),
    )


def _read_usage(request: Request, body: Any) -> models.UsageLimits:
    if not isinstance(body, dict) or "usage" not in body:
        raise fields.MissingFieldError
    limits, usage = fields.mapping(body, "rateLimit"), fields.mapping(body, "usage")
    return models.UsageLimits(
        sync=_rate_limit(limits.get("sync")),
        asynchronous=_rate_limit(limits.get("async")),
        current_period_cost_usd=fields.number(usage, "currentPeriodCost"),
        limit_usd=fields.number(usage, "limit"),
        plan=fields.text(usage, "plan"),
    )


def _rate_limit(value: Any) -> models.RateLimit | None:
    if not isinstance(value, dict):
        return None
    remaining = fields.whole(value, "remaining")
    # Sim counts below zero, and isLimited is False then.
    is_limited = fields.flag(value, "isLimited") is True or (remaining is not None and remaining <= 0)
    return fields.model(models.RateLimit, value, is_limited=is_limited)
