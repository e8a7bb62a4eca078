"""SimNotifier as the callback of a deadline, on a real Airflow."""

from __future__ import annotations

import pytest

from airflow_provider_sim.emulator import SimEmulator
from scripts.real_airflow import RealAirflow
from tests.versions import needs_airflow

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.filterwarnings("default"),
    needs_airflow("3.1", "deadlines"),
]

SOURCE = """
import time
from datetime import timedelta

from airflow.sdk import DAG, task
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

try:
    from airflow.sdk import AsyncCallback
except ImportError:
    from airflow.sdk.definitions.deadline import AsyncCallback

from airflow_provider_sim.notifications.sim import SimNotifier

alert = DeadlineAlert(
    reference=DeadlineReference.DAGRUN_QUEUED_AT,
    interval=timedelta(seconds=1),
    callback=AsyncCallback(SimNotifier, kwargs={"workflow_id": "agent"}),
)
with DAG("late", schedule=None, deadline=alert):
    @task
    def work():
        time.sleep(30)

    work()
"""


def test_notifier_reports_the_late_dag_run(tmp_path):
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "late.py").write_text(SOURCE)
    with SimEmulator() as sim:
        sim.workflow("agent")(lambda given: {})
        connections = {"sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key}}
        with RealAirflow(tmp_path / "home", dags, connections=connections, database="sqlite") as airflow:
            run_id = airflow.trigger("late")
            airflow.wait_until(lambda: bool(sim.inputs_of("agent")), 180, "the deadline's callback")
        [given] = sim.inputs_of("agent")
    assert (given["dag_id"], given["dag_run_id"], given["state"]) == ("late", run_id, "running")
    assert given["reason"].startswith("deadline missed: 20")
    assert given["task_id"] is None
