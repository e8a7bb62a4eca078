"""A real Airflow, in a folder and a process of its own, with an emulator of this process as its Sim server."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sim.emulator import SimEmulator
from scripts.local_airflow import REPO, TaskReport

KEY = "sk-sim-the-key-that-is-nowhere-to-be-found"


@dataclass(frozen=True)
class Ran:
    """What an Airflow has done.

    :param home: its folder.
    :param printed: what its process wrote to stdout and stderr; the task logs are part of it.
    :param reports: its tasks by ``dag.task`` or ``dag.task[index]``, without ``example_sim_``.
    :param sim: the server that it talked to.
    """

    home: Path
    printed: str
    reports: dict[str, TaskReport]
    sim: SimEmulator

    def xcom(self, dag_id: str, task_id: str, key: str) -> Any:
        """An XCom that no report holds."""
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            query = "SELECT value FROM xcom WHERE dag_id = ? AND task_id = ? AND key = ?"
            [(value,)] = database.execute(query, (dag_id, task_id, key))
        return json.loads(value)


def airflow(home: Path, sim_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``scripts.local_airflow`` without anything of whoever runs the tests; fail with what it said."""
    own = ("AIRFLOW", "SIM_")
    environment = {n: v for n, v in os.environ.items() if not n.startswith(own) and not n.lower().endswith("_proxy")}
    command = [sys.executable, "-m", "scripts.local_airflow", "--home", home, "--sim-url", sim_url, "--sim-key", KEY]
    ran = subprocess.run([*command, *arguments], cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout[-5000:]}\n{ran.stderr[-5000:]}"
    return ran


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make an Airflow folder whose database is as new: it is migrated once and copied then."""
    folder = tmp_path_factory.mktemp("airflow")
    airflow(folder / "first", "http://127.0.0.1:9")

    def make(name: str) -> Path:
        home = folder / name
        home.mkdir()
        shutil.copy(folder / "first" / "airflow.db", home)
        return home

    return make


@pytest.fixture(scope="session")
def run_dags(new_home: Callable[[str], Path]) -> Callable[..., Ran]:
    """Run DAGs to their end."""

    def run(name: str, sim: SimEmulator, *arguments: str) -> Ran:
        home = new_home(name)
        ran = airflow(home, sim.url, "--keep", *arguments)
        *_, last = ran.stdout.splitlines()
        reports = [TaskReport(**fields) for fields in json.loads(last)]
        return Ran(home, f"{ran.stdout}\n{ran.stderr}", {_name(report): report for report in reports}, sim)

    return run


def _name(report: TaskReport) -> str:
    name = f"{report.dag_id}.{report.task_id}".removeprefix("example_sim_")
    return name if report.map_index < 0 else f"{name}[{report.map_index}]"
