"""Runs that are waited for without a worker, and what follows them."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, task

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

for name, workflow_id in (("resumed", "odd"), ("unstorable", "with_null")):
    with DAG(name, schedule=None):
        run = SimExecuteWorkflowOperator(task_id="done", workflow_id=workflow_id, deferrable=True, poll_interval=1)
        use(run.output)


def succeeded(context):
    print("SUCCESS CALLBACK", context["ti"].task_id)


def executed(context, result):
    print("POST EXECUTE", context["ti"].task_id)


ON_WORKERS = {
    "outlets": {"outlets": [Asset("written")]},
    "multiple_outputs": {"multiple_outputs": True},
    "callback": {"on_success_callback": succeeded},
    "post_execute": {"post_execute": executed},
}
with DAG("on_workers", schedule=None):
    for name, given in ON_WORKERS.items():
        SimExecuteWorkflowOperator(
            task_id=name, workflow_id="brief", deferrable=True, end_from_trigger=True, poll_interval=1, **given
        )
    start = started("brief")
    how = {"workflow_id": "brief", "run_id": start.output, "poke_interval": 1, "start_from_trigger": True}
    for name, given in ON_WORKERS.items():
        SimJobSensor(task_id=f"{name}_sensor", end_from_trigger=True, **how, **given)

    run = SimExecuteWorkflowOperator(
        task_id="run", workflow_id="listed", deferrable=True, end_from_trigger=True, poll_interval=1
    )
    use.override(task_id="use_run").expand(output=run.output)
    listed = SimExecuteWorkflowOperator(task_id="listed", workflow_id="listed", wait_for_completion=False)
    sensor = SimJobSensor(
        task_id="sensor", end_from_trigger=True, **how | {"workflow_id": "listed", "run_id": listed.output}
    )
    use.override(task_id="use_sensor").expand(output=sensor.output)

    where = use.override(task_id="where")("file://./files")
    folder = "{{ ti.xcom_pull(task_ids='where') }}"
    where >> SimJobSensor(task_id="pulls_xcom", output_files_dir=folder, end_from_trigger=True, **how)

with DAG("waiting", schedule=None):
    start = started("paused")
    how = {"workflow_id": "paused", "run_id": start.output, "poke_interval": 2}
    limit = {"execution_timeout": timedelta(seconds=25)}
    SimJobSensor(task_id="pokes", **how, **limit)
    SimJobSensor(task_id="defers", deferrable=True, **how, **limit)
    SimJobSensor(task_id="starts_in_triggerer", start_from_trigger=True, **how, **limit)
    SimExecuteWorkflowOperator(task_id="worker", workflow_id="paused", async_execution=True, **limit)
    SimExecuteWorkflowOperator(task_id="operator", workflow_id="paused", deferrable=True, **limit)
