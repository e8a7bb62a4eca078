"""The legacy API's routes for runs, workflows and the account's limits."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.request_context import JOB_PREFIX
from airflow_provider_sim.emulator.routes.legacy.execute import receipt
from airflow_provider_sim.emulator.routes.legacy.middleware import authenticate, json_object, route, visible_workflow
from airflow_provider_sim.emulator.routes.views import bucket_usage, cancellation, display_output, pause_of, run_log
from airflow_provider_sim.emulator.routes.wire import faults_of, json_response, not_found_page, state_of
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import ApiError, State
from airflow_provider_sim.emulator.workflows import Pausing, new_name


@route("job", "GET", "/jobs/{job_id:path}")
async def get_job(request: Request) -> Response:
    """Get a run's queue entry, which shows paused and cancelled runs as completed."""
    key = authenticate(request, coded=True)
    state = state_of(request)
    job_id = request.path_params["job_id"]
    run = state.poll(job_id.removeprefix(JOB_PREFIX)) if job_id.startswith(JOB_PREFIX) else None
    if run is None or not run.job_is_kept(keep=state.keep_jobs):
        raise ApiError(404, "Task not found", {"code": "TASK_NOT_FOUND"})
    if key.workspace_id != state.workspace_id:
        raise ApiError(403, "Access denied", {"code": "ACCESS_DENIED"})
    return json_response(200, _job(state, job_id, run))


def _job(state: State, job_id: str, run: Run) -> dict[str, Any]:
    raw = state.profile.queue_metadata
    shown = {"queued": "pending" if raw else "queued", "running": "processing", "paused": "completed"}
    status = shown.get(run.status, run.status)
    body: dict[str, Any] = {"success": True, "taskId": job_id, "status": status}
    body["metadata"] = _job_metadata(state, run) if raw else _job_times(run)
    if status == "completed":
        body["output"] = {
            "output": state.output_of(run),
            "success": True,
            "executedAt": iso(run.ended_at),
            "workflowId": run.workflow_id,
            "executionId": run.run_id,
        }
    elif raw:
        body["output"] = None
    if run.job_error is not None:
        body["error"] = run.job_error if raw else {"message": run.job_error}
    if not raw and run.status in ("queued", "running"):
        body["estimatedDuration"] = 180_000
    return body


def _job_metadata(state: State, run: Run) -> dict[str, Any]:
    limit = {"maxDurationSeconds": run.timeout + 300} if run.timeout < float("inf") else {}
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
        **limit,
    }


def _job_times(run: Run) -> dict[str, Any]:
    times: dict[str, Any] = {"createdAt": iso(run.created_at), "startedAt": iso(run.started_at)}
    if run.ended_at is not None:
        times |= {"completedAt": iso(run.ended_at), "duration": run.duration_ms}
    return times


def _visible_run(request: Request) -> Run:
    workflow = visible_workflow(request)
    run = state_of(request).poll(request.path_params["run_id"])
    if run is None or run.workflow is not workflow:
        raise ApiError(404, "Execution not found")
    return run


@route("run", "GET", "/workflows/{workflow_id}/executions/{run_id}")
async def get_execution(request: Request) -> Response:
    state = state_of(request)
    if not state.profile.executions:
        return not_found_page()
    run = _visible_run(request)
    query = request.query_params
    selectors = [name for name in query.get("selectedOutputs", "").split(",") if name]
    body = {
        "executionId": run.run_id,
        **run_log(run),
        "status": run.status,
        "paused": pause_of(run),
        "error": run.error[0] if run.error else None,
        "finalOutput": display_output(state, run) if query.get("includeOutput") == "true" else None,
        "blockOutputs": run.block_outputs(selectors) if selectors else None,
    }
    return json_response(200, body)


@route("cancel", "POST", "/workflows/{workflow_id}/executions/{run_id}/cancel")
async def cancel_execution(request: Request) -> Response:
    state = state_of(request)
    run = _visible_run(request)
    before = run.status
    if before in ("completed", "failed"):
        raise ApiError(409, f"Execution cannot be cancelled while {before}")
    fault = faults_of(request).get("lost_cancel")
    lost = None if fault is None or run.is_over else fault.reason
    if lost is None:
        run.cancel()
    again = before == "cancelled"
    reason = "already_cancelled" if again else "recorded" if state.redis or before == "paused" else "queue_cancelled"
    reason = lost or reason
    body = {"executionId": run.run_id, **cancellation(before, again or state.redis, reason == "recorded", reason, lost)}
    return json_response(200, body)


@route("pauses", "GET", "/resume/{workflow_id}/{run_id}")
async def get_paused(request: Request) -> Response:
    key = authenticate(request)
    state = state_of(request)
    run = state.find_run(request.path_params["workflow_id"], request.path_params["run_id"], key)
    if run is None or not isinstance(run.outcome, Pausing) or run.status not in ("paused", "completed"):
        raise ApiError(404, "Paused execution not found")
    resumed = run.resumed_at is not None
    status = "paused" if not resumed else "resuming" if run.status == "paused" else "resumed"
    output = run.pause_output(state.base_url)
    point = {
        "contextId": run.context_id,
        "blockId": run.context_id,
        "registeredAt": iso(run.first_leg_ends_at),
        "resumeStatus": status,
        "snapshotReady": True,
        "pauseKind": "human" if run.resumes_at is None else "time",
        "resumeLinks": output.get("data", {}).get("_resume"),
        "response": output,
    }
    body = {
        "id": f"pe_{run.run_id}",
        "workflowId": run.workflow_id,
        "executionId": run.run_id,
        "status": status,
        "totalPauseCount": 1,
        "resumedCount": int(resumed),
        "pausedAt": iso(run.first_leg_ends_at),
        "pausePoints": [point],
    }
    return json_response(200, body)


@route("resume", "POST", "/resume/{workflow_id}/{run_id}/{context_id}")
async def resume(request: Request) -> Response:
    key = authenticate(request)
    state = state_of(request)
    body = await json_object(request)
    run = state.find_run(request.path_params["workflow_id"], request.path_params["run_id"], key)
    if run is None or run.context_id != request.path_params["context_id"]:
        raise ApiError(404, "Paused execution not found")
    if run.status != "paused" or run.resumed_at is not None:
        raise ApiError(409, "Paused execution is not resumable")
    attempt = state.resume(run, body.get("input", body))
    if run.mode == "async":
        return receipt(state, f"{JOB_PREFIX}{attempt}", {"executionId": attempt}, "Resume queued")
    result = {
        "success": True,
        "status": run.status,
        "executionId": attempt,
        "output": state.output_of(run),
        "error": None,
        "metadata": {"duration": run.duration_ms},
    }
    return json_response(200, result)


@route("resume_poll", "GET", "/resume/poll")
async def resume_poll(request: Request) -> Response:
    """Respond to the operator's cron job; the emulator's timed pauses need none."""
    due = sum(run.resumes_at is not None for run in state_of(request).runs.values())
    counts = {"claimedRows": due, "dispatched": due, "failures": []}
    return json_response(200, {"success": True, "requestId": new_name(21), **counts})


@route("status", "GET", "/workflows/{workflow_id}/status")
async def get_status(request: Request) -> Response:
    workflow = visible_workflow(request)
    body = {"isDeployed": workflow.deployed, "deployedAt": iso(workflow.deployed_at), "needsRedeployment": False}
    return json_response(200, body)


@route("usage_limits", "GET", "/users/me/usage-limits")
async def get_usage_limits(request: Request) -> Response:
    """Get the account's limits; uses up no rate limit."""
    authenticate(request, "Authentication required", "Authentication required", coded=True)
    limits = state_of(request).limits
    body = {
        "success": True,
        "rateLimit": {"sync": _bucket(limits.sync), "async": _bucket(limits.asynchronous), "authType": "api"},
        "usage": {"currentPeriodCost": limits.usage, "limit": limits.usage_limit, "plan": limits.plan},
        "storage": {"usedBytes": 0, "limitBytes": 5_368_709_120, "percentUsed": 0},
    }
    return json_response(200, body)


def _bucket(bucket: Bucket) -> dict[str, Any]:
    return {"isLimited": bucket.shown_remaining == 0, **bucket_usage(bucket)}
