"""Argument checks on the installed Airflow: constants at parse time, the others before a request is sent."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_sim.operators.runs import SimCancelRunOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator

pytestmark = pytest.mark.airflow

SOURCE = """
from airflow_provider_sim.exceptions import SimInputError

errors = []

def fails(make):
    try:
        make()
    except SimInputError as error:
        errors.append(str(error))
    else:
        errors.append("no error")

with DAG("parsed", schedule=None):
    fails(lambda: Op(task_id="a", workflow_id="echo", poll_interval="10"))
    fails(lambda: Op(task_id="b", workflow_id="echo", default_args={"on_paused": "hope"}))
    fails(lambda: Op.partial(task_id="c", workflow_id="echo", timeout="1h").expand(input=[1]))
    fails(lambda: Sensor.partial(task_id="d", workflow_id="https://sim/w/x").expand(run_id=["r"]))
    fails(lambda: Batch(task_id="e", workflow_id="echo", inputs=[], max_active_runs=0))
    fails(lambda: task.sim_workflow(workflow_id="echo", retry_args={"retries": 3})(lambda: {}))

    @task
    def report():
        return errors

    report()

with DAG("d", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(0), "owner": "us"}):
    @task
    def xcom():
        return "https://www.sim.ai/workspace/1/w/x"

    Op(task_id="pulled", workflow_id=xcom())
    Op(task_id="rendered", workflow_id="{{ 'a b' }}")
    Op.partial(task_id="expanded", workflow_id="echo").expand(poll_interval=["10", 5])
    Op.partial(task_id="right", poll_interval=5).expand(workflow_id=["echo", "{{ 'echo' }}"])
    Sensor.partial(task_id="watched", workflow_id="echo", pool="default_pool").expand(run_id=["a b"])
"""


def test_arguments_are_checked_at_parse_time_or_after_rendering(dag_test, sim):
    sim.workflow("echo")(lambda given: {"ok": True})
    result = dag_test(SOURCE, "parsed", "d")
    named = ["poll_interval", "on_paused", "timeout", "last part of the address: 'x'", "max_active_runs", "retry_args"]
    for name, error in zip(named, result.outputs_of("parsed")["report"], strict=True):
        assert name in error
    assert result.states == {
        "xcom": "success",
        "pulled": "failed",
        "rendered": "failed",
        "expanded[0]": "failed",
        "expanded[1]": "success",
        "right[0]": "success",
        "right[1]": "success",
        "watched[0]": "failed",
    }, result.log[-10_000:]
    assert len(sim.runs) == 3


def test_default_args_reach_arguments_of_base_classes():
    with DAG("d", schedule=None, default_args={"sim_conn_id": "other"}):
        usage = SimUsageLimitsOperator(task_id="usage")
        cancel = SimCancelRunOperator(task_id="cancel", workflow_id="w", run_id="r")
        mapped = SimCancelRunOperator.partial(task_id="mapped", workflow_id="w").expand(run_id=["r", "s"])
    assert [task.sim_conn_id for task in (usage, cancel, mapped.unmap({"run_id": "r"}))] == ["other"] * 3
