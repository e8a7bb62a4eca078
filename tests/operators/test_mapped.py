"""Mapped tasks have the same defaults as Airflow's own operators."""

from __future__ import annotations

import warnings

import pytest
from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator

from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator
from airflow_provider_sim.operators.runs import SimCancelRunOperator, SimResumeRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.operators.usage import SimUsageLimitsOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

OPERATORS = [
    SimCancelRunOperator,
    SimDeployWorkflowOperator,
    SimExecuteWorkflowOperator,
    SimExecuteWorkflowBatchOperator,
    SimJobSensor,
    SimResumeRunOperator,
    SimUsageLimitsOperator,
]


def defaults(operator):
    """The arguments that Airflow itself gives to a mapped task of this class."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Task 't' was never mapped!")
        partial = operator.partial(task_id="t")
        kwargs = {name: value for name, value in partial.kwargs.items() if not name.startswith(("dag", "task_group"))}
        del partial
    return kwargs


@pytest.mark.parametrize("operator", OPERATORS)
def test_mapped_task_has_airflow_s_defaults(operator):
    base = BaseSensorOperator if issubclass(operator, BaseSensorOperator) else BaseOperator
    expected, found = defaults(base), defaults(operator)
    assert {name: found.get(name, "missing") for name in expected} == expected
