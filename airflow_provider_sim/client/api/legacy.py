"""Requests of the legacy API (``/api/workflows``, ``/api/jobs``, …), which every Sim server has.

:mod:`.legacy_responses` reads the responses. This API calls a run an execution; the ID is the same as on v2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from airflow_provider_sim.client.api import legacy_responses as responses
from airflow_provider_sim.client.api.http import Call, Request, Response, json_body, path_of, read_json
from airflow_provider_sim.client.api.legacy_responses import JOB_PREFIX
from airflow_provider_sim.client.ids import check_run_id, check_workflow_id
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    Cancellation,
    JobStatus,
    PausedRun,
    Resumption,
    UsageLimits,
    Workflow,
    WorkflowExecutionResult,
    WorkflowRun,
    WorkflowStatus,
)
from airflow_provider_sim.exceptions import Outcome, SimError, SimInputError

T = TypeVar("T")

CONTROL_FIELDS = frozenset(
    {
        "base64MaxBytes",
        "copilotToolCallId",
        "deploymentVersionId",
        "executionId",
        "includeFileBase64",
        "includeThinking",
        "includeToolCalls",
        "inputFromExecutionId",
        "isClientSession",
        "parentWorkspaceId",
        "runFromBlock",
        "selectedOutputs",
        "startBlockId",
        "stopAfterBlockId",
        "stream",
        "triggerBlockId",
        "triggerType",
        "useDraftState",
        "workflowId",
        "workflowStateOverride",
    }
)
"""Input fields that the server drops or interprets, because here the whole body is the input."""


def execute(workflow_id: str, input: Any, *, run_id: str | None) -> Call[WorkflowExecutionResult]:
    """Run a workflow and wait for its result in the same request."""
    return _execute(workflow_id, input, run_id, responses.read_execution)


def execute_async(
    workflow_id: str, input: Any, *, run_id: str | None, run_timeout: int | None
) -> Call[AsyncExecutionResult]:
    """Queue a run.

    :param run_timeout: seconds after which the server stops it; servers before v0.7.59 ignore it.
    """
    headers = {"X-Execution-Mode": "async"}
    if run_timeout is not None:
        headers["X-Execution-Timeout-Seconds"] = str(run_timeout)
    return _execute(workflow_id, input, run_id, responses.read_receipt, responses.receipt_error, headers=headers)


def execute_stream(
    workflow_id: str, input: Any, *, run_id: str | None, selected_outputs: Sequence[str] | None
) -> Call[WorkflowExecutionResult]:
    """Run a workflow and receive its output as server-sent events; the call reads responses that are not a stream."""
    controls: dict[str, Any] = {"stream": True}
    if selected_outputs:
        controls["selectedOutputs"] = list(selected_outputs)
    return _execute(workflow_id, input, run_id, responses.read_unstreamed, controls=controls)


def get_run(
    workflow_id: str, run_id: str, *, include_output: bool = False, selected_outputs: Sequence[str] | None = None
) -> Call[WorkflowRun]:
    """Get a run (servers v0.6.81 and later)."""
    query = {
        "includeOutput": "true" if include_output else None,
        "selectedOutputs": ",".join(selected_outputs) if selected_outputs else None,
    }
    request = Request(
        "GET",
        path_of("workflows", check_workflow_id(workflow_id), "executions", check_run_id(run_id), query=query),
        subject=f"read run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return _call(request, responses.read_status)


def get_job(job_id: str, *, workflow_id: str | None = None) -> Call[JobStatus]:
    """Get a run's queue entry: the only view before v0.6.81, and the raw output for a day on all servers."""
    request = Request(
        "GET",
        path_of("jobs", check_run_id(job_id)),
        subject=f"read job {job_id!r}",
        workflow_id=workflow_id,
        run_id=job_id.removeprefix(JOB_PREFIX),
    )
    return _call(request, responses.read_job)


def cancel_run(workflow_id: str, run_id: str) -> Call[Cancellation]:
    """Cancel a run."""
    request = Request(
        "POST",
        path_of("workflows", check_workflow_id(workflow_id), "executions", check_run_id(run_id), "cancel"),
        subject=f"cancel run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return Call(request, responses.read_cancellation, responses.cancellation_error)


def resume_run(workflow_id: str, run_id: str, context_id: str, input: Any) -> Call[Resumption]:
    """Answer a human pause."""
    request = Request(
        "POST",
        path_of("resume", check_workflow_id(workflow_id), check_run_id(run_id), context_id),
        subject=f"resume run {run_id!r} of workflow {workflow_id!r}",
        headers={"Content-Type": "application/json"},
        body=json_body({"input": {} if input is None else input}, workflow_id=workflow_id),
        idempotent=False,
        sync=True,
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return _call(request, responses.read_resumption)


def get_paused_run(workflow_id: str, run_id: str) -> Call[PausedRun]:
    """Get a run's pause points; spends no rate limit."""
    request = Request(
        "GET",
        path_of("resume", check_workflow_id(workflow_id), check_run_id(run_id)),
        subject=f"read the pauses of run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return _call(request, responses.read_paused_run)


def get_workflow_status(workflow_id: str) -> Call[WorkflowStatus]:
    """Get whether a workflow is deployed; spends no rate limit."""
    request = Request(
        "GET",
        path_of("workflows", check_workflow_id(workflow_id), "status"),
        subject=f"read the deployment of workflow {workflow_id!r}",
        workflow_id=workflow_id,
    )
    return _call(request, responses.read_workflow_status)


def get_workflow(workflow_id: str) -> Call[Workflow]:
    """Get a workflow's name, workspace and declared inputs from v1."""
    request = Request(
        "GET",
        path_of("v1", "workflows", check_workflow_id(workflow_id)),
        subject=f"read workflow {workflow_id!r}",
        workflow_id=workflow_id,
    )
    return _call(request, responses.read_workflow)


def get_usage_limits() -> Call[UsageLimits]:
    """Get the limits and usage of the key's owner; spends no rate limit."""
    request = Request("GET", path_of("users", "me", "usage-limits"), subject="read the usage limits")
    return _call(request, responses.read_usage)


def as_body(value: Any, *, workflow_id: str) -> dict[str, Any]:
    """Return the workflow input as this API expects it: its fields at the top level; a non-object as ``input``.

    :raises SimInputError: a field has the name of a control field.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return {"input": value}
    reserved = sorted(CONTROL_FIELDS.intersection(value))
    if reserved:
        raise SimInputError(
            f"The input for workflow {workflow_id!r} has the field(s) {', '.join(reserved)}. On the legacy API"
            " these are control fields: Sim would interpret or drop them. Rename them in the workflow's Start block, or"
            " use a server with the v2 API.",
            workflow_id=workflow_id,
            outcome=Outcome.NEVER_SENT,
        )
    return dict(value)


def _execute(
    workflow_id: str,
    input: Any,
    run_id: str | None,
    parse: Callable[[Request, Response], T],
    parse_error: Callable[[Request, Response], SimError | None] = responses.execution_error,
    *,
    headers: Mapping[str, str] | None = None,
    controls: Mapping[str, Any] | None = None,
) -> Call[T]:
    body = {**as_body(input, workflow_id=check_workflow_id(workflow_id)), **(controls or {})}
    request = Request(
        "POST",
        path_of("workflows", workflow_id, "execute"),
        subject=f"start workflow {workflow_id!r}",
        headers={"Content-Type": "application/json", **(headers or {})},
        body=json_body(body, workflow_id=workflow_id),
        idempotent=False,
        sync="X-Execution-Mode" not in (headers or {}),
        workflow_id=workflow_id,
        run_id_header="X-Execution-Id",
    )
    return Call(request if run_id is None else request.with_run_id(run_id), parse, parse_error)


def _call(request: Request, parse: Callable[[Request, Response, Any], T]) -> Call[T]:
    """A call whose every error response is Sim's own."""
    return Call(
        request,
        lambda request, response: parse(request, response, read_json(request, response)),
        responses.rejection,
    )
