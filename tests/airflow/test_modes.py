"""Each way to wait, on whatever Airflow is installed, to its end: what the version matrix runs everywhere."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import SimEmulator
from scripts.real_airflow import RealAirflow
from tests.airflow.conftest import KEY, Ran, run_in
from tests.versions import AIRFLOW, needs_airflow

pytestmark = pytest.mark.airflow

DAGS = Path(__file__).parent / "dags_modes"
OPERATORS = ("held_open", "streamed", "asynchronous", "deferrable")
SENSORS = ("poke", "reschedule", "deferrable")
BATCHES = ("waiting", "deferrable")
DAG_IDS = [
    *(f"operator_{name}" for name in OPERATORS),
    *(f"sensor_{name}" for name in SENSORS),
    *(f"batch_{name}" for name in BATCHES),
]


@pytest.fixture(scope="module")
def ran(new_home) -> Ran:
    """All of them, one after the other."""
    with SimEmulator(api_key=KEY) as sim:
        return run_in(new_home("modes"), sim, "--dags", str(DAGS), *DAG_IDS)


rescheduled_on_3_0 = pytest.mark.xfail(
    AIRFLOW.release[:2] == (3, 0),
    reason="dag.test() of Airflow 3.0 hands rescheduled sensors the time of their first look as text",
)


def each(dag_ids):
    return [pytest.param(name, marks=rescheduled_on_3_0 if name == "sensor_reschedule" else ()) for name in dag_ids]


@pytest.mark.parametrize("dag_id", each(DAG_IDS))
def test_all_tasks_succeed(ran, dag_id):
    states = {name: report.state for name, report in ran.reports.items() if report.dag_id == dag_id}
    assert set(states.values()) == {"success"}, ran.printed[-20_000:]


@pytest.mark.parametrize("dag_id", each(name for name in DAG_IDS if not name.startswith("batch")))
def test_output_equals_the_run_output(ran, dag_id):
    assert "hi" in str(ran.reports[f"{dag_id}.run"].output)


@pytest.mark.parametrize("name", BATCHES)
def test_batch_outputs_are_in_order(ran, name):
    outputs = ran.reports[f"batch_{name}.run"].output
    assert [message for output in outputs for message in ("one", "two", "three") if message in str(output)] == [
        "one",
        "two",
        "three",
    ]


def test_one_run_per_task(ran):
    assert len(ran.sim.runs) == len(OPERATORS) + len(SENSORS) + 3 * len(BATCHES)
    assert {run.status for run in ran.sim.runs} == {"completed"}


def test_sensor_was_rescheduled(ran):
    with closing(sqlite3.connect(ran.home / "airflow.db")) as database:
        [(times,)] = database.execute("SELECT count(*) FROM task_reschedule")
    assert times


@needs_airflow("3.0", "the API server, which the real Airflow of these tests has")
def test_worker_reschedules_a_sensor(tmp_path):
    with SimEmulator(api_key=KEY) as sim:
        connections = {"sim_default": json.loads(sim.connection())}
        with RealAirflow(tmp_path, DAGS, connections=connections, database="sqlite") as airflow:
            run = airflow.trigger("sensor_reschedule")
            sensor = airflow.wait_for(run, "run", "success", "failed", "upstream_failed")
            [(times,)] = airflow.query("SELECT count(*) FROM task_reschedule")
    assert (sensor.state, [run.status for run in sim.runs]) == ("success", ["completed"])
    assert times
