"""Waiting for a deployment, without a server and without waiting."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from airflow_provider_sim.client.models import Deployment, DeploymentAttempt
from airflow_provider_sim.exceptions import Outcome, SimDeploymentError
from airflow_provider_sim.polling import deployment as waiting
from airflow_provider_sim.polling.deployment import is_live, wait_for_deployment


def deployed(version: int | None, attempt: int | None = None, status: str | None = None, error: str | None = None):
    """What a server says of workflow ``w``.

    :param version: the live one.
    :param attempt: the one that was asked for.
    """
    tried = DeploymentAttempt(attempt_id="a", version=attempt, status=status, error=error)
    return Deployment(
        workflow_id="w",
        is_deployed=version is not None,
        version=version,
        latest_attempt=None if (attempt, status, error) == (None, None, None) else tried,
    )


class Looks:
    """A client whose looks at the deployment go as written down; the last one repeats."""

    def __init__(self, *looks: Deployment) -> None:
        self._looks = list(looks)
        self.asked: list[str] = []

    def get_deployment(self, workflow_id: str) -> Deployment:
        self.asked.append(workflow_id)
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """The sleeps, which take no time but move the clock on; it begins at 1000."""
    sleeps: list[float] = []
    monkeypatch.setattr(waiting, "time", SimpleNamespace(time=lambda: 1000 + sum(sleeps), sleep=sleeps.append))
    return sleeps


@pytest.mark.parametrize(
    ("told", "live"),
    [
        pytest.param(deployed(3), True, id="live, and nothing was tried"),
        pytest.param(deployed(None), False, id="nothing is live, and nothing was tried"),
        pytest.param(deployed(3, 3, "active"), True, id="what was tried is live"),
        pytest.param(deployed(2, 3, "active"), False, id="another version is"),
        pytest.param(deployed(3, 3, "activating"), False, id="not yet"),
        pytest.param(deployed(None, 3, "active"), False, id="not told to be deployed"),
    ],
)
def test_what_is_live(told, live):
    assert is_live(told) is live


def test_it_is_looked_at_until_it_is_live_and_not_beyond_the_deadline(slept, caplog):
    caplog.set_level(logging.INFO, waiting.__name__)
    client = Looks(deployed(2, 3, "preparing"), deployed(2, 3), deployed(3, 3, "active"))
    found = wait_for_deployment(client, deployed(2, 3, "queued"), poll_interval=10, deadline=1025)
    assert found == deployed(3, 3, "active")
    assert (slept, client.asked) == ([10, 10, 5], ["w"] * 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"Workflow w: the deployment is {word}." for word in ("queued", "preparing", "not deployed")
    ]


def test_what_is_live_already_is_not_asked_for(slept):
    client = Looks(deployed(3))
    assert wait_for_deployment(client, deployed(3), poll_interval=10, deadline=0) == deployed(3)
    assert (slept, client.asked) == ([], [])


def test_a_sleep_of_one_s_own(slept):
    own: list[float] = []
    wait_for_deployment(Looks(deployed(3)), deployed(None), poll_interval=10, deadline=1100, sleep=own.append)
    assert (own, slept) == ([10], [])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            deployed(2, 3, "preparing"),
            "The deployment of version 3 of workflow 'w' isn't live yet: Sim says 'preparing'. It may become live"
            " later; its state is on the workflow's page in Sim. Raise timeout, or set wait_for_completion to False."
            " Version 2 is live.",
        ),
        (
            deployed(None),
            "The deployment of workflow 'w' isn't live yet: Sim says 'not deployed'. It may become live later; its"
            " state is on the workflow's page in Sim. Raise timeout, or set wait_for_completion to False. No version is"
            " live.",
        ),
    ],
)
def test_the_deadline(slept, told, message):
    with pytest.raises(SimDeploymentError) as caught:
        wait_for_deployment(Looks(told), told, poll_interval=10, deadline=1010)
    assert str(caught.value) == message
    assert (caught.value.workflow_id, caught.value.outcome, slept) == ("w", Outcome.UNKNOWN, [10])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (deployed(2, 3, "failed"), "The deployment of version 3 of workflow 'w' failed: Sim says 'failed'. Version 2"),
        (
            deployed(2, 3, "active", "no"),
            "The deployment of version 3 of workflow 'w' failed: Sim says 'no'. Version 2",
        ),
        (deployed(2, None, "ERROR"), "The deployment of workflow 'w' failed: Sim says 'ERROR'. Version 2"),
        (deployed(2, 3, "cancelled"), "The deployment of version 3 of workflow 'w' failed: Sim says 'cancelled'."),
    ],
)
def test_a_failure_is_told_at_once(slept, told, message):
    with pytest.raises(SimDeploymentError) as caught:
        wait_for_deployment(Looks(told), told, poll_interval=10, deadline=1100)
    assert str(caught.value).startswith(message)
    assert (caught.value.outcome, slept) == (Outcome.REFUSED, [])
