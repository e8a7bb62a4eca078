"""Exceptions of this provider, to be raised by Airflow tasks as they are.

Every error is an ``AirflowException``, so ``soft_fail``, ``never_fail`` and callbacks treat it as one. Non-retryable
errors are ``AirflowFailException`` as well: Airflow then fails the task without further retries.

A message states what happened, to which workflow and run, and what to do next. No message contains the API key.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_sim.json_values import printable


class Outcome(StrEnum):
    """Effect on the server of a request that ended in an error, as far as known.

    ``NEVER_SENT``: the server received nothing. ``REFUSED``: the server rejected the request and did nothing.
    ``UNKNOWN``: the request may have been executed. ``RAN``: the workflow was started.
    """

    NEVER_SENT = "never sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    RAN = "ran"


class SimError(AirflowException):
    """Base of all errors of this provider.

    :param message: what happened and what to do next, for the DAG author.
    :param attributes: any of the following; None is the default of the error's class.
    :ivar code: class of the error; the code of Sim's SDKs if they have one.
    :ivar detail_code: Sim's own, more specific code, such as ``EXECUTION_CONCURRENCY_LIMIT``.
    :ivar status: HTTP status of the response, if there was one.
    :ivar request_id: Sim's ``x-request-id``, for its support.
    :ivar retry_after: seconds to wait by the server's ``Retry-After``.
    :ivar default_wait: seconds to wait before the first retry if ``retry_after`` is None.
    :ivar workflow_id: the affected workflow.
    :ivar run_id: the affected run.
    :ivar outcome: effect on the server.
    :ivar run_id_spent: a further attempt needs another run ID.
    :ivar max_retries: upper limit of retries of the same request; infinite for retryable errors, 0 for others.
    """

    code = "SIM_ERROR"
    detail_code: str | None = None
    status: int | None = None
    request_id: str | None = None
    retry_after: float | None = None
    default_wait = 0.0
    workflow_id: str | None = None
    run_id: str | None = None
    outcome = Outcome.UNKNOWN
    run_id_spent = False
    max_retries: float = 0

    def __init_subclass__(cls, **defaults: Any) -> None:
        super().__init_subclass__()
        for name, value in defaults.items():
            setattr(cls, name, value)

    def __init__(self, message: str, **attributes: Any) -> None:
        super().__init__(printable(message))
        for name, value in attributes.items():
            if value is not None:
                setattr(self, name, value)


class SimPermanentError(SimError, AirflowFailException):
    """Base of non-retryable errors: someone has to change something first."""


class SimConfigurationError(SimPermanentError, code="CONFIGURATION_ERROR", outcome=Outcome.NEVER_SENT):
    """The connection or the client's settings are invalid; no request was sent."""


class SimInputError(SimPermanentError, code="INVALID_INPUT", outcome=Outcome.NEVER_SENT):
    """The arguments or the workflow's input are invalid, by this package's checks or by Sim's."""


class SimAuthenticationError(SimPermanentError, code="UNAUTHORIZED"):
    """Sim doesn't accept the API key."""


class SimPermissionError(SimPermanentError, code="FORBIDDEN"):
    """The API key is valid but lacks the permission."""


class SimWorkflowNotDeployedError(SimPermanentError, code="WORKFLOW_NOT_DEPLOYED"):
    """The workflow exists but has no live deployment."""


class SimUsageLimitError(SimPermanentError, code="USAGE_LIMIT_EXCEEDED"):
    """The usage limit or the credits of the workspace's payer are used up."""


class SimNotFoundError(SimPermanentError, code="NOT_FOUND"):
    """The resource doesn't exist, or the key may not see it (Sim distinguishes the two only in part)."""


class SimRunNotFoundError(SimNotFoundError, code="RUN_NOT_FOUND"):
    """The run doesn't exist; temporary right after an async start."""


class SimUnsupportedError(SimPermanentError, code="UNSUPPORTED"):
    """The server doesn't support the request: it is too old, or its v2 API is switched off."""


class SimRouteMissingError(SimUnsupportedError, code="ROUTE_MISSING"):
    """No API at this path: the server is too old, the path prefix is wrong, or it is not a Sim server."""


class SimV2OffError(SimUnsupportedError, code="V2_OFF"):
    """The server's ``/api/v2`` is switched off, which is the default of self-hosted servers."""


class SimRedirectError(SimPermanentError, code="REDIRECT"):
    """The server sent a redirect, which is never followed: it would lose the body and pass on the key."""


class SimConflictError(SimError, code="CONFLICT"):
    """The request conflicts with the current state, such as a resumed pause or a finished run."""


class SimRunIdConflictError(SimConflictError, code="RUN_ID_CONFLICT"):
    """The run ID was used before; no run was started."""


class SimPauseAnsweredError(SimConflictError, SimPermanentError, code="PAUSE_ANSWERED", outcome=Outcome.REFUSED):
    """The run has no open pause: it was answered by another person, or the run has finished."""


class SimRateLimitError(SimError, code="RATE_LIMIT_EXCEEDED", max_retries=inf):
    """Rate-limited: too many requests or concurrent runs; ``detail_code`` names the limit."""


class SimServerError(SimError, code="SERVER_ERROR", max_retries=inf):
    """Sim, or a proxy between this machine and Sim, failed."""


class SimResponseError(SimError, code="INVALID_JSON", max_retries=inf):
    """The response can't be read: not JSON, truncated, or not from Sim."""


class SimConnectionError(SimError, code="CONNECTION_ERROR", max_retries=inf):
    """The server can't be reached, or the connection broke."""


class SimTimeoutError(SimConnectionError, code="TIMEOUT"):
    """The request timed out."""


class SimStreamError(SimError, code="STREAM_ERROR"):
    """A stream broke or is unreadable; its run was started."""


class SimOutputError(SimPermanentError, code="OUTPUT_ERROR", outcome=Outcome.RAN):
    """The run completed, but its output can't be returned: it is too large, or a file or field can't be saved."""


class SimDeploymentError(SimError, code="DEPLOYMENT_ERROR"):
    """Sim accepted a deployment but hasn't made it live."""


class SimRunError(SimError, code="EXECUTION_ERROR"):
    """Base of errors of runs that did not complete."""


class SimRunFailedError(SimRunError):
    """The run failed; the message contains Sim's own."""


class SimRunCancelledError(SimRunError, code="RUN_CANCELLED"):
    """The run was cancelled, by anyone."""


class SimRunPausedError(SimRunError, code="RUN_PAUSED", outcome=Outcome.RAN):
    """The run waits for a person, and ``on_paused`` is not ``wait``."""


class SimBatchError(SimRunError, code="BATCH_FAILED"):
    """Some runs of a batch did not complete; the message names them and where the other outputs are."""


class SimRunTimeoutError(SimRunError, code="TIMEOUT"):
    """The run did not finish within the task's timeout. It may still be running."""
