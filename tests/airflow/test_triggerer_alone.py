"""A real Airflow starts and ends tasks in its triggerer: with templates, XComs, failures and skips as from a worker."""

from __future__ import annotations

import pytest

from airflow_provider_sim.emulator import BlockError, SimEmulator
from scripts.real_airflow import REPO, RealAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]

DAGS = REPO / "tests" / "airflow" / "dags_triggerer_alone"
ENDS = {
    "sensed": ("success", "success"),
    "started_only": ("success", "success"),
    "failing": ("failed", "upstream_failed"),
    "skipped": ("skipped", "skipped"),
    "late": ("failed", "upstream_failed"),
    "ended": ("success", "success"),
}
"""How each DAG's task that waits ends, and the one after it."""


def fail(given):
    raise BlockError("no luck today")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """An Airflow in which all DAGs have run."""
    with SimEmulator() as sim:
        inputs = {"message": "string"}
        sim.workflow("brief", duration=3.0, inputs=inputs)(lambda given: {"said": given["message"]})
        sim.workflow("failing_soon", duration=3.0)(fail)
        sim.workflow("endless", duration=float("inf"))(lambda given: {})
        connections = {"sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key}}
        with RealAirflow(tmp_path_factory.mktemp("airflow") / "home", DAGS, connections=connections) as airflow:
            for dag_id in ENDS:
                airflow.trigger(dag_id, run_id=dag_id)
            for dag_id, (state, after) in ENDS.items():
                airflow.wait_for(dag_id, "done", state, patience=120)
                airflow.wait_for(dag_id, "use", after, patience=120)
            yield airflow


@pytest.mark.parametrize(
    ("dag_id", "expected"), [("sensed", 0), ("started_only", 1), ("failing", 1), ("late", 1), ("ended", 1)]
)
def test_worker_processes(airflow, dag_id, expected):
    [row] = airflow.query(
        "SELECT queued_dttm, pid FROM task_instance WHERE run_id = :run_id AND task_id = 'done'", run_id=dag_id
    )
    if expected == 0:
        assert (row.queued_dttm, row.pid) == (None, None)
    else:
        assert row.pid is not None


def test_templates_and_xcoms(airflow):
    done = airflow.task_instance("sensed", "done")
    assert airflow.xcom(done) == {"said": "sensed"}
    assert airflow.xcom(airflow.task_instance("sensed", "use")) == {"said": "sensed"}
    assert airflow.xcom(done, "output_is_display_copy") is False
    run_id = airflow.xcom(airflow.task_instance("sensed", "start"))
    assert airflow.xcom(done, "approval_url").endswith(f"/resume/brief/{run_id}")


def test_ended_there_alone(airflow):
    assert airflow.xcom(airflow.task_instance("ended", "use")) == {"said": ""}
    assert airflow.xcom(airflow.task_instance("started_only", "use")) == {"said": "started_only"}


def test_a_failed_run_fails_at_once_with_sim_s_words(airflow):
    done = airflow.task_instance("failing", "done")
    assert done.try_number == 1, "looking again finds the same"
    assert "no luck today" in airflow.log(done)


def test_a_timeout_is_the_sensor_s(airflow):
    assert "AirflowSensorTimeout" in airflow.log(airflow.task_instance("late", "done"))
