"""``/api/v2``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.surfaces.v2 import execute, logs, runs, workspace
from airflow_provider_sim.emulator.surfaces.v2.gates import Failure
from airflow_provider_sim.emulator.surfaces.wire import empty, page_not_found, state_of

ROUTES: list[Route] = [
    execute.execute,
    runs.cancel_run,
    runs.resume_run,
    runs.get_run,
    runs.list_runs,
    logs.list_logs,
    logs.get_log,
    workspace.import_workflow,
    workspace.list_workflows,
    workspace.get_workflow,
    workspace.delete_workflow,
    workspace.get_deployment,
    workspace.deploy,
    workspace.undeploy,
    workspace.rollback,
    workspace.list_versions,
    workspace.list_workspaces,
    workspace.billing_status,
]


async def unknown(request: Request) -> Response:
    """A path or method that v2 doesn't have."""
    if not state_of(request).profile.v2:
        return page_not_found()
    if any(route.matches(request.scope)[0].value == 1 for route in ROUTES):
        return empty(405)
    return Failure(404, "Not found").answer({})
