"""The web pages of Sim to which a task's links lead."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from airflow_provider_sim.emulator.routes.wire import html_page, not_found_page, state_of


async def _run(request: Request) -> Response:
    state = state_of(request)
    run = state.runs.get(request.query_params.get("executionId", ""))
    if run is None or request.path_params["workspace_id"] != state.workspace_id:
        return not_found_page()
    text = f"Workflow {run.workflow_id}, {run.status}. Sim shows the run's log here."
    return html_page(200, f"Run {run.run_id}", text)


async def _workflow(request: Request) -> Response:
    state, workflow_id = state_of(request), request.path_params["workflow_id"]
    if workflow_id not in state.workflows or request.path_params["workspace_id"] != state.workspace_id:
        return not_found_page()
    return html_page(200, f"Workflow {workflow_id}", "Sim shows the workflow's editor here.")


async def _workspace(request: Request) -> Response:
    state, workflow_id = state_of(request), request.query_params.get("redirect_workflow", "")
    if workflow_id not in state.workflows:
        return not_found_page()
    return RedirectResponse(request.url_for("workflow_url", workspace_id=state.workspace_id, workflow_id=workflow_id))


async def _approval(request: Request) -> Response:
    run = state_of(request).runs.get(request.path_params["run_id"])
    if run is None or run.workflow_id != request.path_params["workflow_id"]:
        return not_found_page()
    text = "A person can resume the run here." if run.status == "paused" else "The run is not waiting for a person."
    return html_page(200, f"Approval of run {run.run_id}", f"Workflow {run.workflow_id}, {run.status}. {text}")


ROUTES = [
    Route("/workspace", _workspace),
    Route("/workspace/{workspace_id}/logs", _run),
    Route("/workspace/{workspace_id}/w/{workflow_id}", _workflow, name="workflow_url"),
    Route("/resume/{workflow_id}/{run_id}", _approval),
]
