"""The example DAGs on a real Airflow, to their end, against every server version."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.profiles import PROFILES
from scripts.demo import DAG_IDS
from tests.airflow import expected
from tests.airflow.conftest import AT_ONCE, KEY, Ran, run_in

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def runs(request, new_home) -> Iterator[dict[str, Future[Ran]]]:
    """All example DAGs, in one process per server version."""

    def run(name: str) -> Ran:
        with SimEmulator(profile=name, api_key=KEY) as sim:
            return run_in(new_home(name), sim, *DAG_IDS)

    ours = [item for item in request.session.items if item.path == request.path and "ran" in item.fixturenames]
    wanted = {item.callspec.params["ran"] for item in ours}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(run, name) for name in PROFILES if name in wanted}


NEWEST = "v0.8"
"""The server of each CI run; the others are tested nightly."""


@pytest.fixture(
    scope="module",
    params=[name if name == NEWEST else pytest.param(name, marks=pytest.mark.nightly) for name in PROFILES],
)
def ran(request, runs) -> Ran:
    """Result of one example DAG."""
    return runs[request.param].result()


@pytest.fixture
def profile(ran):
    """The server's profile."""
    return ran.sim.state.profile


def test_example_tasks_end_in_the_expected_states(ran, profile):
    assert {name: report.state for name, report in ran.reports.items()} == expected.states(profile)


def test_example_tasks_return_the_expected_outputs(ran, profile):
    returned = {name: report.output for name, report in ran.reports.items()}
    assert expected.stable(returned) == expected.outputs(ran.sim)
    assert "boom: this one fails" in returned["batch.several"][1]["error"]
    assert {name: returned[name] for name in expected.RUN_IDS} == {
        name: ran.reports[name].run_id for name in expected.RUN_IDS
    }
    for look in ("errors_and_usage.has_room", "usage.room"):
        assert (returned[look]["credits"] is not None) is profile.v2_on


def test_one_run_per_task_and_retry(ran, profile):
    assert Counter((run.workflow_id, run.mode) for run in ran.sim.runs) == expected.runs(profile)


def test_run_id_xcoms(ran, profile):
    """All pushed run IDs are in Sim if the server accepts ours; on older servers, only those of asynchronous runs."""
    asynchronous = {
        "approval.ask",
        "approval.resume",
        "async_sensor.start",
        "cancel.start",
        "deferrable.summary",
        "deferrable.start",
        "mapped.review[0]",
        "mapped.review[1]",
        "mapped.review[2]",
        "taskflow.write[0]",
        "taskflow.write[1]",
    }
    named = {name: report.run_id for name, report in ran.reports.items() if report.run_id}
    held_open = {"deploy.trial"} if profile.v2_on else set()
    asynchronous |= {"files.upload"} if profile.v2_on else set()
    assert set(named) == asynchronous | held_open | {
        "branch.triage",
        "errors_and_usage.judge",
        "files.read",
        "files.compare",
        "streaming.story",
        "sync.answer",
        "taskflow.outline",
        "usage.digest",
    }
    in_sim = {run.run_id for run in ran.sim.runs}
    right = {name for name, run_id in named.items() if run_id in in_sim}
    assert right >= (set(named) if profile.run_ids else asynchronous)
    base, space = ran.sim.url, ran.sim.workspace_id
    for name, run_id in named.items():
        assert ran.reports[name].run_url == f"{base}/workspace/{space}/logs?executionId={run_id}"


def test_streamed_text_is_in_the_task_log(ran):
    for line in ("You wrote: Describe the sea.", "It could be said in fewer words."):
        assert re.search(rf"{re.escape(line)} +\[", ran.printed), "a log line of its own, not part of the output"


def test_error_of_a_failed_run_is_in_the_task_log(ran):
    assert ran.printed.count("boom: this one fails") >= 2, "once for each try"


def test_failure_notifier_started_a_run(ran):
    failures = [given for given in ran.sim.inputs_of("echo_plain") if "failed" in str(given["message"])]
    assert [(given["message"], given["count"]) for given in failures] == [
        ("example_sim_notifier.load failed: column 'price' holds text", 1)
    ]
