"""``/api/workflows``, ``/api/jobs`` and their kin: every Sim server has them, in one of many historical shapes.

Here a run is called an execution; its id is the same as on v2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from airflow_provider_sim.client.dialects import fields
from airflow_provider_sim.client.dialects.exchange import (
    Call,
    Request,
    Response,
    check_run_id,
    check_workflow_id,
    error_of,
    json_body,
    path_of,
    read_json,
    under_run_id,
)
from airflow_provider_sim.client.dialects.refusals import Refusal, refusal_error, unreadable_error
from airflow_provider_sim.client.dialects.resources import (
    run_error,
    run_of,
    run_status,
    workflow_of,
)
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    Cancellation,
    JobStatus,
    Pause,
    RateLimit,
    Resumption,
    RunStatus,
    UsageLimits,
    Workflow,
    WorkflowExecutionResult,
    WorkflowRun,
    WorkflowStatus,
)
from airflow_provider_sim.exceptions import Outcome, SimError, SimInputError, SimResponseError, SimRunIdConflictError

T = TypeVar("T")

JOB_PREFIX = "workflow-execution:"
"""Job ids of the database queue are this and the run id; the Trigger.dev queue finds its jobs under it, too."""

CONTROL_FIELDS = frozenset(
    {
        "base64MaxBytes",
        "copilotToolCallId",
        "deploymentVersionId",
        "executionId",
        "includeFileBase64",
        "includeThinking",
        "includeToolCalls",
        "inputFromExecutionId",
        "isClientSession",
        "parentWorkspaceId",
        "runFromBlock",
        "selectedOutputs",
        "startBlockId",
        "stopAfterBlockId",
        "stream",
        "triggerBlockId",
        "triggerType",
        "useDraftState",
        "workflowId",
        "workflowStateOverride",
    }
)
"""Names that the server takes out of the input, or obeys, because here the whole body is the input."""

_JOB_STATUSES = {
    "pending": RunStatus.QUEUED,
    "queued": RunStatus.QUEUED,
    "waiting": RunStatus.QUEUED,
    "admitting": RunStatus.QUEUED,
    "admitted": RunStatus.QUEUED,
    "processing": RunStatus.RUNNING,
    "running": RunStatus.RUNNING,
    "completed": RunStatus.COMPLETED,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
}

_SAID_BEFORE_A_RUN = {
    400: (
        "API key callers cannot",
        "Async execution does not support",
        "External callers cannot",
        "File processing failed",
        "Invalid JSON in request body",
        "Invalid execution ID header",
        "Invalid execution timeout header",
        "Invalid request body",
        "X-Execution-Timeout-Seconds is supported only",
    ),
    401: ("Authentication", "Invalid API key", "Unauthorized"),
    402: ("Usage limit exceeded",),
    403: (
        "API key is not authorized",
        "Access denied",
        "Account suspended",
        "Personal API keys are not allowed",
        "Unauthorized",
        "Workflow is not deployed",
    ),
    404: ("Workflow not found",),
    409: ("Execution ID has already been used",),
    413: ("Workflow execution request body exceeds",),
    429: ("Rate limit exceeded", "Too many concurrent executions", "Too many requests"),
    500: ("Failed to queue async execution",),
    503: (
        "Async execution queue acceptance",
        "Service temporarily at capacity",
        "Unable to allocate workflow execution identity",
        "Usage admission is temporarily unavailable",
        "Workflow execution identity is temporarily unavailable",
    ),
}
"""How Sim's own refusals begin. A workflow's Response block can answer with any status and any body, so that other
error answers of a held-open execution prove nothing."""

_DETAIL_CODES = {
    "Rate limit exceeded": "RATE_LIMIT_EXCEEDED",
    "Too many concurrent executions": "EXECUTION_CONCURRENCY_LIMIT",
    "Personal API keys are not allowed": "PERSONAL_API_KEYS_DISABLED",
}

_REPEATS_OF_401 = 2
"""This API answers 401 also while its store of keys is down."""


class AmbiguousAnswerError(SimResponseError):
    """An error answer to a held-open execution that is either Sim's refusal or the workflow's own Response block.

    :param refusal: the error to raise if nothing ran.
    :param result: the run's result if it did.
    """

    refusal: SimError
    result: WorkflowExecutionResult


def execute(workflow_id: str, input: Any, *, run_id: str | None) -> Call[WorkflowExecutionResult]:
    """Run a workflow and hold the connection open until its end."""
    return _execute(workflow_id, input, run_id, _read_execution)


def execute_async(
    workflow_id: str, input: Any, *, run_id: str | None, run_timeout: int | None
) -> Call[AsyncExecutionResult | WorkflowExecutionResult]:
    """Queue a run. Servers v0.5.0 to v0.5.15 ignore the wish and answer with the finished run.

    :param run_timeout: seconds after which the server stops it; servers before v0.7.59 ignore it.
    """
    headers = {"X-Execution-Mode": "async"}
    if run_timeout is not None:
        headers["X-Execution-Timeout-Seconds"] = str(run_timeout)
    return _execute(workflow_id, input, run_id, _read_receipt, headers=headers)


def execute_stream(
    workflow_id: str, input: Any, *, run_id: str | None, selected_outputs: Sequence[str] | None
) -> Call[WorkflowExecutionResult]:
    """Run a workflow and receive its output as server-sent events.

    The call's ``read`` is for answers that are no stream: refusals, and servers before v0.4.9.
    """
    controls: dict[str, Any] = {"stream": True}
    if selected_outputs:
        controls["selectedOutputs"] = list(selected_outputs)
    return _execute(workflow_id, input, run_id, _read_execution, controls=controls)


def get_execution(
    workflow_id: str, run_id: str, *, include_output: bool = False, selected_outputs: Sequence[str] | None = None
) -> Call[WorkflowRun]:
    """Ask for a run (servers v0.6.81 and later)."""
    query = {
        "includeOutput": "true" if include_output else None,
        "selectedOutputs": ",".join(selected_outputs) if selected_outputs else None,
    }
    request = Request(
        "GET",
        path_of("workflows", check_workflow_id(workflow_id), "executions", check_run_id(run_id), query=query),
        subject=f"read run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return _call(request, _read_status)


def get_job(job_id: str, *, workflow_id: str | None = None) -> Call[JobStatus]:
    """Ask for a run's queue entry, the only view that servers before v0.6.81 offer; holds the raw output for a day."""
    request = Request(
        "GET",
        path_of("jobs", check_run_id(job_id)),
        subject=f"read job {job_id!r}",
        workflow_id=workflow_id,
        run_id=job_id.removeprefix(JOB_PREFIX),
    )
    return _call(request, _read_job)


def cancel_run(workflow_id: str, run_id: str) -> Call[Cancellation]:
    """Ask Sim to cancel a run (servers v0.5.44 and later)."""
    request = Request(
        "POST",
        path_of("workflows", check_workflow_id(workflow_id), "executions", check_run_id(run_id), "cancel"),
        subject=f"cancel run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return Call(request, lambda response: _read_cancellation(request, response))


def resume_run(workflow_id: str, run_id: str, context_id: str, input: Any) -> Call[Resumption]:
    """Answer a human pause."""
    request = Request(
        "POST",
        path_of("resume", check_workflow_id(workflow_id), check_run_id(run_id), check_run_id(context_id)),
        subject=f"resume run {run_id!r} of workflow {workflow_id!r}",
        headers={"Content-Type": "application/json"},
        body=json_body({"input": {} if input is None else input}, workflow_id=workflow_id),
        repeatable=False,
        held_open=True,
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return _call(request, _read_resumption)


def get_workflow_status(workflow_id: str) -> Call[WorkflowStatus]:
    """Ask whether a workflow is deployed; spends no rate limit."""
    request = Request(
        "GET",
        path_of("workflows", check_workflow_id(workflow_id), "status"),
        subject=f"read the deployment of workflow {workflow_id!r}",
        workflow_id=workflow_id,
    )
    return _call(request, _read_workflow_status)


def get_workflow(workflow_id: str) -> Call[Workflow]:
    """Ask v1 for a workflow's name, workspace and declared inputs."""
    request = Request(
        "GET",
        path_of("v1", "workflows", check_workflow_id(workflow_id)),
        subject=f"read workflow {workflow_id!r}",
        workflow_id=workflow_id,
    )
    return _call(request, _read_workflow)


def get_usage_limits() -> Call[UsageLimits]:
    """Ask for the limits and usage of the key's owner; spends no rate limit."""
    return _call(Request("GET", path_of("users", "me", "usage-limits"), subject="read the usage limits"), _read_usage)


def as_body(value: Any, *, workflow_id: str) -> dict[str, Any]:
    """The workflow input as this API takes it: its fields at the top level; anything but an object as ``input``.

    :raises SimInputError: a field has the name of a control field, which the server would obey or drop.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return {"input": value}
    taken = sorted(CONTROL_FIELDS.intersection(value))
    if taken:
        raise SimInputError(
            f"The input for workflow {workflow_id!r} has the field(s) {', '.join(taken)}. On the legacy API the input"
            " shares its names with control fields: Sim would obey or drop them. Rename them in the workflow's Start"
            " block, or use a server with the v2 API.",
            workflow_id=workflow_id,
            outcome=Outcome.NEVER_SENT,
        )
    return dict(value)


def _execute(
    workflow_id: str,
    input: Any,
    run_id: str | None,
    read: Callable[[Request, Response], T],
    *,
    headers: Mapping[str, str] | None = None,
    controls: Mapping[str, Any] | None = None,
) -> Call[T]:
    body = {**as_body(input, workflow_id=check_workflow_id(workflow_id)), **(controls or {})}
    plain = Request(
        "POST",
        path_of("workflows", workflow_id, "execute"),
        subject=f"start workflow {workflow_id!r}",
        headers={"Content-Type": "application/json", **(headers or {})},
        body=json_body(body, workflow_id=workflow_id),
        repeatable=False,
        held_open="X-Execution-Mode" not in (headers or {}),
        workflow_id=workflow_id,
    )

    def under(run_id: str) -> Call[T]:
        request = under_run_id(plain, "X-Execution-Id", run_id)
        return Call(request, lambda response: read(request, response), renew=under)

    return under(run_id) if run_id is not None else Call(plain, lambda response: read(plain, response))


def _call(request: Request, read: Callable[[Request, Response, Any], T]) -> Call[T]:
    """A call whose every error answer is Sim's own."""

    def read_response(response: Response) -> T:
        if response.status >= 400:
            raise _refused(request, response)
        return read(request, response, read_json(request, response))

    return Call(request, read_response)


def _refused(request: Request, response: Response) -> SimError:
    try:
        body = read_json(request, response)
    except SimResponseError:
        body = None
    return _refusal_in(body, request, response) or unreadable_error(request, response)


def _refusal_in(body: Any, request: Request, response: Response) -> SimError | None:
    message = fields.text(body, "error")
    if message is None:
        return None
    detail_code = next((code for start, code in _DETAIL_CODES.items() if message.startswith(start)), None)
    issues = tuple(
        f"{path}: {text}" if (path := fields.text(issue, "path")) else text
        for issue in fields.sequence(body, "details")
        if (text := fields.text(issue, "message")) is not None
    )
    refusal = Refusal(message, detail_code or fields.text(body, "code"), issues)
    error = refusal_error(request, response, refusal)
    if response.status == 401:
        error.worth_repeating = _REPEATS_OF_401
    if error.retry_after is None:
        error.retry_after = fields.number(body, "retryAfterSeconds")
    if isinstance(error, SimRunIdConflictError):
        error.run_id = fields.text(body, "executionId") or error.run_id
    return error


def _unexpected(request: Request, response: Response) -> SimError:
    return error_of(SimResponseError, request, response, "the answer is JSON, but not what Sim answers here")


def _read_execution(request: Request, response: Response) -> WorkflowExecutionResult:
    try:
        body = read_json(request, response)
    except SimResponseError:
        if response.status >= 400:
            raise unreadable_error(request, response) from None
        raise
    if isinstance(body, dict) and isinstance(body.get("success"), bool) and body.keys() & {"output", "error"}:
        return _finished(request, response, body)
    result = _of_response_block(request, response, body)
    if response.status < 400:
        return result
    refusal = _refusal_in(body, request, response)
    if refusal is not None and _is_said_before_a_run(response.status, body["error"]):
        raise refusal
    ambiguous = error_of(
        AmbiguousAnswerError,
        request,
        response,
        "the answer may be that of the workflow's own Response block, or of something before Sim",
        worth_repeating=0,
    )
    assert isinstance(ambiguous, AmbiguousAnswerError)
    ambiguous.refusal = refusal or unreadable_error(request, response)
    ambiguous.result = result
    raise ambiguous


def _is_said_before_a_run(status: int, message: str) -> bool:
    return message.startswith(_SAID_BEFORE_A_RUN.get(status, ()))


def _finished(request: Request, response: Response, body: dict[str, Any]) -> WorkflowExecutionResult:
    output = body.get("output")
    error = body.get("error")
    pause = None
    if body["success"] is True:
        pause = _pause_in(output)
        status = RunStatus.PAUSED if pause else RunStatus.COMPLETED
    elif error or response.status >= 400:
        status = RunStatus.FAILED
    else:
        status = RunStatus.CANCELLED  # HTTP 200 without an error is all that tells it
    metadata = fields.mapping(body, "metadata")
    return WorkflowExecutionResult(
        run_id=fields.text(body, "executionId") or fields.text(metadata, "executionId") or request.run_id,
        workflow_id=request.workflow_id,
        status=status,
        output=output,
        error=run_error(error, code="TIMEOUT" if response.status == 408 else None)
        if status is RunStatus.FAILED
        else None,
        paused=pause,
        started_at=fields.text(metadata, "startTime"),
        ended_at=fields.text(metadata, "endTime"),
        duration_ms=fields.number(metadata, "duration"),
    )


def _of_response_block(request: Request, response: Response, body: Any) -> WorkflowExecutionResult:
    """A Response block's answer, put into the shape in which v2 and jobs show it."""
    return WorkflowExecutionResult(
        run_id=request.run_id,
        workflow_id=request.workflow_id,
        status=RunStatus.COMPLETED,
        output={
            "data": body,
            "status": response.status,
            "headers": {"Content-Type": response.headers.get("content-type", "application/json")},
        },
    )


def _pause_in(output: Any) -> Pause | None:
    """The pause that an output betrays; this API calls paused runs successful."""
    resume = fields.mapping(fields.mapping(output, "data"), "_resume")
    if resume:
        return Pause(context_id=fields.text(resume, "contextId"), kind="human")
    if isinstance(output, dict):
        if output.keys() == {"waitDuration", "resumeAt"}:
            return Pause(kind="time", resume_at=fields.text(output, "resumeAt"))
        if output.keys() == {"pausedBlocks", "pauseCount"}:
            return Pause()
    return None


def _read_receipt(request: Request, response: Response) -> AsyncExecutionResult | WorkflowExecutionResult:
    if response.status < 400:
        body = read_json(request, response)
        job_id = fields.text(body, "jobId") or fields.text(body, "taskId")
        run_id = fields.text(body, "executionId") if response.status == 202 else None
        if response.status == 202 or (job_id and fields.flag(body, "async")):
            if job_id is None and run_id is None:
                raise _unexpected(request, response)
            return _receipt(request, body, job_id, run_id)
    try:
        return _read_execution(request, response)
    except AmbiguousAnswerError as ambiguous:
        raise ambiguous.refusal from None


def _receipt(request: Request, body: Any, job_id: str | None, run_id: str | None) -> AsyncExecutionResult:
    job_id = job_id or f"{JOB_PREFIX}{run_id}"
    return AsyncExecutionResult(
        run_id=run_id or job_id.removeprefix(JOB_PREFIX),
        workflow_id=request.workflow_id or "",
        job_id=job_id,
        status=_JOB_STATUSES.get(fields.text(body, "status") or "queued", RunStatus.QUEUED),
        message=fields.text(body, "message") or "",
        created_at=fields.text(body, "createdAt"),
        path=path_of("jobs", job_id),
    )


def _read_status(request: Request, response: Response, body: Any) -> WorkflowRun:
    run = run_of(body, run_id="executionId", output="finalOutput", duration="totalDurationMs")
    if run is None:
        raise _unexpected(request, response)
    return run


def _read_job(request: Request, response: Response, body: Any) -> JobStatus:
    word = fields.text(body, "status")
    if word is None:
        raise _unexpected(request, response)
    entry, metadata = body.get("output"), fields.mapping(body, "metadata")
    wrapped = isinstance(entry, dict) and isinstance(entry.get("success"), bool) and "output" in entry
    output = entry["output"] if wrapped else entry
    status = _JOB_STATUSES.get(word, RunStatus.UNKNOWN)
    pause = _pause_in(output) if status is RunStatus.COMPLETED else None
    if pause:
        status = RunStatus.PAUSED
    elif status is RunStatus.COMPLETED and wrapped and entry["success"] is False:
        status = RunStatus.FAILED if entry.get("error") else RunStatus.CANCELLED
    job_id = fields.text(body, "taskId") or (request.run_id or "")
    error = body.get("error") or (entry.get("error") if wrapped else None)
    correlation = fields.mapping(metadata, "correlation")
    return JobStatus(
        job_id=job_id,
        run_id=fields.text(entry, "executionId")
        or fields.text(correlation, "executionId")
        or job_id.removeprefix(JOB_PREFIX),
        workflow_id=fields.text(entry, "workflowId") or fields.text(metadata, "workflowId") or request.workflow_id,
        status=status,
        server_status=word,
        output=output,
        error=run_error(error) if status is RunStatus.FAILED else None,
        paused=pause,
        trigger=fields.text(correlation, "triggerType"),
        started_at=fields.text(metadata, "startedAt"),
        ended_at=fields.text(metadata, "completedAt"),
        duration_ms=fields.number(metadata, "duration"),
        metadata=metadata,
    )


def _read_cancellation(request: Request, response: Response) -> Cancellation:
    run_id = request.run_id or ""
    if response.status >= 400:
        refusal = _refused(request, response)
        if response.status == 409:
            return Cancellation(run_id=run_id, accepted=False, reason="already_over")
        raise refusal
    body = read_json(request, response)
    return Cancellation(
        run_id=fields.text(body, "executionId") or run_id,
        accepted=fields.flag(body, "success") is True,
        reason=fields.text(body, "reason"),
    )


def _read_resumption(request: Request, response: Response, body: Any) -> Resumption:
    word = fields.text(body, "status")
    return Resumption(
        run_id=request.run_id or "",
        attempt_id=fields.text(body, "executionId"),
        status=run_status(word) if word else RunStatus.QUEUED,
        output=fields.mapping(body).get("output"),
    )


def _read_workflow_status(request: Request, response: Response, body: Any) -> WorkflowStatus:
    deployed = fields.flag(body, "isDeployed")
    if deployed is None:
        raise _unexpected(request, response)
    return WorkflowStatus(
        is_deployed=deployed,
        deployed_at=fields.text(body, "deployedAt"),
        needs_redeployment=fields.flag(body, "needsRedeployment") is True,
    )


def _read_workflow(request: Request, response: Response, body: Any) -> Workflow:
    return workflow_of(fields.mapping(body, "data"), workflow_id=request.workflow_id)


def _read_usage(request: Request, response: Response, body: Any) -> UsageLimits:
    if not isinstance(body, dict) or "usage" not in body:
        raise _unexpected(request, response)
    limits, usage, storage = (fields.mapping(body, key) for key in ("rateLimit", "usage", "storage"))
    return UsageLimits(
        sync=_rate_limit(limits.get("sync")),
        asynchronous=_rate_limit(limits.get("async")),
        current_period_cost_usd=fields.number(usage, "currentPeriodCost"),
        limit_usd=fields.number(usage, "limit"),
        plan=fields.text(usage, "plan"),
        storage_used_bytes=fields.whole(storage, "usedBytes"),
        storage_limit_bytes=fields.whole(storage, "limitBytes"),
    )


def _rate_limit(value: Any) -> RateLimit | None:
    if not isinstance(value, dict):
        return None
    remaining = fields.whole(value, "remaining")
    rate = fields.whole(value, "requestsPerMinute")
    return RateLimit(
        # Sim counts below zero and then says False here.
        is_limited=fields.flag(value, "isLimited") is True or (remaining is not None and remaining <= 0),
        requests_per_minute=fields.whole(value, "limit") if rate is None else rate,
        max_burst=fields.whole(value, "maxBurst"),
        remaining=remaining,
        reset_at=fields.text(value, "resetAt"),
    )
