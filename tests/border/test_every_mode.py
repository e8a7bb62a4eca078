"""Every way to wait under ``dag.test()``: states and outputs."""

import pytest

pytestmark = pytest.mark.airflow


def test_each_mode_returns_the_output(dag_test, sim):
    result = dag_test("""
        how = {"workflow_id": "slow", "input": {"seconds": 1, "message": "hi"}}
        with DAG("d", schedule=None):
            Op(task_id="sync", **how)
            Op(task_id="streamed", stream=True, **how)
            Op(task_id="asynchronous", async_execution=True, poll_interval=0.5, **how)
            Op(task_id="deferrable", deferrable=True, poll_interval=0.5, **how)
    """)
    assert set(result.states.values()) == {"success"}, result.log[-10_000:]
    assert all("hi" in str(output) for output in result.outputs.values())
    assert result.xcoms("sync")["return_value"] == result.outputs["sync"]
    assert [run.status for run in sim.runs] == ["completed"] * 4
