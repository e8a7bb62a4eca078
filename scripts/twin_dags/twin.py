"""The same DAG for two Airflows: each way to run a workflow, some mapped tasks of each, and two batches."""

from __future__ import annotations

import os

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

BY = os.environ["TWIN"] + "{{ dag_run.conf['mark'] }}"
INPUTS = [{"by": BY, "number": number} for number in range(int(os.environ["TWIN_MAPPED"]))]
COMMON = {"workflow_id": "twin", "poll_interval": 1}

with DAG("twin", schedule=None):
    for name, options in {
        "held_open": {},
        "stream": {"stream": True},
        "asynchronous": {"async_execution": True},
        "deferrable": {"deferrable": True},
    }.items():
        SimExecuteWorkflowOperator.partial(task_id=name, **COMMON, **options).expand(input=INPUTS)
    start = SimExecuteWorkflowOperator(task_id="start", workflow_id="twin", input=INPUTS[0], wait_for_completion=False)
    SimJobSensor(task_id="wait", workflow_id="twin", run_id=start.output, poke_interval=1)
    SimExecuteWorkflowBatchOperator(task_id="batch", inputs=INPUTS, **COMMON)
    SimExecuteWorkflowBatchOperator(task_id="deferrable_batch", inputs=INPUTS, deferrable=True, **COMMON)
