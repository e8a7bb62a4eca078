"""Cancel a run that another task has started."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag  # on Airflow 3 alone: from airflow.sdk import dag

from airflow_provider_sim.operators.runs import SimCancelRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


# [START cancel]
@dag(dag_id="example_sim_cancel", schedule=None, catchup=False, tags=["sim"])
def example_sim_cancel():
    start = SimExecuteWorkflowOperator(
        task_id="start",
        workflow_id="slow",
        input={"message": "never mind", "seconds": 10},
        wait_for_completion=False,
    )
    # A run that is over already is left as it is.
    SimCancelRunOperator(task_id="cancel", workflow_id="slow", run_id=start.output, poll_interval=1)


# [END cancel]

example_sim_cancel()
