"""Fixtures that run DAGs on a real Airflow in another process, with an emulator in this one."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sim.emulator import SimEmulator
from scripts.local_airflow import REPO, TaskReport
from tests.airflow.bad_ends import KEY
from tests.airflow.expected import name_of

AT_ONCE = 3
"""How many Airflows run at once: on two cores, since each of them sleeps for a third of its time."""


@dataclass(frozen=True)
class Ran:
    """Results of DAG runs.

    :param home: Airflow's directory.
    :param printed: stdout and stderr of its process, including task logs.
    :param reports: tasks by ``dag.task`` or ``dag.task[index]``, without ``example_sim_``.
    :param sim: its Sim server.
    """

    home: Path
    printed: str
    reports: dict[str, TaskReport]
    sim: SimEmulator

    def xcom(self, dag_id: str, task_id: str, key: str) -> Any:
        """Return an XCom that no report contains."""
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            query = "SELECT value FROM xcom WHERE dag_id = ? AND task_id = ? AND key = ?"
            [(value,)] = database.execute(query, (dag_id, task_id, key))
        return json.loads(value)


def run_in(home: Path, sim: SimEmulator, *dag_ids: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run DAGs until they are finished.

    :param env: further environment variables, including ``AIRFLOW__*`` and ``AIRFLOW_CONN_*``.
    """
    ran = _airflow(home, sim.url, "--keep", *dag_ids, env=env)
    # Mostly the last line, but listeners of Airflow may print more.
    printed = next(line for line in reversed(ran.stdout.splitlines()) if line.startswith("[{"))
    reports = [TaskReport(**fields) for fields in json.loads(printed)]
    return Ran(home, f"{ran.stdout}\n{ran.stderr}", {name_of(report): report for report in reports}, sim)


def _airflow(
    home: Path, sim_url: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``scripts.local_airflow`` without the environment of the tests; on failure, show its output."""
    own = ("AIRFLOW", "SIM_")
    environment = {n: v for n, v in os.environ.items() if not n.startswith(own) and not n.lower().endswith("_proxy")}
    environment |= env or {}
    command = [sys.executable, "-m", "scripts.local_airflow", "--home", home, "--sim-url", sim_url, "--sim-key", KEY]
    ran = subprocess.run([*command, *arguments], cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout[-5000:]}\n{ran.stderr[-5000:]}"
    return ran


@pytest.fixture(scope="module", autouse=True)
def _unmeasured() -> Iterator[None]:
    """Don't measure the coverage of Airflow's processes, which slows them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Create an Airflow directory with an empty database, which is migrated once and then copied."""
    folder = tmp_path_factory.mktemp("airflow")
    first = folder / "first"
    _airflow(first, "http://127.0.0.1:9")

    def make(name: str) -> Path:
        home = folder / name
        home.mkdir()
        shutil.copy(first / "airflow.db", home)
        return home

    return make
