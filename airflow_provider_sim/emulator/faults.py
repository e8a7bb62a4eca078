"""The faults by their names; ``docs/emulator.md`` lists them with their parameters."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from typing import Any, ClassVar

from starlette.responses import Response
from starlette.types import Message

from airflow_provider_sim.emulator.exchange import Asked, Exchange, Fault, Stage, stage_named
from airflow_provider_sim.emulator.surfaces import wire
from airflow_provider_sim.emulator.surfaces.v2.gates import CODES
from airflow_provider_sim.emulator.workflows import BlockError

HEADER = b"x-sim-emulator-fault"


@dataclass
class DropBeforeAccept(Fault):
    """The connection is cut before the server has done anything.

    :param reset: by a reset instead of an orderly end.
    """

    name: ClassVar[str] = "drop_before_accept"
    reset: bool = False

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        if stage == "before":
            await exchange.cut(reset=self.reset)


@dataclass
class DropAfterAccept(Fault):
    """The server carries the request out, and the connection is cut without an answer.

    A held-open run is cut off as soon as it has begun: Sim sees that, and cancels it.

    :param proxied: a proxy keeps the server's side open, and the run goes on.
    :param reset: by a reset instead of an orderly end.
    """

    name: ClassVar[str] = "drop_after_accept"
    proxied: bool = False
    reset: bool = False

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.proxied = exchange.proxied or self.proxied
        if stage == "accepted":
            await exchange.cut(reset=self.reset)


@dataclass
class HalfAnswer(Fault):
    """The connection is cut after the head and half of the body."""

    name: ClassVar[str] = "half_answer"
    _head: Message | None = field(default=None, init=False)
    _body: bytes = field(default=b"", init=False)

    async def send(self, message: Message, exchange: Exchange) -> Message | None:
        if message["type"] == "http.response.start":
            self._head = message
            return None
        self._body += message.get("body", b"")
        if message.get("more_body") or self._head is None:
            return None
        await exchange.say(self._head)
        await exchange.say({**message, "body": self._body[: len(self._body) // 2], "more_body": True})
        await exchange.close()
        return None


@dataclass
class Delay(Fault):
    """The answer takes longer.

    :param seconds: by so much, of the emulator's clock.
    :param when: the server waits ``before`` it does anything, once the request is ``accepted``, or with the answer
        ``done``.
    :param proxied: a caller who hangs up meanwhile isn't noticed, and the request is carried out all the same.
    """

    name: ClassVar[str] = "delay"
    seconds: float = 1.0
    when: str = "before"
    proxied: bool = False

    def __post_init__(self) -> None:
        stage_named(self.when)

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.proxied = exchange.proxied or self.proxied
        if stage == self.when:
            await exchange.sleep(self.seconds)


@dataclass
class ServerError(Fault):
    """The answer is a 5xx.

    :param status: any other is as good.
    :param when: ``before`` anything is done, or once the request is ``accepted``.
    :param page: the body is a proxy's web page; else of Sim's own shape, where Sim itself gives this status.
    :param message: Sim's words.
    :param code: Sim's detail code.
    :param proxied: a held-open run goes on, although its caller has this answer.
    """

    name: ClassVar[str] = "server_error"
    status: int = 500
    when: str = "before"
    page: bool = False
    message: str = ""
    code: str = ""
    proxied: bool = False

    def __post_init__(self) -> None:
        stage_named(self.when)
        if not 200 <= self.status <= 599:
            raise ValueError(f"{self.status} is no status of an answer")

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.proxied = exchange.proxied or self.proxied
        if stage == self.when:
            assert exchange.asked is not None
            await exchange.answer(self._page() if self.page or self.status not in CODES else self._told(exchange.asked))

    def _page(self) -> Response:
        named = self.status in list(HTTPStatus)  # proxies have more: 499, 520
        title = html.escape(f"{self.status} {HTTPStatus(self.status).phrase if named else 'Error'}")
        page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        return Response(f"{page}</body>\r\n</html>\r\n", self.status, {"content-type": "text/html"})

    def _told(self, asked: Asked) -> Response:
        unavailable = self.status == 503
        words = self.message or ("Service temporarily unavailable" if unavailable else "Internal server error")
        if asked.surface != "v2":
            return wire.answer(self.status, {"error": words} | ({"code": self.code} if self.code else {}))
        error: dict[str, Any] = {"code": CODES[self.status], "message": words}
        if self.code:
            error["details"] = {"code": self.code}
        headers = {"cache-control": "private, no-store"} | ({"retry-after": "5"} if unavailable else {})
        return wire.answer(self.status, {"error": error}, headers)


@dataclass
class Redirect(Fault):
    """The answer sends the caller elsewhere.

    :param location: where to; the request's path is appended to a bare origin.
    :param status: 301, 302, 303, 307 or 308.
    """

    name: ClassVar[str] = "redirect"
    location: str = "https://www.sim.ai"
    status: int = 301

    def __post_init__(self) -> None:
        if self.status not in (301, 302, 303, 307, 308):
            raise ValueError(f"{self.status} is no redirect; there are 301, 302, 303, 307, 308")

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        if stage == "before":
            bare = "/" not in self.location.partition("://")[2]
            location = self.location + exchange.scope["raw_path"].decode() if bare else self.location
            await exchange.answer(Response(b"", self.status, {"location": location}))


@dataclass
class SlowStream(Fault):
    """A stream's frames come slowly.

    :param seconds: before each of them, of the emulator's clock.
    """

    name: ClassVar[str] = "slow_stream"
    seconds: float = 1.0

    def concerns(self, asked: Asked) -> bool:
        return asked.mode == "stream"

    async def send(self, message: Message, exchange: Exchange) -> Message | None:
        if message.get("body"):
            await exchange.sleep(self.seconds)
        return message


@dataclass
class CutStream(Fault):
    """A stream is cut off.

    :param frames: after so many.
    :param proxied: a proxy keeps the server's side open, and the run goes on.
    """

    name: ClassVar[str] = "cut_stream"
    frames: int = 1
    proxied: bool = False
    _sent: int = field(default=0, init=False)

    def concerns(self, asked: Asked) -> bool:
        return asked.mode == "stream"

    async def send(self, message: Message, exchange: Exchange) -> Message | None:
        exchange.proxied = exchange.proxied or self.proxied
        if message["type"] == "http.response.start":
            return message
        if self._sent >= self.frames:
            await exchange.close()
            return None
        self._sent += 1
        return message


@dataclass
class RateLimit(Fault):
    """A limit is reached: a 429.

    :param kind: which one: ``execution`` (the bucket of executions), ``concurrency`` (runs at once), ``gate`` (requests
        at once), ``requests`` (the bucket of v2's and v1's requests), ``address`` (v2's bucket of one address), or
        ``model``: the run is started and fails, because a hosted model's key is limited.
    :param retry_after: the header's text, instead of what Sim says, or where it says nothing.
    """

    name: ClassVar[str] = "rate_limit"
    kind: str = "execution"
    retry_after: str = ""

    KINDS: ClassVar[tuple[str, ...]] = ("execution", "concurrency", "gate", "requests", "address", "model")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"there is no kind {self.kind!r}; there are {', '.join(self.KINDS)}")

    def concerns(self, asked: Asked) -> bool:
        if self.kind == "requests":
            return asked.surface in ("v2", "v1")
        return asked.surface == "v2" if self.kind == "address" else asked.operation == "execute"

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        if stage != "before":
            return
        if self.kind == "model":
            words = "429 Rate limit exceeded for the hosted model key. Please try again later."
            exchange.trouble.failing = BlockError(words, block="Agent", block_type="agent", status=429)
        else:
            exchange.trouble.limit = self.kind

    async def send(self, message: Message, exchange: Exchange) -> Message | None:
        if self.retry_after and message.get("status") == 429:
            others = [pair for pair in message["headers"] if pair[0] != b"retry-after"]
            return {**message, "headers": [*others, (b"retry-after", self.retry_after.encode("latin-1"))]}
        return message


@dataclass
class AuthOutage(Fault):
    """The store of the keys is away: v2 says 503; the others say 401, as if the key were wrong."""

    name: ClassVar[str] = "auth_outage"

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.trouble.keys_down = True


@dataclass
class AmbiguousEnqueue(Fault):
    """An asynchronous run is answered with 503 ``ASYNC_ENQUEUE_AMBIGUOUS``.

    :param started: whether there is a run nevertheless.
    """

    name: ClassVar[str] = "ambiguous_enqueue"
    started: bool = True

    def concerns(self, asked: Asked) -> bool:
        return asked.mode == "async"

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.trouble.enqueued = self.started


@dataclass
class StuckRun(Fault):
    """The run that is started stays ``running`` for ever: its server has died."""

    name: ClassVar[str] = "stuck_run"

    def concerns(self, asked: Asked) -> bool:
        return asked.operation == "execute"

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.trouble.stuck = True


@dataclass
class Restart(Fault):
    """The server dies and comes back, and every connection is cut.

    Runs that were going on stay ``running`` for ever, queued ones are forgotten, all others are as before.

    :param when: ``before`` the request is looked at, or once it is ``accepted``.
    """

    name: ClassVar[str] = "restart"
    when: str = "before"

    def __post_init__(self) -> None:
        stage_named(self.when)

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        if stage == self.when:
            await exchange.restart()


@dataclass
class Transient404(Fault):
    """The run that is started isn't found at first.

    :param looks: by so many looks at it.
    :param seconds: and for so long, of the emulator's clock.
    """

    name: ClassVar[str] = "transient_404"
    looks: int = 1
    seconds: float = 0.0

    def concerns(self, asked: Asked) -> bool:
        return asked.operation == "execute"

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.trouble.unseen_looks, exchange.trouble.unseen_seconds = self.looks, self.seconds


@dataclass
class LostCancel(Fault):
    """A cancellation is answered with 200 and ``success: false``, and the run goes on.

    :param reason: as Sim tells it.
    """

    name: ClassVar[str] = "lost_cancel"
    reason: str = "redis_unavailable"

    def concerns(self, asked: Asked) -> bool:
        return asked.operation == "cancel"

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        exchange.trouble.lost_cancel = self.reason


FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        DropBeforeAccept,
        DropAfterAccept,
        HalfAnswer,
        Delay,
        ServerError,
        Redirect,
        RateLimit,
        AuthOutage,
        AmbiguousEnqueue,
        StuckRun,
        Restart,
        Transient404,
        LostCancel,
        SlowStream,
        CutStream,
    )
}
"""By name."""


def fault_named(name: str, parameters: Mapping[str, Any]) -> Fault:
    """Make a fault.

    :param parameters: values, or what a header has for them.
    :raises ValueError: there is no such fault, it has no such parameter, or a value makes no sense.
    """
    if name not in FAULTS:
        raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
    kind = FAULTS[name]
    known = parameters_of(kind)
    unknown = [parameter for parameter in parameters if parameter not in known]
    if unknown:
        has = f"has {', '.join(known)}" if known else "has none"
        raise ValueError(f"{name} has no parameter {', '.join(map(str, unknown))}; it {has}")
    return kind(**{key: _value(f"{name}: {key}", value, known[key]) for key, value in parameters.items()})


def parameters_of(kind: type[Fault]) -> dict[str, Any]:
    """A fault's parameters, with what they are unless given."""
    return {each.name: each.default for each in fields(kind) if each.init}  # type: ignore[arg-type]


def _value(what: str, value: Any, default: Any) -> Any:
    """A parameter's value, of the type of its default."""
    kind = type(default)
    given = value
    if isinstance(value, str) and kind is not str:
        try:
            given = json.loads(value)
        except ValueError:
            given = value
    if kind in (float, str) and type(given) is int:
        given = kind(given)
    if type(given) is not kind or (kind in (int, float) and not given >= 0):
        raise ValueError(f"{what} is a {_WORDS[kind]}, not {value!r}")
    return given


_WORDS = {bool: "truth value", int: "whole number", float: "number", str: "text"}


def fault_of_header(text: str) -> Fault:
    """Read the header: a fault's name and parameters, such as ``delay; seconds=2; when=done``.

    :raises ValueError: it makes no sense.
    """
    name, *parts = (part.strip() for part in text.split(";"))
    parameters: dict[str, str] = {}
    for part in filter(None, parts):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is no parameter; write name=value")
        parameters[key.strip()] = value.strip().strip('"')
    return fault_named(name, parameters)
