"""Run IDs under ``dag.test()``: DAG runs of the same name never share a run."""

from __future__ import annotations

import itertools
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_sim.emulator import BlockError
from tests.airflow.conftest import run_in
from tests.border.conftest import HEADER

pytestmark = pytest.mark.airflow

SOURCE = """
try:  # Airflow 2 deletes the former DAG run of the date, which takes the tables of its users
    import airflow.providers.fab.auth_manager.models
except ImportError:
    pass

how = {"workflow_id": "fresh", "poll_interval": 0.5}
with DAG("d", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}):
    Op(task_id="sync", **how)
    Op(task_id="streamed", stream=True, **how)
    Op(task_id="asynchronous", async_execution=True, **how)
    Op(task_id="deferrable", deferrable=True, **how)
    Op(task_id="without_xcoms", deferrable=True, do_xcom_push=False, **how)
    Op(task_id="not_durable", durable=False, **how)
    Op.partial(task_id="mapped", **how).expand(input=[{"n": 1}, {"n": 2}])
    start = Op(task_id="start", wait_for_completion=False, workflow_id="fresh")
    Sensor(task_id="wait", workflow_id="fresh", run_id=start.output, poke_interval=0.5)
    Batch(task_id="batch", inputs=[{"n": 1}, {"n": 2}], **how)
    Batch(task_id="deferrable_batch", inputs=[{"n": 1}, {"n": 2}], deferrable=True, **how)
    Op(task_id="retried", input={"fails": "{{ ti.try_number == 1 }}"}, **how)
"""
RUNS = 14
"""Per DAG run, and one that fails."""


def test_dag_runs_with_the_same_logical_date_start_their_own_runs(new_home, sim, tmp_path):
    """Twice on one Airflow, and at the same time on another one."""
    numbers = itertools.count()

    @sim.workflow("fresh", inputs=None, duration=0.6)
    def fresh(given):
        if str(given.get("fails")) == "True":
            raise BlockError("first try")
        return {"number": next(numbers)}

    (tmp_path / "d.py").write_text(HEADER + textwrap.dedent(SOURCE))
    arguments = ["--dags", str(tmp_path), "--logical-date", "2026-01-01T00:00:00+00:00"]
    with ThreadPoolExecutor() as pool:
        airflows = [
            pool.submit(run_in, new_home(name), sim, *arguments, *["d"] * times)
            for name, times in (("staging", 2), ("production", 1))
        ]
    seen = []
    for ran in (airflow.result() for airflow in airflows):
        assert {report.state for report in ran.reports.values()} == {"success"}, ran.printed[-10_000:]
        seen.append({task: report.output for task, report in ran.reports.items()})
    started = [run for run in sim.runs if str(run.input.get("fails")) != "True"]
    assert len(started) == 3 * RUNS
    assert {run.status for run in started} == {"completed"}
    staging, production = (str(sorted(outputs.items())) for outputs in seen)
    assert staging != production
    for task, output in seen[0].items():
        if output is not None:
            assert output != seen[1][task], task
