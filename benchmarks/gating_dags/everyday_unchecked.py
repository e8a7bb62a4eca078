"""A DAG that runs a workflow without reading its inputs, in the connection's workspace."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


@task
def after():
    """Downstream task of the run."""


with DAG("everyday_unchecked", schedule=None):
    given = {"number": "{{ dag_run.conf['number'] }}", "seconds": "{{ dag_run.conf['seconds'] }}"}
    wait = SimExecuteWorkflowOperator(
        task_id="wait", workflow_id="gated", input=given, deferrable=True, check_input="off", sim_conn_id="sim_known"
    )
    wait >> after()
