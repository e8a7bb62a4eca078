"""v2's workflows and their deployments, workspaces, billing."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.ids import new_id
from airflow_provider_sim.emulator.surfaces.v2.gates import (
    Call,
    Failure,
    check_workspace,
    json_object,
    route,
)
from airflow_provider_sim.emulator.surfaces.v2.paging import limit_of
from airflow_provider_sim.emulator.surfaces.views import (
    workflow_facts,
)
from airflow_provider_sim.emulator.surfaces.wire import (
    answer,
    body_of,
)
from airflow_provider_sim.emulator.workflows import DeploymentAttempt, Workflow


@route("/workflows/{workflow_id}", "GET", "workflows.read")
async def get_workflow(call: Call) -> Response:
    """One workflow with its declared inputs."""
    workflow = call.workflow()
    inputs = [{"name": name, "type": kind} for name, kind in (workflow.inputs or {}).items()]
    return answer(200, {"data": {**workflow_facts(call.state, workflow), "variables": {}, "inputs": inputs}})


@route("/workflows/{workflow_id}", "DELETE", "workflows.delete")
async def delete_workflow(call: Call) -> Response:
    """Remove a workflow."""
    workflow = call.workflow()
    del call.state.workflows[workflow.workflow_id]
    return answer(200, {"data": {"id": workflow.workflow_id, "deleted": True}})


@route(
    "/workflows",
    "GET",
    "workflows.list",
    query=["workspaceId", "folderPath", "deployedOnly", "search", "sortBy", "sortOrder", "limit", "cursor"],
    required=("workspaceId",),
)
async def list_workflows(call: Call) -> Response:
    """A workspace's workflows."""
    query = call.request.query_params
    check_workspace(call, query["workspaceId"])
    limit = limit_of(query.get("limit"), default=50, most=100, clamp=False)
    begin = int(query["cursor"]) if query.get("cursor", "").isdigit() else 0
    found = [
        workflow
        for workflow in call.state.workflows.values()
        if (query.get("deployedOnly") != "true" or workflow.deployed)
        and query.get("search", "").lower() in workflow.name.lower()
    ]
    following = str(begin + limit) if begin + limit < len(found) else None
    items = [workflow_facts(call.state, workflow) for workflow in found[begin : begin + limit]]
    return answer(200, {"data": items, "nextCursor": following})


def _deployment(workflow: Workflow) -> dict[str, Any]:
    version = {
        "deploymentVersionId": workflow.version_id,
        "version": workflow.version,
        "deployedAt": iso(workflow.deployed_at),
    }
    return {
        "id": workflow.workflow_id,
        "isDeployed": workflow.deployed,
        "deployedAt": iso(workflow.deployed_at),
        "warnings": [],
        "activeDeployment": version if workflow.deployed else None,
        "latestDeploymentAttempt": _attempt(workflow),
    }


def _attempt(workflow: Workflow) -> dict[str, Any] | None:
    if workflow.attempt is None and not workflow.deployed:
        return None
    began = workflow.deployed_at or 0.0
    attempt = workflow.attempt or DeploymentAttempt("deploy", workflow.version, began, "active")
    readiness = {"active": "ready", "activating": "pending"}.get(attempt.status, attempt.status)
    return {
        "id": workflow.id_of_version(attempt.version),
        "deploymentVersionId": workflow.id_of_version(attempt.version),
        "version": attempt.version,
        "action": attempt.action,
        "status": attempt.status,
        "isCurrent": True,
        "readiness": {"webhooks": readiness, "schedules": readiness, "mcp": readiness},
        "requestedAt": iso(attempt.requested_at),
        "activatedAt": iso(workflow.deployed_at) if attempt.status == "active" else None,
        "error": None if attempt.error is None else {"message": attempt.error},
    }


@route("/workflows/{workflow_id}/deployment", "GET", "workflows.deployment.read")
async def get_deployment(call: Call) -> Response:
    """Whether a workflow is deployed, and how."""
    workflow = call.workflow()
    workflow.settle_deployment(call.state.clock.now())
    return answer(200, {"data": {**_deployment(workflow), "needsRedeployment": False}})


def _require_personal_key(call: Call) -> None:
    if call.key.kind == "workspace":
        raise Failure(
            403, "Workspace API keys cannot perform this operation", {"code": "WORKSPACE_KEY_OPERATION_NOT_PERMITTED"}
        )


async def _optional_body(call: Call) -> dict[str, Any]:
    return await json_object(call.request) if await body_of(call.request) else {}


def _deploying(call: Call, workflow: Workflow, action: str, version: int) -> Response:
    workflow.begin_deployment(action, version, call.state.clock.now())
    warnings = ["Deployment activation completed, and post-activation notifications are queued."]
    return answer(200, {"data": {**_deployment(workflow), "warnings": warnings, "version": version}})


@route("/workflows/{workflow_id}/deploy", "POST", "workflows.deploy")
async def deploy(call: Call) -> Response:
    """Deploy a workflow."""
    workflow = call.workflow()
    _require_personal_key(call)
    body = await _optional_body(call)
    workflow.versions += workflow.attempt is not None or workflow.deployed
    workflow.notes[workflow.versions] = {key: body.get(key) for key in ("name", "description")}
    return _deploying(call, workflow, "deploy", workflow.versions)


@route("/workflows/{workflow_id}/deploy", "DELETE", "workflows.undeploy")
async def undeploy(call: Call) -> Response:
    """Take a workflow's deployment back."""
    workflow = call.workflow()
    _require_personal_key(call)
    workflow.undeploy()
    return answer(200, {"data": _deployment(workflow)})


@route("/workflows/{workflow_id}/rollback", "POST", "workflows.rollback")
async def rollback(call: Call) -> Response:
    """Make an earlier version live again; by default the one before."""
    workflow = call.workflow()
    _require_personal_key(call)
    body = await _optional_body(call)
    version = body.get("version", workflow.version - 1)
    if not isinstance(version, int) or not 1 <= version <= workflow.versions:
        raise Failure(404, "Deployment version not found")
    return _deploying(call, workflow, "rollback", version)


@route("/workflows/{workflow_id}/versions", "GET", "workflows.versions.list", query=("limit", "cursor"))
async def list_versions(call: Call) -> Response:
    """A workflow's deployed versions."""
    workflow = call.workflow()
    versions = [
        {
            "id": workflow.id_of_version(version),
            "version": version,
            **(workflow.notes.get(version) or {"name": None, "description": None}),
            "isActive": workflow.deployed and version == workflow.version,
            "createdAt": iso(workflow.created_at),
            "deployedBy": "The Emulator",
            "latestOperationStatus": "active",
        }
        for version in range(workflow.versions, 0, -1)
    ]
    return answer(200, {"data": versions, "nextCursor": None})


@route("/workflows/import", "POST", "workflows.import")
async def import_workflow(call: Call) -> Response:
    """Make a workflow of an export: a draft that returns its input."""
    body = await json_object(call.request)
    check_workspace(call, str(body.get("workspaceId")))
    exported = body.get("workflow")
    inner = exported.get("workflow") if isinstance(exported, dict) else None
    description = str((inner or {}).get("description") or "") if isinstance(inner, dict) else ""
    name = str(body.get("name") or "imported")
    workflow = Workflow(new_id(), lambda given: {"result": given, "stdout": ""}, deployed=False, name=name)
    workflow.description = description
    call.state.add(workflow)
    described = workflow_facts(call.state, workflow)
    kept = ("id", "name", "description", "workspaceId", "folderPath", "createdAt", "updatedAt")
    return answer(201, {"data": {key: described[key] for key in kept}})


@route("/workspaces", "GET", "workspaces.list", query=("limit", "cursor"))
async def list_workspaces(call: Call) -> Response:
    """The workspaces that the key opens."""
    state = call.state
    space = {
        "id": call.key.workspace_id,
        "name": "Emulated" if call.key.workspace_id == state.workspace_id else "Other",
        "color": "#701ffc",
        "logoUrl": None,
        "memberCount": 1,
        "createdAt": iso(state.created_at),
        "updatedAt": iso(state.created_at),
    }
    return answer(200, {"data": [space], "nextCursor": None})


@route("/billing/status", "GET", "billing.status", query=("workspaceId",))
async def billing_status(call: Call) -> Response:
    """Plan and credits; a workspace key isn't told of the latter."""
    limits, personal = call.state.limits, call.key.kind == "personal"
    limit = round(200 * limits.usage_limit) if limits.billing else 200_000
    used = round(200 * limits.usage)
    data = {
        "workspaceId": call.request.query_params.get("workspaceId"),
        "period": {"start": "1970-01-01T00:00:00.000Z", "end": "9999-12-31T00:00:00.000Z"},
        "plan": limits.plan.name,
        "status": "limit_exceeded" if limits.usage > limits.usage_limit else "active",
        "credits": {"used": used, "limit": limit, "remaining": limit - used} if personal else None,
        "storage": {"usedBytes": 0, "limitBytes": 5_368_709_120, "percentUsed": 0} if personal else None,
    }
    return answer(200, {"data": data})
