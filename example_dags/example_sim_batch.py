"""Many inputs in one task: as many runs as the account allows, and one result for each input."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # on Airflow 3 alone: from airflow.sdk import dag, task

from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator


# [START batch]
@dag(dag_id="example_sim_batch", schedule=None, catchup=False, tags=["sim"])
def example_sim_batch():
    @task
    def letters() -> list[dict]:
        return [{"message": f"letter {number}", "count": number} for number in range(20)]

    reviews = SimExecuteWorkflowBatchOperator(
        task_id="review",
        workflow_id="echo_plain",
        inputs=letters(),
        max_active_runs=8,  # leaves the rest of the account's limit to other tasks
        on_error="collect",  # a result for each input, whatever became of its run
        poll_interval=2,
        deferrable=True,
    )

    # Workflows may differ, too.
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


# [END batch]

example_sim_batch()
