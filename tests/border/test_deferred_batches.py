"""Deferred batches on the installed Airflow."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.airflow

SOURCE = """
from airflow_provider_sim.hooks.sim import SimHook

with DAG("deferred", schedule=None):
    @task
    def inputs():
        with SimHook("sim_default") as hook:
            file = hook.upload_file(WORKSPACE, "shared.txt", b"shared")
        return [{"papers": [file.reference()], "n": n} for n in range(3)]

    Batch(
        task_id="by_reference", workflow_id="reads", inputs=inputs(), max_active_runs=1, deferrable=True,
        poll_interval=0.5,
    )
    Batch(task_id="completed_late", workflow_id="late", inputs=[1, 2], deferrable=True, poll_interval=60, timeout=5)
"""


def test_deferred_batches_return_all_outputs(dag_test, sim):
    @sim.workflow("reads", inputs={"papers": "file[]", "n": "number"}, duration=1)
    def reads(given):
        return [given["n"], given["papers"][0]["base64"]]

    sim.workflow("late", duration=3)(lambda given: given)
    result = dag_test(f"WORKSPACE = {sim.workspace_id!r}\n{SOURCE}", "deferred")
    outputs = result.outputs_of("deferred")
    assert outputs["by_reference"] == [[n, "c2hhcmVk"] for n in range(3)], result.log[-20_000:]
    assert len(outputs["completed_late"]) == 2
    assert result.xcoms("by_reference", dag_id="deferred")["batch_inputs_0"] == ""
