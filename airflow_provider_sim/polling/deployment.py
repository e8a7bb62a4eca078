"""Waiting for a deployment, which Sim makes live in the background."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_sim.exceptions import Outcome, SimDeploymentError

if TYPE_CHECKING:
    from airflow_provider_sim.client import Deployment, SimClient

log = logging.getLogger(__name__)


def wait_for_deployment(
    client: SimClient,
    deployment: Deployment,
    *,
    poll_interval: float,
    deadline: float,
    sleep: Callable[[float], None] | None = None,
) -> Deployment:
    """Look at a workflow's deployment until what was asked for is live.

    :param deployment: the answer to the deploying or rolling back.
    :param poll_interval: seconds between looks.
    :param deadline: seconds since the epoch.
    :raises SimDeploymentError: Sim couldn't make it live, or hasn't by the deadline.
    """
    while not is_live(deployment):
        left = deadline - time.time()
        if left <= 0:
            raise _error(
                deployment,
                f"isn't live yet: Sim says {_word(deployment)!r}. It may become live later; its state is on the"
                " workflow's page in Sim. Raise timeout, or set wait_for_completion to False",
            )
        log.info("Workflow %s: the deployment is %s.", deployment.workflow_id, _word(deployment))
        (sleep or time.sleep)(min(poll_interval, left))
        deployment = client.get_deployment(deployment.workflow_id)
    return deployment


def is_live(deployment: Deployment) -> bool:
    """Whether the last version that was asked for is live.

    :raises SimDeploymentError: it won't be.
    """
    attempt = deployment.latest_attempt
    if attempt is not None and attempt.has_failed:
        raise _error(deployment, f"failed: Sim says {attempt.error or attempt.status!r}", outcome=Outcome.REFUSED)
    if attempt is None:
        return deployment.is_deployed
    return deployment.is_deployed and attempt.is_active and attempt.version == deployment.version


def _word(deployment: Deployment) -> str:
    attempt = deployment.latest_attempt
    return "not deployed" if attempt is None or attempt.status is None else attempt.status


def _error(deployment: Deployment, what: str, *, outcome: Outcome = Outcome.UNKNOWN) -> SimDeploymentError:
    attempt = deployment.latest_attempt
    version = f" of version {attempt.version}" if attempt and attempt.version is not None else ""
    live = f"Version {deployment.version} is live" if deployment.version is not None else "No version is live"
    return SimDeploymentError(
        f"The deployment{version} of workflow {deployment.workflow_id!r} {what}. {live}.",
        workflow_id=deployment.workflow_id,
        outcome=outcome,
    )
