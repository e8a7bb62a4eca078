"""The legacy API's runs: queue entry, status, cancel, resume."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.ids import new_name
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.surfaces.legacy.gates import (
    JOB_PREFIX,
    Failure,
    body_as_object,
    key_of,
    route,
    visible_workflow,
)
from airflow_provider_sim.emulator.surfaces.views import (
    output_shown,
    paused_of,
    run_facts,
)
from airflow_provider_sim.emulator.surfaces.wire import (
    answer,
    state_of,
    trouble_of,
)


@route("/jobs/{job_id:path}", "GET")
async def get_job(request: Request) -> Response:
    """A run's queue entry; a pause and a cancellation inside the engine look like success here."""
    key = key_of(request, "Unauthorized", "Invalid API key", coded=True)
    state = state_of(request)
    job_id = request.path_params["job_id"]
    run = state.look_at(job_id.removeprefix(JOB_PREFIX)) if job_id.startswith(JOB_PREFIX) else None
    if run is None or not run.job_is_kept(keep=state.keep_jobs):
        raise Failure(404, "Task not found", code="TASK_NOT_FOUND")
    if key.workspace_id != state.workspace_id:
        raise Failure(403, "Access denied", code="ACCESS_DENIED")
    return answer(200, _job(state, job_id, run))


def _job(state: State, job_id: str, run: Run) -> dict[str, Any]:
    raw = state.profile.queue_metadata
    shown = {"queued": "pending" if raw else "queued", "running": "processing", "paused": "completed"}
    status = shown.get(run.status, run.status)
    body: dict[str, Any] = {"success": True, "taskId": job_id, "status": status}
    body["metadata"] = _job_metadata(state, run) if raw else _job_times(run)
    if raw or status == "completed":
        body["output"] = _job_output(state, run) if status == "completed" else None
    if run.job_error is not None:
        body["error"] = run.job_error if raw else {"message": run.job_error}
    if not raw and run.status in ("queued", "running"):
        body["estimatedDuration"] = 180_000
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


def _visible_run(request: Request) -> Run:
    """The path's run.

    :raises Failure: the key may not see it.
    """
    workflow = visible_workflow(request)
    run = state_of(request).look_at(request.path_params["run_id"])
    if run is None or run.workflow is not workflow:
        raise Failure(404, "Execution not found")
    return run


@route("/workflows/{workflow_id}/executions/{run_id}", "GET", had_by=lambda profile: profile.executions)
async def get_execution(request: Request) -> Response:
    """One run."""
    state = state_of(request)
    run = _visible_run(request)
    query = request.query_params
    selectors = [name for name in query.get("selectedOutputs", "").split(",") if name]
    told = run.error
    body = {
        "executionId": run.run_id,
        **run_facts(run),
        "status": run.status,
        "paused": paused_of(run),
        "error": None if told is None else told[0],
        "finalOutput": output_shown(state, run) if query.get("includeOutput") == "true" else None,
        "blockOutputs": run.block_outputs(selectors, ids_only=True) if selectors else None,
    }
    return answer(200, body)


@route("/workflows/{workflow_id}/executions/{run_id}/cancel", "POST")
async def cancel_execution(request: Request) -> Response:
    """Cancel a run."""
    state = state_of(request)
    run = _visible_run(request)
    before = run.status
    if before in ("completed", "failed"):
        raise Failure(409, f"Execution cannot be cancelled while {before}")
    lost = None if run.is_over else trouble_of(request).lost_cancel
    if lost is None:
        run.cancel()
    again = before == "cancelled"
    reason = "already_cancelled" if again else "recorded" if state.redis or before == "paused" else "queue_cancelled"
    reason = lost or reason
    body = {
        "success": lost is None,
        "executionId": run.run_id,
        "redisAvailable": again or state.redis,
        "durablyRecorded": reason == "recorded",
        "locallyAborted": False,
        "pausedCancelled": before == "paused" and lost is None,
        "reason": reason,
    }
    return answer(200, body)


@route("/resume/{workflow_id}/{run_id}", "GET")
async def get_paused(request: Request) -> Response:
    """The points at which a run waits, or has waited."""
    key = key_of(request, "Unauthorized", "Invalid API key")
    state = state_of(request)
    run = state.find_run(request.path_params["workflow_id"], request.path_params["run_id"], key)
    if run is None or not run.has_paused:
        raise Failure(404, "Paused execution not found")
    resumed = run.resumed_at is not None
    status = "paused" if not resumed else "resuming" if run.status == "paused" else "resumed"
    shown = run.pause_output(state.base_url)
    point = {
        "contextId": run.context_id,
        "blockId": run.context_id,
        "registeredAt": iso(run.first_leg_ends_at),
        "resumeStatus": status,
        "snapshotReady": True,
        "pauseKind": "human" if run.resumes_at is None else "time",
        "resumeLinks": shown.get("data", {}).get("_resume"),
        "response": shown,
    }
    detail = {
        "id": f"pe_{run.run_id}",
        "workflowId": run.workflow_id,
        "executionId": run.run_id,
        "status": status,
        "totalPauseCount": 1,
        "resumedCount": int(resumed),
        "pausedAt": iso(run.first_leg_ends_at),
        "pausePoints": [point],
    }
    return answer(200, detail)


@route("/resume/{workflow_id}/{run_id}/{context_id}", "POST")
async def resume(request: Request) -> Response:
    """Answer a human pause."""
    key = key_of(request, "Unauthorized", "Invalid API key")
    state = state_of(request)
    body = await body_as_object(request)
    run = state.find_run(request.path_params["workflow_id"], request.path_params["run_id"], key)
    if run is None or run.context_id != request.path_params["context_id"]:
        raise Failure(404, "Paused execution not found")
    if run.status != "paused" or run.resumed_at is not None:
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


@route("/resume/poll", "GET")
async def resume_poll(request: Request) -> Response:
    """What the operator's cron calls; here timed pauses end by the clock."""
    due = sum(run.resumes_at is not None for run in state_of(request).runs.values())
    counts = {"claimedRows": due, "dispatched": due, "failures": []}
    return answer(200, {"success": True, "requestId": new_name(21), **counts})
