"""DAGs that start a run and wait for it with the defaults of each way; ``conf`` contains the run's duration."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, BaseOperator, task
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

INPUT = {"number": "{{ dag_run.conf['number'] }}", "seconds": "{{ dag_run.conf['seconds'] }}"}
WORKFLOW = "gated"


class KnownEndTrigger(BaseTrigger):
    """Fires at a moment that is known beforehand (a Unix time), without a request."""

    def __init__(self, moment: float) -> None:
        super().__init__()
        self.moment = moment

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the arguments, with a path that the triggerer can import."""
        return "benchmarks.gating_dags.everyday.KnownEndTrigger", {"moment": self.moment}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep until the moment."""
        await asyncio.sleep(self.moment - time.time())
        yield TriggerEvent({})


class KnownEndOperator(BaseOperator):
    """Defers until a run must be finished, which it starts with one request unless the end is given."""

    template_fields = ("input",)

    def __init__(self, *, input: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input = input

    def execute(self, context: Any) -> None:
        """Start the run, if any, and defer."""
        if "ends_at" in self.input:
            self.defer(trigger=KnownEndTrigger(float(self.input["ends_at"])), method_name="finish")

        import requests

        requests.post(
            f"{os.environ['BENCH_SIM_URL']}/api/v2/workflows/{WORKFLOW}/execute",
            json={"async": True, "input": self.input},
            headers={"X-API-Key": os.environ["BENCH_SIM_KEY"]},
            timeout=60,
        ).raise_for_status()
        moment = time.time() + float(self.input["seconds"])
        self.defer(trigger=KnownEndTrigger(moment), method_name="finish")

    def finish(self, context: Any, event: Any) -> None:
        """Succeed."""


@task
def after():
    """Downstream task of the run."""


with DAG("known_end", schedule=None):
    KnownEndOperator(task_id="wait", input=INPUT) >> after()

with DAG("known_end_sensor", schedule=None):
    KnownEndOperator(task_id="wait", input={"ends_at": "{{ dag_run.conf['ends_at'] }}"}) >> after()

for name, options in {
    "defaults": {},
    "unchecked": {"check_input": "off", "sim_conn_id": "sim_known"},
    "ends_in_trigger": {"check_input": "off", "sim_conn_id": "sim_known", "end_from_trigger": True},
}.items():
    with DAG(f"everyday_{name}", schedule=None):
        wait = SimExecuteWorkflowOperator(task_id="wait", workflow_id=WORKFLOW, input=INPUT, deferrable=True, **options)
        wait >> after()

with DAG("everyday_http", schedule=None):
    start = HttpOperator(
        task_id="start",
        http_conn_id="sim_http",
        endpoint=f"api/v2/workflows/{WORKFLOW}/execute",
        headers={"Content-Type": "application/json"},
        data=json.dumps({"input": INPUT, "async": True}),
        response_filter=lambda response: response.json()["data"]["runId"],
    )
    wait = HttpSensor(
        task_id="wait",
        http_conn_id="sim_http",
        endpoint=f"api/v2/workflows/{WORKFLOW}/runs/{{{{ ti.xcom_pull(task_ids='start') }}}}",
        response_check=lambda response: response.json()["data"]["status"] == "completed",
        deferrable=True,
        poke_interval=10,
    )
    start >> wait >> after()


@task
def wait_with_sdk(dag_run=None):
    """Start a run, poll it every 5 s, and return its output."""
    import sys

    sys.path.append(os.environ["BENCH_SDK"])
    from simstudio import SimStudioClient

    client = SimStudioClient(os.environ["BENCH_SIM_KEY"], os.environ["BENCH_SIM_URL"])
    given = {name: dag_run.conf[name] for name in ("number", "seconds")}
    started = client.execute_workflow(WORKFLOW, given, async_execution=True)
    while (run := client.get_workflow_run(WORKFLOW, started.run_id, include_output=True))["status"] != "completed":
        time.sleep(5)
    return run["output"]


with DAG("everyday_sdk", schedule=None):
    wait_with_sdk() >> after()
