"""Polling of a deployment, which Sim activates in the background."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from airflow_provider_sim.exceptions import Outcome, SimDeploymentError
from airflow_provider_sim.polling.poll_state import PollState, poll_until_finished

if TYPE_CHECKING:
    from airflow_provider_sim.client import Deployment, SimClient

log = logging.getLogger(__name__)


def wait_for_deployment(
    client: SimClient, deployment: Deployment, *, poll_interval: float | None, deadline: float
) -> Deployment:
    """Poll a workflow's deployment, given the response to its request, until the requested version is live.

    :raises SimDeploymentError: the activation has failed, or not finished before the deadline.
    """
    state = _DeploymentPollState(poll_interval=poll_interval, deadline=deadline)
    if state.on_response(deployment):
        return deployment
    log.info("The deployment of workflow %s is %s.", deployment.workflow_id, _status(deployment))
    time.sleep(state.next_delay())
    return poll_until_finished(lambda: client.get_deployment(deployment.workflow_id), state)


class _DeploymentPollState(PollState["Deployment"]):
    def is_finished(self, response: Deployment) -> bool:
        """Return whether the requested version is live; raise an error if its activation failed."""
        attempt = response.latest_attempt
        if attempt is None:
            return response.is_deployed
        if attempt.has_failed:
            raise _error(response, f"failed: {attempt.error or attempt.status!r}", Outcome.REFUSED)
        return response.is_deployed and attempt.is_active and attempt.version == response.version

    def timeout_error(self) -> SimDeploymentError:
        assert self.last_response is not None
        advice = "It may become live later. Raise timeout, or set wait_for_completion=False"
        problem = f"did not finish within the timeout: its status is {_status(self.last_response)!r}. {advice}"
        return _error(self.last_response, problem, Outcome.UNKNOWN)


def _status(deployment: Deployment) -> str:
    return (deployment.latest_attempt and deployment.latest_attempt.status) or "not deployed"


def _error(deployment: Deployment, problem: str, outcome: Outcome) -> SimDeploymentError:
    attempt, workflow_id = deployment.latest_attempt, deployment.workflow_id
    version = f" of version {attempt.version}" if attempt and attempt.version is not None else ""
    live = "No version" if deployment.version is None else f"Version {deployment.version}"
    message = f"The deployment{version} of workflow {workflow_id!r} {problem}. {live} is live."
    return SimDeploymentError(message, workflow_id=workflow_id, outcome=outcome)
