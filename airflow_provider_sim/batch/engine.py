"""Batch engine: starts runs as fast as the limits allow and waits for them, with one asyncio task for each run.

Starts that are rate-limited or fail during an outage are repeated. An error of one input is recorded for it. An error
that concerns all inputs stops further starts, and active runs are waited for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.batch.state import BatchState, ItemStatus
from airflow_provider_sim.client import CONCURRENCY_LIMIT, NO_RETRY, AsyncSimClient, StartStoppedError, StopToken
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimInputError,
    SimNotFoundError,
    SimPermanentError,
    SimPermissionError,
    SimRateLimitError,
    SimRunIdConflictError,
    SimRunNotFoundError,
    SimRunTimeoutError,
    SimWorkflowNotDeployedError,
)
from airflow_provider_sim.metrics import WaitTimer
from airflow_provider_sim.polling import RunPollState
from airflow_provider_sim.polling.poll_state import LONGEST_INTERVAL
from airflow_provider_sim.polling.poller import poller_for
from airflow_provider_sim.polling.rate_limits import StartThrottle, rate_limits_for

if TYPE_CHECKING:
    from airflow_provider_sim.task.run_options import RunOptions
    from airflow_provider_sim.task.run_store import BatchStore

log = logging.getLogger(__name__)

MAX_OUTAGE = 600.0  # seconds of an outage of Sim after which the batch fails; its runs continue
MAX_FAILED_STARTS = 15  # consecutive failed starts that end starting; with the pauses, about as long
STARTING_ON_WORKER = 5.0  # seconds after which a deferrable batch leaves its starts to the triggerer
UNANSWERED_ON_WORKER = 5.0  # further seconds to wait for responses to starts that were sent before
GATHER_AFTER = 12 * 3600.0  # seconds after which a worker fetches the outputs so far; Sim keeps them for a day
LAST_POLLS = 180.0  # seconds after the deadline during which the last polls may finish
MIN_SAMPLED = 10  # number of runs from which on only a sample is polled, if each poll is a request
SAMPLE_STEP = 17  # one in so many runs is polled then; no power of two, since inputs may follow a pattern
LOG_INTERVAL = 30.0  # seconds between log lines, if runs have changed
_MIN_PAUSE, _MAX_PAUSE = 5.0, 60.0  # seconds after a failed start


@dataclass(eq=False)
class BatchEngine:
    """Starts and awaits the runs of a batch, and updates its state."""

    client: AsyncSimClient
    options: RunOptions
    state: BatchState
    input_of: Callable[[int], Awaitable[Any]]
    store: BatchStore | None = None  # records run IDs that can't be derived from the state that is recorded so far
    clock: Callable[[], float] = time.time
    stopped: SimError | None = field(default=None, init=False)  # the error that has stopped further starts
    rejection: SimError | None = field(default=None, init=False)  # the first error that an input was rejected for

    def __post_init__(self) -> None:
        client, options, limits = self.client, self.options, rate_limits_for(self.client.settings)
        client.on_rate_limit = limits.on_response
        self.throttle = StartThrottle(self.clock, limits, lambda: client.start_bucket, options.max_active_runs)
        self._poller = poller_for(client.settings)
        self._unpolled: list[int] = []
        self._wake = asyncio.Event()
        self._stop_token = StopToken()
        self._has_response = False
        self._failed_starts = 0
        self._next_log = self.clock() + LOG_INTERVAL

    async def start_available(self) -> None:
        """Start the runs that Sim accepts within a few seconds, without waiting for them."""
        await self._run(self.clock() + STARTING_ON_WORKER, UNANSWERED_ON_WORKER, waits=False)

    async def run(self) -> None:
        """Start all runs and wait for them, until outputs must be fetched before Sim deletes them.

        On the legacy API, which has no lists, some remain active of many runs: their status comes with their output.

        :raises SimError: it has stopped further starts, and the runs that were active have finished.
        :raises SimRunTimeoutError: the deadline has passed.
        """
        deadline = self.options.deadline or inf
        await self._run(min(deadline, self.clock() + GATHER_AFTER), LAST_POLLS, waits=True)
        if self.stopped is not None:
            raise self.stopped
        if not self.state.is_finished and self.clock() >= deadline:
            raise timeout_error(self.state)

    def stop(self, error: SimError) -> None:
        self.stopped = self.stopped or error
        self._stop_token.stopped = True
        self._wake.set()

    async def _run(self, until: float, grace: float, *, waits: bool) -> None:
        """Start runs until a time, in seconds since the epoch, and finish the requests within ``grace`` seconds."""
        self._starts_until, self._waits = until, waits
        self._unpolled = self.state.indices(ItemStatus.ACTIVE)
        self.throttle.active = len(self._unpolled)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(until + grace - self.clock()), asyncio.TaskGroup() as self._tasks:
                    await self._start_runs()
                    self._poll_runs(all_started=True)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        for index in self.state.indices(ItemStatus.SENT):
            self.state.set_status(index, ItemStatus.UNSENT)

    async def _start_runs(self) -> None:
        rate_limit_wait = WaitTimer(self.clock)
        while self.clock() < self._starts_until:
            index = None if self.stopped else self.state.next_unsent()
            is_sending, room = self.state.count(ItemStatus.SENT), self.throttle.room()
            if index is None and not is_sending:
                break
            self._poll_runs(all_started=False)
            if index is not None and room.available > 0:
                self.state.set_status(index, ItemStatus.SENT)
                self._tasks.create_task(self._start(index))
                await asyncio.sleep(0)  # the throttle counts it from its first step on
                continue
            delay = inf if index is None else room.delay
            if not self._waits and not is_sending and self.clock() + delay > self._starts_until:
                break
            if index is not None and self._has_response and self.throttle.report_is_stale:
                limit = None
                with suppress(SimError):
                    limit = self.client.start_limit(await self.client.with_retry(NO_RETRY).get_usage_limits())
                self.throttle.on_report(limit)
                continue
            rate_limit_wait.update(index is not None and self.throttle.is_rate_limited)
            self._wake.clear()
            with suppress(TimeoutError):  # Python 3.11's wait_for may ignore a cancellation
                async with asyncio.timeout(min(delay, self._starts_until - self.clock())):
                    await self._wake.wait()
        rate_limit_wait.update(False)

    def _poll_runs(self, *, all_started: bool) -> None:
        """Wait for the runs that were started; of many on the legacy API only for a sample, when all are started."""
        samples = self.client.speaks_v2 is False and self.stopped is None
        if not self._waits or (samples and not all_started and self.throttle.is_unlimited):
            return
        runs, self._unpolled = self._unpolled, []
        if samples and all_started and len(runs) >= MIN_SAMPLED:
            self._tasks.create_task(self._await_sample(runs[::-SAMPLE_STEP]))
        else:
            for index in runs:
                self._tasks.create_task(self._await(index))

    async def _await_sample(self, runs: list[int]) -> None:
        """Wait for the run that was started last, and then for the others, which have probably finished by then."""
        await self._await(runs[0])
        for index in runs[1:]:
            self._tasks.create_task(self._await(index, look_soon=True))

    async def _start(self, index: int) -> None:
        with self.throttle.start():
            value = await self.input_of(index)
            try:
                started = await self.client.start_workflow_run(
                    self.state.workflows[index],
                    value,
                    async_execution=True,
                    run_id=self._run_ids(index),
                    run_timeout=self.options.run_timeout,
                    deadline=self._starts_until,
                    retry=self.client.settings.retry.adjusted(retry_on_rate_limit=False),
                    stop=self._stop_token,
                )
            except StartStoppedError:
                self.state.set_status(index, ItemStatus.UNSENT)
            except SimRateLimitError as error:
                is_concurrency = error.detail_code == CONCURRENCY_LIMIT
                on_limit = self.throttle.on_concurrency_limit if is_concurrency else self.throttle.on_execution_limit
                on_limit(error.retry_after)
                self._requeue(index, error)
            except (SimWorkflowNotDeployedError, SimNotFoundError, SimPermissionError) as error:
                self._reject_workflow(index, error)
            except SimInputError as error:
                self._reject(index, error)
            except SimPermanentError as error:
                self._requeue(index, error)
                self.stop(error)
            except SimError as error:
                self._on_failed_start(index, error)
            else:
                self._on_started(index, started)
        self._has_response = True
        self._on_progress()

    def _on_started(self, index: int, started: Any) -> None:
        self._failed_starts = 0
        if started.run_id != self.state.run_id(index):
            self.state.server_ids[index] = started.run_id, started.job_id
            if self.store:
                self.store.record_run_id(self.state, index)
        self.state.set_status(index, ItemStatus.ACTIVE)
        self.throttle.on_accepted()
        self._unpolled.append(index)

    def _run_ids(self, index: int) -> Iterator[str]:
        """Yield the input's run ID, and then that of each further attempt."""
        while True:
            yield self.state.run_id(index)
            self._next_attempt(index)

    def _next_attempt(self, index: int) -> None:
        self.state.next_attempt(index)
        if self.store:
            self.store.record(self.state)

    async def _await(self, index: int, *, look_soon: bool = False) -> None:
        options, workflows = self.options, self.state.workflows
        poll_state = RunPollState(
            workflows[index],
            self.state.run_id(index),
            job_id=self.state.job_id(index),
            poll_interval=options.poll_interval,
            deadline=options.deadline,
            on_paused=options.on_paused,
            max_failed_polls=max(10, int(MAX_OUTAGE / (options.poll_interval or LONGEST_INTERVAL))),
            started=self.clock(),
            log_level=logging.DEBUG,
            clock=self.clock,
        )
        workspace_id = options.workspace_id if workflows[index] == workflows[0] else None
        try:
            run = await self._poller.wait(poll_state, look_soon=look_soon, workspace_id=workspace_id)
        except SimRunTimeoutError:
            pass  # raised for the whole batch
        except SimRunNotFoundError as error:
            self._reject(index, error)
        else:
            self.state.set_status(index, ItemStatus[run.status.name])
        finally:
            self.throttle.active -= 1
        self._on_progress()

    def _on_failed_start(self, index: int, error: SimError) -> None:
        """Retry a start after a retryable error; else reject the input."""
        is_unknown = error.outcome not in (Outcome.NEVER_SENT, Outcome.REFUSED)
        is_retryable = bool(error.max_retries) or isinstance(error, SimRunIdConflictError)
        if not is_retryable or (is_unknown and not self.client.accepts_run_ids):  # a second start may run twice
            self._reject(index, error)
            return
        self._failed_starts += 1
        self._requeue(index, error)
        if self._failed_starts > MAX_FAILED_STARTS:
            self.stop(error)
            return
        pause = error.retry_after or min(_MAX_PAUSE, _MIN_PAUSE * 2 ** (self._failed_starts - 1))
        log.warning("%s Next start in %.0f s (consecutive failed starts: %d).", error, pause, self._failed_starts)
        self.throttle.pause(pause)

    def _requeue(self, index: int, error: SimError) -> None:
        if error.run_id_spent:
            self._next_attempt(index)
        self.state.set_status(index, ItemStatus.UNSENT)

    def _reject(self, index: int, error: SimError) -> None:
        self.rejection = self.rejection or error
        self.state.set_status(index, ItemStatus.REFUSED, reason=str(error))

    def _reject_workflow(self, index: int, error: SimError) -> None:
        workflows = self.state.workflows
        skips = isinstance(error, SimWorkflowNotDeployedError) and self.options.skip_undeployed
        if skips:
            log.warning("%s Its inputs are skipped.", error)
        for other in [index, *self.state.indices(ItemStatus.UNSENT)]:
            if workflows[other] == workflows[index] and skips:
                self.state.set_status(other, ItemStatus.SKIPPED)
            elif workflows[other] == workflows[index]:
                self._reject(other, error)

    def _on_progress(self) -> None:
        self._wake.set()
        if self.clock() >= self._next_log:
            self._next_log = self.clock() + LOG_INTERVAL
            reason = None if self.state.next_unsent() is None else self.throttle.reason()
            log.info("Batch %s: %s%s.", self.state.batch_id, self.state.summary(), f"; {reason}" if reason else "")


def timeout_error(state: BatchState) -> SimRunTimeoutError:
    """Return the error for a batch that did not finish before the deadline."""
    not_started = state.count(ItemStatus.UNSENT, ItemStatus.SENT)
    return SimRunTimeoutError(
        f"Batch {state.batch_id} did not finish within its timeout: {state.count(ItemStatus.ACTIVE)} of"
        f" {len(state)} runs were still running, and {not_started} not started.",
        outcome=Outcome.RAN,
    )
