"""Requests and responses of ``/api/v2`` (Sim v0.8.0 and later, where it is switched on)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from airflow_provider_sim.client import api, models
from airflow_provider_sim.client.api import fields, resources
from airflow_provider_sim.client.api.http import Call, Request, Response, endpoint, error_of, read_json
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

RUNS_PAGE = 100  # maximum entries of one response
LOGS_PAGE = 1000
STARTED_BY_API = "api"  # the trigger of runs that any API key has started

_DEPLOYMENT_ACTIONS = {  # method, route and verb
    "read": ("GET", "deployment", "read the deployment of"),
    "deploy": ("POST", "deploy", "deploy"),
    "undeploy": ("DELETE", "deploy", "undeploy"),
    "rollback": ("POST", "rollback", "roll back"),
}

LISTED_STATUSES = frozenset({models.RunStatus.RUNNING, models.RunStatus.PENDING, models.RunStatus.PAUSED})
"""Statuses of unfinished runs by which a workflow's runs can be listed; ``queued`` is not among them."""


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
    """Run a workflow; of a streamed execution, the call reads only responses that are not a stream."""
    controls = {
        "async": async_execution or None,
        "executionTimeoutSeconds": run_timeout,
        "stream": stream or None,
        "selectedOutputs": list(selected_outputs or ()) or None,
    }
    content = {"input": {} if input is None else input if isinstance(input, Mapping) else {"input": input}}
    call: Call[Any] = _call(
        _read_receipt if async_execution else _read_execution,
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
    return call if run_id is None else call.with_run_id(run_id)


def get_run(
    workflow_id: str, run_id: str, *, include_output: bool = False, selected_outputs: Sequence[str] | None = None
) -> Call[models.WorkflowRun]:
    query = {"include_output": include_output, "selected_outputs": list(selected_outputs or ())}
    ids = (workflow_id, run_id)
    return _call(resources.parse_run, "GET", _RUN, "read {run}", *ids, query=query, bucket=RUN_BUCKET)


def list_runs(workflow_id: str, **filters: Any) -> Call[models.Page[models.WorkflowRun]]:
    path, subject = f"{_WORKFLOW}/runs", "list the runs of {workflow}"
    return _page_call(resources.parse_run, "GET", path, subject, workflow_id, query=filters, bucket=RUNS_BUCKET)


def list_logs(workspace_id: str, **filters: Any) -> Call[models.Page[models.WorkflowRun]]:
    query = {
        "workspace_id": workspace_id,
        **filters,
        "workflow_ids": list(map(check_workflow_id, filters.get("workflow_ids") or ())),
        "triggers": list(filters.get("triggers") or ()),
    }
    subject = f"list the runs of workspace {workspace_id!r}"
    return _page_call(resources.parse_run, "GET", "v2/logs", subject, query=query, bucket=LOGS_BUCKET)


def named_workflows(workflow_ids: Iterable[str]) -> list[str] | None:
    """Return the workflow IDs to filter a log by; None, which lists all, if they don't fit into a query."""
    names = sorted(set(workflow_ids))
    return names if len(names) <= 100 else None  # the request line must not be too long


def cancel_run(workflow_id: str, run_id: str) -> Call[models.Cancellation]:
    """Cancel a run; has no effect on a finished one."""
    path, ids = f"{_RUN}/cancel", (workflow_id, run_id)
    return _call(resources.cancellation, "POST", path, "cancel {run}", *ids, bucket="workflows.runs.cancel")


def resume_run(workflow_id: str, run_id: str, context_id: str, input: Any) -> Call[models.RunStatus]:
    content = {"contextId": context_id} | ({} if input is None else {"input": input})
    route = ("POST", f"{_RUN}/resume", "resume {run}", workflow_id, run_id)
    attributes = {"idempotent": False, "sync": True, "bucket": "workflows.runs.resume"}
    return _call(resources.resumed_status, *route, content=content, **attributes)


def get_workflow(workflow_id: str) -> Call[models.Workflow]:
    """Get a workflow's name, workspace and declared inputs (those of its draft)."""
    return _call(resources.workflow_of, "GET", _WORKFLOW, "read {workflow}", workflow_id, bucket=WORKFLOW_BUCKET)


def deployment(workflow_id: str, action: str = "read", **content: Any) -> Call[models.Deployment]:
    """Read or change a workflow's deployment, by one of ``_DEPLOYMENT_ACTIONS``."""
    method, route, verb = _DEPLOYMENT_ACTIONS[action]
    return _call(
        _read_deployment,
        method,
        f"{_WORKFLOW}/{route}",
        f"{verb} {{workflow}}",
        workflow_id,
        content={name: value for name, value in content.items() if value is not None} if method == "POST" else None,
        idempotent=method != "POST",
        bucket="workflows.deployment.read" if action == "read" else f"workflows.{action}",
    )


def list_versions(workflow_id: str, **query: Any) -> Call[models.Page[models.WorkflowVersion]]:
    path, subject = f"{_WORKFLOW}/versions", "list the versions of {workflow}"
    return _page_call(_version, "GET", path, subject, workflow_id, query=query, bucket="workflows.versions.list")


def get_billing_status() -> Call[models.BillingStatus]:
    return _call(_read_billing, "GET", "v2/billing/status", "read the billing status", bucket="billing.status")


def list_workflows(workspace_id: str, **filters: Any) -> Call[models.Page[models.Workflow]]:
    route, query = ("GET", "v2/workflows", "list the workflows"), {"workspace_id": workspace_id, **filters}
    return _page_call(resources.workflow_of, *route, query=query, bucket="workflows.list")


def list_workspaces() -> Call[models.Page[models.Workspace]]:
    return _page_call(_workspace, "GET", "v2/workspaces", "list the workspaces", bucket="workspaces.list")


def _call(read: Callable[[Request, Any], _T], *route: Any, **attributes: Any) -> Call[_T]:
    """A call to an endpoint; further arguments as for :func:`.endpoint`."""
    request = endpoint(*route, **attributes)
    return Call(request, lambda request, response: read(request, _envelope(request, response)["data"]), _error)


def _page_call(read: Callable[[Request, Any], _T], *route: Any, **attributes: Any) -> Call[models.Page[_T]]:
    def read_page(request: Request, response: Response) -> models.Page[_T]:
        body = _envelope(request, response)
        if not isinstance(body["data"], list):
            raise fields.MissingFieldError
        items = tuple(read(request, item) for item in body["data"])
        return models.Page(items=items, next_cursor=fields.text(body, "nextCursor"))

    return Call(endpoint(*route, **attributes), read_page, _error)


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
        return api.errors.unreadable_error(request, response)
    # Every route sends this message while v2 is off; that for a missing workflow or run names it.
    if response.status == 404 and message == "Not found":
        return error_of(
            SimV2OffError,
            request,
            response,
            "the server's v2 API is switched off (the workflow may well exist). Set V2_API=true on the server, or"
            " api_version to auto or legacy in the connection",
            outcome=Outcome.REFUSED,
        )
    detail = fields.text(error.get("details"), "code")
    return api.errors.error_from_body(request, response, message, detail, fields.sequence(error, "details"))


def _read_execution(request: Request, data: Any) -> models.WorkflowExecutionResult:
    server_status = fields.required(fields.text(data, "status"))
    status, output = resources.run_status(server_status), data.get("output")
    return fields.model(
        models.WorkflowExecutionResult,
        data,
        run_id=fields.required(fields.text(data, "runId")),
        workflow_id=fields.text(data, "workflowId") or request.workflow_id,
        status=status,
        server_status=server_status,
        output=output,
        error=resources.run_error(data["error"]) if data.get("error") else None,
        paused=resources.pause_in(output) if status is models.RunStatus.PAUSED else None,
    )


def _read_receipt(request: Request, data: Any) -> models.AsyncExecutionResult:
    run_id = fields.required(fields.text(data, "runId"))
    return models.AsyncExecutionResult(run_id=run_id, workflow_id=request.workflow_id or "")


def _read_deployment(request: Request, data: Any) -> models.Deployment:
    attempt = fields.mapping(data, "latestDeploymentAttempt")
    error = resources.run_error(attempt["error"]).message if attempt.get("error") else None
    return fields.model(
        models.Deployment,
        data,
        workflow_id=fields.text(data, "id") or request.workflow_id or "",
        version=fields.whole(fields.mapping(data, "activeDeployment"), "version"),
        latest_attempt=fields.model(models.DeploymentAttempt, attempt, error=error) if attempt else None,
        warnings=tuple(map(str, fields.sequence(data, "warnings"))),
    )


def _version(request: Request, data: Any) -> models.WorkflowVersion:
    is_live = fields.required(fields.flag(data, "isActive"))
    return fields.model(models.WorkflowVersion, data, is_live=is_live)


def _read_billing(request: Request, data: Any) -> models.BillingStatus:
    period, credits = fields.mapping(data, "period"), fields.mapping(data, "credits")
    return models.BillingStatus(
        plan=fields.text(data, "plan"),
        account_status=fields.required(fields.text(data, "status")),
        period_start=fields.text(period, "start"),
        period_end=fields.text(period, "end"),
        credits_used=fields.number(credits, "used"),
        credits_limit=fields.number(credits, "limit"),
        credits_remaining=fields.number(credits, "remaining"),
    )


def _workspace(request: Request, data: Any) -> models.Workspace:
    return models.Workspace(workspace_id=fields.required(fields.text(data, "id")), name=fields.text(data, "name"))
