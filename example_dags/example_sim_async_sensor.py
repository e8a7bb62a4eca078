"""Start a run in one task, wait for it in another, and continue only if it completed."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor


@dag(dag_id="example_sim_async_sensor", schedule=None, catchup=False, tags=["sim"])
def example_sim_async_sensor():
    start = SimExecuteWorkflowOperator(
        task_id="start",
        workflow_id="slow",
        input={"message": "take your time", "seconds": 3},
        wait_for_completion=False,  # .output is the run ID
        run_timeout=300,  # Sim stops the run after five minutes
    )
    done = SimJobSensor(
        task_id="done",
        workflow_id="slow",
        run_id=start.output,
        mode="reschedule",
        poke_interval=10,
        timeout=600,
    )

    @task
    def publish(output: object) -> str:
        return f"The run ended well with {output}"

    publish(done.output)  # runs only if the run completed


example_sim_async_sensor()
