"""Sim's error responses, of both APIs, as errors with advice for DAG authors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from airflow_provider_sim import exceptions
from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.http import Request, Response, error_of, retry_after
from airflow_provider_sim.client.models import RunStatus, WorkflowRun

AMBIGUOUS_ENQUEUE = "ASYNC_ENQUEUE_AMBIGUOUS"
CONCURRENCY_LIMIT = "EXECUTION_CONCURRENCY_LIMIT"
EXECUTION_LIMIT = "RATE_LIMIT_EXCEEDED"
_RUN_ID_CONFLICTS = ("RUN_ID_CONFLICT", "EXECUTION_ID_CONFLICT")
_NOT_QUEUED = "Failed to queue async execution"
_STORAGE_FULL = "STORAGE_FULL"
_AT_CAPACITY = "ADMISSION_GATE_CAPACITY"

_REJECTION_PREFIXES = (
    "Account suspended",
    _NOT_QUEUED,
    "File processing failed",
    "Rate limit exceeded",
    "Too many concurrent executions",
    "Usage limit exceeded",
)
"""How the errors of failed runs start that only record a rejected execution; nothing ran."""

_A_PROXY = "a proxy between this machine and Sim"
_SEND_A_URL = "Put the data where the workflow can fetch it, and send its URL"
_ADVICE: dict[object, str] = {
    exceptions.SimAuthenticationError: "Sim doesn't accept the API key. Put a current key (Sim, Settings, API keys)"
    " into the connection's API key (password)",
    exceptions.SimUsageLimitError: "the usage limit of the account that pays for this workspace is reached. Raise it"
    " or wait for the next billing period",
    _STORAGE_FULL: "the storage of the workspace's plan is full. Delete files in Sim, or upgrade the plan",
    exceptions.SimWorkflowNotDeployedError: "the workflow has no live deployment. Open it in Sim and press Deploy",
    exceptions.SimPermissionError: "the key may not do this: it may belong to another workspace, or its owner's role"
    " may be too low",
    "PERSONAL_API_KEYS_DISABLED": "this workspace accepts no personal API keys; put a workspace key into the"
    " connection",
    "WORKSPACE_KEY_OPERATION_NOT_PERMITTED": "a workspace key may not do this; put a personal key into the connection",
    "INSUFFICIENT_WORKSPACE_ROLE": "the key's owner needs a higher role in the workspace",
    exceptions.SimRunNotFoundError: "this workflow has no such run, the key may not see it, or it is too old and was"
    " deleted. Compare the IDs with the run's in Sim's logs",
    exceptions.SimNotFoundError: "it doesn't exist, or the key belongs to another workspace. Compare the IDs with the"
    " URL of the page in Sim",
    "File not found": "the file doesn't exist, was deleted, or the key may not see it",
    "Target folder not found": "the folder doesn't exist, and an upload doesn't create it. Create it in Sim, or"
    " correct folder_path",
    "Workspace not found": "the workspace doesn't exist, or the key may not access it. Correct the workspace's ID or"
    " the connection's API key",
    exceptions.SimUnsupportedError: "the server doesn't support this kind of request; it may be too old for it",
    exceptions.SimConflictError: "it conflicts with the state of the run; check the run in Sim: it may have finished,"
    " or its pause may have been answered already",
    "File already exists": "the folder has a file of this name. Choose another name, or delete that file",
    _RUN_ID_CONFLICTS[0]: "the run ID {run_id} was used before; no run was started. Check that run, or choose another"
    " ID",
    exceptions.SimInputError: "Sim rejects the request; correct the task's input or arguments",
    "PAYLOAD_TOO_LARGE": f"the request is larger than Sim accepts (10 MiB). {_SEND_A_URL}",
    CONCURRENCY_LIMIT: "the plan's number of concurrent runs is reached; wait for runs to finish, or lower the task's"
    " max_active_tis_per_dag or its pool",
    EXECUTION_LIMIT: "the plan's executions per minute are used up; start fewer at once (pool, max_active_tis_per_dag)"
    " or upgrade the plan",
    _AT_CAPACITY: "the server is at capacity; retry later, or start fewer runs at once",
    exceptions.SimRateLimitError: "too many requests with this key or from this address; poll less often"
    " (poll_interval, poke_interval), or run fewer tasks at once",
    AMBIGUOUS_ENQUEUE: "Sim doesn't know whether it has queued the run",
    _NOT_QUEUED: "Sim couldn't queue the run, and has started nothing; retry later",
    "SERVICE_UNAVAILABLE": "Sim is unavailable at the moment, and has done nothing; retry later",
    exceptions.SimServerError: "Sim failed to process the request; its server log may contain the reason",
}
"""By Sim's code, else by the error's code, else by Sim's message, else by the error's class."""
_FILE_CODES = {"File already exists": "FILE_EXISTS", "File not found": "FILE_NOT_FOUND"}
_WAITS = {CONCURRENCY_LIMIT: 5.0, EXECUTION_LIMIT: 20.0, _AT_CAPACITY: 5.0}
"""Default delays in seconds. The legacy API mostly sends no Retry-After; it refills the bucket of executions once a
minute, which three retries then outlast."""


def is_rejection(run: WorkflowRun) -> bool:
    """Whether a failed run only records a rejected execution, whose run ID can't be used again."""
    if run.status is not RunStatus.FAILED or run.error is None:
        return False
    return run.error.message.startswith(_REJECTION_PREFIXES)


def error_from_body(
    request: Request,
    response: Response,
    message: str,
    detail: str | None,  # Sim's code of the reason
    issues: Sequence[Any],  # the invalid parts of the request
    wait: float | None = None,  # seconds, if no header has them
) -> exceptions.SimError:
    """Return the error for an error response; ``docs/reference/errors.md`` lists them all."""
    kind: type[exceptions.SimError]
    reason, more = detail, dict[str, Any]()
    match response.status:
        case 401:
            kind = exceptions.SimAuthenticationError
        case 402 | 413 if "storage" in message.lower():
            kind, reason = exceptions.SimUsageLimitError, _STORAGE_FULL
        case 402:
            kind, more = exceptions.SimUsageLimitError, {"run_id_spent": True}
        case 403 if detail == "WORKFLOW_NOT_DEPLOYED" or message == "Workflow is not deployed":
            kind, detail = exceptions.SimWorkflowNotDeployedError, "WORKFLOW_NOT_DEPLOYED"
        case 403:
            kind = exceptions.SimPermissionError
        case 404 if message in ("Run not found", "Execution not found", "Task not found"):
            kind = exceptions.SimRunNotFoundError
        case 404:
            kind = exceptions.SimNotFoundError
            more = {"code": "WORKFLOW_NOT_FOUND" if message == "Workflow not found" else _FILE_CODES.get(message)}
        case 405:
            kind = exceptions.SimUnsupportedError
        case 409 if detail in _RUN_ID_CONFLICTS:
            kind, reason, more = exceptions.SimRunIdConflictError, _RUN_ID_CONFLICTS[0], {"run_id_spent": True}
        case 409 | 423:
            kind, more = exceptions.SimConflictError, {"code": _FILE_CODES.get(message)}
        case 413:
            kind, more = exceptions.SimInputError, {"code": "PAYLOAD_TOO_LARGE"}
        case 429:
            if message.startswith("Server is at capacity"):  # v2 reports it by its message only
                reason = _AT_CAPACITY
            kind, more = exceptions.SimRateLimitError, {"default_wait": _WAITS.get(reason or "")}
            more["run_id_spent"] = detail in (CONCURRENCY_LIMIT, EXECUTION_LIMIT)
        case 503 if detail == AMBIGUOUS_ENQUEUE:
            kind, more = exceptions.SimServerError, {"code": detail, "outcome": exceptions.Outcome.UNKNOWN}
        case 503:
            kind, more = exceptions.SimServerError, {"code": "SERVICE_UNAVAILABLE"}
        case status if status >= 499:
            kind = exceptions.SimServerError
            is_refused = request.idempotent or (status == 500 and message == _NOT_QUEUED)
            more = {} if is_refused else {"outcome": exceptions.Outcome.UNKNOWN}
        case _:
            kind, more = exceptions.SimInputError, {"run_id_spent": message.startswith("File processing failed")}
    from_header = retry_after(response)
    wait = wait if from_header is None else from_header
    asked = f", and asks to wait {math.ceil(wait)} s" if wait else ""
    quoted = message.rstrip(".") + _issues(issues, message)
    advice = next(_ADVICE[key] for key in (reason, more.get("code"), message, kind) if key in _ADVICE)
    what = f"{advice.replace('{run_id}', repr(request.run_id))}. Sim says {quoted[:2000]!r}{asked}"
    more = {"outcome": exceptions.Outcome.REFUSED, "detail_code": detail, "retry_after": wait} | more
    return error_of(kind, request, response, what, **more)


def _issues(issues: Sequence[Any], message: str) -> str:
    texts = []
    for issue in issues:
        text = fields.text(issue, "message")
        path = fields.text(issue, "path") or ".".join(map(str, fields.sequence(issue, "path")))
        if text is not None and text != message:
            texts.append(f"{path}: {text}" if path else text)
    return f" ({'; '.join(texts)})" if texts else ""


def unreadable_error(request: Request, response: Response) -> exceptions.SimError:
    """Return the error for an error response that isn't in Sim's format: from a proxy, an old server, another site."""
    kind: type[exceptions.SimError]
    what = "the response is " + ("a web page" if response.is_html else "not from Sim's API")
    attributes: dict[str, Any] = {"outcome": exceptions.Outcome.REFUSED}
    match response.status:
        case 404 | 405:
            kind = exceptions.SimRouteMissingError
            what = (
                f"there is no Sim API at {request.path.split('?')[0]}: the base URL may name another site or lack its"
                " path prefix, or the server is too old for this"
            )
        case 429:
            kind = exceptions.SimRateLimitError
            what = f"{_A_PROXY} limits the requests; poll less often, or run fewer tasks at once"
        case 413:
            kind, attributes["code"] = exceptions.SimInputError, "PAYLOAD_TOO_LARGE"
            size = len(request.body or b"") / 2**20
            what = f"{_A_PROXY} rejects a request of {size:.1f} MiB. {_SEND_A_URL}"
        case status if status >= 500:
            kind, attributes = exceptions.SimServerError, {}
            what += ": Sim may be down or overloaded, or a proxy may have failed"
        case _:
            kind, attributes = exceptions.SimResponseError, {"max_retries": 0}
            what += ": the base URL may lead to a proxy, a login page or another site"
    return error_of(kind, request, response, what, **attributes)
