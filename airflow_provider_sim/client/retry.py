"""Retry policy for Sim requests, and the other options of a request.

The decision depends on what the server did, not only on the HTTP status:

===========  ==============================================================================================
outcome      retried?
===========  ==============================================================================================
never sent   yes
refused      if the error is retryable; with a new run ID only if the rejection has used up the old one: should
             an earlier attempt still arrive, it must have the same ID
unknown      idempotent requests only; :mod:`.start` finds out whether a start had an effect
ran          never
===========  ==============================================================================================
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_sim.client.checks import RETRY_MINIMUMS, is_retry_setting
from airflow_provider_sim.exceptions import SimConfigurationError, SimError, SimInputError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number and delays of retries.

    :param max_retries: retries after the first attempt.
    :param initial_delay: seconds before the first retry; more for errors that are known to last longer.
    :param max_delay: upper limit of the growing delay in seconds; a Retry-After of Sim takes precedence.
    :param backoff_multiplier: factor by which the delay grows.
    :param jitter: random share of a delay, so that many tasks don't retry at the same moment.
    :param max_retry_after: seconds; if Retry-After is longer, the error is raised at once.
    :param max_elapsed: seconds of all delays of a request, or of a start with its lookups.
    :param retry_on_rate_limit: False raises rate-limit errors at once, for a caller that throttles itself.
    :raises SimConfigurationError: a setting is invalid.
    """

    max_retries: int = 3
    initial_delay: float = 1.0
    max_delay: float = 30.0
    backoff_multiplier: float = 2.0
    jitter: float = 0.25
    max_retry_after: float = 300.0
    max_elapsed: float = 900.0
    retry_on_rate_limit: bool = True

    def __post_init__(self) -> None:
        for name, minimum in RETRY_MINIMUMS.items():
            value = getattr(self, name)
            if not is_retry_setting(name, value):
                raise SimConfigurationError(
                    f"The retry setting {name} is {value!r}; it must be a number of at least {minimum}.",
                )

    def adjusted(self, **changes: float | None) -> RetryPolicy:
        """Return the policy with those settings replaced that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    def delay(self, error: SimError, retry: int, *, chance: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait before a retry, of which the first is 1; ``chance`` returns 0 to 1."""
        if error.retry_after:
            return error.retry_after * (1 + self.jitter * chance())  # never earlier than Sim asks for
        first = max(self.initial_delay, error.default_wait)
        delay = min(self.max_delay, first * self.backoff_multiplier ** min(retry - 1, 64))
        return delay * (1 + self.jitter * (2 * chance() - 1))


NO_RETRY = RetryPolicy(max_retries=0)


def new_run_id() -> str:
    return f"airflow-{uuid.uuid4()}"


RunId = str | Iterator[str]
"""A run ID for all attempts of a start, or an iterator with an ID for each attempt that needs a new one."""


class RunIds:
    """The run IDs of one start; ``current`` is that of the latest attempt, or of the first."""

    def __init__(self, run_id: RunId | None) -> None:
        self.can_renew = not isinstance(run_id, str)  # whether further attempts may have other IDs
        self._ids = iter([run_id]) if isinstance(run_id, str) else run_id or iter(new_run_id, None)
        self.current = self.renew()

    def renew(self) -> str:
        """Take the next ID, if there is one."""
        run_id = next(self._ids, None)
        if run_id is None:
            raise SimInputError("run_id is an iterator without a further run ID.")
        self.current = run_id
        return run_id


class StartStoppedError(Exception):
    """A start was stopped by its :class:`StopToken`."""


class StopToken:
    """A flag that another thread or a signal handler sets to keep a start from sending further attempts."""

    stopped = False


@dataclass
class RequestOptions:
    """How to send a request; most are arguments of ``execute_with_retry``."""

    retry: RetryPolicy | None = None  # the client's
    retry_on: tuple[type[SimError], ...] = ()  # besides the retryable errors
    run_ids: RunIds | None = None  # of a start; without them, no attempt has another run ID
    stop: StopToken | None = None
    timeout: float | None = None
    stream: bool = False
    deadline: float | None = None
    then: Callable[[Any], Awaitable[None]] | None = None  # gets an attempt's result; its error is the attempt's
    delays: list[float] = field(default_factory=list)  # seconds, also of other requests with this list
