"""``/api/v2`` (Sim v0.8.0 and later, where it is switched on)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

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
    under_run_id,
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
"""The rate buckets that calls spend: each operation has one of its own, for each key and for each user."""

RUNS_PAGE = 100
LOGS_PAGE = 1000
"""The most that one answer lists."""

STARTED_BY_API = "api"
"""What lists call the start of a run by an API key, ours or another's."""

_MOST_NAMED = 100
"""Workflows in one query, which has to fit into a request line."""

_REFUSING_ACCOUNTS = ("limit_exceeded", "billing_blocked")
"""Words for an account whose runs aren't started."""

LISTED_STATUSES = frozenset({RunStatus.RUNNING, RunStatus.PENDING, RunStatus.PAUSED})
"""The statuses of runs that aren't over by which a workflow's runs can be listed; ``queued`` is none of them."""

_GATE_MESSAGE = "Not found"
"""What every route answers while v2 is off; a missing workflow or run is named in the message."""


def execute(workflow_id: str, input: Any, *, run_id: str | None) -> Call[WorkflowExecutionResult]:
    """Run a workflow and hold the connection open until its end."""
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
    """Run a workflow and receive its output as server-sent events.

    The call's ``read`` is for answers that are no stream: refusals.
    """
    controls: dict[str, Any] = {"stream": True}
    if selected_outputs:
        controls["selectedOutputs"] = list(selected_outputs)
    return _execute(workflow_id, input, controls, run_id, _read_execution)


def get_run(
    workflow_id: str, run_id: str, *, include_output: bool = False, selected_outputs: Sequence[str] | None = None
) -> Call[WorkflowRun]:
    """Ask for a run, however it was started.

    :param selected_outputs: block ids, or block ids with a path; names select nothing here.
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


def list_runs(
    workflow_id: str,
    *,
    status: str | None = None,
    trigger: str | None = None,
    start_date: str | float | None = None,
    end_date: str | float | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    order: str | None = None,
) -> Call[Page[WorkflowRun]]:
    """List a workflow's runs, newest first unless ``order`` is ``asc``; runs that are only queued are not listed."""
    query = {
        "status": status,
        "trigger": trigger,
        "startDate": _utc(start_date),
        "endDate": _utc(end_date),
        "limit": limit,
        "cursor": cursor,
        "order": order,
    }
    request = Request(
        "GET",
        path_of("v2", "workflows", check_workflow_id(workflow_id), "runs", query=query),
        subject=f"list the runs of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        bucket=RUNS_BUCKET,
    )
    return Call(request, lambda response: _read_page(request, response, _run))


def list_logs(
    workspace_id: str,
    *,
    workflow_ids: Iterable[str] | None = None,
    triggers: Iterable[str] | None = None,
    level: str | None = None,
    start_date: str | float | None = None,
    end_date: str | float | None = None,
    run_id: str | None = None,
    include_output: bool = False,
    limit: int | None = None,
    cursor: str | None = None,
    order: str | None = None,
) -> Call[Page[WorkflowRun]]:
    """List the runs of a workspace, newest first unless ``order`` is ``asc``; runs that are only queued are not listed.

    The statuses are those of Sim's log: a run that waits for a person is ``pending`` there, not ``paused``.
    """
    query = {
        "workspaceId": workspace_id,
        "workflowIds": ",".join(map(check_workflow_id, workflow_ids)) if workflow_ids else None,
        "triggers": ",".join(triggers) if triggers else None,
        "level": level,
        "startDate": _utc(start_date),
        "endDate": _utc(end_date),
        "runId": None if run_id is None else check_run_id(run_id),
        "includeFinalOutput": "true" if include_output else None,
        "limit": limit,
        "cursor": cursor,
        "order": order,
    }
    request = Request(
        "GET",
        path_of("v2", "logs", query=query),
        subject=f"list the runs of workspace {workspace_id!r}",
        bucket=LOGS_BUCKET,
    )
    return Call(request, lambda response: _read_page(request, response, _logged_run))


def cancel_run(workflow_id: str, run_id: str) -> Call[Cancellation]:
    """Ask Sim to cancel a run; harmless on one that is over."""
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
        repeatable=False,
        held_open=True,
        workflow_id=workflow_id,
        run_id=run_id,
        bucket="workflows.runs.resume",
    )
    return _call(request, _read_resumption)


def get_workflow(workflow_id: str) -> Call[Workflow]:
    """Ask for a workflow's name, workspace and declared inputs (those of its draft)."""
    request = Request(
        "GET",
        path_of("v2", "workflows", check_workflow_id(workflow_id)),
        subject=f"read workflow {workflow_id!r}",
        workflow_id=workflow_id,
        bucket=WORKFLOW_BUCKET,
    )
    return _call(request, _read_workflow)


def get_deployment(workflow_id: str) -> Call[Deployment]:
    """Ask what of a workflow is live, and how its last deploying goes."""
    return _deployment_call("GET", workflow_id, "deployment", "read the deployment of", "read")


def deploy(workflow_id: str, *, name: str | None = None, description: str | None = None) -> Call[Deployment]:
    """Make a version of a workflow's draft and ask for it to be made live.

    :param name: of the version, up to 100 characters.
    """
    given = {"name": name, "description": description}
    body = {key: value for key, value in given.items() if value is not None}
    return _deployment_call("POST", workflow_id, "deploy", "deploy", "deploy", body=body)


def undeploy(workflow_id: str) -> Call[Deployment]:
    """Take a workflow's live version back; harmless where there is none."""
    return _deployment_call("DELETE", workflow_id, "deploy", "undeploy", "undeploy")


def rollback(workflow_id: str, version: int | None = None) -> Call[Deployment]:
    """Ask for an earlier version to be made live.

    :param version: default: the one before the live one.
    """
    body = {} if version is None else {"version": version}
    return _deployment_call("POST", workflow_id, "rollback", "roll back", "rollback", body=body)


def get_billing_status() -> Call[BillingStatus]:
    """Ask for plan, period and credits of the key's owner."""
    request = Request(
        "GET", path_of("v2", "billing", "status"), subject="read the billing status", bucket="billing.status"
    )
    return _call(request, _read_billing)


def list_workspaces() -> Call[Page[Workspace]]:
    """List the workspaces that the key may see: a workspace key sees its own only."""
    request = Request("GET", path_of("v2", "workspaces"), subject="list the workspaces", bucket="workspaces.list")
    return Call(request, lambda response: _read_page(request, response, _workspace))


def as_input(value: Any) -> Mapping[str, Any]:
    """The workflow input as v2 takes it: an object; anything else arrives as the object's field ``input``."""
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
    body = json_body({"input": as_input(input), **controls}, workflow_id=check_workflow_id(workflow_id))
    plain = Request(
        "POST",
        path_of("v2", "workflows", workflow_id, "execute"),
        subject=f"start workflow {workflow_id!r}",
        headers={"Content-Type": "application/json"},
        body=body,
        repeatable=False,
        held_open="async" not in controls,
        workflow_id=workflow_id,
        bucket=EXECUTE_BUCKET,
    )

    def under(run_id: str) -> Call[T]:
        request = under_run_id(plain, "X-Run-Id", run_id)
        return Call(request, lambda response: read(request, response, _read_data(request, response)), renew=under)

    return under(run_id) if run_id is not None else _call(plain, read)


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
        repeatable=body is None,
        workflow_id=workflow_id,
        bucket=f"workflows.{'deployment.read' if operation == 'read' else operation}",
    )
    return _call(request, _read_deployment)


def _call(request: Request, read: Callable[[Request, Response, Any], T]) -> Call[T]:
    return Call(request, lambda response: read(request, response, _read_data(request, response)))


def _read_body(request: Request, response: Response) -> dict[str, Any]:
    """The envelope of a good answer.

    :raises SimError: the answer is an error, or isn't one of v2 at all.
    """
    if response.status >= 400:
        raise _refused(request, response)
    body = read_json(request, response)
    if not isinstance(body, dict) or "data" not in body:
        raise _unexpected(request, response)
    return body


def _read_data(request: Request, response: Response) -> Any:
    return _read_body(request, response)["data"]


def _refused(request: Request, response: Response) -> SimError:
    try:
        error = fields.mapping(read_json(request, response), "error")
    except SimResponseError:
        error = {}
    message = fields.text(error, "message")
    if message is None or fields.text(error, "code") is None:
        return unreadable_error(request, response)
    if response.status == 404 and message == _GATE_MESSAGE:
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
        "the answer is JSON, but not what Sim's v2 API answers here; the base URL may lead to another program",
    )


def _read_page(request: Request, response: Response, item: Callable[[Any], T | None]) -> Page[T]:
    body = _read_body(request, response)
    if not isinstance(body["data"], list):
        raise _unexpected(request, response)
    items = tuple(found for entry in body["data"] if (found := item(entry)) is not None)
    if len(items) < len(body["data"]):
        raise _unexpected(request, response)
    return Page(items=items, next_cursor=fields.text(body, "nextCursor"))


def _read_run(request: Request, response: Response, data: Any) -> WorkflowRun:
    run = _run(data)
    if run is None:
        raise _unexpected(request, response)
    return run


def _read_execution(request: Request, response: Response, data: Any) -> WorkflowExecutionResult:
    run_id = fields.text(data, "runId")
    word = fields.text(data, "status")
    if run_id is None or word is None:
        raise _unexpected(request, response)
    status = run_status(word)
    return WorkflowExecutionResult(
        run_id=run_id,
        workflow_id=fields.text(data, "workflowId") or request.workflow_id,
        status=status,
        server_status=word,
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
    """The workflows to name when a log is listed; None, which lists all, where so many names don't fit."""
    names = sorted(set(workflow_ids))
    return names if len(names) <= _MOST_NAMED else None


def _read_billing(request: Request, response: Response, data: Any) -> BillingStatus:
    period, credits = fields.mapping(data, "period"), fields.mapping(data, "credits")
    word = fields.text(data, "status")
    if word is None:
        raise _unexpected(request, response)
    return BillingStatus(
        plan=fields.text(data, "plan"),
        account_status=word,
        refuses_runs=word in _REFUSING_ACCOUNTS,
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


def _utc(moment: str | float | None) -> str | None:
    return None if moment is None else utc(moment)


def _workspace(data: Any) -> Workspace | None:
    workspace_id = fields.text(data, "id")
    return None if workspace_id is None else Workspace(workspace_id=workspace_id, name=fields.text(data, "name"))
