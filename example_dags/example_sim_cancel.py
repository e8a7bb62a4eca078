"""Cancel a run that another task started."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag  # for Airflow 3 only: from airflow.sdk import dag

from airflow_provider_sim.operators.runs import SimCancelRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


@dag(dag_id="example_sim_cancel", schedule=None, catchup=False, tags=["sim"])
def example_sim_cancel():
    start = SimExecuteWorkflowOperator(
        task_id="start",
        workflow_id="slow",
        input={"message": "never mind", "seconds": 10},
        wait_for_completion=False,
    )
    # Does nothing if the run is already finished.
    SimCancelRunOperator(task_id="cancel", workflow_id="slow", run_id=start.output, poll_interval=1)


example_sim_cancel()
