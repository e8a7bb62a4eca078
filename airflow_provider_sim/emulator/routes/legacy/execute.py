"""The legacy API's route to start a run: synchronous, streamed or asynchronous."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.request_context import JOB_PREFIX
from airflow_provider_sim.emulator.routes.legacy.middleware import authenticate, json_object, route
from airflow_provider_sim.emulator.routes.wire import event_stream, faults_of, json_response, run_started, state_of
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import ApiError, Key, State
from airflow_provider_sim.emulator.workflows import Workflow, new_id

_DRAFT_CONTROLS = {"useDraftState", "runFromBlock", "stopAfterBlockId", "workflowStateOverride"}
_NOT_ASYNC = _DRAFT_CONTROLS | {"includeFileBase64", "base64MaxBytes"}
_CONTROL_FIELDS = (
    _NOT_ASYNC
    | {"stream", "selectedOutputs", "triggerType", "triggerBlockId", "workflowId", "parentWorkspaceId"}
    | {"inputFromExecutionId", "deploymentVersionId", "copilotToolCallId"}
)
"""The fields of the body that are not part of the workflow's input."""
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@route("execute", "POST", "/workflows/{workflow_id}/execute")
async def execute(request: Request) -> Response:
    state = state_of(request)
    if state.is_at_capacity(faults_of(request)):
        details = {
            "message": "Server is at capacity. Please retry shortly.",
            "code": "ADMISSION_GATE_CAPACITY",
            "retryable": True,
            "retryAfterSeconds": 5,
        }
        raise ApiError(429, "Too many requests", details, {"retry-after": "5"})
    key = authenticate(request)
    body = await json_object(request)
    asynchronous = request.headers.get("x-execution-mode") == "async"
    run_id, timeout = new_id(), None
    if state.profile.run_ids:
        run_id = _run_id(request, body)
        timeout = _timeout(request, asynchronous=asynchronous)
    _check_controls(body, asynchronous=asynchronous)
    workflow = _executable(state, request.path_params["workflow_id"], key)
    if run_id in state.runs:
        details = {"code": "EXECUTION_ID_CONFLICT", "executionId": run_id}
        raise ApiError(409, "Execution ID has already been used", details)
    streamed = body.get("stream") is True or request.headers.get("x-stream-response") == "true"
    mode = "async" if asynchronous else "stream" if streamed else "sync"
    try:
        run = state.start(
            workflow,
            {name: value for name, value in body.items() if name not in _CONTROL_FIELDS},
            mode=mode,
            key=key,
            run_id=run_id,
            bucket=state.limits.sync,  # also for asynchronous runs
            timeout=timeout,
            faults=faults_of(request),
        )
    except ApiError as refused:
        if "x-run-id" not in refused.headers:
            raise ApiError(refused.status, refused.message) from None
        details = {"code": refused.details["code"], "executionId": run_id}
        raise ApiError(503, refused.message, details, {"x-execution-id": run_id}) from None
    await run_started(request, run, wait=mode == "sync")
    if asynchronous:
        ids = {"executionId": run.run_id} if state.profile.queue_metadata else {}
        return receipt(state, f"{JOB_PREFIX}{run.run_id}", ids, "Workflow execution queued")
    if streamed:
        return event_stream(request, run, body.get("selectedOutputs") or [])
    return _result(state, run)


def _run_id(request: Request, body: dict[str, Any]) -> str:
    header, in_body = request.headers.get("x-execution-id"), body.get("executionId")
    if header is not None and not _ID.fullmatch(header):
        message = "Execution ID can only contain letters, numbers, dots, underscores, colons, and hyphens"
        raise ApiError(
            400, "Invalid execution ID header", {"details": [{"path": "X-Execution-Id", "message": message}]}
        )
    return header or (in_body if isinstance(in_body, str) and _ID.fullmatch(in_body) else new_id())


def _timeout(request: Request, *, asynchronous: bool) -> int | None:
    header = request.headers.get("x-execution-timeout-seconds")
    if header is None:
        return None
    if not header.isdigit() or not 1 <= int(header) <= 604_800:
        is_number = header.lstrip("-").isdigit()
        message = "Execution timeout must be between 1 and 604800 seconds"
        message = message if is_number else "Invalid input: expected number, received NaN"
        issue = {"path": "X-Execution-Timeout-Seconds", "message": message}
        raise ApiError(400, "Invalid execution timeout header", {"details": [issue]})
    if not asynchronous:
        raise ApiError(400, "X-Execution-Timeout-Seconds is supported only for async runs")
    return int(header)


def _check_controls(body: dict[str, Any], *, asynchronous: bool) -> None:
    outputs = body.get("selectedOutputs", [])
    issues = [
        {"path": name, "message": f"Invalid input: expected {expected}, received string"}
        for name, value, kind, expected in (
            ("selectedOutputs", outputs, list, "array"),
            ("stream", body.get("stream", False), bool, "boolean"),
        )
        if not isinstance(value, kind)
    ]
    if issues:
        raise ApiError(400, "Invalid request body", {"details": issues})
    if body.get("useDraftState") is True or "workflowStateOverride" in body or "runFromBlock" in body:
        raise ApiError(400, "API key callers cannot execute draft workflow state")
    if body.get("isClientSession") is True:
        raise ApiError(400, "API key callers cannot use client session controls")
    if body.get("triggerType", "api") != "api":
        raise ApiError(400, "External callers cannot override triggerType")
    if asynchronous and (outputs or not _NOT_ASYNC.isdisjoint(body)):
        raise ApiError(400, "Async execution does not support draft or override execution controls")


def _executable(state: State, workflow_id: str, key: Key) -> Workflow:
    workflow = state.workflows.get(workflow_id)
    if workflow is None:
        raise ApiError(404, "Workflow not found")
    if key.workspace_id != state.workspace_id:
        raise ApiError(403, "Unauthorized: Access denied to read this workflow")
    if state.personal_key_refused(key):
        raise ApiError(403, "Personal API keys are not allowed for this workspace")
    if not workflow.deployed:
        raise ApiError(403, "Workflow is not deployed")
    return workflow


def receipt(state: State, job_id: str, ids: dict[str, str], message: str) -> Response:
    url = f"{state.base_url}/api/jobs/{job_id}"
    body = {"success": True, "async": True, "jobId": job_id, **ids, "message": message, "statusUrl": url}
    return json_response(202, body)


def _result(state: State, run: Run) -> Response:
    """Return the response to a sync run: an envelope, or the response of a Response block."""
    block = run.response_block()
    if block is not None:
        return json_response(block.status, block.data, {name.lower(): value for name, value in block.headers.items()})
    body: dict[str, Any] = {"success": run.status in ("completed", "paused")}
    if state.profile.queue_metadata and body["success"]:
        body["executionId"] = run.run_id
    output = state.output_of(run)
    body["output"] = {} if output is None else output
    error = run.error
    if error is not None:
        body["error"] = error[0]
    body["metadata"] = {"duration": run.duration_ms, "startTime": iso(run.started_at), "endTime": iso(run.ended_at)}
    status = 200 if error is None else 408 if error[1] == "TIMEOUT" else getattr(run.outcome, "status", 500)
    return json_response(status, body)
