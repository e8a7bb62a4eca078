"""v2's runs: one, a workflow's list, cancel, resume."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.surfaces.v2.gates import (
    BOOLEANS,
    Call,
    Failure,
    issue,
    json_object,
    kind_of,
    route,
    unrecognized,
)
from airflow_provider_sim.emulator.surfaces.v2.paging import limit_of, page_of
from airflow_provider_sim.emulator.surfaces.views import (
    cost_of,
    duration_of,
    output_shown,
    paused_of,
)
from airflow_provider_sim.emulator.surfaces.wire import (
    answer,
    trouble_of,
)


def run_facts(run: Run) -> dict[str, Any]:
    """What every view of a run begins with."""
    return {
        "runId": run.run_id,
        "workflowId": run.workflow_id,
        "status": run.status,
        "trigger": run.trigger,
        "startedAt": iso(run.started_at if run.status != "queued" else run.created_at),
        "endedAt": iso(run.ended_at),
    }


@route(
    "/workflows/{workflow_id}/runs/{run_id}", "GET", "workflows.runs.read", query=("includeOutput", "selectedOutputs")
)
async def get_run(call: Call) -> Response:
    """One run."""
    include = call.request.query_params.get("includeOutput", "false")
    if include not in BOOLEANS:
        raise issue("invalid_type", ["includeOutput"], "must be a boolean (true/false)", expected="boolean")
    run = call.run()
    selectors = [name for name in call.request.query_params.get("selectedOutputs", "").split(",") if name]
    told = run.error
    data = {
        **run_facts(run),
        "durationMs": duration_of(run),
        "paused": paused_of(run),
        "cost": cost_of(run),
        "error": None if told is None else {"message": told[0], "code": told[1]},
        "output": output_shown(call.state, run) if BOOLEANS[include] else None,
        "blockOutputs": run.block_outputs(selectors, ids_only=True) if selectors else None,
    }
    return answer(200, {"data": data})


_STATUSES = ("pending", "running", "completed", "failed", "cancelled", "paused")


@route(
    "/workflows/{workflow_id}/runs",
    "GET",
    "workflows.runs.list",
    query=("status", "trigger", "startDate", "endDate", "limit", "cursor", "order"),
)
async def list_runs(call: Call) -> Response:
    """A workflow's runs, newest first."""
    query = call.request.query_params
    status = query.get("status")
    if status is not None and status not in _STATUSES:
        options = "|".join(f'"{name}"' for name in _STATUSES)
        message = f"Invalid option: expected one of {options}"
        raise issue("invalid_value", ["status"], message, values=list(_STATUSES))
    limit = limit_of(query.get("limit"), default=50, most=100, clamp=False)
    trigger = query.get("trigger")
    workflow = call.workflow()

    def wanted(run: Run) -> bool:
        return (
            run.workflow is workflow
            and (status is None or run.status == status)
            and (trigger is None or run.trigger == trigger)
        )

    page, following = page_of(call, limit, wanted)
    items = [
        {
            **run_facts(run),
            "durationMs": duration_of(run),
            "cost": cost_of(run),
        }
        for run in page
    ]
    return answer(200, {"data": items, "nextCursor": following})


@route("/workflows/{workflow_id}/runs/{run_id}/cancel", "POST", "workflows.runs.cancel")
async def cancel_run(call: Call) -> Response:
    """Cancel a run; says no more of what it achieved than Sim does."""
    run, redis = call.run(), call.state.redis
    before = run.status
    lost = None if run.is_over else trouble_of(call.request).lost_cancel
    if lost is None:
        run.cancel()
    facts = {"success": True, "redis": redis, "recorded": False, "reason": f"already_{before}"}
    if lost is not None:
        facts |= {"success": False, "reason": lost}
    elif before in ("paused", "queued"):
        facts |= {"redis": before == "paused" or redis, "recorded": True, "reason": "recorded"}
    elif before == "running":
        facts |= {"recorded": redis, "reason": "recorded" if redis else "already_cancelled"}
    elif not redis:
        facts |= {"success": False, "reason": "redis_unavailable"}
    data = {
        "success": facts["success"],
        "runId": run.run_id,
        "redisAvailable": facts["redis"],
        "durablyRecorded": facts["recorded"],
        "locallyAborted": False,
        "pausedCancelled": before == "paused" and lost is None,
        "reason": facts["reason"],
    }
    return answer(200, {"data": data})


@route("/workflows/{workflow_id}/runs/{run_id}/resume", "POST", "workflows.runs.resume")
async def resume_run(call: Call) -> Response:
    """Answer a human pause."""
    body = await json_object(call.request)
    unknown = [name for name in body if name not in ("contextId", "input")]
    if unknown:
        raise unrecognized(unknown)
    if not isinstance(body.get("contextId"), str):
        received = kind_of(body["contextId"]) if "contextId" in body else "undefined"
        message = f"Invalid input: expected string, received {received}"
        raise issue("invalid_type", ["contextId"], message, expected="string")
    run = call.run()
    if run.resumed_at is not None or run.cancelled_at is not None:
        raise Failure(409, "Paused execution is not resumable")
    if run.status != "paused" or body["contextId"] != run.context_id:
        raise Failure(404, "Pause point not found for execution")
    if run.resumes_at is not None:
        raise Failure(400, "Time-based pauses resume automatically")
    attempt = call.state.attempt(run, body.get("input"))
    if run.mode != "sync":
        url = f"{call.state.base_url}/api/v2/workflows/{run.workflow_id}/runs/{attempt}"
        return answer(202, {"data": {"runId": attempt, "statusUrl": url}}, {"x-run-id": attempt})
    output = run.output(base_url=call.state.base_url, workspace_id=call.state.workspace_id)
    data = {
        "runId": attempt,
        "workflowId": run.workflow_id,
        "status": run.status,
        "output": output,
        "error": None,
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "durationMs": run.duration_ms,
    }
    return answer(200, {"data": data}, {"x-run-id": attempt})
