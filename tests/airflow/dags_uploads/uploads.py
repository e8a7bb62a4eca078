"""A task with two files for each mode that uploads them; the run's id is the workflow's, and in the files' names."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.task.input import SimFile

for name, how in {"waiting": {"async_execution": True}, "deferred": {"deferrable": True}}.items():
    with DAG(name, schedule=None):
        SimExecuteWorkflowOperator(
            task_id="run",
            workflow_id="{{ run_id }}",
            input={"papers": [SimFile(f"{number}".encode(), name=f"{{{{ run_id }}}}-{number}") for number in (0, 1)]},
            poll_interval=1,
            retries=3,
            retry_delay=timedelta(seconds=1),
            **how,
        )
