"""How long to wait: seconds or a timedelta; anything else is refused before anything is sent."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_sim.exceptions import SimInputError
from airflow_provider_sim.operators.batch import SimExecuteWorkflowsOperator
from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator
from airflow_provider_sim.operators.runs import SimCancelRunOperator, SimResumeRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

pytestmark = pytest.mark.usefixtures("connection")

TASKS = {
    SimExecuteWorkflowOperator: {"async_execution": True},
    SimExecuteWorkflowsOperator: {"inputs": [{"message": "x"}]},
    SimCancelRunOperator: {"run_id": "r-1"},
    SimResumeRunOperator: {"run_id": "r-1", "input": {}},
    SimDeployWorkflowOperator: {},
}
WRONG = [0, -1, float("inf"), float("nan"), True, "ten", 1e12, timedelta(0), timedelta.max]


def task(operator, **arguments):
    return operator(task_id="t", workflow_id="echo_plain", **TASKS[operator], **arguments)


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["poll_interval", "timeout"])
@pytest.mark.parametrize("operator", TASKS, ids=lambda operator: operator.__name__)
def test_what_is_none_is_refused_before_anything_is_sent(context, emulator, operator, name, value):
    with pytest.raises(SimInputError, match=f"{name} is .*it must be a number of seconds above 0, or a timedelta"):
        task(operator, **{name: value}).execute(context)
    assert emulator.requests == []


@pytest.mark.parametrize("operator", TASKS, ids=lambda operator: operator.__name__)
def test_an_interval_may_be_a_timedelta(operator):
    assert task(operator, poll_interval=timedelta(minutes=2)).poll_interval == 120.0


def test_a_run_is_waited_for_by_timedeltas(run_task, emulator):
    run_task(task(SimExecuteWorkflowOperator, poll_interval=timedelta(milliseconds=20), timeout=timedelta(minutes=1)))
    [run] = emulator.runs
    assert run.status == "completed"
