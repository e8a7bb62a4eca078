"""Let an agent of Airflow's common-ai provider run a workflow as its tool (Airflow 3.0 and later)."""

from __future__ import annotations

from airflow.providers.common.ai.toolsets.hook import HookToolset
from airflow.sdk import dag, task

from airflow_provider_sim.hooks.sim import SimHook


@dag(dag_id="example_sim_agent", schedule=None, catchup=False, tags=["sim"])
def example_sim_agent():
    review = HookToolset(
        SimHook("sim_default"),
        allowed_methods=["execute_with_retry"],
        tool_prefix="review",  # the tool is review_execute_with_retry
        pinned_arguments={  # so that the model chooses nothing but input_data
            "workflow_id": "echo_plain",
            "stream": False,
            "async_execution": False,
            **dict.fromkeys(("timeout", "run_timeout", "run_id", "selected_outputs")),
            **dict.fromkeys(("max_retries", "initial_delay", "max_delay", "backoff_multiplier")),
        },
    )

    @task.agent(
        llm_conn_id="pydanticai_default",  # the model and its key
        system_prompt="Answer letters. Have each draft reviewed: input_data is an object with the field message.",
        toolsets=[review],
    )
    def answer(letter: str) -> str:
        return f"Answer this letter: {letter}"

    answer("When will my order arrive?")


example_sim_agent()
