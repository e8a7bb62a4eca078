"""The faults by name; ``docs/reference/emulator.md`` describes them and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Message

from airflow_provider_sim.emulator.request_context import Fault, RequestContext, RequestInfo
from airflow_provider_sim.emulator.routes.v2.middleware import CODES, error_response
from airflow_provider_sim.emulator.routes.wire import html_page, json_response
from airflow_provider_sim.emulator.state import ApiError


@dataclass
class DropBeforeAccept(Fault):
    """Close the connection before the server does anything."""

    name = "drop_before_accept"
    reset: bool = False

    async def act(self, context: RequestContext) -> None:
        await context.cut(reset=self.reset)


@dataclass
class DropAfterAccept(DropBeforeAccept):
    """Carry out the request, or start its sync run, then close the connection without a response."""

    name = "drop_after_accept"
    when = "accepted"
    proxied: bool = False


@dataclass
class HalfAnswer(Fault):
    """Close the connection after the headers and half of the body, or of its first part if it has several."""

    name = "half_answer"

    async def on_send(self, message: Message, context: RequestContext) -> Message | None:
        if message["type"] == "http.response.start":
            return message
        half = message["body"][: len(message["body"]) // 2]
        await context.send_unchanged({**message, "body": half, "more_body": True})
        await context.cut(flush=True)
        return None


@dataclass
class Delay(Fault):
    name = "delay"
    seconds: float = 1.0
    when: str = "before"
    proxied: bool = False

    async def act(self, context: RequestContext) -> None:
        await context.sleep(self.seconds)


@dataclass
class ServerError(Fault):
    """Respond with an error of Sim, or with a proxy's HTML page."""

    name = "server_error"
    status: int = 500
    when: str = "before"
    page: bool = False
    message: str = ""
    code: str = ""
    proxied: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 200 <= self.status <= 599:
            raise ValueError(f"{self.status} is not an HTTP status")

    async def act(self, context: RequestContext) -> None:
        assert context.info is not None
        await context.respond(self._response(context.info))

    def _response(self, info: RequestInfo) -> Response:
        if self.page or self.status not in CODES:
            standard = self.status in list(HTTPStatus)  # proxies also send 499 and 520
            title = f"{self.status} {HTTPStatus(self.status).phrase if standard else 'Error'}"
            return html_page(self.status, title, "")
        unavailable = self.status == 503
        message = self.message or ("Service temporarily unavailable" if unavailable else "Internal server error")
        if info.surface != "v2":
            return json_response(self.status, {"error": message} | ({"code": self.code} if self.code else {}))
        details = {"code": self.code} if self.code else None
        return error_response(ApiError(self.status, message, details, {"retry-after": "5"} if unavailable else {}))


@dataclass
class Redirect(Fault):
    name = "redirect"
    location: str = "https://www.sim.ai"
    status: int = 301

    def __post_init__(self) -> None:
        if self.status not in (301, 302, 303, 307, 308):
            raise ValueError(f"{self.status} is not a redirect status; choose from 301, 302, 303, 307, 308")

    async def act(self, context: RequestContext) -> None:
        is_origin = "/" not in self.location.partition("://")[2]
        location = self.location + context.scope["raw_path"].decode() if is_origin else self.location
        await context.respond(Response(b"", self.status, {"location": location}))


@dataclass
class SlowStream(Fault):
    """Delay each event of a stream."""

    name = "slow_stream"
    mode = "stream"
    seconds: float = 1.0

    async def on_send(self, message: Message, context: RequestContext) -> Message | None:
        if message.get("body"):
            await context.sleep(self.seconds)
        return message


@dataclass
class CutStream(Fault):
    """Close the connection in the middle of a stream."""

    name = "cut_stream"
    mode = "stream"
    frames: int = 1
    proxied: bool = False
    _sent: int = field(default=0, init=False)

    async def on_send(self, message: Message, context: RequestContext) -> Message | None:
        if message["type"] == "http.response.start":
            return message
        if self._sent >= self.frames:
            await context.cut(flush=True)
            return None
        self._sent += 1
        return message


RATE_LIMITS = ("execution", "concurrency", "gate", "requests", "address", "model")


@dataclass
class RateLimit(Fault):
    """Exhaust a limit, which leads to a 429."""

    name = "rate_limit"
    kind: str = "execution"
    retry_after: str = ""

    def __post_init__(self) -> None:
        if self.kind not in RATE_LIMITS:
            raise ValueError(f"unknown kind {self.kind!r}; choose from {', '.join(RATE_LIMITS)}")

    def applies_to(self, info: RequestInfo) -> bool:
        if self.kind == "requests":
            return info.surface in ("v2", "v1")
        return info.surface == "v2" if self.kind == "address" else info.operation == "execute"

    async def on_send(self, message: Message, context: RequestContext) -> Message | None:
        if self.retry_after and message.get("status") == 429:
            others = [pair for pair in message["headers"] if pair[0] != b"retry-after"]
            return {**message, "headers": [*others, (b"retry-after", self.retry_after.encode("latin-1"))]}
        return message


@dataclass
class AuthOutage(Fault):
    """Make the API key store unavailable: v2 responds with 503, the other APIs with 401."""

    name = "auth_outage"


@dataclass
class AmbiguousEnqueue(Fault):
    """Respond to an asynchronous start with 503 ``ASYNC_ENQUEUE_AMBIGUOUS``."""

    name = "ambiguous_enqueue"
    mode = "async"
    started: bool = True


@dataclass
class StuckRun(Fault):
    """Leave the run in ``running`` forever, because its server process has died."""

    name = "stuck_run"
    operation = "execute"


@dataclass
class Restart(Fault):
    name = "restart"
    when: str = "before"

    async def act(self, context: RequestContext) -> None:
        context.scope["app"].state.sim.restart()
        await context.cut()


@dataclass
class Transient404(Fault):
    """Hide the run from the first polls."""

    name = "transient_404"
    operation = "execute"
    polls: int = 1
    seconds: float = 0.0


@dataclass
class LostCancel(Fault):
    """Respond to a cancellation with 200 and ``success: false``; the run continues."""

    name = "lost_cancel"
    operation = "cancel"
    reason: str = "redis_unavailable"


FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        *(DropBeforeAccept, DropAfterAccept, HalfAnswer, Delay, ServerError, Redirect, RateLimit, AuthOutage),
        *(AmbiguousEnqueue, StuckRun, Restart, Transient404, LostCancel, SlowStream, CutStream),
    )
}
_TYPE_NAMES = {bool: "truth value", int: "whole number", float: "number", str: "text"}


def create_fault(name: str, parameters: Mapping[str, Any]) -> Fault:
    """Create a fault.

    :raises ValueError: the fault or a parameter is unknown, or a value is invalid.
    """
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}; choose from {', '.join(FAULTS)}")
    known = parameters_of(FAULTS[name])
    unknown = [parameter for parameter in parameters if parameter not in known]
    if unknown:
        has = f"has {', '.join(known)}" if known else "has none"
        raise ValueError(f"{name} has no parameter {', '.join(map(str, unknown))}; it {has}")
    return FAULTS[name](**{key: _checked(f"{name}: {key}", value, known[key]) for key, value in parameters.items()})


def parameters_of(kind: type[Fault]) -> dict[str, Any]:
    return {each.name: each.default for each in fields(kind) if each.init}  # type: ignore[arg-type]


def _checked(what: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if kind in (float, str) and type(value) is int:
        value = kind(value)
    if type(value) is not kind or (kind in (int, float) and not value >= 0):
        raise ValueError(f"{what} is a {_TYPE_NAMES[kind]}, not {value!r}")
    return value
