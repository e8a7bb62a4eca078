"""Request steps that flows yield, and the attempts to perform one."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tenacity import RetryCallState

from airflow_provider_sim.client.api.http import Call
from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.exceptions import Outcome, SimError, SimInputError, SimRateLimitError

T = TypeVar("T")

log = logging.getLogger(__name__)


def new_run_id() -> str:
    """Return a unique run ID."""
    return f"airflow-{uuid.uuid4()}"


RunId = str | Iterator[str]
"""A run ID for all attempts of a start, or an iterator with an ID for each attempt that needs a new one."""


class StartStoppedError(Exception):
    """A start was stopped by its :class:`StopToken`."""


@dataclass(slots=True)
class StopToken:
    """A flag that another thread or a signal handler sets to keep a start from sending further attempts."""

    stopped: bool = False


class RunIds:
    """The run IDs of one start.

    :ivar current: the ID of the latest attempt, or of the first.
    :ivar can_renew: whether further attempts may have other IDs.
    """

    def __init__(self, run_id: RunId | None) -> None:
        self.can_renew = not isinstance(run_id, str)
        self._ids = iter([run_id]) if isinstance(run_id, str) else run_id or iter(new_run_id, None)
        self.current = self.renew()

    def renew(self) -> str:
        """Take the next ID.

        :raises SimInputError: there is none.
        """
        run_id = next(self._ids, None)
        if run_id is None:
            raise SimInputError("run_id is an iterator without a further run ID.", outcome=Outcome.NEVER_SENT)
        self.current = run_id
        return run_id


@dataclass(slots=True)
class Delays:
    """The delays of one call of a client's method, over all of its steps.

    :param elapsed: seconds so far.
    """

    elapsed: float = 0.0


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How to perform a step.

    :param retry: default: the client's policy.
    :param retry_on: further errors to retry on, besides the retryable ones.
    :param run_ids: of a start; without them, no attempt has another run ID.
    :param stop: when set, no attempt is sent.
    :param timeout: seconds for the response; default: the client's.
    :param stream: the response may be a stream.
    :param deadline: seconds since the epoch after which no retry starts.
    :param delays: a separate delay budget; default: that of the flow.
    """

    retry: RetryPolicy | None = None
    retry_on: tuple[type[SimError], ...] = ()
    run_ids: RunIds | None = None
    stop: StopToken | None = None
    timeout: float | None = None
    stream: bool = False
    deadline: float | None = None
    delays: Delays | None = None


DEFAULT_OPTIONS = StepOptions()


@dataclass(frozen=True, slots=True)
class RequestStep:
    """A request that a flow wants to be performed."""

    call: Call[Any]
    options: StepOptions = DEFAULT_OPTIONS


Flow = Generator[RequestStep, Any, T]
"""Yields steps, receives their results or has their errors thrown into it, and returns a result."""


class Attempts:
    """The attempts to perform a step, as tenacity's callbacks.

    :param policy: the client's.
    :param delays: of the flow.
    """

    def __init__(self, step: RequestStep, policy: RetryPolicy, delays: Delays) -> None:
        self._call = step.call
        self._options = step.options
        self._policy = step.options.retry or policy
        self._delays = step.options.delays or delays
        self._run_id_spent = False

    def next_call(self) -> Call[Any]:
        """Return what to send now. A new run ID is chosen only here, so every chosen ID is sent.

        :raises StartStoppedError: nothing is to be sent.
        """
        options = self._options
        if self._run_id_spent and options.run_ids is not None and options.run_ids.can_renew:
            self._call = self._call.with_run_id(options.run_ids.renew())
        self._run_id_spent = False
        if options.stop is not None and options.stop.stopped:
            raise StartStoppedError
        return self._call

    def tenacity(self) -> dict[str, Any]:
        """Arguments for both ``tenacity.Retrying`` and ``tenacity.AsyncRetrying``."""
        return {
            "retry": self._is_retryable,
            "wait": self._delay,
            "stop": self._is_exhausted,
            "before_sleep": self._before_sleep,
            "reraise": True,
        }

    def _is_retryable(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        if error is None:
            return False
        if isinstance(error, self._options.retry_on):
            return True
        if state.attempt_number > error.max_retries:
            return False
        if (error.retry_after or 0) > self._policy.max_retry_after:
            return False
        if isinstance(error, SimRateLimitError) and not self._policy.retry_on_rate_limit:
            return False
        if error.outcome is Outcome.UNKNOWN:
            return self._call.request.idempotent
        if error.outcome is Outcome.RAN:
            return False
        run_ids = self._options.run_ids
        return not error.run_id_spent or run_ids is None or run_ids.can_renew

    def _delay(self, state: RetryCallState) -> float:
        error = _error_of(state)
        return 0.0 if error is None else self._policy.delay(error, state.attempt_number)

    def _is_exhausted(self, state: RetryCallState) -> bool:
        delay, deadline = state.upcoming_sleep, self._options.deadline
        return (
            state.attempt_number > self._policy.max_retries
            or self._delays.elapsed + delay > self._policy.max_elapsed
            or (deadline is not None and time.time() + delay > deadline)
        )

    def _before_sleep(self, state: RetryCallState) -> None:
        error = _error_of(state)
        delay = state.next_action.sleep if state.next_action else 0.0
        self._delays.elapsed += delay
        self._run_id_spent = error is not None and error.run_id_spent
        log.warning("%s Retrying in %.1f s (%d of %d).", error, delay, state.attempt_number, self._policy.max_retries)


def _error_of(state: RetryCallState) -> SimError | None:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, SimError) else None
