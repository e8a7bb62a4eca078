"""Cost and latency of a few runs on a real Airflow: what most users have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

import psutil

from benchmarks import peers
from benchmarks.gating import SETTINGS, Way, airflow_with, begin_with, delays_of, deploy, finish
from benchmarks.serving import Server, serving
from benchmarks.table import Table, new_table
from scripts.real_airflow import RealAirflow

REAL_AIRFLOW = True
FLOOR = Way("a trigger that knows the end of the run", "known_end", starts_it=True)
IN_TRIGGER = Way("the same with end_from_trigger", "everyday_ends_in_trigger", starts_it=True)
SDK = Way("@task that polls with simstudio-sdk every 5 s", "sdk", starts_it=True)
WAYS = (
    FLOOR,
    Way("SimExecuteWorkflowOperator, deferrable", "everyday_defaults", starts_it=True),
    Way("the same with check_input='off' and a known workspace", "everyday_unchecked", starts_it=True),
    IN_TRIGGER,
    SDK,
    Way("HttpOperator and HttpSensor, every 10 s", "everyday_http", starts_it=True),
)


@dataclass
class Cost:
    """What the DAG runs of one way cost together."""

    delays: list[float] = field(default_factory=list)
    seconds: float = 0.0
    requests: int = 0
    rejections: int = 0


def measure_way(airflow: RealAirflow, server: Server, way: Way, *, name: str, runs: int, seconds: float) -> Cost:
    """Trigger DAG runs at once and wait for their end."""
    before = _cpu(airflow), server.requests(), server.rejections()
    numbers = [f"{way.dag_id}-{name}-{number}" for number in range(runs)]
    waiting = begin_with(airflow, way, [{"number": number, "seconds": seconds} for number in numbers])
    finish(airflow, waiting, seconds + 120 + 10 * runs)
    after = _cpu(airflow), server.requests(), server.rejections()
    cpu, requests, rejections = (now - then for now, then in zip(after, before, strict=True))
    return Cost(delays_of(airflow, server, waiting), cpu, int(requests), int(rejections))


def _cpu(airflow: RealAirflow) -> float:
    """Return the CPU seconds of all components and their tasks, including those that have exited."""
    total = 0.0
    for part in ("scheduler", "api-server", "dag-processor", *airflow.triggerers):
        for process in airflow.processes(part):
            try:
                total += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
    return total


def table_of(
    airflow: RealAirflow, server: Server, ways: Sequence[Way], *, title: str, rounds: int, runs: int, seconds: float
) -> Table:
    """Measure each way in turn, in several rounds."""
    costs = {way: Cost() for way in ways}
    for number in range(-1, rounds):  # the first round is a warm-up with one run
        for way in ways:
            at_once = runs if number >= 0 else 1
            cost = measure_way(airflow, server, way, name=str(number), runs=at_once, seconds=seconds)
            if number >= 0:
                kept = costs[way]
                kept.delays += cost.delays
                kept.seconds += cost.seconds
                kept.requests += cost.requests
                kept.rejections += cost.rejections
    table = new_table(
        title,
        "way",
        "requests per run",
        "end to downstream start, median",
        "more than the floor",
        "99th percentile",
        "CPU s per run, all of Airflow",
        "429 responses",
        "passed",
        notes=f"A real Airflow with {airflow.database} and LocalExecutor with {SETTINGS['AIRFLOW__CORE__PARALLELISM']}"
        f" slots; {runs} runs start at the same time,"
        f" {f'{rounds} times' if rounds > 1 else 'once'}."
        " Each way has its defaults, and has run the workflow once before. The first row is the floor: one request"
        " starts the run, and its trigger fires when the run must be finished. CPU time includes the scheduler, the"
        " API server, the DAG processor, the triggerer and the downstream task.",
    )
    floor = median(costs[FLOOR].delays)
    for way, cost in costs.items():
        delays = sorted(cost.delays)
        table.add_row(
            way.title,
            f"{cost.requests / rounds / runs:.1f}",
            f"{median(delays):.1f} s",
            f"{median(delays) - floor:+.1f} s",
            f"{quantiles(delays, n=100, method='inclusive')[98]:.1f} s" if len(delays) > 1 else "",
            f"{cost.seconds / rounds / runs:.2f}",
            str(cost.rejections),
            f"{len(delays)} of {runs * rounds}",
        )
    return table


def measure(*, smoke: bool = False) -> Iterator[Table]:
    """Measure ten short runs, and forty longer ones on the free plan."""
    peers.WORK.mkdir(exist_ok=True)
    rounds, few, short, many, longer = (1, 2, 3.0, 2, 3.0) if smoke else (3, 10, 20.0, 40, 60.0)
    ways = [way for way in WAYS if way is not SDK or not smoke]
    with serving(deploy) as server, airflow_with(server, wide=0, sdk=not smoke) as airflow:
        title = f"What do {few} runs of {short:.0f} s cost?"
        yield table_of(airflow, server, ways, title=title, rounds=rounds, runs=few, seconds=short)
    with serving(deploy, plan="free") as server, airflow_with(server, wide=0, sdk=False) as airflow:
        title = f"{many} runs of {longer:.0f} s within the free plan's rate limits"
        yield table_of(airflow, server, [FLOOR, IN_TRIGGER], title=title, rounds=1, runs=many, seconds=longer)
