"""The provider's ways of running a workflow, a DAG for each; the run's id is the workflow's."""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

BATCH = 6
DEFERRED = int(os.environ.get("CHAOS_DEFERRED", "50"))


def tell_returned(context, result):
    """Notify the trial that the task's code has finished and Airflow doesn't know it."""
    with contextlib.suppress(urllib.error.HTTPError):  # the page doesn't exist
        urllib.request.urlopen(f"{os.environ['CHAOS_SIM_URL']}/returned/{context['run_id']}", timeout=30)


RETRIED = {"retries": 5, "retry_delay": timedelta(seconds=1), "post_execute": tell_returned}
RUN = {"task_id": "run", "workflow_id": "{{ run_id }}", "input": {"trial": "{{ run_id }}"}}

for name, options in {
    "sync": {},
    "stream": {"stream": True},
    "asynchronous": {"async_execution": True, "poll_interval": 1},
    "deferrable": {"deferrable": True, "poll_interval": 1},
}.items():
    with DAG(name, schedule=None, default_args=RETRIED):
        SimExecuteWorkflowOperator(**RUN, **options)

with DAG("fire_and_forget", schedule=None, default_args=RETRIED):
    start = SimExecuteWorkflowOperator(**RUN, async_execution=True, wait_for_completion=False)
    SimJobSensor(task_id="wait", workflow_id="{{ run_id }}", run_id=start.output, poke_interval=1)

for name, deferrable in {"batch": False, "deferrable_batch": True}.items():
    with DAG(name, schedule=None, default_args=RETRIED):
        SimExecuteWorkflowBatchOperator(
            task_id="run",
            workflow_id="{{ run_id }}",
            inputs=[{"trial": "{{ run_id }}", "number": number} for number in range(BATCH)],
            deferrable=deferrable,
            poll_interval=1,
        )

with DAG("deferred_herd", schedule=None, default_args={"retries": 3, "retry_delay": timedelta(seconds=1)}):
    SimExecuteWorkflowOperator.partial(
        task_id="run", workflow_id="{{ run_id }}", deferrable=True, poll_interval=2
    ).expand(input=[{"number": number} for number in range(DEFERRED)])
