"""When the next run may be started; no I/O.

Four things say how many: the bucket of requests to start a run, which every v2 answer tells of (:mod:`..watch.budget`);
the plan's executions a minute, which the usage report tells of; how many runs may go on at once, which nothing tells
before it is too many; and the author.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_sim.client import ADDRESS_CAPACITY, RATE_WINDOW, ClientSettings, RateLimit, RateLimitInfo
from airflow_provider_sim.polling.rate_limits import AddressBudget, Budgets, BudgetsByLoop, shared_budgets

MOST_STARTING = 8
"""Requests to start a run that are under way at once."""

PROBE_AFTER = 5.0
"""Seconds after which it is tried whether one run more than the known number may go on by now. Each refusal leaves a
failed run in Sim's log, so that these times double with each one in a row …"""

PROBE_SELDOM = 300.0
"""… up to this."""

REPORT_AFTER = 60.0
"""Seconds after which the usage report is read again: others may use the same account."""

RESERVE = 0.1
"""Share of a minute's executions that is left to others."""

ADDRESS_SHARE = 0.8
"""Share of the requests that v2 takes from one address each minute. Looks at runs have a share of their own, so that
starts can't hold them up."""


class _StartsOfAnAddress(AddressBudget):
    _MOST = ADDRESS_CAPACITY / 2 * ADDRESS_SHARE


_addresses: dict[str, AddressBudget] = {}
_budgets: BudgetsByLoop = WeakKeyDictionary()


def budgets_of(settings: ClientSettings) -> Budgets:
    """Return the budgets that all batches on this event loop share which start runs on one server with one key."""
    address = _addresses.setdefault(settings.base_url, _StartsOfAnAddress(time.time))
    return shared_budgets(_budgets, settings, lambda: Budgets(time.time, address))


class ConcurrencySlots:
    """How many runs may go on at once.

    What Sim allows is learnt when it refuses one: as many as went on then. From time to time one more is tried, since
    other tasks' runs, which count as well, may have ended.

    :param clock: seconds since the epoch.
    :param most: the author's own limit.
    :param known: what was learnt before.
    :param interval: seconds between looks at the runs.
    """

    def __init__(
        self, clock: Callable[[], float], most: int | None = None, known: int | None = None, *, interval: float = 10.0
    ) -> None:
        self._clock = clock
        self._unseen = 1.5 * interval
        self._most = inf if most is None else most
        self.known = known
        self.active = 0
        self.starting = 0
        self._probing = False
        self._surplus: deque[float] = deque()
        self._probe_pause = PROBE_AFTER
        self._probe_at = -inf

    def room(self) -> int:
        """How many more may be started."""
        used = self.active + self.starting
        if self.known is None:
            allowed = self._most
        elif used < self.known:
            allowed = min(self._most, self.known)
        else:
            allowed = min(self._most, self.known + (not self.starting and self._clock() >= self._probe_at))
        return max(0, int(min(allowed - used, self._window - self.starting)))

    @property
    def _window(self) -> int:
        """How many may be under way at once: few, as long as any of them may be one too many."""
        return MOST_STARTING if self.known is not None else min(MOST_STARTING, 1 + self.active // 4)

    @property
    def is_full(self) -> bool:
        """Whether as many go on as may."""
        return self.active + self.starting >= min(self._most, inf if self.known is None else self.known)

    def wait(self) -> float:
        """Seconds until there may be room although no run has ended; infinite if there won't be."""
        if self.room():
            return 0.0
        if self.known is None or self.starting or self.active >= self._most:
            return inf
        return max(0.0, self._probe_at - self._clock())

    @contextmanager
    def start(self) -> Iterator[None]:
        """Count a start, from its sending to its answer."""
        if self.known is not None and self.active + self.starting >= self.known:
            self._probing = True
        self.starting += 1
        try:
            yield
        finally:
            self.starting -= 1

    def began(self) -> None:
        """A run goes on."""
        self.active += 1
        if self.known is not None and self.active > self.known:
            self.known = self.active
            self._surplus.append(self._clock())
            self._probing, self._probe_at = False, self._clock()  # try on

    def ended(self) -> None:
        """A run has ended; perhaps some time before that was seen, and so one more than known was let in meanwhile."""
        self.active -= 1
        while self._surplus and self._surplus[0] < self._clock() - self._unseen:
            self._surplus.popleft()  # it was let in when those that end now still went on
        if self._surplus and self.known is not None:
            self._surplus.popleft()
            self.known -= 1

    def refused(self, retry_after: float | None) -> None:
        """There were too many."""
        if self._probing:
            self._probing = False
            self._probe_pause = min(2 * self._probe_pause, PROBE_SELDOM)
        else:
            self._probe_pause = max(self._probe_pause / 2, PROBE_AFTER)
        self.known = self.active
        self._probe_at = self._clock() + max(self._probe_pause, retry_after or 0.0)


class ExecutionLimit:
    """The plan's executions a minute, as far as the usage report has told.

    :param clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = inf
        self._reset = inf
        self._told_at = -inf
        self._closed_until = -inf

    @property
    def wants_report(self) -> bool:
        """Whether it is time to read the usage report."""
        now = self._clock()
        return now >= self._closed_until and (now - self._told_at >= REPORT_AFTER or now >= self._reset)

    def told(self, limit: RateLimit | None, reset: float | None) -> None:
        """Take note of a usage report.

        :param limit: None where it couldn't be had.
        :param reset: when the next executions come, in seconds since the epoch.
        """
        now = self._told_at = self._clock()
        self._left, self._reset = inf, inf
        if limit is None or limit.remaining is None:
            return
        self._left = limit.remaining - RESERVE * (limit.requests_per_minute or 0)
        if reset is not None:
            self._reset = min(max(reset, now + 1.0), now + RATE_WINDOW)  # whatever the clocks say

    def sent(self) -> None:
        """One more is used."""
        self._left -= 1

    def refused(self, retry_after: float | None) -> None:
        """There are none left."""
        self._closed_until = self._clock() + (retry_after or RATE_WINDOW / 2)
        self._told_at = -inf

    def room(self) -> float:
        """How many may be started now."""
        return 0 if self._clock() < self._closed_until else max(0, self._left)

    def wait(self) -> float:
        """Seconds until there are more, or may be; infinite where a report must come first."""
        now = self._clock()
        if now < self._closed_until:
            return self._closed_until - now
        if self._left >= 1:
            return 0.0
        if self.wants_report:
            return inf
        return max(0.0, min(self._reset, self._told_at + REPORT_AFTER) - now)


class Throttle:
    """All of it.

    :param budgets: of the key on its server; shared with whoever else asks it in this process.
    :param bucket: the one that a start spends; None on the legacy API, which meters no requests.
    :param clock: seconds since the epoch.
    :param most: how many runs the author wants to go on at once.
    :param known: how many Sim allows, if that was learnt before.
    :param interval: seconds between looks at the runs.
    """

    def __init__(
        self,
        budgets: Budgets,
        *,
        bucket: Callable[[], str | None],
        clock: Callable[[], float],
        most: int | None = None,
        known: int | None = None,
        interval: float = 10.0,
    ) -> None:
        self._budgets = budgets
        self._bucket = bucket
        self._clock = clock
        self.slots = ConcurrencySlots(clock, most, known, interval=interval)
        self.executions = ExecutionLimit(clock)
        self._closed_until = -inf

    def room(self) -> int:
        """How many runs may be started now."""
        if self._clock() < self._closed_until:
            return 0
        return int(min(self.slots.room(), self.executions.room(), self._budgets.room(self._bucket())))

    def wait(self) -> float:
        """Seconds until there may be room although no run has ended; infinite if there won't be."""
        if self.room():
            return 0.0
        return max(
            self._closed_until - self._clock(),
            self.slots.wait(),
            self.executions.wait(),
            self._budgets.wait(self._bucket()),
        )

    @contextmanager
    def start(self) -> Iterator[None]:
        """Count a start, from its sending to its answer."""
        self.executions.sent()
        with self.slots.start(), self._budgets.sending(self._bucket()):
            yield

    def rest(self, seconds: float) -> None:
        """Start nothing for a while."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)

    def told(self, info: RateLimitInfo) -> None:
        """Take note of what an answer says of a bucket."""
        self._budgets.told(info)

    def reason(self) -> str | None:
        """What the next run waits for."""
        now = self._clock()
        if self.room():
            return None
        if now < self._closed_until:
            return "for Sim to have time"
        if self.slots.is_full:
            return f"for one of {self.slots.active} runs to end" if self.slots.active else "for other runs to end"
        return None if self.slots.starting else "for the limit of requests"

    def learnt(self) -> dict[str, Any]:
        """What whoever goes on needs to know, as JSON."""
        return {"known": self.slots.known}
