"""Start a workflow from a failure callback, with the task and its exception as input."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.notifications.sim import SimNotifier

look_at_it = SimNotifier(
    workflow_id="echo_plain",  # your workflow declares the inputs dag_id, task_id, exception, log_url ...
    input={"message": "{{ dag.dag_id }}.{{ ti.task_id }} failed: {{ exception }}", "count": "{{ ti.try_number }}"},
)


@dag(dag_id="example_sim_notifier", schedule=None, catchup=False, tags=["sim"])
def example_sim_notifier():
    @task(on_failure_callback=look_at_it)
    def load() -> None:
        raise ValueError("column 'price' holds text")

    @task(trigger_rule="all_done")
    def go_on() -> str:
        return "the notifier has started a run"

    load() >> go_on()


example_sim_notifier()
