"""Rate limits, concurrency limits and usage limits of Sim's plans."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import inf

from airflow_provider_sim.emulator.clock import Clock

WINDOW = 60.0
UNLIMITED = 999_999


@dataclass(slots=True)
class Plan:
    """The limits of a plan: rates per minute, concurrent runs, maximum seconds of a run, US dollars."""

    plan: str
    sync_per_minute: int
    async_per_minute: int
    endpoint_per_minute: int
    concurrent_runs: int | None
    sync_timeout: float
    async_timeout: float
    usage_limit: float


PLANS = {
    plan.plan: plan
    for plan in (
        Plan("free", 50, 200, 30, 10, 300, 5400, 1.0),
        Plan("pro", 150, 1000, 100, 50, 3000, 5400, 25.0),
        Plan("team", 300, 2500, 200, 200, 3000, 5400, 100.0),
        Plan("enterprise", 600, 5000, 500, 1000, 3000, 5400, 10_000.0),
    )
}
SELF_HOSTED = Plan("free", UNLIMITED, UNLIMITED, UNLIMITED, None, inf, inf, 99_999.0)
"""A self-hosted server without billing; only the requests from one address are limited."""


class Bucket:
    """A token bucket of twice the rate, to which the rate is added once a minute."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.per_minute = per_minute
        self.capacity = per_minute if per_minute >= UNLIMITED else 2 * per_minute
        self._clock = clock
        self._tokens = self.capacity
        self._filled = clock.now()
        self._overdrawn = False

    def take(self) -> bool:
        """Take one token; return whether there was one."""
        self._refill()
        if self._tokens < 1:
            self._overdrawn = True
            return False
        self._tokens -= 1
        return True

    @property
    def remaining(self) -> int:
        self._refill()
        return self._tokens

    @property
    def shown_remaining(self) -> int:
        """Remaining tokens as the usage report shows them: -1 after a request was rate-limited."""
        return -1 if self.remaining == 0 and self._overdrawn else self._tokens

    @property
    def reset(self) -> float:
        return self._filled + WINDOW

    @property
    def retry_after(self) -> int:
        """Whole seconds until the next refill, for the header."""
        return max(0, -int(-(self.reset - self._clock.now()) // 1))

    def emptied(self) -> Bucket:
        """Return an empty bucket with the same rate and time of refill."""
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


class Limits(Plan):
    """The limits of one account; a test may set the attributes at any time."""

    def __init__(self, clock: Clock, plan: str | None = None) -> None:
        if plan is not None and plan not in PLANS:
            raise ValueError(f"unknown plan {plan!r}; choose from {', '.join(PLANS)}")
        super().__init__(*astuple(PLANS[plan] if plan else SELF_HOSTED))
        self._clock = clock
        self.billing = plan is not None
        self.admission_gate: int | None = None  # maximum number of concurrent requests
        self.per_address = True  # v2 limits the requests from one address to 300 per minute
        self.clear()

    def clear(self) -> None:
        """Refill all buckets, with the current rates, and set the usage to zero."""
        self.usage = 0.0  # US dollars; above usage_limit, executions are rejected with 402
        self.sync = Bucket(self.sync_per_minute, self._clock)
        self.asynchronous = Bucket(self.async_per_minute, self._clock)
        self.address = Bucket(300, self._clock)
        self._endpoints: dict[tuple[str, str], Bucket] = {}

    def endpoint(self, operation: str, subject: str) -> Bucket:
        """Return the bucket of one v2 operation, or of all v1 requests, for one key."""
        return self._endpoints.setdefault((operation, subject), Bucket(self.endpoint_per_minute, self._clock))
