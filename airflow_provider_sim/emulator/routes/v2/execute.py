"""v2's route to start a run: synchronous, streamed or asynchronous."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.routes.v2 import middleware
from airflow_provider_sim.emulator.routes.v2.middleware import Call, json_object, route
from airflow_provider_sim.emulator.routes.wire import event_stream, faults_of, json_response, run_started
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import ApiError, State
from airflow_provider_sim.emulator.workflows import new_id

_FIELDS = {
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
_TYPE_NAMES = {dict: "record", bool: "boolean", int: "number", list: "array"}


def _check_body(request: Request, body: dict[str, Any]) -> None:
    middleware.check_known(body, _FIELDS)
    for name, value in body.items():
        expected = _FIELDS[name]
        if type(value) is not expected:
            raise middleware.wrong_type([name], _TYPE_NAMES[expected], value)
    timeout, asynchronous = body.get("executionTimeoutSeconds"), body.get("async")
    if timeout is not None and timeout < 1:
        raise middleware.out_of_range(["executionTimeoutSeconds"], "Too small: expected number to be >=1", minimum=1)
    if timeout is not None and timeout > 604_800:
        message = "Too big: expected number to be <=604800"
        raise middleware.out_of_range(["executionTimeoutSeconds"], message, maximum=604_800)
    run_id = request.headers.get("x-run-id")
    if run_id is not None:
        middleware.check_run_id(run_id, "x-run-id")
    if asynchronous and body.get("stream"):
        raise ApiError(400, "async and stream cannot be combined")
    if timeout is not None and not asynchronous:
        raise ApiError(400, "executionTimeoutSeconds is supported only for async execution")
    agent_events = body.get("includeThinking") or body.get("includeToolCalls")
    shaped = agent_events or body.get("selectedOutputs") or "includeFileBase64" in body or "base64MaxBytes" in body
    if asynchronous and shaped:
        raise ApiError(400, "Async execution does not support streaming or output-shaping options")
    if agent_events and request.headers.get("x-sim-stream-protocol") != "agent-events-v1":
        raise ApiError(
            400,
            "includeThinking and includeToolCalls require the X-Sim-Stream-Protocol: agent-events-v1 request header,"
            " which declares that the client understands agent-event frames.",
        )


@route("execute", "POST", "/workflows/{workflow_id}/execute")
async def execute(call: Call) -> Response:
    state, request = call.state, call.request
    if state.is_at_capacity(faults_of(request)):
        raise ApiError(429, "Server is at capacity. Please retry shortly.", None, {"retry-after": "5"})
    body = await json_object(request)
    _check_body(request, body)
    workflow = call.workflow()
    if not workflow.deployed:
        raise ApiError(403, "Workflow is not deployed", {"code": "WORKFLOW_NOT_DEPLOYED"})
    run_id = request.headers.get("x-run-id") or new_id()
    if run_id in state.runs:
        details = {"code": "RUN_ID_CONFLICT", "runId": run_id}
        raise ApiError(409, "Run ID has already been used", details, {"x-run-id": run_id})
    mode = "async" if body.get("async") else "stream" if body.get("stream") else "sync"
    run = state.start(
        workflow,
        body.get("input") or {},
        mode=mode,
        key=call.key,
        run_id=run_id,
        bucket=state.limits.asynchronous if mode == "async" else state.limits.sync,
        timeout=body.get("executionTimeoutSeconds"),
        faults=faults_of(request),
    )
    await run_started(request, run, wait=mode == "sync")
    if mode == "async":
        return receipt(state, workflow.workflow_id, run_id)
    if mode == "stream":
        return event_stream(request, run, body.get("selectedOutputs") or [])
    return result(state, run, run_id)


def receipt(state: State, workflow_id: str, run_id: str) -> Response:
    url = f"{state.base_url}/api/v2/workflows/{workflow_id}/runs/{run_id}"
    return json_response(202, {"data": {"runId": run_id, "statusUrl": url}}, {"x-run-id": run_id})


def result(state: State, run: Run, run_id: str) -> Response:
    """Return the response to a sync run, or to an attempt to resume one."""
    data = {
        "runId": run_id,
        "workflowId": run.workflow_id,
        "status": run.status,
        "output": state.output_of(run),
        "error": run.sync_error,
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "durationMs": run.duration_ms,
    }
    return json_response(200, {"data": data}, {"x-run-id": run_id})
