"""What was told, and what is still to be told: whatever happens in between, each run once."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sim.client.models import RunStatus, WorkflowRun
from airflow_provider_sim.watch.position import OVERLAP, Position


def run(run_id: str, began: float, status: RunStatus = RunStatus.COMPLETED) -> WorkflowRun:
    from airflow_provider_sim.client.dialects.exchange import utc

    return WorkflowRun(run_id=run_id, status=status, workflow_id="w", started_at=utc(began))


def test_a_run_is_wanted_once():
    position = Position(since=1000.0)
    ended = run("r", 1010.0)
    position.saw(ended)
    assert position.wants(ended)
    position.on_way.add("r")
    assert not position.wants(ended)
    position.confirm("r", ended.began)
    position.saw(ended)
    assert not position.wants(ended)


def test_what_is_on_its_way_is_open_for_whoever_comes_after_a_death():
    position = Position(since=1000.0)
    position.saw(run("r", 1010.0))
    position.on_way.add("r")
    again = Position.of_json(json.loads(json.dumps(position.as_json())))
    assert again is not None
    assert again.wants(run("r", 1010.0))


def test_what_was_told_is_kept_as_long_as_it_may_be_listed():
    position = Position(since=1000.0)
    position.saw(run("r", 1010.0))
    position.confirm("r", 1010.0)
    position.advance(1010.0 + OVERLAP)
    assert position.told == {}
    position.advance(900.0)
    assert position.since == 1010.0 + OVERLAP


def test_what_is_no_position():
    for value in (None, 7, [], {}, {"since": "x"}, {"since": 1.0, "open": [], "told": {}}):
        assert Position.of_json(value) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["look", "send", "confirm", "die", "save"])), max_size=60))
def test_each_run_is_told_once_whatever_happens_in_between(steps):
    """A world of ten runs, started a second apart; deaths forget what wasn't saved, but not what Airflow stored."""
    runs = [run(f"r{number}", 2000.0 + number) for number in range(10)]
    position, saved, stored = Position(since=1990.0), Position(since=1990.0).as_json(), []
    now = 2000.0

    def come_back():
        again = Position.of_json(json.loads(json.dumps(saved)))
        assert again is not None
        for run_id in stored:  # what Airflow's API tells
            again.confirm(run_id, 2000.0 + int(run_id[1:]))
        return again

    def look():
        for listed in runs:
            if position.since <= (listed.began or 0) <= now:
                position.saw(listed)
        position.advance(now - OVERLAP)

    def send(number):
        if position.wants(runs[number]):
            position.on_way.add(f"r{number}")
            stored.append(f"r{number}")

    for number, step in steps:
        now += 20.0
        match step:
            case "look":
                look()
            case "send":
                send(number)
            case "confirm" if f"r{number}" in position.on_way:
                position.confirm(f"r{number}", runs[number].began)
            case "save":
                saved = position.as_json()
            case "die":
                position = come_back()
    now += 20.0
    look()
    for number in range(10):
        send(number)
    assert sorted(stored) == [f"r{number}" for number in range(10)]
