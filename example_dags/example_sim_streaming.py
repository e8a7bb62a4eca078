"""Stream an agent's text into the task log."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


@dag(dag_id="example_sim_streaming", schedule=None, catchup=False, tags=["sim"])
def example_sim_streaming():
    story = SimExecuteWorkflowOperator(
        task_id="story",
        workflow_id="streaming",
        input={"message": "Describe the sea"},
        stream=True,
        selected_outputs=["Agent.content"],
    )

    @task
    def count_words(output: dict) -> int:
        # The output contains the text of each selected block under its ID.
        return sum(len(str(text).split()) for text in output.values())

    count_words(story.output)


example_sim_streaming()
