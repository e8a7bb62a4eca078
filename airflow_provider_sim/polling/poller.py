"""Shared polling of runs: one poll for all runs that a process waits for with one connection.

A :class:`RunPoller` sends the requests that a :class:`~.planner.Planner` chooses for the runs that are due, and passes
each response to the run's :class:`~.poll_state.RunPollState`. One task polls, and each request is a task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from math import inf
from operator import attrgetter
from typing import TypeVar

from airflow_provider_sim.client import (
    LOGS_BUCKET,
    LOGS_PAGE,
    NO_RETRY,
    RATE_WINDOW,
    WORKFLOW_BUCKET,
    AsyncSimClient,
    ClientSettings,
    Page,
    RunStatus,
    WorkflowRun,
    check_run_id,
    check_workflow_id,
    limited,
    named_workflows,
)
from airflow_provider_sim.exceptions import (
    Outcome,
    SimAuthenticationError,
    SimConfigurationError,
    SimError,
    SimRateLimitError,
    SimRedirectError,
    SimRunTimeoutError,
)
from airflow_provider_sim.metrics import WaitTimer
from airflow_provider_sim.polling.planner import Planner, PolledRun, Request, Workspaces
from airflow_provider_sim.polling.poll_state import SHORTEST_INTERVAL, RunPollState
from airflow_provider_sim.polling.rate_limits import RateLimits, rate_limits_for, shared

T = TypeVar("T")

log = logging.getLogger(__name__)

KEPT_OPEN = 60.0  # seconds until an unused client is closed
MOST_IN_FLIGHT = 24  # requests; an httpx client with hundreds of them at once stalls
MOST_LENT = 16  # requests of RunPoller.ask in flight
SOON = 1.0  # seconds until the first poll of a run; runs that are added in this time share it
NEAR = 0.5  # share of its interval by which a poll may come early to share a list
DAY = 86_400.0  # seconds
WORTH_LISTING = 10  # missing runs, for which one more list is cheaper than reading each
LISTED_PER_SECOND = 200  # runs, at most, by adaptive polls
LATE_ROWS = 10.0  # seconds by which a log may contain a run later than the run's start
LONGEST_READ_PAUSE = 120.0  # seconds between reads of a run that is queued or paused, which lists don't contain

CLOSED_AFTER_FAILURES = 3  # in a row; then a log isn't used for a while
CLOSED_FOR = 300.0  # seconds

_BETWEEN_PASSES = 0.05  # seconds
_PAUSES = (RunStatus.PENDING, RunStatus.PAUSED)  # logs call a paused run pending
_ABOUT_THE_CONNECTION = (SimAuthenticationError, SimConfigurationError, SimRedirectError)  # a read would fail, too


class RunPoller:
    """Waits for any number of runs with as few requests as possible."""

    def __init__(
        self, client: AsyncSimClient, *, clock: Callable[[], float] = time.time, limits: RateLimits | None = None
    ) -> None:
        self._client = client
        self._clock = clock
        self._limits = limits or RateLimits(clock)
        self._workspaces = Workspaces()
        self._waiting: dict[PolledRun, asyncio.Future[WorkflowRun | Exception]] = {}
        self._list_failures: Counter[str] = Counter()  # consecutive, by workspace
        self._asking = 0  # callers of ask
        self._in_flight = 0  # requests
        self._requests: asyncio.TaskGroup
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        client.on_rate_limit = self._limits.on_response
        self._callers_client = limited(client, MOST_LENT)
        self._rate_limit_wait = WaitTimer(clock)
        self._sharing = 1.0, SHORTEST_INTERVAL  # runs per list, and seconds between lists

    async def wait(
        self, state: RunPollState, *, look_soon: bool = False, workspace_id: str | None = None
    ) -> WorkflowRun:
        """Wait until a run is finished, or paused if ``state`` returns pauses.

        A new run is to be polled soon, without an interval first. A workspace that isn't given is requested once.

        :raises SimError: an ID is invalid, the deadline has passed, or the run's status can't be read.
        """
        check_workflow_id(state.workflow_id)
        check_run_id(state.run_id)
        if workspace_id is not None and self._workspaces.is_unknown(state.workflow_id):
            self._workspaces.by_workflow[state.workflow_id] = workspace_id
        interval = max(SOON if look_soon else state.first_delay(), _BETWEEN_PASSES)
        due = state.aligned(self._clock() + interval)
        age = 0.0 if state.started is None else max(0.0, self._clock() - state.started)
        since = self.server_now() - age - LATE_ROWS
        run = PolledRun(state=state, run_id=state.run_id, due=due, interval=interval, since=since)
        self._waiting[run] = asyncio.get_running_loop().create_future()
        self._start_polling()
        try:
            outcome = await self._waiting[run]
        finally:
            self._waiting.pop(run, None)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def ask(self, bucket: str | None, question: Callable[[AsyncSimClient], Awaitable[T]]) -> T:
        """Send requests of the caller's own as soon as their rate bucket has room; None to wait for no limit."""
        self._asking += 1
        self._start_polling()
        wait = WaitTimer(self._clock)
        try:
            while (room := self._limits.room(bucket)).available <= 0:
                wait.update(True)
                await asyncio.sleep(min(max(room.delay, _BETWEEN_PASSES), SOON))
            wait.update(False)
            with self._limits.request(bucket):
                return await question(self._callers_client)
        except SimRateLimitError as error:
            self._on_rate_limited(bucket, error, RATE_WINDOW)
            raise
        finally:
            self._asking -= 1

    def server_now(self) -> float:
        return self._limits.server_now()

    def _start_polling(self) -> None:
        self._wake.set()
        if self._keeper is None:
            # In a new context: the log of the first caller must not get the messages about other runs.
            self._keeper = asyncio.create_task(self._poll_until_idle(), context=contextvars.Context())

    async def _poll_until_idle(self) -> None:
        loop = asyncio.get_running_loop()
        closes_at = loop.time() + KEPT_OPEN
        try:
            async with asyncio.TaskGroup() as self._requests:
                while self._waiting or self._asking or loop.time() < closes_at:
                    if self._waiting or self._asking:
                        closes_at = loop.time() + KEPT_OPEN
                    await self._sleep(min(self._poll(), closes_at - loop.time()))
        except Exception as error:
            log.exception("Polling %s failed.", self._client.base_url)
            for run in list(self._waiting):
                self._finish(run, error)
        finally:
            self._keeper, self._in_flight = None, 0
            await self._client.close()

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(_BETWEEN_PASSES)  # bounds the cost of many wake-ups
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds - _BETWEEN_PASSES):
                await self._wake.wait()
        self._wake.clear()

    def _poll(self) -> float:
        """Send the requests that are due; return the seconds until more may be sent."""
        now = self._clock()
        idle = [run for run in self._waiting if not run.in_flight]
        due = [run for run in idle if run.due <= now or run.read_at <= now]
        later = [run for run in idle if run.due > now and run.read_at > now]
        is_rate_limited = False
        if due:
            self._count_sharing()
            near = [run for run in later if run.due <= now + NEAR * run.interval]
            max_reads = max(0, MOST_IN_FLIGHT - self._in_flight)
            v2, workspaces = self._client.speaks_v2, self._workspaces
            planner = Planner(workspaces=workspaces, limits=self._limits, now=now, v2=v2, max_reads=max_reads)
            for request in planner.plan(due, near):
                self._send(request, now)
            is_rate_limited = planner.is_rate_limited
        self._rate_limit_wait.update(is_rate_limited)
        next_poll = min(min(map(attrgetter(name), later), default=inf) for name in ("due", "read_at"))
        return min(next_poll - now, inf if all(map(attrgetter("in_flight"), due)) else SOON)

    def _schedule(self, run: PolledRun) -> None:
        """Set the time of the next poll; at the deadline, read the run once more, or raise the timeout."""
        run.listed_to = -inf
        is_listed = self._client.speaks_v2 and self._workspaces.of(run) is not None
        run.state.sharing, run.state.shortest = self._sharing if is_listed else (1.0, SHORTEST_INTERVAL)
        try:
            run.interval = max(run.state.next_delay(jitter=0.0), _BETWEEN_PASSES)
        except SimRunTimeoutError as error:
            if run.read_at == inf:
                self._finish(run, error)
                return
            run.read_at = self._clock()
        run.due = max(run.state.aligned(self._clock() + run.interval), self._clock() + _BETWEEN_PASSES)

    def _count_sharing(self) -> None:
        """Count how many runs share a workspace's lists; others of the key keep most of the rate limit."""
        runs = len(self._waiting) / max(1, len(set(self._workspaces.by_workflow.values())))
        shortest = max(SHORTEST_INTERVAL, runs / LISTED_PER_SECOND, 4 * self._limits.bucket(LOGS_BUCKET).interval)
        self._sharing = runs, shortest

    def _finish(self, run: PolledRun, outcome: WorkflowRun | Exception) -> None:
        future = self._waiting.pop(run, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _send(self, request: Request, now: float) -> None:
        for run in request.runs:
            run.in_flight, run.due = True, min(run.due, now)  # runs without a response stay due
        self._in_flight += 1
        self._requests.create_task(self._perform(request))

    async def _perform(self, request: Request) -> None:
        run, bucket = request.runs[0], request.bucket
        workflow_id = run.state.workflow_id
        try:
            if bucket == LOGS_BUCKET:
                await self._list(request)
            elif bucket == WORKFLOW_BUCKET:
                with self._limits.request(bucket, poll="workspace"):
                    workflow = await self._client.with_retry(NO_RETRY).get_workflow(workflow_id)
                if workflow.workspace_id is None:
                    self._close(workflow_id)
                else:
                    self._workspaces.by_workflow[workflow_id] = workflow.workspace_id
            else:
                await self._read(run, bucket)
        except SimRateLimitError as error:
            self._on_rate_limited(bucket, error, min(run.interval for run in request.runs))
        except SimError as error:
            if bucket == LOGS_BUCKET:
                await self._on_list_error(request, error)
            elif bucket == WORKFLOW_BUCKET:
                log.info("%s The runs of workflow %s are read one by one for a while.", error, workflow_id)
                self._close(workflow_id)
            else:
                self._on_error(run, error)
        except Exception as error:
            log.exception("A response of %s could not be handled.", self._client.base_url)
            for run in request.runs:
                self._finish(run, error)
        finally:
            for run in request.runs:
                run.in_flight = False
            self._in_flight -= 1
            self._wake.set()

    async def _list(self, request: Request) -> None:
        """List runs in the order of their starts; skip the pages before the first run that is still missing."""
        missing = sorted(request.runs, key=attrgetter("earliest"))
        workflow_ids = named_workflows({run.state.workflow_id for run in missing})
        start, end, cursor, fruitless = 0.0, inf, None, 0
        while missing:
            asked_at = self.server_now()
            if cursor is None:
                start, end = missing[0].earliest, max(run.until for run in missing)
            with self._limits.request(LOGS_BUCKET, poll="list"):
                page = await self._client.with_retry(NO_RETRY).list_logs(
                    request.workspace_id,
                    workflow_ids=workflow_ids,
                    start_date=start,
                    end_date=end if end < inf else None,
                    cursor=cursor,
                    order="asc",
                    limit=LOGS_PAGE,
                )
            del self._list_failures[request.workspace_id]
            found = await self._on_page(page)
            fruitless += found.isdisjoint(missing)
            last = page.items[-1].start_time if page.items and page.next_cursor is not None else None
            listed_to = inf if last is None else last
            missing = [run for run in missing if run not in found and run in self._waiting]
            self._on_absent([run for run in missing if run.until <= listed_to], asked_at)
            missing = [run for run in missing if run.until > listed_to]
            for run in missing:
                run.listed_to = listed_to
            if 10 * fruitless > len(missing):
                break  # the list costs more than reading each
            cursor = page.next_cursor if missing and missing[0].earliest <= listed_to else None
            if self._limits.room(LOGS_BUCKET).available <= 0:
                return
        for run in missing:
            run.read_at = self._clock()
            self._schedule(run)

    async def _read(self, run: PolledRun, bucket: str | None) -> None:
        """Read one run; plan the next read if lists don't contain what it waits for."""
        ids = run.state.workflow_id, run.state.run_id
        with self._limits.request(bucket, poll="read"):
            response = await self._client.with_retry(NO_RETRY).get_workflow_run(*ids, job_id=run.state.job_id)
        run.read_at = inf
        run.run_id = response.run_id or run.run_id  # the caller's ID may be a job ID
        run.update_start(response)
        self._on_status(run, response)
        if run not in self._waiting or self._client.speaks_v2 is False:
            return
        run.reads = 0 if response.status is RunStatus.RUNNING else run.reads + 1
        pause = min(run.interval * 2**run.reads, max(run.interval, LONGEST_READ_PAUSE))
        if response.status is RunStatus.QUEUED and run.until == inf:
            run.since = self.server_now() - LATE_ROWS
            run.read_at = self._clock() + pause
        elif response.status in _PAUSES and run.state.on_paused != "wait":
            resumes_at = (response.paused and response.paused.resumes_at) or 0.0
            run.read_at = self._clock() + min(pause, max(run.interval, resumes_at - self.server_now()))

    async def _on_page(self, page: Page[WorkflowRun]) -> set[PolledRun]:
        """Handle the runs of a page, finished ones first; return the polled runs among them."""
        responses = {response.run_id: response for response in page.items}
        polled = [
            run
            for run in self._waiting  # a list for each run ID would make garbage collections frequent
            if run.run_id in responses and responses[run.run_id].workflow_id in (None, run.state.workflow_id)
        ]
        async for run in _in_slices(sorted(polled, key=lambda run: not responses[run.run_id].status.is_terminal)):
            self._on_listed(run, responses[run.run_id])
        return set(polled)

    def _on_listed(self, run: PolledRun, response: WorkflowRun) -> None:
        run.misses = 0
        run.update_start(response)
        if response.status not in _PAUSES:
            run.reads, run.read_at = 0, inf
            self._on_status(run, response)
            return
        was_paused, run.status = run.status in _PAUSES, response.status
        run.state.on_poll()
        self._schedule(run)
        if not was_paused:
            run.reads, run.read_at = 0, self._clock()

    def _on_status(self, run: PolledRun, response: WorkflowRun) -> None:
        run.status = response.status
        if run not in self._waiting:
            return
        if run.context.run(run.state.on_response, response):
            self._finish(run, response)
        else:
            self._schedule(run)

    def _on_absent(self, absent: Iterable[PolledRun], asked_at: float) -> None:
        """Handle runs that a list of their time doesn't contain: list a day for many new ones, else read each."""
        day_ago = asked_at - DAY
        searched = {run for run in absent if run.status is None and run.since > day_ago}
        for run in absent:
            if run in searched and len(searched) >= WORTH_LISTING:
                run.since, run.listed_to = day_ago, -inf  # stays due
                continue
            if run.until < inf:
                run.misses += 1
                self._workspaces.by_workflow.pop(run.state.workflow_id, None)  # a connection's may be wrong
                if run.misses > 1:
                    log.info("Run %s is not in the log of its workspace; it is read from now on.", run.run_id)
            else:
                run.since = max(run.since, asked_at - LATE_ROWS)
            if run.status is not RunStatus.QUEUED:
                run.read_at = self._clock()
            self._schedule(run)

    def _on_error(self, run: PolledRun, error: SimError) -> None:
        """Pass a failed poll of a run to its state, and repeat it if it was a read."""
        if run not in self._waiting:
            return
        try:
            run.context.run(run.state.on_error, error)
        except SimError as final:
            self._finish(run, final)
            return
        was_read, run.read_at = run.read_at < inf, inf
        self._schedule(run)
        if was_read:
            run.read_at = run.due

    async def _on_list_error(self, request: Request, error: SimError) -> None:
        """Count a failed poll for each run that is due, or read the runs if the log is unavailable."""
        name = request.workspace_id
        is_final = error.max_retries == 0 and not isinstance(error, _ABOUT_THE_CONNECTION)
        if error.outcome is not Outcome.NEVER_SENT:
            self._list_failures[name] += 1
        if is_final or self._list_failures[name] >= CLOSED_AFTER_FAILURES:
            log.warning("%s The runs of workspace %s are read one by one for a while.", error, name)
            del self._list_failures[name]
            self._close(name)
            for run in request.runs:
                self._workspaces.by_workflow.pop(run.state.workflow_id, None)  # a connection's may be wrong
        if not is_final:
            now = self._clock()
            async for run in _in_slices([run for run in request.runs if run.due <= now]):
                self._on_error(run, error)

    def _close(self, name: str) -> None:
        """Don't use a workspace's log, or don't request a workflow's workspace, for a while."""
        self._workspaces.closed.add(name)
        asyncio.get_running_loop().call_later(CLOSED_FOR, self._workspaces.closed.discard, name)

    def _on_rate_limited(self, bucket: str | None, error: SimRateLimitError, default: float) -> None:
        """Send no more requests of a rate bucket for a while; runs without a response stay due."""
        wait = default if error.retry_after is None else error.retry_after
        log.info("%s The next request of this kind follows in %.0f s.", error, wait)
        self._limits.bucket(bucket).pause(wait)


async def _in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterate, and let other tasks run after every 100 items."""
    for number, item in enumerate(items, 1):
        yield item
        if number % 100 == 0:
            await asyncio.sleep(0)


def poller_for(settings: ClientSettings) -> RunPoller:
    """Return the poller that callers on this event loop with the same settings share; it is dropped when idle."""
    limits = rate_limits_for(settings)
    return shared((RunPoller, settings), lambda: RunPoller(AsyncSimClient.from_settings(settings), limits=limits))
