"""Whatever happens, in whatever order: each run's end is reported once, rightly, not too early, and at last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from hypothesis import example, given, settings, strategies as st

from airflow_provider_sim.client.models import RunStatus
from tests.polling.conftest import Scene, together
from tests.virtual_time import EPOCH, now, run

pytestmark = pytest.mark.slow

FLOWS = ("one", "two", "three")
LONGEST_FAULTS = 3 * 90.0
PATIENCE = 400.0
"""Seconds: reads of queued runs are up to 120 s apart, and a free plan's 30 reads a minute have to do for all."""


@dataclass(frozen=True)
class Life:
    """One run and its watching.

    :param asked_after: seconds from its start to the first question.
    :param end: how it ends, or ``cancelled``, or ``paused`` and resumed after a while.
    """

    flow: str
    start: float
    queued: float
    seconds: float
    end: str
    asked_after: float
    interval: float | None
    trigger: str
    patient: bool


@dataclass(frozen=True)
class Fault:
    """Requests to some paths that fail for a while."""

    path: str
    kind: int | str
    start: float
    seconds: float


lives = st.builds(
    Life,
    flow=st.sampled_from(FLOWS),
    start=st.floats(0, 90),
    queued=st.just(0.0) | st.floats(0, 60),
    seconds=st.floats(0, 150),
    end=st.sampled_from(["completed", "failed", "cancelled", "paused"]),
    asked_after=st.floats(0, 3) | st.floats(0, 200),
    interval=st.sampled_from([2.0, 5.0, 10.0, 30.0, None]),
    trigger=st.sampled_from(["api", "api", "schedule"]),
    patient=st.booleans(),
)
faults = st.builds(
    Fault,
    path=st.sampled_from(["/logs?", "/runs?", "/runs/", "/api/v2/workflows/one", "/api"]),
    kind=st.sampled_from([429, 500, 503, 403, "broken", "nonsense", "slow"]),
    start=st.floats(0, 200),
    seconds=st.floats(1, 90),
)


def strike(scene: Scene, ordered: list[Fault]) -> None:
    """Apply the faults."""
    answer = scene.sim._answer

    async def answer_or_not(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        for fault in ordered:
            if fault.path in path and fault.start <= now() - EPOCH < fault.start + fault.seconds:
                match fault.kind:
                    case "broken":
                        raise httpx.ReadError("broken")
                    case "nonsense":
                        return httpx.Response(200, text="<html>")
                    case "slow":
                        await asyncio.sleep(7)
                    # A single run that may not be read is lost for good; a list is only done without.
                    case 403 if "?" not in fault.path:
                        pass
                    case status:
                        return httpx.Response(status, json={"error": {"code": "SOME", "message": "ordered"}})
        return await answer(request)

    scene.poller._client.transport = httpx.MockTransport(answer_or_not)


async def live(scene: Scene, name: str, life: Life, within: float) -> None:
    """Let a run live, and wait for it.

    :param within: seconds from its end in which it is to be known.
    """
    await asyncio.sleep(life.start)
    started = scene.sim.start(
        life.flow, name, life.seconds, queued=life.queued, end=life.end if life.end != "cancelled" else "completed"
    )
    started.trigger = life.trigger
    loop = asyncio.get_running_loop()
    if life.end == "cancelled":
        loop.call_later(life.queued / 2 + life.seconds / 2, started.cancel)
    paused = life.end == "paused"
    if paused and life.patient:
        loop.call_later(life.queued + life.seconds + 40, lambda: started.resume({}))
    await asyncio.sleep(life.asked_after)
    outcome: Any = await scene.wait(
        started,
        interval=life.interval,
        max_failed_polls=10_000,
        on_paused="wait" if life.patient else "return",
    )
    assert not isinstance(outcome, Exception), outcome
    if paused and not life.patient:
        assert (outcome.status, started.status) == (RunStatus.PAUSED, "paused")
        ended = started.first_leg_ends_at
    else:
        assert started.is_over, "reported before its end"
        assert outcome.status == started.status
        ended = started.ended_at or 0.0
    known_after = scene.sim.clock.now() - max(ended, started.created_at + life.asked_after)
    assert known_after < within


@settings(max_examples=60, deadline=None)
@given(
    st.lists(lives, min_size=1, max_size=14),
    st.lists(faults, max_size=3),
    st.sampled_from([None, "free", "pro"]),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.0, 300.0, -300.0]),
)
@example(
    [Life("one", 0.0, 0.0, 50.0, "completed", 1.0, 5.0, "api", True)] * 12,
    [Fault("/logs?", 403, 0.0, 90.0), Fault("/runs?", 500, 30.0, 60.0)],
    "free",
    30,
    0.0,
)
def test_each_run_end_is_reported_once_and_correctly(all_lives, ordered, plan, others, ahead):

    async def main() -> None:
        scene = Scene(plan=plan)
        scene.sim.clock.advance(ahead)
        scene.sim.deploy(*FLOWS)
        scene.sim.crowd(FLOWS, others, lambda number: number * 3 - 60)
        strike(scene, ordered)
        within = LONGEST_FAULTS + PATIENCE
        await together(*(live(scene, f"run-{number}", life, within) for number, life in enumerate(all_lives)))
        assert len(scene.outcomes) == len(all_lives)

    with small_pages():
        run(main())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        lives.map(lambda life: replace(life, queued=0.0, interval=(life.interval or 2.0) + 8)), min_size=1, max_size=14
    ),
    st.integers(0, 40),
)
def test_run_end_is_reported_within_two_intervals_without_faults(all_lives, others):

    async def main() -> None:
        scene = Scene()
        scene.sim.deploy(*FLOWS)
        scene.sim.crowd(FLOWS, others, lambda number: number * 3 - 60)
        await together(
            *(live(scene, f"run-{number}", life, 2 * life.interval) for number, life in enumerate(all_lives))
        )

    with small_pages():
        run(main())


@contextmanager
def small_pages() -> Iterator[None]:
    """Pages of three runs, so that lists have several pages."""
    with patch("airflow_provider_sim.polling.poller.LOGS_PAGE", 3):
        yield
