"""Rules that apply faults to matching requests, or hold the requests."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

from airflow_provider_sim.emulator.request_context import APIS, MODES, Fault, RequestContext, RequestInfo, Stage

OPERATIONS = (
    *("execute", "run", "job", "cancel", "resume", "pauses", "runs", "logs", "log", "workflows", "workflow", "import"),
    *("delete", "status", "deployment", "deploy", "undeploy", "rollback", "versions", "workspaces", "billing"),
    *("usage_limits", "resume_poll", "create_file", "files", "file", "download_file", "delete_file"),
    *("create_upload", "transfer", "complete_upload", "abort_upload"),
)
"""The names of the routes; a route of another API with the same function has the same name."""


@dataclass(frozen=True, slots=True)
class Match:
    """Condition for requests: every field that is not None has this value.

    :param operation: the function, on any API: ``execute``, ``run``, ``job``, ``cancel``, ``logs`` …
    :param surface: ``v2``, ``v1`` or ``legacy``.
    :param workflow_id: the workflow in the path.
    :param run_id: the run in the path, or the run ID that the caller of an execution chose.
    :param mode: of an execution: ``sync``, ``async`` or ``stream``.
    :raises ValueError: no request can have one of the values.
    """

    operation: str | None = None
    surface: str | None = None
    workflow_id: str | None = None
    run_id: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        known = {"operation": OPERATIONS, "surface": APIS, "mode": MODES}
        for name, value in self.to_dict().items():
            if not isinstance(value, str):
                raise ValueError(f"match: {name} is a text, not {value!r}")
            if value not in known.get(name, (value,)):
                raise ValueError(f"match: unknown {name} {value!r}; choose from {', '.join(sorted(known[name]))}")

    @classmethod
    def of(cls, value: Match | str | dict[str, Any] | None) -> Match:
        """Return the match for an operation's name, or for fields from JSON.

        :raises ValueError: a field is unknown.
        """
        if isinstance(value, Match):
            return value
        if value is None or isinstance(value, str):
            return cls(operation=value)
        if not isinstance(value, dict):
            raise ValueError(f"match is an operation's name or an object, not {value!r}")
        unknown = [name for name in value if name not in _FIELDS]
        if unknown:
            raise ValueError(f"match has no {', '.join(map(str, unknown))}; it has {', '.join(_FIELDS)}")
        return cls(**value)

    def matches(self, info: RequestInfo) -> bool:
        return all(value == getattr(info, name) for name, value in self.to_dict().items())

    def to_dict(self) -> dict[str, str]:
        """Return the fields that are not None."""
        return {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}


_FIELDS = tuple(field.name for field in fields(Match))


class FaultRule:
    """A fault for the requests that match. Used as a context manager, it ends with its block.

    :ivar number: the rule's ID in the control API.
    :ivar hits: how many requests it has affected.
    """

    def __init__(self, fault: Fault, match: Match, *, times: int | None = 1, after: int = 0) -> None:
        for name, value, least in (("times", times, 1), ("after", after, 0)):
            if (value is not None or name == "after") and (type(value) is not int or value < least):
                raise ValueError(f"{name} is a whole number from {least} on, not {value!r}")
        self.fault, self.match, self.times, self.after = fault, match, times, after
        self.number = self.hits = self._passed = 0
        self._removed = False

    @property
    def is_finished(self) -> bool:
        return self._removed or (self.times is not None and self.hits >= self.times)

    def apply(self, info: RequestInfo) -> Fault | None:
        if self.is_finished or not self.match.matches(info) or not self.fault.applies_to(info):
            return None
        if self._passed < self.after:
            self._passed += 1
            return None
        self.hits += 1
        return copy.copy(self.fault)

    def remove(self) -> None:
        """End the rule."""
        self._removed = True

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as the control API shows it."""
        return {
            "id": self.number,
            "fault": self.fault.name,
            **{name: value for name, value in vars(self.fault).items() if not name.startswith("_")},
            "match": self.match.to_dict(),
            "times": self.times,
            "after": self.after,
            "hits": self.hits,
            "finished": self.is_finished,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Hold(FaultRule):
    """Requests that wait inside the server until they are released, at the latest by the end of the ``with`` block.

    A caller that disconnects ends the waiting: at ``before`` the request is not carried out; later, a sync run is
    cancelled.
    """

    def __init__(
        self, match: Match, *, times: int | None = 1, after: int = 0, when: Stage = "before", proxied: bool = False
    ) -> None:
        super().__init__(_HoldFault(self, when, proxied), match, times=times, after=after)
        self._changed = threading.Condition()
        self._arrived: list[RequestInfo] = []
        self._abandoned: list[RequestInfo] = []
        self._released = False

    def wait_until_held(self, timeout: float = 30.0, *, count: int = 1) -> RequestInfo:
        """Wait until requests are held; return the last of them.

        :param count: the number of requests, including those that are no longer held.
        :raises TimeoutError: there are fewer requests after ``timeout`` seconds.
        """
        return self._wait(self._arrived, timeout, count, "were held")

    def wait_until_abandoned(self, timeout: float = 30.0, *, count: int = 1) -> RequestInfo:
        """As :meth:`wait_until_held`, for held requests whose callers have disconnected."""
        return self._wait(self._abandoned, timeout, count, "were abandoned")

    def release(self) -> None:
        """Release the waiting requests and hold no further ones."""
        self._released = self._removed = True

    remove = release

    def _wait(self, requests: list[RequestInfo], timeout: float, count: int, what: str) -> RequestInfo:
        with self._changed:
            if not self._changed.wait_for(lambda: len(requests) >= count, timeout):
                raise TimeoutError(f"after {timeout:g} seconds, {len(requests)} of {count} requests {what}")
            return requests[count - 1]

    def _add(self, info: RequestInfo, requests: list[RequestInfo]) -> None:
        with self._changed:
            requests.append(info)
            self._changed.notify_all()


class _HoldFault(Fault):
    name = "hold"

    def __init__(self, hold: Hold, when: Stage, proxied: bool) -> None:
        self._hold, self.when, self.proxied = hold, when, proxied
        self.__post_init__()

    async def act(self, context: RequestContext) -> None:
        hold, info = self._hold, context.info
        assert info is not None
        hold._add(info, hold._arrived)
        await context.wait_until(lambda: hold._released)
        if not hold._released:
            hold._add(info, hold._abandoned)


class FaultRules:
    """All rules in the order in which they were added."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._all: list[FaultRule] = []

    def add(self, rule: FaultRule) -> None:
        rule.number = next(self._numbers)
        self._all.append(rule)

    def __iter__(self) -> Iterator[FaultRule]:
        """Iterate over all rules, including the finished ones; another thread may add and remove rules meanwhile."""
        return iter(list(self._all))

    def __bool__(self) -> bool:
        return not all(rule.is_finished for rule in self)

    def apply(self, info: RequestInfo) -> list[Fault]:
        return [fault for rule in self if (fault := rule.apply(info)) is not None]

    def remove(self, chosen: Callable[[FaultRule], bool] = lambda _: True) -> int:
        """End and forget the chosen rules; return their number."""
        removed = [rule for rule in self if chosen(rule)]
        for rule in removed:
            rule.remove()
            self._all.remove(rule)
        return len(removed)
