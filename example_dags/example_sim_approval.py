"""Answer a paused run with Airflow's human-in-the-loop operator (Airflow 3.1 and later)."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import Param, dag, task  # for Airflow 3 only: from airflow.sdk import ...
from airflow.providers.standard.operators.hitl import HITLOperator

from airflow_provider_sim.operators.runs import SimResumeRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor


@dag(dag_id="example_sim_approval", schedule=None, catchup=False, tags=["sim"])
def example_sim_approval():
    ask = SimExecuteWorkflowOperator(
        task_id="ask",
        workflow_id="paused",
        input={"message": "the plan"},
        async_execution=True,
        poll_interval=1,
        on_paused="return",  # the report of the pause: run_id, context_id, question, fields, approval_url
    )
    decide = HITLOperator(
        task_id="decide",
        subject="Sim asks",
        body="{{ ti.xcom_pull(task_ids='ask')['question'] }}",
        options=["Approve", "Reject"],
        params={"comment": Param(None, type=["null", "string"])},
    )

    @task
    def answer(decided: dict) -> dict:
        comment = decided["params_input"]["comment"]
        return {"approved": decided["chosen_options"] == ["Approve"], "comment": comment or ""}

    resume = SimResumeRunOperator(
        task_id="resume",
        workflow_id="paused",
        run_id=ask.output["run_id"],
        input=answer(decide.output),
    )
    done = SimJobSensor(
        task_id="done", workflow_id="paused", run_id=resume.output["run_id"], deferrable=True, poke_interval=1
    )
    ask >> decide
    resume >> done


example_sim_approval()
