"""See what an agent writes in the task log while it writes it."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # on Airflow 3 alone: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


# [START streaming]
@dag(dag_id="example_sim_streaming", schedule=None, catchup=False, tags=["sim"])
def example_sim_streaming():
    story = SimExecuteWorkflowOperator(
        task_id="story",
        workflow_id="streaming",
        input={"message": "Tell me of the sea"},
        stream=True,
        selected_outputs=["Agent.content"],
    )

    @task
    def count_words(output: dict) -> int:
        # A streamed block's text is part of the output under the block's id.
        return sum(len(str(text).split()) for text in output.values())

    count_words(story.output)


# [END streaming]

example_sim_streaming()
