"""Run DAGs on the installed Airflow, with nothing of Airflow replaced.

``dag_test`` runs DAG source with ``dag.test()`` in a separate process, on every Airflow version of the matrix. Claims
that need a scheduler, workers and a triggerer use :class:`scripts.real_airflow.RealAirflow`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sim.emulator import SimEmulator
from scripts.local_airflow import TaskReport
from tests.airflow.bad_ends import KEY
from tests.airflow.conftest import AT_ONCE, _unmeasured, new_home, run_in  # noqa: F401  fixtures

HEADER = """
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, Asset, task

from airflow_provider_sim.task.input import SimFile
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator as Batch
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator as Op
from airflow_provider_sim.sensors.sim import SimJobSensor as Sensor
"""


@dataclass(frozen=True)
class DagTest:
    """Result of ``dag.test()`` for one or more DAGs.

    :param home: the ``AIRFLOW_HOME`` folder, with ``airflow.db`` and ``logs``.
    :param log: stdout and stderr of the process, including the task logs.
    :param reports: task reports by ``dag_id.task_id`` or ``dag_id.task_id[map_index]``.
    """

    home: Path
    log: str
    reports: dict[str, TaskReport]

    def reports_of(self, dag_id: str) -> dict[str, TaskReport]:
        """Task reports of one DAG by task ID, or ``task_id[map_index]``."""
        prefix = f"{dag_id}."
        return {name.removeprefix(prefix): report for name, report in self.reports.items() if name.startswith(prefix)}

    def states_of(self, dag_id: str) -> dict[str, str]:
        """Task states of one DAG."""
        return {name: report.state for name, report in self.reports_of(dag_id).items()}

    def outputs_of(self, dag_id: str) -> dict[str, Any]:
        """XCom ``return_value`` by task of one DAG."""
        return {name: report.output for name, report in self.reports_of(dag_id).items()}

    @property
    def states(self) -> dict[str, str]:
        """Task states of the DAG ``d``."""
        return self.states_of("d")

    @property
    def outputs(self) -> dict[str, Any]:
        """XCom ``return_value`` by task of the DAG ``d``."""
        return self.outputs_of("d")

    def xcoms(self, task_id: str, *, dag_id: str = "d", map_index: int = -1) -> dict[str, Any]:
        """All XComs of a task instance, read from the metadata database."""
        query = "SELECT key, value FROM xcom WHERE dag_id = ? AND task_id = ? AND map_index = ?"
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            rows = database.execute(query, (dag_id, task_id, map_index)).fetchall()
        # SQLite stores a number's JSON as a number.
        return {key: json.loads(value) if isinstance(value, str | bytes) else value for key, value in rows}


@pytest.fixture
def sim() -> Iterator[SimEmulator]:
    """An emulator with the connection's key."""
    with SimEmulator(api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def dag_test(new_home, tmp_path, sim) -> Callable[..., DagTest]:  # noqa: F811
    """Run DAG source with ``dag.test()``: ``dag_test(source, *dag_ids, env={...})``.

    The source starts with :data:`HEADER`; without DAG IDs, the DAG ``d`` runs. Give all DAGs of a test in one call, or
    to :func:`run_each` where they sleep: each call starts a process with an Airflow, which takes longer than the DAGs.
    """

    def run(source: str, *dag_ids: str, env: dict[str, str] | None = None) -> DagTest:
        home = new_home(f"{tmp_path.name}-{os.urandom(3).hex()}")
        return run_dags(home, tmp_path / "dags", sim, source, *dag_ids, env=env)

    return run


def run_each(
    home_of: Callable[[str], Path], folder: Path, sim: SimEmulator, source: str, *dag_ids: str
) -> dict[str, DagTest]:
    """Run each DAG in its own process, three at once; return the results by DAG ID."""

    def run(dag_id: str) -> DagTest:
        return run_dags(home_of(f"{folder.name}-{dag_id}"), folder / dag_id, sim, source, dag_id)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(dag_ids, pool.map(run, dag_ids), strict=True))


def run_dags(
    home: Path, folder: Path, sim: SimEmulator, source: str, *dag_ids: str, env: dict[str, str] | None = None
) -> DagTest:
    """Write DAG source into a folder and run its DAGs with ``dag.test()``, one after another, in one process."""
    folder.mkdir(exist_ok=True)
    (folder / "d.py").write_text(HEADER + textwrap.dedent(source))
    wide = {"COLUMNS": "1000"}  # Airflow 3.0 wraps error messages in its log
    ran = run_in(home, sim, "--dags", str(folder), *(dag_ids or ("d",)), env=wide | (env or {}))
    return DagTest(home, ran.printed, ran.reports)
