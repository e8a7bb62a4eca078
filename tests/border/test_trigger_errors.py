"""Errors in a trigger that aren't Sim's, under ``dag.test()``: the task polls once."""

import pytest

pytestmark = pytest.mark.airflow


def test_task_polls_once_after_the_trigger_failed(dag_test, sim):
    sim.workflow("brief", duration=2)(lambda given: {"ok": True})
    sim.workflow("long", duration=600)(lambda given: {"ok": True})
    result = dag_test(
        """
from airflow_provider_sim.polling import poller
from airflow_provider_sim.triggers import batch

def broken(*args, **kwargs):
    raise TimeoutError("the storage doesn't answer")

poller.poller_for = batch.BatchEngine = broken
with DAG("d", schedule=None):
    for name in ("brief", "long"):
        Op(task_id=f"operator_{name}", workflow_id=name, deferrable=True, poll_interval=1)
        start = Op(task_id=f"start_{name}", workflow_id=name, wait_for_completion=False)
        Sensor(task_id=f"sensor_{name}", workflow_id=name, run_id=start.output, deferrable=True, poke_interval=1)
        Batch(task_id=f"batch_{name}", workflow_id=name, inputs=[{}, {}], deferrable=True, poll_interval=1)
"""
    )
    expected = {"brief": "success", "long": "failed"}
    states = {name: state for name, state in result.states.items() if not name.startswith("start_")}
    assert states == {name: expected[name.split("_")[1]] for name in states}, result.log[-20_000:]
    assert {
        name: output for name, output in result.outputs.items() if name.endswith("brief") and "start" not in name
    } == {
        "operator_brief": {"ok": True},
        "sensor_brief": {"ok": True},
        "batch_brief": [{"ok": True}] * 2,
    }
    assert "TimeoutError: the storage doesn't answer" in result.log
    assert {run.status for run in sim.runs_of("long")} == {"running"}, "a retry re-attaches"
