"""How much one emulator can take, so that other figures can say that it isn't what they measure.

Requests over real sockets from one process to an emulator in another, on one core each where the system lets us choose.
What counts is the emulator's own processor time: the machine may be busy with something else.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.serving import Server, on_core, serving
from benchmarks.table import Table, new_table

CALLERS = 16
"""Connections, each with one request under way."""


class Measured(NamedTuple):
    """What one kind of request took."""

    what: str
    requests: int
    seconds: float
    processor_seconds: float


def request(server: Server, method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """A request as it goes over the wire."""
    content = b"" if body is None else json.dumps(body).encode()
    named = {"Host": "sim", "X-API-Key": server.api_key, "Content-Length": str(len(content))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} /api{path} HTTP/1.1\r\n{lines}\r\n".encode() + content


def _read_answer(connection: socket.socket) -> int:
    """Read one answer to its end; return its status."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    rest = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(body)
    while rest > 0:
        rest -= len(connection.recv(1 << 20))
    return int(head[9:12])


def send(server: Server, what: str, wires: list[bytes], *, callers: int = CALLERS) -> Measured:
    """Send requests and read their answers, as fast as it goes.

    :raises RuntimeError: an answer is no success.
    """
    host, port = server.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(callers)]
        before, began = server.processor_time(), time.perf_counter()
        for first in range(0, len(wires), callers):
            under_way = list(zip(connections, wires[first : first + callers], strict=False))
            for connection, wire in under_way:
                connection.sendall(wire)
            for connection, _ in under_way:
                status = _read_answer(connection)
                if status >= 300:
                    raise RuntimeError(f"{what}: the emulator answered {status}")
        return Measured(what, len(wires), time.perf_counter() - began, server.processor_time() - before)


def send_all(server: Server, runs: int) -> Iterator[Measured]:
    """Start runs on both APIs, look at each, and list them all."""
    given = {"message": "hi"}
    execute, look = "/v2/workflows/echo/execute", "/v2/workflows/echo/runs"
    body = {"async": True, "input": given}
    wires = [request(server, "POST", execute, body, X_Run_Id=f"v2-{number}") for number in range(runs)]
    yield send(server, "v2: start a run, asynchronously", wires)
    wires = [request(server, "GET", f"{look}/v2-{number}") for number in range(runs)]
    yield send(server, "v2: look at a run", wires)
    wires = [request(server, "POST", execute, {"input": given}) for number in range(runs // 4)]
    yield send(server, "v2: run a workflow, held open", wires)
    execute, look = "/workflows/echo/execute", "/workflows/echo/executions"
    wires = [
        request(server, "POST", execute, given, X_Execution_Mode="async", X_Execution_Id=f"old-{number}")
        for number in range(runs)
    ]
    yield send(server, "legacy: start a run, asynchronously", wires)
    wires = [request(server, "GET", f"{look}/old-{number}") for number in range(runs)]
    yield send(server, "legacy: look at a run", wires)
    logs = f"/v2/logs?workspaceId={server.workspace_id}&startDate=2020-01-01T00:00:00Z&limit=1000"
    for order, words in (("asc", "the oldest"), ("desc", "the newest")):
        wires = [request(server, "GET", f"{logs}&order={order}")] * 10
        yield send(server, f"v2: list {words} 1000 of {2 * runs + runs // 4} runs", wires, callers=1)


def measure(*, smoke: bool = False, runs: int = 10_000) -> Iterator[Table]:
    """Load one emulator with requests.

    :param runs: to start on each API.
    """
    runs = 40 if smoke else runs
    table = new_table(
        "How much can the emulator take?",
        "what",
        "requests",
        "per second",
        "ms of the core each",
        "per second of the core",
        notes=f"One emulator on one core, {CALLERS} callers in a process on another. Where peers are measured on it,"
        " its own processor time isn't among theirs.",
    )
    with serving(core=0) as server, on_core(1):
        for measured in send_all(server, runs):
            spent = measured.processor_seconds / measured.requests
            table.add_row(
                measured.what,
                f"{measured.requests:,}",
                f"{measured.requests / measured.seconds:,.0f}",
                f"{spent * 1000:.2f}",
                f"{1 / max(spent, 1e-9):,.0f}",
            )
    yield table
