"""Cursor over a workflow's finished runs: each is delivered at least once, and once if nothing was killed."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given, strategies as st

from airflow_provider_sim.client.models import RunStatus, WorkflowRun
from airflow_provider_sim.polling.finished_runs import OVERLAP, Cursor, cursors_of


def run(run_id: str, began: float | None) -> WorkflowRun:
    from airflow_provider_sim.emulator.clock import iso

    started_at = None if began is None else iso(began)
    return WorkflowRun(run_id=run_id, status=RunStatus.COMPLETED, workflow_id="w", started_at=started_at)


def stored(cursor: Cursor) -> Cursor:
    return cursors_of(json.loads(json.dumps({"w": asdict(cursor)})))["w"]


@pytest.mark.parametrize("began", [1010.0, None])
def test_delivered_run_is_not_opened_again(began):
    cursor = Cursor(since=1000.0)
    finished = run("r", began)
    cursor.saw(finished)
    assert cursor.open == ["r"]
    cursor.deliver(finished)
    cursor = stored(cursor)
    cursor.saw(finished)
    assert cursor.open == []


def test_open_run_stays_open_in_storage():
    cursor = Cursor(since=1000.0)
    cursor.saw(run("r", 1010.0))
    assert stored(cursor) == cursor


def test_delivered_runs_are_kept_while_a_poll_may_list_them():
    cursor = Cursor(since=1000.0)
    cursor.deliver(run("r", 1010.0))
    cursor.advance(1010.0)
    assert cursor.known == {"r": 1010.0}
    cursor.advance(1010.0 + OVERLAP)
    assert cursor.known == {}
    cursor.advance(900.0)
    assert cursor.since == 1010.0 + OVERLAP


@pytest.mark.parametrize("value", [None, 7, [], {}, {"since": "x"}, {"since": 1.0, "known": 7}])
def test_invalid_storage_is_ignored(value):
    assert cursors_of(value) == {}
    assert cursors_of({"w": value}) == {}


STEPS = st.sampled_from(["poll", "send", "kill", "save"])


@given(st.lists(st.tuples(st.integers(0, 9), STEPS), max_size=60))
def test_each_run_is_delivered_despite_kills(steps):
    """Ten runs, started a second apart; a kill loses what was not saved."""
    runs = [run(f"r{number}", 2000.0 + number) for number in range(10)]
    cursor = Cursor(since=1990.0)
    saved, sent, killed = asdict(cursor), [], False
    now = 2000.0

    def poll():
        for listed in runs:
            if cursor.since <= (listed.start_time or 0) <= now:
                cursor.saw(listed)
        cursor.advance(now - OVERLAP)

    def send(number):
        if f"r{number}" in cursor.open:
            sent.append(f"r{number}")
            cursor.deliver(runs[number])

    for number, step in steps:
        now += 20.0
        match step:
            case "poll":
                poll()
            case "send":
                send(number)
            case "save":
                saved = asdict(cursor)
            case "kill":
                killed = True
                cursor = cursors_of({"w": json.loads(json.dumps(saved))})["w"]
    now += 20.0
    poll()
    for number in range(10):
        send(number)
    assert set(sent) == {f"r{number}" for number in range(10)}
    assert killed or len(sent) == 10
