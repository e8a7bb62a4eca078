"""Run a workflow for many inputs in one task, as fast as the account allows."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator


@dag(dag_id="example_sim_batch", schedule=None, catchup=False, tags=["sim"])
def example_sim_batch():
    @task
    def letters() -> list[dict]:
        return [{"message": f"letter {number}", "count": number} for number in range(20)]

    reviews = SimExecuteWorkflowBatchOperator(
        task_id="review",
        workflow_id="echo_plain",
        inputs=letters(),
        max_active_runs=8,  # leaves capacity for other tasks
        on_error="collect",  # returns a result for each input, including errors
        poll_interval=2,
        deferrable=True,
    )

    # Each input can have its own workflow.
    several = SimExecuteWorkflowBatchOperator(
        task_id="several",
        inputs=[
            {"workflow_id": "echo_plain", "input": {"message": "this one is fine"}},
            {"workflow_id": "failing", "input": {"message": "this one fails"}},
            {"workflow_id": "undeployed", "input": {"message": "this one isn't deployed"}},
        ],
        skip_undeployed=True,
        on_error="collect",
        poll_interval=2,
    )

    @task
    def report(results: list[dict]) -> dict[str, int]:
        statuses = [result["status"] for result in results]
        return {status: statuses.count(status) for status in sorted(set(statuses))}

    report(reviews.output)
    report.override(task_id="report_several")(several.output)


example_sim_batch()
