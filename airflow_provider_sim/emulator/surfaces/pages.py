"""The addresses of Sim's own pages to which a task's buttons lead; each says what Sim shows there."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from airflow_provider_sim.emulator.surfaces.wire import page, page_not_found, state_of


async def _run(request: Request) -> Response:
    """A run's log."""
    state = state_of(request)
    run = state.runs.get(request.query_params.get("executionId", ""))
    if run is None or request.path_params["workspace_id"] != state.workspace_id:
        return page_not_found()
    return page(200, f"Run {run.run_id}", f"Workflow {run.workflow_id}, {run.status}. Sim shows the run's log here.")


async def _workflow(request: Request) -> Response:
    """A workflow's editor."""
    state = state_of(request)
    workflow = state.workflows.get(request.path_params["workflow_id"])
    if workflow is None or request.path_params["workspace_id"] != state.workspace_id:
        return page_not_found()
    return page(200, f"Workflow {workflow.workflow_id}", "Sim shows the workflow's editor here.")


async def _workspace(request: Request) -> Response:
    """The way to a workflow whose workspace the caller doesn't know."""
    state = state_of(request)
    workflow_id = request.query_params.get("redirect_workflow", "")
    if workflow_id not in state.workflows:
        return page_not_found()
    return RedirectResponse(request.url_for("workflow", workspace_id=state.workspace_id, workflow_id=workflow_id))


async def _approval(request: Request) -> Response:
    """Where a person answers a run."""
    run = state_of(request).runs.get(request.path_params["run_id"])
    if run is None or run.workflow_id != request.path_params["workflow_id"]:
        return page_not_found()
    asked = "A person answers the run here in Sim." if run.status == "paused" else "The run waits for nobody."
    return page(200, f"Approval of run {run.run_id}", f"Workflow {run.workflow_id}, {run.status}. {asked}")


ROUTES = [
    Route("/workspace", _workspace),
    Route("/workspace/{workspace_id}/logs", _run),
    Route("/workspace/{workspace_id}/w/{workflow_id}", _workflow, name="workflow"),
    Route("/resume/{workflow_id}/{run_id}", _approval),
]
