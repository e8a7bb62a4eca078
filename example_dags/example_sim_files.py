"""Send files to a workflow: inline in a sync run; uploaded, and deleted after the run, in a deferrable one."""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.task.input import SimFile


@dag(dag_id="example_sim_files", schedule=None, catchup=False, tags=["sim"])
def example_sim_files():
    SimExecuteWorkflowOperator(
        task_id="read",
        workflow_id="file_echo",
        input={"files": Path(__file__)},  # or an ObjectStoragePath("s3://…"); "files" is a field of type file[]
    )

    SimExecuteWorkflowOperator(
        task_id="upload",
        workflow_id="file_echo",
        input={"files": Path(__file__)},  # of any size: it is uploaded, and deleted when the run has finished
        deferrable=True,
    )

    @task.sim_workflow(workflow_id="file_echo", stream=True)
    def compare(day: str) -> dict:
        table = SimFile(f"day,tickets\n{day},17\n".encode(), name="tickets.csv")
        return {"files": [Path(__file__), table]}

    @task
    def names(output: dict) -> list[str]:
        return [f"{file['name']} ({file['type']})" for file in output["result"]]

    names(compare("monday"))


example_sim_files()
