"""A task for each place to wait in, whose run is cancelled or left alone; the run's id is the workflow's."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

PLACES = {
    "waiting": {"async_execution": True, "poll_interval": 1},
    "held_open": {},
    "deferred": {"deferrable": True, "poll_interval": 1},
}
LIMITS = {
    "": {},
    "_task_timeout": {"execution_timeout": timedelta(seconds=8)},
    "_run_timeout": {"timeout": 8},
}

for place, how in PLACES.items():
    for limit, seconds in LIMITS.items():
        for cancel in (True, False):
            with DAG(f"{place}{limit}_{'cancel' if cancel else 'leave'}", schedule=None):
                SimExecuteWorkflowOperator(
                    task_id="run",
                    workflow_id="{{ run_id }}",
                    cancel_on_kill=cancel,
                    retries=0,
                    retry_delay=timedelta(
                        seconds=1
                    ),  # a running task that is cleared may go on as a retry all the same
                    **how,
                    **seconds,
                )
