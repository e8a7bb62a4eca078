"""No place where a real Airflow keeps anything holds the API key, whatever became of its tasks.

Scheduler, DAG processor, API server, triggerer and workers run all examples, and a DAG whose tasks come to every kind
of bad end. The connections are in the environment, so that nothing has a reason to hold a key. Searched are

- every file of ``AIRFLOW_HOME``: ``airflow.cfg``, the task logs of all tries and of the triggerer (``logs/dag_id=…``),
  the DAG processor's (``logs/dag_processor``), what the components print (``components.log``), and ``airflow.db`` as it
  lies on the disk, deleted rows included;
- every column of every table of the metadata database: rendered templates (``rendered_task_instance_fields``), XComs
  (``xcom``), task instances with their resume arguments (``task_instance``, ``task_instance_history``), ``log``,
  ``dag_run``, the serialised DAGs, unpacked (``serialized_dag``), and all others;
- the arguments of the triggers (``trigger.kwargs``) while tasks wait in the triggerer;
- stdout and stderr of the process that ran it all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.state import SeenRequest
from scripts.demo import DAG_IDS, ON_PURPOSE
from scripts.local_airflow import EXAMPLE_DAGS
from tests.airflow import places
from tests.airflow.conftest import KEY, Ran, run_in
from tests.canned_server import Answer, canned, closed_port

pytestmark = pytest.mark.airflow

WRONG_KEY = "sk-sim-a-key-that-is-wrong-and-no-less-secret"
SECRETS = [KEY.encode(), WRONG_KEY.encode()]

STARTED = Answer(202, {"data": {"runId": "r-1", "statusUrl": "unused"}})
RUNNING = Answer(200, {"data": {"runId": "r-1", "workflowId": "echo", "status": "running"}})
HANGS_UP = Answer(silent=True)
MIRROR = Answer(400, {"error": {"code": "BAD_REQUEST", "message": f"Bad header x-api-key: {KEY}"}})

ENDS = {
    "failing_run": "boom: this one fails",
    "wrong_key": "Sim doesn't accept the API key",
    "key_with_a_line_break": "the API key holds a line break",
    "key_in_the_address": "the base URL holds a user name or password",
    "nobody_listens": "can't be reached",
    "hangs_up_on_a_worker": "broke before the whole answer was there",
    "hangs_up_on_the_triggerer": "Lost sight of run 'r-1'",
    "throws_the_key_back": "Bad header x-api-key",
}
"""The tasks of ``sim_bad_ends`` that fail, and what is in their logs."""

waiting: list[places.Place] = []
"""The triggers that were seen waiting."""


@pytest.fixture(scope="module")
def searched(new_home, tmp_path_factory) -> Iterator[Ran]:
    """An Airflow that has done it all."""
    home, dags = new_home("searched"), tmp_path_factory.mktemp("dags")
    for folder in (EXAMPLE_DAGS, Path(__file__).parent / "dags"):
        shutil.copytree(folder, dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    def look_for_triggers(request: SeenRequest) -> None:
        if request.method == "GET" and "/runs/" in request.path:
            waiting.extend(places.triggers(home))

    with ExitStack() as stack:
        sim = stack.enter_context(SimEmulator(api_key=KEY))
        sim.on_request(look_for_triggers)
        hangs_up = stack.enter_context(canned(HANGS_UP))
        later = stack.enter_context(canned(("/execute", STARTED), ("/runs/", RUNNING), ("/runs/", HANGS_UP)))
        mirror = stack.enter_context(canned(MIRROR))
        v2 = {"password": KEY, "extra": {"api_version": "v2", "workspace_id": "w"}}
        yield run_in(
            home,
            sim,
            "--components",
            f"--dags={dags}",
            *DAG_IDS,
            "sim_bad_ends",
            sim_wrong_key={"host": sim.url, "password": WRONG_KEY},
            sim_broken_key={"host": sim.url, "password": f"{KEY}\n"},
            sim_key_in_the_address={"host": f"http://me:{KEY}@127.0.0.1", "password": KEY},
            sim_nobody={"host": f"http://127.0.0.1:{closed_port()}", **v2},
            sim_hangs_up={"host": hangs_up.url, **v2},
            sim_hangs_up_later={"host": later.url, **v2},
            sim_mirror={"host": mirror.url, **v2},
        )


def test_the_examples_end_as_they_should_by_scheduler_workers_and_triggerer_too(searched):
    ended = {
        (report.dag_id, report.task_id): report.state
        for report in searched.reports.values()
        if report.dag_id != "sim_bad_ends" and report.state != "success"
    }
    assert ended == ON_PURPOSE


@pytest.mark.parametrize("task_id", ENDS)
def test_each_task_came_to_the_end_that_is_meant(searched, task_id):
    assert searched.reports[f"sim_bad_ends.{task_id}"].state == "failed"
    logs = [text for name, text in places.files(searched.home) if f"/task_id={task_id}/" in name]
    assert any(ENDS[task_id].encode() in text for text in logs)


def test_no_file_holds_a_key(searched):
    assert holding(places.files(searched.home)) == []


def test_no_column_of_the_database_holds_a_key(searched):
    assert holding(places.columns(searched.home)) == []


def test_no_connection_is_in_the_database(searched):
    assert [place for place, _ in places.columns(searched.home) if place.startswith("connection.")] == []


def test_no_trigger_holds_a_key(searched):
    assert any(b'"slow"' in arguments for _, arguments in waiting), "seen while they waited"
    assert holding(waiting) == []


def test_nothing_printed_holds_a_key(searched):
    assert not any(secret in searched.printed.encode() for secret in SECRETS)


def test_nothing_had_to_be_masked(searched):
    """Airflow replaces a connection's password in its logs by asterisks; nothing of ours had needed it.

    The key that a server throws back is replaced by ourselves: what a worker prints is not masked everywhere.
    """
    masked = {name for name, text in places.files(searched.home) if "task_id=" in name and b"***" in text}
    assert {name for name in masked if "task_id=throws_the_key_back" not in name} == set()


def test_the_search_finds_what_is_there(searched):
    run_id = (searched.reports["deferrable.summary"].run_id or "").encode()
    in_files = {name.partition("/")[0] for name, text in places.files(searched.home) if run_id in text}
    assert in_files == {"airflow.db", "components.log", "logs"}
    in_columns = {place for place, text in places.columns(searched.home) if run_id in text}
    assert "xcom.value" in in_columns
    assert any(run_id in arguments for _, arguments in waiting)
    assert run_id in searched.printed.encode()


def holding(found: Iterator[places.Place] | list[places.Place]) -> list[str]:
    """The places that hold a key."""
    return [name for name, text in found if any(secret in text for secret in SECRETS)]
