"""Map a task over many inputs, with a limit on concurrent runs."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


@dag(dag_id="example_sim_mapped", schedule=None, catchup=False, tags=["sim"])
def example_sim_mapped():
    @task
    def tickets() -> list[dict]:
        return [{"message": f"ticket {number}", "count": number} for number in (17, 42, 99)]

    reviews = SimExecuteWorkflowOperator.partial(
        task_id="review",
        workflow_id="echo_plain",
        max_active_tis_per_dag=10,  # the free plan allows ten concurrent runs
        deferrable=True,
    ).expand(input=tickets())

    @task
    def report(messages: list[str]) -> str:
        return ", ".join(messages)

    report(reviews.output.map(lambda output: output["result"]["message"]))  # one field of each output


example_sim_mapped()
