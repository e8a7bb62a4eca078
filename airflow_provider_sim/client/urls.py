"""URLs of Sim's web pages; on normal deployments they have the API's origin."""

from __future__ import annotations

from urllib.parse import quote, urlencode


def run_url(base_url: str, workflow_id: str, run_id: str, workspace_id: str | None) -> str:
    """Return the URL of the run's log, valid from the run's start; without the workspace, of the workflow's editor."""
    if workspace_id is None:
        return workflow_url(base_url, workflow_id, None)
    return f"{base_url}/workspace/{quote(workspace_id, safe='')}/logs?{urlencode({'executionId': run_id})}"


def workflow_url(base_url: str, workflow_id: str, workspace_id: str | None) -> str:
    """Return the URL of the workflow's editor; without the workspace, of a page that redirects to it."""
    if workspace_id is None:
        return f"{base_url}/workspace?{urlencode({'redirect_workflow': workflow_id})}"
    return f"{base_url}/workspace/{quote(workspace_id, safe='')}/w/{quote(workflow_id, safe='')}"


def approval_url(base_url: str, workflow_id: str, run_id: str) -> str:
    """Return the URL on which a person answers a paused run."""
    return f"{base_url}/resume/{quote(workflow_id, safe='')}/{quote(run_id, safe='')}"
