"""Runs that are waited for without a worker, and what follows them."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor


@task(retries=0)
def use(output):
    return output


def started(workflow_id):
    return SimExecuteWorkflowOperator(
        task_id="start", workflow_id=workflow_id, input={"message": "{{ run_id }}"}, wait_for_completion=False
    )


for name, workflow_id, options in (
    ("sensed", "brief", {"start_from_trigger": True, "end_from_trigger": True}),
    ("started_only", "brief", {"start_from_trigger": True}),
    ("failing", "failing_soon", {"start_from_trigger": True, "end_from_trigger": True, "retries": 2}),
    ("skipped", "failing_soon", {"start_from_trigger": True, "end_from_trigger": True, "soft_fail": True}),
    ("late", "endless", {"start_from_trigger": True, "end_from_trigger": True, "timeout": 6}),
):
    with DAG(name, schedule=None):
        sensor = SimJobSensor(
            task_id="done", workflow_id=workflow_id, run_id=started(workflow_id).output, poke_interval=1, **options
        )
        use(sensor.output)

with DAG("ended", schedule=None):
    run = SimExecuteWorkflowOperator(
        task_id="done", workflow_id="brief", deferrable=True, end_from_trigger=True, poll_interval=1
    )
    use(run.output)
