"""Polling of a deployment, without a server and without sleeping."""

from __future__ import annotations

import logging
import time

import pytest

from airflow_provider_sim.client.models import Deployment, DeploymentAttempt
from airflow_provider_sim.exceptions import Outcome, SimDeploymentError, SimServerError
from airflow_provider_sim.polling.deployment import _DeploymentPollState, wait_for_deployment


def deployed(version: int | None, attempt: int | None = None, status: str | None = None, error: str | None = None):
    """Return a deployment of workflow ``w``.

    :param version: the live version.
    :param attempt: the requested version.
    """
    tried = DeploymentAttempt(version=attempt, status=status, error=error)
    return Deployment(
        workflow_id="w",
        is_deployed=version is not None,
        version=version,
        latest_attempt=None if (attempt, status, error) == (None, None, None) else tried,
    )


class Client:
    """A client with given responses; the last one repeats."""

    def __init__(self, *responses: Deployment | Exception) -> None:
        self._responses = list(responses)
        self.requests: list[str] = []

    def get_deployment(self, workflow_id: str) -> Deployment:
        self.requests.append(workflow_id)
        response = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
        if isinstance(response, Exception):
            raise response
        return response


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """Record sleeps, which advance the clock; it starts at 1000, and delays have no jitter."""
    sleeps: list[float] = []
    monkeypatch.setattr(time, "time", lambda: 1000 + sum(sleeps))
    monkeypatch.setattr(time, "sleep", sleeps.append)
    monkeypatch.setattr("random.random", lambda: 0.0)
    return sleeps


@pytest.mark.parametrize(
    ("deployment", "live"),
    [
        pytest.param(deployed(3), True, id="live, nothing requested"),
        pytest.param(deployed(None), False, id="nothing is live, nothing requested"),
        pytest.param(deployed(3, 3, "active"), True, id="the requested version is live"),
        pytest.param(deployed(2, 3, "active"), False, id="another version is live"),
        pytest.param(deployed(3, 3, "activating"), False, id="not yet"),
        pytest.param(deployed(None, 3, "active"), False, id="not reported as deployed"),
    ],
)
def test_is_finished_by_deployment_state(deployment, live):
    assert _DeploymentPollState().is_finished(deployment) is live


def test_polls_until_live_with_last_poll_at_deadline(slept, caplog):
    caplog.set_level(logging.INFO, "airflow_provider_sim.polling.deployment")
    client = Client(deployed(2, 3, "preparing"), deployed(2, 3), deployed(3, 3, "active"))
    found = wait_for_deployment(client, deployed(2, 3, "queued"), poll_interval=10, deadline=1025)
    assert found == deployed(3, 3, "active")
    assert (slept, client.requests) == ([10, 10, 5], ["w"] * 3)
    assert "deployment of workflow w is queued" in caplog.text


def test_live_deployment_is_not_polled(slept):
    client = Client(deployed(3))
    assert wait_for_deployment(client, deployed(3), poll_interval=10, deadline=0) == deployed(3)
    assert (slept, client.requests) == ([], [])


def test_failed_poll_is_repeated(slept):
    client = Client(SimServerError("down"), deployed(3))
    assert wait_for_deployment(client, deployed(None), poll_interval=10, deadline=1100) == deployed(3)
    assert slept == [10, 10]


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        (deployed(2, 3, "preparing"), "version 3 of workflow 'w' .* 'preparing'.* Version 2 is live"),
        (deployed(None), "workflow 'w' .* 'not deployed'.* No version is live"),
    ],
)
def test_deadline_raises_a_deployment_error(slept, deployment, message):
    with pytest.raises(SimDeploymentError, match=message) as caught:
        wait_for_deployment(Client(deployment), deployment, poll_interval=10, deadline=1010)
    assert (caught.value.workflow_id, caught.value.outcome, slept) == ("w", Outcome.UNKNOWN, [10])


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        (deployed(2, 3, "failed"), "version 3 of workflow 'w' failed: 'failed'. Version 2"),
        (deployed(2, 3, "active", "no"), "version 3 of workflow 'w' failed: 'no'. Version 2"),
        (deployed(2, None, "ERROR"), "deployment of workflow 'w' failed: 'ERROR'. Version 2"),
        (deployed(2, 3, "cancelled"), "version 3 of workflow 'w' failed: 'cancelled'."),
    ],
)
def test_failed_activation_is_raised_at_once(slept, deployment, message):
    with pytest.raises(SimDeploymentError, match=message) as caught:
        wait_for_deployment(Client(deployment), deployment, poll_interval=10, deadline=1100)
    assert (caught.value.outcome, slept) == (Outcome.REFUSED, [])
