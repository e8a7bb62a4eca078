"""Requests and responses of ``/api/v2`` (Sim v0.8.0 and later, where it is switched on)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

from airflow_provider_sim.client import models
from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.errors import ErrorBody, error_from_body, unreadable_error
from airflow_provider_sim.client.api.http import (
    Call,
    Request,
    Response,
    endpoint,
    error_of,
    read_json,
)
from airflow_provider_sim.client.api.resources import (
    cancellation,
    parse_run,
    pause_in,
    resumed_status,
    run_error,
    run_status,
    workflow_of,
)
from airflow_provider_sim.client.checks import check_workflow_id
from airflow_provider_sim.exceptions import Outcome, SimError, SimResponseError, SimV2OffError

_T = TypeVar("_T")

_WORKFLOW = "v2/workflows/{workflow_id}"
_RUN = f"{_WORKFLOW}/runs/{{run_id}}"

EXECUTE_BUCKET = "workflows.execute"
RUN_BUCKET = "workflows.runs.read"
RUNS_BUCKET = "workflows.runs.list"
LOGS_BUCKET = "logs.list"
WORKFLOW_BUCKET = "workflows.read"
"""Rate buckets: each operation has one per key and one per user."""

RUNS_PAGE = 100
LOGS_PAGE = 1000
"""Maximum entries of one response."""

STARTED_BY_API = "api"
"""The trigger of runs that any API key has started."""

_MAX_NAMED_WORKFLOWS = 100
"""Per query, which has to fit into a request line."""

_BLOCKED_ACCOUNT_STATUSES = ("limit_exceeded", "billing_blocked")

LISTED_STATUSES = frozenset({models.RunStatus.RUNNING, models.RunStatus.PENDING, models.RunStatus.PAUSED})
"""Statuses of unfinished runs by which a workflow's runs can be listed; ``queued`` is not among them."""

_V2_OFF_MESSAGE = "Not found"
"""Sent by every route while v2 is off; the message for a missing workflow or run names it."""


class PageFilters(TypedDict, total=False):
    """Filters of all lists of runs. Dates are ISO 8601 with Z, or seconds since the epoch."""

    start_date: str | float | None
    end_date: str | float | None
    limit: int | None
    cursor: str | None
    order: str | None


class RunFilters(PageFilters, total=False):
    """Filters of a list of a workflow's runs."""

    status: str | None
    trigger: str | None


class LogFilters(PageFilters, total=False):
    """Filters of a list of a workspace's runs."""

    workflow_ids: Iterable[str] | None
    triggers: Iterable[str] | None


def execute(
    workflow_id: str,
    input: Any,
    *,
    run_id: str | None = None,
    async_execution: bool = False,
    run_timeout: int | None = None,
    stream: bool = False,
    selected_outputs: Sequence[str] | None = None,
) -> Call[Any]:
    """Run a workflow, and wait for its result in the same request.

    :param async_execution: queue the run and return a receipt.
    :param run_timeout: of an async run, seconds after which the server stops it.
    :param stream: receive the output as server-sent events; the call reads responses that are not a stream.
    """
    controls = {
        "async": async_execution or None,
        "executionTimeoutSeconds": run_timeout,
        "stream": stream or None,
        "selectedOutputs": list(selected_outputs or ()) or None,
    }
    content = {"input": {} if input is None else input if isinstance(input, Mapping) else {"input": input}}
    request = endpoint(
        "POST",
        f"{_WORKFLOW}/execute",
        "start {workflow}",
        workflow_id,
        content=content | {name: value for name, value in controls.items() if value is not None},
        idempotent=False,
        sync=not async_execution,
        run_id_header="X-Run-Id",
        bucket=EXECUTE_BUCKET,
    )
    read = _read_receipt if async_execution else _read_execution
    return _call(request if run_id is None else request.with_run_id(run_id), read)


def get_run(
    workflow_id: str, run_id: str, *, include_output: bool = False, selected_outputs: Sequence[str] | None = None
) -> Call[models.WorkflowRun]:
    """Get a run, however it was started.

    :param selected_outputs: block IDs, optionally with a path; block names select nothing here.
    """
    query = {"include_output": include_output, "selected_outputs": list(selected_outputs or ())}
    request = endpoint("GET", _RUN, "read {run}", workflow_id, run_id, query=query, bucket=RUN_BUCKET)
    return _call(request, lambda _, data: parse_run(data))


def list_runs(workflow_id: str, **filters: Unpack[RunFilters]) -> Call[models.Page[models.WorkflowRun]]:
    """List a workflow's runs, newest first unless ``order`` is ``asc``; queued runs are not listed."""
    subject = "list the runs of {workflow}"
    return _page_call(
        endpoint("GET", f"{_WORKFLOW}/runs", subject, workflow_id, query=filters, bucket=RUNS_BUCKET), parse_run
    )


def list_logs(workspace_id: str, **filters: Unpack[LogFilters]) -> Call[models.Page[models.WorkflowRun]]:
    """List a workspace's runs, newest first unless ``order`` is ``asc``; queued runs are not listed.

    The statuses are those of Sim's log: a run that waits for a person is ``pending``, not ``paused``.
    """
    query = {
        "workspace_id": workspace_id,
        **filters,
        "workflow_ids": list(map(check_workflow_id, filters.get("workflow_ids") or ())),
        "triggers": list(filters.get("triggers") or ()),
    }
    subject = f"list the runs of workspace {workspace_id!r}"
    return _page_call(endpoint("GET", "v2/logs", subject, query=query, bucket=LOGS_BUCKET), parse_run)


def named_workflows(workflow_ids: Iterable[str]) -> list[str] | None:
    """Return the workflow IDs to filter a log by; None, which lists all, if they don't fit into a query."""
    names = sorted(set(workflow_ids))
    return names if len(names) <= _MAX_NAMED_WORKFLOWS else None


def cancel_run(workflow_id: str, run_id: str) -> Call[models.Cancellation]:
    """Cancel a run; has no effect on a finished one."""
    request = endpoint("POST", f"{_RUN}/cancel", "cancel {run}", workflow_id, run_id, bucket="workflows.runs.cancel")
    return _call(request, cancellation)


def resume_run(workflow_id: str, run_id: str, context_id: str, input: Any) -> Call[models.RunStatus]:
    """Answer a human pause."""
    request = endpoint(
        "POST",
        f"{_RUN}/resume",
        "resume {run}",
        workflow_id,
        run_id,
        content={"contextId": context_id} | ({} if input is None else {"input": input}),
        idempotent=False,
        sync=True,
        bucket="workflows.runs.resume",
    )
    return _call(request, resumed_status)


def get_workflow(workflow_id: str) -> Call[models.Workflow]:
    """Get a workflow's name, workspace and declared inputs (those of its draft)."""
    request = endpoint("GET", _WORKFLOW, "read {workflow}", workflow_id, bucket=WORKFLOW_BUCKET)
    return _call(request, lambda _, data: workflow_of(data, workflow_id))


def get_deployment(workflow_id: str) -> Call[models.Deployment]:
    """Get a workflow's live version and its latest deployment attempt."""
    return _deployment_call("GET", "deployment", "read the deployment of", workflow_id)


def deploy(workflow_id: str, *, name: str | None = None, description: str | None = None) -> Call[models.Deployment]:
    """Create a version from a workflow's draft and deploy it.

    :param name: of the version, up to 100 characters.
    """
    given = {"name": name, "description": description}
    content = {key: value for key, value in given.items() if value is not None}
    return _deployment_call("POST", "deploy", "deploy", workflow_id, content)


def undeploy(workflow_id: str) -> Call[models.Deployment]:
    """Undeploy a workflow; has no effect if it is not deployed."""
    return _deployment_call("DELETE", "deploy", "undeploy", workflow_id)


def rollback(workflow_id: str, version: int | None = None) -> Call[models.Deployment]:
    """Deploy an earlier version.

    :param version: default: the one before the live one.
    """
    content = {} if version is None else {"version": version}
    return _deployment_call("POST", "rollback", "roll back", workflow_id, content)


def _deployment_call(
    method: str, route: str, verb: str, workflow_id: str, content: Mapping[str, Any] | None = None
) -> Call[models.Deployment]:
    operation = {"GET": "deployment.read", "DELETE": "undeploy"}.get(method, route)
    request = endpoint(
        method,
        f"{_WORKFLOW}/{route}",
        f"{verb} {{workflow}}",
        workflow_id,
        content=content,
        idempotent=content is None,
        bucket=f"workflows.{operation}",
    )
    return _call(request, _read_deployment)


def get_billing_status() -> Call[models.BillingStatus]:
    """Get plan, billing period and credits of the key's owner."""
    request = endpoint("GET", "v2/billing/status", "read the billing status", bucket="billing.status")
    return _call(request, _read_billing)


def list_workspaces() -> Call[models.Page[models.Workspace]]:
    """List the workspaces that the key can access: a workspace key only its own."""
    return _page_call(endpoint("GET", "v2/workspaces", "list the workspaces", bucket="workspaces.list"), _workspace)


# --- responses ---------------------------------------------------------------------------------------------------


def _call(request: Request, read: Callable[[Request, Any], _T]) -> Call[_T]:
    return Call(request, lambda request, response: read(request, _envelope(request, response)["data"]), _error)


def _page_call(request: Request, read_item: Callable[[Any], _T]) -> Call[models.Page[_T]]:
    def read(request: Request, response: Response) -> models.Page[_T]:
        body = _envelope(request, response)
        if not isinstance(body["data"], list):
            raise fields.MissingFieldError
        return models.Page(items=tuple(map(read_item, body["data"])), next_cursor=fields.text(body, "nextCursor"))

    return Call(request, read, _error)


def _envelope(request: Request, response: Response) -> dict[str, Any]:
    body = read_json(request, response)
    if not isinstance(body, dict) or "data" not in body:
        raise fields.MissingFieldError
    return body


def _error(request: Request, response: Response) -> SimError:
    try:
        error = fields.mapping(read_json(request, response), "error")
    except SimResponseError:
        error = {}
    message = fields.text(error, "message")
    if message is None or fields.text(error, "code") is None:
        return unreadable_error(request, response)
    if response.status == 404 and message == _V2_OFF_MESSAGE:
        return error_of(
            SimV2OffError,
            request,
            response,
            "the server's v2 API is switched off (the workflow may well exist). Set V2_API=true on the server, or"
            " api_version to auto or legacy in the connection",
            outcome=Outcome.REFUSED,
        )
    issues = tuple(
        f"{'.'.join(map(str, path))}: {text}" if (path := fields.sequence(issue, "path")) else text
        for issue in fields.sequence(error, "details")
        if (text := fields.text(issue, "message")) is not None and text != message
    )
    return error_from_body(request, response, ErrorBody(message, fields.text(error.get("details"), "code"), issues))


def _read_execution(request: Request, data: Any) -> models.WorkflowExecutionResult:
    server_status = fields.required(fields.text(data, "status"))
    status = run_status(server_status)
    return models.WorkflowExecutionResult(
        run_id=fields.required(fields.text(data, "runId")),
        workflow_id=fields.text(data, "workflowId") or request.workflow_id,
        status=status,
        server_status=server_status,
        output=data.get("output"),
        error=run_error(data["error"]) if data.get("error") else None,
        paused=pause_in(data.get("output")) if status is models.RunStatus.PAUSED else None,
        started_at=fields.text(data, "startedAt"),
        ended_at=fields.text(data, "endedAt"),
        duration_ms=fields.number(data, "durationMs"),
    )


def _read_receipt(request: Request, data: Any) -> models.AsyncExecutionResult:
    run_id = fields.required(fields.text(data, "runId"))
    return models.AsyncExecutionResult(run_id=run_id, workflow_id=request.workflow_id or "")


def _read_deployment(request: Request, data: Any) -> models.Deployment:
    attempt = fields.mapping(data, "latestDeploymentAttempt")
    error = attempt.get("error")
    return models.Deployment(
        workflow_id=fields.text(data, "id") or request.workflow_id or "",
        is_deployed=fields.required(fields.flag(data, "isDeployed")),
        version=fields.whole(fields.mapping(data, "activeDeployment"), "version"),
        deployed_at=fields.text(data, "deployedAt"),
        latest_attempt=models.DeploymentAttempt(
            version=fields.whole(attempt, "version"),
            status=fields.text(attempt, "status"),
            error=run_error(error).message if error else None,
            action=fields.text(attempt, "action"),
            requested_at=fields.text(attempt, "requestedAt"),
        )
        if attempt
        else None,
        warnings=tuple(str(warning) for warning in fields.sequence(data, "warnings")),
    )


def _read_billing(request: Request, data: Any) -> models.BillingStatus:
    period, credits = fields.mapping(data, "period"), fields.mapping(data, "credits")
    account_status = fields.required(fields.text(data, "status"))
    return models.BillingStatus(
        plan=fields.text(data, "plan"),
        account_status=account_status,
        refuses_runs=account_status in _BLOCKED_ACCOUNT_STATUSES,
        period_start=fields.text(period, "start"),
        period_end=fields.text(period, "end"),
        credits_used=fields.number(credits, "used"),
        credits_limit=fields.number(credits, "limit"),
        credits_remaining=fields.number(credits, "remaining"),
    )


def _workspace(data: Any) -> models.Workspace:
    return models.Workspace(workspace_id=fields.required(fields.text(data, "id")), name=fields.text(data, "name"))
