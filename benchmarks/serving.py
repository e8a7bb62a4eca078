"""An emulator in a process of its own, so that what it spends isn't taken for a client's."""

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

    :param processor_time: what it has spent so far, in seconds.
    :param requests: how many it has answered.
    """

    url: str
    api_key: str
    workspace_id: str
    processor_time: Callable[[], float]
    requests: Callable[[], int]


@contextlib.contextmanager
def on_core(number: int | None) -> Iterator[None]:
    """Keep this process on one core, where the system lets us choose."""
    if number is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[number % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _serve(pipe: Connection, prepare: Callable[[SimEmulator], None] | None, core: int | None) -> None:
    with on_core(core), SimEmulator() as sim:
        sim.state.limits.per_address = False  # Sim takes 300 requests a minute from one address
        if prepare is not None:
            prepare(sim)
        seen: Counter[str] = Counter()
        sim.on_request(lambda request: seen.update(["requests"]))
        pipe.send((sim.url, sim.api_key, sim.workspace_id))
        while asked := pipe.recv():
            pipe.send(time.process_time() if asked == "processor time" else seen["requests"])


@contextlib.contextmanager
def serving(prepare: Callable[[SimEmulator], None] | None = None, *, core: int | None = None) -> Iterator[Server]:
    """An emulator for a ``with`` block; only the limit of requests from one address is switched off.

    :param prepare: a function of a module that sets it up in its process: workflows, a plan.
    :param core: the one to stay on.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, prepare, core))
    process.start()

    def ask(what: str) -> float:
        here.send(what)
        return float(here.recv())

    try:
        yield Server(*here.recv(), lambda: ask("processor time"), lambda: int(ask("requests")))
    finally:
        here.send("")
        process.join()
