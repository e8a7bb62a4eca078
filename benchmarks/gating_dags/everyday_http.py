"""A DAG that starts a run and waits for it with the HTTP provider, as in its documentation."""

from __future__ import annotations

import json

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, task


@task
def after():
    """Downstream task of the run."""


with DAG("everyday_http", schedule=None):
    given = {"number": "{{ dag_run.conf['number'] }}", "seconds": "{{ dag_run.conf['seconds'] }}"}
    start = HttpOperator(
        task_id="start",
        http_conn_id="sim_http",
        endpoint="api/v2/workflows/gated/execute",
        headers={"Content-Type": "application/json"},
        data=json.dumps({"input": given, "async": True}),
        response_filter=lambda response: response.json()["data"]["runId"],
    )
    wait = HttpSensor(
        task_id="wait",
        http_conn_id="sim_http",
        endpoint="api/v2/workflows/gated/runs/{{ ti.xcom_pull(task_ids='start') }}",
        response_check=lambda response: response.json()["data"]["status"] == "completed",
        deferrable=True,
        poke_interval=10,
    )
    start >> wait >> after()
