"""Requests and responses of ``/api/v2`` (Sim v0.8.0 and later, where it is switched on)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.errors import ErrorBody, error_from_body, unreadable_error
from airflow_provider_sim.client.api.http import (
    Call,
    Request,
    Response,
    error_of,
    json_body,
    path_of,
    read_json,
    utc,
)
from airflow_provider_sim.client.api.resources import (
    parse_run,
    pause_in,
    run_error,
    run_status,
    workflow_of,
)
from airflow_provider_sim.client.ids import check_run_id, check_workflow_id
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    BillingStatus,
    Cancellation,
    Deployment,
    DeploymentAttempt,
    Page,
    Resumption,
    RunStatus,
    Workflow,
    WorkflowExecutionResult,
    WorkflowRun,
    Workspace,
)
from airflow_provider_sim.exceptions import Outcome, SimError, SimResponseError, SimV2OffError

T = TypeVar("T")

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

LISTED_STATUSES = frozenset({RunStatus.RUNNING, RunStatus.PENDING, RunStatus.PAUSED})
"""Statuses of unfinished runs by which a workflow's runs can be listed; ``queued`` is not among them."""

_V2_OFF_MESSAGE = "Not found"
"""Sent by every route while v2 is off; the message for a missing workflow or run names it."""


class RunFilters(TypedDict, total=False):
    """Filters of a list of a workflow's runs. Dates are ISO 8601 with Z, or seconds since the epoch."""

    status: str | None
    trigger: str | None
    start_date: str | float | None
    end_date: str | float | None
    limit: int | None
    cursor: str | None
    order: str | None


class LogFilters(TypedDict, total=False):
    """Filters of a list of a workspace's runs. Dates are ISO 8601 with Z, or seconds since the epoch."""

    workflow_ids: Iterable[str] | None
    triggers: Iterable[str] | None
    level: str | None
    start_date: str | float | None
    end_date: str | float | None
    run_id: str | None
    include_output: bool
    limit: int | None
    cursor: str | None
    order: str | None


def execute(workflow_id: str, input: Any, *, run_id: str | None) -> Call[WorkflowExecutionResult]:
    """Run a workflow and wait for its result in the same request."""
    return _execute(workflow_id, input, {}, run_id, _read_execution)


def execute_async(
    workflow_id: str, input: Any, *, run_id: str | None, run_timeout: int | None
) -> Call[AsyncExecutionResult]:
    """Queue a run.

    :param run_timeout: seconds after which the server stops it.
    """
    controls: dict[str, Any] = {"async": True}
    if run_timeout is not None:
        controls["executionTimeoutSeconds"] = run_timeout
    return _execute(workflow_id, input, controls, run_id, _read_receipt)


def execute_stream(
    workflow_id: str, input: Any, *, run_id: str | None, selected_outputs: Sequence[str] | None
) -> Call[WorkflowExecutionResult]:
    """Run a workflow and receive its output as server-sent events; the call reads responses that are not a stream."""
    controls: dict[str, Any] = {"stream": True}
    if selected_outputs:
        controls["selectedOutputs"] = list(selected_outputs)
    return _execute(workflow_id, input, controls, run_id, _read_execution)


def get_run(
    workflow_id: str, run_id: str, *, include_output: bool = False, selected_outputs: Sequence[str] | None = None
) -> Call[WorkflowRun]:
    """Get a run, however it was started.

    :param selected_outputs: block IDs, optionally with a path; block names select nothing here.
    """
    query = {
        "includeOutput": "true" if include_output else None,
        "selectedOutputs": ",".join(selected_outputs) if selected_outputs else None,
    }
    request = Request(
        "GET",
        path_of("v2", "workflows", check_workflow_id(workflow_id), "runs", check_run_id(run_id), query=query),
        subject=f"read run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
        bucket=RUN_BUCKET,
    )
    return _call(request, _read_run)


def list_runs(workflow_id: str, **filters: Unpack[RunFilters]) -> Call[Page[WorkflowRun]]:
    """List a workflow's runs, newest first unless ``order`` is ``asc``; queued runs are not listed."""
    query: dict[str, Any] = {
        "status": filters.get("status"),
        "trigger": filters.get("trigger"),
        "startDate": utc(filters.get("start_date")),
        "endDate": utc(filters.get("end_date")),
        "limit": filters.get("limit"),
        "cursor": filters.get("cursor"),
        "order": filters.get("order"),
    }
    request = Request(
        "GET",
        path_of("v2", "workflows", check_workflow_id(workflow_id), "runs", query=query),
        subject=f"list the runs of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        bucket=RUNS_BUCKET,
    )
    return _page_call(request, _run)


def list_logs(workspace_id: str, **filters: Unpack[LogFilters]) -> Call[Page[WorkflowRun]]:
    """List a workspace's runs, newest first unless ``order`` is ``asc``; queued runs are not listed.

    The statuses are those of Sim's log: a run that waits for a person is ``pending``, not ``paused``.
    """
    workflow_ids, triggers, run_id = filters.get("workflow_ids"), filters.get("triggers"), filters.get("run_id")
    query: dict[str, Any] = {
        "workspaceId": workspace_id,
        "workflowIds": ",".join(map(check_workflow_id, workflow_ids)) if workflow_ids else None,
        "triggers": ",".join(triggers) if triggers else None,
        "level": filters.get("level"),
        "startDate": utc(filters.get("start_date")),
        "endDate": utc(filters.get("end_date")),
        "runId": None if run_id is None else check_run_id(run_id),
        "includeFinalOutput": "true" if filters.get("include_output") else None,
        "limit": filters.get("limit"),
        "cursor": filters.get("cursor"),
        "order": filters.get("order"),
    }
    request = Request(
        "GET",
        path_of("v2", "logs", query=query),
        subject=f"list the runs of workspace {workspace_id!r}",
        bucket=LOGS_BUCKET,
    )
    return _page_call(request, _logged_run)


def cancel_run(workflow_id: str, run_id: str) -> Call[Cancellation]:
    """Cancel a run; has no effect on a finished one."""
    request = Request(
        "POST",
        path_of("v2", "workflows", check_workflow_id(workflow_id), "runs", check_run_id(run_id), "cancel"),
        subject=f"cancel run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
        bucket="workflows.runs.cancel",
    )
    return _call(request, _read_cancellation)


def resume_run(workflow_id: str, run_id: str, context_id: str, input: Any) -> Call[Resumption]:
    """Answer a human pause."""
    body: dict[str, Any] = {"contextId": context_id}
    if input is not None:
        body["input"] = input
    request = Request(
        "POST",
        path_of("v2", "workflows", check_workflow_id(workflow_id), "runs", check_run_id(run_id), "resume"),
        subject=f"resume run {run_id!r} of workflow {workflow_id!r}",
        headers={"Content-Type": "application/json"},
        body=json_body(body, workflow_id=workflow_id),
        idempotent=False,
        sync=True,
        workflow_id=workflow_id,
        run_id=run_id,
        bucket="workflows.runs.resume",
    )
    return _call(request, _read_resumption)


def get_workflow(workflow_id: str) -> Call[Workflow]:
    """Get a workflow's name, workspace and declared inputs (those of its draft)."""
    request = Request(
        "GET",
        path_of("v2", "workflows", check_workflow_id(workflow_id)),
        subject=f"read workflow {workflow_id!r}",
        workflow_id=workflow_id,
        bucket=WORKFLOW_BUCKET,
    )
    return _call(request, _read_workflow)


def get_deployment(workflow_id: str) -> Call[Deployment]:
    """Get a workflow's live version and its latest deployment attempt."""
    return _deployment_call("GET", workflow_id, "deployment", "read the deployment of", "read")


def deploy(workflow_id: str, *, name: str | None = None, description: str | None = None) -> Call[Deployment]:
    """Create a version from a workflow's draft and deploy it.

    :param name: of the version, up to 100 characters.
    """
    given = {"name": name, "description": description}
    body = {key: value for key, value in given.items() if value is not None}
    return _deployment_call("POST", workflow_id, "deploy", "deploy", "deploy", body=body)


def undeploy(workflow_id: str) -> Call[Deployment]:
    """Undeploy a workflow; has no effect if it is not deployed."""
    return _deployment_call("DELETE", workflow_id, "deploy", "undeploy", "undeploy")


def rollback(workflow_id: str, version: int | None = None) -> Call[Deployment]:
    """Deploy an earlier version.

    :param version: default: the one before the live one.
    """
    body = {} if version is None else {"version": version}
    return _deployment_call("POST", workflow_id, "rollback", "roll back", "rollback", body=body)


def get_billing_status() -> Call[BillingStatus]:
    """Get plan, billing period and credits of the key's owner."""
    request = Request(
        "GET", path_of("v2", "billing", "status"), subject="read the billing status", bucket="billing.status"
    )
    return _call(request, _read_billing)


def list_workflows(
    workspace_id: str, *, deployed_only: bool = False, limit: int | None = None, cursor: str | None = None
) -> Call[Page[Workflow]]:
    """List the workflows of a workspace, without their inputs."""
    query = {
        "workspaceId": workspace_id,
        "deployedOnly": "true" if deployed_only else None,
        "limit": limit,
        "cursor": cursor,
    }
    path = path_of("v2", "workflows", query=query)
    request = Request("GET", path, subject="list the workflows", bucket="workflows.list")
    return _page_call(request, lambda data: workflow_of(data, workflow_id=None) if fields.text(data, "id") else None)


def list_workspaces() -> Call[Page[Workspace]]:
    """List the workspaces that the key can access: a workspace key only its own."""
    request = Request("GET", path_of("v2", "workspaces"), subject="list the workspaces", bucket="workspaces.list")
    return _page_call(request, _workspace)


def as_input(value: Any) -> Mapping[str, Any]:
    """Return the workflow input as v2 expects it: an object; any other value becomes its field ``input``."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else {"input": value}


def _execute(
    workflow_id: str,
    input: Any,
    controls: Mapping[str, Any],
    run_id: str | None,
    read: Callable[[Request, Response, Any], T],
) -> Call[T]:
    request = Request(
        "POST",
        path_of("v2", "workflows", check_workflow_id(workflow_id), "execute"),
        subject=f"start workflow {workflow_id!r}",
        headers={"Content-Type": "application/json"},
        body=json_body({"input": as_input(input), **controls}, workflow_id=workflow_id),
        idempotent=False,
        sync="async" not in controls,
        workflow_id=workflow_id,
        run_id_header="X-Run-Id",
        bucket=EXECUTE_BUCKET,
    )
    return _call(request if run_id is None else request.with_run_id(run_id), read)


def _deployment_call(
    method: str,
    workflow_id: str,
    route: str,
    verb: str,
    operation: str,
    *,
    body: Mapping[str, Any] | None = None,
) -> Call[Deployment]:
    request = Request(
        method,
        path_of("v2", "workflows", check_workflow_id(workflow_id), route),
        subject=f"{verb} workflow {workflow_id!r}",
        headers={} if body is None else {"Content-Type": "application/json"},
        body=None if body is None else json_body(body, workflow_id=workflow_id),
        idempotent=body is None,
        workflow_id=workflow_id,
        bucket=f"workflows.{'deployment.read' if operation == 'read' else operation}",
    )
    return _call(request, _read_deployment)


def _call(request: Request, parse: Callable[[Request, Response, Any], T]) -> Call[T]:
    return Call(
        request,
        lambda request, response: parse(request, response, _read_body(request, response)["data"]),
        _rejection,
    )


def _page_call(request: Request, parse_item: Callable[[Any], T | None]) -> Call[Page[T]]:
    def parse(request: Request, response: Response) -> Page[T]:
        body = _read_body(request, response)
        entries = body["data"] if isinstance(body["data"], list) else [None]
        items = tuple(item for entry in entries if (item := parse_item(entry)) is not None)
        if len(items) < len(entries):
            raise _unexpected(request, response)
        return Page(items=items, next_cursor=fields.text(body, "nextCursor"))

    return Call(request, parse, _rejection)


def _read_body(request: Request, response: Response) -> dict[str, Any]:
    """The envelope of a successful response."""
    body = read_json(request, response)
    if not isinstance(body, dict) or "data" not in body:
        raise _unexpected(request, response)
    return body


def _rejection(request: Request, response: Response) -> SimError:
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


def _unexpected(request: Request, response: Response) -> SimError:
    return error_of(
        SimResponseError,
        request,
        response,
        "the response is JSON, but not what Sim's v2 API returns here; the base URL may lead to another program",
    )


def _read_run(request: Request, response: Response, data: Any) -> WorkflowRun:
    run = _run(data)
    if run is None:
        raise _unexpected(request, response)
    return run


def _read_execution(request: Request, response: Response, data: Any) -> WorkflowExecutionResult:
    run_id = fields.text(data, "runId")
    server_status = fields.text(data, "status")
    if run_id is None or server_status is None:
        raise _unexpected(request, response)
    status = run_status(server_status)
    return WorkflowExecutionResult(
        run_id=run_id,
        workflow_id=fields.text(data, "workflowId") or request.workflow_id,
        status=status,
        server_status=server_status,
        output=data.get("output"),
        error=run_error(data["error"]) if data.get("error") else None,
        paused=pause_in(data.get("output")) if status is RunStatus.PAUSED else None,
        started_at=fields.text(data, "startedAt"),
        ended_at=fields.text(data, "endedAt"),
        duration_ms=fields.number(data, "durationMs"),
    )


def _read_receipt(request: Request, response: Response, data: Any) -> AsyncExecutionResult:
    run_id = fields.text(data, "runId")
    if run_id is None:
        raise _unexpected(request, response)
    workflow_id = request.workflow_id or ""
    return AsyncExecutionResult(
        run_id=run_id, workflow_id=workflow_id, path=path_of("v2", "workflows", workflow_id, "runs", run_id)
    )


def _read_cancellation(request: Request, response: Response, data: Any) -> Cancellation:
    return Cancellation(
        run_id=fields.text(data, "runId") or request.run_id or "",
        accepted=fields.flag(data, "success") is True,
        reason=fields.text(data, "reason"),
    )


def _read_resumption(request: Request, response: Response, data: Any) -> Resumption:
    return Resumption(
        run_id=request.run_id or "",
        attempt_id=fields.text(data, "runId"),
        status=run_status(fields.text(data, "status") or RunStatus.QUEUED),
        output=fields.mapping(data).get("output"),
    )


def _read_workflow(request: Request, response: Response, data: Any) -> Workflow:
    return workflow_of(data, workflow_id=request.workflow_id)


def _read_deployment(request: Request, response: Response, data: Any) -> Deployment:
    is_deployed = fields.flag(data, "isDeployed")
    if is_deployed is None:
        raise _unexpected(request, response)
    attempt = fields.mapping(data, "latestDeploymentAttempt")
    error = attempt.get("error")
    return Deployment(
        workflow_id=fields.text(data, "id") or request.workflow_id or "",
        is_deployed=is_deployed,
        version=fields.whole(fields.mapping(data, "activeDeployment"), "version"),
        deployed_at=fields.text(data, "deployedAt"),
        needs_redeployment=fields.flag(data, "needsRedeployment"),
        latest_attempt=DeploymentAttempt(
            attempt_id=fields.text(attempt, "id"),
            version=fields.whole(attempt, "version"),
            status=fields.text(attempt, "status"),
            readiness={name: str(state) for name, state in fields.mapping(attempt, "readiness").items()},
            error=run_error(error).message if error else None,
            action=fields.text(attempt, "action"),
            requested_at=fields.text(attempt, "requestedAt"),
        )
        if attempt
        else None,
        warnings=tuple(str(warning) for warning in fields.sequence(data, "warnings")),
    )


def named_workflows(workflow_ids: Iterable[str]) -> list[str] | None:
    """Return the workflow IDs to filter a log by; None, which lists all, if they don't fit into a query."""
    names = sorted(set(workflow_ids))
    return names if len(names) <= _MAX_NAMED_WORKFLOWS else None


def _read_billing(request: Request, response: Response, data: Any) -> BillingStatus:
    period, credits = fields.mapping(data, "period"), fields.mapping(data, "credits")
    account_status = fields.text(data, "status")
    if account_status is None:
        raise _unexpected(request, response)
    return BillingStatus(
        plan=fields.text(data, "plan"),
        account_status=account_status,
        refuses_runs=account_status in _BLOCKED_ACCOUNT_STATUSES,
        period_start=fields.text(period, "start"),
        period_end=fields.text(period, "end"),
        credits_used=fields.number(credits, "used"),
        credits_limit=fields.number(credits, "limit"),
        credits_remaining=fields.number(credits, "remaining"),
    )


def _run(data: Any) -> WorkflowRun | None:
    return parse_run(data, run_id="runId", output="output", duration="durationMs")


def _logged_run(data: Any) -> WorkflowRun | None:
    return parse_run(data, run_id="runId", output="finalOutput", duration="totalDurationMs")


def _workspace(data: Any) -> Workspace | None:
    workspace_id = fields.text(data, "id")
    return None if workspace_id is None else Workspace(workspace_id=workspace_id, name=fields.text(data, "name"))
