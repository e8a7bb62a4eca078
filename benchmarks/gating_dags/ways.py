"""A DAG for each way to let a task wait for a run of Sim; the DAG run's ``conf`` says for which, and when it ends."""

from __future__ import annotations

import json
import os

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, task

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

WORKFLOW = "gated"
EVERY = 5
WIDE = int(os.environ.get("BENCH_WIDE", "1"))
"""How many sensors are in one DAG."""
RUN = "{{ dag_run.conf['sim_run_id'] }}"
INPUT = {"number": "{{ dag_run.conf['number'] }}", "ends_at": "{{ dag_run.conf['ends_at'] }}"}


@task
def after():
    """What the run holds up."""


def is_over(response):
    """As the documentation of HttpSensor has it."""
    return response.json()["data"]["status"] == "completed"


def http_sensor(run_id):
    """The sensor of the HTTP provider, which looks into the answer."""
    return HttpSensor(
        task_id="wait",
        http_conn_id="sim_http",
        endpoint=f"api/v2/workflows/{WORKFLOW}/runs/{run_id}",
        response_check=is_over,
        deferrable=True,
        poke_interval=EVERY,
    )


with DAG("nothing", schedule=None):
    after()

for name, options in {
    "sensor": {"deferrable": True},
    "sensor_end_from_trigger": {"deferrable": True, "end_from_trigger": True},
    "sensor_in_triggerer": {"start_from_trigger": True, "end_from_trigger": True},
}.items():
    with DAG(name, schedule=None):
        SimJobSensor(task_id="wait", workflow_id=WORKFLOW, run_id=RUN, poke_interval=EVERY, **options) >> after()

with DAG("http_sensor", schedule=None):
    http_sensor(RUN) >> after()

for name, options in {"operator": {}, "operator_end_from_trigger": {"end_from_trigger": True}}.items():
    with DAG(name, schedule=None):
        (
            SimExecuteWorkflowOperator(
                task_id="wait", workflow_id=WORKFLOW, input=INPUT, deferrable=True, poll_interval=EVERY, **options
            )
            >> after()
        )

with DAG("http_operator_and_sensor", schedule=None):
    start = HttpOperator(
        task_id="start",
        http_conn_id="sim_http",
        endpoint=f"api/v2/workflows/{WORKFLOW}/execute",
        headers={"Content-Type": "application/json"},
        data=json.dumps({"input": INPUT, "async": True}),
        response_filter=lambda response: response.json()["data"]["runId"],
    )
    start >> http_sensor("{{ ti.xcom_pull(task_ids='start') }}") >> after()

with DAG("sdk", schedule=None):

    @task
    def wait(dag_run=None):
        """Start and poll by the official SDK, from a folder of its own; what it needs is there already."""
        import sys
        import time

        sys.path.append(os.environ["BENCH_SDK"])
        from simstudio import SimStudioClient

        client = SimStudioClient(os.environ["BENCH_SIM_KEY"], os.environ["BENCH_SIM_URL"])
        given = {name: dag_run.conf[name] for name in ("number", "ends_at")}
        started = client.execute_workflow(WORKFLOW, given, async_execution=True)
        while client.get_workflow_run(WORKFLOW, started.run_id)["status"] != "completed":
            time.sleep(EVERY)

    wait() >> after()

for name, options in {"wide": {"deferrable": True}, "wide_in_triggerer": {"start_from_trigger": True}}.items():
    with DAG(name, schedule=None, max_active_tasks=1000):
        for number in range(WIDE):
            SimJobSensor(
                task_id=f"wait_{number}",
                workflow_id=WORKFLOW,
                run_id=f"{{{{ dag_run.conf['sim_run_id'] }}}}-{number}",
                poke_interval=EVERY,
                **options,
            )
