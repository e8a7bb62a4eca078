"""Readers of the legacy API's responses, as servers since v0.5.44 send them."""

from __future__ import annotations

from typing import Any

from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.errors import (
    AMBIGUOUS_ENQUEUE,
    CONCURRENCY_LIMIT,
    EXECUTION_LIMIT,
    ErrorBody,
    error_from_body,
    unreadable_error,
)
from airflow_provider_sim.client.api.http import Request, Response, error_of, path_of, read_json
from airflow_provider_sim.client.api.resources import (
    parse_run,
    pause_in,
    pause_point,
    run_error,
    run_status,
    workflow_of,
)
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    Cancellation,
    JobStatus,
    PausedRun,
    RateLimit,
    Resumption,
    RunStatus,
    UsageLimits,
    Workflow,
    WorkflowExecutionResult,
    WorkflowRun,
    WorkflowStatus,
)
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimResponseError,
    SimRouteMissingError,
    SimRunIdConflictError,
    SimUnsupportedError,
)

REQUIRED_VERSION = "Sim v0.5.44 or later is required"

JOB_PREFIX = "workflow-execution:"
"""Job IDs of the database queue are this and the run ID; the Trigger.dev queue finds its jobs by it, too."""

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

_REJECTION_PREFIXES = {
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
"""How Sim's own rejections start. A workflow's Response block can return any status and any body, so any other error
response to a sync execution proves nothing."""

_DETAIL_CODES = {
    "Rate limit exceeded.": EXECUTION_LIMIT,  # of executions; v1's buckets of requests omit the period
    "Too many concurrent executions": CONCURRENCY_LIMIT,
    "Personal API keys are not allowed": "PERSONAL_API_KEYS_DISABLED",
}

_RETRIES_OF_401 = 2
"""This API also returns 401 while its key store is down."""


class AmbiguousResponseError(SimResponseError):
    """An error response to a sync execution: either Sim's rejection or the workflow's own Response block.

    :param rejection: the error to raise if nothing ran.
    :param result: the run's result if it did.
    """

    rejection: SimError
    result: WorkflowExecutionResult


def rejection(request: Request, response: Response) -> SimError:
    try:
        body = read_json(request, response)
    except SimResponseError:
        body = None
    return _rejection_in(body, request, response) or unreadable_error(request, response)


def _rejection_in(body: Any, request: Request, response: Response) -> SimError | None:
    message = fields.text(body, "error")
    if message is None:
        return None
    detail_code = next((code for start, code in _DETAIL_CODES.items() if message.startswith(start)), None)
    issues = tuple(
        f"{path}: {text}" if (path := fields.text(issue, "path")) else text
        for issue in fields.sequence(body, "details")
        if (text := fields.text(issue, "message")) is not None
    )
    wait = fields.number(body, "retryAfterSeconds")
    error = error_from_body(
        request, response, ErrorBody(message, detail_code or fields.text(body, "code"), issues, wait)
    )
    if response.status == 401:
        error.max_retries = _RETRIES_OF_401
    if isinstance(error, SimRunIdConflictError) or error.code == AMBIGUOUS_ENQUEUE:
        error.run_id = fields.text(body, "executionId") or error.run_id  # the server's, if it accepts none
    return error


def _unexpected(request: Request, response: Response) -> SimError:
    return error_of(
        SimResponseError,
        request,
        response,
        "the response is JSON, but not what Sim returns here; the base URL may lead to another program",
    )


def execution_error(request: Request, response: Response) -> SimError | None:
    """Return the error in an error response to a start; None if it is a finished run."""
    try:
        body = read_json(request, response)
    except SimResponseError:
        return unreadable_error(request, response)
    if _is_finished_run(body):
        return None
    error = _rejection_in(body, request, response)
    if error is not None and body["error"].startswith(_REJECTION_PREFIXES.get(response.status, ())):
        return error
    ambiguous = error_of(
        AmbiguousResponseError,
        request,
        response,
        "the response may come from the workflow's own Response block, or from a proxy",
        max_retries=0,
    )
    assert isinstance(ambiguous, AmbiguousResponseError)
    ambiguous.rejection = error or unreadable_error(request, response)
    ambiguous.result = _response_block_result(request, response, body)
    return ambiguous


def receipt_error(request: Request, response: Response) -> SimError | None:
    """Return the error in an error response to an async start, which no Response block can have sent."""
    error = execution_error(request, response)
    return error.rejection if isinstance(error, AmbiguousResponseError) else error


def read_execution(request: Request, response: Response) -> WorkflowExecutionResult:
    body = read_json(request, response)
    if _is_finished_run(body):
        return _finished(request, response, body)
    return _response_block_result(request, response, body)


def _is_finished_run(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("success"), bool) and bool(body.keys() & {"output", "error"})


def _finished(request: Request, response: Response, body: dict[str, Any]) -> WorkflowExecutionResult:
    output = body.get("output")
    error = body.get("error")
    pause = None
    if body["success"] is True:
        pause = pause_in(output)
        status = RunStatus.PAUSED if pause else RunStatus.COMPLETED
    elif error or response.status >= 400:
        status = RunStatus.FAILED
    else:
        status = RunStatus.CANCELLED  # HTTP 200 without an error is the only sign
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


def _response_block_result(request: Request, response: Response, body: Any) -> WorkflowExecutionResult:
    """A Response block's response in the shape in which v2 and jobs show it."""
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


def read_unstreamed(request: Request, response: Response) -> WorkflowExecutionResult:
    """Read the JSON response to a streamed execution: a run that failed before its stream started."""
    if response.status < 400:
        raise _not_as_requested(request, response)
    return read_execution(request, response)


def read_receipt(request: Request, response: Response) -> AsyncExecutionResult:
    body = read_json(request, response)
    job_id, run_id = fields.text(body, "jobId"), fields.text(body, "executionId")
    if response.status != 202 or (job_id is None and run_id is None):
        raise _not_as_requested(request, response)
    job_id = job_id or f"{JOB_PREFIX}{run_id}"
    run_id = run_id or job_id.removeprefix(JOB_PREFIX)
    return AsyncExecutionResult(
        run_id=run_id,
        run_id_is_ours=run_id == request.run_id,
        workflow_id=request.workflow_id or "",
        job_id=job_id,
        message=fields.text(body, "message") or "",
        path=path_of("jobs", job_id),
    )


def _not_as_requested(request: Request, response: Response) -> SimError:
    """The error for a run that was not started as requested.

    Servers before v0.4.9 ignore ``stream``, v0.5.0 to v0.5.15 ignore the request for an async run, and receipts
    before v0.5 have a ``taskId``.
    """
    body = read_json(request, response)
    job_id = fields.text(body, "taskId")
    if job_id is None and not _is_finished_run(body):
        return _unexpected(request, response)
    started = "ran the workflow synchronously" if job_id is None else f"queued the run as job {job_id!r}"
    return error_of(
        SimUnsupportedError,
        request,
        response,
        f"{REQUIRED_VERSION}. This server is older and {started}",
        outcome=Outcome.RAN,
        run_id=job_id or fields.text(body, "executionId"),
    )


def read_status(request: Request, response: Response, body: Any) -> WorkflowRun:
    run = parse_run(body, run_id="executionId", output="finalOutput", duration="totalDurationMs")
    if run is None:
        raise _unexpected(request, response)
    return run


def read_job(request: Request, response: Response, body: Any) -> JobStatus:
    word = fields.text(body, "status")
    if word is None:
        raise _unexpected(request, response)
    entry, metadata = body.get("output"), fields.mapping(body, "metadata")
    wrapped = isinstance(entry, dict) and isinstance(entry.get("success"), bool) and "output" in entry
    output = entry["output"] if wrapped else entry
    status = _JOB_STATUSES.get(word, RunStatus.UNKNOWN)
    pause = pause_in(output) if status is RunStatus.COMPLETED else None
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


def cancellation_error(request: Request, response: Response) -> SimError | None:
    error = rejection(request, response)
    if response.status == 409:
        return None
    if isinstance(error, SimRouteMissingError):
        what = f"the server has no route to cancel a run. {REQUIRED_VERSION}. The run continues"
        return error_of(SimUnsupportedError, request, response, what)
    return error


def read_cancellation(request: Request, response: Response) -> Cancellation:
    run_id = request.run_id or ""
    if response.status == 409:
        return Cancellation(run_id=run_id, accepted=False, reason="already_over")
    body = read_json(request, response)
    return Cancellation(
        run_id=fields.text(body, "executionId") or run_id,
        accepted=fields.flag(body, "success") is True,
        reason=fields.text(body, "reason"),
    )


def read_resumption(request: Request, response: Response, body: Any) -> Resumption:
    word = fields.text(body, "status")
    return Resumption(
        run_id=request.run_id or "",
        attempt_id=fields.text(body, "executionId"),
        status=run_status(word) if word else RunStatus.QUEUED,
        output=fields.mapping(body).get("output"),
    )


def read_paused_run(request: Request, response: Response, body: Any) -> PausedRun:
    if not isinstance(fields.mapping(body).get("pausePoints"), list):
        raise _unexpected(request, response)
    return PausedRun(
        run_id=fields.text(body, "executionId") or request.run_id or "",
        points=tuple(point for entry in fields.sequence(body, "pausePoints") if (point := pause_point(entry))),
        resumed_count=fields.whole(body, "resumedCount"),
    )


def read_workflow_status(request: Request, response: Response, body: Any) -> WorkflowStatus:
    deployed = fields.flag(body, "isDeployed")
    if deployed is None:
        raise _unexpected(request, response)
    return WorkflowStatus(
        is_deployed=deployed,
        deployed_at=fields.text(body, "deployedAt"),
        needs_redeployment=fields.flag(body, "needsRedeployment") is True,
    )


def read_workflow(request: Request, response: Response, body: Any) -> Workflow:
    return workflow_of(fields.mapping(body, "data"), workflow_id=request.workflow_id)


def read_usage(request: Request, response: Response, body: Any) -> UsageLimits:
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
    return RateLimit(
        # Sim counts below zero, and isLimited is False then.
        is_limited=fields.flag(value, "isLimited") is True or (remaining is not None and remaining <= 0),
        requests_per_minute=fields.whole(value, "requestsPerMinute"),
        max_burst=fields.whole(value, "maxBurst"),
        remaining=remaining,
        reset_at=fields.text(value, "resetAt"),
    )
