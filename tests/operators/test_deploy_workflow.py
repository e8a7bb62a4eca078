"""SimDeployWorkflowOperator against the emulator."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_sim.client.async_client import AsyncSimClient
from airflow_provider_sim.exceptions import (
    SimDeploymentError,
    SimInputError,
    SimNotFoundError,
    SimPermissionError,
    SimUnsupportedError,
)
from airflow_provider_sim.operators.deployments import SimDeployWorkflowOperator

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture
def workflow(emulator):
    """A workflow that isn't deployed."""
    return emulator.state.workflows["undeployed"]


@pytest.fixture
def change(run_task):
    """Run the operator."""

    def run(**arguments):
        return run_task(
            SimDeployWorkflowOperator(
                **{"task_id": "d", "workflow_id": "undeployed", "poll_interval": 0.02} | arguments
            )
        )

    return run


def looks(emulator) -> int:
    return sum(request.path.endswith("/deployment") for request in emulator.requests)


def test_draft_is_deployed_with_name_and_description(change, workflow):
    result = change(version_name="first", description="for the tests")
    assert (result["workflow_id"], result["is_deployed"], result["version"]) == ("undeployed", True, 1)
    assert workflow.deployed
    assert workflow.notes[1] == {"name": "first", "description": "for the tests"}


def test_deploy_waits_until_the_version_is_live(change, workflow, emulator):
    change()
    workflow.activation = 0.05
    assert change()["version"] == 2
    assert looks(emulator) >= 1


def test_wait_for_completion_false_returns_without_polling(change, workflow, emulator):
    change()
    workflow.activation = 60
    result = change(wait_for_completion=False)
    assert (result["is_deployed"], result["version"]) == (True, 1)
    assert looks(emulator) == 0


def test_failed_deployment_fails_the_task_with_sim_s_message(change, workflow):
    change()
    workflow.activation_error = "a webhook could not be registered"
    with pytest.raises(
        SimDeploymentError, match=r"of version 2 of .* failed: 'a webhook could not .*Version 1 is live"
    ):
        change()


def test_deployment_that_times_out_fails_the_task(change, workflow):
    workflow.activation = 60
    with pytest.raises(SimDeploymentError, match=r"did not finish within the timeout.*No version is live"):
        change(timeout=0.05)


def test_undeploy_removes_the_live_version(change, workflow):
    change()
    assert change(action="undeploy") == {
        "workflow_id": "undeployed",
        "is_deployed": False,
        "version": None,
        "deployed_at": None,
    }
    assert not workflow.deployed


@pytest.mark.parametrize(("version", "live"), [(None, 2), ("1", 1), (2, 2)])
def test_rollback_activates_the_chosen_or_previous_version(change, workflow, version, live):
    for _ in range(3):
        change()
    assert change(action="rollback", version=version)["version"] == live
    assert workflow.version == live
    assert change()["version"] == 4


def test_rollback_to_an_unknown_version_fails(change):
    with pytest.raises(SimNotFoundError, match="version"):
        change(action="rollback", version=7)


def test_workspace_key_lacks_permission(change, connection, emulator, workflow):
    connection(password=emulator.workspace_key)
    for action in ("deploy", "undeploy", "rollback"):
        with pytest.raises(SimPermissionError, match="a workspace key may not do this; put a personal key"):
            change(action=action)
    assert not workflow.deployed


def test_server_without_v2_is_unsupported(change, connection):
    connection(extra={"api_version": "legacy"})
    with pytest.raises(SimUnsupportedError, match=r"Could not deploy workflow .* this requires Sim's v2 API"):
        change()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"action": "promote"}, "it can be deploy, undeploy, rollback"),
        ({"version": 3}, "requires action='rollback'"),
        ({"action": "rollback", "version": "latest"}, "must be the number"),
        ({"action": "undeploy", "version_name": "x"}, "require action='deploy'"),
        ({"poll_interval": 0}, "above 0"),
        ({"workflow_id": ""}, "workflow"),
    ],
)
def test_invalid_arguments_are_rejected_before_any_request(change, emulator, arguments, says):
    with pytest.raises(SimInputError, match=says):
        change(**arguments)
    assert not emulator.requests


def test_async_client_deploys_rolls_back_and_undeploys(emulator):
    async def talk():
        async with AsyncSimClient(emulator.api_key, base_url=emulator.url) as client:
            await client.deploy_workflow("undeployed", name="a")
            second = await client.deploy_workflow("undeployed")
            first = await client.rollback_workflow("undeployed")
            live = await client.get_deployment("undeployed")
            gone = await client.undeploy_workflow("undeployed")
            return second.version, first.version, live.version, gone.is_deployed

    assert asyncio.run(talk()) == (2, 1, 1, False)
