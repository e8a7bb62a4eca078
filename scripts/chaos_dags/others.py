"""The same work as people do it without the provider: by the official SDK in a task, and by HttpOperator."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from datetime import timedelta

from airflow.providers.common.compat.sdk import dag, task
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor


def tell_returned(context, result):
    """Notify the trial that the task's code has finished and Airflow doesn't know it."""
    with contextlib.suppress(urllib.error.HTTPError):  # the page doesn't exist
        urllib.request.urlopen(f"{os.environ['CHAOS_SIM_URL']}/returned/{context['run_id']}", timeout=30)


RETRIED = {"retries": 5, "retry_delay": timedelta(seconds=1), "post_execute": tell_returned}


def sdk_client():
    """Import the official SDK from its directory; its dependencies are installed."""
    import sys

    sys.path.append(os.environ["CHAOS_SDK"])
    from simstudio import SimStudioClient

    return SimStudioClient(os.environ["CHAOS_SIM_KEY"], os.environ["CHAOS_SIM_URL"])


@dag(schedule=None, default_args=RETRIED)
def sdk_held_open():
    """Execute, and wait for the answer."""

    @task
    def run(run_id=None):
        result = sdk_client().execute_workflow(run_id, {"trial": run_id}, timeout=120)
        if not result.success:
            raise RuntimeError(result.error)
        return result.output

    run()


@dag(schedule=None, default_args=RETRIED)
def sdk_asynchronous():
    """Start an asynchronous run, poll it each second, and fetch its output."""

    @task
    def run(run_id=None):
        import time

        client = sdk_client()
        started = client.execute_workflow(run_id, {"trial": run_id}, async_execution=True)
        while True:
            seen = client.get_workflow_run(run_id, started.run_id)
            if seen["status"] == "completed":
                return client.get_workflow_run(run_id, started.run_id, include_output=True)["output"]
            if seen["status"] in ("failed", "cancelled"):
                raise RuntimeError(f"run {started.run_id} is {seen['status']}")
            time.sleep(1)

    run()


def http(task_id, path, **options):
    """A request to Sim; the key is in the connection's extra."""
    return HttpOperator(task_id=task_id, http_conn_id="sim_http", endpoint=f"api/v2/workflows/{path}", **options)


def execution(**body):
    """Arguments of a request that starts a run."""
    return {
        "path": "{{ run_id }}/execute",
        "headers": {"Content-Type": "application/json"},
        "data": json.dumps({"input": {"trial": "{{ run_id }}"}, **body}),
    }


@dag(schedule=None, default_args=RETRIED)
def http_held_open():
    """Execute, and wait for the answer."""
    http("run", **execution(), response_filter=lambda response: response.json()["data"]["output"])


@dag(schedule=None, default_args=RETRIED)
def http_asynchronous():
    """Start an asynchronous run, poll it with a sensor, and fetch its output."""
    run = http("run", **execution(**{"async": True}), response_filter=lambda response: response.json()["data"]["runId"])
    seen = "{{ run_id }}/runs/{{ ti.xcom_pull(task_ids='run') }}"
    wait = HttpSensor(
        task_id="wait",
        http_conn_id="sim_http",
        endpoint=f"api/v2/workflows/{seen}",
        response_check=lambda response: response.json()["data"]["status"] == "completed",
        poke_interval=1,
    )
    fetch = http(
        "fetch",
        f"{seen}?includeOutput=true",
        method="GET",
        response_filter=lambda response: response.json()["data"]["output"],
    )
    run >> wait >> fetch


sdk_held_open()
sdk_asynchronous()
http_held_open()
http_asynchronous()
