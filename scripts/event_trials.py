"""Kill the triggerer of a real Airflow while runs end, and count the events that Airflow has stored of them.

``python -m scripts.event_trials`` kills it 20 times among 2000 runs, and exits with 1 unless each has one event.
``--alone`` leaves the trigger without a connection to Airflow's API: then none may be missed, and some may be doubled.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path

from rich.console import Console

from airflow_provider_sim.client.blocking import SimClient
from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.exceptions import SimRateLimitError
from scripts.local_airflow import REPO
from scripts.real_airflow import RealAirflow

HOME = REPO / ".chaos" / "events"
DAGS = REPO / "scripts" / "event_dags"
RUNS, KILLS = 2000, 20


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it.

    :param runs: that ended.
    :param events: that Airflow stored.
    :param missed: runs without an event.
    :param doubled: events too many.
    """

    runs: int
    events: int
    missed: int
    doubled: int
    kills: int
    seconds: float


def kill_among(
    home: Path, *, runs: int, kills: int, asks_airflow: bool, chance: random.Random, database: str | None = None
) -> Report:
    """Let runs end, and kill the triggerer while they do.

    :param asks_airflow: whether the trigger has a connection to Airflow's API.
    """
    began = time.monotonic()
    settings = {"EVENTS_AIRFLOW_CONN_ID": "airflow_api" if asks_airflow else ""}
    with SimEmulator() as sim:
        sim.workflow("brief", duration=lambda given: float(given.get("seconds", 0.0)))(lambda given: {})
        connections = {"sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key}}
        with RealAirflow(home, DAGS, connections=connections, database=database, settings=settings) as airflow:
            airflow.wait_until(lambda: bool(airflow.query("SELECT 1 FROM asset_state_store")), 120, "the watcher")
            done = 0
            work = _Work(sim, runs, chance)
            work.start()
            for number in range(kills):
                # Whenever it has told something again: the share of the runs that is due by then, and a bit.
                share = runs * (number + 1) // (kills + 1)
                work.let(share)
                already = len(_events(airflow))
                airflow.wait_until(lambda seen=already: len(_events(airflow)) > seen, 180, "events")
                time.sleep(chance.uniform(0.0, 2.0))
                airflow.kill_triggerer(airflow.triggerers[-1])
                done += 1
                airflow.start_triggerer()
            work.let(runs)
            work.join()
            ended = set(work.started)
            airflow.wait_until(lambda: set(_events(airflow)) >= ended, 300, "an event for each run", pause=1)
            time.sleep(5.0)
            told = Counter(_events(airflow))
    return Report(
        runs=len(ended),
        events=told.total(),
        missed=len(ended - set(told)),
        doubled=told.total() - len(told),
        kills=done,
        seconds=time.monotonic() - began,
    )


class _Work(threading.Thread):
    """Starts runs, as far as it is let, some each second, so that some end at any moment."""

    def __init__(self, sim: SimEmulator, runs: int, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._sim = sim
        self._runs = runs
        self._chance = chance
        self._allowed = 0
        self._more = threading.Event()
        self.started: list[str] = []

    def let(self, runs: int) -> None:
        """Start so many in all."""
        self._allowed = runs
        self._more.set()

    def run(self) -> None:
        """Start them."""
        with SimClient(self._sim.api_key, base_url=self._sim.url) as client:
            while len(self.started) < self._runs:
                if len(self.started) >= self._allowed:
                    self._more.wait(0.1)
                    self._more.clear()
                    continue
                given = {"seconds": self._chance.choice((0.0, 0.5, 2.0, 10.0))}
                try:
                    started = client.execute_workflow("brief", given, async_execution=True)
                except SimRateLimitError as error:  # of its address, which the triggerer has, too
                    time.sleep(error.retry_after or 1.0)
                else:
                    self.started.append(started.run_id)
                    time.sleep(0.02)


def _events(airflow: RealAirflow) -> list[str]:
    """The runs that the stored events tell of."""
    extras = [row.extra for row in airflow.query("SELECT extra FROM asset_event")]
    return [(json.loads(extra) if isinstance(extra, str) else extra)["payload"]["run_id"] for extra in extras]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--alone", action="store_true", help="without a connection to Airflow's API")
    parser.add_argument("--seed", type=int, help="to draw the same again")
    parser.add_argument("--database", choices=["postgresql", "sqlite"])
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seed = random.randrange(10**6) if options.seed is None else options.seed
    report = kill_among(
        HOME,
        runs=options.runs,
        kills=options.kills,
        asks_airflow=not options.alone,
        chance=random.Random(seed),
        database=options.database,
    )
    wrong = report.missed or (report.doubled and not options.alone)
    Console().print(
        f"[bold {'red' if wrong else 'green'}]{report.runs} runs, {report.events} events[/]: {report.missed} missed,"
        f" {report.doubled} doubled, over {report.kills} kills of the triggerer. Seed {seed}, {report.seconds:.0f} s."
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "*")
    sys.exit(main())
