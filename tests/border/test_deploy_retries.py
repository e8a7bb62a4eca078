"""Deployments on the installed Airflow."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.airflow

SOURCE = """
from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator as Deploy

how = {"poll_interval": 0.2, "timeout": 1}
with DAG("d", schedule=None, default_args={"retries": 8, "retry_delay": timedelta(0)}):
    Deploy(task_id="deploy", workflow_id="slow_to_deploy", **how)
    Deploy(task_id="rollback", workflow_id="slow_to_roll_back", action="rollback", **how)
"""


def test_retry_requests_no_second_deployment(dag_test, sim):
    for name in ("slow_to_deploy", "slow_to_roll_back"):
        sim.workflow(name)(lambda given: given)
        workflow = sim.state.workflows[name]
        workflow.versions = workflow.version = 3
        workflow.activation = 3.0
    result = dag_test(SOURCE)
    assert result.states == {"deploy": "success", "rollback": "success"}, result.log[-10_000:]
    assert (result.outputs["deploy"]["version"], result.outputs["rollback"]["version"]) == (4, 2)
    requests = [request.path for request in sim.requests if request.method == "POST"]
    assert len([path for path in requests if path.endswith(("/deploy", "/rollback"))]) == 2, requests
