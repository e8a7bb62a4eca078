"""Cost of a client call compared with the official SDK, on the same server and HTTP library.

All clients run in one process, as in a task, in turns of a few calls each.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any, NamedTuple

from benchmarks import peers
from benchmarks.serving import Server, serving
from benchmarks.table import Table, new_table, ratio

CALLS = 20
"""Calls per turn."""
TURNS = 60
ASKED = [("0.2.1", True, False), ("0.2.1", True, True), ("0.1.2", False, False), ("0.1.2", False, True)]
"""SDK version, whether to use v2, and whether the run is asynchronous."""
FLOW, GIVEN = "echo_plain", {"message": "hi"}

Ways = dict[str, Callable[[], Any]]


class Spent(NamedTuple):
    """Seconds per call in each turn: CPU time and wall-clock time."""

    processor: list[float]
    clock: list[float]


def ways_to_call(server: tuple[str, str], version: str | None, *, asynchronous: bool, v2: bool) -> Ways:
    """Return the calls to compare: this client, the SDK, and plain requests."""
    import requests

    from airflow_provider_sim.client.sync_client import SimClient

    url, key = server
    more: dict[str, Any] = {"async_execution": True} if asynchronous else {}
    ours = SimClient(key, url, api_version="v2" if v2 else "legacy")
    ways: Ways = {"ours": lambda: ours.execute_workflow(FLOW, GIVEN, **more)}
    if version is not None:
        from simstudio import SimStudioClient

        theirs = SimStudioClient(key, url)
        ways["SDK"] = lambda: theirs.execute_workflow(FLOW, GIVEN, **more)
    session = requests.Session()
    session.headers["X-API-Key"] = key
    address = f"{url}/api/{'v2/' if v2 else ''}workflows/{FLOW}/execute"
    body: Any = {"input": GIVEN, **({"async": True} if asynchronous else {})} if v2 else GIVEN
    headers = {"X-Execution-Mode": "async"} if asynchronous and not v2 else {}
    ways["requests"] = lambda: session.post(address, json=body, headers=headers).json()
    return ways


def call_in_turns(
    server: tuple[str, str], version: str | None, asynchronous: bool, v2: bool, turns: int
) -> dict[str, Spent]:
    """Make calls in turns; the first turn, which opens connections, is discarded."""
    import airflow.sdk  # noqa: F401  as in a task: its objects slow the garbage collector

    if version is not None:
        sys.path.insert(0, str(peers.official_sdk(version)))
    ways = ways_to_call(server, version, asynchronous=asynchronous, v2=v2)
    spent = {name: Spent([], []) for name in ways}
    for turn in range(turns + 1):
        for name, call in ways.items():
            began, before = time.perf_counter(), time.process_time()
            for _ in range(CALLS):
                call()
            processor, clock = time.process_time() - before, time.perf_counter() - began
            if turn:
                spent[name].processor.append(processor / CALLS)
                spent[name].clock.append(clock / CALLS)
    return spent


def in_own_process(server: Server, version: str | None, *more: Any) -> dict[str, Spent]:
    """Make the calls in a new process, because the SDK's versions can't be imported together."""
    if version is not None:
        peers.WORK.mkdir(exist_ok=True)
        peers.official_sdk(version)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call_in_turns, (server.url, server.api_key), version, *more).result()


def measure(*, smoke: bool = False) -> Iterator[Table]:
    """Measure calls of an emulator in another process."""
    table = new_table(
        "What does a call of the sync client cost, compared with the official SDK?",
        "call",
        "SDK",
        "ms of CPU time",
        "the SDK's",
        "ours / SDK",
        "requests alone",
        "calls per second",
        "the SDK's",
        "ours / SDK",
        notes=f"One caller, turns of {CALLS} calls each, medians of {TURNS} turns; a ratio is the median of the "
        "ratios of each turn. Both clients use the same version of requests, which takes most of the "
        'time; "requests alone" is a plain call of that library.',
    )
    with serving() as server:
        for version, v2, asynchronous in ASKED[:1] if smoke else ASKED:
            spent = in_own_process(server, None if smoke else version, asynchronous, v2, 1 if smoke else TURNS)
            name = f"execute, {'asynchronous' if asynchronous else 'sync'}, {'v2' if v2 else 'legacy'}"
            table.add_row(name, version, *_figures(spent))
    yield table


def _figures(spent: dict[str, Spent]) -> Iterator[str]:
    ours, theirs, bare = (spent.get(name, spent["requests"]) for name in ("ours", "SDK", "requests"))
    for one in (ours, theirs):
        yield f"{median(one.processor) * 1000:.2f}"
    yield _ratio(ours.processor, theirs.processor)
    yield f"{median(bare.processor) * 1000:.2f}"
    for one in (ours, theirs):
        yield f"{1 / median(one.clock):.0f}"
    yield _ratio([1 / seconds for seconds in ours.clock], [1 / seconds for seconds in theirs.clock])


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return ratio(median(one / other for one, other in zip(ours, theirs, strict=True)), 1.0)
