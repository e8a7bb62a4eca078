"""The example DAGs on Airflow as people deploy it: how they end, and where the API key is then.

SQLite with LocalExecutor; PostgreSQL with LocalExecutor and two triggerers; PostgreSQL with CeleryExecutor, Redis, two
workers and two triggerers. On the latter two, a triggerer and a worker die in the middle, which changes no result.
Beside the examples runs a DAG whose tasks come to every kind of bad end.

No place where such an Airflow keeps or tells anything holds a key, whatever became of its tasks. Most connections are
in the environment, so that nothing has a reason to hold one; one is in the database, enciphered. Searched are

- every file of ``AIRFLOW_HOME``: ``airflow.cfg``, the task logs of all tries and of the triggerers (``logs/dag_id=…``),
  the DAG processor's (``logs/dag_processor``), and what each component prints, Celery's workers and those that were
  killed included;
- the files of the database, SQLite's or PostgreSQL's, as they lie on the disk, deleted rows and logs included;
- every column of every table of the database: rendered templates (``rendered_task_instance_fields``), XComs (``xcom``),
  task instances with their resume arguments (``task_instance``, ``task_instance_history``), the audit log (``log``),
  ``dag_run``, the serialised DAGs, unpacked (``serialized_dag``), Celery's results (``celery_taskmeta``), all others;
- the arguments of the triggers (``trigger.kwargs``) while tasks wait in the triggerers;
- all that Redis was told, and the messages to Celery's workers, unpacked;
- what the API server answers to the GETs of the REST API, and of the UI's own, that take nothing but names.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import SimEmulator
from scripts.local_airflow import EXAMPLE_DAGS
from scripts.real_airflow import RealAirflow
from tests.airflow import bad_ends, expected, places
from tests.airflow.bad_ends import ENDS, KEY, STORED_KEY, WRONG_KEY
from tests.airflow.deployments import DEPLOYMENTS, DISTURBED, RETRIES, RUN_ID, Examples

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]

SECRETS = [key.encode() for key in (KEY, WRONG_KEY, STORED_KEY)]
OF_BAD_ENDS = Counter({("failing", "sync"): 1, ("slow", "async"): 1})
"""What the DAG of bad ends starts in Sim."""


CELERY = pytest.param("celery", marks=pytest.mark.nightly)


@pytest.fixture(scope="module", params=[pytest.param("standalone", marks=pytest.mark.nightly), "local", CELERY])
def deployment(request) -> str:
    """The name of an Airflow deployment."""
    return request.param


@pytest.fixture(scope="module")
def examples(deployment, tmp_path_factory) -> Iterator[Examples]:
    """An Airflow on which all DAGs have run."""
    folder = tmp_path_factory.mktemp(deployment)
    dags = folder / "dags"
    for source in (EXAMPLE_DAGS, Path(__file__).parent / "dags_bad_ends"):
        shutil.copytree(source, dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    with ExitStack() as stack:
        sim = stack.enter_context(SimEmulator(api_key=KEY))
        how = {**DEPLOYMENTS[deployment], "connections": stack.enter_context(bad_ends.connections(sim))}
        airflow = stack.enter_context(RealAirflow(folder / "home", dags, settings=RETRIES, **how))
        airflow.api("POST", "/connections", bad_ends.stored_connection(sim))
        examples = Examples(airflow, sim, ["sim_bad_ends"])
        examples.run(deaths=deployment in DISTURBED)
        yield examples


def test_example_tasks_end_in_the_expected_states(examples):
    assert without_bad_ends(examples.states) == expected.STATES


def test_example_tasks_return_the_expected_outputs(examples):
    assert expected.stable(without_bad_ends(examples.outputs)) == expected.outputs(examples.sim)


def test_one_run_per_task(examples):
    """A connection that was open when its worker died is the exception: Sim ends its run, and a retry needs another."""
    runs = examples.sim.runs
    cut = [run for run in runs if run.mode == "sync" and run.status == "cancelled"]
    assert Counter((run.workflow_id, run.mode) for run in runs if run not in cut) == (
        expected.runs(examples.sim.state.profile) + OF_BAD_ENDS
    )
    assert len(cut) == len(examples.killed.keys() - {"batch.several"})


def test_all_runs_are_finished(examples):
    assert [run.run_id for run in examples.sim.runs if not run.is_over] == []


@pytest.mark.parametrize("deployment", ["local", CELERY], indirect=True)
def test_kills_hit_running_processes(examples):
    assert examples.moved > 0
    tries = {name: (ti.try_number, examples.tis[name].try_number) for name, ti in examples.killed.items()}
    assert tries == dict.fromkeys(examples.killed, (1, 2))
    assert tries


@pytest.mark.parametrize("task_id", ENDS)
def test_each_task_failed_for_the_intended_reason(examples, task_id):
    ti = examples.tis[f"sim_bad_ends.{task_id}"]
    assert ti.state == "failed"
    assert ENDS[task_id] in examples.airflow.log(ti)


def test_no_file_contains_a_key(examples):
    assert holding(places.files(examples.airflow)) == []


def test_no_database_column_contains_a_key(examples):
    assert holding(places.columns(examples.airflow)) == []


def test_connections_of_the_environment_are_not_stored(examples):
    stored = [text for place, text in places.columns(examples.airflow) if place == "connection.conn_id"]
    assert stored == [b"sim_stored"]


def test_no_trigger_contains_a_key(examples):
    assert any(b'"slow"' in arguments for _, arguments in examples.triggers), "seen while they waited"
    assert holding(examples.triggers) == []


@pytest.mark.parametrize("deployment", [CELERY], indirect=True)
def test_no_api_response_contains_a_key(examples):
    dag_ids = ["sim_bad_ends", "example_sim_deferrable", "example_sim_approval"]
    answers = list(places.answers(examples.airflow, RUN_ID, dag_ids))
    assert holding(answers) == []
    run_id = examples.airflow.xcom(examples.tis["deferrable.summary"], "run_id").encode()
    of = "/api/v2/dags/example_sim_deferrable/dagRuns/manual__1/taskInstances/summary"
    telling = {place.partition("?")[0] for place, text in answers if run_id in text}
    there = {"logs/1", "links", "state-store", "xcomEntries/run_id"}
    assert {f"{of}/{name}" for name in there} <= telling, "the search finds what is there"
    assert dict(answers)["/api/v2/connections/sim_stored"].startswith(b'{"connection_id":"sim_stored"')


@pytest.mark.parametrize("deployment", [CELERY], indirect=True)
def test_no_celery_message_contains_a_key(examples):
    messages = list(places.messages(examples.airflow))
    assert holding(messages) == []
    sent = Counter(name for name, ti in examples.tis.items() for _, text in messages if ti.id.encode() in text)
    assert sent["sync.answer"] >= 1, "the search finds what is there"


def test_logs_contain_no_masked_values(examples):
    """Airflow replaces a connection's password in its logs by asterisks; nothing of ours had needed it.

    The key that a server throws back is replaced by ourselves: what a worker prints is not masked everywhere.
    """
    masked = {name for name, text in places.files(examples.airflow) if "task_id=" in name and b"***" in text}
    assert {name for name in masked if "task_id=throws_the_key_back" not in name} == set()


def test_search_finds_a_planted_key(examples):
    run_id = examples.airflow.xcom(examples.tis["deferrable.summary"], "run_id").encode()
    in_files = {name.partition("/")[0] for name, text in places.files(examples.airflow) if run_id in text}
    database = "airflow.db" if examples.airflow.database == "sqlite" else places.DATABASE
    assert {database, "logs"} <= in_files
    assert "xcom.value" in {place for place, text in places.columns(examples.airflow) if run_id in text}
    assert any(run_id in arguments for _, arguments in examples.triggers)


def without_bad_ends(by_name):
    """Values of the example DAGs only."""
    return {name: value for name, value in by_name.items() if not name.startswith("sim_bad_ends.")}


def holding(found: Iterable[places.Place]) -> list[str]:
    """The places that hold a key."""
    return [name for name, text in found if any(secret in text for secret in SECRETS)]
