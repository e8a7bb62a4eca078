"""One request on its way through the server, and what may go wrong with it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, get_args

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_sim.emulator.connections import Connection, Connections
from airflow_provider_sim.emulator.workflows import BlockError

if TYPE_CHECKING:
    from airflow_provider_sim.emulator.clock import Clock
    from airflow_provider_sim.emulator.limits import Bucket

Stage = Literal["before", "accepted", "done"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""How far the server is with a request: nothing is done; it is carried out, a held-open run has begun; the answer is
ready, and nothing of it sent."""
SURFACES = ("v2", "v1", "legacy")
MODES = ("sync", "async", "stream")
SLICE = 0.02
"""Seconds between looks at something that a test may change from another thread."""

OPERATIONS = {
    "execute": "execute",
    "get_run": "run",
    "get_execution": "run",
    "get_job": "job",
    "cancel_run": "cancel",
    "cancel_execution": "cancel",
    "resume_run": "resume",
    "resume": "resume",
    "get_paused": "pauses",
    "list_runs": "runs",
    "list_logs": "logs",
    "get_log": "log",
    "list_workflows": "workflows",
    "get_workflow": "workflow",
    "import_workflow": "import",
    "delete_workflow": "delete",
    "get_status": "status",
    "get_deployment": "deployment",
    "deploy": "deploy",
    "undeploy": "undeploy",
    "rollback": "rollback",
    "list_versions": "versions",
    "list_workspaces": "workspaces",
    "billing_status": "billing",
    "get_usage_limits": "usage_limits",
    "resume_poll": "resume_poll",
}
"""What the routes of all APIs do, in one word."""


def stage_named(name: str) -> Stage:
    """Look a stage up.

    :raises ValueError: there is none of this name.
    """
    for stage in STAGES:
        if stage == name:
            return stage
    raise ValueError(f"there is no stage {name!r}; there are {', '.join(STAGES)}")


_JOB_PREFIX = "workflow-execution:"
_HUNG_UP: Message = {"type": "http.disconnect"}


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request that the server has seen; the key's value is left out.

    :param status: the answer's; None if its caller got none.
    :param faults: the names of what was ordered to go wrong with it.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int | None
    faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, scope: Scope, body: bytes, status: int | None, faults: tuple[str, ...]) -> Self:
        """Note a request down."""
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        headers.pop("x-api-key", None)
        path = scope["raw_path"].decode()
        if scope["query_string"]:
            path += f"?{scope['query_string'].decode()}"
        return cls(scope["method"], path, headers, body, status, faults)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, as far as orders tell requests apart.

    :param path: without the query.
    :param surface: ``v2``, ``v1`` or ``legacy``.
    :param operation: one of the words of :data:`OPERATIONS`; empty where no route is.
    :param run_id: also the one that an execution's caller chose.
    :param mode: of an execution: ``sync``, ``async``, ``stream``.
    """

    method: str
    path: str
    surface: str
    operation: str = ""
    workflow_id: str | None = None
    run_id: str | None = None
    mode: str | None = None


def asked_of(scope: Scope, body: bytes, routes: Iterable[Route]) -> Asked:
    """Read a request as far as orders need it."""
    method, path = scope["method"], scope["path"]
    parts = path.split("/")
    surface = parts[2] if len(parts) > 2 and parts[2] in ("v1", "v2") else "legacy"
    for route in routes:
        found = route.path_regex.match(path)
        if found and method in (route.methods or ()):
            break
    else:
        return Asked(method, path, surface)
    named = found.groupdict()
    run_id = named.get("run_id") or named.get("job_id", "").removeprefix(_JOB_PREFIX) or None
    operation = OPERATIONS[route.name]
    mode = None
    if operation == "execute":
        chosen, mode = _chosen(scope, body, surface)
        run_id = chosen
    return Asked(method, path, surface, operation, named.get("workflow_id"), run_id, mode)


def _chosen(scope: Scope, body: bytes, surface: str) -> tuple[str | None, str]:
    """The run id and the mode that an execution's caller wants."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    try:
        given = json.loads(body)
    except ValueError:
        given = None
    fields: dict[str, Any] = given if isinstance(given, dict) else {}
    if surface == "v2":
        run_id, asynchronous = headers.get(b"x-run-id"), fields.get("async") is True
    else:
        inside = fields.get("executionId")
        run_id = headers.get(b"x-execution-id") or (inside if isinstance(inside, str) else None)
        asynchronous = headers.get(b"x-execution-mode") == "async"
    streamed = fields.get("stream") is True or (surface != "v2" and headers.get(b"x-stream-response") == "true")
    return run_id, "async" if asynchronous else "stream" if streamed else "sync"


@dataclass(slots=True)
class Trouble:
    """What Sim itself is to do wrong with one request; the gates and the state look here.

    :ivar limit: the limit that is reached: ``address``, ``requests``, ``gate``, ``execution``, ``concurrency``.
    :ivar keys_down: the store of the keys is away.
    :ivar enqueued: whether a run is queued whose queueing isn't confirmed; None: it is confirmed.
    :ivar stuck: the run's server dies.
    :ivar failing: the error that the run ends with.
    :ivar unseen_looks: how many looks at the run don't find it; ``unseen_seconds``: for how long at least.
    :ivar lost_cancel: the reason for which a cancellation doesn't arrive.
    """

    limit: str | None = None
    keys_down: bool = False
    enqueued: bool | None = None
    stuck: bool = False
    failing: BlockError | None = None
    unseen_looks: int = 0
    unseen_seconds: float = 0.0
    lost_cancel: str | None = None

    def bucket(self, limit: str, bucket: Bucket) -> Bucket:
        """The bucket; an empty one, if its limit is to be reached."""
        return bucket.emptied() if self.limit == limit else bucket


class Fault:
    """Something that goes wrong with one request: what a subclass says at each stage; an instance strikes once.

    :cvar name: by which it is ordered.
    """

    name: ClassVar[str] = ""

    def concerns(self, asked: Asked) -> bool:
        """Whether it can go wrong with such a request."""
        return True

    async def reach(self, stage: Stage, exchange: Exchange) -> None:
        """Do what is to be done at a stage."""

    async def send(self, message: Message, exchange: Exchange) -> Message | None:
        """What is sent for a part of the answer; None for nothing."""
        return message


class Server(Protocol):
    """What an exchange asks of the server's memory."""

    clock: Clock

    def record(self, seen: SeenRequest) -> None:
        """Note a request down."""

    def restart(self) -> None:
        """Die and come back."""


class Exchange:
    """One request and its answer.

    :ivar asked: what it asks for; None while nobody has looked.
    :ivar faults: what strikes it.
    :ivar over: the caller has its answer, or never gets one; what the server still says goes nowhere.
    :ivar proxied: a proxy keeps the connection to the server: that the caller has hung up isn't seen.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, server: Server, connections: Connections) -> None:
        self.scope = scope
        self.asked: Asked | None = None
        self.faults: Sequence[Fault] = ()
        self.trouble = Trouble()
        self.over = False
        self.proxied = False
        self._server = server
        self._connections = connections
        self._receive, self._send = receive, send
        self._body: list[bytes] = []
        self._kept: deque[Message] = deque()
        self._accepted = False
        self._recorded = False

    async def read_body(self) -> bytes:
        """Read the body before the server does."""
        more = True
        while more:
            message = await self._received()
            self._kept.append(message)
            more = message.get("more_body", False)
            if message["type"] == "http.disconnect":
                self._record(None)
                self.over = True
        return b"".join(self._body)

    def meet(self, asked: Asked, own: Iterable[Fault], ordered: Callable[[Asked], Iterable[Fault]]) -> None:
        """Meet the faults that it is to be struck by.

        :param own: what its own header orders.
        :param ordered: gives what was ordered before for such a request, and counts it as struck.
        """
        self.asked = asked
        if not self.over:
            self.faults = [*(fault for fault in own if fault.concerns(asked)), *ordered(asked)]

    async def carry_out(self, app: ASGIApp) -> None:
        """Let the server answer; or not."""
        self.scope["sim.exchange"] = self
        await self._reach("before")
        if self.over:
            return
        if self.faults and self._caller_is_gone():
            self._record(None)
            return
        await app(self.scope, self.receive, self.send)

    async def accept(self) -> None:
        """The server has carried the request out; one that holds it open says so when the run has begun."""
        if not self._accepted:
            self._accepted = True
            await self._reach("accepted")

    async def receive(self) -> Message:
        """What the server hears of its caller."""
        if self._kept:
            return self._kept.popleft()
        message = _HUNG_UP if self.over else await self._received()
        if message["type"] == "http.disconnect" and self.proxied:
            await asyncio.Event().wait()
        return message

    async def send(self, message: Message) -> None:
        """What the server says to its caller."""
        if message["type"] == "http.response.start":
            await self.accept()
            await self._reach("done")
        said: Message | None = message
        for fault in self.faults:
            said = None if self.over or said is None else await fault.send(said, self)
        if said is not None:
            await self.say(said)

    async def say(self, message: Message) -> None:
        """Send a part of the answer, whatever the faults are."""
        if self.over:
            return
        if message["type"] == "http.response.start":
            self._record(None if self._connections.are_lost(self.scope) else message["status"])
        await self._send(message)

    async def answer(self, response: Response) -> None:
        """Answer in the server's stead."""
        await response(self.scope, self.receive, self.say)
        self.over = True

    async def cut(self, *, reset: bool = False) -> None:
        """End the connection without an answer."""
        connection = self._connections.of(self.scope)
        connection.cut(reset=reset)
        await self._end(connection)

    async def close(self) -> None:
        """End the connection after what has been said."""
        connection = self._connections.of(self.scope)
        connection.close()
        await self._end(connection)

    async def restart(self) -> None:
        """Let the server die and come back."""
        self._record(None)
        self.over = True
        self._server.restart()
        self._connections.cut_all()
        await self._connections.of(self.scope).lost.wait()

    async def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until something is so, or the caller hangs up."""
        self._connections.of(self.scope).read_on()
        while not ready() and not self._caller_is_gone():  # noqa: ASYNC110 - another thread makes it so
            await asyncio.sleep(SLICE)

    async def sleep(self, seconds: float) -> None:
        """Wait by the emulator's clock, or until the caller hangs up."""
        clock = self._server.clock
        until = clock.now() + seconds
        await self.wait_until(lambda: clock.now() >= until)

    def _caller_is_gone(self) -> bool:
        """Whether the server sees that its caller has hung up."""
        return not self.proxied and self._connections.are_lost(self.scope)

    async def _reach(self, stage: Stage) -> None:
        for fault in self.faults:
            if not self.over:
                await fault.reach(stage, self)

    async def _received(self) -> Message:
        message = await self._receive()
        self._body.append(message.get("body", b""))
        return message

    async def _end(self, connection: Connection) -> None:
        self._record(None)
        self.over = True
        await connection.lost.wait()  # only then uvicorn knows that there is nothing to answer

    def _record(self, status: int | None) -> None:
        if not self._recorded:
            self._recorded = True
            faults = tuple(fault.name for fault in self.faults)
            self._server.record(SeenRequest.of(self.scope, b"".join(self._body), status, faults))
