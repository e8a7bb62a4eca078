"""A task that waits by retries until less is used, and a callback of a DAG."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from airflow_provider_sim.notifications.sim import SimNotifier
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator


@dag(dag_id="usage", schedule=None)
def usage():
    room = SimUsageLimitsOperator(task_id="room", fail_at=90, retries=50, retry_delay=timedelta(seconds=1))
    room >> SimExecuteWorkflowOperator(task_id="use", workflow_id="echo_plain")


@dag(
    dag_id="callbacks",
    schedule=None,
    on_failure_callback=SimNotifier(workflow_id="agent", input={"of": "the DAG {{ dag.dag_id }}"}),
)
def callbacks():
    @task(
        on_failure_callback=[
            SimNotifier(workflow_id="nowhere"),
            SimNotifier(workflow_id="agent", input={"of": "the task {{ ti.task_id }}"}),
        ]
    )
    def load() -> None:
        raise ValueError("column 'price' holds text")

    load()


usage()
callbacks()
