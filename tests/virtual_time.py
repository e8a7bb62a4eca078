"""Minutes and hours in a moment: an event loop that jumps to whatever comes next, and a Sim server on it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from typing import Any, TypeVar

import httpx

from airflow_provider_sim.client.async_client import AsyncSimClient
from airflow_provider_sim.emulator.app import application
from airflow_provider_sim.emulator.clock import Clock
from airflow_provider_sim.emulator.limits import Limits
from airflow_provider_sim.emulator.profiles import PROFILES
from airflow_provider_sim.emulator.routes.v2.middleware import CODES
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import KeyRing, State
from airflow_provider_sim.emulator.workflows import BlockError, Pausing, Workflow

T = TypeVar("T")

EPOCH = 1_800_000_000.0
"""Seconds since the epoch at which every test begins."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose sleeps take no time; what would run in a thread runs at once."""

    def __init__(self) -> None:
        self._seconds = 0.0
        selector = selectors.SelectSelector()
        really_select = selector.select

        def select(timeout: float | None = None) -> list[Any]:
            events = really_select(0)
            if not events and timeout is None:
                raise RuntimeError("everybody waits for something that will never come")
            if not events and timeout:
                self._seconds += timeout
            return events

        selector.select = select  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._seconds

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def now() -> float:
    """Seconds since the epoch, in virtual time."""
    return EPOCH + asyncio.get_running_loop().time()


class VirtualClock(Clock):
    """The emulator's time, virtual."""

    def now(self) -> float:
        """The present moment, on the server."""
        return now() + self._ahead


class VirtualSim:
    """An emulated Sim server, without a socket; made on the loop that it is used on.

    :param plan: whose limits to keep; None for a self-hosted server.
    :param latency: seconds until an answer.
    :ivar requests: every request that was sent: when, its path and query, and the answer's status.
    :ivar fault: called with each request before the server sees it; may return an answer or raise instead.
    """

    def __init__(self, *, plan: str | None = None, profile: str = "v0.8", latency: float = 0.02) -> None:
        self.clock = VirtualClock()
        self.latency = latency
        self.requests: list[tuple[float, str, int]] = []
        self.fault: Callable[[httpx.Request], httpx.Response | None] = lambda request: None
        self.state = State(
            profile=PROFILES[profile],
            clock=self.clock,
            keys=KeyRing("sk-sim-first", "space"),
            limits=Limits(self.clock, plan),
            workspace_id="space",
        )
        self._app = httpx.ASGITransport(application(self.state, reset=lambda: None))
        self._key = self.state.keys.find("sk-sim-first")

    def client(self, **settings: Any) -> AsyncSimClient:
        """A client whose requests come here."""
        client = _Client("sk-sim-first", "http://sim", **settings)
        client.transport = httpx.MockTransport(self._answer)
        return client

    def deploy(self, *workflow_ids: str) -> None:
        """Deploy workflows; what their runs do is said when they are started."""
        for workflow_id in workflow_ids:
            self.state.add(Workflow(workflow_id, _do, duration=lambda given: given["seconds"]))

    def start(
        self, workflow_id: str, run_id: str, seconds: float, *, ago: float = 0.0, queued: float = 0.0, **how: Any
    ) -> Run:
        """Start a run, or have one started some time ago; nothing is asked of the limits.

        :param seconds: from its start to its end, or to its pause.
        :param how: ``end`` (``completed``, ``failed`` or ``paused``), ``pause`` (seconds).
        """
        started = Run(
            run_id=run_id,
            workflow=self.state.workflows[workflow_id],
            input={"seconds": seconds, **how},
            mode="async",
            user_id="user",
            now=self.clock.now,
            created_at=self.clock.now() - ago,
            queued_for=queued,
        )
        self.state.add_run(started)
        return started

    def crowd(self, workflow_ids: Sequence[str], count: int, ago: Callable[[int], float]) -> None:
        """Have runs of these workflows ended that nobody watches.

        :param ago: seconds since the start of each, by its number.
        """
        for number in range(count):
            self.state.add_run(
                Run(
                    run_id=f"other-{number}",
                    workflow=self.state.workflows[workflow_ids[number % len(workflow_ids)]],
                    input={"seconds": 2},
                    mode="async",
                    user_id="user",
                    now=self.clock.now,
                    created_at=self.clock.now() - ago(number),
                )
            )

    def forget(self, started: Run) -> None:
        """Have a run never started, as after a refusal."""
        del self.state.runs[started.run_id]
        self.state._by_start.remove(started)

    def refuse(self, *parts: str, status: int = 403, times: float = inf) -> None:
        """Answer requests whose path has one of these in it with an error.

        :param times: how often.
        """
        left = times

        def refuse(request: httpx.Request) -> httpx.Response | None:
            nonlocal left
            path = request.url.raw_path.decode()
            if left < 1 or not any(part in path for part in parts):
                return None
            left -= 1
            return httpx.Response(status, json={"error": {"code": CODES[status], "message": "so it was ordered"}})

        self.fault = refuse

    def sent(self, *parts: str) -> int:
        """How many requests went to paths with one of these in them; without any, all."""
        return sum(not parts or any(part in path for part in parts) for _, path, _ in self.requests)

    @property
    def refused(self) -> int:
        """How many requests were answered with 429."""
        return sum(status == 429 for _, _, status in self.requests)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.latency)
        answer = self.fault(request)
        if answer is None:
            answer = await self._app.handle_async_request(request)
        self.requests.append((now(), request.url.raw_path.decode(), answer.status_code))
        return answer


class _Client(AsyncSimClient):
    transport: httpx.MockTransport

    async def _open_http(self, server: str) -> httpx.AsyncClient:
        if server not in self._pools:
            self._pools[server] = httpx.AsyncClient(transport=self.transport)
        return self._pools[server]


def _do(given: dict[str, Any]) -> Any:
    match given.get("end", "completed"):
        case "failed":
            raise BlockError("so it was ordered")
        case "paused":
            return Pausing(lambda answer: {}, seconds=given.get("pause"))
    return {}
