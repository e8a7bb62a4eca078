"""v2's workflows, deployments, workspaces and billing."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.routes.v2.middleware import Call, json_object, limit_of, page, route
from airflow_provider_sim.emulator.routes.views import workflow_summary
from airflow_provider_sim.emulator.routes.wire import json_response
from airflow_provider_sim.emulator.state import ApiError
from airflow_provider_sim.emulator.workflows import Workflow, new_id


@route("workflow", "GET", "/workflows/{workflow_id}")
async def get_workflow(call: Call) -> Response:
    workflow = call.workflow()
    inputs = [{"name": name, "type": kind} for name, kind in (workflow.inputs or {}).items()]
    return json_response(200, {"data": {**workflow_summary(call.state, workflow), "variables": {}, "inputs": inputs}})


@route("delete", "DELETE", "/workflows/{workflow_id}")
async def delete_workflow(call: Call) -> Response:
    workflow = call.workflow()
    del call.state.workflows[workflow.workflow_id]
    return json_response(200, {"data": {"id": workflow.workflow_id, "deleted": True}})


@route("workflows", "GET", "/workflows", "workspaceId folderPath deployedOnly search sortBy sortOrder limit cursor")
async def list_workflows(call: Call) -> Response:
    query = call.query
    call.check_workspace(query.get("workspaceId"))
    limit = limit_of(call, default=50, maximum=100)
    found = [
        workflow_summary(call.state, workflow)
        for workflow in call.state.workflows.values()
        if (query.get("deployedOnly") != "true" or workflow.deployed)
        and query.get("search", "").lower() in workflow.name.lower()
    ]
    return page(call, found, limit)


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
    attempt = workflow.attempt
    if attempt is None:
        return None
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


@route("deployment", "GET", "/workflows/{workflow_id}/deployment")
async def get_deployment(call: Call) -> Response:
    workflow = call.workflow()
    workflow.settle_deployment(call.state.clock.now())
    return json_response(200, {"data": {**_deployment(workflow), "needsRedeployment": False}})


async def _deployable(call: Call) -> tuple[Workflow, dict[str, Any]]:
    """Return the path's workflow and the body, which may be empty; the API key must be a personal one."""
    workflow = call.workflow()
    if call.key.kind == "workspace":
        details = {"code": "WORKSPACE_KEY_OPERATION_NOT_PERMITTED"}
        raise ApiError(403, "Workspace API keys cannot perform this operation", details)
    return workflow, await json_object(call.request, optional=True)


def _deploy(call: Call, workflow: Workflow, action: str, version: int) -> Response:
    workflow.begin_deployment(action, version, call.state.clock.now())
    warnings = ["Deployment activation completed, and post-activation notifications are queued."]
    return json_response(200, {"data": {**_deployment(workflow), "warnings": warnings, "version": version}})


@route("deploy", "POST", "/workflows/{workflow_id}/deploy")
async def deploy(call: Call) -> Response:
    workflow, body = await _deployable(call)
    workflow.versions += workflow.attempt is not None
    workflow.notes[workflow.versions] = {key: body.get(key) for key in ("name", "description")}
    return _deploy(call, workflow, "deploy", workflow.versions)


@route("undeploy", "DELETE", "/workflows/{workflow_id}/deploy")
async def undeploy(call: Call) -> Response:
    workflow, _ = await _deployable(call)
    workflow.undeploy()
    return json_response(200, {"data": _deployment(workflow)})


@route("rollback", "POST", "/workflows/{workflow_id}/rollback")
async def rollback(call: Call) -> Response:
    """Deploy an earlier version, by default the previous one."""
    workflow, body = await _deployable(call)
    version = body.get("version", workflow.version - 1)
    if not isinstance(version, int) or not 1 <= version <= workflow.versions:
        raise ApiError(404, "Deployment version not found")
    return _deploy(call, workflow, "rollback", version)


@route("versions", "GET", "/workflows/{workflow_id}/versions", "limit cursor")
async def list_versions(call: Call) -> Response:
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
    return page(call, versions, limit_of(call, default=50, maximum=100))


@route("import", "POST", "/workflows/import")
async def import_workflow(call: Call) -> Response:
    """Import a workflow; it becomes a draft that returns its input."""
    body = await json_object(call.request)
    call.check_workspace(str(body.get("workspaceId")))
    exported = body.get("workflow")
    inner = exported.get("workflow") if isinstance(exported, dict) else None
    name = str(body.get("name") or "imported")
    workflow = Workflow(new_id(), lambda given: {"result": given, "stdout": ""}, deployed=False, name=name)
    workflow.description = str(inner.get("description") or "") if isinstance(inner, dict) else ""
    call.state.add(workflow)
    summary = workflow_summary(call.state, workflow)
    shown = ("id", "name", "description", "workspaceId", "folderPath", "createdAt", "updatedAt")
    return json_response(201, {"data": {key: summary[key] for key in shown}})


@route("workspaces", "GET", "/workspaces", "limit cursor")
async def list_workspaces(call: Call) -> Response:
    state = call.state
    workspace = {
        "id": call.key.workspace_id,
        "name": "Emulated" if call.key.workspace_id == state.workspace_id else "Other",
        "color": "#701ffc",
        "logoUrl": None,
        "memberCount": 1,
        "createdAt": iso(state.created_at),
        "updatedAt": iso(state.created_at),
    }
    return json_response(200, {"data": [workspace], "nextCursor": None})


@route("billing", "GET", "/billing/status", "workspaceId")
async def billing_status(call: Call) -> Response:
    """Get plan and credits; a workspace key receives no credits."""
    limits, personal = call.state.limits, call.key.kind == "personal"
    limit = round(200 * limits.usage_limit) if limits.billing else 200_000
    used, stored, most = round(200 * limits.usage), call.state.files.used, call.state.files.storage_limit
    storage = {"usedBytes": stored, "limitBytes": most, "percentUsed": 100 * stored // most}
    data = {
        "workspaceId": call.query.get("workspaceId"),
        "period": {"start": "1970-01-01T00:00:00.000Z", "end": "9999-12-31T00:00:00.000Z"},
        "plan": limits.plan,
        "status": "limit_exceeded" if limits.usage > limits.usage_limit else "active",
        "credits": {"used": used, "limit": limit, "remaining": limit - used} if personal else None,
        "storage": storage if personal else None,
    }
    return json_response(200, {"data": data})
