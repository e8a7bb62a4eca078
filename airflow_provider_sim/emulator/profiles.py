"""What a server of an older version can't do, or does otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """A server version, as far as a client can tell.

    :param v2: whether the version has ``/api/v2`` at all; ``v2_on`` whether it is switched on.
    :param receipt: the shape of an asynchronous start's answer: ``taskId``, ``jobId``, ``executionId``; None ignores
        the wish for one and runs the workflow while the caller waits.
    :param job: the shape of ``/api/jobs``: ``early`` (queued, with times), ``bullmq`` (more states), ``raw``.
    :param run_ids: whether the caller may choose a run's id.
    :param executions: whether runs have a status route of their own.
    :param cancel: whether runs can be cancelled.
    :param stream: whether the body field ``stream`` is known.
    :param error_codes: whether refusals carry a code.
    """

    name: str
    v2: bool = True
    v2_on: bool = True
    receipt: str | None = "executionId"
    job: str = "raw"
    run_ids: bool = True
    executions: bool = True
    cancel: bool = True
    stream: bool = True
    error_codes: bool = False


def _before_v2(name: str, *, receipt: str | None = "executionId", job: str = "raw", **others: bool) -> Profile:
    """A server before v0.6.81, which knows neither v2 nor a run's own status route."""
    return Profile(name, receipt=receipt, job=job, v2=False, v2_on=False, run_ids=False, executions=False, **others)


PROFILES = {
    profile.name: profile
    for profile in (
        _before_v2("v0.3.10", receipt="taskId", job="early", cancel=False, stream=False, error_codes=True),
        _before_v2("v0.5.0", receipt=None, job="early", cancel=False),
        _before_v2("v0.5.16", receipt="jobId", job="early", cancel=False),
        _before_v2("v0.6.15", job="bullmq"),
        _before_v2("v0.6.40"),
        Profile("v0.8-legacy", v2_on=False),
        Profile("v0.8"),
    )
}
"""By name; ``v0.8-legacy`` is today's server as it comes: with v2 switched off."""


def profile_named(name: str) -> Profile:
    """Look a profile up.

    :raises ValueError: there is none of this name; the message lists them.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise ValueError(f"there is no profile {name!r}; there are {', '.join(PROFILES)}") from None
