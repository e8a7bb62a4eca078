"""Client-side rate limits: how many requests Sim accepts now, and how many runs may be started; no I/O."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from airflow_provider_sim.client import (
    ADDRESS_BUCKET,
    ADDRESS_CAPACITY,
    EXECUTE_BUCKET,
    RATE_WINDOW,
    ClientSettings,
    RateLimit,
    RateLimitInfo,
)
from airflow_provider_sim.metrics import Metric

T = TypeVar("T")

Clock = Callable[[], float]  # returns seconds since the epoch

BUCKET_RESERVE = 0.2  # share of a minute's refill that stays in a bucket until the end of the minute
STALE_AFTER = 30.0  # seconds until a bucket's level is unknown: one request refreshes it before others follow
RESPONSE_TIMEOUT = 5.0  # seconds until such a request counts as lost, and another one is sent

# Shares of an address's requests that one process uses at most; starts don't delay polls.
POLL_SHARE = 0.5
START_SHARE = 0.8

MAX_STARTING = 8  # concurrent requests that start runs
GROWTH_PAUSE = 120.0  # seconds from a rejected start until one run more than the known limit is started
RETRY_PAUSE = 30.0  # the same if none of our runs is active, so that other tasks use the whole limit
REPORT_INTERVAL = 60.0  # seconds between usage reports; other tasks may use the same account
UNLIMITED = 999_999  # executions per minute of a server without billing, which has no limit of active runs either
EXECUTION_RESERVE = 0.1  # share of a minute's executions that is left to other tasks

_LATENCY = 1.0  # maximum seconds between a response's creation and its arrival
_MARGIN = 0.01  # seconds by which a delay is longer, so that rounding doesn't make it too short


class Room(NamedTuple):
    """Requests that may be sent now; if there are none, seconds until the next, infinite until a response arrives."""

    available: float
    delay: float = 0.0

    @classmethod
    def least(cls, *rooms: Room) -> Room:
        """Return the room that several limits leave together."""
        return cls(min(room.available for room in rooms), max(room.delay for room in rooms))


@dataclass(eq=False)
class Limit:
    """A limit on requests that can be paused; by itself, there is none."""

    clock: Clock
    _paused_until: float = field(default=-inf, init=False)

    def pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, self.clock() + seconds)

    @property
    def is_paused(self) -> bool:
        return self.clock() < self._paused_until

    def room(self) -> Room:
        return Room(0, self._paused_until - self.clock()) if self.is_paused else self._room()

    def _room(self) -> Room:
        return Room(inf)


@dataclass(eq=False)
class RequestBucket(Limit):
    """A rate bucket of one kind of request; its clock is the server's.

    Sim refills its buckets once a minute, by half their capacity. Requests are sent while the bucket's level is above a
    line that falls during the minute from a full refill to a reserve. Since each response contains the level, several
    processes that share a bucket converge.
    """

    metered: bool = True  # False for requests without a bucket, which only a 429 delays
    in_flight: int = field(default=0, init=False)  # requests
    _sent_at: float = field(default=-inf, init=False)
    _refill: float | None = field(default=None, init=False)  # per minute
    _level: float = field(default=0.0, init=False)
    _reset: float = field(default=0.0, init=False)
    _updated_at: float = field(default=-inf, init=False)
    _spent: float = field(default=1.0, init=False)  # by all processes, between the last two responses

    def on_request(self) -> None:
        self.in_flight += 1
        self._sent_at = self.clock()

    def on_response(self, info: RateLimitInfo) -> None:
        if info.retry_after is not None:
            self.pause(info.retry_after)
        if info.limit is None or info.remaining is None or info.reset is None:
            return
        if self._above_line(self.clock()) < inf:  # adds what was refilled since
            self._spent = max(1.0, self._level - info.remaining)
        same_minute = self._refill is not None and abs(info.reset - self._reset) < 1
        # Responses may arrive out of order; within a minute the level only falls.
        self._level = min(self._level, info.remaining) if same_minute else info.remaining
        self._refill, self._reset = info.limit / 2, info.reset
        self._updated_at = self.clock()

    @property
    def interval(self) -> float:
        """Seconds in which one request is refilled; 0 if unknown."""
        return RATE_WINDOW / self._refill if self._refill else 0.0

    def _room(self) -> Room:
        if not self.metered:
            return super()._room()
        now = self.clock()
        above_line = self._above_line(now)
        if above_line < 1 and self._refill is not None:
            share = ((self._level - 1) / self._refill - BUCKET_RESERVE) / (1 - BUCKET_RESERVE) if self._refill else 0.0
            return Room(0, max(0.0, self._reset - now - max(0.0, share) * RATE_WINDOW) + _MARGIN)
        if now - self._updated_at > STALE_AFTER:
            lost_at = self._sent_at + RESPONSE_TIMEOUT
            return Room(1) if self.in_flight == 0 or now >= lost_at else Room(0, lost_at - now)
        # Half of it: other processes may have read the same level.
        left = max(1, int(above_line / 2)) - self.in_flight
        return Room(left) if left > 0 else Room(0, inf)

    def read_delay(self) -> float:
        """Return the least seconds until a worker's next read, at most until the next refill.

        Workers know of each other only by the level: as many requests as were sent since the last response but one are
        expected again. A third of the bucket is left to other requests.
        """
        if self._refill is None:
            return 0.0
        until_reset = min(max(0.0, self._reset - self.clock()), RATE_WINDOW)
        left = self._level - 2 * self._refill / 3
        return until_reset if left < 1 else min(until_reset, self._spent * until_reset / left)

    def _above_line(self, now: float) -> float:
        if self._refill is None:
            return inf
        if now >= self._reset:
            minutes = (now - self._reset) // RATE_WINDOW + 1
            self._level = min(2 * self._refill, self._level + minutes * self._refill)
            self._reset += minutes * RATE_WINDOW
        minute_left = min(1.0, (self._reset - now) / RATE_WINDOW)
        return self._level - self._refill * (BUCKET_RESERVE + (1 - BUCKET_RESERVE) * minute_left)


class AddressLimit:
    """Our share of the requests that v2 accepts from one address, which headers contain only when it is exhausted."""

    def __init__(self, clock: Clock, share: float) -> None:
        self._clock = clock
        self._interval = RATE_WINDOW / (ADDRESS_CAPACITY / 2 * share)  # seconds in which one request is refilled
        self._full_at = -inf  # time when a whole minute's requests are available

    def on_request(self) -> None:
        self._full_at = max(self._full_at, self._clock()) + self._interval

    def on_rejected(self, retry_after: float | None) -> None:
        """Send nothing for some time, and then no burst: others use the address, too."""
        self._full_at = max(self._full_at, self._clock() + (retry_after or RATE_WINDOW) + RATE_WINDOW)

    def room(self) -> Room:
        left = round((RATE_WINDOW - max(0.0, self._full_at - self._clock())) / self._interval, 3)
        return Room(int(left)) if left >= 1 else Room(0, (1 - left) * self._interval + _MARGIN)


class RateLimits:
    """All request limits of one key on one server; those of the address are shared by all keys."""

    def __init__(self, clock: Clock, polls: AddressLimit | None = None, starts: AddressLimit | None = None) -> None:
        self._clock = clock
        self._least_ahead, self._most_ahead = -inf, inf  # seconds by which the local clock is ahead of the server's
        self._polls = polls or AddressLimit(clock, POLL_SHARE)
        self._starts = starts or AddressLimit(clock, START_SHARE)
        self._buckets: dict[str | None, RequestBucket] = {}

    def on_response(self, info: RateLimitInfo) -> None:
        if info.reset is not None:  # a bucket's next refill, less than a minute away, shows the server's clock
            least, most = self._clock() - info.reset - _LATENCY, self._clock() - info.reset + RATE_WINDOW
            if least > self._most_ahead or most < self._least_ahead:  # one of the clocks was set
                self._least_ahead, self._most_ahead = least, most
            self._least_ahead = max(self._least_ahead, least)
            self._most_ahead = min(self._most_ahead, most)
        if info.bucket == ADDRESS_BUCKET:
            self._polls.on_rejected(info.retry_after)
            self._starts.on_rejected(info.retry_after)
        else:
            self.bucket(info.bucket).on_response(info)

    def server_now(self) -> float:
        """Return the server's time: the local clock's, unless the times of refills prove that to be wrong."""
        return self._clock() - min(max(0.0, self._least_ahead), self._most_ahead)

    def room(self, bucket: str | None) -> Room:
        """Return what may be sent now of a bucket's requests; None on the legacy API, which meters none."""
        room = self.bucket(bucket).room()
        return room if bucket is None else Room.least(room, self._address(bucket).room())

    @contextmanager
    def request(self, bucket: str | None, *, poll: str | None = None) -> Iterator[None]:
        """Count a request while it is in flight; a kind of poll is a metric, too."""
        if poll:
            Metric.POLL_REQUESTS.incr(kind=poll)
        self.bucket(bucket).on_request()
        if bucket is not None:
            self._address(bucket).on_request()
        try:
            yield
        finally:
            self.bucket(bucket).in_flight -= 1

    def _address(self, bucket: str) -> AddressLimit:
        return self._starts if bucket == EXECUTE_BUCKET else self._polls

    def bucket(self, bucket: str | None) -> RequestBucket:
        """Return a bucket's limit; None for requests that aren't metered."""
        if bucket not in self._buckets:
            self._buckets[bucket] = RequestBucket(self.server_now, metered=bucket is not None)
        return self._buckets[bucket]


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[Any, Any]] = WeakKeyDictionary()


def shared(key: tuple[Any, ...], create: Callable[[], T]) -> T:
    """Return the object that this event loop shares under a key; it is dropped with its last user."""
    objects = _shared.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    found: T = objects.get(key) or create()
    objects[key] = found
    return found


def rate_limits_for(settings: ClientSettings) -> RateLimits:
    """Return the limits of a server and key, shared by all who use them on this event loop."""

    def of_address(share: float) -> AddressLimit:
        return shared((AddressLimit, settings.base_url, share), lambda: AddressLimit(time.time, share))

    key = RateLimits, settings.rate_limited_as
    return shared(key, lambda: RateLimits(time.time, of_address(POLL_SHARE), of_address(START_SHARE)))


@dataclass(eq=False)
class StartThrottle(Limit):
    """All limits on starting the runs of a batch: requests, concurrent runs, and the plan's executions per minute.

    Sim's limit of concurrent runs is unknown until Sim rejects a start, which leaves a failed run in Sim's log and sets
    the limit to the number of active runs. After a pause it grows again, by one run with each accepted start.
    """

    limits: RateLimits
    bucket: Callable[[], str | None]  # returns the bucket that a start spends; None on the legacy API
    maximum: int | None = None  # the operator's limit of active runs
    known: int | None = None  # Sim's limit of active runs
    active: int = field(default=0, init=False)  # runs
    starting: int = field(default=0, init=False)  # requests in flight
    _grows_at: float = field(default=-inf, init=False)
    _has_billing: bool = field(default=True, init=False)
    _executions: float = field(default=inf, init=False)
    _report_due: float = field(default=-inf, init=False)  # time of the next usage report

    def _room(self) -> Room:
        return Room.least(self._concurrency_room(), self._execution_room(), self.limits.room(self.bucket()))

    def _concurrency_room(self) -> Room:
        limit = maximum = inf if self.maximum is None else self.maximum
        grows_in = max(0.0, self._grows_at - self.clock())
        starting = MAX_STARTING
        if self.known is None:
            starting = min(starting, 1 + self.active // 4)  # few, because each of them may be rejected
        else:
            limit = min(limit, self.known + (not self.starting and not grows_in))
        left = min(limit - self.active, starting) - self.starting
        if left > 0:
            return Room(left)
        return Room(0, inf if self.known is None or self.starting or self.active >= maximum else grows_in)

    def _execution_room(self) -> Room:
        if self._executions >= 1:
            return Room(self._executions)
        return Room(0, inf if self.report_is_stale else self._report_due - self.clock())

    @contextmanager
    def start(self) -> Iterator[None]:
        self._executions -= 1
        self.starting += 1
        try:
            with self.limits.request(self.bucket()):
                yield
        finally:
            self.starting -= 1

    def on_accepted(self) -> None:
        self.active += 1
        if self.known is not None:
            self.known = max(self.known, self.active)

    def on_concurrency_limit(self, retry_after: float | None) -> None:
        """Lower the limit of concurrent runs after a rejection."""
        self.known = self.active
        pause = GROWTH_PAUSE if self.active else RETRY_PAUSE
        self._grows_at = self.clock() + max(pause, retry_after or 0.0)

    def on_execution_limit(self, retry_after: float | None) -> None:
        """Start nothing for some time after a rejection, and read the usage report then."""
        self.pause(retry_after or RATE_WINDOW / 2)
        self._report_due = -inf

    @property
    def report_is_stale(self) -> bool:
        """Whether to read the usage report."""
        return not self.is_paused and self.clock() >= self._report_due

    def on_report(self, limit: RateLimit | None) -> None:
        """Update the executions by a usage report; None if it is unavailable."""
        now = self.clock()
        self._executions, self._report_due = inf, now + REPORT_INTERVAL
        per_minute = (limit and limit.requests_per_minute) or 0
        self._has_billing = per_minute < UNLIMITED
        if limit is not None and limit.remaining is not None:
            self._executions = limit.remaining - EXECUTION_RESERVE * per_minute
            if limit.reset is not None:  # of the server's clock, which may differ
                self._report_due = min(max(limit.reset, now + 1.0), self._report_due)

    @property
    def is_unlimited(self) -> bool:
        """Whether any number of runs may be active."""
        return self.maximum is None and self.known is None and not self._has_billing

    @property
    def is_rate_limited(self) -> bool:
        """Whether starts wait for requests or executions per minute."""
        return Room.least(self._execution_room(), self.limits.room(self.bucket())).available <= 0

    def reason(self) -> str | None:
        """Return why no run may be started now, for a log line."""
        if self.room().available or self.starting:
            return None
        if self._concurrency_room().available <= 0:
            return f"the limit of concurrent runs is reached ({self.active} active)"
        return "starts are paused" if self.is_paused else "starts are rate-limited"
