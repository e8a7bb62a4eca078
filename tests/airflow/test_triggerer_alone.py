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
    "resumed": ("success", "success"),
    "unstorable": ("failed", "upstream_failed"),
}
"""How each DAG's task that waits ends, and the one after it."""


ODD = {"text": "a\ud800\u4e16", "number": 2**70, "null": None, "escaped": "\\u0000"}


def fail(given):
    raise BlockError("no luck today")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """An Airflow in which all DAGs have run."""
    with SimEmulator() as sim:
        inputs = {"message": "string"}
        sim.workflow("brief", duration=3.0, inputs=inputs)(lambda given: {"said": given["message"]})
        sim.workflow("failing_soon", duration=3.0)(fail)
        sim.workflow("listed", duration=6.0)(lambda given: [1, 2, 3])
        sim.workflow("endless", duration=float("inf"))(lambda given: {})
        sim.workflow("odd", duration=3.0)(lambda given: ODD)
        sim.workflow("with_null", duration=3.0)(lambda given: {"text": "a\0b"})
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
def test_number_of_worker_processes(airflow, dag_id, expected):
    [row] = airflow.query(
        "SELECT queued_dttm, pid FROM task_instance WHERE run_id = :run_id AND task_id = 'done'", run_id=dag_id
    )
    if expected == 0:
        assert (row.queued_dttm, row.pid) == (None, None)
    else:
        assert row.pid is not None


def test_start_from_trigger_renders_templates_and_pulls_xcoms(airflow):
    done = airflow.task_instance("sensed", "done")
    assert airflow.xcom(done) == {"said": "sensed"}
    assert airflow.xcom(airflow.task_instance("sensed", "use")) == {"said": "sensed"}
    run_id = airflow.xcom(airflow.task_instance("sensed", "start"))
    assert airflow.xcom(done, "run_details")["run_id"] == run_id
    assert airflow.xcom(done, "run_url").startswith("http")


def test_end_from_trigger_finishes_in_the_triggerer(airflow):
    assert airflow.xcom(airflow.task_instance("ended", "use")) == {"said": ""}
    assert airflow.xcom(airflow.task_instance("started_only", "use")) == {"said": "started_only"}


def test_output_in_the_trigger_s_event_survives_airflow_s_database(airflow):
    """PostgreSQL stores neither U+0000 nor halves of surrogate pairs in JSON; the event has the output as text."""
    assert airflow.xcom(airflow.task_instance("resumed", "use")) == {
        **ODD,
        "text": "a\ufffd\u4e16",
        "number": str(2**70),
    }
    unstorable = airflow.log(airflow.task_instance("unstorable", "done"))
    assert "can't store the output" in unstorable
    assert "U+0000" in unstorable


def test_failed_run_fails_the_sensor_with_sims_message(airflow):
    done = airflow.task_instance("failing", "done")
    assert done.try_number == 1, "looking again finds the same"
    assert "no luck today" in airflow.log(done)


def test_timeout_is_a_sensor_timeout(airflow):
    assert "AirflowSensorTimeout" in airflow.log(airflow.task_instance("late", "done"))


WAITING = ("pokes", "defers", "starts_in_triggerer", "worker", "operator")


@pytest.fixture(scope="module")
def on_workers(airflow):
    """The DAG run whose tasks only workers can finish."""
    airflow.trigger("on_workers", run_id="on_workers")
    airflow.wait_until(lambda: is_over(airflow, "on_workers"), 240, "the DAG run's end")


@pytest.fixture(scope="module")
def links(airflow):
    """The links of tasks while they wait, from Airflow's API."""
    airflow.trigger("waiting", run_id="waiting")
    links = {}

    def all_linked():
        for task_id in WAITING:
            path = f"/dags/waiting/dagRuns/waiting/taskInstances/{task_id}/links"
            waits = airflow.task_instance("waiting", task_id).state in ("running", "deferred")
            found = airflow.api("GET", path)["extra_links"] if waits else {}
            if found and all(found.values()):
                links.setdefault(task_id, found)
        return set(links) == set(WAITING) or is_over(airflow, "waiting")

    airflow.wait_until(all_linked, 120, "the links of tasks that wait")
    return links


@pytest.mark.usefixtures("on_workers")
class TestOnWorkers:
    """``end_from_trigger`` for tasks that only a worker can finish."""

    def test_all_tasks_succeed(self, airflow):
        states = {ti.task_id: ti.state for ti in airflow.task_instances("on_workers")}
        assert set(states.values()) == {"success"}, states

    @pytest.mark.parametrize("suffix", ["", "_sensor"], ids=["operator", "sensor"])
    def test_worker_finishes_the_task(self, airflow, suffix):
        def log(name):
            return airflow.log(airflow.task_instance("on_workers", f"{name}{suffix}"))

        assert "SUCCESS CALLBACK" in log("callback")
        assert "POST EXECUTE" in log("post_execute")
        assert airflow.xcom(airflow.task_instance("on_workers", f"multiple_outputs{suffix}"), "said") is not None
        events = airflow.query(
            "SELECT id FROM asset_event WHERE source_run_id = 'on_workers' AND source_task_id = :task",
            task=f"outlets{suffix}",
        )
        assert len(events) == 1
        assert "only a worker supports: outlets" in log("outlets")

    @pytest.mark.parametrize("task_id", ["use_run", "use_sensor"])
    def test_downstream_tasks_are_mapped_over_the_output(self, airflow, task_id):
        mapped = [ti for ti in airflow.task_instances("on_workers") if ti.task_id == task_id]
        assert sorted(ti.map_index for ti in mapped) == [0, 1, 2]

    def test_task_with_an_xcom_argument_starts_on_a_worker(self, airflow):
        [row] = airflow.query("SELECT pid FROM task_instance WHERE run_id = 'on_workers' AND task_id = 'pulls_xcom'")
        assert row.pid is not None, "started on a worker"


class TestWaiting:
    """Links while tasks wait, and ``execution_timeout``."""

    def test_links_work_while_a_task_waits(self, links):
        assert set(links) == set(WAITING)
        for found in links.values():
            assert set(found) == {"Sim run", "Sim approval"}
            assert all(url.startswith("http") for url in found.values())

    @pytest.mark.usefixtures("links")
    def test_execution_timeout_counts_from_the_start(self, airflow):
        airflow.wait_until(lambda: is_over(airflow, "waiting"), 120, "the DAG run's end")
        columns = "task_id, state, start_date, end_date"
        rows = airflow.query(f"SELECT {columns} FROM task_instance WHERE run_id = 'waiting' AND task_id != 'start'")
        assert {row.task_id: row.state for row in rows} == dict.fromkeys(WAITING, "failed")
        seconds = {row.task_id: (row.end_date - row.start_date).total_seconds() for row in rows}
        assert all(24 < took < 60 for took in seconds.values()), seconds


def is_over(airflow, run_id):
    """Whether all tasks of a DAG run are over."""
    found = airflow.task_instances(run_id)
    return bool(found) and all(ti.is_over for ti in found)
