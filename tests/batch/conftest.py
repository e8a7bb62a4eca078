"""A batch in virtual time: hours of a plan's limits in a moment."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from airflow_provider_sim.batch.engine import BatchEngine
from airflow_provider_sim.batch.reconcile import Reconciler
from airflow_provider_sim.batch.state import BatchState, ItemStatus
from airflow_provider_sim.client.server_facts import facts_about
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.polling.poller import RunPoller
from airflow_provider_sim.polling.rate_limits import RateLimits, shared
from airflow_provider_sim.task.run_options import RunOptions
from tests.virtual_time import VirtualSim, now

BATCH = "airflow-b"


class BatchScene:
    """A server, and a process that runs a batch on it.

    :param count: how many inputs.
    :param seconds: that each of their runs takes, or what says so by their number.
    :param how: by an input's number, more of what its run does.
    :ivar state: of the batch.
    :ivar most_at_once: runs.
    """

    def __init__(
        self,
        count: int,
        seconds: float | Callable[[int], float] = 5.0,
        *,
        how: Callable[[int], dict[str, Any]] = lambda index: {},
        workflow_of: Callable[[int], str] = lambda index: "w",
        **server: Any,
    ) -> None:
        facts_about.cache_clear()
        self.sim = VirtualSim(**server)
        self.sim.deploy("w", "other")
        self.sim.state.limits.usage_limit = 1e9
        self.count, self.seconds, self.how = count, seconds, how
        self.workflows = [workflow_of(index) for index in range(count)]
        self.state = BatchState(BATCH, self.workflows)
        self.began = now()
        self.most_at_once = 0
        self.persisted: list[dict[str, Any]] = []
        self.lose: Callable[[httpx.Request], bool] = lambda request: False
        self.sim.state.start_listeners.append(self._count)
        self._answer, self.sim._answer = self.sim._answer, self._maybe_lost  # type: ignore[method-assign]
        self.new_process()

    def new_process(self, **retry: Any) -> None:
        """Another process, which knows nothing of the server."""
        self.client = self.sim.client(**retry)
        self.limits = RateLimits(now)
        self.client.on_rate_limit = self.limits.on_response
        self.poller = RunPoller(self.sim.client(), clock=now, limits=RateLimits(now))

    def engine(self, *, maximum: int | None = None, known: int | None = None, **options: Any) -> BatchEngine:
        """What sees the batch through."""

        async def input_of(index: int) -> Any:
            seconds = self.seconds(index) if callable(self.seconds) else self.seconds
            return {"seconds": seconds, "index": index, **self.how(index)}

        given = {"poll_interval": 10.0, "deadline": now() + 7 * 86400.0, "workspace_id": "space", **options}
        shared((RateLimits, self.client.settings.rate_limited_as), lambda: self.limits)
        shared((RunPoller, self.client.settings), lambda: self.poller)
        engine = BatchEngine(
            client=self.client,
            options=RunOptions(max_active_runs=maximum, **given),
            state=self.state,
            input_of=input_of,
            store=cast("Any", SimpleNamespace(record=self._record, record_run_id=lambda state, index: None)),
            clock=now,
        )
        engine.throttle.known = known
        return engine

    async def run(self, **how: Any) -> BatchEngine:
        """See the batch through."""
        engine = self.engine(**how)
        while True:
            try:
                await engine.run()
            except SimError as error:
                if error is not engine.stopped:
                    raise
                return engine
            if self.state.is_finished:
                return engine
            await self.fetch()

    async def fetch(self) -> None:
        """Read the outputs of all runs that may have finished, as a worker does."""
        for index in self.state.indices(ItemStatus.ACTIVE):
            run = await self.client.get_workflow_result("w", self.state.run_id(index))
            if run.status.is_terminal:
                self.state.set_status(index, ItemStatus[run.status.name])

    async def reconcile(self, *, rerun: bool = False, workspace_id: str | None = "space") -> None:
        """Ask the server what it knows."""
        self.state.since = self.began
        reconciler = Reconciler(self.client, self.state, workspace_id, rerun=rerun)
        reconciler.reopen()
        await reconciler.update()

    @property
    def started(self) -> Counter[int]:
        """How often each input's run was really started."""
        return Counter(run.input["index"] for run in self.runs)

    @property
    def runs(self) -> list[Run]:
        """The batch's runs, without what refusals have left."""
        return [run for run in self.sim.state.runs.values() if run.refused is None and run.run_id.startswith(BATCH)]

    @property
    def burnt(self) -> int:
        """How many ids refusals have used up."""
        return sum(run.refused is not None for run in self.sim.state.runs.values())

    @property
    def minutes(self) -> float:
        """Since the beginning."""
        return (now() - self.began) / 60

    def assert_each_ran_once(self, *, completed: bool = False) -> None:
        """No input was forgotten, and none was run twice; and all are written down as completed, if that is asked."""
        assert self.started == Counter(range(self.count))
        assert not completed or self.state.to_dict()["statuses"] == f"c*{self.count}"

    def _record(self, state: BatchState) -> None:
        self.persisted.append(state.to_dict())

    def _count(self, run: Run) -> None:
        if self.count <= 3000:
            self.most_at_once = max(self.most_at_once, self.sim.state.active_runs())

    async def _maybe_lost(self, request: httpx.Request) -> httpx.Response:
        answer = await self._answer(request)
        if self.lose(request):
            raise httpx.ReadError("the connection broke", request=request)
        return answer


@pytest.fixture(autouse=True)
def _few_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "airflow_provider_sim")


def is_start(request: httpx.Request) -> bool:
    """Whether a request starts a run."""
    return request.url.path.endswith("/execute")


__all__ = ["BATCH", "BatchScene", "ItemStatus", "SimError", "asyncio", "is_start"]
