"""Sim's error responses, of both APIs, as errors with advice for DAG authors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from airflow_provider_sim.client.api.http import Request, Response, error_of, retry_after
from airflow_provider_sim.client.models import RunStatus, WorkflowRun
from airflow_provider_sim.exceptions import (
    Outcome,
    SimAuthenticationError,
    SimConflictError,
    SimError,
    SimInputError,
    SimNotFoundError,
    SimPermissionError,
    SimRateLimitError,
    SimResponseError,
    SimRouteMissingError,
    SimRunIdConflictError,
    SimRunNotFoundError,
    SimServerError,
    SimUnsupportedError,
    SimUsageLimitError,
    SimWorkflowNotDeployedError,
)


class ErrorBody(NamedTuple):
    """The parsed body of an error response of either API.

    :param message: Sim's sentence.
    :param detail_code: its machine-readable reason, if any.
    :param issues: further sentences, one for each invalid part of the request.
    :param wait: seconds to wait, if no header has them.
    """

    message: str
    detail_code: str | None = None
    issues: tuple[str, ...] = ()
    wait: float | None = None

    @property
    def quoted(self) -> str:
        """Sim's message and issues, as a quotation."""
        text = self.message.rstrip(".") + (f" ({'; '.join(self.issues)})" if self.issues else "")
        return f"Sim says {text[:2000]!r}"


AMBIGUOUS_ENQUEUE = "ASYNC_ENQUEUE_AMBIGUOUS"
CONCURRENCY_LIMIT = "EXECUTION_CONCURRENCY_LIMIT"
"""The plan's number of concurrent runs is reached."""
EXECUTION_LIMIT = "RATE_LIMIT_EXCEEDED"
"""The plan's executions per minute are used up."""
_RUN_ID_CONFLICTS = ("RUN_ID_CONFLICT", "EXECUTION_ID_CONFLICT")
_NOT_QUEUED = "Failed to queue async execution"

_REJECTION_PREFIXES = (
    "Account suspended",
    _NOT_QUEUED,
    "File processing failed",
    "Rate limit exceeded",
    "Too many concurrent executions",
    "Usage limit exceeded",
)
"""How the errors of failed runs start that only record a rejected execution; nothing ran."""

_SEND_A_URL = "Put the data where the workflow can fetch it, and send its URL"
_TOO_LARGE = f"the request is larger than Sim accepts (10 MiB). {_SEND_A_URL}"
_ADVICE_403 = {
    "PERSONAL_API_KEYS_DISABLED": "this workspace accepts no personal API keys; put a workspace key into the"
    " connection",
    "WORKSPACE_KEY_OPERATION_NOT_PERMITTED": "a workspace key may not do this; put a personal key into the connection",
    "INSUFFICIENT_WORKSPACE_ROLE": "the key's owner needs a higher role in the workspace",
}
_LIMITS_429 = {
    CONCURRENCY_LIMIT: (
        5.0,
        "the plan's number of concurrent runs is reached; wait for runs to finish, or lower the task's"
        " max_active_tis_per_dag or its pool",
    ),
    EXECUTION_LIMIT: (
        20.0,
        "the plan's executions per minute are used up; start fewer at once (pool, max_active_tis_per_dag) or upgrade"
        " the plan",
    ),
    "ADMISSION_GATE_CAPACITY": (5.0, "the server is at capacity; retry later, or start fewer runs at once"),
}
"""Default delay in seconds, and advice. The legacy API mostly sends no Retry-After; it refills the bucket of executions
once a minute, which three retries then outlast."""
_TOO_MANY_REQUESTS = (
    "too many requests with this key or from this address; poll less often (poll_interval, poke_interval), or run"
    " fewer tasks at once"
)


def is_rejection(run: WorkflowRun) -> bool:
    """Whether a failed run only records a rejected execution, whose run ID can't be used again."""
    if run.status is not RunStatus.FAILED or run.error is None:
        return False
    return run.error.message.startswith(_REJECTION_PREFIXES)


def error_from_body(request: Request, response: Response, body: ErrorBody) -> SimError:
    """Return the error for an error response; ``docs/errors.md`` lists them all."""
    detail, message = body.detail_code, body.message
    wait = retry_after(response)
    wait = body.wait if wait is None else wait

    def error(kind: type[SimError], advice: str, **attributes: Any) -> SimError:
        attributes.setdefault("outcome", Outcome.REFUSED)
        attributes.setdefault("detail_code", detail)
        asked = f", and asks to wait {math.ceil(wait)} s" if wait else ""
        return error_of(kind, request, response, f"{advice}. {body.quoted}{asked}", retry_after=wait, **attributes)

    match response.status:
        case 401:
            return error(
                SimAuthenticationError,
                "Sim doesn't accept the API key. Put a current key (Sim, Settings, API keys) into the connection's"
                " API key (password)",
            )
        case 402:
            return error(
                SimUsageLimitError,
                "the usage limit of the account that pays for this workspace is reached. Raise it or wait for the next"
                " billing period",
                run_id_spent=True,
            )
        case 403 if detail == "WORKFLOW_NOT_DEPLOYED" or message == "Workflow is not deployed":
            return error(
                SimWorkflowNotDeployedError,
                "the workflow has no live deployment. Open it in Sim and press Deploy",
                detail_code="WORKFLOW_NOT_DEPLOYED",
            )
        case 403:
            advice = _ADVICE_403.get(
                detail or "",
                "the key may not do this: it may belong to another workspace, or its owner's role may be too low",
            )
            return error(SimPermissionError, advice)
        case 404 if message in ("Run not found", "Execution not found", "Task not found"):
            return error(
                SimRunNotFoundError,
                "this workflow has no such run, the key may not see it, or it is too old and was deleted."
                " Compare the IDs with the run's in Sim's logs",
            )
        case 404:
            return error(
                SimNotFoundError,
                "it doesn't exist, or the key belongs to another workspace. Compare the IDs with the URL of the page"
                " in Sim",
                code="WORKFLOW_NOT_FOUND" if message == "Workflow not found" else None,
            )
        case 405:
            return error(
                SimUnsupportedError, "the server doesn't support this kind of request; it may be too old for it"
            )
        case 409 if detail in _RUN_ID_CONFLICTS:
            return error(
                SimRunIdConflictError,
                f"the run ID {request.run_id!r} was used before; no run was started. Check that run, or choose another"
                " ID",
                run_id_spent=True,
            )
        case 409 | 423:
            return error(
                SimConflictError,
                "it conflicts with the state of the run; check the run in Sim: it may have finished, or its pause may"
                " have been answered already",
            )
        case 413:
            return error(SimInputError, _TOO_LARGE, code="PAYLOAD_TOO_LARGE")
        case 429:
            # v2 reports a server at capacity by its message only.
            limit = "ADMISSION_GATE_CAPACITY" if message.startswith("Server is at capacity") else detail or ""
            default_wait, advice = _LIMITS_429.get(limit, (0.0, _TOO_MANY_REQUESTS))
            is_spent = detail in (CONCURRENCY_LIMIT, EXECUTION_LIMIT)
            return error(SimRateLimitError, advice, default_wait=default_wait, run_id_spent=is_spent)
        case 503 if detail == AMBIGUOUS_ENQUEUE:
            return error(
                SimServerError,
                "Sim doesn't know whether it has queued the run",
                code=AMBIGUOUS_ENQUEUE,
                outcome=Outcome.UNKNOWN,
            )
        case 503:
            advice = "Sim is unavailable at the moment, and has done nothing; retry later"
            return error(SimServerError, advice, code="SERVICE_UNAVAILABLE")
        case 500 if message == _NOT_QUEUED:
            return error(SimServerError, "Sim couldn't queue the run, and has started nothing; retry later")
        case status if status >= 499:
            return error(
                SimServerError,
                "Sim failed to process the request; its server log may contain the reason",
                outcome=Outcome.REFUSED if request.idempotent else Outcome.UNKNOWN,
            )
        case _:
            return error(
                SimInputError,
                "Sim rejects the request; correct the task's input or arguments",
                run_id_spent=message.startswith("File processing failed"),
            )


def unreadable_error(request: Request, response: Response) -> SimError:
    """Return the error for an error response that isn't in Sim's format: from a proxy, an old server, another site."""
    kind: type[SimError]
    what = "the response is " + ("a web page" if response.is_html else "not from Sim's API")
    attributes: dict[str, Any] = {"outcome": Outcome.REFUSED}
    match response.status:
        case 404 | 405:
            kind = SimRouteMissingError
            what = (
                f"there is no Sim API at {request.path.split('?')[0]}: the base URL may name another site or lack its"
                " path prefix, or the server is too old for this"
            )
        case 429:
            kind = SimRateLimitError
            what = (
                "a proxy between this machine and Sim limits the requests; poll less often, or run fewer tasks at once"
            )
        case 413:
            kind, attributes["code"] = SimInputError, "PAYLOAD_TOO_LARGE"
            size = len(request.body or b"") / 2**20
            what = f"a proxy between this machine and Sim rejects a request of {size:.1f} MiB. {_SEND_A_URL}"
        case status if status >= 500:
            kind, attributes = SimServerError, {}
            what += ": Sim may be down or overloaded, or a proxy may have failed"
        case _:
            kind, attributes = SimResponseError, {"max_retries": 0}
            what += ": the base URL may lead to a proxy, a login page or another site"
    return error_of(kind, request, response, what, **attributes)
