"""Cost and latency of tasks that wait for a run on a real Airflow."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median, quantiles
from typing import Any, NamedTuple

import psutil
import requests

from airflow_provider_sim.emulator import SimEmulator
from benchmarks import peers
from benchmarks.serving import Server, serving
from benchmarks.table import Table, new_table, ratio
from scripts.real_airflow import RealAirflow

REAL_AIRFLOW = True
HOME = peers.WORK / "gating"
DAGS = peers.REPO / "benchmarks" / "gating_dags"
WORKFLOW = "gated"
SETTINGS = {
    # Airflow's defaults, except for limits that fewer DAG runs would reach, and a parallelism for two cores.
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
    "AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": "1000",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "15",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "5",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "30",
}
RUNS, FEW, WIDE = 200, 1, 100
LEAD, GAP = 90.0, 0.8
"""Seconds until the first run finishes, and between two runs."""
FAR = 100_000.0


class Way(NamedTuple):
    """A DAG with a task that waits for a run.

    :param starts_it: whether the DAG starts the run.
    """

    title: str
    dag_id: str
    starts_it: bool = False


FLOOR = Way("a trigger that knows the end of the run", "known_end_sensor")
IN_TRIGGERER = Way("SimJobSensor, start_ and end_from_trigger", "sensor_in_triggerer")
DEFERRABLE = Way("SimJobSensor, deferrable", "sensor")
HTTP = Way("HttpSensor, deferrable, response_check", "http_sensor")
NOTHING = Way("only the next task", "nothing", starts_it=True)
SDK = Way("@task that polls with simstudio-sdk 0.2.1", "sdk", starts_it=True)
WAYS = (
    IN_TRIGGERER,
    Way("SimJobSensor, end_from_trigger", "sensor_end_from_trigger"),
    DEFERRABLE,
    HTTP,
    Way("SimExecuteWorkflowOperator, end_from_trigger", "operator_end_from_trigger", starts_it=True),
    Way("SimExecuteWorkflowOperator, deferrable", "operator", starts_it=True),
    Way("HttpOperator and HttpSensor, deferrable", "http_operator_and_sensor", starts_it=True),
    SDK,
)


class Spent(NamedTuple):
    """CPU seconds used so far.

    :param workers: task processes and the executor's processes.
    """

    workers: float
    triggerer: float
    requests: int

    def since(self, before: Spent) -> Spent:
        """Return the difference."""
        return Spent(self.workers - before.workers, self.triggerer - before.triggerer, self.requests - before.requests)


@dataclass(frozen=True, slots=True)
class Waiting:
    """DAG runs that wait for one run each. The IDs are those of both, or are in the input of Sim's run."""

    way: Way
    ids: Sequence[str]


def deploy(sim: SimEmulator) -> None:
    """Deploy a workflow whose runs take the ``seconds`` in their input, or finish at its ``ends_at``."""
    sim.state.limits.concurrent_runs = None  # as on a self-hosted server
    lasts: dict[str, float] = {}

    def duration(given: Mapping[str, Any]) -> float:
        left = given["seconds"] if "seconds" in given else float(given["ends_at"]) - time.time()
        return lasts.setdefault(given["number"], max(0.0, float(left)))

    sim.on_start(WORKFLOW, lambda run: lasts.update({run.input["number"]: duration(run.input)}))

    @sim.workflow(WORKFLOW, duration=duration)
    def gated(given: Mapping[str, Any]) -> Mapping[str, Any]:
        return given


@contextlib.contextmanager
def airflow_with(server: Server, *, wide: int, sdk: bool) -> Iterator[RealAirflow]:
    """Start an Airflow with connections to the emulator.

    :param wide: number of sensors in the wide DAGs.
    :param sdk: whether tasks can import the official SDK.
    """
    connections: dict[str, dict[str, Any]] = {
        "sim_default": {"conn_type": "sim", "host": server.url, "password": server.api_key},
        "sim_known": {
            "conn_type": "sim",
            "host": server.url,
            "password": server.api_key,
            "extra": {"workspace_id": server.workspace_id},
        },
        "sim_http": {"conn_type": "http", "host": server.url, "extra": {"X-API-Key": server.api_key}},
    }
    known = {"BENCH_SIM_URL": server.url, "BENCH_SIM_KEY": server.api_key, "BENCH_WIDE": str(wide)}
    if sdk:
        known["BENCH_SDK"] = str(peers.official_sdk("0.2.1"))
    with RealAirflow(HOME, DAGS, connections=connections, settings={**SETTINGS, **known}) as airflow:
        yield airflow


def begin(airflow: RealAirflow, server: Server, way: Way, ends_at: Sequence[float]) -> Waiting:
    """Trigger a DAG run for each end time."""
    given = [{"number": f"{way.dag_id}-{len(ends_at)}-{number}", "ends_at": end} for number, end in enumerate(ends_at)]
    if not way.starts_it:
        for each in given:
            start(server, each["number"], each)
    return begin_with(airflow, way, given)


def begin_with(airflow: RealAirflow, way: Way, inputs: Sequence[Mapping[str, Any]]) -> Waiting:
    """Trigger a DAG run for each input, whose ``number`` is the ID of the DAG run and of the run."""
    for given in inputs:
        airflow.trigger(way.dag_id, {**given, "sim_run_id": given["number"]}, run_id=given["number"])
    return Waiting(way, [given["number"] for given in inputs])


def finish(airflow: RealAirflow, waiting: Waiting, patience: float) -> None:
    """Wait until all DAG runs are finished."""

    def finished() -> bool:
        rows = airflow.query(
            "SELECT run_id FROM dag_run WHERE dag_id = :dag_id AND state IN ('success', 'failed')",
            dag_id=waiting.way.dag_id,
        )
        return sum(row.run_id in waiting.ids for row in rows) >= len(waiting.ids)

    airflow.wait_until(finished, patience, f"{waiting.way.title} to finish", pause=2)


def start(server: Server, run_id: str, given: Mapping[str, Any]) -> None:
    """Start a run without Airflow."""
    requests.post(
        f"{server.url}/api/v2/workflows/{WORKFLOW}/execute",
        json={"async": True, "input": given},
        headers={"X-API-Key": server.api_key, "X-Run-Id": run_id},
        timeout=60,
    ).raise_for_status()


def delays_of(airflow: RealAirflow, server: Server, waiting: Waiting) -> list[float]:
    """Return the seconds from each run's end to the start of the downstream task."""
    runs = requests.get(f"{server.url}/__emulator__/runs", timeout=60).json()["runs"]
    ended = {run["input"]["number"]: datetime.fromisoformat(run["ended_at"]) for run in runs if run["ended_at"]}
    began = airflow.query(
        "SELECT run_id, start_date FROM task_instance"
        " WHERE dag_id = :dag_id AND task_id = 'after' AND state = 'success'",
        dag_id=waiting.way.dag_id,
    )
    return sorted((row.start_date - ended[row.run_id]).total_seconds() for row in began if row.run_id in waiting.ids)


def processes_of(airflow: RealAirflow, waiting: Waiting) -> int:
    """Count the task processes of waiting tasks, by Airflow's log table."""
    rows = airflow.query(
        "SELECT run_id FROM log WHERE dag_id = :dag_id AND event = 'running' AND task_id <> 'after'",
        dag_id=waiting.way.dag_id,
    )
    return sum(row.run_id in waiting.ids for row in rows)


def spent_by(airflow: RealAirflow, server: Server) -> Spent:
    """Return the resources used so far."""
    scheduler, *below = airflow.processes("scheduler")
    ended = scheduler.cpu_times()
    workers = ended.children_user + ended.children_system + sum(map(_times, below))
    return Spent(workers, sum(map(_times, airflow.processes(airflow.triggerers[-1]))), server.requests())


def _times(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and its terminated children."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


# --- tables ------------------------------------------------------------------------------------------------------


def processes_table(airflow: RealAirflow, server: Server, ways: Sequence[Way], runs: int, lead: float) -> Table:
    """Count worker processes."""
    all_waiting = [begin(airflow, server, way, [time.time() + lead] * runs) for way in ways]
    for waiting in all_waiting:
        finish(airflow, waiting, lead + 120 + 20 * runs * len(ways))
    table = new_table(
        "How many worker processes does a gated run need?",
        "way",
        "starts the run",
        "worker processes",
        labels=2,
        notes=f"A real Airflow with {airflow.database}. Each DAG run ({runs} for each row) waits for a run of Sim and"
        " then runs a task, which isn't counted. If the DAG doesn't start the run, add the process that does. The HTTP"
        " provider's sensor with a response_check doesn't defer, and the SDK can't: both occupy their process until the"
        " run is finished.",
    )
    for waiting in all_waiting:
        way = waiting.way
        counted = f"{processes_of(airflow, waiting) / len(waiting.ids):.1f}"
        table.add_row(way.title, "yes" if way.starts_it else "no", counted)
    return table


def delays_table(
    airflow: RealAirflow, server: Server, ways: Sequence[Way], runs: int, lead: float, gap: float
) -> Table:
    """Run many DAG runs of each DAG, one DAG after the other."""
    table = new_table(
        f"How soon does the next task start after the run, with {runs} sensors?",
        "way",
        "median",
        "more than the floor",
        "99th percentile",
        "worker CPU s per run",
        "ratio to HttpSensor",
        "triggerer CPU s per run",
        "requests per run",
        "passed",
        notes=f"A real Airflow with {airflow.database} and LocalExecutor with "
        f"{SETTINGS['AIRFLOW__CORE__PARALLELISM']} slots. {runs} DAG runs wait for one run of Sim each, "
        "with the defaults, or every 5 s with HttpSensor, and then run a Python task; all DAG runs start at the "
        "beginning. The first row is the floor: its trigger fires at the run's end, without a request. "
        f"The first run finishes after {lead:.0f} s, then one every {gap:.1f} s, in a random order that is "
        "the same for all. The CPU time of the next task is measured separately and subtracted. If not "
        "all have passed, Airflow's scheduler processed a deferral so late that it treated the resumed "
        "task as lost; retries of the task solve this.",
    )
    order = random.Random(4).sample(range(runs), runs)
    alone = max(2, runs // 4)
    for tasks in (1, alone):  # the first is a warm-up
        before = spent_by(airflow, server)
        finish(airflow, begin(airflow, server, NOTHING, [0.0] * tasks), 120 + 10 * tasks)
    next_task = spent_by(airflow, server).since(before).workers / alone
    rows = {}
    for way in ways:
        before, first = spent_by(airflow, server), time.time() + lead
        waiting = begin(airflow, server, way, [first + place * gap for place in order])
        finish(airflow, waiting, lead + runs * gap + 120 + 10 * runs)
        spent = spent_by(airflow, server).since(before)
        workers = max(0.0, spent.workers / runs - next_task)
        rows[way] = delays_of(airflow, server, waiting), workers, spent
    for way, (delays, workers, spent) in rows.items():
        late = quantiles(delays, n=100, method="inclusive")[98]
        table.add_row(
            way.title,
            f"{median(delays):.1f} s",
            f"{median(delays) - median(rows[FLOOR][0]):+.1f} s",
            f"{late:.1f} s",
            f"{workers:.2f}",
            ratio(workers, rows[HTTP][1]),
            f"{spent.triggerer / runs:.3f}",
            f"{spent.requests / runs - (not way.starts_it):.1f}",  # this benchmark started each run
            f"{len(delays)} of {runs}",
        )
    return table


class Filled(NamedTuple):
    """Cost of sensors in a new triggerer.

    :param grown: growth of the triggerer's peak memory in bytes.
    :param seconds: until all sensors were deferred.
    """

    grown: int
    spent: Spent
    seconds: float


def fill(airflow: RealAirflow, server: Server, dag_id: str, sensors: int, *, wide: bool) -> Filled:
    """Defer sensors in a new triggerer, and stop them.

    :param wide: whether all sensors are in one DAG run.
    """
    old = airflow.triggerers[-1]
    new = airflow.start_triggerer()
    airflow.stop_triggerer(old)
    name = f"{dag_id}-fill"
    first = {"number": f"{name}-first", "ends_at": time.time() + 5.0}
    start(server, first["number"], first)
    finish(airflow, begin_with(airflow, DEFERRABLE, [first]), 120)  # so that the triggerer has imported what each needs
    for number in range(sensors):
        start(server, f"{name}-{number}", {"number": f"{name}-{number}", "ends_at": time.time() + FAR})
    held, before, began = _memory(airflow, new), spent_by(airflow, server), time.monotonic()
    most = held
    given = [(name, name)] if wide else [(f"{name}-{number}",) * 2 for number in range(sensors)]
    for run_id, sim_run_id in given:
        airflow.trigger(dag_id, {"sim_run_id": sim_run_id}, run_id=run_id)

    def all_wait() -> bool:
        nonlocal most
        most = max(most, _memory(airflow, new))
        there = airflow.query(
            "SELECT count(*) FROM task_instance t JOIN trigger g ON t.trigger_id = g.id WHERE t.dag_id = :dag_id"
            " AND t.state = 'deferred' AND g.triggerer_id IS NOT NULL",
            dag_id=dag_id,
        )
        return bool(there[0][0] >= sensors)

    airflow.wait_until(all_wait, 120 + 5 * sensors, f"{dag_id}'s sensors to wait", pause=0.5)
    seconds = time.monotonic() - began
    until = time.monotonic() + 10
    airflow.wait_until(lambda: all_wait() and time.monotonic() > until, 60, "the triggerer to be idle", pause=0.5)
    filled = Filled(most - held, spent_by(airflow, server).since(before), seconds)
    for run_id, _ in given:
        airflow.api("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})
    return filled


def _memory(airflow: RealAirflow, part: str) -> int:
    """Return the unique memory of a component's processes in bytes."""
    return sum(process.memory_full_info().uss for process in airflow.processes(part))


def width_table(airflow: RealAirflow, server: Server, sensors: int) -> Table:
    """Measure triggerers with narrow DAGs and with a wide one."""
    table = new_table(
        f"What does start_from_trigger cost a triggerer, for {sensors} sensors?",
        "DAG",
        "way",
        "MB of memory",
        "CPU s",
        "worker CPU s",
        "s until all are deferred",
        labels=2,
        notes=f"{sensors} deferred sensors in a triggerer that has run one before, and by how much its memory grows at "
        f"most until 10 s after the last one was deferred. Narrow: {sensors} runs of a DAG with 2 tasks; wide: one run "
        f"of a DAG with {sensors} tasks. Airflow passes the whole serialized DAG with each task that starts in the "
        "triggerer. For a task that a worker deferred, the triggerer only loads the DAG for a moment, which the peak "
        "may include. So use start_from_trigger in narrow DAGs.",
    )
    for width, wide, dag_ids in (
        ("narrow", False, ("sensor", "sensor_in_triggerer")),
        ("wide", True, ("wide", "wide_in_triggerer")),
    ):
        for label, dag_id in zip(("deferrable", "start_from_trigger"), dag_ids, strict=True):
            filled = fill(airflow, server, dag_id, sensors, wide=wide)
            spent = filled.spent
            cells = (
                f"{filled.grown / 1e6:.0f}",
                f"{spent.triggerer:.1f}",
                f"{spent.workers:.1f}",
                f"{filled.seconds:.0f}",
            )
            table.add_row(width, label, *cells)
    return table


def measure(*, smoke: bool = False) -> Iterator[Table]:
    """Measure all tables on one Airflow."""
    peers.WORK.mkdir(exist_ok=True)
    few, runs, wide, lead, gap = (1, 2, 2, 5.0, 1.0) if smoke else (FEW, RUNS, WIDE, LEAD, GAP)
    ways = [way for way in WAYS if way is not SDK or not smoke]
    with serving(deploy) as server, airflow_with(server, wide=wide, sdk=not smoke) as airflow:
        yield processes_table(airflow, server, ways, few, lead)
        yield delays_table(airflow, server, [FLOOR, IN_TRIGGERER, DEFERRABLE, HTTP], runs, lead, gap)
        yield width_table(airflow, server, wide)
