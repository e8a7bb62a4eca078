"""Cost of many inputs on a real Airflow, as one batch and as mapped tasks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from airflow_provider_sim.emulator import SimEmulator
from benchmarks import gating
from benchmarks.table import Table, new_table
from scripts.real_airflow import REPO, RealAirflow

REAL_AIRFLOW = True
DAGS = REPO / "benchmarks" / "batch_dags"
INPUTS, FEWER = 2000, 300
"""Number of inputs; mapped tasks would take too long with as many."""
RUN_SECONDS = 5.0
IDLE_SECONDS = 30.0
SETTINGS = {
    **gating.SETTINGS,
    "AIRFLOW__CORE__PARALLELISM": "16",
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "4096",
    "AIRFLOW__CORE__MAX_MAP_LENGTH": "4096",
}


class Way(NamedTuple):
    """A DAG that runs many inputs."""

    title: str
    dag_id: str
    inputs: int = INPUTS


WAYS = (
    Way("one batch, deferrable", "batch_deferred"),
    Way("one batch, waiting worker", "batch_worker"),
    Way("mapped tasks, sync", "mapped_sync", FEWER),
    Way("mapped tasks, deferrable", "mapped_deferred", FEWER),
    Way("one batch of 300, deferrable", "batch_deferred", FEWER),
)


@dataclass(frozen=True, slots=True)
class Spent:
    """Resources used so far, or during a DAG run.

    :param processor: CPU seconds of all Airflow processes, without the database.
    :param processes: task processes that were started.
    :param rows: rows of Airflow's database.
    :param requests: requests to Sim.
    """

    seconds: float
    processor: float
    processes: int
    rows: int
    requests: int

    def since(self, before: Spent) -> Spent:
        """Return the difference."""
        return Spent(*(getattr(self, name) - getattr(before, name) for name in Spent.__slots__))


class Outcome(NamedTuple):
    """Result of one DAG run.

    :param idle: CPU seconds that an idle Airflow would have used in the same time.
    """

    way: Way
    inputs: int
    spent: Spent
    idle: float
    completed: int

    @property
    def processor(self) -> float:
        """CPU seconds per input, without those of an idle Airflow."""
        return max(0.0, self.spent.processor - self.idle) / self.inputs


class Stage:
    """A real Airflow and its Sim server."""

    def __init__(self, airflow: RealAirflow, sim: SimEmulator) -> None:
        self._airflow = airflow
        self._sim = sim
        self._idle = 0.0

    def idle(self, seconds: float) -> None:
        """Measure the CPU time of an idle Airflow."""
        before = self._spent()
        time.sleep(seconds)
        spent = self._spent().since(before)
        self._idle = spent.processor / spent.seconds

    def play(self, way: Way, inputs: int) -> Outcome:
        """Run a DAG with this number of inputs until it is finished."""
        self._sim.clear()
        before = self._spent()
        run_id = self._airflow.trigger(way.dag_id, {"count": inputs})
        self._airflow.wait_until(lambda: self._is_finished(run_id), 60 + 10 * inputs, f"{way.title} to finish", pause=1)
        spent = self._spent().since(before)
        completed = sum(run.status == "completed" for run in self._sim.runs)
        return Outcome(way, inputs, spent, self._idle * spent.seconds, completed)

    def _is_finished(self, run_id: str) -> bool:
        [row] = self._airflow.query("SELECT state FROM dag_run WHERE run_id = :run_id", run_id=run_id)
        return row.state in ("success", "failed")

    def _spent(self) -> Spent:
        tables = self._airflow.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = sum(self._airflow.query(f'SELECT count(*) FROM "{row.tablename}"')[0][0] for row in tables)
        parts = ["scheduler", "api-server", "dag-processor", *self._airflow.triggerers]
        [starts] = self._airflow.query("SELECT count(*) FROM log WHERE event = 'running'")
        return Spent(
            seconds=time.monotonic(),
            processor=sum(_processor_time(process) for part in parts for process in self._airflow.processes(part)),
            processes=starts[0],
            rows=rows,
            requests=len(self._sim.requests),
        )


def _processor_time(process: psutil.Process) -> float:
    """CPU seconds of a process and its terminated children."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


def measure(*, smoke: bool = False, ways: Sequence[Way] = WAYS) -> Iterator[Table]:
    """Run the DAGs one after the other on one Airflow."""
    idle = 1.0 if smoke else IDLE_SECONDS
    with SimEmulator(profile="v0.8-legacy") as sim, tempfile.TemporaryDirectory() as folder:
        sim.workflow("brief", duration=RUN_SECONDS)(lambda given: {"double": 2 * given["number"]})
        connections = {"sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key}}
        with RealAirflow(
            Path(folder) / "airflow", DAGS, connections=connections, database="postgresql", settings=SETTINGS
        ) as airflow:
            stage = Stage(airflow, sim)
            for way in ways:  # warm up
                stage.play(way, 1)
            stage.idle(idle)
            played = [stage.play(way, min(way.inputs, 4 if smoke else way.inputs)) for way in ways]
    yield _table(played)


def _table(played: Sequence[Outcome]) -> Table:
    table = new_table(
        "What do many inputs cost, as one batch and as mapped tasks?",
        "way",
        "inputs",
        "completed",
        "s",
        "s of CPU time",
        "CPU ms per input",
        "ratio to the first",
        "processes",
        "rows",
        "requests per input",
        notes=f"A real Airflow with PostgreSQL and LocalExecutor with {SETTINGS['AIRFLOW__CORE__PARALLELISM']} "
        f"slots. Another task returns the inputs, and each run takes {RUN_SECONDS:.0f} s."
        " The server is self-hosted with the legacy API, which limits neither requests "
        "nor concurrent runs. Mapped tasks have fewer inputs because they take too long: "
        "compare per input. CPU time is that of all Airflow processes including workers, without that of "
        "an idle Airflow and without PostgreSQL. Processes are task processes, including one for the task "
        "that returns the inputs; a batch whose runs are finished when the last one has started doesn't "
        "defer. Rows are those added to the database.",
    )
    for outcome in played:
        spent = outcome.spent
        table.add_row(
            outcome.way.title,
            f"{outcome.inputs}",
            f"{outcome.completed}",
            f"{spent.seconds:.0f}",
            f"{spent.processor - outcome.idle:.1f}",
            f"{1000 * outcome.processor:.1f}",
            f"{outcome.processor / played[0].processor:.1f}" if played[0].processor else "",
            f"{spent.processes}",
            f"{spent.rows}",
            f"{spent.requests / outcome.inputs:.2f}",
        )
    return table
