"""Run a workflow with a decorated function that returns the input."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task


@dag(dag_id="example_sim_taskflow", schedule=None, catchup=False, tags=["sim"])
def example_sim_taskflow():
    @task.sim_workflow(workflow_id="echo_plain", multiple_outputs=True)
    def outline(topic: str, run_id: str | None = None) -> dict:
        return {"message": f"An outline on {topic}", "payload": {"asked_by": run_id}}

    @task
    def chapters(result: dict) -> list[str]:
        return [f"{result['message']}, chapter {number}" for number in (1, 2)]

    @task.sim_workflow(workflow_id="echo_plain", deferrable=True, poll_interval=5)
    def write(title: str, tone: str) -> dict:
        return {"message": title, "payload": {"tone": tone}}

    outlined = outline("the sea")
    # multiple_outputs makes each field of the output an XCom, too; only a task's whole output can be expanded.
    write.partial(tone="plain").expand(title=chapters(outlined["result"]))


example_sim_taskflow()
