"""A DAG that polls with the official SDK in a task."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task


@task
def after():
    """Downstream task of the run."""


@task
def wait(dag_run=None):
    """Start a run and poll it."""
    import sys
    import time

    sys.path.append(os.environ["BENCH_SDK"])
    from simstudio import SimStudioClient

    client = SimStudioClient(os.environ["BENCH_SIM_KEY"], os.environ["BENCH_SIM_URL"])
    given = {name: dag_run.conf[name] for name in ("number", "ends_at")}
    started = client.execute_workflow("gated", given, async_execution=True)
    while client.get_workflow_run("gated", started.run_id)["status"] != "completed":
        time.sleep(5)


with DAG("sdk", schedule=None):
    wait() >> after()
