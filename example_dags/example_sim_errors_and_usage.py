"""Look at the account's limits before a run, and do something sensible when the run fails."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import dag, task  # on Airflow 3 alone: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator


# [START errors_and_usage]
@dag(dag_id="example_sim_errors_and_usage", schedule=None, catchup=False, tags=["sim"])
def example_sim_errors_and_usage():
    has_room = SimUsageLimitsOperator(task_id="has_room", warn_at=75, skip_at=90)  # what follows is then skipped, too
    judge = SimExecuteWorkflowOperator(
        task_id="judge",
        workflow_id="failing",
        input={"message": "this one fails"},
        retries=1,  # a run that failed is run anew; a wrong key or input isn't
        retry_delay=timedelta(seconds=1),
    )

    @task(trigger_rule="one_failed")
    def fall_back() -> str:
        return "Sim could not judge; a person will"

    has_room >> judge >> fall_back()


# [END errors_and_usage]

example_sim_errors_and_usage()
