"""The API ``/api/v1``. Every response has the account's limits."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.routes.views import bucket_usage, run_log, workflow_summary
from airflow_provider_sim.emulator.routes.wire import faults_of, find_key, json_response, rate_headers, state_of
from airflow_provider_sim.emulator.state import ApiError, Key, State
from airflow_provider_sim.emulator.workflows import Workflow, new_id

Handler = Callable[[Request, State, Key], Awaitable[dict[str, Any]]]
ROUTES: list[Route] = []


def _route(name: str, path: str) -> Callable[[Handler], Handler]:
    """Add a route that checks API key and rate limit."""

    def decorate(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            state = state_of(request)
            key = find_key(request)
            if key is None:
                has_key = bool(request.headers.get("x-api-key"))
                return json_response(401, {"error": "Invalid API key" if has_key else "API key required"})
            bucket = faults_of(request).bucket("requests", state.limits.endpoint("v1", key.user_id))
            if not bucket.take():
                body = {"error": "Rate limit exceeded", "message": "API rate limit exceeded"}
                headers = {**rate_headers(bucket), "retry-after": str(bucket.retry_after)}
                return json_response(429, {**body, "retryAfter": round(bucket.reset * 1000)}, headers)
            try:
                body = await handler(request, state, key)
            except ApiError as error:
                return json_response(error.status, {"error": error.message}, rate_headers(bucket))
            return json_response(200, {**body, "limits": _limits(state)}, rate_headers(bucket))

        ROUTES.append(Route(f"/api/v1{path}", endpoint, methods=["GET"], name=name))
        return handler

    return decorate


def _limits(state: State) -> dict[str, Any]:
    limits = state.limits
    return {
        "workflowExecutionRateLimit": {"sync": bucket_usage(limits.sync), "async": bucket_usage(limits.asynchronous)},
        "usage": {
            "currentPeriodCost": limits.usage,
            "limit": limits.usage_limit,
            "plan": limits.plan,
            "isExceeded": limits.usage > limits.usage_limit,
        },
    }


def _workflow(state: State, workflow: Workflow) -> dict[str, Any]:
    summary = workflow_summary(state, workflow)
    del summary["folderPath"]
    return {**summary, "folderId": None}


def _check_workspace(request: Request, key: Key) -> None:
    if request.query_params.get("workspaceId") != key.workspace_id:
        raise ApiError(403, "Access denied")


@_route("workflows", "/workflows")
async def list_workflows(request: Request, state: State, key: Key) -> dict[str, Any]:
    _check_workspace(request, key)
    return {"data": [_workflow(state, workflow) for workflow in state.workflows.values()]}


@_route("workflow", "/workflows/{workflow_id}")
async def get_workflow(request: Request, state: State, key: Key) -> dict[str, Any]:
    workflow = state.find_workflow(request.path_params["workflow_id"], key)
    if workflow is None:
        raise ApiError(404, "Workflow not found")
    inputs = [{"id": new_id(), "name": name, "type": kind} for name, kind in (workflow.inputs or {}).items()]
    return {"data": {**_workflow(state, workflow), "variables": {}, "inputs": inputs}}


@_route("logs", "/logs")
async def list_logs(request: Request, state: State, key: Key) -> dict[str, Any]:
    """List a workspace's runs, without their status."""
    _check_workspace(request, key)
    limit = min(int(request.query_params.get("limit", "100")), 1000)
    runs = list(itertools.islice(state.listed(newest_first=True), limit + 1))
    logs = [
        {"id": new_id(), "executionId": run.run_id, "deploymentVersionId": run.workflow.version_id, "files": None}
        | run_log(run)
        for run in runs[:limit]
    ]
    return {"data": logs, "nextCursor": str(limit) if len(runs) > limit else None}
