"""The web pages of Sim to which a task's links lead."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.routes.wire import html_page, not_found_page, state_of


async def _run(request: Request) -> Response:
    """Show a run; a person can resume it on the page whose path has its ID."""
    is_approval = "run_id" in request.path_params
    run_id = request.path_params["run_id"] if is_approval else request.query_params.get("executionId", "")
    run = state_of(request).runs.get(run_id)
    if run is None:
        return not_found_page()
    text = "A person can resume a paused run here." if is_approval else "Sim shows the run's log here."
    title = f"Approval of run {run_id}" if is_approval else f"Run {run_id}"
    return html_page(200, title, f"Workflow {run.workflow_id}, {run.status}. {text}")


async def _workflow(request: Request) -> Response:
    workflow_id = request.path_params.get("workflow_id") or request.query_params.get("redirect_workflow")
    if workflow_id not in state_of(request).workflows:
        return not_found_page()
    return html_page(200, f"Workflow {workflow_id}", "Sim shows the workflow's editor here.")


ROUTES = [
    Route("/workspace", _workflow),
    Route("/workspace/{workspace_id}/logs", _run),
    Route("/workspace/{workspace_id}/w/{workflow_id}", _workflow),
    Route("/resume/{workflow_id}/{run_id}", _run),
]
