"""Two Airflows with the same DAG and DAG run on one Sim server: no task returns an output of the other's."""

from __future__ import annotations

import pytest

from scripts.two_airflows import compare

pytestmark = [pytest.mark.airflow, pytest.mark.nightly, pytest.mark.filterwarnings("default")]


def test_no_task_returns_the_output_of_another_dag_run(tmp_path):
    for count in compare([tmp_path / "staging", tmp_path / "production"], mapped=2):
        assert (count.tasks, count.failed, count.foreign) == (11, 0, 0), count
        assert count.runs == 4 * 2 + 1 + 2 * 2, count
