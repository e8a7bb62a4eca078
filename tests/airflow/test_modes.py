"""Each way to wait, on whatever Airflow is installed, to its end: what the version matrix runs everywhere."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import SimEmulator
from scripts.real_airflow import RealAirflow
from tests.airflow.conftest import AT_ONCE, KEY, Ran, run_in
from tests.versions import AIRFLOW, needs_airflow

pytestmark = pytest.mark.airflow

DAGS = Path(__file__).parent / "dags_modes"
OPERATORS = ("held_open", "streamed", "asynchronous", "deferrable")
SENSORS = ("poke", "reschedule", "deferrable")
BATCHES = ("waiting", "deferrable")
GROUPS = (
    [f"sensor_{name}" for name in SENSORS],
    [f"operator_{name}" for name in OPERATORS],
    [f"batch_{name}" for name in BATCHES],
)
DAG_IDS = [dag_id for group in GROUPS for dag_id in group]


@pytest.fixture(scope="module")
def ran(new_home) -> Ran:
    """All DAGs, each group in its own process; the home is that of the sensors."""
    with SimEmulator(api_key=KEY) as sim, ThreadPoolExecutor(AT_ONCE) as pool:
        groups = [pool.submit(run_in, new_home(f"modes-{ids[0]}"), sim, "--dags", str(DAGS), *ids) for ids in GROUPS]
        ran = [group.result() for group in groups]
    reports = {name: report for each in ran for name, report in each.reports.items()}
    return replace(ran[0], printed="\n".join(each.printed for each in ran), reports=reports)


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
