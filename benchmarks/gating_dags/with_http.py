"""DAGs that wait with the HTTP provider, as in its documentation."""

from __future__ import annotations

import json

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, task


@task
def after():
    """Downstream task of the run."""


def wait_for(run_id):
    """Create a sensor with a response check."""
    return HttpSensor(
        task_id="wait",
        http_conn_id="sim_http",
        endpoint=f"api/v2/workflows/gated/runs/{run_id}",
        response_check=lambda response: response.json()["data"]["status"] == "completed",
        deferrable=True,
        poke_interval=5,
    )


with DAG("http_sensor", schedule=None):
    wait_for("{{ dag_run.conf['sim_run_id'] }}") >> after()

with DAG("http_operator_and_sensor", schedule=None):
    given = {key: f"{{{{ dag_run.conf['{key}'] }}}}" for key in ("number", "ends_at")}
    start = HttpOperator(
        task_id="start",
        http_conn_id="sim_http",
        endpoint="api/v2/workflows/gated/execute",
        headers={"Content-Type": "application/json"},
        data=json.dumps({"input": given, "async": True}),
        response_filter=lambda response: response.json()["data"]["runId"],
    )
    start >> wait_for("{{ ti.xcom_pull(task_ids='start') }}") >> after()
