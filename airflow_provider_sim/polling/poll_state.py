"""Decisions of a poll loop: whether the polled object is finished, when to poll again, and when to stop."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, log2
from typing import TYPE_CHECKING, Generic, TypeVar

from airflow_provider_sim.arguments import OnPaused
from airflow_provider_sim.client import NO_RETRY, RUN_BUCKET, RunStatus, WorkflowRun, approval_url
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimRateLimitError,
    SimRunError,
    SimRunNotFoundError,
    SimRunTimeoutError,
)
from airflow_provider_sim.metrics import Metric

if TYPE_CHECKING:
    from airflow_provider_sim.client import SimClient
    from airflow_provider_sim.polling.rate_limits import RequestBucket

log = logging.getLogger(__name__)

T = TypeVar("T")

AGE_SHARE = 0.1  # of a run's age: the adaptive interval between polls
SHORTEST_INTERVAL, LONGEST_INTERVAL = 1.0, 30.0  # seconds, of the adaptive interval
SHARING_RUNS = 10  # above which a poll that answers for all of them may come sooner than each run's own
MAX_FAILED_POLLS = 10  # in a row, without failing the task
NOT_FOUND_GRACE = 60.0  # seconds during which Sim may not find a run that was just started
_JITTER = 0.1


@dataclass(eq=False, kw_only=True)
class PollState(Generic[T]):
    """State of a poll loop: counts failed polls, and decides when to poll again."""

    poll_interval: float | None = None  # seconds between polls; None: adaptive
    started: float | None = None  # seconds since the epoch; age 0; default: now, or a run's start
    deadline: float | None = None  # seconds since the epoch of the last poll
    max_failed_polls: int = MAX_FAILED_POLLS  # in a row
    clock: Callable[[], float] = lambda: time.time()
    bucket: RequestBucket | None = field(default=None, init=False)  # bounds adaptive polls by the rate limits
    sharing: float = field(default=1, init=False)  # number of runs that each poll answers for
    shortest: float = field(default=SHORTEST_INTERVAL, init=False)  # seconds between such polls
    log_level: int = logging.INFO  # of status changes
    last_response: T | None = field(default=None, init=False)
    _failed_polls: int = field(default=0, init=False)
    _retry_after: float = field(default=0.0, init=False)
    _durations: deque[float] = field(default_factory=deque, init=False)  # seconds, of the same workflow's runs

    @property
    def _expected_duration(self) -> float:
        return min(self._durations, default=0.0)

    @property
    def interval(self) -> float:
        """Seconds between polls; an adaptive interval grows with failed polls, too."""
        if self.poll_interval is not None:
            return self.poll_interval
        age = 0.0 if self.started is None else max(0.0, self.clock() - self.started)
        growing = max(self._adaptive(age), 2.0 ** min(self._failed_polls, 5))
        if age < (expected := self._expected_duration):
            growing = max(growing, expected - age + self._step(expected))
        return max(min(growing, LONGEST_INTERVAL), 0.0 if self.bucket is None else self.bucket.read_delay())

    def aligned(self, due: float) -> float:
        """Return when to poll instead of at ``due``, so that the adaptive polls of many objects coincide."""
        if self.poll_interval is not None or self.started is None:
            return due
        step = self._step(due - self.started)
        return due // step * step

    def _step(self, age: float) -> float:
        # The largest power of two within the interval, 1 to 16 s; less after an expected duration: most runs end then.
        return 2.0 ** int(log2(self._adaptive(age))) * (0.75 if self._expected_duration else 1.0)

    def _adaptive(self, age: float) -> float:
        """Return a share of the age; of many runs, some finish in any such time, and one poll answers for all."""
        own = min(max(age * AGE_SHARE, SHORTEST_INTERVAL), LONGEST_INTERVAL)
        share = SHARING_RUNS / max(self.sharing, SHARING_RUNS)  # squared: a list is cheap while many wait
        return min(own, max(own * share**2, self.shortest))

    def is_finished(self, response: T) -> bool:
        """Return whether polling ends with a response."""
        raise NotImplementedError

    def timeout_error(self) -> SimError:
        """Return the error to raise at the deadline."""
        raise NotImplementedError

    def on_response(self, response: T) -> bool:
        """Handle a response; return whether polling ends with it."""
        self.on_poll()
        is_finished = self.is_finished(response)
        self.last_response = response
        return is_finished

    def on_poll(self) -> None:
        """Handle a successful poll without a new status."""
        self._failed_polls, self._retry_after = 0, 0.0

    def on_error(self, error: SimError) -> None:
        """Count a failed poll; a rate-limited one only delays the next.

        :raises SimError: the error, if it is not retryable or too many polls have failed.
        """
        if isinstance(error, SimRateLimitError):
            log.info("%s Polling again later.", error)
            Metric.RATE_LIMIT_WAIT.timing(error.retry_after or self.interval)
        else:
            self._failed_polls += 1
            if self._failed_polls > min(error.max_retries, self.max_failed_polls):
                raise error
            level = self.log_level if self.log_level < logging.INFO else logging.WARNING
            log.log(level, "%s Polling again (consecutive failures: %d).", error, self._failed_polls)
        self._retry_after = error.retry_after or 0.0

    @property
    def _left(self) -> float:
        return inf if self.deadline is None else self.deadline - self.clock()

    def first_delay(self) -> float:
        """Return the seconds until the first poll, even if the deadline has passed."""
        return max(0.0, min(self.interval, self._left))

    def next_delay(self, *, jitter: float = _JITTER) -> float:
        """Return the seconds until the next poll, the last one at the deadline; raise the timeout after that.

        The delay is longer by a random share of ``jitter``, so that many tasks don't poll at once.
        """
        if self._left <= 0:
            raise self.timeout_error()
        delay = max(self.interval, self._retry_after) * (1 + jitter * random.random())  # noqa: S311
        return min(delay, self._left)


@dataclass(eq=False, kw_only=True)
class RunPollState(PollState[WorkflowRun]):
    """State of polling a run."""

    workflow_id: str = field(kw_only=False)
    run_id: str = field(kw_only=False)
    job_id: str | None = None  # its queue entry on the legacy API, if known
    on_paused: OnPaused = "wait"  # whether a pause for a person ends polling; one that ends by itself never does
    base_url: str | None = None  # the server's, for the approval URL
    on_approval: Callable[[str], None] | None = None  # called with that URL when the run begins to wait for a person

    def __post_init__(self) -> None:
        self._is_run_s_age = self.started is None
        self.started = self.clock() if self.started is None else self.started
        if self.base_url:
            self._durations = _latest_durations(self.base_url, self.workflow_id)

    def on_response(self, response: WorkflowRun) -> bool:
        if self.last_response is not None and self.last_response.status is RunStatus.QUEUED is not response.status:
            self.started = self.clock()
        elif self._is_run_s_age and response.status is not RunStatus.QUEUED and response.start_time is not None:
            self.started = min(response.start_time, self.started or inf)  # the clocks may differ
        if response.status is RunStatus.COMPLETED and response.duration_ms:
            self._durations.append(response.duration_ms / 1000)
        return super().on_response(response)

    def is_finished(self, response: WorkflowRun) -> bool:
        if self.last_response is None or _status(response) != _status(self.last_response):
            status = f"{_status(response)}{self._pause_note(response)}"
            log.log(self.log_level, "Run %s of workflow %s is %s.", self.run_id, self.workflow_id, status)
        if response.status is not RunStatus.PAUSED:
            return response.status.is_terminal
        return self.on_paused != "wait" and not (response.paused and response.paused.resumes_automatically)

    def _pause_note(self, run: WorkflowRun) -> str:
        if run.status is not RunStatus.PAUSED:
            return ""
        if run.paused is not None and run.paused.resumes_automatically:
            return f" until {run.paused.resume_at or 'a time set in the workflow'}"
        url = self.report_approval_url()
        return " until a person answers it" + (f" at {url}" if url else "")

    def report_approval_url(self) -> str | None:
        """Call ``on_approval``, and return the URL of the page on which a person answers the run."""
        url = self.base_url and approval_url(self.base_url, self.workflow_id, self.run_id)
        if url and self.on_approval:
            self.on_approval(url)
        return url

    def timeout_error(self) -> SimError:
        status = None if self.last_response is None else _status(self.last_response)
        return timeout_error(self.workflow_id, self.run_id, status)

    def on_error(self, error: SimError) -> None:
        """Count a failed poll, unless the run was just started and isn't found yet."""
        if isinstance(error, SimRunNotFoundError) and self.clock() < (self.started or 0.0) + NOT_FOUND_GRACE:
            log.log(self.log_level, "Run %s is not found yet. Polling again.", self.run_id)
        else:
            super().on_error(error)


@lru_cache(maxsize=1000)
def _latest_durations(base_url: str, workflow_id: str) -> deque[float]:
    """Return the seconds that the latest completed runs of a workflow took, as far as this process polled them."""
    return deque(maxlen=10)


def _status(run: WorkflowRun) -> str:
    return run.server_status or run.status.value


def timeout_error(workflow_id: str, run_id: str, last_status: str | None = None) -> SimRunTimeoutError:
    """Return the error for a run that did not finish before the deadline."""
    status = f" (last status: {last_status})" if last_status else ""
    message = (
        f"Run {run_id!r} of workflow {workflow_id!r} did not finish within the timeout{status}. Unless the task log"
        " contains its cancellation, it may still be active: cancel it in Sim, or wait for it with a SimJobSensor,"
        " before you start another. Raise the timeout, or let Sim stop the run by run_timeout."
    )
    return SimRunTimeoutError(message, workflow_id=workflow_id, run_id=run_id, outcome=Outcome.RAN)


def unreachable_error(workflow_id: str, run_id: str, why: object) -> SimRunError:
    """Return the retryable error for a run whose status can't be read; the next try re-attaches to the run."""
    advice = "The run may still be running in Sim; a retry of the task re-attaches to it."
    message = f"Could not get the status of run {run_id!r} of workflow {workflow_id!r}: {why} {advice}"
    return SimRunError(message, workflow_id=workflow_id, run_id=run_id, outcome=Outcome.RAN)


def poll_until_finished(poll: Callable[[], T], state: PollState[T]) -> T:
    """Poll on a worker until ``state`` returns that the object is finished; return the last response."""
    while True:
        try:
            response = poll()
        except SimError as error:
            state.on_error(error)
        else:
            if state.on_response(response):
                return response
        time.sleep(state.next_delay())


def share_limit(client: SimClient, state: PollState[T]) -> None:
    """Let the rate limits bound adaptive polls of a worker; others, which it doesn't know, spend them, too."""
    from airflow_provider_sim.polling.rate_limits import RateLimits

    limits = RateLimits(state.clock)
    state.bucket = limits.bucket(RUN_BUCKET)
    client.on_rate_limit = limits.on_response


def wait_for_run(client: SimClient, state: RunPollState) -> WorkflowRun:
    """Poll a run on a worker until it is finished, or paused if that counts."""

    def read() -> WorkflowRun:
        Metric.POLL_REQUESTS.incr(kind="read")
        return once.get_workflow_run(state.workflow_id, state.run_id, job_id=state.job_id)

    share_limit(client, state)
    once = client.with_retry(NO_RETRY)
    return poll_until_finished(read, state)
