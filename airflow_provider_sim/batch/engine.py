"""Starts a batch's runs as fast as Sim lets it, and waits for all of them; on one event loop, in one task for each run.

A refusal for too many requests or runs is no failure: the input goes back to the head of the queue, and :mod:`.pace`
knows more. Neither is an outage, as long as it doesn't last. What can't be mended for one input concerns that input,
what can't be mended at all stops the starting; the runs that go on are seen to their ends all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from typing import Any

from airflow_provider_sim.arguments import OnPaused
from airflow_provider_sim.batch.state import BatchState, ItemStatus
from airflow_provider_sim.client import (
    CONCURRENCY_LIMIT,
    EXECUTION_LIMIT,
    AsyncSimClient,
    RunStatus,
    StartStoppedError,
    StopToken,
    WorkflowRun,
)
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
from airflow_provider_sim.polling import RunPollState
from airflow_provider_sim.polling.poller import RunPoller
from airflow_provider_sim.rate_limits import StartThrottle

log = logging.getLogger(__name__)

OUTAGE = 600.0
"""Seconds for which Sim may be out of reach before the batch gives up; its runs go on meanwhile."""

MAX_FAILED_STARTS = 15
"""In a row; with the pauses between them they take about as long."""

STARTING_ON_WORKER = 5.0
"""Seconds after which a deferrable batch leaves the remaining starts to the triggerer."""

UNANSWERED_ON_WORKER = 5.0
"""Further seconds to wait for responses to starts that were sent before."""

LAST_POLLS = 180.0
"""Seconds after the deadline in which the last looks may come in."""

_REST = (5.0, 60.0)
"""Seconds that are waited after a start that has failed, at first and at most; and after a refusal without its own."""

_ENDS = {
    RunStatus.COMPLETED: ItemStatus.COMPLETED,
    RunStatus.FAILED: ItemStatus.FAILED,
    RunStatus.CANCELLED: ItemStatus.CANCELLED,
    RunStatus.PAUSED: ItemStatus.PAUSED,
}

Wait = Callable[[RunPollState], Awaitable[WorkflowRun]]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the author wants of the runs.

    :param poll_interval: seconds between looks.
    :param deadline: seconds since the epoch at which to give up.
    :param run_timeout: seconds after which the server stops a run.
    :param skip_undeployed: inputs of workflows that aren't deployed are left out.
    """

    poll_interval: float
    deadline: float
    on_paused: OnPaused = "wait"
    run_timeout: int | None = None
    skip_undeployed: bool = False


class BatchEngine:
    """Sees a batch through.

    :param client: starts runs.
    :param wait: waits for one until it is over, or paused where that counts.
    :param workflow_of: gives an input's workflow.
    :param input_of: gets an input.
    :param journal: how everything stands; kept up to date.
    :param write_down: called before an id is sent that doesn't follow from what was written down.
    :param write_name: called when the server has chosen the id of an input's run itself.
    :param on_end: called with each run that has ended, and its input's number.
    :ivar stopped: why nothing is started any more.
    :ivar refusal: the first error that an input was refused for.
    """

    def __init__(
        self,
        client: AsyncSimClient,
        wait: Wait,
        *,
        workflow_of: Callable[[int], str],
        input_of: Callable[[int], Awaitable[Any]],
        journal: BatchState,
        throttle: StartThrottle,
        terms: Terms,
        write_down: Callable[[], None] = lambda: None,
        write_name: Callable[[int], None] = lambda index: None,
        on_end: Callable[[int, WorkflowRun], None] = lambda index, run: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._wait = wait
        self._workflow_of = workflow_of
        self._input_of = input_of
        self._journal = journal
        self._throttle = throttle
        self._terms = terms
        self._write_down = write_down
        self._write_name = write_name
        self._on_end = on_end
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._report: asyncio.Task[None] | None = None
        self._bell = asyncio.Event()
        self._waits_for_ends = True
        self._starts_until = terms.deadline
        self._answered = False
        self._failed_starts = 0
        self._broken: BaseException | None = None
        self._began = self._told_at = clock()
        self._told = ""
        self._stop_token = StopToken()
        self.stopped: SimError | None = None
        self.refusal: SimError | None = None

    async def start_what_fits(self) -> None:
        """Start the runs that Sim accepts within a few seconds, without waiting for them.

        :raises SimError: a retry is needed.
        """
        self._waits_for_ends = False
        self._starts_until = self._clock() + STARTING_ON_WORKER
        await self._drive()
        for index in list(self._journal.indices(ItemStatus.SENT)):
            self._journal.stands(index, ItemStatus.UNSENT)

    async def run(self) -> None:
        """Start all runs, and wait for all of them.

        :raises SimRunTimeoutError: the deadline came first.
        :raises SimError: the runs can't be looked at.
        """
        self._waits_for_ends = True
        self._starts_until = self._terms.deadline
        await self._drive()

    def stop(self, error: SimError) -> None:
        """Start nothing any more."""
        self.stopped = self.stopped or error
        self._stop_token.stopped = True
        self._bell.set()

    # --- the course of things ------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        """Go on until there is nothing left to do here."""
        try:
            going_on = list(self._journal.indices(ItemStatus.ACTIVE))
            self._throttle.concurrency.active = len(going_on)
            for index in going_on if self._waits_for_ends else []:
                self._spawn(self._see_through(index))
            while self._broken is None and not self._is_done():
                self._read_report()
                self._start_some()
                self._tell()
                await self._rest()
        finally:
            await self._leave()
        if self._broken is not None:
            raise self._broken
        if self._waits_for_ends and self.stopped is None and not self._journal.is_over:
            raise timeout_error(self._journal)

    def _is_done(self) -> bool:
        now = self._clock()
        if self._tasks:
            return now > self._ends_at
        if self._journal.next_unsent() is None or self.stopped or now >= self._starts_until:
            return True
        return not self._waits_for_ends and now + self._throttle.delay() > self._starts_until

    @property
    def _ends_at(self) -> float:
        """Seconds since the epoch at which requests that are in flight are abandoned."""
        return self._starts_until + (LAST_POLLS if self._waits_for_ends else UNANSWERED_ON_WORKER)

    def _start_some(self) -> None:
        journal, throttle = self._journal, self._throttle
        while self.stopped is None and self._clock() < self._starts_until and throttle.available() > 0:
            if not self._answered and throttle.concurrency.starting:
                return  # the first answer tells what to expect
            index = journal.next_unsent()
            if index is None:
                return
            journal.stands(index, ItemStatus.SENT)
            starting = ExitStack()
            starting.enter_context(throttle.start())
            self._spawn(self._see_to(index, starting), starting)

    def _spawn(self, work: Coroutine[Any, Any, None], starting: ExitStack | None = None) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if starting is not None:
                starting.close()  # also where it never got to begin
            if not task.cancelled() and (error := task.exception()) is not None:
                self._broken = self._broken or error
            self._bell.set()

        task.add_done_callback(done)

    async def _rest(self) -> None:
        """Wait until something has happened, or may be done."""
        first = not self._answered and self._tasks
        if first or self._journal.next_unsent() is None or self.stopped:
            wait = inf
        else:
            wait = self._throttle.delay()
            if not self._waits_for_ends and not self._tasks and self._clock() + wait > self._starts_until:
                return
        left = self._starts_until - self._clock()
        wait = min(wait, self._told_every(), left if left > 0 else self._ends_at - self._clock() + 1.0)
        if wait > 0 and not self._bell.is_set():
            timer = asyncio.get_running_loop().call_later(wait, self._bell.set)
            try:
                await self._bell.wait()
            finally:
                timer.cancel()
        else:
            await asyncio.sleep(0)
        self._bell.clear()

    async def _leave(self) -> None:
        """Leave nothing behind on the loop."""
        tasks = [*self._tasks, *([self._report] if self._report else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one run -------------------------------------------------------------------------------------------------

    async def _see_to(self, index: int, starting: ExitStack) -> None:
        with starting:
            begun = await self._start(index)
        self._answered = True
        self._bell.set()
        if begun and self._waits_for_ends:
            await self._see_through(index)

    async def _start(self, index: int) -> bool:
        """Start one run; return whether it goes on now."""
        workflow_id, given = self._workflow_of(index), await self._input_of(index)
        try:
            started = await self._client.execute_with_retry(
                workflow_id,
                given,
                async_execution=True,
                run_id=self._ids(index),
                run_timeout=self._terms.run_timeout,
                deadline=self._starts_until,
                retry_on_rate_limit=False,
                stop=self._stop_token,
            )
        except StartStoppedError:
            self._journal.stands(index, ItemStatus.UNSENT)
        except SimRateLimitError as error:
            self._was_limited(index, error)
        except (SimWorkflowNotDeployedError, SimNotFoundError, SimPermissionError) as error:
            self._refuse_workflow(workflow_id, index, error)
        except SimInputError as error:
            self._refuse(index, error)
        except SimPermanentError as error:
            self._put_back(index, error)
            self.stop(error)
        except SimError as error:
            self._has_failed(index, error)
        else:
            self._began_run(index, started)
            return True
        return False

    def _ids(self, index: int) -> Iterator[str]:
        """The input's run ID, and a new one for each attempt that can't have it."""
        yield self._journal.run_id(index)
        while True:
            self._renew(index)
            yield self._journal.run_id(index)

    def _renew(self, index: int) -> None:
        self._journal.renew(index)
        self._write_down()

    def _began_run(self, index: int, started: Any) -> None:
        self._failed_starts = 0
        if started.run_id != self._journal.run_id(index):
            self._journal.is_called(index, started.run_id, started.job_id)
            self._write_name(index)
        self._journal.stands(index, ItemStatus.ACTIVE)
        self._throttle.concurrency.on_accepted()

    async def _see_through(self, index: int) -> None:
        """Wait for a run that goes on."""
        interval = self._terms.poll_interval
        watch = RunPollState(
            self._workflow_of(index),
            self._journal.run_id(index),
            job_id=self._journal.job_id(index),
            poll_interval=interval,
            deadline=self._terms.deadline,
            on_paused=self._terms.on_paused,
            max_failed_polls=max(10, int(OUTAGE / interval)),
            started=self._clock(),
            in_batch=True,
            clock=self._clock,
        )
        try:
            run = await self._wait(watch)
        except SimRunTimeoutError:
            pass  # so will the others be
        except SimRunNotFoundError as error:
            self._refuse(index, error)
        else:
            self._has_ended(index, run)
        finally:
            self._throttle.concurrency.on_finished()

    def _has_ended(self, index: int, run: WorkflowRun) -> None:
        self._journal.stands(index, _ENDS[run.status])
        self._on_end(index, run)

    # --- what doesn't go well ------------------------------------------------------------------------------------

    def _was_limited(self, index: int, error: SimRateLimitError) -> None:
        if error.detail_code == CONCURRENCY_LIMIT:
            self._throttle.concurrency.on_rejected(error.retry_after)
        elif error.detail_code == EXECUTION_LIMIT:
            self._throttle.executions.on_rejected(error.retry_after)
        else:
            self._throttle.pause(_REST[0] if error.retry_after is None else error.retry_after)
        log.debug("%s", error)
        self._put_back(index, error)

    def _has_failed(self, index: int, error: SimError) -> None:
        """A start went wrong, in a way that may pass or that concerns this input only."""
        unsure = error.outcome not in (Outcome.NEVER_SENT, Outcome.REFUSED)
        if unsure and not self._client.accepts_run_ids:
            self._refuse(index, error)  # nobody can find out whether it runs, and sending it again may double it
            return
        if not isinstance(error, SimRunIdConflictError) and not error.max_retries:
            self._refuse(index, error)
            return
        self._failed_starts += 1
        self._put_back(index, error)
        if self._failed_starts > MAX_FAILED_STARTS:
            self.stop(error)
            return
        rest = error.retry_after or min(_REST[1], _REST[0] * 2 ** (self._failed_starts - 1))
        log.warning("%s Going on in %.0f s (%d starts failed in a row).", error, rest, self._failed_starts)
        self._throttle.pause(rest)

    def _put_back(self, index: int, error: SimError) -> None:
        if error.run_id_spent:
            self._renew(index)
        self._journal.stands(index, ItemStatus.UNSENT)

    def _refuse(self, index: int, error: SimError) -> None:
        self.refusal = self.refusal or error
        self._journal.stands(index, ItemStatus.REFUSED, why=str(error))

    def _refuse_workflow(self, workflow_id: str, index: int, error: SimError) -> None:
        """Whatever is wrong with a workflow is so for all of its inputs."""
        skipped = isinstance(error, SimWorkflowNotDeployedError) and self._terms.skip_undeployed
        for other in [index, *self._journal.indices(ItemStatus.UNSENT)]:
            if self._workflow_of(other) != workflow_id:
                continue
            if skipped:
                self._journal.stands(other, ItemStatus.SKIPPED)
            else:
                self._refuse(other, error)

    # --- what is asked and told besides --------------------------------------------------------------------------

    def _read_report(self) -> None:
        """See to it that the pace knows the plan's executions."""
        if not self._answered or self._journal.next_unsent() is None or self.stopped:
            return
        if not self._throttle.executions.is_stale:
            return
        if self._report is None or self._report.done():
            self._report = asyncio.create_task(self._read_usage())

    async def _read_usage(self) -> None:
        try:
            usage = await self._client.get_usage_limits()
        except SimError as error:
            log.debug("%s", error)
            self._throttle.executions.on_report(None, None)
        else:
            limit = self._client.start_limit(usage)
            self._throttle.executions.on_report(limit, limit.reset if limit else None)
        self._bell.set()

    def _told_every(self) -> float:
        """Seconds until the next line of the log: the longer it takes, the fewer."""
        return max(0.0, self._told_at + min(60.0, max(5.0, (self._clock() - self._began) / 20)) - self._clock())

    def _tell(self) -> None:
        if self._told_every() > 0:
            return
        self._told_at = self._clock()
        told = self._journal.described() if self._waits_for_ends else self._started()
        reason = self._throttle.reason() if self._journal.next_unsent() is not None and not self.stopped else None
        told += f"; {reason}" if reason else ""
        if told != self._told:
            log.info("Batch %s: %s.", self._journal.batch_id, told)
            self._told = told

    def _started(self) -> str:
        """Progress where runs are not polled, so that some of them may have finished."""
        waiting = self._journal.count(ItemStatus.UNSENT, ItemStatus.SENT)
        return f"{len(self._journal) - waiting} of {len(self._journal)} started, {waiting} not started"


def timeout_error(journal: BatchState) -> SimRunTimeoutError:
    """The error for a batch that was not over at the deadline."""
    unsent = journal.count(ItemStatus.UNSENT, ItemStatus.SENT)
    return SimRunTimeoutError(
        f"Batch {journal.batch_id} did not finish within its timeout: {journal.count(ItemStatus.ACTIVE)} of"
        f" {len(journal)} runs were still running, and {unsent} not started.",
        outcome=Outcome.RAN,
    )


def wait_by(poller: RunPoller, workflow_id: str, workspace_id: str | None) -> Wait:
    """Wait together with everybody on this event loop who waits for runs.

    :param workspace_id: of this one workflow, if known; those of others are looked up.
    """

    async def wait(watch: RunPollState) -> WorkflowRun:
        return await poller.wait(watch, workspace_id=workspace_id if watch.workflow_id == workflow_id else None)

    return wait
