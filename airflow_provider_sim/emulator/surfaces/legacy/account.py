"""The legacy API's workflows and the account's limits."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.surfaces.legacy.gates import (
    key_of,
    route,
    visible_workflow,
)
from airflow_provider_sim.emulator.surfaces.wire import (
    answer,
    state_of,
)


@route("/workflows/{workflow_id}/status", "GET")
async def get_status(request: Request) -> Response:
    """Whether a workflow is deployed."""
    workflow = visible_workflow(request)
    body = {"isDeployed": workflow.deployed, "deployedAt": iso(workflow.deployed_at), "needsRedeployment": False}
    return answer(200, body)


@route("/workflows/{workflow_id}", "GET")
async def get_workflow(request: Request) -> Response:
    """A workflow with its draft."""
    workflow = visible_workflow(request)
    data = {
        "id": workflow.workflow_id,
        "name": workflow.name,
        "workspaceId": state_of(request).workspace_id,
        "isDeployed": workflow.deployed,
        "state": {"blocks": {}, "edges": []},
        "variables": {},
    }
    return answer(200, {"data": data})


@route("/users/me/usage-limits", "GET")
async def get_usage_limits(request: Request) -> Response:
    """The account's limits; reading spends nothing."""
    key_of(request, "Authentication required", coded=True)
    limits = state_of(request).limits
    body = {
        "success": True,
        "rateLimit": {
            "sync": _bucket(limits.sync),
            "async": _bucket(limits.asynchronous),
            "authType": "api",
        },
        "usage": {"currentPeriodCost": limits.usage, "limit": limits.usage_limit, "plan": limits.plan.name},
        "storage": {"usedBytes": 0, "limitBytes": 5_368_709_120, "percentUsed": 0},
    }
    return answer(200, body)


def _bucket(bucket: Bucket) -> dict[str, Any]:
    return {
        "isLimited": bucket.shown_remaining == 0,
        "requestsPerMinute": bucket.per_minute,
        "maxBurst": bucket.capacity,
        "remaining": bucket.shown_remaining,
        "resetAt": iso(bucket.reset),
    }
