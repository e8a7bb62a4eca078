"""Operator links: buttons on a task instance's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

    from airflow_provider_sim.hooks.sim import SimHook

RUN_URL_KEY = "run_url"
WORKFLOW_URL_KEY = "workflow_url"
APPROVAL_URL_KEY = "approval_url"


class _XComLink(BaseOperatorLink):
    """A link whose URL is an XCom that the task pushes before it waits.

    Airflow 3 reads the XCom ``xcom_key`` itself, at any time; Airflow 2 calls :meth:`get_link`.
    """

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL, or an empty string if there is none."""
        url = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        return url if isinstance(url, str) else ""


class SimRunLink(_XComLink):
    """Link to the run's log in Sim."""

    name = "Sim run"
    xcom_key = RUN_URL_KEY


class SimWorkflowLink(_XComLink):
    """Link to the workflow in Sim's editor."""

    name = "Sim workflow"
    xcom_key = WORKFLOW_URL_KEY


class SimApprovalLink(_XComLink):
    """Link to the page on which a person answers the paused run."""

    name = "Sim approval"
    xcom_key = APPROVAL_URL_KEY


def push_run_link(
    context: Context, hook: SimHook, workflow_id: str, run_id: str, *, read_workspace: bool = True
) -> None:
    """Push the URL of a run's page; if its workspace is neither known nor to be read, of a page that redirects."""
    from airflow_provider_sim.client import run_url

    base_url = hook.get_settings().base_url
    workspace_id = hook.workspace_of(workflow_id) if read_workspace else hook.get_settings().workspace_id
    context["ti"].xcom_push(key=RUN_URL_KEY, value=run_url(base_url, workflow_id, run_id, workspace_id))
