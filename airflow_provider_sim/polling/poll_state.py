"""What a look at a run means: :class:`PollState` decides, without I/O; the functions below it only look and sleep."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from airflow_provider_sim.arguments import OnPaused
from airflow_provider_sim.client import NO_RETRY, RunStatus, WorkflowRun, approval_url
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimRateLimitError,
    SimRunNotFoundError,
    SimRunTimeoutError,
)

if TYPE_CHECKING:
    from airflow_provider_sim.client import AsyncSimClient, SimClient

log = logging.getLogger(__name__)

DEFAULT_POLL_INTERVAL = 10.0
"""Seconds."""

MAX_FAILED_POLLS = 10
"""In a row; one bad answer must not fail a task whose run is well."""

NOT_FOUND_GRACE = 60.0
"""Seconds in which a run that was just started may not be found yet."""

_JITTER = 0.1


class PollState:
    """Decides, look by look, whether a run is to be waited for any longer.

    :param poll_interval: seconds between looks.
    :param deadline: seconds since the epoch at which to give up; None for never.
    :param on_paused: for pauses that wait for a person; those that end by themselves are always waited for.
    :param max_failed_looks: how many looks in a row may fail.
    :param started: seconds since the epoch when the run was started or first looked for.
    :param base_url: the server, for the address in the log at which a person answers a pause.
    :param one_of_many: its statuses are of no interest to the reader of the log.
    :param clock: seconds since the epoch.
    """

    def __init__(
        self,
        workflow_id: str,
        run_id: str,
        *,
        job_id: str | None = None,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        deadline: float | None = None,
        on_paused: OnPaused = "wait",
        max_failed_looks: int = MAX_FAILED_POLLS,
        started: float | None = None,
        base_url: str | None = None,
        one_of_many: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.job_id = job_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.on_paused = on_paused
        self.max_failed_looks = max_failed_looks
        self.base_url = base_url
        self._level = logging.DEBUG if one_of_many else logging.INFO
        self._clock = clock
        self._started = clock() if started is None else started
        self._failed_looks = 0
        self._asked_to_wait = 0.0
        self._last_status: str | None = None

    def saw(self, run: WorkflowRun) -> bool:
        """Take note of a look; return whether the waiting is over."""
        self.looked()
        status = run.server_status or run.status.value
        if status != self._last_status:
            told = self._described(run, status)
            log.log(self._level, "Run %s of workflow %s is %s.", self.run_id, self.workflow_id, told)
            self._last_status = status
        if run.status is RunStatus.PAUSED:
            alone = run.paused is not None and run.paused.resumes_alone
            return not alone and self.on_paused != "wait"
        return run.status.is_terminal

    def _described(self, run: WorkflowRun, status: str) -> str:
        if run.status is not RunStatus.PAUSED:
            return status
        if run.paused is not None and run.paused.resumes_alone:
            return f"{status} until {run.paused.resume_at or 'a time set in the workflow'}, when it goes on by itself"
        where = f" at {approval_url(self.base_url, self.workflow_id, self.run_id)}" if self.base_url else ""
        return f"{status} until a person answers it{where}"

    def looked(self) -> None:
        """Take note of a look that brought nothing new."""
        self._failed_looks, self._asked_to_wait = 0, 0.0

    def missed(self, error: SimError) -> None:
        """Take note of a look that failed. One that Sim has no time for only costs time.

        :raises SimError: the same, if looking again is no use.
        """
        if isinstance(error, SimRateLimitError):
            self._asked_to_wait = error.retry_after or 0.0
            log.info("%s Looking again later.", error)
            return
        if isinstance(error, SimRunNotFoundError) and self._clock() < self._started + NOT_FOUND_GRACE:
            log.log(self._level, "Run %s is not known to the server yet.", self.run_id)
            return
        self._failed_looks += 1
        if self._failed_looks > min(error.worth_repeating, self.max_failed_looks):
            raise error
        self._asked_to_wait = error.retry_after or 0.0
        level = self._level if self._level < logging.INFO else logging.WARNING
        log.log(level, "%s Looking again (%d failed in a row).", error, self._failed_looks)

    def first_pause(self, least: float) -> float:
        """Return the seconds until the first look: at least ``least``, so that there is one even after the deadline."""
        left = self.poll_interval if self.deadline is None else self.deadline - self._clock()
        return max(least, min(self.poll_interval, left))

    def pause(self, *, jitter: float = _JITTER) -> float:
        """Return the seconds until the next look; the last one falls on the deadline.

        :param jitter: share by which it is longer at random, so that many don't look at once.
        :raises SimRunTimeoutError: the deadline has passed.
        """
        rest = max(self.poll_interval, self._asked_to_wait) * (1 + jitter * random.random())  # noqa: S311 - only spreads looks
        if self.deadline is None:
            return rest
        left = self.deadline - self._clock()
        if left <= 0:
            raise timeout_error(self.workflow_id, self.run_id, self._last_status)
        return min(rest, left)


def timeout_error(workflow_id: str, run_id: str, last_status: str | None = None) -> SimRunTimeoutError:
    """The error for a run that was not over at the deadline."""
    seen = f" (last seen {last_status})" if last_status else ""
    return SimRunTimeoutError(
        f"Run {run_id!r} of workflow {workflow_id!r} wasn't over when the time to wait for it was up{seen}. Unless"
        " the task's log says that it was cancelled, it may go on in Sim: cancel it there, or wait for it with a"
        " SimJobSensor, before starting another. Give it a longer timeout, or let Sim keep one by run_timeout.",
        workflow_id=workflow_id,
        run_id=run_id,
        outcome=Outcome.RAN,
    )


def wait_for_run(client: SimClient, watch: PollState, *, sleep: Callable[[float], None] | None = None) -> WorkflowRun:
    """Look at a run until it is over, or paused where that counts.

    :raises SimRunTimeoutError: the watch's deadline passed.
    :raises SimError: the run can't be looked at.
    """
    while True:
        try:
            run = client.get_workflow_run(watch.workflow_id, watch.run_id, job_id=watch.job_id, retry=NO_RETRY)
        except SimError as error:
            watch.missed(error)
        else:
            if watch.saw(run):
                return run
        (sleep or time.sleep)(watch.pause())


async def await_run(
    client: AsyncSimClient, watch: PollState, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> WorkflowRun:
    """Look at a run until it is over, or paused where that counts; as :func:`wait_for_run`."""
    while True:
        try:
            run = await client.get_workflow_run(watch.workflow_id, watch.run_id, job_id=watch.job_id, retry=NO_RETRY)
        except SimError as error:
            watch.missed(error)
        else:
            if watch.saw(run):
                return run
        await sleep(watch.pause())
