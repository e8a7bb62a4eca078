"""The example DAGs on a real Airflow, to their end, against every server version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.profiles import PROFILES
from scripts.demo import DAG_IDS
from tests.airflow import expected
from tests.airflow.conftest import KEY, Ran, run_in

pytestmark = pytest.mark.airflow

WITHOUT_ASYNC_RUNS = [name for name, profile in PROFILES.items() if profile.receipt is None]
# Its sensors look for a minute for runs that it doesn't know: it takes longest, so it begins.
IN_ORDER = [*WITHOUT_ASYNC_RUNS, *(name for name in PROFILES if name not in WITHOUT_ASYNC_RUNS)]
AT_ONCE = 3
"""How many Airflows run at once: on two cores, since each of them sleeps for a third of its time."""


@pytest.fixture(scope="module")
def runs(request, new_home) -> Iterator[dict[str, Future[Ran]]]:
    """All examples, in one process for each of the server versions that are asked for."""

    def run(name: str) -> Ran:
        with SimEmulator(profile=name, api_key=KEY) as sim:
            return run_in(new_home(name), sim, *DAG_IDS)

    ours = [item for item in request.session.items if item.path == request.path and "ran" in item.fixturenames]
    wanted = {item.callspec.params["ran"] for item in ours}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(run, name) for name in IN_ORDER if name in wanted}


@pytest.fixture(scope="module", params=IN_ORDER)
def ran(request, runs) -> Ran:
    """What one of them did."""
    return runs[request.param].result()


@pytest.fixture
def profile(ran):
    """What the server can do."""
    return ran.sim.state.profile


@pytest.fixture
def finds_runs(profile) -> bool:
    """Whether the server knows of an asynchronous run when it is looked for."""
    return expected.finds_runs(profile)


def test_every_task_ends_as_it_should(ran, profile):
    assert {name: report.state for name, report in ran.reports.items()} == expected.states(profile)


def test_outputs(ran, profile):
    returned = {name: report.output for name, report in ran.reports.items()}
    assert expected.told(returned) == expected.outputs(ran.sim)
    assert "boom: this one fails" in returned["batch.several"][1]["error"]
    assert {name: returned[name] for name in expected.RUN_IDS} == {
        name: ran.reports[name].run_id for name in expected.RUN_IDS
    }
    for look in ("errors_and_usage.has_room", "usage.room"):
        assert (returned[look]["credits"] is not None) is profile.v2_on


def test_each_task_starts_one_run_and_each_retry_one_more(ran, profile):
    assert Counter((run.workflow_id, run.mode) for run in ran.sim.runs) == expected.runs(profile)


def test_xcoms_name_the_runs(ran, profile, finds_runs):
    """All of them where the server takes the id that we choose; before, those that it tells by itself."""
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
    assert set(named) == asynchronous | held_open | {
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
    assert right >= (set(named) if profile.run_ids else asynchronous if finds_runs else set())
    base, space = ran.sim.url, ran.sim.workspace_id
    for name, run_id in named.items():
        assert ran.reports[name].run_url == f"{base}/workspace/{space}/logs?executionId={run_id}"


def test_streamed_text_is_in_the_task_log(ran, profile):
    lines = [line in ran.printed for line in ("You wrote: Tell me of the sea. [", "It could be said in fewer words. [")]
    assert lines == [profile.stream, profile.stream]
    assert ran.printed.count("(before v0.4.9) knows no streams") == (0 if profile.stream else 2), (
        "two tasks ask for one"
    )


def test_a_run_that_was_held_open_instead_is_said_to_have_been(ran, finds_runs):
    ten_tasks = 0 if finds_runs else 10
    assert ran.printed.count("knows no asynchronous runs: it held the connection open until the run's end") == ten_tasks


def test_a_sensor_that_cant_find_a_run_says_why_and_where_its_output_is(ran, finds_runs):
    said = (
        "servers v0.5.0 to v0.5.15 have no queue at all. They run a workflow while it is being started; its output is"
    )
    assert (said in ran.printed) is not finds_runs
    if not finds_runs:
        output = ran.xcom("example_sim_async_sensor", "start", "output")
        assert output == {"result": {"slept": 3.0, "message": "take your time"}, "stdout": ""}


def test_the_failing_run_s_error_is_in_the_log(ran):
    assert ran.printed.count("boom: this one fails") >= 2, "once for each try"


def test_the_failure_was_told(ran):
    told = [given for given in ran.sim.inputs_of("echo_plain") if "failed" in str(given["message"])]
    assert [(given["message"], given["count"]) for given in told] == [
        ("example_sim_notifier.load failed: column 'price' holds text", 1)
    ]
