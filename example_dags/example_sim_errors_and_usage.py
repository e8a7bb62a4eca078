"""Check the account's usage before a run, and handle a failed run."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator


@dag(dag_id="example_sim_errors_and_usage", schedule=None, catchup=False, tags=["sim"])
def example_sim_errors_and_usage():
    has_room = SimUsageLimitsOperator(task_id="has_room", warn_at=75, skip_at=90)  # also skips downstream tasks
    judge = SimExecuteWorkflowOperator(
        task_id="judge",
        workflow_id="failing",
        input={"message": "this one fails"},
        retries=1,  # retries a failed run, but not an invalid key or input
        retry_delay=timedelta(seconds=1),
    )

    @task(trigger_rule="one_failed")
    def fall_back() -> str:
        return "Sim could not judge; a person will"

    has_room >> judge >> fall_back()


example_sim_errors_and_usage()
