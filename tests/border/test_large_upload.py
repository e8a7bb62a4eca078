"""A file of 300 MiB in a deferrable run, on the installed Airflow."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.airflow

SIZE = 300 * 2**20

SOURCE = """
import resource

with DAG("large", schedule=None):
    @task
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def run(name, path):
        return Op(
            task_id=name, workflow_id="reads", input={"papers": Path(path)}, deferrable=True, poll_interval=0.5
        )

    before = peak.override(task_id="before")()
    after = peak.override(task_id="after")()
    run("small", SMALL) >> before >> run("large", LARGE) >> after
"""


def test_memory_stays_flat_while_a_large_file_is_uploaded(dag_test, sim, tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x")
    with large.open("wb") as file:
        file.truncate(SIZE)
    sim.workflow("reads", inputs={"papers": "file[]"}, duration=1)(lambda given: given["papers"][0]["size"])
    result = dag_test(f"SMALL, LARGE = {str(small)!r}, {str(large)!r}\n{SOURCE}", "large")
    outputs = result.outputs_of("large")
    assert (outputs["small"], outputs["large"]) == (1, SIZE), result.log[-20_000:]
    assert outputs["after"] - outputs["before"] < 20 * 2**20
    assert sim.files == []
