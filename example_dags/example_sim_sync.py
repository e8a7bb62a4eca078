"""Run a workflow synchronously, for runs of up to a minute."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


@dag(dag_id="example_sim_sync", schedule=None, catchup=False, tags=["sim"])
def example_sim_sync():
    answer = SimExecuteWorkflowOperator(
        task_id="answer",
        workflow_id="echo",  # the last part of the workflow's address in Sim's editor
        input={"message": "Good morning, it is {{ run_id }}", "count": 3},
        timeout=60,
    )

    @task
    def publish(output: dict) -> str:
        # A workflow that ends in a Response block returns {"data": ..., "status": ..., "headers": ...}.
        return f"Sim says: {output['data']}"

    publish(answer.output)


example_sim_sync()
