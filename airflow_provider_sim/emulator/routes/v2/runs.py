"""v2's runs and logs: lists with pages, one run, cancel, resume."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso, moment
from airflow_provider_sim.emulator.routes import views
from airflow_provider_sim.emulator.routes.v2 import middleware
from airflow_provider_sim.emulator.routes.v2.execute import receipt, result
from airflow_provider_sim.emulator.routes.v2.middleware import BOOLEANS, Call, invalid, json_object, route
from airflow_provider_sim.emulator.routes.wire import faults_of, json_response
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import ApiError

_STATUSES = ("pending", "running", "completed", "failed", "cancelled", "paused")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z")


def _summary(run: Run) -> dict[str, Any]:
    return {
        "runId": run.run_id,
        "workflowId": run.workflow_id,
        "status": run.status,
        "trigger": run.trigger,
        "startedAt": iso(run.started_at if run.status != "queued" else run.created_at),
        "endedAt": iso(run.ended_at),
        "durationMs": views.duration_of(run),
        "cost": views.cost_of(run),
    }


@route("run", "GET", "/workflows/{workflow_id}/runs/{run_id}", "includeOutput selectedOutputs")
async def get_run(call: Call) -> Response:
    include = call.query.get("includeOutput", "false")
    if include not in BOOLEANS:
        raise invalid("invalid_type", ["includeOutput"], "must be a boolean (true/false)", expected="boolean")
    run = call.run()
    selectors = [name for name in call.query.get("selectedOutputs", "").split(",") if name]
    data = {
        **_summary(run),
        "paused": views.pause_of(run),
        "error": {"message": run.error[0], "code": run.error[1]} if run.error else None,
        "output": views.display_output(call.state, run) if BOOLEANS[include] else None,
        "blockOutputs": run.block_outputs(selectors) if selectors else None,
    }
    return json_response(200, {"data": data})


@route("runs", "GET", "/workflows/{workflow_id}/runs", "status trigger startDate endDate limit cursor order")
async def list_runs(call: Call) -> Response:
    status, trigger = call.query.get("status"), call.query.get("trigger")
    if status is not None and status not in _STATUSES:
        options = "|".join(f'"{name}"' for name in _STATUSES)
        message = f"Invalid option: expected one of {options}"
        raise invalid("invalid_value", ["status"], message, values=list(_STATUSES))
    limit = middleware.limit_of(call, default=50, maximum=100)
    workflow = call.workflow()

    def matches(run: Run) -> bool:
        return (
            run.workflow is workflow
            and (status is None or run.status == status)
            and (trigger is None or run.trigger == trigger)
        )

    page, cursor = _page_of(call, limit, matches)
    return json_response(200, {"data": [_summary(run) for run in page], "nextCursor": cursor})


@route("cancel", "POST", "/workflows/{workflow_id}/runs/{run_id}/cancel")
async def cancel_run(call: Call) -> Response:
    run, redis = call.run(), call.state.redis
    before = run.status
    fault = faults_of(call.request).get("lost_cancel")
    lost = None if fault is None or run.is_over else fault.reason
    if lost is None:
        run.cancel()
    redis_available, recorded, reason = redis, False, f"already_{before}"
    if lost is not None:
        reason = lost
    elif before in ("paused", "queued"):
        redis_available, recorded, reason = before == "paused" or redis, True, "recorded"
    elif before == "running":
        recorded, reason = redis, "recorded" if redis else "already_cancelled"
    elif not redis:
        lost = reason = "redis_unavailable"
    data = {"runId": run.run_id, **views.cancellation(before, redis_available, recorded, reason, lost)}
    return json_response(200, {"data": data})


@route("resume", "POST", "/workflows/{workflow_id}/runs/{run_id}/resume")
async def resume_run(call: Call) -> Response:
    body = await json_object(call.request)
    middleware.check_known(body, ("contextId", "input"))
    if "contextId" not in body:
        message = "Invalid input: expected string, received undefined"
        raise invalid("invalid_type", ["contextId"], message, expected="string")
    if not isinstance(body["contextId"], str):
        raise middleware.wrong_type(["contextId"], "string", body["contextId"])
    run = call.run()
    if run.resumed_at is not None or run.cancelled_at is not None:
        raise ApiError(409, "Paused execution is not resumable")
    if run.status != "paused" or body["contextId"] != run.context_id:
        raise ApiError(404, "Pause point not found for execution")
    if run.resumes_at is not None:
        raise ApiError(400, "Time-based pauses resume automatically")
    attempt = call.state.resume(run, body.get("input"))
    if run.mode != "sync":
        return receipt(call.state, run.workflow_id, attempt)
    return result(call.state, run, attempt)


@route(
    "logs",
    "GET",
    "/logs",
    "workspaceId workflowIds triggers level startDate endDate runId minDurationMs maxDurationMs minCost maxCost"
    " model folderPaths details includeTraceSpans includeFinalOutput limit cursor order",
)
async def list_logs(call: Call) -> Response:
    """List a workspace's runs with their stored status, up to 1000 per page."""
    query = call.query
    call.check_workspace(query.get("workspaceId"))
    limit = middleware.limit_of(call, default=100, maximum=1000, clamp=True)
    workflows = {name for name in query.get("workflowIds", "").split(",") if name}
    triggers = {name for name in query.get("triggers", "all").split(",") if name}
    level, run_id = query.get("level"), query.get("runId")

    def matches(run: Run) -> bool:
        return (
            (not workflows or run.workflow_id in workflows)
            and ("all" in triggers or run.trigger in triggers)
            and (level is None or level == views.level_of(run))
            and (run_id is None or run_id == run.run_id)
        )

    page, cursor = _page_of(call, limit, matches)
    items = [_log(run) for run in page]
    if BOOLEANS.get(query.get("includeFinalOutput", "false"), False):
        items = [
            {**item, "finalOutput": views.display_output(call.state, run)}
            for item, run in zip(items, page, strict=True)
        ]
    return json_response(200, {"data": items, "nextCursor": cursor})


def _log(run: Run) -> dict[str, Any]:
    status = "pending" if run.status == "paused" else run.status
    log = {"runId": run.run_id, "deploymentVersionId": run.workflow.version_id, "status": status, "files": None}
    return log | views.run_log(run)


@route("log", "GET", "/logs/{run_id}")
async def get_log(call: Call) -> Response:
    run = call.state.poll(call.request.path_params["run_id"])
    if run is None or run.status == "queued" or call.key.workspace_id != call.state.workspace_id:
        raise ApiError(404, "Log not found")
    workflow = {
        "id": run.workflow_id,
        "name": run.workflow.name,
        "description": run.workflow.description,
        "folderPath": "/",
        "workspaceId": call.state.workspace_id,
        "deleted": False,
    }
    data = {**_log(run), "workflow": workflow, "traceSpans": [], "finalOutput": views.display_output(call.state, run)}
    return json_response(200, {"data": data})


def _page_of(call: Call, limit: int, matches: Callable[[Run], bool]) -> tuple[list[Run], str | None]:
    """Return a page of matching runs, and the cursor of the next page, which is valid for the same filters only."""
    query = dict(call.query)
    since, until = _window_of(query)
    cursor = query.pop("cursor", None)
    query.pop("limit", None)
    order = query.pop("order", "desc")
    scope = json.dumps([call.request.url.path, sorted(query.items())])
    beyond = None if cursor is None else _last_run(call, cursor, scope, order)
    runs = call.state.listed(since=since, until=until, newest_first=order == "desc", beyond=beyond)
    found = list(itertools.islice(filter(matches, runs), limit + 1))
    page = found[:limit]
    if len(found) <= limit:
        return page, None
    return page, base64.b64encode(json.dumps([scope, order, page[-1].run_id]).encode()).decode()


def _last_run(call: Call, cursor: str, scope: str, order: str) -> Run:
    try:
        cursor_scope, cursor_order, last_id = json.loads(base64.b64decode(cursor))
        if cursor_scope != scope:
            raise ValueError
        last = call.state.runs[last_id]
    except (ValueError, TypeError, KeyError):
        raise middleware.invalid_cursor() from None
    if cursor_order != order:
        raise ApiError(
            400,
            "cursor does not match the requested sortBy/sortOrder. Restart pagination without a cursor after changing"
            " the sort.",
        )
    return last


def _window_of(query: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Return the earliest start of the runs, and the time before which they started."""
    for name in ("startDate", "endDate"):
        if name in query and not _UTC.fullmatch(query[name]):
            message = f"{name} must be a UTC ISO 8601 timestamp, e.g. 2026-08-06T00:00:00Z"
            raise invalid("invalid_format", [name], message, origin="string", format="datetime", pattern=_UTC.pattern)
    first, last = query.get("startDate"), query.get("endDate")
    since = None if first is None else moment(first)
    return since, None if last is None else moment(last) + 0.001  # Sim compares milliseconds
