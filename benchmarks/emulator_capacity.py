"""Capacity of the emulator, to show that it isn't the bottleneck of other benchmarks.

One process sends requests over sockets to an emulator in another, on one core each if the system supports CPU affinity.
The emulator's CPU time is measured, because the machine may have other load.
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
"""Connections with one request in flight each."""


class Measured(NamedTuple):
    """Cost of one kind of request."""

    what: str
    requests: int
    seconds: float
    processor_seconds: float


def request(server: Server, method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """Return the bytes of a request."""
    content = b"" if body is None else json.dumps(body).encode()
    named = {"Host": "sim", "X-API-Key": server.api_key, "Content-Length": str(len(content))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} /api{path} HTTP/1.1\r\n{lines}\r\n".encode() + content


def _read_response(connection: socket.socket) -> int:
    """Read one response; return its status."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    rest = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(body)
    while rest > 0:
        rest -= len(connection.recv(1 << 20))
    return int(head[9:12])


def send(server: Server, what: str, wires: list[bytes], *, callers: int = CALLERS) -> Measured:
    """Send requests and read the responses, as fast as possible.

    :raises RuntimeError: a response has an error status.
    """
    host, port = server.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(callers)]
        before, began = server.processor_time(), time.perf_counter()
        for first in range(0, len(wires), callers):
            in_flight = list(zip(connections, wires[first : first + callers], strict=False))
            for connection, wire in in_flight:
                connection.sendall(wire)
            for connection, _ in in_flight:
                status = _read_response(connection)
                if status >= 300:
                    raise RuntimeError(f"{what}: the emulator answered {status}")
        return Measured(what, len(wires), time.perf_counter() - began, server.processor_time() - before)


def send_all(server: Server, runs: int) -> Iterator[Measured]:
    """Start runs on both APIs, read each, and list all."""
    given = {"message": "hi"}
    execute, runs_path = "/v2/workflows/echo/execute", "/v2/workflows/echo/runs"
    body = {"async": True, "input": given}
    wires = [request(server, "POST", execute, body, X_Run_Id=f"v2-{number}") for number in range(runs)]
    yield send(server, "v2: start an asynchronous run", wires)
    wires = [request(server, "GET", f"{runs_path}/v2-{number}") for number in range(runs)]
    yield send(server, "v2: read a run", wires)
    wires = [request(server, "POST", execute, {"input": given}) for number in range(runs // 4)]
    yield send(server, "v2: run a workflow, sync", wires)
    execute, runs_path = "/workflows/echo/execute", "/workflows/echo/executions"
    wires = [
        request(server, "POST", execute, given, X_Execution_Mode="async", X_Execution_Id=f"old-{number}")
        for number in range(runs)
    ]
    yield send(server, "legacy: start an asynchronous run", wires)
    wires = [request(server, "GET", f"{runs_path}/old-{number}") for number in range(runs)]
    yield send(server, "legacy: read a run", wires)
    logs = f"/v2/logs?workspaceId={server.workspace_id}&startDate=2020-01-01T00:00:00Z&limit=1000"
    for order, which in (("asc", "the oldest"), ("desc", "the newest")):
        wires = [request(server, "GET", f"{logs}&order={order}")] * 10
        yield send(server, f"v2: list {which} 1000 of {2 * runs + runs // 4} runs", wires, callers=1)


def measure(*, smoke: bool = False, runs: int = 10_000) -> Iterator[Table]:
    """Send requests to one emulator.

    :param runs: number of runs to start on each API.
    """
    runs = 40 if smoke else runs
    table = new_table(
        "How many requests can the emulator handle?",
        "what",
        "requests",
        "per second",
        "CPU ms per request",
        "requests per CPU second",
        notes=f"One emulator on one core, {CALLERS} connections of a process on another core. Where other "
        "packages are measured on it, the CPU time of the emulator isn't included.",
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
