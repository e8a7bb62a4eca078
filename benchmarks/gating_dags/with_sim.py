"""DAGs that wait with this provider; ``conf`` contains the run and its end time."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor


@task
def after():
    """Downstream task of the run."""


for name, options in {
    "sensor": {"deferrable": True},
    "sensor_end_from_trigger": {"deferrable": True, "end_from_trigger": True},
    "sensor_in_triggerer": {"start_from_trigger": True, "end_from_trigger": True},
}.items():
    with DAG(name, schedule=None):
        run_id = "{{ dag_run.conf['sim_run_id'] }}"
        SimJobSensor(task_id="wait", workflow_id="gated", run_id=run_id, **options) >> after()

for name, options in {"operator": {}, "operator_end_from_trigger": {"end_from_trigger": True}}.items():
    with DAG(name, schedule=None):
        given = {"number": "{{ dag_run.conf['number'] }}", "ends_at": "{{ dag_run.conf['ends_at'] }}"}
        (
            SimExecuteWorkflowOperator(task_id="wait", workflow_id="gated", input=given, deferrable=True, **options)
            >> after()
        )
