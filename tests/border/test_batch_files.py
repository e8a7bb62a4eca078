"""Batches on the installed Airflow."""

from __future__ import annotations

from collections import Counter

import pytest

from airflow_provider_sim.emulator.builtin import BlockError
from tests.versions import needs_airflow

pytestmark = pytest.mark.airflow

SOURCE = """
from pathlib import PosixPath

class CountedPath(PosixPath):
    def open(self, *args, **kwargs):
        with Path(READS).open("a") as reads:
            reads.write(f"{self.name}\\n")
        return super().open(*args, **kwargs)

def files(kind):
    return [{"n": n, "f": CountedPath(FOLDER) / f"{kind}-{n}"} for n in range(3)]

how = {"unconverted_files": "send", "poll_interval": 0.5}
waits = {**how, "deferrable": True}
with DAG("deferred", schedule=None):
    Batch(task_id="gone_while_running", workflow_id="removing", inputs=files("gone"), **waits)
    Batch(task_id="handed_over", workflow_id="removing", inputs=files("over"), max_active_runs=1, **waits)
    Batch(task_id="completed_late", workflow_id="late", inputs=[1, 2], deferrable=True, poll_interval=60, timeout=5)
"""

RETRIED = """
with DAG("retried", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}):
    Batch(task_id="worker", workflow_id="failing", inputs=files("worker"), **how)
    Batch(task_id="deferred", workflow_id="failing", inputs=files("deferred"), **waits)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with files; names that end in a number belong to inputs."""
    folder = tmp_path / "files"
    folder.mkdir()
    for kind in ("gone", "over", "worker", "deferred"):
        for n in range(3):
            (folder / f"{kind}-{n}").write_bytes(b"x")
    return folder


@pytest.fixture
def reads(tmp_path):
    """Names of the files that were read, one a line."""
    return tmp_path / "reads"


@pytest.fixture
def removing(sim, folder):
    """A workflow that removes its input file, which is no longer needed."""

    @sim.workflow("removing", duration=1)
    def remove(given):
        (folder / given["f"]["name"]).unlink()
        return given["n"]


@pytest.mark.usefixtures("removing")
def test_resumed_batch_reads_no_file(dag_test, sim, folder, reads):
    sim.workflow("late", duration=3)(lambda given: given)
    result = dag_test(f"FOLDER, READS = {str(folder)!r}, {str(reads)!r}\n{SOURCE}", "deferred")
    assert set(result.states_of("deferred").values()) == {"success"}, result.log[-20_000:]
    outputs = result.outputs_of("deferred")
    assert outputs["gone_while_running"] == [0, 1, 2]
    assert outputs["handed_over"] == [0, 1, 2]
    assert len(outputs["completed_late"]) == 2
    assert Counter(reads.read_text().split()) == Counter(f"{kind}-{n}" for kind in ("gone", "over") for n in range(3))
    assert "batch_inputs_0" not in result.xcoms("handed_over", dag_id="deferred")


@needs_airflow("3.3", "before, dag.test() has no identity that a retry could find the batch by")
def test_retry_reads_only_files_of_the_runs_it_starts(dag_test, sim, folder, reads):
    failed = Counter()

    @sim.workflow("failing", duration=1)
    def failing(given):
        name = given["f"]["name"]
        if given["n"] == 1 and not failed[name]:
            failed[name] += 1
            raise BlockError("no", block="Agent")
        (folder / name).unlink()
        return given["n"]

    result = dag_test(f"FOLDER, READS = {str(folder)!r}, {str(reads)!r}\n{SOURCE}{RETRIED}", "retried")
    assert result.outputs_of("retried") == {"worker": [0, 1, 2], "deferred": [0, 1, 2]}, result.log[-20_000:]
    names = [f"{kind}-{n}" for kind in ("worker", "deferred") for n in range(3)]
    assert Counter(reads.read_text().split()) == Counter([*names, "worker-1", "deferred-1"])
