"""Decisions of a poll loop, without a server and without sleeping."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from airflow_provider_sim.client import RUN_BUCKET, RateLimitInfo
from airflow_provider_sim.client.models import Pause, RunStatus, WorkflowRun
from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.exceptions import (
    Outcome,
    SimAuthenticationError,
    SimRateLimitError,
    SimRunNotFoundError,
    SimRunTimeoutError,
    SimServerError,
)
from airflow_provider_sim.polling import RunPollState, wait_for_run
from airflow_provider_sim.polling.poll_state import NOT_FOUND_GRACE, timeout_error


class Clock:
    """A clock that sleeping advances."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Client:
    """A client with given responses and errors; the last one repeats."""

    def __init__(self, *responses: object) -> None:
        self._responses = list(responses)

    def with_retry(self, policy: object) -> Client:
        return self

    def get_workflow_run(self, *_args: object, **_options: object) -> WorkflowRun:
        response = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
        if isinstance(response, Exception):
            raise response
        assert isinstance(response, WorkflowRun)
        return response


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wait(clock, monkeypatch):
    """Wait for a run, given the responses and errors of its polls."""
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return lambda state, *responses: wait_for_run(Client(*responses), state)


def run(status: str, paused: Pause | None = None) -> WorkflowRun:
    return WorkflowRun(run_id="r", status=RunStatus(status), workflow_id="w", server_status=status, paused=paused)


def state_of(clock: Clock, **options: object) -> RunPollState:
    return RunPollState("w", "r", **{"poll_interval": 10, "clock": clock, **options})


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_polls_until_a_terminal_state(wait, clock, end):
    going_on = [run(word) for word in ("queued", "pending", "running", "redacting", "unknown")]
    assert wait(state_of(clock), *going_on, run(end)).status == end
    assert len(clock.slept) == len(going_on)
    assert all(10 <= pause <= 11 for pause in clock.slept)


@pytest.mark.parametrize(
    ("kind", "on_paused", "awaited"),
    [
        pytest.param("human", "wait", True, id="a person, wait"),
        pytest.param("human", "fail", False, id="a person, fail"),
        pytest.param("human", "return", False, id="a person, return"),
        pytest.param(None, "return", False, id="kind unknown, return"),
        pytest.param("time", "fail", True, id="a timer, fail"),
        pytest.param("time", "return", True, id="a timer, return"),
    ],
)
def test_pause_is_awaited_or_ends_polling(wait, clock, kind, on_paused, awaited):
    ended = wait(state_of(clock, on_paused=on_paused), run("paused", Pause(kind=kind)), run("completed"))
    assert ended.status == ("completed" if awaited else "paused")


def test_failed_polls_are_repeated(wait, clock):
    fault = SimServerError("Sim is down.")
    responses = [fault, run("running"), fault, fault, run("completed")]
    assert wait(state_of(clock, max_failed_polls=2), *responses).status == "completed"


def test_too_many_consecutive_failed_polls_raise(wait, clock):
    with pytest.raises(SimServerError):
        wait(state_of(clock, max_failed_polls=3), SimServerError("Sim is down."))
    assert len(clock.slept) == 3


def test_non_retryable_error_is_raised_at_once(wait, clock):
    with pytest.raises(SimAuthenticationError):
        wait(state_of(clock), SimAuthenticationError("wrong key"))
    assert clock.slept == []


def test_retry_after_delays_the_next_poll_once(wait, clock):
    limited = SimRateLimitError("slow down", retry_after=42)
    wait(state_of(clock), limited, run("running"), run("completed"))
    assert 42 <= clock.slept[0] <= 42 * 1.1
    assert 10 <= clock.slept[1] <= 11


def test_new_run_may_not_be_found_yet(wait, clock):
    assert wait(state_of(clock), SimRunNotFoundError("none"), run("completed")).status == "completed"


def test_missing_run_is_an_error_after_the_grace_period(wait, clock):
    with pytest.raises(SimRunNotFoundError):
        wait(state_of(clock), SimRunNotFoundError("none"))
    assert NOT_FOUND_GRACE <= sum(clock.slept) <= NOT_FOUND_GRACE + 11


def test_last_poll_is_at_the_deadline(wait, clock):
    deadline = clock() + 25
    with pytest.raises(SimRunTimeoutError, match=r"Run 'r' of workflow 'w' .* \(last status: running\)"):
        wait(state_of(clock, deadline=deadline), run("running"))
    assert clock() == deadline


@pytest.mark.parametrize("last", ["running", None])
def test_timeout_error_contains_the_last_status(last):
    error = timeout_error("w", "r", last)
    assert ("last status" in str(error)) is (last is not None)
    assert (error.workflow_id, error.run_id, error.outcome) == ("w", "r", Outcome.RAN)


def test_run_finished_at_the_last_poll_is_returned(wait, clock):
    clock.now += 100
    assert wait(state_of(clock, deadline=clock() - 50), run("completed")).status == "completed"


@pytest.mark.parametrize(
    ("left", "first"),
    [
        pytest.param(None, 10, id="no deadline"),
        pytest.param(60, 10, id="far deadline"),
        pytest.param(5, 5, id="near deadline"),
        pytest.param(-20, 0, id="passed"),
    ],
)
def test_first_poll_delay_of_a_trigger(clock, left, first):
    deadline = None if left is None else clock() + left
    assert state_of(clock, deadline=deadline).first_delay() == first


class TestAdaptiveInterval:
    @pytest.mark.parametrize(
        ("age", "interval"), [(0, 1), (5, 1), (10, 1), (50, 5), (300, 30), (86_400, 30), (-100, 1)]
    )
    def test_interval_is_a_tenth_of_the_age(self, clock, age, interval):
        assert state_of(clock, poll_interval=None, started=clock() - age).interval == interval

    @pytest.mark.parametrize(("age", "interval"), [(0, 21.5), (19, 2.5), (20, 2), (30, 3)])
    def test_no_poll_before_the_shortest_latest_duration(self, clock, age, interval):
        known = {"poll_interval": None, "base_url": "http://latest-durations"}
        for milliseconds in (45_000.0, 20_000.0):
            state_of(clock, **known).on_response(replace(run("completed"), duration_ms=milliseconds))
        assert state_of(clock, started=clock() - age, **known).interval == interval

    @pytest.mark.parametrize(
        ("age", "due", "aligned"), [(5, 107.7, 107), (25, 107.7, 106), (90, 107.7, 104), (5000, 107.7, 96)]
    )
    def test_polls_of_many_runs_coincide(self, clock, age, due, aligned):
        assert state_of(clock, poll_interval=None, started=due - age).aligned(due) == aligned
        assert state_of(clock, poll_interval=7, started=due - age).aligned(due) == due

    def test_configured_poll_interval_is_used(self, clock):
        assert state_of(clock, poll_interval=7, started=clock() - 500).interval == 7

    def test_poll_intervals_grow_during_a_run(self, wait, clock):
        wait(state_of(clock, poll_interval=None), *[run("running")] * 29, run("completed"))
        assert 1 <= clock.slept[0] <= 1.1
        assert 5 <= clock.slept[-1] <= 8
        assert 55 <= sum(clock.slept) <= 80, "29 polls in about a minute"

    def test_age_counts_from_the_run_start(self, clock):
        state = state_of(clock, poll_interval=None)
        state.on_response(replace(run("running"), started_at=iso(clock() - 200)))
        assert state.interval == pytest.approx(20)

    def test_given_start_replaces_the_run_start(self, clock):
        """As for a cancellation, which is awaited from its request."""
        state = state_of(clock, poll_interval=None, started=clock())
        state.on_response(replace(run("running"), started_at=iso(clock() - 200)))
        assert state.interval == 1

    def test_interval_restarts_when_a_queued_run_starts(self, clock):
        state = state_of(clock, poll_interval=None)
        state.on_response(run("queued"))
        clock.now += 200
        assert state.interval == 20
        state.on_response(run("running"))
        assert state.interval == 1

    def test_failed_polls_are_spread_over_minutes(self, wait, clock):
        with pytest.raises(SimServerError):
            wait(state_of(clock, poll_interval=None), SimServerError("Sim is down."))
        assert 180 <= sum(clock.slept) <= 240


def test_adaptive_polls_on_a_worker_follow_rate_limits(wait, clock, monkeypatch):
    class Limited(Client):
        def get_workflow_run(self, *args: object, **options: object) -> WorkflowRun:
            info = RateLimitInfo(bucket=RUN_BUCKET, limit=60, remaining=20, reset=clock() + 40)
            self.on_rate_limit(info)
            return super().get_workflow_run(*args, **options)

    wait_for_run(Limited(run("running"), run("completed")), state_of(clock, poll_interval=None))
    assert clock.slept[0] >= 39
