"""Wait until the account has room, and look once more just before the run."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag  # on Airflow 3 alone: from airflow.sdk import dag

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.usage import SimUsageSensor


# [START usage]
@dag(dag_id="example_sim_usage", schedule=None, catchup=False, tags=["sim"])
def example_sim_usage():
    room = SimUsageSensor(
        task_id="room",
        below=80,  # percent of the usage limit: until it was raised, or the next period has begun
        deferrable=True,  # that may take days
    )
    digest = SimExecuteWorkflowOperator(
        task_id="digest",
        workflow_id="echo_plain",
        input={"message": "the day's digest"},
        check_usage_before=95,  # fails before anything is sent
    )
    room >> digest


# [END usage]

example_sim_usage()
