"""The legacy API's way of starting a run: held open, streamed, or queued."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.exchange import Trouble
from airflow_provider_sim.emulator.files import BadFileError, with_files_stored
from airflow_provider_sim.emulator.ids import new_id
from airflow_provider_sim.emulator.keys import Key
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import Refused, State
from airflow_provider_sim.emulator.surfaces.legacy.gates import (
    ID,
    JOB_PREFIX,
    Failure,
    body_as_object,
    key_of,
    route,
)
from airflow_provider_sim.emulator.surfaces.wire import (
    answer,
    begin,
    event_stream,
    state_of,
    trouble_of,
)
from airflow_provider_sim.emulator.workflows import Workflow

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


@route("/workflows/{workflow_id}/execute", "POST")
async def execute(request: Request) -> Response:
    """Run a workflow: held open, streamed, or queued."""
    state = state_of(request)
    profile = state.profile
    gate = state.limits.admission_gate
    if trouble_of(request).limit == "gate" or (gate is not None and state.in_flight >= gate):
        raise Failure(
            429,
            "Too many requests",
            {"retry-after": "5"},
            message="Server is at capacity. Please retry shortly.",
            code="ADMISSION_GATE_CAPACITY",
            retryable=True,
            retryAfterSeconds=5,
        )
    key = key_of(request, "Unauthorized", "Invalid API key")
    body = await body_as_object(request)
    asynchronous = request.headers.get("x-execution-mode") == "async"
    run_id = _chosen_id(request, body, allowed=profile.run_ids)
    timeout = _chosen_timeout(request, asynchronous=asynchronous) if profile.run_ids else None
    _check_controls(body, asynchronous=asynchronous)
    workflow = _executable(state, request.path_params["workflow_id"], key)
    if run_id in state.runs:
        raise Failure(409, "Execution ID has already been used", code="EXECUTION_ID_CONFLICT", executionId=run_id)
    streamed = body.get("stream") is True or request.headers.get("x-stream-response") == "true"
    mode = "async" if asynchronous else "stream" if streamed else "sync"
    sent = {name: value for name, value in body.items() if name not in _TAKEN_OUT}
    run = _started(state, workflow, sent, mode, key, run_id, timeout, trouble_of(request))
    await begin(request, run, held_open=mode == "sync")
    if asynchronous:
        return _receipt(state, run)
    if streamed:
        return event_stream(state, request, run, body.get("selectedOutputs") or [], {})
    return _finished(state, run)


def _chosen_id(request: Request, body: dict[str, Any], *, allowed: bool) -> str:
    header = request.headers.get("x-execution-id")
    if not allowed:
        return new_id()
    if header is not None and not ID.fullmatch(header):
        issue = {
            "path": "X-Execution-Id",
            "message": "Execution ID can only contain letters, numbers, dots, underscores, colons, and hyphens",
        }
        raise Failure(400, "Invalid execution ID header", details=[issue])
    inside = body.get("executionId")
    return header or (inside if isinstance(inside, str) and ID.fullmatch(inside) else new_id())


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
    state: State,
    workflow: Workflow,
    sent: dict[str, Any],
    mode: str,
    key: Key,
    run_id: str,
    timeout: int | None,
    trouble: Trouble,
) -> Run:
    try:
        return state.start(
            workflow,
            with_files_stored(workflow, sent, mode),
            mode=mode,
            key=key,
            run_id=run_id,
            bucket=state.limits.execution(asynchronous=False),  # here asynchronous ones spend this bucket, too
            timeout=timeout,
            trouble=trouble,
        )
    except BadFileError as error:
        raise Failure(400, f"File processing failed: {error}") from error
    except Refused as refused:
        if refused.run_id is not None:
            unsure = {"code": refused.code, "executionId": refused.run_id}
            raise Failure(503, refused.message, {"x-execution-id": refused.run_id}, **unsure) from refused
        raise Failure(refused.status, refused.message) from refused


def _receipt(state: State, run: Run) -> Response:
    job_id = f"{JOB_PREFIX}{run.run_id}"
    ids = {"executionId": run.run_id} if state.profile.queue_metadata else {}
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
        return answer(block.status, block.data, {name.lower(): value for name, value in block.headers.items()})
    body: dict[str, Any] = {"success": run.status in ("completed", "paused")}
    if state.profile.queue_metadata and body["success"]:
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
    return answer(200 if told is None else 408 if told[1] == "TIMEOUT" else run.error_status, body)
