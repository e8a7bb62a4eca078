"""v2's way of starting a run: held open, streamed, or queued."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.files import BadFileError, with_files_stored
from airflow_provider_sim.emulator.ids import new_id
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import Refused
from airflow_provider_sim.emulator.surfaces.v2.gates import (
    Call,
    Failure,
    check_run_id,
    issue,
    json_object,
    mistyped,
    route,
    unrecognized,
)
from airflow_provider_sim.emulator.surfaces.wire import (
    answer,
    begin,
    event_stream,
    trouble_of,
)
from airflow_provider_sim.emulator.workflows import Workflow

_EXECUTE_FIELDS = {
    "input": dict,
    "async": bool,
    "stream": bool,
    "executionTimeoutSeconds": int,
    "selectedOutputs": list,
    "includeThinking": bool,
    "includeToolCalls": bool,
    "includeFileBase64": bool,
    "base64MaxBytes": int,
}
_EXPECTED = {dict: "record", bool: "boolean", int: "number", list: "array"}


def _check_execution(request: Request, body: dict[str, Any]) -> None:
    unknown = [name for name in body if name not in _EXECUTE_FIELDS]
    if unknown:
        raise unrecognized(unknown)
    for name, value in body.items():
        expected = _EXECUTE_FIELDS[name]
        if type(value) is not expected:
            raise mistyped([name], _EXPECTED[expected], value)
    timeout = body.get("executionTimeoutSeconds")
    if timeout is not None and not 1 <= timeout <= 604_800:
        small = timeout < 1
        raise issue(
            "too_small" if small else "too_big",
            ["executionTimeoutSeconds"],
            "Too small: expected number to be >=1" if small else "Too big: expected number to be <=604800",
            origin="number",
            **{"minimum" if small else "maximum": 1 if small else 604_800},
            inclusive=True,
        )
    run_id = request.headers.get("x-run-id")
    if run_id is not None:
        check_run_id(run_id, "x-run-id")
    if body.get("async") and body.get("stream"):
        raise Failure(400, "async and stream cannot be combined")
    if timeout is not None and not body.get("async"):
        raise Failure(400, "executionTimeoutSeconds is supported only for async execution")
    shaped = [body.get(name) for name in ("selectedOutputs", "includeThinking", "includeToolCalls")]
    if body.get("async") and (any(shaped) or "includeFileBase64" in body or "base64MaxBytes" in body):
        raise Failure(400, "Async execution does not support streaming or output-shaping options")
    if (body.get("includeThinking") or body.get("includeToolCalls")) and (
        request.headers.get("x-sim-stream-protocol") != "agent-events-v1"
    ):
        raise Failure(
            400,
            "includeThinking and includeToolCalls require the X-Sim-Stream-Protocol: agent-events-v1 request header,"
            " which declares that the client understands agent-event frames.",
        )


@route("/workflows/{workflow_id}/execute", "POST", "workflows.execute", without_key="Unauthorized")
async def execute(call: Call) -> Response:
    """Run a workflow: held open, streamed, or queued."""
    state, request = call.state, call.request
    gate = state.limits.admission_gate
    if trouble_of(request).limit == "gate" or (gate is not None and state.in_flight >= gate):
        raise Failure(429, "Server is at capacity. Please retry shortly.", None, {"retry-after": "5"})
    body = await json_object(request)
    _check_execution(request, body)
    workflow = call.workflow()
    if not workflow.deployed:
        raise Failure(403, "Workflow is not deployed", {"code": "WORKFLOW_NOT_DEPLOYED"})
    run_id = request.headers.get("x-run-id") or new_id()
    if run_id in state.runs:
        details = {"code": "RUN_ID_CONFLICT", "runId": run_id}
        raise Failure(409, "Run ID has already been used", details, {"x-run-id": run_id})
    mode = "async" if body.get("async") else "stream" if body.get("stream") else "sync"
    run = _started(call, workflow, body, mode, run_id)
    await begin(request, run, held_open=mode == "sync")
    if mode == "async":
        url = f"{state.base_url}/api/v2/workflows/{workflow.workflow_id}/runs/{run_id}"
        return answer(202, {"data": {"runId": run_id, "statusUrl": url}}, {"x-run-id": run_id})
    if mode == "stream":
        return event_stream(state, request, run, body.get("selectedOutputs") or [], {})
    result = {
        "runId": run_id,
        "workflowId": workflow.workflow_id,
        "status": run.status,
        "output": run.output(base_url=state.base_url, workspace_id=state.workspace_id),
        "error": run.sync_error,
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "durationMs": run.duration_ms,
    }
    return answer(200, {"data": result}, {"x-run-id": run_id})


def _started(call: Call, workflow: Workflow, body: dict[str, Any], mode: str, run_id: str) -> Run:
    state = call.state
    sent = body.get("input") or {}
    try:
        return state.start(
            workflow,
            with_files_stored(workflow, sent, mode),
            mode=mode,
            key=call.key,
            run_id=run_id,
            bucket=state.limits.execution(asynchronous=mode == "async"),
            timeout=body.get("executionTimeoutSeconds"),
            trouble=trouble_of(call.request),
        )
    except BadFileError as error:
        raise Failure(400, f"File processing failed: {error}") from error
    except Refused as refused:
        details = {"code": refused.code} if refused.code else None
        headers = {} if refused.retry_after is None else {"retry-after": str(refused.retry_after)}
        if details and refused.run_id is not None:
            details["runId"] = headers["x-run-id"] = refused.run_id
        raise Failure(refused.status, refused.message, details, headers) from refused
