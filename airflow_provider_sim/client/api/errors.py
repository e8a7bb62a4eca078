"""Sim's error answers, of either dialect, as errors that tell a DAG author what to do."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from airflow_provider_sim.client.api.http import (
    Request,
    Response,
    error_of,
    is_html,
    retry_after,
)
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
    """What an error body says, whatever its dialect.

    :param message: Sim's sentence.
    :param detail_code: its machine-readable reason, if any.
    :param issues: further sentences, one for each part of the request that was wrong.
    :param wait: seconds that it asks to wait, where no header does.
    """

    message: str
    detail_code: str | None = None
    issues: tuple[str, ...] = ()
    wait: float | None = None

    @property
    def quoted(self) -> str:
        """Everything it says, as Sim's words."""
        words = self.message.rstrip(".") + (f" ({'; '.join(self.issues)})" if self.issues else "")
        return f"Sim says {words[:2000]!r}"


AMBIGUOUS_ENQUEUE = "ASYNC_ENQUEUE_AMBIGUOUS"
CONCURRENCY_LIMIT = "EXECUTION_CONCURRENCY_LIMIT"
"""The plan's number of runs at once is used up."""
EXECUTION_LIMIT = "RATE_LIMIT_EXCEEDED"
"""The plan's executions a minute are used up."""
_RUN_ID_CONFLICTS = ("RUN_ID_CONFLICT", "EXECUTION_ID_CONFLICT")
_SURELY_NOT_QUEUED = "Failed to queue async execution"

_TRACES = (
    "Account suspended",
    _SURELY_NOT_QUEUED,
    "File processing failed",
    "Rate limit exceeded",
    "Too many concurrent executions",
    "Usage limit exceeded",
)
"""How the errors of those failed runs begin that only say that an execution was refused; nothing ran."""

_SEND_AN_ADDRESS = "Put the data where the workflow can fetch it, and send its address"
_TOO_LARGE = f"the request is larger than Sim takes (10 MiB). {_SEND_AN_ADDRESS}"
_ADVICE_403 = {
    "PERSONAL_API_KEYS_DISABLED": "this workspace takes no personal API keys; put a workspace key into the connection",
    "WORKSPACE_KEY_OPERATION_NOT_PERMITTED": "a workspace key may not do this; put a personal key into the connection",
    "INSUFFICIENT_WORKSPACE_ROLE": "the key's owner needs a higher role in the workspace",
}
_ADVICE_429 = {
    CONCURRENCY_LIMIT: "the plan's number of runs at once is used up; wait for runs to end, or lower the"
    " task's max_active_tis_per_dag or its pool",
    EXECUTION_LIMIT: "the plan's executions per minute are used up; start fewer at once (pool,"
    " max_active_tis_per_dag) or raise the plan",
    "ADMISSION_GATE_CAPACITY": "the server has as much to do as it can; try again later, or start fewer at once",
}
_USUAL_WAIT_429 = {
    CONCURRENCY_LIMIT: 5.0,
    EXECUTION_LIMIT: 20.0,
    "ADMISSION_GATE_CAPACITY": 5.0,
}
"""Seconds. The legacy API mostly doesn't say how long to wait; it fills the bucket of executions once a minute, which
three repetitions then outlast."""
_TOO_MANY_REQUESTS = (
    "too many requests with this key or from this address; ask less often (poll_interval, poke_interval), or run fewer"
    " tasks at once"
)


def is_rejection(run: WorkflowRun) -> bool:
    """Whether a failed run is only the trace that a refused execution has left, with the run id used up."""
    return run.status is RunStatus.FAILED and run.error is not None and run.error.message.startswith(_TRACES)


def error_from_body(request: Request, response: Response, refusal: ErrorBody) -> SimError:
    """Turn an error answer into the error to raise; ``docs/errors.md`` lists them all."""
    detail, message = refusal.detail_code, refusal.message
    wait = retry_after(response)
    wait = refusal.wait if wait is None else wait

    def error(kind: type[SimError], advice: str, **facts: Any) -> SimError:
        facts.setdefault("outcome", Outcome.REFUSED)
        facts.setdefault("detail_code", detail)
        asked = f", and asks to wait {math.ceil(wait)} s" if wait else ""
        return error_of(kind, request, response, f"{advice}. {refusal.quoted}{asked}", retry_after=wait, **facts)

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
                detail or "", "the key may not do this: it may be another workspace's, or its owner's role too low"
            )
            return error(SimPermissionError, advice)
        case 404 if message in ("Run not found", "Execution not found", "Task not found"):
            return error(
                SimRunNotFoundError,
                "there is no such run of this workflow, the key may not see it, or it is too old and was cleaned up."
                " Compare the ids with the run's in Sim's logs",
            )
        case 404:
            return error(
                SimNotFoundError,
                "it doesn't exist, or the key belongs to another workspace. Compare the ids with the address of the"
                " page in Sim",
                code="WORKFLOW_NOT_FOUND" if message == "Workflow not found" else None,
            )
        case 405:
            return error(SimUnsupportedError, "the server doesn't take this kind of request; it may be too old for it")
        case 409 if detail in _RUN_ID_CONFLICTS:
            return error(
                SimRunIdConflictError,
                f"the run id {request.run_id!r} was used before; nothing new was started. Look at that run, or choose"
                " another id",
                run_id_spent=True,
            )
        case 409 | 423:
            return error(
                SimConflictError,
                "it doesn't fit what has become of the run; look at it in Sim: it may be over, or answered already",
            )
        case 413:
            return error(SimInputError, _TOO_LARGE, code="PAYLOAD_TOO_LARGE")
        case 429:
            return error(
                SimRateLimitError,
                _ADVICE_429.get(_limit(refusal), _TOO_MANY_REQUESTS),
                usual_wait=_USUAL_WAIT_429.get(_limit(refusal), 0.0),
                run_id_spent=detail in (CONCURRENCY_LIMIT, EXECUTION_LIMIT),
            )
        case 503 if detail == AMBIGUOUS_ENQUEUE:
            return error(
                SimServerError,
                "Sim can't say whether it has queued the run",
                code=AMBIGUOUS_ENQUEUE,
                outcome=Outcome.UNKNOWN,
            )
        case 503:
            advice = "Sim can't take it at the moment, and has done nothing; try again later"
            return error(SimServerError, advice, code="SERVICE_UNAVAILABLE")
        case 500 if message == _SURELY_NOT_QUEUED:
            return error(SimServerError, "Sim couldn't queue the run, and has started nothing; try again later")
        case status if status >= 499:
            return error(
                SimServerError,
                "Sim failed to handle it; its own log may say why",
                outcome=Outcome.REFUSED if request.repeatable else Outcome.UNKNOWN,
            )
        case _:
            return error(
                SimInputError,
                "Sim refuses the request as it is; correct the task's input or arguments",
                run_id_spent=message.startswith("File processing failed"),
            )


def _limit(refusal: ErrorBody) -> str:
    """Which limit was reached; v2 tells a full server by its sentence alone."""
    return (
        "ADMISSION_GATE_CAPACITY" if refusal.message.startswith("Server is at capacity") else refusal.detail_code or ""
    )


def unreadable_error(request: Request, response: Response) -> SimError:
    """The error for an error answer that isn't in Sim's own form: a proxy's, an old server's, another site's."""
    status, page = response.status, "a web page" if is_html(response) else "none of Sim's API"
    if status in (404, 405):
        return error_of(
            SimRouteMissingError,
            request,
            response,
            f"nothing of Sim answers at {request.path.split('?')[0]}: the base URL may name another site or lack its"
            " path prefix, or the server is too old for this",
            outcome=Outcome.REFUSED,
        )
    if status == 429:
        return error_of(
            SimRateLimitError,
            request,
            response,
            "a proxy before Sim takes no more requests at the moment; ask less often, or run fewer tasks at once",
            outcome=Outcome.REFUSED,
        )
    if status == 413:
        what = f"a proxy before Sim takes no request of {len(request.body or b'') / 2**20:.1f} MiB. {_SEND_AN_ADDRESS}"
        return error_of(SimInputError, request, response, what, code="PAYLOAD_TOO_LARGE", outcome=Outcome.REFUSED)
    if status >= 500:
        return error_of(
            SimServerError,
            request,
            response,
            f"the answer is {page}: Sim may be down or overloaded, or a proxy before it fails",
        )
    return error_of(
        SimResponseError,
        request,
        response,
        f"the answer is {page}: the base URL may lead to a proxy, a login page or another site",
        worth_repeating=0,
    )
