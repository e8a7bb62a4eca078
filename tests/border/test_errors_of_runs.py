"""Errors of failed runs in the log of a task, on the installed Airflow."""

import re

import pytest

pytestmark = pytest.mark.airflow


def test_error_of_a_failed_run_ends_with_its_link(dag_test, sim):
    result = dag_test("""
        with DAG("d", schedule=None):
            how = {"workflow_id": "failing", "poll_interval": 0.5}
            for task_id, mode in {
                "sync": {},
                "streamed": {"stream": True},
                "asynchronous": {"async_execution": True},
                "deferrable": {"deferrable": True},
            }.items():
                Op(task_id=task_id, **mode, **how)
            start = Op(task_id="start", async_execution=True, wait_for_completion=False, **how)
            Sensor(task_id="sensor", workflow_id="failing", run_id=start.output, poke_interval=0.5)
    """)
    states = dict(result.states)
    assert states.pop("start") == "success"
    assert set(states.values()) == {"failed"}, result.log[-10_000:]
    log = re.sub(r"[\s│]", "", result.log)  # Airflow 3.0 wraps tracebacks in a box
    for task_id in states:
        xcoms = result.xcoms(task_id)
        run_id = result.xcoms("start")["run_id"] if task_id == "sensor" else xcoms["run_id"]
        assert run_id in xcoms["run_url"]
        sentence = f"Its log in Sim shows each block. {xcoms['run_url']}"
        assert sentence.replace(" ", "") in log, task_id
