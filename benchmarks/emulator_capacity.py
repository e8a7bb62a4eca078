"""How much one emulator can take, so that other figures can say that it isn't what they measure.

``python -m benchmarks.emulator_capacity``: requests over real sockets from one process to an emulator in another, on
one core each where the system lets us choose. What counts is the emulator's own processor time: the machine may be
busy with something else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from airflow_provider_sim.emulator import SimEmulator

CALLERS = 16
"""Connections, each with one request under way."""


class Server(NamedTuple):
    """An emulator in another process."""

    url: str
    api_key: str
    workspace_id: str
    processor_time: Callable[[], float]


class Measured(NamedTuple):
    """What one kind of request took."""

    what: str
    requests: int
    seconds: float
    processor_seconds: float


def _stay_on(core: int) -> None:
    """Keep this process on one core."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def _serve(pipe: Connection) -> None:
    _stay_on(0)
    with SimEmulator() as sim:
        sim.state.limits.per_address = False  # Sim takes 300 requests a minute from one address
        pipe.send((sim.url, sim.api_key, sim.workspace_id))
        while pipe.recv():
            pipe.send(time.process_time())


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """An emulator for a ``with`` block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()

    def processor_time() -> float:
        here.send(True)
        return float(here.recv())

    try:
        yield Server(*here.recv(), processor_time)
    finally:
        here.send(False)
        process.join()


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


def measure(server: Server, what: str, wires: list[bytes], *, callers: int = CALLERS) -> Measured:
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


def measure_all(server: Server, runs: int) -> Iterator[Measured]:
    """Start runs on both APIs, look at each, and list them all."""
    given = {"message": "hi"}
    execute, look = "/v2/workflows/echo/execute", "/v2/workflows/echo/runs"
    body = {"async": True, "input": given}
    wires = [request(server, "POST", execute, body, X_Run_Id=f"v2-{number}") for number in range(runs)]
    yield measure(server, "v2: start a run, asynchronously", wires)
    wires = [request(server, "GET", f"{look}/v2-{number}") for number in range(runs)]
    yield measure(server, "v2: look at a run", wires)
    wires = [request(server, "POST", execute, {"input": given}) for number in range(runs // 4)]
    yield measure(server, "v2: run a workflow, held open", wires)
    execute, look = "/workflows/echo/execute", "/workflows/echo/executions"
    wires = [
        request(server, "POST", execute, given, X_Execution_Mode="async", X_Execution_Id=f"old-{number}")
        for number in range(runs)
    ]
    yield measure(server, "legacy: start a run, asynchronously", wires)
    wires = [request(server, "GET", f"{look}/old-{number}") for number in range(runs)]
    yield measure(server, "legacy: look at a run", wires)
    logs = f"/v2/logs?workspaceId={server.workspace_id}&startDate=2020-01-01T00:00:00Z&limit=1000"
    for order, words in (("asc", "the oldest"), ("desc", "the newest")):
        wires = [request(server, "GET", f"{logs}&order={order}")] * 10
        yield measure(server, f"v2: list {words} 1000 of {2 * runs + runs // 4} runs", wires, callers=1)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulator_capacity", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="to start on each API (default: 10000)")
    runs = parser.parse_args(arguments).runs
    table = Table(title=f"One emulator on one core, {CALLERS} callers")
    table.add_column("what")
    for name in ("requests", "per second", "ms of the core each", "per second of the core"):
        table.add_column(name, justify="right")
    with serving() as server:
        _stay_on(1)
        for measured in measure_all(server, runs):
            spent = measured.processor_seconds / measured.requests
            table.add_row(
                measured.what,
                f"{measured.requests:,}",
                f"{measured.requests / measured.seconds:,.0f}",
                f"{spent * 1000:.2f}",
                f"{1 / max(spent, 1e-9):,.0f}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
