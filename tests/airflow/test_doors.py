"""A real Airflow: a person answers a run, a task waits by retries until less is used, callbacks start workflows."""

from __future__ import annotations

import shutil

import pytest

from airflow_provider_sim.emulator import SimEmulator
from scripts.local_airflow import EXAMPLE_DAGS
from scripts.real_airflow import REPO, RealAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]

DAGS = REPO / "tests" / "airflow" / "dags_doors"


@pytest.fixture(scope="module")
def sim():
    """A server whose account has a limit of a dollar."""
    with SimEmulator(plan="free") as sim:
        sim.state.resume_delay = 2.0
        yield sim


@pytest.fixture(scope="module")
def airflow(sim, tmp_path_factory):
    """An Airflow with the example of an approval and the DAGs of this test."""
    folder = tmp_path_factory.mktemp("airflow")
    dags = shutil.copytree(DAGS, folder / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE_DAGS / "example_sim_approval.py", dags)
    connections = {"sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key}}
    with RealAirflow(folder / "home", dags, connections=connections) as airflow:
        yield airflow


def test_paused_run_is_answered_with_hitl_operator(airflow, sim):
    airflow.trigger("example_sim_approval", run_id="a")
    decide = airflow.wait_for("a", "decide", "awaiting_input")
    [run] = sim.runs_of("paused")
    assert run.status == "paused"
    place = "/dags/example_sim_approval/dagRuns/a/taskInstances/decide/-1/hitlDetails"
    asked = airflow.api("GET", place)
    assert (asked["subject"], asked["body"]) == ("Sim asks", "Approve the plan?")
    # Airflow 3.3.2 fails a task whose answer comes before its scheduler has heard that the task waits.
    heard = "task_id='decide', run_id='a'"
    airflow.wait_until(lambda: airflow.scheduler_has_heard(heard), 120, "the scheduler to hear that the task waits")
    airflow.api("PATCH", place, {"chosen_options": ["Reject"], "params_input": {"comment": "not yet"}})
    airflow.wait_for("a", "decide", "success")
    done = airflow.wait_for("a", "done", "success")
    assert airflow.xcom(done)["result"] == {"approved": False, "comment": "not yet"}
    assert airflow.xcom(airflow.task_instance("a", "resume"))["run_id"] == run.run_id
    assert decide.state == "awaiting_input"
    assert len(sim.runs_of("paused")) == 1


def test_usage_operator_waits_by_retries(airflow, sim):
    sim.state.limits.usage = 0.95
    airflow.trigger("usage", run_id="u")
    airflow.wait_for("u", "room", "up_for_retry")
    sim.state.limits.usage = 0.2  # the next period
    room = airflow.wait_for("u", "room", "success")
    assert airflow.xcom(room)["percent_used"] == 20
    assert airflow.xcom(room)["credits"] == {"used": 40, "limit": 200, "remaining": 160}
    airflow.wait_for("u", "use", "success")


def test_notifier_starts_workflows_and_never_fails_a_callback(airflow, sim):
    inputs = dict.fromkeys(("of", "dag_id", "task_id", "exception", "state", "reason", "log_url"), "string")
    sim.workflow("agent", inputs=inputs)(lambda given: {"advice": "look at the column"})
    airflow.trigger("callbacks", run_id="c")
    load = airflow.wait_for("c", "load", "failed")
    airflow.wait_until(lambda: len(sim.runs_of("agent")) == 2, 60, "both callbacks")
    of_task, of_dag = sorted(sim.inputs_of("agent"), key=lambda given: given["of"], reverse=True)
    assert (of_task["of"], of_task["dag_id"], of_task["task_id"], of_task["exception"]) == (
        "the task load",
        "callbacks",
        "load",
        "ValueError: column 'price' holds text",
    )
    assert "/dags/callbacks/runs/c/tasks/load" in of_task["log_url"]
    assert (of_dag["of"], of_dag["dag_id"]) == ("the DAG callbacks", "callbacks")
    assert "was not started" in airflow.log(load), "the workflow 'nowhere'"
