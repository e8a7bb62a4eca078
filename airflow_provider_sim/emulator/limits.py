"""Sim's plans: request buckets, execution buckets, runs at once, money."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from airflow_provider_sim.emulator.clock import Clock

WINDOW = 60.0
UNLIMITED = 999_999


@dataclass(frozen=True, slots=True)
class Plan:
    """What a plan allows: executions and requests per minute, runs at once, seconds that a run may take."""

    name: str
    sync_per_minute: int
    async_per_minute: int
    endpoint_per_minute: int
    concurrent_runs: int | None
    sync_timeout: float
    async_timeout: float
    usage_limit: float


PLANS = {
    plan.name: plan
    for plan in (
        Plan("free", 50, 200, 30, 10, 300, 5400, 1.0),
        Plan("pro", 150, 1000, 100, 50, 3000, 5400, 25.0),
        Plan("team", 300, 2500, 200, 200, 3000, 5400, 100.0),
        Plan("enterprise", 600, 5000, 500, 1000, 3000, 5400, 10_000.0),
    )
}
SELF_HOSTED = Plan("free", UNLIMITED, UNLIMITED, UNLIMITED, None, inf, inf, 99_999.0)
"""A server without billing, as everybody hosts it: it limits nothing but the requests from one address."""


class Bucket:
    """A token bucket that is refilled once a minute, by the plan's rate, to twice the rate at most."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.per_minute = per_minute
        self.capacity = per_minute if per_minute >= UNLIMITED else 2 * per_minute
        self._clock = clock
        self._tokens = self.capacity
        self._filled = clock.now()
        self._overdrawn = False

    def take(self) -> bool:
        """Take one token, if there is one."""
        self._refill()
        if self._tokens < 1:
            self._overdrawn = True
            return False
        self._tokens -= 1
        return True

    @property
    def remaining(self) -> int:
        """Tokens left."""
        self._refill()
        return self._tokens

    @property
    def shown_remaining(self) -> int:
        """Tokens left as the usage report shows them: below zero once a request was refused."""
        return -1 if self.remaining == 0 and self._overdrawn else self._tokens

    @property
    def reset(self) -> float:
        """When the next tokens come."""
        return self._filled + WINDOW

    @property
    def retry_after(self) -> int:
        """Whole seconds until then, as in the header."""
        return max(0, -int(-(self.reset - self._clock.now()) // 1))

    def emptied(self) -> Bucket:
        """A bucket like this one, without tokens until this one's are due."""
        self._refill()
        bucket = Bucket(self.per_minute, self._clock)
        bucket._tokens, bucket._filled = 0, self._filled
        return bucket

    def _refill(self) -> None:
        windows = int((self._clock.now() - self._filled) // WINDOW)
        if windows > 0:
            self._tokens = min(self.capacity, self._tokens + windows * self.per_minute)
            self._filled += windows * WINDOW
            self._overdrawn = False


class Limits:
    """The limits of one account; every attribute may be set at any time.

    :param plan: a plan's name, or None for a server without billing.
    :ivar concurrent_runs: how many runs may go on at once; None for any number.
    :ivar admission_gate: how many requests the server takes at once; None for any number.
    :ivar per_address: whether v2 takes no more than 300 requests a minute from one address.
    :ivar usage: US dollars used; over ``usage_limit`` executions are refused with 402.
    """

    def __init__(self, clock: Clock, plan: str | None = None) -> None:
        if plan is not None and plan not in PLANS:
            raise ValueError(f"there is no plan {plan!r}; there are {', '.join(PLANS)}")
        self._clock = clock
        self.plan = PLANS[plan] if plan else SELF_HOSTED
        self.billing = plan is not None
        self.concurrent_runs = self.plan.concurrent_runs
        self.admission_gate: int | None = None
        self.per_address = True
        self.usage = 0.0
        self.usage_limit = self.plan.usage_limit
        self.sync_timeout = self.plan.sync_timeout
        self.async_timeout = self.plan.async_timeout
        self.sync_per_minute = self.plan.sync_per_minute
        self.async_per_minute = self.plan.async_per_minute
        self.endpoint_per_minute = self.plan.endpoint_per_minute
        self.clear()

    def clear(self) -> None:
        """Fill all buckets and forget the usage; also what makes changed rates count."""
        self.usage = 0.0
        self.sync = Bucket(self.sync_per_minute, self._clock)
        self.asynchronous = Bucket(self.async_per_minute, self._clock)
        self.address = Bucket(300, self._clock)
        self._endpoints: dict[tuple[str, str], Bucket] = {}

    def endpoint(self, operation: str, subject: str) -> Bucket:
        """The bucket of one v2 operation (all of v1 is one) for one key."""
        return self._endpoints.setdefault((operation, subject), Bucket(self.endpoint_per_minute, self._clock))

    def execution(self, *, asynchronous: bool) -> Bucket:
        """The bucket that an execution spends."""
        return self.asynchronous if asynchronous else self.sync
