"""Exceptions of this provider, to be raised by Airflow tasks as they are.

Every error is an ``AirflowException``, so ``soft_fail``, ``never_fail`` and callbacks treat it as one. Non-retryable
errors are ``AirflowFailException`` as well: Airflow then fails the task without further retries.

A message states what happened, to which workflow and run, and what to do next. No message contains the API key.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import ClassVar

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
    :param code: class of the error; the code of Sim's SDKs if they have one.
    :param detail_code: Sim's own, more specific code, such as ``EXECUTION_CONCURRENCY_LIMIT``.
    :param status: HTTP status of the response, if there was one.
    :param request_id: Sim's ``x-request-id``, for its support.
    :param retry_after: seconds to wait by the server's ``Retry-After``.
    :param default_wait: seconds to wait before the first retry if ``retry_after`` is None.
    :param workflow_id: the affected workflow.
    :param run_id: the affected run.
    :param outcome: effect on the server.
    :param run_id_spent: a further attempt needs another run ID.
    :param max_retries: upper limit of retries of the same request; default: unlimited for retryable errors, 0 for
        others.
    """

    default_code: ClassVar[str] = "SIM_ERROR"
    default_outcome: ClassVar[Outcome] = Outcome.UNKNOWN
    is_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail_code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        default_wait: float = 0.0,
        workflow_id: str | None = None,
        run_id: str | None = None,
        outcome: Outcome | None = None,
        run_id_spent: bool = False,
        max_retries: float | None = None,
    ) -> None:
        super().__init__(printable(message))
        self.code = code or self.default_code
        self.detail_code = detail_code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.default_wait = default_wait
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.outcome = outcome or self.default_outcome
        self.run_id_spent = run_id_spent
        self.max_retries = (inf if self.is_retryable else 0) if max_retries is None else max_retries


class SimPermanentError(SimError, AirflowFailException):
    """Base of non-retryable errors: someone has to change something first."""


class SimConfigurationError(SimPermanentError):
    """The connection or the client's settings are invalid; no request was sent."""

    default_code = "CONFIGURATION_ERROR"
    default_outcome = Outcome.NEVER_SENT


class SimInputError(SimPermanentError):
    """The arguments or the workflow's input are invalid, by this package's checks or by Sim's."""

    default_code = "INVALID_INPUT"


class SimAuthenticationError(SimPermanentError):
    """Sim doesn't accept the API key."""

    default_code = "UNAUTHORIZED"


class SimPermissionError(SimPermanentError):
    """The API key is valid but lacks the permission."""

    default_code = "FORBIDDEN"


class SimWorkflowNotDeployedError(SimPermanentError):
    """The workflow exists but has no live deployment."""

    default_code = "WORKFLOW_NOT_DEPLOYED"


class SimUsageLimitError(SimPermanentError):
    """The usage limit or the credits of the workspace's payer are used up."""

    default_code = "USAGE_LIMIT_EXCEEDED"


class SimNotFoundError(SimPermanentError):
    """The resource doesn't exist, or the key may not see it (Sim distinguishes the two only in part)."""

    default_code = "NOT_FOUND"


class SimRunNotFoundError(SimNotFoundError):
    """The run doesn't exist; temporary right after an async start."""

    default_code = "RUN_NOT_FOUND"


class SimUnsupportedError(SimPermanentError):
    """The server doesn't support the request: it is too old, or its v2 API is switched off."""

    default_code = "UNSUPPORTED"


class SimRouteMissingError(SimUnsupportedError):
    """No API at this path: the server is too old, the path prefix is wrong, or it is not a Sim server."""

    default_code = "ROUTE_MISSING"


class SimV2OffError(SimUnsupportedError):
    """The server's ``/api/v2`` is switched off, which is the default of self-hosted servers."""

    default_code = "V2_OFF"


class SimRedirectError(SimPermanentError):
    """The server sent a redirect, which is never followed: it would lose the body and pass on the key."""

    default_code = "REDIRECT"


class SimConflictError(SimError):
    """The request conflicts with the current state, such as a resumed pause or a finished run."""

    default_code = "CONFLICT"


class SimRunIdConflictError(SimConflictError):
    """The run ID was used before; no run was started."""

    default_code = "RUN_ID_CONFLICT"


class SimPauseAnsweredError(SimConflictError, SimPermanentError):
    """The run has no open pause: it was answered by another person, or the run has finished."""

    default_code = "PAUSE_ANSWERED"
    default_outcome = Outcome.REFUSED


class SimRateLimitError(SimError):
    """Rate-limited: too many requests or concurrent runs; ``detail_code`` names the limit."""

    default_code = "RATE_LIMIT_EXCEEDED"
    is_retryable = True


class SimServerError(SimError):
    """Sim, or a proxy between this machine and Sim, failed."""

    default_code = "SERVER_ERROR"
    is_retryable = True


class SimResponseError(SimError):
    """The response can't be read: not JSON, truncated, or not from Sim."""

    default_code = "INVALID_JSON"
    is_retryable = True


class SimConnectionError(SimError):
    """The server can't be reached, or the connection broke."""

    default_code = "CONNECTION_ERROR"
    is_retryable = True


class SimTimeoutError(SimConnectionError):
    """The request timed out."""

    default_code = "TIMEOUT"


class SimStreamError(SimError):
    """A stream broke or is unreadable; its run was started."""

    default_code = "STREAM_ERROR"


class SimOutputError(SimPermanentError):
    """The run completed, but its output can't be returned: it is too large, or one of its files can't be saved."""

    default_code = "OUTPUT_ERROR"


class SimDeploymentError(SimError):
    """Sim accepted a deployment but hasn't made it live."""

    default_code = "DEPLOYMENT_ERROR"


class SimRunError(SimError):
    """Base of errors of runs that did not complete."""

    default_code = "EXECUTION_ERROR"


class SimRunFailedError(SimRunError):
    """The run failed; the message contains Sim's own."""


class SimRunCancelledError(SimRunError):
    """The run was cancelled, by anyone."""

    default_code = "RUN_CANCELLED"


class SimRunPausedError(SimRunError):
    """The run waits for a person, and ``on_paused`` is not ``wait``."""

    default_code = "RUN_PAUSED"


class SimBatchError(SimRunError):
    """Some runs of a batch did not complete; the message names them and where the other outputs are."""

    default_code = "BATCH_FAILED"


class SimRunTimeoutError(SimRunError):
    """The run did not finish within the task's timeout. It may still be running."""

    default_code = "TIMEOUT"
