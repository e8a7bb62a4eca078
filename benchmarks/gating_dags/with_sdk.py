"""DAGs that poll with the official SDK in a task, which their file imports at its top, as the SDK's samples do."""

from __future__ import annotations

import os
import sys
import time

from airflow.sdk import DAG, task

if "BENCH_SDK" in os.environ:
    sys.path.append(os.environ["BENCH_SDK"])
    from simstudio import SimStudioClient


@task
def after():
    """Downstream task of the run."""


@task
def wait(dag_run=None):
    """Start a run, poll it every 5 s, and return its output."""
    client = SimStudioClient(os.environ["BENCH_SIM_KEY"], os.environ["BENCH_SIM_URL"])
    given = {name: dag_run.conf[name] for name in ("number", "seconds", "ends_at") if name in dag_run.conf}
    started = client.execute_workflow("gated", given, async_execution=True)
    while (run := client.get_workflow_run("gated", started.run_id, include_output=True))["status"] != "completed":
        time.sleep(5)
    return run["output"]


with DAG("sdk", schedule=None):
    wait() >> after()
