"""DAGs that run the same inputs as one batch and as mapped tasks."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

RUN = {"task_id": "run", "workflow_id": "brief"}
WAYS = {
    "batch_deferred": (SimExecuteWorkflowBatchOperator, {"deferrable": True}),
    "batch_worker": (SimExecuteWorkflowBatchOperator, {}),
    "mapped_deferred": (SimExecuteWorkflowOperator, {"deferrable": True}),
    "mapped_sync": (SimExecuteWorkflowOperator, {}),
}


@task
def numbers(dag_run=None):
    """Return the inputs."""
    return [{"number": number} for number in range(dag_run.conf["count"])]


for dag_id, (operator, options) in WAYS.items():
    with DAG(dag_id, schedule=None):
        if operator is SimExecuteWorkflowBatchOperator:
            operator(**RUN, **options, inputs=numbers())
        else:
            operator.partial(**RUN, **options).expand(input=numbers())
