"""Deploy a workflow's draft, test it, and roll back if the test fails."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag  # for Airflow 3 only: from airflow.sdk import dag

from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


@dag(dag_id="example_sim_deploy", schedule=None, catchup=False, tags=["sim"])
def example_sim_deploy():
    deploy = SimDeployWorkflowOperator(  # requires Sim's v2 API and a personal API key of an admin
        task_id="deploy",
        workflow_id="echo_plain",
        description="Deployed by {{ run_id }}",
    )
    trial = SimExecuteWorkflowOperator(task_id="trial", workflow_id="echo_plain", input={"message": "does it work?"})
    go_back = SimDeployWorkflowOperator(
        task_id="go_back",
        workflow_id="echo_plain",
        action="rollback",
        version="{{ ti.xcom_pull('deploy')['version'] - 1 }}",  # explicit, for retries
        trigger_rule="one_failed",
    )
    deploy >> trial >> go_back


example_sim_deploy()
