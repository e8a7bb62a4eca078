"""The example DAGs on a real Airflow, to their end, against every server version."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.profiles import PROFILES
from scripts.demo import DAG_IDS
from scripts.local_airflow import EXAMPLE_DAGS
from tests.airflow.conftest import KEY, Ran, run_in

pytestmark = pytest.mark.airflow

WITHOUT_ASYNC_RUNS = [name for name, profile in PROFILES.items() if profile.receipt is None]
# Its sensors look for a minute for runs that it doesn't know: it takes longest, so it begins.
IN_ORDER = [*WITHOUT_ASYNC_RUNS, *(name for name in PROFILES if name not in WITHOUT_ASYNC_RUNS)]
AT_ONCE = 3
"""How many Airflows run at once: on two cores, since each of them sleeps for a third of its time."""

CANT_BE_FOUND = {
    "async_sensor.done": "failed",
    "async_sensor.publish": "upstream_failed",
    "deferrable.done": "failed",
    "approval.resume": "failed",
    "approval.done": "upstream_failed",
}
"""What an example can't do where a run that is over can't be looked up later."""

CANT_BE_DEPLOYED = {"deploy.deploy": "failed", "deploy.trial": "upstream_failed", "deploy.go_back": "failed"}
"""What an example can't do without v2."""


@pytest.fixture(scope="module")
def runs(request, new_home) -> Iterator[dict[str, Future[Ran]]]:
    """All examples, in one process for each of the server versions that are asked for."""

    def run(name: str) -> Ran:
        with SimEmulator(profile=name, api_key=KEY) as sim:
            return run_in(new_home(name), sim, *DAG_IDS)

    wanted = {item.callspec.params["ran"] for item in request.session.items if "ran" in item.fixturenames}
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
    return profile.name not in WITHOUT_ASYNC_RUNS


def plain(given: dict[str, Any]) -> dict[str, Any]:
    """What ``echo_plain`` returns."""
    return {"result": {"message": "", "count": 0, "payload": "", **given}, "stdout": ""}


def told(value: Any) -> Any:
    """A value without the id that Airflow gave to its run."""
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    return re.sub(r"manual__[^'\"]+", "AIRFLOW-RUN", value) if isinstance(value, str) else value


def test_every_task_ends_as_it_should(ran, finds_runs, profile):
    expected = {
        "approval.ask": "success",
        "approval.decide": "success",
        "approval.answer": "success",
        "approval.resume": "success",
        "approval.done": "success",
        "async_sensor.start": "success",
        "async_sensor.done": "success",
        "async_sensor.publish": "success",
        "batch.letters": "success",
        "batch.review": "success",
        "batch.report": "success",
        "batch.several": "success",
        "batch.report_several": "success",
        "deferrable.summary": "success",
        "deferrable.start": "success",
        "deferrable.done": "success",
        "event_driven.report": "success",
        "errors_and_usage.has_room": "success",
        "errors_and_usage.judge": "failed",
        "errors_and_usage.fall_back": "success",
        "cancel.start": "success",
        "cancel.cancel": "success",
        "deploy.deploy": "success",
        "deploy.trial": "success",
        "deploy.go_back": "skipped",
        "files.read": "success",
        "files.compare": "success",
        "files.names": "success",
        "mapped.tickets": "success",
        "mapped.review[0]": "success",
        "mapped.review[1]": "success",
        "mapped.review[2]": "success",
        "mapped.report": "success",
        "notifier.load": "failed",
        "notifier.go_on": "success",
        "streaming.story": "success",
        "streaming.count_words": "success",
        "sync.answer": "success",
        "sync.publish": "success",
        "usage.room": "success",
        "usage.digest": "success",
        "taskflow.outline": "success",
        "taskflow.chapters": "success",
        "taskflow.write[0]": "success",
        "taskflow.write[1]": "success",
    }
    if not finds_runs:
        expected |= CANT_BE_FOUND
    if not profile.cancel:
        expected["cancel.cancel"] = "failed"
    if not profile.v2_on:
        expected |= CANT_BE_DEPLOYED
    assert {name: report.state for name, report in ran.reports.items()} == expected


def test_outputs(ran, finds_runs, profile):
    outputs = {name: told(report.output) for name, report in ran.reports.items()}
    asked, resumed = outputs.pop("approval.ask"), outputs.pop("approval.resume")
    assert (asked["question"], resumed and resumed["status"]) == (
        ("Approve the plan?", "completed") if finds_runs else (None, None)
    )
    assert outputs.pop("approval.decide")["chosen_options"] == ["Approve"]
    reviews, several = outputs.pop("batch.review"), outputs.pop("batch.several")
    assert [review["output"] for review in reviews] == [plain(letter) for letter in outputs["batch.letters"]]
    assert [result.get("output") for result in several] == [plain({"message": "this one is fine"}), None, None]
    assert "boom: this one fails" in several[1]["error"]
    for start in ("async_sensor.start", "cancel.start", "deferrable.start"):
        assert outputs.pop(start) == ran.reports[start].run_id
    for look in ("errors_and_usage.has_room", "usage.room"):
        usage = outputs.pop(look)
        assert (usage["percent_used"], usage["usd"]["used"]) == (0, 0)
        assert (usage["credits"] is not None) is profile.v2_on
    cancelled = outputs.pop("cancel.cancel")
    assert (cancelled and cancelled["status"]) == (
        ("cancelled" if finds_runs else "completed") if profile.cancel else None
    )
    deployed = outputs.pop("deploy.deploy")
    assert (deployed and deployed["version"]) == (2 if profile.v2_on else None)
    [file] = outputs.pop("files.read")["result"]
    assert file["size"] == (EXAMPLE_DAGS / "example_sim_files.py").stat().st_size
    assert outputs.pop("files.compare")
    slept = {"result": {"slept": 3.0, "message": "take your time"}, "stdout": ""}
    summary = {"result": {"slept": 2.0, "message": "AIRFLOW-RUN"}, "stdout": ""}
    echo = {"echo": {"message": "Good morning, it is AIRFLOW-RUN", "count": 3, "payload": ""}, "ok": True}
    tickets = [{"message": f"ticket {number}", "count": number} for number in (17, 42, 99)]
    text = "You wrote: Tell me of the sea.\nHere is what I think of it.\nIt could be said in fewer words.\n"
    agent = ran.sim.state.workflows["streaming"].block_id
    story = {agent: text} if profile.stream else {"content": text, "model": "emulated", "tokens": {"total": 21}}
    titles = [f"An outline on the sea, chapter {number}" for number in (1, 2)]
    written = [plain({"message": title, "payload": {"tone": "plain"}}) for title in titles]
    approved = {"approved": True, "comment": "by all means"}
    expected = {
        "approval.answer": approved,
        "approval.done": {"result": approved, "stdout": ""},
        "async_sensor.done": slept,
        "async_sensor.publish": f"The run ended well with {slept}",
        "batch.letters": [{"message": f"letter {number}", "count": number} for number in range(20)],
        "batch.report": {"completed": 20},
        "batch.report_several": {"completed": 1, "failed": 1, "skipped": 1},
        "deferrable.summary": summary,
        "deferrable.done": plain({"message": "built on the summary", "payload": summary}),
        "errors_and_usage.judge": None,
        "errors_and_usage.fall_back": "Sim could not judge; a person will",
        "deploy.trial": plain({"message": "does it work?"}) if profile.v2_on else None,
        "deploy.go_back": None,
        "event_driven.report": [],
        "files.names": ["example_sim_files.py (text/x-python)", "tickets.csv (text/csv)"],
        "mapped.tickets": tickets,
        **{f"mapped.review[{index}]": plain(ticket) for index, ticket in enumerate(tickets)},
        "mapped.report": "ticket 17, ticket 42, ticket 99",
        "usage.digest": plain({"message": "the day's digest"}),
        "notifier.load": None,
        "notifier.go_on": "the agent has been told",
        "streaming.story": story,
        "streaming.count_words": 21 if profile.stream else 24,
        "sync.answer": {"data": echo, "status": 200, "headers": {"Content-Type": "application/json"}},
        "sync.publish": f"Sim says: {echo}",
        "taskflow.outline": plain({"message": "An outline on the sea", "payload": {"asked_by": "AIRFLOW-RUN"}}),
        "taskflow.chapters": titles,
        **{f"taskflow.write[{index}]": output for index, output in enumerate(written)},
    }
    if not finds_runs:
        expected |= dict.fromkeys(CANT_BE_FOUND.keys() & outputs.keys())
    assert outputs == expected


def test_each_task_starts_one_run_and_each_retry_one_more(ran, profile):
    queued = "async" if profile.receipt else "sync"
    streamed = "stream" if profile.stream else "sync"
    assert Counter((run.workflow_id, run.mode) for run in ran.sim.runs) == Counter(
        {
            ("slow", queued): 3,
            ("echo_plain", queued): 7 + 20 + 1,
            ("paused", queued): 1,
            ("failing", "sync"): 2,
            ("streaming", streamed): 1,
            ("echo", "sync"): 1,
        }
    ) + Counter(
        [
            ("failing", queued),
            ("file_echo", "sync"),
            ("file_echo", streamed),
            *[("echo_plain", "sync")] * (3 if profile.v2_on else 2),
        ]
    )


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
