"""Wait until the account is below its usage limit."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import dag  # for Airflow 3 only: from airflow.sdk import dag

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator


@dag(dag_id="example_sim_usage", schedule=None, catchup=False, tags=["sim"])
def example_sim_usage():
    room = SimUsageLimitsOperator(
        task_id="room",
        fail_at=80,  # percent of the usage limit
        retries=48,  # wait up to two days until the limit is raised or the next period begins
        retry_delay=timedelta(hours=1),
    )
    digest = SimExecuteWorkflowOperator(
        task_id="digest",
        workflow_id="echo_plain",
        input={"message": "the day's digest"},
    )
    room >> digest


example_sim_usage()
