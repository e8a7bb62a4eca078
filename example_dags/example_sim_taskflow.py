"""Run a workflow with a decorated function that returns the input."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task


# [START taskflow]
@dag(dag_id="example_sim_taskflow", schedule=None, catchup=False, tags=["sim"])
def example_sim_taskflow():
    @task.sim_workflow(workflow_id="echo_plain")
    def outline(topic: str, run_id: str | None = None) -> dict:
        return {"message": f"An outline on {topic}", "payload": {"asked_by": run_id}}

    @task
    def chapters(outlined: dict) -> list[str]:
        return [f"{outlined['result']['message']}, chapter {number}" for number in (1, 2)]

    @task.sim_workflow(workflow_id="echo_plain", deferrable=True, poll_interval=5)
    def write(title: str, tone: str) -> dict:
        return {"message": title, "payload": {"tone": tone}}

    write.partial(tone="plain").expand(title=chapters(outline("the sea")))


# [END taskflow]

example_sim_taskflow()
