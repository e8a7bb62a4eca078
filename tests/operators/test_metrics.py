"""Metrics: those of tasks, the names in the docs, and one test with Airflow's own StatsD client."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from airflow_provider_sim import _compat
from airflow_provider_sim.client import RunStatus
from airflow_provider_sim.metrics import LONGEST_WAIT, Metric, WaitTimer
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.runs import SimCancelRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

REPO = Path(__file__).parents[2]
TAGS = {
    Metric.RUN_FINISHED: {"status": [status.value for status in RunStatus if status.is_terminal]},
    Metric.POLL_REQUESTS: {"kind": ["read", "list", "workspace"]},
}


def task(**arguments):
    return SimExecuteWorkflowOperator(task_id="t", workflow_id="no_input_format", input={"text": "hi"}, **arguments)


def test_every_mode_counts_started_and_finished_runs(connection, run_task, stats, mode):
    connection()
    run_task(task(**mode))
    counters = stats.counters
    assert counters["sim.run.started"] == counters["sim.run.finished"] == counters["sim.run.finished.completed"] == 1
    assert ("sim.run.event_delay" in stats.timers) == ("deferrable" in mode)


def test_failed_run_is_counted(connection, run_task, stats):
    connection()
    with pytest.raises(Exception, match="failed"):
        run_task(SimExecuteWorkflowOperator(task_id="t", workflow_id="failing", input={}))
    assert stats.counters["sim.run.finished.failed"] == 1


def test_reattached_run_is_counted(connection, context, run_task, stats):
    connection()
    first = run_task(task(async_execution=True))
    context["ti"].try_number += 1
    assert run_task(task(async_execution=True)) == first
    assert (stats.counters["sim.run.started"], stats.counters["sim.run.reattached"]) == (1, 1)


def test_cancelled_run_and_polls_are_counted(connection, run_task, stats, client):
    connection()
    run_id = client.execute_workflow("slow", {}, async_execution=True).run_id
    run_task(SimCancelRunOperator(task_id="c", workflow_id="slow", run_id=run_id))
    assert stats.counters["sim.run.cancelled"] == 1
    with pytest.raises(Exception, match="cancelled"):
        run_task(SimJobSensor(task_id="s", workflow_id="slow", run_id=run_id))
    assert stats.counters["sim.run.finished.cancelled"] == 1
    assert stats.counters["sim.poll.requests.read"] >= 1


@pytest.mark.parametrize("deferrable", [False, True])
def test_batch_counts_each_run(connection, run_task, stats, xcoms, deferrable):
    connection()
    inputs = [{"text": str(number)} for number in range(5)]
    run_task(
        SimExecuteWorkflowBatchOperator(task_id="t", workflow_id="echo_plain", inputs=inputs, deferrable=deferrable)
    )
    assert stats.counters["sim.run.started"] == stats.counters["sim.run.finished.completed"] == 5


def test_rate_limit_wait_is_timed(connection, emulator, run_task, stats):
    connection()
    with emulator.fault("rate_limit", match="execute", kind="gate", retry_after="0.01"):
        run_task(task(retry_args={"initial_delay": 0.01}))
    assert len(stats.timers["sim.rate_limit.wait"]) == 1


def test_wait_timer_reports_at_the_end_and_every_minute(stats):
    times = iter([0, 1, 4, 5, 10, 10 + LONGEST_WAIT, 12 + LONGEST_WAIT, 20, 20.1])
    timer = WaitTimer(lambda: next(times))
    for is_waiting in (False, True, False, False, True, True, False, True, False):
        timer.update(is_waiting)
    assert stats.timers["sim.rate_limit.wait"] == [3, LONGEST_WAIT, 2]


def test_failing_stats_fail_no_task(connection, run_task, monkeypatch):
    def fail():
        raise OSError("no route to host")

    connection()
    monkeypatch.setattr(_compat, "airflow_stats", fail)
    assert run_task(task(deferrable=True))["result"] == {"input": {"text": "hi"}}


def test_docs_list_all_metrics():
    page = (REPO / "docs" / "reference" / "metrics.md").read_text()
    table = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `sim.")]
    rows = {name.strip(): tag for name, _, tag, _, _ in table}
    assert set(rows) == {f"`{metric.value}`" for metric in Metric}
    for metric in Metric:
        [(tag, values)] = TAGS.get(metric, {"": []}).items()
        assert re.findall(r"`(\w+)`", rows[f"`{metric.value}`"]) == [name for name in (tag, *values) if name]


IN_A_PROCESS = """
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.triggers import base
from tests.operators.conftest import TaskInstance, fire

base.FIRST_POLL_AFTER = 0.01
context = {"ti": TaskInstance()}
for deferrable in (False, True):
    task = SimExecuteWorkflowOperator(
        task_id="t", workflow_id="echo_plain", input={}, deferrable=deferrable, durable=False
    )
    try:
        task.execute(context)
    except TaskDeferred as deferral:
        task.execute_complete(context, fire(deferral.trigger))
"""


@pytest.mark.slow
def test_statsd_receives_sync_and_deferrable_metrics(connection):
    connection()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0)
        settings = {"on": "True", "host": "127.0.0.1", "port": str(server.getsockname()[1]), "influxdb_enabled": "True"}
        variables = {f"AIRFLOW__METRICS__STATSD_{name.upper()}": value for name, value in settings.items()}
        subprocess.run([sys.executable, "-c", IN_A_PROCESS], check=True, cwd=REPO, env={**os.environ, **variables})
        received: Counter[str] = Counter()
        try:
            while True:
                name, _, value = server.recv(1024).decode().partition(":")
                received[f"{name} {value.partition('|')[2]}"] += 1
        except BlockingIOError:
            pass
    assert {name: number for name, number in received.items() if ".sim." in name} == {
        "airflow.sim.run.started c": 2,
        "airflow.sim.run.finished,status=completed c": 2,
        "airflow.sim.run.finished.completed c": 2,
        "airflow.sim.run.event_delay ms": 1,
        "airflow.sim.poll.requests,kind=read c": 1,
        "airflow.sim.poll.requests.read c": 1,
    }
