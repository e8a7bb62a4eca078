"""Operator that deploys, undeploys and rolls back workflows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import DeploymentAction, Rule
from airflow_provider_sim.operators.base import SimClientOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import Deployment, SimClient

_CLOCK_SKEW = timedelta(seconds=5)  # between Airflow's clock and Sim's


class SimDeployWorkflowOperator(SimClientOperator):
    """Deploy a workflow's draft, undeploy the workflow, or roll back to an earlier version.

    Requires a server with the v2 API and a personal API key of an admin of the workspace: a workspace key may run
    workflows, but not deploy them. Returns ``workflow_id``, ``is_deployed``, ``version`` and ``deployed_at``.

    A retry waits for the version that an earlier try of the same DAG run has requested, and requests another only if
    that one has failed.

    :param workflow_id: the workflow: the last part of its address in Sim's editor. (templated)
    :param action: ``deploy`` the draft as a new version, ``undeploy``, or ``rollback``. (templated)
    :param version: number of the version to roll back to; default: the one before the live version. (templated)
    :param version_name: name of the new version, up to 100 characters. (templated)
    :param description: description of the new version. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param wait_for_completion: wait until the version is live; Sim deploys in the background.
    :param poll_interval: seconds or timedelta between polls; default: a tenth of the time that has passed, 1 s to 30 s.
    :param timeout: seconds or timedelta to wait for the deployment.
    :param retry_args: retry settings for idempotent requests, which override the connection's.
    :raises SimPermissionError: the key may not do this.
    :raises SimUnsupportedError: the server has no v2 API.
    :raises SimDeploymentError: the deployment failed, or did not finish within the timeout.
    """

    template_fields: Sequence[str] = ("workflow_id", "action", "version", "version_name", "description", "sim_conn_id")
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        **SimClientOperator.argument_rules,
        "action": arguments.one_of(DeploymentAction),
        "version": arguments.optional(arguments.version_number),
    }

    def __init__(
        self,
        *,
        action: DeploymentAction = "deploy",
        version: int | str | None = None,
        version_name: str | None = None,
        description: str | None = None,
        wait_for_completion: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.action = action
        self.version = version
        self.version_name = version_name
        self.description = description
        self.wait_for_completion = wait_for_completion
        self._check_constants()

    def execute_with(self, client: SimClient, context: Context, *, deadline: float) -> dict[str, Any]:
        from airflow_provider_sim.polling.deployment import wait_for_deployment

        version = None if self.version is None else int(self.version)
        deployment = self._requested_before(context, client, version) or self._request(client, version)
        for warning in deployment.warnings:
            self.log.info("Sim warns: %s", warning)
        if self.wait_for_completion and self.action != "undeploy":
            deployment = wait_for_deployment(client, deployment, poll_interval=self.poll_interval, deadline=deadline)
        live = "not deployed" if deployment.version is None else f"live in version {deployment.version}"
        self.log.info("Workflow %s is %s.", self.workflow_id, live)
        return {name: getattr(deployment, name) for name in ("workflow_id", "is_deployed", "version", "deployed_at")}

    def _requested_before(self, context: Context, client: SimClient, version: int | None) -> Deployment | None:
        """Return the deployment that an earlier try has requested, so that a retry doesn't request another."""
        dag_run: Any = context.get("dag_run")
        # dag.test() of Airflow 3 has no start_date, and Airflow 2 no run_after.
        started = getattr(dag_run, "start_date", None) or getattr(dag_run, "run_after", None)
        if self.action == "undeploy" or getattr(context["ti"], "try_number", 1) == 1 or started is None:
            return None
        deployment = client.get_deployment(self.workflow_id)
        attempt = deployment.latest_attempt
        if attempt is None or attempt.has_failed or attempt.action != self.action or not attempt.requested_at:
            return None
        is_other = version not in (None, attempt.version)
        if is_other or datetime.fromisoformat(attempt.requested_at) < started - _CLOCK_SKEW:
            return None
        self.log.info("Version %s of workflow %s was requested by an earlier try.", attempt.version, self.workflow_id)
        return deployment

    def _request(self, client: SimClient, version: int | None) -> Deployment:
        if self.action == "undeploy":
            return client.undeploy_workflow(self.workflow_id)
        if self.action == "rollback":
            return client.rollback_workflow(self.workflow_id, version)
        return client.deploy_workflow(self.workflow_id, name=self.version_name, description=self.description)

    @staticmethod
    def contradiction(given: Mapping[str, Any]) -> str | None:
        action = given.get("action", "rollback" if given.get("version") is not None else "deploy")
        if given.get("version") is not None and action != "rollback":
            return f"version requires action='rollback'; {action!r} uses the draft"
        if (given.get("version_name") or given.get("description")) and action != "deploy":
            return f"version_name and description require action='deploy'; action is {action!r}"
        return None
