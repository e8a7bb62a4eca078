"""Everything that can go wrong with Sim, as exceptions that an Airflow task may raise as they are.

Every error is an ``AirflowException``, so that ``soft_fail``, ``never_fail`` and callbacks treat it as one. Errors that
no retry can mend are ``AirflowFailException`` as well: Airflow then fails the task without using up its retries.

A message says what happened, to which workflow and run, and what to do next. No message ever holds the API key.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import ClassVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_sim.json_values import printable


class Outcome(StrEnum):
    """What is known of a request's effect on the server when it ended in an error.

    ``NEVER_SENT``: the server has seen nothing of it. ``REFUSED``: the server has answered that it did nothing.
    ``UNKNOWN``: it may or may not have been carried out. ``RAN``: the workflow was started.
    """

    NEVER_SENT = "never sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    RAN = "ran"


class SimError(AirflowException):
    """Base of all errors of this provider.

    :param message: what happened and what to do next, for the DAG author.
    :param code: the error's class in one word; the names of Sim's SDKs where they have one.
    :param detail_code: Sim's own finer code, such as ``EXECUTION_CONCURRENCY_LIMIT``.
    :param status: HTTP status of the answer, if there was one.
    :param request_id: Sim's ``x-request-id``, for its support.
    :param retry_after: seconds that Sim asked to wait.
    :param usual_wait: seconds worth waiting at first where Sim doesn't say.
    :param workflow_id: the workflow concerned.
    :param run_id: the run concerned.
    :param outcome: what the server has done.
    :param run_id_spent: the run id sent can't be used for another attempt.
    :param worth_repeating: how often the same request is worth sending again; default: as often as the policy allows
        for errors that pass by themselves, never for others.
    """

    default_code: ClassVar[str] = "SIM_ERROR"
    default_outcome: ClassVar[Outcome] = Outcome.UNKNOWN
    passes_by_itself: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail_code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        usual_wait: float = 0.0,
        workflow_id: str | None = None,
        run_id: str | None = None,
        outcome: Outcome | None = None,
        run_id_spent: bool = False,
        worth_repeating: float | None = None,
    ) -> None:
        super().__init__(printable(message))
        self.code = code or self.default_code
        self.detail_code = detail_code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.usual_wait = usual_wait
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.outcome = outcome or self.default_outcome
        self.run_id_spent = run_id_spent
        self.worth_repeating = (inf if self.passes_by_itself else 0) if worth_repeating is None else worth_repeating


class SimPermanentError(SimError, AirflowFailException):
    """What no retry can mend: someone has to change something first."""


class SimConfigurationError(SimPermanentError):
    """The connection or the client's settings can't work; nothing was sent."""

    default_code = "CONFIGURATION_ERROR"
    default_outcome = Outcome.NEVER_SENT


class SimInputError(SimPermanentError):
    """The arguments or the workflow's input can't work, by our own check or by Sim's."""

    default_code = "INVALID_INPUT"


class SimAuthenticationError(SimPermanentError):
    """Sim doesn't accept the API key."""

    default_code = "UNAUTHORIZED"


class SimPermissionError(SimPermanentError):
    """The API key is good but may not do this."""

    default_code = "FORBIDDEN"


class SimWorkflowNotDeployedError(SimPermanentError):
    """The workflow exists but has no live deployment."""

    default_code = "WORKFLOW_NOT_DEPLOYED"


class SimUsageLimitError(SimPermanentError):
    """The workspace's money or credits are used up."""

    default_code = "USAGE_LIMIT_EXCEEDED"


class SimNotFoundError(SimPermanentError):
    """What was asked for doesn't exist, or the key may not see it (Sim tells the two apart only partly)."""

    default_code = "NOT_FOUND"


class SimRunNotFoundError(SimNotFoundError):
    """No such run. Right after an asynchronous start this can pass by itself."""

    default_code = "RUN_NOT_FOUND"


class SimUnsupportedError(SimPermanentError):
    """The server can't do what was asked: too old, or its v2 API is switched off."""

    default_code = "UNSUPPORTED"


class SimRouteMissingError(SimUnsupportedError):
    """Nothing answers at this path: a server too old for it, a wrong path prefix, or no Sim server at all."""

    default_code = "ROUTE_MISSING"


class SimV2OffError(SimUnsupportedError):
    """The server's ``/api/v2`` is switched off, as it is by default on self-hosted servers."""

    default_code = "V2_OFF"


class SimRedirectError(SimPermanentError):
    """The server answered with a redirect, which is never followed: it would lose the body and hand on the key."""

    default_code = "REDIRECT"


class SimConflictError(SimError):
    """The request doesn't fit the present state: run id already used, pause already resumed, run already over."""

    default_code = "CONFLICT"


class SimRunIdConflictError(SimConflictError):
    """The run id was used before; nothing new was started."""

    default_code = "RUN_ID_CONFLICT"


class SimPauseAnsweredError(SimConflictError, SimPermanentError):
    """There is no pause to answer: somebody else has answered it, or the run is over."""

    default_code = "PAUSE_ANSWERED"
    default_outcome = Outcome.REFUSED


class SimRateLimitError(SimError):
    """Too many requests or too many runs at once; ``detail_code`` says which limit."""

    default_code = "RATE_LIMIT_EXCEEDED"
    passes_by_itself = True


class SimServerError(SimError):
    """Sim, or a proxy before it, failed."""

    default_code = "SERVER_ERROR"
    passes_by_itself = True


class SimResponseError(SimError):
    """The answer can't be read: no JSON, cut short, or not Sim's at all."""

    default_code = "INVALID_JSON"
    passes_by_itself = True


class SimConnectionError(SimError):
    """The server can't be reached, or the connection broke."""

    default_code = "CONNECTION_ERROR"
    passes_by_itself = True


class SimTimeoutError(SimConnectionError):
    """No answer within the request's timeout."""

    default_code = "TIMEOUT"


class SimStreamError(SimError):
    """A stream broke off or held what can't be read; its run was started."""

    default_code = "STREAM_ERROR"


class SimOutputError(SimPermanentError):
    """The run completed, but its output can't become the task's: too large, or a file of it can't be saved."""

    default_code = "OUTPUT_ERROR"


class SimDeploymentError(SimError):
    """Sim took a deployment, and hasn't made it live."""

    default_code = "DEPLOYMENT_ERROR"


class SimRunError(SimError):
    """A run didn't come to a good end."""

    default_code = "EXECUTION_ERROR"


class SimRunFailedError(SimRunError):
    """The workflow ran and failed; the message is Sim's own."""


class SimRunCancelledError(SimRunError):
    """The run was cancelled, by whomever."""

    default_code = "RUN_CANCELLED"


class SimRunPausedError(SimRunError):
    """The run waits for a person and ``on_paused`` says not to wait with it."""

    default_code = "RUN_PAUSED"


class SimBatchError(SimRunError):
    """Some runs of a batch didn't come to a good end; the message says which, and where the others' outputs are."""

    default_code = "BATCH_FAILED"


class SimRunTimeoutError(SimRunError):
    """The run didn't end before our own deadline. It may still be going on."""

    default_code = "TIMEOUT"
