"""A batch in each place to wait in; its inputs come from another task, and the DAG run's id is the workflow's."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator

PLACES = {
    "worker": {"max_active_runs": 10},
    "deferred": {"max_active_runs": 10, "deferrable": True},
    "deferred_freely": {"sim_conn_id": "sim_legacy", "deferrable": True},  # which counts no requests
}

for place, how in PLACES.items():
    with DAG(f"batch_{place}", schedule=None, default_args={"retries": 3, "retry_delay": timedelta(seconds=1)}):

        @task
        def numbers(dag_run=None):
            return [{"number": number} for number in range(dag_run.conf["count"])]

        SimExecuteWorkflowBatchOperator(
            task_id="run", workflow_id="{{ run_id }}", inputs=numbers(), poll_interval=1, **how
        )
