"""What a look at a run means, without a server and without waiting."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_sim.client.models import Pause, RunStatus, WorkflowRun
from airflow_provider_sim.exceptions import (
    Outcome,
    SimAuthenticationError,
    SimRateLimitError,
    SimRunNotFoundError,
    SimRunTimeoutError,
    SimServerError,
)
from airflow_provider_sim.polling import NOT_FOUND_GRACE, PollState, await_run, wait_for_run
from airflow_provider_sim.polling.poll_state import timeout_error


class Clock:
    """Seconds since the epoch, moved by whoever sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


class Looks:
    """A client whose looks at a run go as written down; the last one repeats."""

    def __init__(self, *looks: object) -> None:
        self._looks = list(looks)
        self.count = 0

    def get_workflow_run(self, *_args: object, **_options: object) -> WorkflowRun:
        self.count += 1
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(look, Exception):
            raise look
        assert isinstance(look, WorkflowRun)
        return look


class AsyncLooks(Looks):
    async def get_workflow_run(self, *args: object, **options: object) -> WorkflowRun:
        return super().get_workflow_run(*args, **options)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["blocking", "asyncio"])
def wait(request, clock):
    """Wait for a run whose looks are given, in one of both worlds."""

    def wait_for(watch: PollState, *looks: object) -> WorkflowRun:
        if request.param == "blocking":
            return wait_for_run(Looks(*looks), watch, sleep=clock.sleep)
        return asyncio.run(await_run(AsyncLooks(*looks), watch, sleep=clock.asleep))

    return wait_for


def run(status: str, paused: Pause | None = None) -> WorkflowRun:
    return WorkflowRun(run_id="r", status=RunStatus(status), workflow_id="w", server_status=status, paused=paused)


def watch_of(clock: Clock, **options: object) -> PollState:
    return PollState("w", "r", **{"poll_interval": 10, "clock": clock, **options})


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_waits_through_everything_that_is_no_end(wait, clock, end):
    going_on = [run(word) for word in ("queued", "pending", "running", "redacting", "unknown")]
    assert wait(watch_of(clock), *going_on, run(end)).status == end
    assert len(clock.slept) == len(going_on)
    assert all(10 <= pause <= 11 for pause in clock.slept)


@pytest.mark.parametrize(
    ("kind", "on_paused", "awaited"),
    [
        pytest.param("human", "wait", True, id="a person, wait"),
        pytest.param("human", "fail", False, id="a person, fail"),
        pytest.param("human", "return", False, id="a person, return"),
        pytest.param(None, "return", False, id="kind not told, return"),
        pytest.param("time", "fail", True, id="a timer, fail"),
        pytest.param("time", "return", True, id="a timer, return"),
    ],
)
def test_pauses(wait, clock, kind, on_paused, awaited):
    ended = wait(watch_of(clock, on_paused=on_paused), run("paused", Pause(kind=kind)), run("completed"))
    assert ended.status == ("completed" if awaited else "paused")


def test_a_failed_look_does_not_fail_the_run(wait, clock):
    fault = SimServerError("Sim is down.")
    looks = [fault, run("running"), fault, fault, run("completed")]
    assert wait(watch_of(clock, max_failed_looks=2), *looks).status == "completed"


def test_too_many_failed_looks_in_a_row_do(wait, clock):
    with pytest.raises(SimServerError):
        wait(watch_of(clock, max_failed_looks=3), SimServerError("Sim is down."))
    assert len(clock.slept) == 3


def test_what_no_second_look_mends_is_raised_at_once(wait, clock):
    with pytest.raises(SimAuthenticationError):
        wait(watch_of(clock), SimAuthenticationError("wrong key"))
    assert clock.slept == []


def test_sim_s_retry_after_stretches_the_interval_once(wait, clock):
    limited = SimRateLimitError("slow down", retry_after=42)
    wait(watch_of(clock), limited, run("running"), run("completed"))
    assert 42 <= clock.slept[0] <= 42 * 1.1
    assert 10 <= clock.slept[1] <= 11


def test_a_run_just_started_may_not_be_found_yet(wait, clock):
    assert wait(watch_of(clock), SimRunNotFoundError("none"), run("completed")).status == "completed"


def test_a_run_not_found_for_long_is_not_there(wait, clock):
    with pytest.raises(SimRunNotFoundError):
        wait(watch_of(clock), SimRunNotFoundError("none"))
    assert NOT_FOUND_GRACE <= sum(clock.slept) <= NOT_FOUND_GRACE + 11


def test_the_last_look_falls_on_the_deadline(wait, clock):
    deadline = clock() + 25
    with pytest.raises(SimRunTimeoutError, match=r"Run 'r' of workflow 'w' wasn't over .* \(last seen running\)"):
        wait(watch_of(clock, deadline=deadline), run("running"))
    assert clock() == deadline


@pytest.mark.parametrize(("last", "seen"), [("running", " (last seen running)"), (None, "")])
def test_what_is_said_at_the_deadline(last, seen):
    error = timeout_error("w", "r", last)
    assert str(error) == (
        f"Run 'r' of workflow 'w' wasn't over when the time to wait for it was up{seen}. Unless the task's log says"
        " that it was cancelled, it may go on in Sim: cancel it there, or wait for it with a SimJobSensor, before"
        " starting another. Give it a longer timeout, or let Sim keep one by run_timeout."
    )
    assert (error.workflow_id, error.run_id, error.outcome) == ("w", "r", Outcome.RAN)


def test_an_end_seen_by_the_last_look_counts(wait, clock):
    clock.now += 100
    assert wait(watch_of(clock, deadline=clock() - 50), run("completed")).status == "completed"


@pytest.mark.parametrize(
    ("left", "first"),
    [
        pytest.param(None, 10, id="no deadline"),
        pytest.param(60, 10, id="far deadline"),
        pytest.param(5, 5, id="near deadline"),
        pytest.param(1, 3, id="nearer than the least pause"),
        pytest.param(-20, 3, id="passed"),
    ],
)
def test_the_first_look_of_a_trigger(clock, left, first):
    deadline = None if left is None else clock() + left
    assert watch_of(clock, deadline=deadline).first_pause(3) == first
