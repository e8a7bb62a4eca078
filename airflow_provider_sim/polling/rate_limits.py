"""How many requests a server's rate limits leave us at this moment; no I/O.

Sim's buckets are refilled all at once, each minute, by half their capacity. What is left of one is never drawn below a
line that falls, over that minute, from a whole refill to a small reserve. So a minute's requests are spread over it;
what an idle minute has left over may be spent at once; and several processes that know nothing of each other settle,
since each of them reads in every answer what all of them have left. Whoever doesn't ask here, such as a worker's own
look at its run, finds the line's height still in the bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from weakref import WeakKeyDictionary

from airflow_provider_sim.client import ADDRESS_BUCKET, ADDRESS_CAPACITY, RATE_WINDOW, ClientSettings, RateLimitInfo

RESERVE = 0.2
"""Share of a minute's refill that stays in the bucket even at the minute's end."""

STALE_AFTER = 30.0
"""Seconds; what was told longer ago is asked anew by one request before others follow."""

PROBE_PATIENCE = 5.0
"""Seconds after which such a request is taken to hang, and another one is sent."""

ADDRESS_SHARE = 0.5
"""Share of the address's requests that one process takes, at first: nobody can see who else uses the address."""

UNMETERED = 1_000_000
"""Requests; as good as any number."""

_ANSWER_TIME = 1.0
"""Seconds that an answer may have been on its way."""


class ServerClock:
    """The server's time, as far as the moments tell at which its buckets are refilled.

    Trusts our own clock unless these moments prove that it is wrong.

    :param clock: seconds since the epoch, here.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._least_ahead, self._most_ahead = -inf, inf

    def now(self) -> float:
        """Seconds since the epoch, on the server."""
        return self._clock() - min(max(0.0, self._least_ahead), self._most_ahead)

    def told(self, reset: float) -> None:
        """Take note of a bucket's next refill, which is always less than a minute away."""
        least, most = self._clock() - reset - _ANSWER_TIME, self._clock() - reset + RATE_WINDOW
        if least > self._most_ahead or most < self._least_ahead:  # one of the clocks was set
            self._least_ahead, self._most_ahead = least, most
        self._least_ahead = max(self._least_ahead, least)
        self._most_ahead = min(self._most_ahead, most)


class Budget:
    """One bucket.

    :param now: seconds since the epoch, on the server.
    :param metered: False for requests that spend none; only a refusal holds them up.
    :ivar in_flight: requests that aren't answered yet.
    """

    def __init__(self, now: Callable[[], float], *, metered: bool = True) -> None:
        self._now = now
        self._metered = metered
        self.in_flight = 0
        self._sent_at = -inf
        self._rate: float | None = None  # a minute's refill
        self._capacity = 0
        self._left = 0.0
        self._reset = 0.0
        self._told_at = -inf
        self._closed_until = -inf

    def sent(self) -> None:
        """Take note of a request."""
        self.in_flight += 1
        self._sent_at = self._now()

    def told(self, info: RateLimitInfo) -> None:
        """Take note of what an answer says."""
        now = self._now()
        if info.retry_after is not None:
            self._closed_until = max(self._closed_until, now + info.retry_after)
        if info.limit is None or info.remaining is None or info.reset is None:
            return
        same_minute = self._rate is not None and abs(info.reset - self._reset) < 1
        # Answers may overtake each other; within a minute a bucket only empties.
        self._left = min(self._left, info.remaining) if same_minute else info.remaining
        self._rate, self._capacity, self._reset = info.limit / 2, info.limit, info.reset
        self._told_at = now

    def room(self) -> int:
        """How many requests may be sent now."""
        now = self._now()
        if now < self._closed_until:
            return 0
        if not self._metered:
            return UNMETERED
        spare = self._spare(now)
        if spare < 1:
            return 0
        if now - self._told_at > STALE_AFTER:
            return int(self.in_flight == 0 or now - self._sent_at >= PROBE_PATIENCE)
        # Half of it at once: others may be reading the same figure.
        return max(0, max(1, int(spare / 2)) - self.in_flight)

    def wait(self) -> float:
        """Seconds until a request may be sent; infinite where an answer must come first."""
        if self.room() > 0:
            return 0.0
        now = self._now()
        if now < self._closed_until:
            return self._closed_until - now
        if self._spare(now) >= 1:
            return self._sent_at + PROBE_PATIENCE - now if now - self._told_at > STALE_AFTER else inf
        assert self._rate is not None
        minute_left = self._reset - now
        share = ((self._left - 1) / self._rate - RESERVE) / (1 - RESERVE) if self._rate else -1.0
        # A touch later than worked out: rounding must not make it a touch too early.
        return max(0.0, minute_left - max(0.0, share) * RATE_WINDOW) + 0.01

    def _spare(self, now: float) -> float:
        """What is left above the line."""
        if self._rate is None:
            return inf
        if now >= self._reset:
            minutes = (now - self._reset) // RATE_WINDOW + 1
            self._left = min(self._capacity, self._left + minutes * self._rate)
            self._reset += minutes * RATE_WINDOW
        minute_left = min(1.0, (self._reset - now) / RATE_WINDOW)
        return self._left - self._rate * (RESERVE + (1 - RESERVE) * minute_left)


class AddressBudget:
    """Our share of the requests that v2 takes from one address, which no answer tells before it is used up.

    It shrinks by half when that happens, and grows back little by little, as TCP shares a line.

    :param clock: seconds since the epoch.
    """

    _MOST = ADDRESS_CAPACITY / 2 * ADDRESS_SHARE  # a minute

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._share = self._left = self._MOST
        self._reckoned_at = clock()
        self._closed_until = -inf

    def sent(self) -> None:
        """Take note of a request."""
        self._reckon()
        self._left -= 1

    def refused(self, info: RateLimitInfo) -> None:
        """Take note of a refusal."""
        now = self._reckon()
        if now >= self._closed_until:  # further refusals of the same moment say nothing new
            self._share = max(1.0, self._share / 2)
        self._left = min(self._left, self._share)
        self._closed_until = max(self._closed_until, now + (info.retry_after or RATE_WINDOW))

    def room(self) -> int:
        """How many requests may be sent now."""
        return 0 if self._reckon() < self._closed_until else max(0, int(self._left))

    def wait(self) -> float:
        """Seconds until a request may be sent."""
        if self.room() > 0:
            return 0.0
        return max(self._closed_until - self._reckoned_at, (1 - self._left) * RATE_WINDOW / self._share) + 0.01

    def _reckon(self) -> float:
        now = self._clock()
        minutes = max(0.0, now - self._reckoned_at) / RATE_WINDOW
        self._share = min(self._MOST, self._share + 0.1 * self._MOST * minutes)
        self._left = min(self._share, self._left + self._share * minutes)
        self._reckoned_at = now
        return now


class Budgets:
    """All buckets of one key on one server.

    :param clock: seconds since the epoch.
    :param address: the share that all keys have in common.
    """

    def __init__(self, clock: Callable[[], float], address: AddressBudget | None = None) -> None:
        self.server = ServerClock(clock)
        self._address = address or AddressBudget(clock)
        self._clock = clock
        self._used_at = clock()
        self._buckets: dict[str | None, Budget] = {}

    @property
    def unused_for(self) -> float:
        """Seconds since the last request or answer."""
        return self._clock() - self._used_at

    def told(self, info: RateLimitInfo) -> None:
        """Take note of what an answer says of a bucket."""
        self._used_at = self._clock()
        if info.reset is not None:
            self.server.told(info.reset)
        if info.bucket == ADDRESS_BUCKET:
            self._address.refused(info)
        else:
            self._of(info.bucket).told(info)

    def refused(self, bucket: str | None, seconds: float) -> None:
        """Send none of these requests for a while, whatever else the refusal may have said."""
        self._of(bucket).told(RateLimitInfo(retry_after=seconds))

    def room(self, bucket: str | None) -> int:
        """How many requests may be sent now.

        :param bucket: the one that they spend, None where nothing is metered.
        """
        room = self._of(bucket).room()
        return room if bucket is None else min(room, self._address.room())

    def wait(self, bucket: str | None) -> float:
        """Seconds until a request may be sent; infinite where an answer must come first."""
        wait = self._of(bucket).wait()
        return wait if bucket is None else max(wait, self._address.wait())

    @contextmanager
    def sending(self, bucket: str | None) -> Iterator[None]:
        """Count a request, from its sending to its answer."""
        self._used_at = self._clock()
        budget = self._of(bucket)
        if bucket is not None:
            self._address.sent()
        budget.sent()
        try:
            yield
        finally:
            budget.in_flight -= 1

    def _of(self, bucket: str | None) -> Budget:
        found = self._buckets.get(bucket)
        if found is None:
            found = self._buckets[bucket] = Budget(self.server.now, metered=bucket is not None)
        return found


UNUSED_AFTER = 600.0
"""Seconds; longer than any Retry-After that is waited for."""

BudgetsByLoop = WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Budgets]]
"""By event loop, then by :attr:`.ClientSettings.rate_limited_as`."""


def shared_budgets(known: BudgetsByLoop, settings: ClientSettings, new: Callable[[], Budgets]) -> Budgets:
    """Return the budgets that an event loop shares for a server and key; drop those that are no longer used."""
    of_loop = known.setdefault(asyncio.get_running_loop(), {})
    for name in [name for name, budgets in of_loop.items() if budgets.unused_for > UNUSED_AFTER]:
        del of_loop[name]
    if settings.rate_limited_as not in of_loop:
        of_loop[settings.rate_limited_as] = new()
    return of_loop[settings.rate_limited_as]


_addresses: dict[str, AddressBudget] = {}


def address_of(base_url: str, clock: Callable[[], float]) -> AddressBudget:
    """The share of this process in a server's requests, whatever the key."""
    return _addresses.setdefault(base_url, AddressBudget(clock))
