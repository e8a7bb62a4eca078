"""Which outcome may be tried again, when, and under which run id. tenacity carries it out, blocking or not.

The decision rests on what the server has done, not on the HTTP status alone:

===========  ==============================================================================================
outcome      again?
===========  ==============================================================================================
never sent   yes
refused      yes, where the reason passes by itself; under a new run id where the refusal has used the old one up, and
             only there: should an earlier attempt arrive after all, its id must still be the same
unknown      only requests that do no harm when repeated; of an execution, :mod:`.submission` finds the fate out
ran          never
===========  ==============================================================================================
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from tenacity import RetryCallState

from airflow_provider_sim.client.api.http import Call
from airflow_provider_sim.client.limits import RETRY_MINIMUMS, is_retry_setting
from airflow_provider_sim.exceptions import Outcome, SimConfigurationError, SimError, SimRateLimitError

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    :param max_retries: repetitions after the first attempt.
    :param initial_delay: seconds before the first repetition; more where Sim's reason is known to last longer.
    :param max_delay: seconds that the growing delay stops at. What Sim asks for by Retry-After goes first.
    :param backoff_multiplier: by how much the delay grows.
    :param jitter: share by which a delay is changed at random, so that many tasks don't come back at once.
    :param max_retry_after: seconds; a longer Retry-After is not waited for, the error is raised at once.
    :param max_elapsed: seconds for all delays together that one call of a client's method may take.
    :param waits_out_limits: False raises a refusal for too many requests or runs at once, for a caller that goes slower
        then.
    """

    max_retries: int = 3
    initial_delay: float = 1.0
    max_delay: float = 30.0
    backoff_multiplier: float = 2.0
    jitter: float = 0.25
    max_retry_after: float = 300.0
    max_elapsed: float = 900.0
    waits_out_limits: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that can't work."""
        for name, least in RETRY_MINIMUMS.items():
            value = getattr(self, name)
            if not is_retry_setting(name, value):
                raise SimConfigurationError(
                    f"The retry setting {name} is {value!r}; it must be a number of at least {least}.",
                    outcome=Outcome.NEVER_SENT,
                )

    def adjusted(self, **changes: float | None) -> RetryPolicy:
        """The same policy but for those settings that are given and not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    @property
    def longest_delay(self) -> float:
        """Seconds that a delay can take, unless Sim asks for more."""
        return self.max_delay * (1 + self.jitter)

    def delay(self, error: SimError, repetition: int, *, chance: Callable[[], float] = random.random) -> float:
        """Seconds to wait before a repetition.

        :param repetition: 1 for the first.
        :param chance: a number from 0 to 1.
        """
        if error.retry_after:
            return error.retry_after * (1 + self.jitter * chance())  # never before the time that Sim names
        first = max(self.initial_delay, error.usual_wait)
        grown = min(self.max_delay, first * self.backoff_multiplier ** min(repetition - 1, 64))
        return grown * (1 + self.jitter * (2 * chance() - 1))


NO_RETRY = RetryPolicy(max_retries=0)


@dataclass(slots=True)
class Delays:
    """The delays of one call of a client's method, over all questions that it asks.

    :param spent: seconds so far.
    """

    spent: float = 0.0


class Attempts(Generic[T]):
    """One question on its way through its attempts.

    :param call: what to try.
    :param policy: how often and how patiently.
    :param new_run_id: gives the run id of each attempt that must not use the former one; without it, such an attempt
        isn't made.
    :param before_attempt: called when an attempt is about to be sent; it isn't, if this raises.
    :param patient_with: errors that pass by themselves here, beside those that do everywhere.
    :param deadline: seconds since the epoch after which no attempt begins.
    :param delays: what the former questions have spent of the policy's patience.
    """

    def __init__(
        self,
        call: Call[T],
        policy: RetryPolicy,
        new_run_id: Callable[[], str] | None = None,
        *,
        before_attempt: Callable[[], None] | None = None,
        patient_with: tuple[type[SimError], ...] = (),
        deadline: float | None = None,
        delays: Delays | None = None,
    ) -> None:
        self._call = call
        self._run_id_spent = False
        self._policy = policy
        self._new_run_id = new_run_id
        self._before_attempt = before_attempt
        self._patient_with = patient_with
        self._deadline = deadline
        self._delays = delays or Delays()

    def next_call(self) -> Call[T]:
        """What to send now; chosen only now, so that a new run id is one that is sent."""
        if self._run_id_spent and self._call.renew and self._new_run_id:
            self._call = self._call.renew(self._new_run_id())
        self._run_id_spent = False
        if self._before_attempt:
            self._before_attempt()
        return self._call

    def tenacity(self) -> dict[str, Any]:
        """Arguments for ``tenacity.Retrying`` and ``tenacity.AsyncRetrying`` alike."""
        return {
            "retry": self._is_worth_repeating,
            "wait": self._wait,
            "stop": self._is_time_to_stop,
            "before_sleep": self._prepare,
            "reraise": True,
        }

    def _is_worth_repeating(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        if error is None:
            return False
        if isinstance(error, self._patient_with):
            return True
        if state.attempt_number > error.worth_repeating:
            return False
        if (error.retry_after or 0) > self._policy.max_retry_after:
            return False
        if isinstance(error, SimRateLimitError) and not self._policy.waits_out_limits:
            return False
        if error.outcome is Outcome.UNKNOWN:
            return self._call.request.repeatable
        if error.outcome is Outcome.RAN:
            return False
        return not error.run_id_spent or self._call.renew is None or self._new_run_id is not None

    def _wait(self, state: RetryCallState) -> float:
        error = _error_of(state)
        return 0.0 if error is None else self._policy.delay(error, state.attempt_number)

    def _is_time_to_stop(self, state: RetryCallState) -> bool:
        """Whether the attempts, the patience or the caller's own time are used up."""
        wait = state.upcoming_sleep
        return (
            state.attempt_number > self._policy.max_retries
            or self._delays.spent + wait > self._policy.max_elapsed
            or (self._deadline is not None and time.time() + wait > self._deadline)
        )

    def _prepare(self, state: RetryCallState) -> None:
        error = _error_of(state)
        wait = state.next_action.sleep if state.next_action else 0.0
        self._delays.spent += wait
        log.warning(
            "%s Trying again in %.1f s (%d of %d).", error, wait, state.attempt_number, self._policy.max_retries
        )
        self._run_id_spent = error is not None and error.run_id_spent


def _error_of(state: RetryCallState) -> SimError | None:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, SimError) else None
