"""A run that completes while its task times out: the last poll returns its output."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.polling import poll_state
from airflow_provider_sim.sensors.sim import SimJobSensor
from tests.operators.conftest import fire

pytestmark = pytest.mark.usefixtures("connection")

OUTPUT = {"done": True}
MODES: dict[str, dict[str, Any]] = {
    "async": {"async_execution": True},
    "deferrable": {"deferrable": True},
    "poke": {},
    "reschedule": {"mode": "reschedule"},
    "deferrable sensor": {"deferrable": True},
}


@pytest.fixture(autouse=True)
def _workflow(emulator, context, monkeypatch):
    emulator.workflow("long", duration=600)(lambda given: OUTPUT)
    monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.01)
    context["ti"].get_first_reschedule_date = lambda context: datetime.now(tz=UTC) - timedelta(seconds=1)


@pytest.fixture
def make(client):
    def task(mode, **options):
        common = {"task_id": "t", "workflow_id": "long", "timeout": 0.3, **MODES[mode], **options}
        if mode in ("async", "deferrable"):
            return SimExecuteWorkflowOperator(poll_interval=0.05, **common)
        run_id = client.execute_workflow("long", {}, async_execution=True).run_id
        return SimJobSensor(run_id=run_id, poke_interval=0.05, **common)

    return task


@pytest.fixture
def run(context):
    """Execute a task to its end; call ``meanwhile`` between the trigger's event and the worker."""

    def execute(task, meanwhile=lambda: None):
        try:
            return task.execute(context)
        except TaskDeferred as deferral:
            event = fire(deferral.trigger, context["ti"])
            assert event["status"] == "timeout"
            meanwhile()
            return task.resume_execution(deferral.method_name, {"event": event}, context)

    return execute


@pytest.mark.parametrize("mode", MODES)
def test_run_that_completes_before_the_cancel_request_succeeds(make, run, emulator, monkeypatch, mode):
    def stop_too_late(*args, **kwargs):
        emulator.clock.advance(3600)
        return stop(*args, **kwargs)

    stop = SimClient.stop_workflow_run
    monkeypatch.setattr(SimClient, "stop_workflow_run", stop_too_late)
    options = {} if mode in ("async", "deferrable") else {"cancel_on_timeout": True}
    assert run(make(mode, **options)) == OUTPUT
    assert [run.status for run in emulator.runs] == ["completed"]


@pytest.mark.parametrize("mode", ["deferrable", "deferrable sensor"])
def test_run_that_completes_after_the_timeout_event_succeeds(make, run, emulator, mode):
    assert run(make(mode), meanwhile=lambda: emulator.clock.advance(3600)) == OUTPUT
    assert not [seen for seen in emulator.requests if seen.path.endswith("/cancel")]


@pytest.mark.usefixtures("xcoms")
@pytest.mark.parametrize("status", ["timeout", "error"])
def test_batch_that_completes_after_the_trigger_event_succeeds(context, emulator, status):
    task = SimExecuteWorkflowBatchOperator(
        task_id="t", workflow_id="long", inputs=[{}, {}], deferrable=True, poll_interval=0.05, timeout=0.3
    )
    with pytest.raises(TaskDeferred) as deferral:
        task.execute(context)
    event = {**fire(deferral.value.trigger, context["ti"]), "status": status}
    emulator.clock.advance(3600)
    assert task.resume_execution(deferral.value.method_name, {"event": event}, context) == [OUTPUT, OUTPUT]


def test_run_that_completes_after_the_last_poll_succeeds(make, run, emulator, monkeypatch):
    def too_late(*args):
        emulator.clock.advance(3600)
        return timeout_error(*args)

    timeout_error = poll_state.timeout_error
    monkeypatch.setattr(poll_state, "timeout_error", too_late)
    assert run(make("async")) == OUTPUT


@pytest.mark.parametrize("mode", ["poke", "async"])
def test_run_that_completes_before_airflow_s_timeout_succeeds(make, run, emulator, monkeypatch, mode):
    def alarm(*_):
        emulator.clock.advance(3600)
        raise AirflowTaskTimeout("too long")

    monkeypatch.setattr("time.sleep", alarm)
    assert run(make(mode, timeout=60)) == OUTPUT


def test_sensor_execution_timeout_leaves_the_run_running(make, run, emulator):
    task = make("deferrable sensor", timeout=600, execution_timeout=timedelta(seconds=0.3), cancel_on_timeout=True)
    with pytest.raises(AirflowTaskTimeout, match=r"execution_timeout of 0:00:00\.3"):
        run(task)
    assert [run.status for run in emulator.runs] == ["running"]
