"""``/api/v1``: lists that come with the account's limits in every body."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.ids import new_id
from airflow_provider_sim.emulator.keys import Key
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.surfaces.views import run_facts, workflow_facts
from airflow_provider_sim.emulator.surfaces.wire import answer, rate_headers, state_of, trouble_of
from airflow_provider_sim.emulator.workflows import Workflow

Handler = Callable[[Request, State, Key], Awaitable[dict[str, Any]]]


class Failure(Exception):
    """An error answer."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error


def _route(path: str) -> Callable[[Handler], Route]:
    """Make a handler a route behind v1's gates: key, rate."""

    def decorate(handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            state = state_of(request)
            value = request.headers.get("x-api-key")
            trouble = trouble_of(request)
            key = None if trouble.keys_down else state.keys.find(value)
            if key is None:
                return answer(401, {"error": "Invalid API key" if value else "API key required"})
            bucket = trouble.bucket("requests", state.limits.endpoint("v1", key.user_id))
            if not bucket.take():
                told = {"error": "Rate limit exceeded", "message": "API rate limit exceeded"}
                waiting = {**rate_headers(bucket), "retry-after": str(bucket.retry_after)}
                return answer(429, {**told, "retryAfter": round(bucket.reset * 1000)}, waiting)
            try:
                body = await handler(request, state, key)
            except Failure as failure:
                return answer(failure.status, {"error": failure.error}, rate_headers(bucket))
            return answer(200, {**body, "limits": _limits(state)}, rate_headers(bucket))

        return Route(f"/api/v1{path}", endpoint, methods=["GET"], name=handler.__name__)

    return decorate


def _limits(state: State) -> dict[str, Any]:
    def shown(bucket: Bucket) -> dict[str, Any]:
        return {
            "requestsPerMinute": bucket.per_minute,
            "maxBurst": bucket.capacity,
            "remaining": bucket.shown_remaining,
            "resetAt": iso(bucket.reset),
        }

    limits = state.limits
    return {
        "workflowExecutionRateLimit": {"sync": shown(limits.sync), "async": shown(limits.asynchronous)},
        "usage": {
            "currentPeriodCost": limits.usage,
            "limit": limits.usage_limit,
            "plan": limits.plan.name,
            "isExceeded": limits.usage > limits.usage_limit,
        },
    }


def _described(state: State, workflow: Workflow) -> dict[str, Any]:
    """As v2 shows it, but for the folder."""
    facts = workflow_facts(state, workflow)
    del facts["folderPath"]
    return {**facts, "folderId": None}


@_route("/workflows")
async def list_workflows(request: Request, state: State, key: Key) -> dict[str, Any]:
    """A workspace's workflows."""
    if request.query_params.get("workspaceId") != key.workspace_id:
        raise Failure(403, "Access denied")
    return {"data": [_described(state, workflow) for workflow in state.workflows.values()]}


@_route("/workflows/{workflow_id}")
async def get_workflow(request: Request, state: State, key: Key) -> dict[str, Any]:
    """One workflow with its declared inputs."""
    workflow = state.find_workflow(request.path_params["workflow_id"], key)
    if workflow is None:
        raise Failure(404, "Workflow not found")
    inputs = [{"id": new_id(), "name": name, "type": kind} for name, kind in (workflow.inputs or {}).items()]
    return {"data": {**_described(state, workflow), "variables": {}, "inputs": inputs}}


@_route("/logs")
async def list_logs(request: Request, state: State, key: Key) -> dict[str, Any]:
    """A workspace's runs, without their status."""
    if request.query_params.get("workspaceId") != key.workspace_id:
        raise Failure(403, "Access denied")
    limit = min(int(request.query_params.get("limit", "100")), 1000)
    runs = list(itertools.islice(state.listed(newest_first=True), limit + 1))
    return {"data": [_log(run) for run in runs[:limit]], "nextCursor": str(limit) if len(runs) > limit else None}


def _log(run: Run) -> dict[str, Any]:
    log = {"id": new_id(), "executionId": run.run_id, "deploymentVersionId": run.workflow.version_id, "files": None}
    return log | run_facts(run)


ROUTES: list[Route] = [list_workflows, get_workflow, list_logs]
