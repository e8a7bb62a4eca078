"""v2's logs: a workspace's runs, and one run with its workflow."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.surfaces.v2.gates import (
    BOOLEANS,
    Call,
    Failure,
    check_workspace,
    route,
)
from airflow_provider_sim.emulator.surfaces.v2.paging import limit_of, page_of
from airflow_provider_sim.emulator.surfaces.views import (
    level_of,
    output_shown,
    run_facts,
)
from airflow_provider_sim.emulator.surfaces.wire import (
    answer,
)


@route(
    "/logs",
    "GET",
    "logs.list",
    query=[
        "workspaceId",
        "workflowIds",
        "triggers",
        "level",
        "startDate",
        "endDate",
        "runId",
        "minDurationMs",
        "maxDurationMs",
        "minCost",
        "maxCost",
        "model",
        "folderPaths",
        "details",
        "includeTraceSpans",
        "includeFinalOutput",
        "limit",
        "cursor",
        "order",
    ],
    required=("workspaceId",),
)
async def list_logs(call: Call) -> Response:
    """A workspace's runs, up to 1000 at once, with their stored status."""
    query = call.request.query_params
    check_workspace(call, query["workspaceId"])
    limit = limit_of(query.get("limit"), default=100, most=1000, clamp=True)
    workflows = {name for name in query.get("workflowIds", "").split(",") if name}
    triggers = {name for name in query.get("triggers", "all").split(",") if name}
    level, run_id = query.get("level"), query.get("runId")

    def wanted(run: Run) -> bool:
        return (
            (not workflows or run.workflow_id in workflows)
            and ("all" in triggers or run.trigger in triggers)
            and (level is None or level == level_of(run))
            and (run_id is None or run_id == run.run_id)
        )

    page, following = page_of(call, limit, wanted)
    with_output = BOOLEANS.get(query.get("includeFinalOutput", "false"), False)
    items = [
        log_item(call.state, run) | ({"finalOutput": output_shown(call.state, run)} if with_output else {})
        for run in page
    ]
    return answer(200, {"data": items, "nextCursor": following})


def log_item(state: State, run: Run) -> dict[str, Any]:
    """A run as the log lists it."""
    log = {"runId": run.run_id, "deploymentVersionId": run.workflow.version_id, "status": run.log_status, "files": None}
    return log | run_facts(run)


@route("/logs/{run_id}", "GET", "logs.read")
async def get_log(call: Call) -> Response:
    """One run's log, with its workflow and workspace."""
    run = call.state.look_at(call.path("run_id"))
    if run is None or run.status == "queued" or call.key.workspace_id != call.state.workspace_id:
        raise Failure(404, "Log not found")
    data = log_item(call.state, run)
    data["workflow"] = {
        "id": run.workflow_id,
        "name": run.workflow.name,
        "description": run.workflow.description,
        "folderPath": "/",
        "workspaceId": call.state.workspace_id,
        "deleted": False,
    }
    return answer(200, {"data": {**data, "traceSpans": [], "finalOutput": output_shown(call.state, run)}})
