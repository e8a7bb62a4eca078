"""``/api/workflows``, ``/api/jobs`` and their kin, in the shapes of the profile's version."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.files import BadFileError, with_files_stored
from airflow_provider_sim.emulator.keys import Key
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import Refused, State, new_run_id
from airflow_provider_sim.emulator.surfaces.v2 import cost_of, level_of, output_shown, paused_of
from airflow_provider_sim.emulator.surfaces.wire import (
    BodyTooLargeError,
    answer,
    body_of,
    event_stream,
    page_not_found,
    see_to_end,
    state_of,
)
from airflow_provider_sim.emulator.workflows import Workflow

JOB_PREFIX = "workflow-execution:"
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_TAKEN_OUT = frozenset(
    [
        "stream",
        "selectedOutputs",
        "triggerType",
        "useDraftState",
        "inputFromExecutionId",
        "includeFileBase64",
        "base64MaxBytes",
        "workflowStateOverride",
        "deploymentVersionId",
        "triggerBlockId",
        "stopAfterBlockId",
        "runFromBlock",
        "copilotToolCallId",
        "workflowId",
        "parentWorkspaceId",
    ]
)
"""Control fields; the rest of the body is the workflow's input."""
_NOT_ASYNC = (
    "includeFileBase64",
    "base64MaxBytes",
    "useDraftState",
    "runFromBlock",
    "stopAfterBlockId",
    "workflowStateOverride",
)
_CODES_OF_OLD = {402: "USAGE_LIMIT_EXCEEDED", 429: "RATE_LIMIT_EXCEEDED", 500: "EXECUTION_ERROR"}


class Failure(Exception):
    """An error answer: ``error`` and whatever else the body holds."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(error)
        self.status, self.body, self.headers = status, {"error": error, **more}, headers


Handler = Callable[[Request], Awaitable[Response]]


def _route(path: str, method: str) -> Callable[[Handler], Route]:
    def decorate(handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return await handler(request)
            except Failure as failure:
                return answer(failure.status, failure.body, failure.headers)

        return Route(f"/api{path}", endpoint, methods=[method], name=handler.__name__)

    return decorate


def _code_of(message: str, coded: bool) -> dict[str, Any]:
    """The code that some routes make of their message."""
    return {"code": message.upper().replace(" ", "_")} if coded else {}


def _key(request: Request, missing: str, wrong: str | None = None, *, coded: bool = False, **more: Any) -> Key:
    """The request's key.

    :param missing: what the route says without a key, and with a wrong one unless ``wrong`` is given.
    :raises Failure: there is none, or it is none of ours.
    """
    value = request.headers.get("x-api-key")
    key = state_of(request).keys.find(value)
    if key is None:
        message = (wrong or missing) if value else missing
        raise Failure(401, message, None, **more, **_code_of(message, coded))
    return key


def _visible_workflow(request: Request) -> Workflow:
    """The path's workflow, for routes that hide what the key may not see."""
    key = _key(request, "Unauthorized", requestId=new_run_id()[:8])
    workflow = state_of(request).find_workflow(request.path_params["workflow_id"], key)
    if workflow is None:
        raise Failure(404, "Workflow not found", code="WORKFLOW_NOT_FOUND", requestId=new_run_id()[:8])
    return workflow


# --- executing -----------------------------------------------------------------------------------------------------


@_route("/workflows/{workflow_id}/execute", "POST")
async def execute(request: Request) -> Response:
    """Run a workflow: held open, streamed, or queued."""
    state = state_of(request)
    profile = state.profile
    gate = state.limits.admission_gate
    if gate is not None and state.in_flight >= gate:
        raise Failure(
            429,
            "Too many requests",
            {"retry-after": "5"},
            message="Server is at capacity. Please retry shortly.",
            code="ADMISSION_GATE_CAPACITY",
            retryable=True,
            retryAfterSeconds=5,
        )
    key = _key(request, "Unauthorized", "Invalid API key")
    body = await _body(request)
    asynchronous = request.headers.get("x-execution-mode") == "async" and profile.receipt is not None
    run_id = _chosen_id(request, body, allowed=profile.run_ids)
    timeout = _chosen_timeout(request, asynchronous=asynchronous) if profile.run_ids else None
    _check_controls(body, asynchronous=asynchronous)
    workflow = _executable(state, request.path_params["workflow_id"], key)
    if run_id in state.runs:
        raise Failure(409, "Execution ID has already been used", code="EXECUTION_ID_CONFLICT", executionId=run_id)
    streamed = profile.stream and (body.get("stream") is True or request.headers.get("x-stream-response") == "true")
    mode = "async" if asynchronous else "stream" if streamed else "sync"
    sent = {name: value for name, value in body.items() if name not in _TAKEN_OUT}
    run = _started(state, workflow, sent, mode, key, run_id, timeout)
    if asynchronous:
        return _receipt(state, run)
    if streamed:
        return event_stream(state, request, run, body.get("selectedOutputs") or [], {})
    state.in_flight += 1
    try:
        await see_to_end(request, run)
    finally:
        state.in_flight -= 1
    return _finished(state, run)


async def _body(request: Request) -> dict[str, Any]:
    try:
        raw = await body_of(request)
    except BodyTooLargeError:
        raise Failure(413, "Workflow execution request body exceeds maximum size") from None
    try:
        body = json.loads(raw) if raw.strip() else {}
    except ValueError:
        raise Failure(400, "Invalid JSON in request body") from None
    if not isinstance(body, dict):
        kind = {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(body), "number")
        issue = {"path": "", "message": f"Invalid input: expected object, received {kind}"}
        raise Failure(400, "Invalid request body", details=[issue])
    return body


def _chosen_id(request: Request, body: dict[str, Any], *, allowed: bool) -> str:
    header = request.headers.get("x-execution-id")
    if not allowed:
        return new_run_id()
    if header is not None and not _ID.fullmatch(header):
        issue = {
            "path": "X-Execution-Id",
            "message": "Execution ID can only contain letters, numbers, dots, underscores, colons, and hyphens",
        }
        raise Failure(400, "Invalid execution ID header", details=[issue])
    inside = body.get("executionId")
    return header or (inside if isinstance(inside, str) and _ID.fullmatch(inside) else new_run_id())


def _chosen_timeout(request: Request, *, asynchronous: bool) -> int | None:
    header = request.headers.get("x-execution-timeout-seconds")
    if header is None:
        return None
    if not header.isdigit() or not 1 <= int(header) <= 604_800:
        issue = {
            "path": "X-Execution-Timeout-Seconds",
            "message": "Invalid input: expected number, received NaN"
            if not header.lstrip("-").isdigit()
            else "Execution timeout must be between 1 and 604800 seconds",
        }
        raise Failure(400, "Invalid execution timeout header", details=[issue])
    if not asynchronous:
        raise Failure(400, "X-Execution-Timeout-Seconds is supported only for async runs")
    return int(header)


def _check_controls(body: dict[str, Any], *, asynchronous: bool) -> None:
    issues = []
    outputs = body.get("selectedOutputs", [])
    if not isinstance(outputs, list):
        issues.append({"path": "selectedOutputs", "message": "Invalid input: expected array, received string"})
    if not isinstance(body.get("stream", False), bool):
        issues.append({"path": "stream", "message": "Invalid input: expected boolean, received string"})
    if issues:
        raise Failure(400, "Invalid request body", details=issues)
    if body.get("useDraftState") is True or "workflowStateOverride" in body or "runFromBlock" in body:
        raise Failure(400, "API key callers cannot execute draft workflow state")
    if body.get("isClientSession") is True:
        raise Failure(400, "API key callers cannot use client session controls")
    if body.get("triggerType", "api") != "api":
        raise Failure(400, "External callers cannot override triggerType")
    if asynchronous and (outputs or any(name in body for name in _NOT_ASYNC)):
        raise Failure(400, "Async execution does not support draft or override execution controls")


def _executable(state: State, workflow_id: str, key: Key) -> Workflow:
    workflow = state.workflows.get(workflow_id)
    if workflow is None:
        raise Failure(404, "Workflow not found")
    if key.workspace_id != state.workspace_id:
        raise Failure(403, "Unauthorized: Access denied to read this workflow")
    if state.personal_key_refused(key):
        raise Failure(403, "Personal API keys are not allowed for this workspace")
    if not workflow.deployed:
        raise Failure(403, "Workflow is not deployed")
    return workflow


def _started(
    state: State, workflow: Workflow, sent: dict[str, Any], mode: str, key: Key, run_id: str, timeout: int | None
) -> Run:
    try:
        if mode != "async":
            sent = with_files_stored(workflow, sent)
        return state.start(
            workflow,
            sent,
            mode=mode,
            key=key,
            run_id=run_id,
            bucket=state.limits.execution(asynchronous=False),  # here asynchronous ones spend this bucket, too
            timeout=timeout,
        )
    except BadFileError as error:
        raise Failure(400, f"File processing failed: {error}") from error
    except Refused as refused:
        codes: dict[str, Any] = {"code": _CODES_OF_OLD[refused.status]} if state.profile.error_codes else {}
        raise Failure(refused.status, refused.message, None, **codes) from refused


def _receipt(state: State, run: Run) -> Response:
    job_id = f"{JOB_PREFIX}{run.run_id}"
    if state.profile.receipt == "taskId":
        body = {
            "success": True,
            "taskId": job_id,
            "status": "queued",
            "createdAt": iso(run.created_at),
            "links": {"status": f"/api/jobs/{job_id}"},
        }
        return answer(202, body)
    ids = {"executionId": run.run_id} if state.profile.receipt == "executionId" else {}
    body = {
        "success": True,
        "async": True,
        "jobId": job_id,
        **ids,
        "message": "Workflow execution queued",
        "statusUrl": f"{state.base_url}/api/jobs/{job_id}",
    }
    return answer(202, body)


def _finished(state: State, run: Run) -> Response:
    """The answer of a held-open execution: an envelope, or a Response block's own answer."""
    block = run.response_block()
    if block is not None:
        if block.data is None:
            error = "Cannot convert undefined or null to object"
            return answer(500, {"error": "Response block execution failed", "message": error})
        return answer(block.status, block.data, {name.lower(): value for name, value in block.headers.items()})
    body: dict[str, Any] = {"success": run.status in ("completed", "paused")}
    if state.profile.receipt == "executionId" and body["success"]:
        body["executionId"] = run.run_id
    output = run.output(base_url=state.base_url, workspace_id=state.workspace_id)
    body["output"] = {} if output is None else output
    told = run.error
    if told is not None:
        body["error"] = told[0]
    body["metadata"] = {
        "duration": run.duration_ms,
        "startTime": iso(run.started_at),
        "endTime": iso(run.ended_at),
    }
    return answer(200 if told is None else 408 if told[1] == "TIMEOUT" else 500, body)


# --- runs ----------------------------------------------------------------------------------------------------------

_JOB_WORDS = {
    "early": {"queued": "queued", "running": "processing"},
    "bullmq": {"queued": "waiting", "running": "running"},
    "raw": {"queued": "pending", "running": "processing"},
}


@_route("/jobs/{job_id:path}", "GET")
async def get_job(request: Request) -> Response:
    """A run's queue entry; a pause and a cancellation inside the engine look like success here."""
    key = _key(request, "Unauthorized", "Invalid API key", coded=True)
    state = state_of(request)
    job_id = request.path_params["job_id"]
    run = state.runs.get(job_id.removeprefix(JOB_PREFIX)) if job_id.startswith(JOB_PREFIX) else None
    if run is None or not run.job_is_kept(keep=state.keep_jobs):
        raise Failure(404, "Task not found", code="TASK_NOT_FOUND")
    if key.workspace_id != state.workspace_id:
        raise Failure(403, "Access denied", code="ACCESS_DENIED")
    return answer(200, _job(state, job_id, run))


def _job(state: State, job_id: str, run: Run) -> dict[str, Any]:
    style = state.profile.job
    status = run.status
    word = _JOB_WORDS[style].get(status) or ("completed" if status == "paused" else status)
    body: dict[str, Any] = {"success": True, "taskId": job_id, "status": word}
    body["metadata"] = _job_metadata(state, run) if style == "raw" else _job_times(run)
    body["output"] = _job_output(state, run) if word == "completed" else None
    if style == "early" and body["output"] is None:
        del body["output"]
    if status == "cancelled":
        body["error"] = "Cancelled"
    told = run.error
    if told is not None:
        body["error"] = {"message": told[0]} if style == "early" else told[0]
    if style != "raw" and status in ("queued", "running"):
        body["estimatedDuration"] = 180_000 if style == "early" else 300_000
    return body


def _job_metadata(state: State, run: Run) -> dict[str, Any]:
    limited = {"maxDurationSeconds": run.timeout + 300} if run.timeout < float("inf") else {}
    return {
        "userId": run.user_id,
        "workflowId": run.workflow_id,
        "correlation": {
            "source": "workflow",
            "requestId": run.request_id,
            "workflowId": run.workflow_id,
            "executionId": run.run_id,
            "triggerType": run.trigger,
        },
        "workspaceId": state.workspace_id,
        **limited,
    }


def _job_times(run: Run) -> dict[str, Any]:
    times: dict[str, Any] = {"createdAt": iso(run.created_at), "startedAt": iso(run.started_at)}
    if run.ended_at is not None:
        times |= {"completedAt": iso(run.ended_at), "duration": run.duration_ms}
    return times


def _job_output(state: State, run: Run) -> dict[str, Any]:
    return {
        "output": run.output(base_url=state.base_url, workspace_id=state.workspace_id),
        "success": True,
        "executedAt": iso(run.ended_at),
        "workflowId": run.workflow_id,
        "executionId": run.run_id,
    }


def _visible_run(request: Request, profile_has_it: bool) -> Run | None:
    """The path's run; None where the version has no such route.

    :raises Failure: the key may not see it.
    """
    if not profile_has_it:
        return None
    workflow = _visible_workflow(request)
    run = state_of(request).runs.get(request.path_params["run_id"])
    if run is None or run.workflow is not workflow:
        raise Failure(404, "Execution not found")
    return run


@_route("/workflows/{workflow_id}/executions/{run_id}", "GET")
async def get_execution(request: Request) -> Response:
    """One run."""
    state = state_of(request)
    run = _visible_run(request, state.profile.executions)
    if run is None:
        return page_not_found()
    query = request.query_params
    selectors = [name for name in query.get("selectedOutputs", "").split(",") if name]
    told = run.error
    body = {
        "executionId": run.run_id,
        "workflowId": run.workflow_id,
        "status": run.status,
        "trigger": run.trigger,
        "level": level_of(run),
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "totalDurationMs": None if run.duration_ms is None else round(run.duration_ms),
        "paused": paused_of(run),
        "cost": cost_of(run),
        "error": None if told is None else told[0],
        "finalOutput": output_shown(state, run) if query.get("includeOutput") == "true" else None,
        "blockOutputs": run.block_outputs(selectors, ids_only=True) if selectors else None,
    }
    return answer(200, body)


@_route("/workflows/{workflow_id}/executions/{run_id}/cancel", "POST")
async def cancel_execution(request: Request) -> Response:
    """Cancel a run."""
    state = state_of(request)
    run = _visible_run(request, state.profile.cancel)
    if run is None:
        return page_not_found()
    before = run.status
    if before in ("completed", "failed"):
        raise Failure(409, f"Execution cannot be cancelled while {before}")
    run.cancel()
    again = before == "cancelled"
    reason = "already_cancelled" if again else "recorded" if state.redis or before == "paused" else "queue_cancelled"
    body = {
        "success": True,
        "executionId": run.run_id,
        "redisAvailable": again or state.redis,
        "durablyRecorded": reason == "recorded",
        "locallyAborted": False,
        "pausedCancelled": before == "paused",
        "reason": reason,
    }
    return answer(200, body)


@_route("/resume/{workflow_id}/{run_id}/{context_id}", "POST")
async def resume(request: Request) -> Response:
    """Answer a human pause."""
    key = _key(request, "Unauthorized", "Invalid API key")
    state = state_of(request)
    body = await _body(request)
    run = state.find_run(request.path_params["workflow_id"], request.path_params["run_id"], key)
    if run is None or run.context_id != request.path_params["context_id"]:
        raise Failure(404, "Paused execution not found")
    if run.status != "paused":
        raise Failure(409, "Paused execution is not resumable")
    attempt = state.attempt(run, body.get("input", body))
    if run.mode == "async":
        job_id = f"{JOB_PREFIX}{attempt}"
        receipt = {"success": True, "async": True, "jobId": job_id, "executionId": attempt}
        return answer(202, {**receipt, "message": "Resume queued", "statusUrl": f"{state.base_url}/api/jobs/{job_id}"})
    result = {
        "success": True,
        "status": run.status,
        "executionId": attempt,
        "output": run.output(base_url=state.base_url, workspace_id=state.workspace_id),
        "error": None,
        "metadata": {"duration": run.duration_ms},
    }
    return answer(200, result)


@_route("/resume/poll", "GET")
async def resume_poll(request: Request) -> Response:
    """What the operator's cron calls; here timed pauses end by the clock."""
    due = sum(run.resumes_at is not None for run in state_of(request).runs.values())
    return answer(
        200, {"success": True, "requestId": new_run_id(), "claimedRows": due, "dispatched": due, "failures": []}
    )


# --- workflows and limits ------------------------------------------------------------------------------------------


@_route("/workflows/{workflow_id}/status", "GET")
async def get_status(request: Request) -> Response:
    """Whether a workflow is deployed."""
    workflow = _visible_workflow(request)
    body = {"isDeployed": workflow.deployed, "deployedAt": iso(workflow.deployed_at), "needsRedeployment": False}
    return answer(200, body)


@_route("/workflows/{workflow_id}", "GET")
async def get_workflow(request: Request) -> Response:
    """A workflow with its draft."""
    workflow = _visible_workflow(request)
    data = {
        "id": workflow.workflow_id,
        "name": workflow.name,
        "workspaceId": state_of(request).workspace_id,
        "isDeployed": workflow.deployed,
        "state": {"blocks": {}, "edges": []},
        "variables": {},
    }
    return answer(200, {"data": data})


@_route("/users/me/usage-limits", "GET")
async def get_usage_limits(request: Request) -> Response:
    """The account's limits; reading spends nothing."""
    _key(request, "Authentication required", coded=True)
    state = state_of(request)
    limits = state.limits
    body = {
        "success": True,
        "rateLimit": {
            "sync": _bucket(state, limits.sync),
            "async": _bucket(state, limits.asynchronous),
            "authType": "api",
        },
        "usage": {"currentPeriodCost": limits.usage, "limit": limits.usage_limit, "plan": limits.plan.name},
        "storage": {"usedBytes": 0, "limitBytes": 5_368_709_120, "percentUsed": 0},
    }
    return answer(200, body)


def _bucket(state: State, bucket: Bucket) -> dict[str, Any]:
    rate = {"requestsPerMinute": bucket.per_minute, "maxBurst": bucket.capacity}
    return {
        "isLimited": bucket.shown_remaining == 0,
        **({"limit": bucket.per_minute} if state.profile.job == "early" else rate),
        "remaining": bucket.shown_remaining,
        "resetAt": iso(bucket.reset),
    }


ROUTES: list[Route] = [
    execute,
    get_execution,
    cancel_execution,
    get_job,
    resume_poll,
    resume,
    get_status,
    get_workflow,
    get_usage_limits,
]
