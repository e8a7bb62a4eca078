"""Look at the account's limits before a run, and do something sensible when the run fails."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import dag, task  # on Airflow 3 alone: from airflow.sdk import dag, task

from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


# [START errors_and_usage]
@dag(dag_id="example_sim_errors_and_usage", schedule=None, catchup=False, tags=["sim"])
def example_sim_errors_and_usage():
    @task.short_circuit
    def has_room() -> bool:
        with SimHook() as hook:
            limits = hook.get_conn().get_usage_limits()
        return limits.percent_used is None or limits.percent_used < 90

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

    has_room() >> judge >> fall_back()


# [END errors_and_usage]

example_sim_errors_and_usage()
