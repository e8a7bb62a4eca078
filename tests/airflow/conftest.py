"""A real Airflow, in a folder and a process of its own, with an emulator of this process as its Sim server."""

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


def run_in(home: Path, sim: SimEmulator, *dag_ids: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run DAGs to their end.

    :param env: environment variables to add, ``AIRFLOW__*`` and ``AIRFLOW_CONN_*`` included.
    """
    ran = _airflow(home, sim.url, "--keep", *dag_ids, env=env)
    # Mostly the last line; but who listens to Airflow may have a last word.
    told = next(line for line in reversed(ran.stdout.splitlines()) if line.startswith("[{"))
    reports = [TaskReport(**fields) for fields in json.loads(told)]
    return Ran(home, f"{ran.stdout}\n{ran.stderr}", {name_of(report): report for report in reports}, sim)


def _airflow(
    home: Path, sim_url: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``scripts.local_airflow`` without anything of whoever runs the tests; fail with what it said."""
    own = ("AIRFLOW", "SIM_")
    environment = {n: v for n, v in os.environ.items() if not n.startswith(own) and not n.lower().endswith("_proxy")}
    environment |= env or {}
    command = [sys.executable, "-m", "scripts.local_airflow", "--home", home, "--sim-url", sim_url, "--sim-key", KEY]
    ran = subprocess.run([*command, *arguments], cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout[-5000:]}\n{ran.stderr[-5000:]}"
    return ran


@pytest.fixture(scope="module", autouse=True)
def _unmeasured() -> Iterator[None]:
    """Let Airflow's processes run at their own pace under coverage, too, which would learn little from them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make an Airflow folder whose database is as new: it is migrated once and copied then."""
    folder = tmp_path_factory.mktemp("airflow")
    first = folder / "first"
    _airflow(first, "http://127.0.0.1:9")

    def make(name: str) -> Path:
        home = folder / name
        home.mkdir()
        shutil.copy(first / "airflow.db", home)
        return home

    return make
