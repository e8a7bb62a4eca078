"""Choose the next task by a workflow's output."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task  # for Airflow 3 only: from airflow.sdk import dag, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator


@dag(dag_id="example_sim_branch", schedule=None, catchup=False, tags=["sim"])
def example_sim_branch():
    triage = SimExecuteWorkflowOperator(
        task_id="triage",
        workflow_id="echo_plain",  # yours would rate the ticket
        input={"message": "The shop is down", "count": 9, "payload": {"team": "web"}},
        check_input="fail",  # a misspelled field fails the task before anything is sent
        multiple_outputs=True,  # each field of the output is an XCom
    )

    @task.branch
    def route(result: dict) -> str:
        return "page_team" if result["count"] >= 8 else "file_ticket"

    @task
    def page_team(result: dict) -> str:
        return f"paged the {result['payload']['team']} team"

    @task
    def file_ticket() -> str:
        return "filed a ticket"

    result = triage.output["result"]  # one field of the output, because of multiple_outputs
    route(result) >> [page_team(result), file_ticket()]


example_sim_branch()
