"""One DAG for each way to wait, as any Airflow from 2.11 on takes it."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

TAKES_A_WHILE = {"workflow_id": "slow", "input": {"seconds": 2, "message": "hi"}}

OPERATORS = {
    "held_open": {},
    "streamed": {"stream": True},
    "asynchronous": {"async_execution": True, "poll_interval": 0.5},
    "deferrable": {"deferrable": True, "poll_interval": 0.5},
}
SENSORS = {
    "poke": {"mode": "poke", "poke_interval": 0.5},
    # Of a run that goes on when it looks first, on a slow machine, too.
    "reschedule": {"mode": "reschedule", "poke_interval": 8},
    "deferrable": {"deferrable": True, "poke_interval": 0.5},
}

for name, options in OPERATORS.items():
    with DAG(f"operator_{name}", schedule=None) as dag:
        SimExecuteWorkflowOperator(task_id="run", **TAKES_A_WHILE, **options)
    globals()[dag.dag_id] = dag

for name, options in SENSORS.items():
    with DAG(f"sensor_{name}", schedule=None) as dag:
        given = {"seconds": 10 if name == "reschedule" else 2, "message": "hi"}
        start = SimExecuteWorkflowOperator(task_id="start", workflow_id="slow", input=given, wait_for_completion=False)
        SimJobSensor(task_id="run", workflow_id="slow", run_id=start.output, **options)
    globals()[dag.dag_id] = dag

for name, options in {"waiting": {}, "deferrable": {"deferrable": True}}.items():
    with DAG(f"batch_{name}", schedule=None) as dag:
        inputs = [{"seconds": 0.5, "message": message} for message in ("one", "two", "three")]
        SimExecuteWorkflowBatchOperator(task_id="run", workflow_id="slow", inputs=inputs, poll_interval=0.5, **options)
    globals()[dag.dag_id] = dag
