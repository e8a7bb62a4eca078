"""Cost of polling many runs: requests, concurrency within each plan's rate limits, and load of one process.

The first two tables are counted at the emulator in virtual time and are the same on every machine, except for the
random delays of pollers after a 429. The third is measured over real sockets, with one process for the emulator and one
for each way of polling in turn: this package's triggers, one poller for each run with a shared client, and one poller
for each run that opens a session for each poll.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import multiprocessing
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from airflow_provider_sim.client import NO_RETRY, AsyncSimClient, WorkflowRun
from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.workflows import Workflow
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.polling import RunPollState
from airflow_provider_sim.polling.poller import RunPoller
from airflow_provider_sim.polling.rate_limits import RateLimits
from benchmarks.table import Table, new_table
from tests.virtual_time import VirtualSim, now, run

FLOWS = [f"flow-{number}" for number in range(10)]
HOUR = 3600.0
SELF_HOSTED = "self-hosted"
PLANS = {"free": (10, 30), "pro": (50, 100), "team": (200, 200), "enterprise": (1000, 500), SELF_HOSTED: (2000, 300)}
"""Runs at once, and requests per minute for one operation; on a self-hosted server from one address."""

Wait = Callable[[RunPollState], Awaitable[Any]]


# --- in virtual time ---------------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """Counts of one scenario.

    :param most_in_interval: most requests within one interval, after the first.
    :param late: most seconds from a run's end until it was known.
    """

    requests: int
    most_in_interval: int
    refused: int
    late: float


async def poll_alone(client: AsyncSimClient, state: RunPollState) -> WorkflowRun:
    """Poll a run without sharing requests."""
    while True:
        try:
            run = await client.with_retry(NO_RETRY).get_workflow_run(state.workflow_id, state.run_id)
        except SimError as error:
            state.on_error(error)
        else:
            if state.on_response(run):
                return run
        await asyncio.sleep(state.next_delay())


def by_watcher(sim: VirtualSim) -> Wait:
    """All runs share one poll."""
    return RunPoller(sim.client(), clock=now, limits=RateLimits(now)).wait


def by_pollers(sim: VirtualSim) -> Wait:
    """Each run has a poller; all use one client."""
    client = sim.client(api_version="v2")
    return lambda watch: poll_alone(client, watch)


def play(
    by: Callable[[VirtualSim], Wait],
    *,
    runs: int,
    seconds: float,
    interval: float,
    start_within: float = 20.0,
    others: Sequence[float] = (),
    with_old_run: bool = False,
    plan: str | None = None,
    address_limit: bool = True,
) -> Counted:
    """Start runs of ten workflows and wait for each.

    :param seconds: how long each run takes.
    :param others: how many seconds ago each other run of these workflows has started.
    :param with_old_run: one of six hours is among them.
    :param address_limit: whether the server takes 300 requests per minute only from one address.
    """

    async def main() -> Counted:
        sim = VirtualSim(plan=plan)
        sim.state.limits.per_address = address_limit
        sim.deploy(*FLOWS)
        sim.crowd(FLOWS, len(others), lambda number: others[number])
        wait = by(sim)
        late = 0.0

        async def one(number: int, ago: float, takes: float) -> None:
            nonlocal late
            await asyncio.sleep(number * start_within / runs)
            started = sim.start(FLOWS[number % 10], f"run-{number}", takes, ago=ago)
            await asyncio.sleep(1)
            await wait(RunPollState(started.workflow_id, started.run_id, poll_interval=interval, clock=now))
            late = max(late, now() - (started.ended_at or 0.0))

        old = [one(0, 6 * HOUR, 6 * HOUR + seconds)] if with_old_run else []
        young = (one(number, 0.0, seconds + number * 7 % 30) for number in range(len(old), runs))
        await asyncio.gather(*old, *young)
        begun = sim.requests[0][0]
        per_interval = [0] * 10_000
        for when, _, _ in sim.requests:
            per_interval[int((when - begun) // interval)] += 1
        return Counted(len(sim.requests), max(per_interval[1:]), sim.refused, late)

    random.seed(0)  # pollers spread their polls at random
    return run(main())


def requests_table(runs: int, others: int) -> Table:
    """Count requests for many runs, with and without other runs."""
    table = new_table(
        f"How many requests are needed to poll {runs:,} runs?",
        "other runs",
        "way",
        "requests",
        "% of the pollers'",
        "most in 5 s",
        "longest delay until a finish is known",
        labels=2,
        notes=f"{runs:,} runs of 10 workflows, five minutes each, polled every 5 s until each is known to be"
        " finished; in virtual time, and so the same on every machine. Most in 5 s excludes the first poll, which also"
        " requests the workspaces of the workflows. For the pollers, Sim's limit of requests from one address is off;"
        " it would reject them.",
    )
    scenes: dict[str, dict[str, Any]] = {
        "none": {},
        f"{others:,} of the same workflows in six hours; one polled run of six hours": {
            "others": [6 * HOUR * number / others for number in range(others)],
            "with_old_run": True,
        },
        f"{others:,} of the same workflows in the last five minutes; one polled run of six hours": {
            "others": [300 * number / others for number in range(others)],
            "with_old_run": True,
        },
    }
    pollers = play(by_pollers, runs=runs, seconds=300, interval=5, address_limit=False)
    table.add_row("none", "one poller for each run", *_counted(pollers, pollers))
    for words, facts in scenes.items():
        counted = play(by_watcher, runs=runs, seconds=300, interval=5, **facts)
        table.add_row(words, "poller", *_counted(counted, pollers))
    return table


def _counted(counted: Counted, pollers: Counted) -> list[str]:
    share = f"{100 * counted.requests / pollers.requests:.2f}"
    return [f"{counted.requests:,}", share, f"{counted.most_in_interval:,}", f"{counted.late:.1f} s"]


def plans_table(plans: Mapping[str, tuple[int, int]]) -> Table:
    """Count requests and 429s for the full concurrency of each plan."""
    table = new_table(
        "Can a plan's full concurrency be polled?",
        "plan",
        "way",
        "concurrent runs",
        "requests per minute",
        "requests",
        "429s",
        "longest delay until a finish is known",
        "concurrent runs without a 429",
        labels=2,
        notes="As many runs as the plan allows, two and a half minutes each, polled every 10 s, in virtual "
        "time. Alternatives poll each run separately: HttpSensor, a task that polls with simstudio-sdk, "
        "dbt Cloud's trigger; here they wait after a 429. The number that they can poll without a 429 is "
        "the number of polls that the limit allows in ten seconds.",
    )
    for plan, (runs, rate) in plans.items():
        for way, by in (("poller", by_watcher), ("one poller for each run", by_pollers)):
            counted = play(
                by,
                runs=runs,
                seconds=150,
                interval=10,
                start_within=10,
                plan=None if plan == SELF_HOSTED else plan,
            )
            held = f"{runs:,}" if by is by_watcher and not counted.refused else f"{rate * 10 // 60:,}"
            cells = [f"{counted.requests:,}", f"{counted.refused:,}", f"{counted.late:.1f} s", held]
            table.add_row(plan, way, f"{runs:,}", f"{rate:,}", *cells, end_section=by is by_pollers)
    return table


# --- over real sockets -------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Load of a process, from the first poll on.

    :param stall: seconds of processor time that the event loop's longest callback took.
    :param lag: seconds by which a sleeping task woke up too late at worst, whatever the machine was busy with.
    :param ends_missed: of the runs that ended in time to be seen within two intervals.
    """

    requests: int
    processor: float
    stall: float
    lag: float
    kilobytes: float
    ends_missed: int


def _serve(pipe: Connection, runs: int, ending: int, ends_after: float) -> None:
    logging.disable()
    with SimEmulator() as sim:
        sim.state.limits.per_address = False  # else the pollers would soon be refused
        key = sim.state.keys.find(sim.api_key)
        assert key is not None
        for name in FLOWS:
            sim.state.add(Workflow(name, lambda given: {}, duration=lambda given: float(given["seconds"])))
        for number in range(runs):
            sim.state.start(
                sim.state.workflows[FLOWS[number % 10]],
                {"seconds": ends_after if number < ending else 100_000},
                mode="async",
                key=key,
                run_id=f"run-{number}",
                bucket=sim.state.limits.asynchronous,
            )
        pipe.send((sim.url, sim.api_key))
        while pipe.recv():
            pipe.send(len(sim.requests))


@contextmanager
def serving(runs: int, ending: int, ends_after: float) -> Iterator[tuple[str, str, Callable[[], int]]]:
    """Start an emulator with running workflows in a process; yield its URL, key, and a counter of its requests."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, runs, ending, ends_after))
    process.start()

    def seen() -> int:
        here.send(True)
        return int(here.recv())

    try:
        yield (*here.recv(), seen)
    finally:
        here.send(False)
        process.join()


async def by_trigger(url: str, key: str, number: int, interval: float, **options: Any) -> None:
    """As Airflow does: a trigger for each run."""
    from airflow_provider_sim.triggers.sim import SimRunTrigger

    trigger = SimRunTrigger(FLOWS[number % 10], f"run-{number}", options={"poll_interval": interval, **options})
    async for _ in trigger.run():
        pass


async def by_trigger_without_output(url: str, key: str, number: int, interval: float) -> None:
    """The same for tasks whose output a worker fetches, because it saves files."""
    await by_trigger(url, key, number, interval, output_files_dir="unused")


async def by_shared_client(url: str, key: str, number: int, interval: float) -> None:
    """A poller for each run, all over one client."""
    client = _shared(url, key)
    await asyncio.sleep(interval * (number % 100) / 100)
    await poll_alone(client, RunPollState(FLOWS[number % 10], f"run-{number}", poll_interval=interval))


async def by_session_for_each_poll(url: str, key: str, number: int, interval: float) -> None:
    """A poller for each run, and a session for each poll."""
    import aiohttp

    await asyncio.sleep(interval * (number % 100) / 100)
    address = f"{url}/api/v2/workflows/{FLOWS[number % 10]}/runs/run-{number}"
    while True:
        async with aiohttp.ClientSession(headers={"X-API-Key": key}) as session, session.get(address) as answer:
            if (await answer.json())["data"]["status"] == "completed":
                return
        await asyncio.sleep(interval)


_clients: dict[str, Any] = {}


def _shared(url: str, key: str) -> Any:
    from airflow_provider_sim.client.async_client import AsyncSimClient

    return _clients.setdefault(url, AsyncSimClient(key, url, api_version="v2"))


WAYS = {
    "poller": by_trigger_without_output,
    "poller, and outputs of finished runs": by_trigger,
    "pollers, shared client": by_shared_client,
    "pollers, a session per poll": by_session_for_each_poll,
}


def _resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _watch(pipe: Connection, way: str, url: str, key: str, runs: int, ending: int, interval: float) -> None:
    os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = json.dumps({"conn_type": "sim", "host": url, "password": key})
    logging.disable()
    asyncio.run(_watch_all(pipe, WAYS[way], url, key, runs, ending, interval))


async def _watch_all(pipe: Connection, way: Any, url: str, key: str, runs: int, ending: int, interval: float) -> None:
    loop = asyncio.get_running_loop()
    worst = {"stall": 0.0, "lag": 0.0}
    _measure_callbacks(worst)
    ended = 0

    async def one(number: int) -> None:
        nonlocal ended
        await way(url, key, number, interval)
        ended += 1

    async def tick() -> None:
        while True:
            asleep = loop.time()
            await asyncio.sleep(0.01)
            worst["lag"] = max(worst["lag"], loop.time() - asleep - 0.01)

    tasks = [asyncio.create_task(one(number)) for number in range(runs - runs // 10, runs)]
    await asyncio.sleep(1.5 * interval)  # what all runs share is not a single run's cost
    gc.collect()
    before = _resident()
    for number in range(runs - runs // 10):
        tasks.append(asyncio.create_task(one(number)))
        if number % 100 == 0:
            await asyncio.sleep(0.02)
    seconds = await asyncio.to_thread(pipe.recv)
    gc.collect()
    grown = _resident() - before
    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.1)  # a callback's time is noted at its end: this one's has the garbage collection in it
    worst.update(stall=0.0, lag=0.0)
    began, spent = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    spent, began = time.process_time() - spent, time.monotonic() - began
    facts = dict(worst)
    pipe.send((spent / began, facts["stall"], facts["lag"], grown / (runs * 0.9) / 1024, ending - ended))
    for task in (ticker, *tasks):
        task.cancel()
    await asyncio.gather(ticker, *tasks, return_exceptions=True)


def _measure_callbacks(worst: dict[str, float]) -> None:
    """Note how much processor time the loop's callbacks take: other processes don't show in that."""
    really_run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        really_run(handle)
        worst["stall"] = max(worst["stall"], time.thread_time() - began)

    asyncio.Handle._run = measured  # type: ignore[method-assign]


def cost(way: str, runs: int, *, interval: float, seconds: float) -> Cost:
    """Watch runs for some time, of which a tenth ends at one moment in the middle."""
    context = multiprocessing.get_context("spawn")
    settled = 6 + 4 * interval
    ending = runs // 10
    with serving(runs, ending, settled + seconds / 2) as (url, key, seen):
        here, there = context.Pipe()
        process = context.Process(target=_watch, args=(there, way, url, key, runs, ending, interval))
        process.start()
        time.sleep(settled)
        before = seen()
        here.send(seconds)
        measured = here.recv()
        requests = seen() - before
        process.join(timeout=60)
        return Cost(requests, *measured)


def cost_table(sizes: Mapping[str, Sequence[int]], interval: float, seconds: float) -> Table:
    """What one process spends."""
    table = new_table(
        f"What do {max(map(max, sizes.values())):,} polled runs cost a process?",
        "way",
        "runs",
        "requests",
        "% of a core",
        "longest callback",
        "latest wake-up",
        "memory per run",
        "missed finishes",
        notes=f"A trigger for each run on one event loop, as in Airflow's triggerer, polled every {interval:.0f} "
        f"s for {seconds:.0f} s. In the middle, a tenth of the runs finishes at the same time. The "
        "emulator runs in another process. The longest callback is measured in CPU time, the latest "
        "wake-up in wall-clock time, which includes other load of the machine. Missed finishes: unknown "
        "two intervals after the runs finished.",
    )
    for way, counts in sizes.items():
        for runs in counts:
            found = cost(way, runs, interval=interval, seconds=seconds)
            table.add_row(
                way,
                f"{runs:,}",
                f"{found.requests:,}",
                f"{100 * found.processor:.1f}",
                f"{1000 * found.stall:.0f} ms",
                f"{1000 * found.lag:.0f} ms",
                f"{found.kilobytes:.1f} kB",
                f"{found.ends_missed:,}",
            )
    return table


def measure(*, smoke: bool = False) -> Iterator[Table]:
    """Count in virtual time, and measure over sockets."""
    if smoke:
        yield requests_table(20, 200)
        yield plans_table({"free": PLANS["free"]})
        yield cost_table({"poller": [20]}, 0.5, 3.0)
        return
    yield requests_table(1000, 20_000)
    yield plans_table(PLANS)
    yield cost_table({way: [1000, 10_000] if "pollers" not in way else [1000] for way in WAYS}, 10.0, 50.0)
