"""A sensor that waits for room in the triggerer, and a callback of a DAG."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_sim.notifications.sim import SimNotifier
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.usage import SimUsageSensor


@dag(dag_id="usage", schedule=None)
def usage():
    room = SimUsageSensor(task_id="room", below=90, deferrable=True, poke_interval=1)
    room >> SimExecuteWorkflowOperator(task_id="use", workflow_id="echo_plain", check_usage_before=90)


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
