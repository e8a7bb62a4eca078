"""Promote a workflow: deploy its draft, try it, and go back to what was live before if it doesn't do."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag  # on Airflow 3 alone: from airflow.sdk import dag

from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


# [START deploy]
@dag(dag_id="example_sim_deploy", schedule=None, catchup=False, tags=["sim"])
def example_sim_deploy():
    deploy = SimDeployWorkflowOperator(  # takes Sim's v2 API, and an admin's personal API key
        task_id="deploy",
        workflow_id="echo_plain",
        description="Deployed by {{ run_id }}",
    )
    trial = SimExecuteWorkflowOperator(task_id="trial", workflow_id="echo_plain", input={"message": "does it work?"})
    go_back = SimDeployWorkflowOperator(
        task_id="go_back",
        workflow_id="echo_plain",
        action="rollback",
        version="{{ ti.xcom_pull('deploy')['version'] - 1 }}",  # named, so that a retry goes back to the same
        trigger_rule="one_failed",
    )
    deploy >> trial >> go_back


# [END deploy]

example_sim_deploy()
