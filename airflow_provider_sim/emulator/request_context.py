"""One HTTP request in the server: what it asks for, the faults that affect it, and its response."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_sim.emulator.clock import Clock
from airflow_provider_sim.emulator.connections import Connections
from airflow_provider_sim.emulator.limits import Bucket

Stage = Literal["before", "accepted", "done"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""``before``: nothing is done yet. ``accepted``: the request is carried out; a sync or streamed run has started.
``done``: the response is ready and none of it is sent."""
APIS = ("v2", "v1", "legacy")
MODES = ("sync", "async", "stream")
POLL_INTERVAL = 0.02
"""Seconds between checks of a condition that a test may change from another thread."""
JOB_PREFIX = "workflow-execution:"
MAX_RECORDED_BYTES = 10 * 1024 * 1024
"""Of a larger body, the rest is not recorded."""
_DISCONNECT: Message = {"type": "http.disconnect"}


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that the server received, without its API key; the status is None if no response was sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The properties of a request that a :class:`~.fault_rules.Match` can match, under the same names."""

    surface: str
    operation: str = ""
    workflow_id: str | None = None
    run_id: str | None = None
    mode: str | None = None


def request_info(scope: Scope, body: bytes, routes: Iterable[Route]) -> RequestInfo:
    method, path = scope["method"], scope["path"]
    parts = path.split("/")
    surface = parts[2] if len(parts) > 2 and parts[2] in ("v1", "v2") else "legacy"
    for route in routes:
        found = route.path_regex.match(path)
        if found and method in (route.methods or ()):
            break
    else:
        return RequestInfo(surface)
    values = found.groupdict()
    run_id, mode = values.get("run_id") or values.get("job_id", "").removeprefix(JOB_PREFIX) or None, None
    if route.name == "execute":
        run_id, mode = _execution_options(scope, body, surface)
    return RequestInfo(surface, route.name, values.get("workflow_id"), run_id, mode)


def _execution_options(scope: Scope, body: bytes, surface: str) -> tuple[str | None, str]:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    fields: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    streamed = fields.get("stream") is True
    if surface == "v2":
        run_id, asynchronous = headers.get(b"x-run-id"), fields.get("async") is True
    else:
        in_body = fields.get("executionId")
        run_id = headers.get(b"x-execution-id") or (in_body if isinstance(in_body, str) else None)
        asynchronous = headers.get(b"x-execution-mode") == "async"
        streamed = streamed or headers.get(b"x-stream-response") == "true"
    return run_id, "async" if asynchronous else "stream" if streamed else "sync"


class Faults(dict[str, Any]):
    """The faults of one request by name, for the routes that behave differently because of one."""

    def exhaust(self, limit: str) -> bool:
        return "rate_limit" in self and self["rate_limit"].kind == limit

    def bucket(self, limit: str, bucket: Bucket) -> Bucket:
        return bucket.emptied() if self.exhaust(limit) else bucket


class Fault:
    """Base of the faults. An instance affects one request."""

    name = ""
    operation: ClassVar[str | None] = None  # the operation that it affects; None for all
    mode: ClassVar[str | None] = None  # the mode of executions that it affects; None for all
    when = "before"  # the stage at which it acts
    proxied = False  # a proxy keeps the connection open, so the server does not see the caller disconnect

    def __post_init__(self) -> None:
        if self.when not in STAGES:
            raise ValueError(f"unknown stage {self.when!r}; choose from {', '.join(STAGES)}")

    def applies_to(self, info: RequestInfo) -> bool:
        return self.operation in (None, info.operation) and self.mode in (None, info.mode)

    async def act(self, context: RequestContext) -> None:
        """Act at the fault's stage."""

    async def on_send(self, message: Message, context: RequestContext) -> Message | None:
        """Return the message to send in place of a part of the response; None for nothing."""
        return message


class RequestContext:
    """The ASGI callables of one request, with faults between the server and the caller."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        clock: Clock,
        connections: Connections,
        record: Callable[[RecordedRequest], None],
    ) -> None:
        self.scope = scope
        self.info: RequestInfo | None = None  # None unless faults may affect the request
        self.faults: Sequence[Fault] = ()
        self.finished = False  # the caller has a response or never gets one; the rest is dropped
        self.proxied = False
        self._clock, self._connections, self._record_request = clock, connections, record
        self._receive, self._send = receive, send
        self._body: list[bytes] = []
        self._buffered: deque[Message] = deque()
        self._body_bytes = 0
        self._has_more_body = True
        self._accepted = False
        self._recorded = False

    @classmethod
    def of(cls, request: Request) -> RequestContext:
        context: RequestContext = request.scope["sim.context"]
        return context

    async def read_body(self) -> bytes:
        """Read the body before the server reads it."""
        more = True
        while more:
            message = await self._receive_message()
            self._buffered.append(message)
            more = message.get("more_body", False)
            if message["type"] == "http.disconnect":
                self._record(None)
                self.finished = True
        return b"".join(self._body)

    async def handle(self, app: ASGIApp) -> None:
        """Pass the request to the server, unless a fault prevents that."""
        self.scope["sim.context"] = self
        await self._reach("before")
        if self.finished:
            return
        if self.faults and self._is_disconnected():
            self._record(None)
            return
        await app(self.scope, self.receive, self.send)

    async def accept(self) -> None:
        """Enter the stage ``accepted``; for a sync run this is when the run has started."""
        if not self._accepted:
            self._accepted = True
            await self._reach("accepted")

    async def receive(self) -> Message:
        if self._buffered:
            return self._buffered.popleft()
        message = _DISCONNECT if self.finished else await self._receive_message()
        if message["type"] == "http.disconnect" and self.proxied:
            await asyncio.Event().wait()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self.accept()
            await self._reach("done")
        changed: Message | None = message
        for fault in self.faults:
            changed = None if self.finished or changed is None else await fault.on_send(changed, self)
        if changed is not None:
            await self.send_unchanged(changed)

    async def send_unchanged(self, message: Message) -> None:
        """Send a part of the response past the faults."""
        if self.finished:
            return
        if message["type"] == "http.response.start":
            self._record(None if self._connections.of(self.scope).lost.is_set() else message["status"])
        await self._send(message)

    async def respond(self, response: Response) -> None:
        """Respond in place of the server."""
        while self._has_more_body:  # a caller that is still sending might not see the response
            await self._receive_message()
        await response(self.scope, self.receive, self.send_unchanged)
        self.finished = True

    async def cut(self, *, reset: bool = False, flush: bool = False) -> None:
        """Close the connection without a further response; the parameters are those of :meth:`.Connection.cut`."""
        connection = self._connections.of(self.scope)
        connection.cut(reset=reset, flush=flush)
        self._record(None)
        self.finished = True
        await connection.lost.wait()  # until then, uvicorn expects a response

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds or the caller disconnects."""
        self._connections.of(self.scope).resume_reading()
        while not condition() and not self._is_disconnected():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(POLL_INTERVAL)

    async def sleep(self, seconds: float) -> None:
        """Wait on the emulator's clock, or until the caller disconnects."""
        until = self._clock.now() + seconds
        await self.wait_until(lambda: self._clock.now() >= until)

    def _is_disconnected(self) -> bool:
        return not self.proxied and self._connections.of(self.scope).lost.is_set()

    async def _reach(self, stage: Stage) -> None:
        for fault in self.faults:
            if not self.finished:
                self.proxied = self.proxied or fault.proxied
                if stage == fault.when:
                    await fault.act(self)

    async def _receive_message(self) -> Message:
        message = await self._receive()
        self._has_more_body = message.get("more_body", False)
        if self._body_bytes <= MAX_RECORDED_BYTES:
            self._body.append(message.get("body", b""))
            self._body_bytes += len(self._body[-1])
        return message

    def _record(self, status: int | None) -> None:
        if self._recorded:
            return
        self._recorded = True
        scope = self.scope
        query = scope["query_string"].decode()
        path = scope["raw_path"].decode() + (f"?{query}" if query else "")
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        headers.pop("x-api-key", None)
        faults = tuple(fault.name for fault in self.faults)
        self._record_request(RecordedRequest(scope["method"], path, headers, b"".join(self._body), status, faults))
