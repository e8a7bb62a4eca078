"""Wait for a run in the triggerer, without a worker."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag  # for Airflow 3 only: from airflow.sdk import dag

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor


@dag(dag_id="example_sim_deferrable", schedule=None, catchup=False, tags=["sim"])
def example_sim_deferrable():
    summary = SimExecuteWorkflowOperator(
        task_id="summary",
        workflow_id="slow",
        input={"message": "{{ run_id }}", "seconds": 2},
        deferrable=True,
        poll_interval=5,
    )
    start = SimExecuteWorkflowOperator(
        task_id="start",
        workflow_id="echo_plain",
        input={"message": "built on the summary", "payload": summary.output},
        wait_for_completion=False,
    )
    SimJobSensor(
        task_id="done",
        workflow_id="echo_plain",
        run_id=start.output,
        deferrable=True,
        poke_interval=5,
    )


example_sim_deferrable()
