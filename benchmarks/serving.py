"""An emulator in a separate process, so that its CPU time isn't counted as a client's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple

from airflow_provider_sim.emulator import SimEmulator


class Server(NamedTuple):
    """An emulator in another process.

    :param processor_time: returns its CPU time in seconds.
    :param requests: returns the number of requests that it has answered.
    :param rejections: returns how many of them it has answered with 429.
    """

    url: str
    api_key: str
    workspace_id: str
    processor_time: Callable[[], float]
    requests: Callable[[], int]
    rejections: Callable[[], int]


@contextlib.contextmanager
def on_core(number: int | None) -> Iterator[None]:
    """Pin this process to one core, if the system supports it."""
    if number is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[number % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _serve(pipe: Connection, prepare: Callable[[SimEmulator], None] | None, core: int | None, plan: str | None) -> None:
    with on_core(core), SimEmulator(plan=plan) as sim:
        sim.state.limits.per_address = False  # Sim takes 300 requests a minute from one address
        if prepare is not None:
            prepare(sim)
        seen: Counter[str | int | None] = Counter()
        sim.on_request(lambda request: seen.update(["requests", request.status]))
        pipe.send((sim.url, sim.api_key, sim.workspace_id))
        while asked := pipe.recv():
            pipe.send(time.process_time() if asked == "processor time" else seen[asked])


@contextlib.contextmanager
def serving(
    prepare: Callable[[SimEmulator], None] | None = None, *, core: int | None = None, plan: str | None = None
) -> Iterator[Server]:
    """Start an emulator without the rate limit per IP address.

    :param prepare: a module-level function that sets up the emulator in its process.
    :param core: core to pin it to.
    :param plan: the plan whose rate limits apply; default: none.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, prepare, core, plan))
    process.start()

    def ask(what: str | int) -> float:
        here.send(what)
        return float(here.recv())

    try:
        yield Server(*here.recv(), lambda: ask("processor time"), lambda: int(ask("requests")), lambda: int(ask(429)))
    finally:
        here.send("")
        process.join()
