"""Run the same DAG runs on two real Airflows with one Sim, and count outputs of the other one.

Both Airflows have the same DAG, run IDs, logical dates and workflow; only the input differs. The first Airflow
then deletes its DAG run and creates it again. ``--airflow 2.11`` uses the environment of ``make matrix
CELLS=2.11/3.11``.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from airflow_provider_sim.emulator import SimEmulator
from scripts.local_airflow import REPO
from scripts.matrix import AIRFLOWS, run_module_on
from scripts.real_airflow import RealAirflow

HOME = REPO / ".chaos"
DAGS = REPO / "scripts" / "twin_dags"
RUN_ID, LOGICAL_DATE = "manual__2026-01-01T00:00:00+00:00", datetime(2026, 1, 1, tzinfo=UTC)
MAPPED = 12
"""Mapped tasks per mode: with the sensor and the batches, 51 tasks per DAG run."""
PATIENCE = 420.0


@dataclass(frozen=True, slots=True)
class Count:
    """Result of one DAG run.

    :param failed: tasks that did not succeed.
    :param foreign: tasks that returned an output of another DAG run.
    :param runs: runs that Sim started for it.
    """

    title: str
    tasks: int
    failed: int
    foreign: int
    runs: int


def compare(homes: Sequence[Path], *, mapped: int, database: str | None = None) -> list[Count]:
    """Run the DAG on two Airflows at the same time, and once more on the first."""
    with SimEmulator() as sim, contextlib.ExitStack() as stack:
        sim.workflow("twin", inputs=None, duration=1.0)(lambda given: {"by": given["by"], "number": given["number"]})
        sim.state.limits.per_address = False
        airflows = [
            stack.enter_context(
                RealAirflow(
                    home,
                    DAGS,
                    connections={"sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key}},
                    database=database,
                    settings={"TWIN": home.name, "TWIN_MAPPED": str(mapped), "AIRFLOW__CORE__PARALLELISM": "6"},
                )
            )
            for home in homes
        ]
        for airflow in airflows:
            _trigger(airflow, "")
        counts = [_count(airflow, sim, "", "") for airflow in airflows]
        airflows[0].delete("twin", RUN_ID)
        _trigger(airflows[0], "again")
        counts.append(_count(airflows[0], sim, "again", ", created again"))
    return counts


def _trigger(airflow: RealAirflow, mark: str) -> None:
    airflow.trigger("twin", {"mark": mark}, run_id=RUN_ID, logical_date=LOGICAL_DATE)


def _count(airflow: RealAirflow, sim: SimEmulator, mark: str, words: str) -> Count:
    def are_over() -> bool:
        tis = airflow.task_instances(RUN_ID)
        return bool(tis) and all(ti.is_over for ti in tis)

    airflow.wait_until(are_over, PATIENCE, "the tasks to finish", pause=1.0)
    by = airflow.home.name + mark
    tis = [ti for ti in airflow.task_instances(RUN_ID) if ti.task_id != "start"]
    foreign = 0
    for ti in tis:
        output = airflow.xcom(ti) if ti.state == "success" else None
        outputs = output if isinstance(output, list) else [output]
        foreign += ti.state == "success" and any(one is None or one["by"] != by for one in outputs)
    runs = sum(run.input["by"] == by for run in sim.runs)
    return Count(airflow.home.name + words, len(tis), sum(ti.state != "success" for ti in tis), foreign, runs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; return 1 if there is a foreign output or a failed task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mapped", type=int, default=MAPPED, help="mapped tasks per way to run a workflow")
    parser.add_argument("--airflow", choices=AIRFLOWS, help="a version of the matrix instead of the installed one")
    options = parser.parse_args(arguments)
    if options.airflow:
        given = sys.argv[1:] if arguments is None else list(arguments)
        status = run_module_on(options.airflow, "scripts.two_airflows", given)
        if status is not None:
            return status
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    counts = compare([HOME / "staging", HOME / "production"], mapped=options.mapped)
    table = Table("Airflow", "tasks", "failed", "runs", "foreign outputs", box=box.MARKDOWN)
    for count in counts:
        table.add_row(count.title, *map(str, (count.tasks, count.failed, count.runs, count.foreign)))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(f"Airflow {metadata.version('apache-airflow')}, {time.monotonic() - began:.0f} s")
    console.print(table)
    return int(any(count.foreign or count.failed for count in counts))


if __name__ == "__main__":
    sys.exit(main())
