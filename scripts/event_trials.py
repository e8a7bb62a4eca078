"""Kill the triggerer of a real Airflow while runs finish in bursts, and count the run IDs that DAG runs received.

``python -m scripts.event_trials`` kills it 20 times among 2000 runs, and exits with 1 if a run was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.exceptions import SimRateLimitError
from scripts.local_airflow import REPO
from scripts.real_airflow import RealAirflow

HOME = REPO / ".chaos" / "events"
DAGS = REPO / "scripts" / "event_dags"
RUNS, KILLS = 2000, 20
MAX_BURST = 50
PATIENCE = 180.0
"""Maximum seconds from the last run's end to its DAG run."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a trial.

    :param runs: finished runs.
    :param seen: run IDs that DAG runs received in ``triggering_asset_events``, each counted once.
    :param missed: runs that no DAG run received.
    :param repeated: run IDs that were received again.
    :param dag_runs: DAG runs that Airflow created.
    :param longest: maximum seconds from a run's end to the creation of the first DAG run that received it.
    :param median: the median of these times.
    """

    runs: int
    seen: int
    missed: int
    repeated: int
    dag_runs: int
    longest: float
    median: float
    kills: int
    seconds: float


def kill_among(home: Path, *, runs: int, kills: int, chance: random.Random, database: str | None = None) -> Report:
    """Kill the triggerer while runs finish in bursts."""
    began = time.monotonic()
    with SimEmulator() as sim:
        sim.workflow("brief", duration=lambda given: float(given.get("seconds", 0.0)))(lambda given: {})
        connections = {"sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key}}
        # Airflow 3.0 adds an asset's triggers when it parses the DAG file for the second time.
        settings = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10"}
        with RealAirflow(home, DAGS, connections=connections, database=database, settings=settings) as airflow:
            airflow.wait_until(lambda: _has_started(airflow), 120, "the watcher")
            work = _Work(sim, runs, chance)
            work.start()
            for number in range(kills):
                work.let(runs * (number + 1) // (kills + 1))
                already = _count(airflow, "asset_event")
                airflow.wait_until(lambda seen=already: _count(airflow, "asset_event") > seen, PATIENCE, "events")
                time.sleep(chance.uniform(0.0, 5.0))
                airflow.kill_triggerer(airflow.triggerers[-1])
                airflow.start_triggerer()
            work.let(runs)
            work.join()
            started = set(work.started)
            airflow.wait_until(lambda: all(run.is_over for run in sim.runs), 60, "the end of all runs")
            with contextlib.suppress(TimeoutError):  # what is missing then counts as missed
                airflow.wait_until(lambda: _first_seen(airflow)[0].keys() >= started, PATIENCE, "DAG runs", pause=1)
            first, total = _first_seen(airflow)
            ended = {run.run_id: run.ended_at for run in sim.runs}
            waited = sorted(created - ended[run_id] for run_id, created in first.items())
            return Report(
                runs=len(started),
                seen=len(first),
                missed=len(started - first.keys()),
                repeated=total - len(first),
                dag_runs=_count(airflow, "dag_run"),
                longest=waited[-1],
                median=waited[len(waited) // 2],
                kills=kills,
                seconds=time.monotonic() - began,
            )


class _Work(threading.Thread):
    """Starts runs in bursts of 1 to 50 that finish together, up to a number that may grow."""

    def __init__(self, sim: SimEmulator, runs: int, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._sim = sim
        self._runs = runs
        self._chance = chance
        self._allowed = 0
        self._more = threading.Event()
        self.started: list[str] = []

    def let(self, runs: int) -> None:
        """Start this many in all."""
        self._allowed = runs
        self._more.set()

    def run(self) -> None:
        """Start them."""
        with SimClient(self._sim.api_key, base_url=self._sim.url) as client:
            while len(self.started) < self._runs:
                left = self._allowed - len(self.started)
                if left <= 0:
                    self._more.wait(0.1)
                    self._more.clear()
                    continue
                end = time.time() + self._chance.choice((0.0, 1.0, 3.0, 10.0))
                for _ in range(min(left, self._chance.randint(1, MAX_BURST))):
                    self._start(client, end)
                time.sleep(self._chance.uniform(0.0, 3.0))

    def _start(self, client: SimClient, end: float) -> None:
        while True:
            try:
                given = {"seconds": max(0.0, end - time.time())}
                self.started.append(client.execute_workflow("brief", given, async_execution=True).run_id or "")
                return
            except SimRateLimitError as error:  # of this address, which the triggerer shares
                time.sleep(error.retry_after or 1.0)


def _has_started(airflow: RealAirflow) -> bool:
    """Whether the trigger has polled; before Airflow 3.3 no table shows it."""
    if not airflow.version.startswith(("3.0.", "3.1.", "3.2.")):
        return _count(airflow, "asset_state_store") > 0
    if not airflow.query("SELECT 1 FROM trigger WHERE triggerer_id IS NOT NULL"):
        return False
    time.sleep(10.0)
    return True


def _count(airflow: RealAirflow, table: str) -> int:
    count: int = airflow.query(f"SELECT count(*) FROM {table}")[0][0]
    return count


def _first_seen(airflow: RealAirflow) -> tuple[dict[str, float], int]:
    """Return when the first DAG run that has seen a run was created, by run ID; and how many IDs were seen in all."""
    rows = airflow.query(
        "SELECT x.value, d.queued_at FROM xcom x JOIN dag_run d ON d.dag_id = x.dag_id AND d.run_id = x.run_id"
        " WHERE x.dag_id = 'on_ended_runs' AND x.key = 'return_value' ORDER BY d.queued_at"
    )
    first: dict[str, float] = {}
    seen: Counter[str] = Counter()
    for value, queued_at in rows:
        run_ids = json.loads(value) if isinstance(value, str) else value
        seen.update(run_ids)
        for run_id in run_ids:
            first.setdefault(run_id, _epoch(queued_at))
    return first, seen.total()


def _epoch(moment: Any) -> float:
    then = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, help="to repeat a trial")
    parser.add_argument("--database", choices=["postgresql", "sqlite"])
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seed = random.randrange(10**6) if options.seed is None else options.seed
    chance = random.Random(seed)
    report = kill_among(HOME, runs=options.runs, kills=options.kills, chance=chance, database=options.database)
    Console().print(
        f"[bold {'red' if report.missed else 'green'}]{report.runs} runs finished, DAG runs received {report.seen}[/]:"
        f" {report.missed} missed, {report.repeated} repeated. {report.dag_runs} DAG runs, {report.kills} kills of the"
        f" triggerer. From a run's end to its DAG run: maximum {report.longest:.0f} s, median"
        f" {report.median:.0f} s. Seed {seed}, {report.seconds:.0f} s."
    )
    return 1 if report.missed else 0


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "*")
    sys.exit(main())
