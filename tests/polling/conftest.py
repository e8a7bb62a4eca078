"""A server and a watcher in virtual time, and many runs that are waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.polling import RunPollState
from airflow_provider_sim.polling.poller import RunPoller
from airflow_provider_sim.polling.rate_limits import RateLimits
from tests.virtual_time import VirtualSim, now, run


class Scene:
    """What a test makes happen, and what came of it.

    :ivar outcomes: by run id, what the waiting ended in: a run or an error.
    :ivar delays: by run id, seconds from the run's end until it was known.
    """

    def __init__(self, **server: Any) -> None:
        self.sim = VirtualSim(**server)
        self.poller = self.another_watcher()
        self.outcomes: dict[str, Any] = {}
        self.delays: dict[str, float] = {}

    def another_watcher(self, **settings: Any) -> RunPoller:
        """A process of its own, with the same key and at the same address."""
        return RunPoller(self.sim.client(**settings), clock=now, limits=RateLimits(now))

    async def wait(
        self,
        started: Run,
        *,
        interval: float | None = 10.0,
        poller: RunPoller | None = None,
        workspace_id: str | None = None,
        **options: Any,
    ) -> Any:
        """Wait for a run and note what came of it."""
        watch = RunPollState(started.workflow_id, started.run_id, poll_interval=interval, clock=now, **options)
        try:
            outcome: Any = await (poller or self.poller).wait(watch, workspace_id=workspace_id)
        except Exception as error:
            outcome = error
        assert started.run_id not in self.outcomes, "a run is reported once"
        self.outcomes[started.run_id] = outcome
        if started.is_over:
            self.delays[started.run_id] = now() - (started.ended_at or 0.0)
        return outcome

    @property
    def ticks(self) -> list[int]:
        """How many requests went out at each look: between them is at least a second without any."""
        moments = [when for when, _, _ in self.sim.requests]
        counts = [1]
        for before, when in pairwise(moments):
            if when - before >= 1:
                counts.append(0)
            counts[-1] += 1
        return counts


@pytest.fixture(autouse=True)
def _few_words(caplog: pytest.LogCaptureFixture) -> None:
    """A line for each run's change of status would be thousands."""
    caplog.set_level(logging.WARNING, "airflow_provider_sim")


@pytest.fixture
def play() -> Callable[..., Scene]:
    """Play a scene in virtual time, with a server as the keywords say; return the scene."""

    def play(script: Callable[[Scene], Awaitable[Any]], **server: Any) -> Scene:
        async def main() -> Scene:
            scene = Scene(**server)
            await script(scene)
            return scene

        return run(main())

    return play


async def together(*waits: Awaitable[Any]) -> None:
    """Wait for all of them."""
    await asyncio.gather(*waits)
