"""What a test has ordered to go wrong or to wait, and which requests it is for."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Self

from airflow_provider_sim.emulator.clock import Clock
from airflow_provider_sim.emulator.exchange import (
    MODES,
    OPERATIONS,
    SURFACES,
    Asked,
    Exchange,
    Fault,
    Stage,
    stage_named,
)


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests an order is for: those of which all of this is true; None is true of any.

    :param operation: what is asked for, on any API: ``execute``, ``run``, ``job``, ``cancel``, ``logs`` …
    :param surface: ``v2``, ``v1`` or ``legacy``.
    :param method: as in HTTP.
    :param path: a pattern such as ``/api/v2/*``, for the path without its query.
    :param workflow_id: the workflow in the path.
    :param run_id: the run in the path, or the id that an execution's caller has chosen.
    :param mode: of an execution: ``sync``, ``async`` or ``stream``.
    """

    operation: str | None = None
    surface: str | None = None
    method: str | None = None
    path: str | None = None
    workflow_id: str | None = None
    run_id: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        """Find mistakes before they match nothing.

        :raises ValueError: a field has a value that no request has.
        """
        known = {"operation": set(OPERATIONS.values()), "surface": SURFACES, "mode": MODES}
        for name in _FIELDS:
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise ValueError(f"match: {name} is a text, not {value!r}")
            if value not in known.get(name, (value,)):
                raise ValueError(f"match: there is no {name} {value!r}; there are {', '.join(sorted(known[name]))}")

    @classmethod
    def of(cls, given: Match | str | dict[str, Any] | None) -> Match:
        """Read what stands for a match: an operation's name, or the fields as they come out of JSON.

        :raises ValueError: there is no such field.
        """
        if isinstance(given, Match):
            return given
        if given is None or isinstance(given, str):
            return cls(operation=given)
        if not isinstance(given, dict):
            raise ValueError(f"match is an operation's name or an object, not {given!r}")
        unknown = [name for name in given if name not in _FIELDS]
        if unknown:
            raise ValueError(f"match has no {', '.join(map(str, unknown))}; it has {', '.join(_FIELDS)}")
        return cls(**given)

    def fits(self, asked: Asked) -> bool:
        """Whether it is true of a request."""
        for name in _FIELDS:
            wanted, there = getattr(self, name), getattr(asked, name)
            if wanted is None or wanted == there:
                continue
            if name != "path" or not fnmatchcase(there, wanted):
                return False
        return True

    def told(self) -> dict[str, str]:
        """What it asks for, as JSON shows it."""
        return {name: getattr(self, name) for name in _FIELDS if getattr(self, name) is not None}


_FIELDS = tuple(field.name for field in fields(Match))


@dataclass(frozen=True, slots=True)
class Count:
    """How many of the requests that match an order is for.

    :param times: so many; None for all.
    :param after: so many pass unharmed first.
    :param lasting: and only for so many seconds of the emulator's clock.
    :raises ValueError: one of them makes no sense.
    """

    times: int | None = 1
    after: int = 0
    lasting: float | None = None

    def __post_init__(self) -> None:
        """Check them; they may come out of JSON."""
        for name, value, least in (("times", self.times, 1), ("after", self.after, 0)):
            if value is None and name == "times":
                continue
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is a whole number from {least} on, not {value!r}")
        if self.lasting is not None and (type(self.lasting) not in (int, float) or self.lasting <= 0):
            raise ValueError(f"lasting is a number of seconds, not {self.lasting!r}")


class Order:
    """A fault that was ordered; as a context manager it ends with its block.

    :ivar number: its place among all orders.
    :ivar struck: how many requests it has struck.
    """

    def __init__(self, fault: Fault, match: Match, count: Count) -> None:
        self.fault, self.match, self.count = fault, match, count
        self.number = 0
        self.struck = 0
        self._passed = 0
        self._undone = False
        self._is_late: Callable[[], bool] = bool  # never

    def put_in_force(self, clock: Clock, number: int) -> None:
        """Begin."""
        self.number = number
        if self.count.lasting is not None:
            end = clock.now() + self.count.lasting
            self._is_late = lambda: clock.now() >= end

    @property
    def is_over(self) -> bool:
        """Whether it strikes nothing any more."""
        used_up = self.count.times is not None and self.struck >= self.count.times
        return self._undone or used_up or self._is_late()

    def strike(self, asked: Asked) -> Fault | None:
        """The fault, if a request is to be struck."""
        if self.is_over or not self.match.fits(asked) or not self.fault.concerns(asked):
            return None
        if self._passed < self.count.after:
            self._passed += 1
            return None
        self.struck += 1
        return copy.copy(self.fault)

    def undo(self) -> None:
        """Take it back; what it has done already stays done."""
        self._undone = True

    def told(self) -> dict[str, Any]:
        """As the control endpoint shows it."""
        return {
            "id": self.number,
            "fault": self.fault.name,
            **{name: value for name, value in vars(self.fault).items() if not name.startswith("_")},
            "match": self.match.told(),
            **asdict(self.count),
            "struck": self.struck,
            "over": self.is_over,
        }

    def __enter__(self) -> Self:
        """Leave it in force for the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it back."""
        self.undo()


class Hold(Order):
    """Requests that wait inside the server until they are released; as a context manager at the end of its block.

    A caller who hangs up is let go: at ``before`` nothing is done for it; later, a held-open run is cancelled.

    :param when: at which stage they wait: ``before``, ``accepted`` or ``done``.
    :param proxied: the server doesn't see its callers hang up: what they asked for is carried out all the same.
    """

    def __init__(self, match: Match, count: Count, *, when: Stage = "before", proxied: bool = False) -> None:
        super().__init__(_Held(self, when, proxied), match, count)
        self._changed = threading.Condition()
        self._arrived: list[Asked] = []
        self._waiting: list[Asked] = []
        self._abandoned: list[Asked] = []
        self._released = False

    @property
    def held(self) -> list[Asked]:
        """The requests that wait now."""
        return list(self._waiting)

    def wait_until_held(self, timeout: float = 30.0, *, count: int = 1) -> Asked:
        """Wait until a request is held; return it.

        :param count: how many have to have been held; the last of them is returned.
        :raises TimeoutError: they haven't.
        """
        return self._wait(self._arrived, timeout, count, "was held")

    def wait_until_abandoned(self, timeout: float = 30.0, *, count: int = 1) -> Asked:
        """Wait until the caller of a held request has hung up; return the request.

        :raises TimeoutError: it hasn't.
        """
        return self._wait(self._abandoned, timeout, count, "was abandoned")

    def release(self) -> None:
        """Let those who wait go on, and hold no others."""
        self._released = True
        self._undone = True

    def undo(self) -> None:
        """As :meth:`release`."""
        self.release()

    def _wait(self, requests: list[Asked], timeout: float, count: int, what: str) -> Asked:
        with self._changed:
            if not self._changed.wait_for(lambda: len(requests) >= count, timeout):
                raise TimeoutError(f"after {timeout:g} seconds, {len(requests)} of {count} requests {what}")
            return requests[count - 1]

    async def keep(self, exchange: Exchange) -> None:
        """Let a request wait."""
        asked = exchange.asked
        assert asked is not None
        self._note(asked, self._waiting, self._arrived)
        try:
            await exchange.wait_until(lambda: self._released)
        finally:
            self._waiting.remove(asked)
        if not self._released:
            self._note(asked, self._abandoned)

    def _note(self, asked: Asked, *lists: list[Asked]) -> None:
        with self._changed:
            for requests in lists:
                requests.append(asked)
            self._changed.notify_all()


class _Held(Fault):
    """The part of a hold that a request meets."""

    name = "hold"

    def __init__(self, hold: Hold, when: Stage, proxied: bool) -> None:
        self._hold, self.when, self.proxied = hold, stage_named(when), proxied

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.proxied = exchange.proxied or self.proxied
        if stage == self.when:
            await self._hold.keep(exchange)


class Orders:
    """All orders, in the order in which they were made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        self._all: dict[int, Order] = {}
        self._open: list[Order] = []
        self._lock = threading.Lock()

    def add(self, order: Order) -> None:
        """Put an order in force."""
        with self._lock:
            order.put_in_force(self._clock, next(self._numbers))
            self._all[order.number] = order
            self._open.append(order)

    def __iter__(self) -> Iterator[Order]:
        """All of them, the ones that are over included."""
        with self._lock:
            return iter(list(self._all.values()))

    @property
    def are_any(self) -> bool:
        """Whether any may strike."""
        return bool(self._open)

    def strike(self, asked: Asked) -> list[Fault]:
        """What is to go wrong with a request."""
        with self._lock:
            struck = [order.strike(asked) for order in self._open]
            self._open = [order for order in self._open if not order.is_over]
        return [fault for fault in struck if fault is not None]

    def undo(self, chosen: Callable[[Order], bool] = lambda _: True) -> int:
        """Take orders back and forget them; return how many."""
        with self._lock:
            undone = [order for order in self._all.values() if chosen(order)]
            for order in undone:
                order.undo()
                del self._all[order.number]
        return len(undone)
