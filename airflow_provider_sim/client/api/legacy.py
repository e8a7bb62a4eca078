"""Requests of the legacy API (``/api/workflows``, ``/api/jobs``, …), which every Sim server has.

:mod:`.legacy_answers` reads the responses. This API calls a run an execution; the ID is the same as on v2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from airflow_provider_sim.client.api import legacy_responses as answers
from airflow_provider_sim.client.api.http import (
    Call,
    Request,
    Response,
    json_body,
    path_of,
    read_json,
    under_run_id,
)
from airflow_provider_sim.client.api.legacy_responses import JOB_PREFIX, AmbiguousResponseError
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
from airflow_provider_sim.exceptions import Outcome, SimInputError

__all__ = [
    "CONTROL_FIELDS",
    "JOB_PREFIX",
    "AmbiguousResponseError",
    "cancel_run",
    "execute",
    "execute_async",
    "execute_stream",
    "get_execution",
    "get_job",
    "get_paused_run",
    "get_usage_limits",
    "get_workflow",
    "get_workflow_status",
    "resume_run",
]

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
"""Names that the server takes out of the input, or obeys, because here the whole body is the input."""


def execute(workflow_id: str, input: Any, *, run_id: str | None) -> Call[WorkflowExecutionResult]:
    """Run a workflow and hold the connection open until its end."""
    return _execute(workflow_id, input, run_id, answers.read_execution)


def execute_async(
    workflow_id: str, input: Any, *, run_id: str | None, run_timeout: int | None
) -> Call[AsyncExecutionResult]:
    """Queue a run.

    :param run_timeout: seconds after which the server stops it; servers before v0.7.59 ignore it.
    """
    headers = {"X-Execution-Mode": "async"}
    if run_timeout is not None:
        headers["X-Execution-Timeout-Seconds"] = str(run_timeout)
    return _execute(workflow_id, input, run_id, answers.read_receipt, headers=headers)


def execute_stream(
    workflow_id: str, input: Any, *, run_id: str | None, selected_outputs: Sequence[str] | None
) -> Call[WorkflowExecutionResult]:
    """Run a workflow and receive its output as server-sent events.

    The call's ``read`` is for responses that are not a stream.
    """
    controls: dict[str, Any] = {"stream": True}
    if selected_outputs:
        controls["selectedOutputs"] = list(selected_outputs)
    return _execute(workflow_id, input, run_id, answers.read_unstreamed, controls=controls)


def get_execution(
    workflow_id: str, run_id: str, *, include_output: bool = False, selected_outputs: Sequence[str] | None = None
) -> Call[WorkflowRun]:
    """Ask for a run (servers v0.6.81 and later)."""
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
    return _call(request, answers.read_status)


def get_job(job_id: str, *, workflow_id: str | None = None) -> Call[JobStatus]:
    """Get a run's queue entry: the only view before v0.6.81, and the raw output for a day on all servers."""
    request = Request(
        "GET",
        path_of("jobs", check_run_id(job_id)),
        subject=f"read job {job_id!r}",
        workflow_id=workflow_id,
        run_id=job_id.removeprefix(JOB_PREFIX),
    )
    return _call(request, answers.read_job)


def cancel_run(workflow_id: str, run_id: str) -> Call[Cancellation]:
    """Cancel a run."""
    request = Request(
        "POST",
        path_of("workflows", check_workflow_id(workflow_id), "executions", check_run_id(run_id), "cancel"),
        subject=f"cancel run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return Call(request, lambda response: answers.read_cancellation(request, response))


def resume_run(workflow_id: str, run_id: str, context_id: str, input: Any) -> Call[Resumption]:
    """Answer a human pause."""
    request = Request(
        "POST",
        path_of("resume", check_workflow_id(workflow_id), check_run_id(run_id), context_id),
        subject=f"resume run {run_id!r} of workflow {workflow_id!r}",
        headers={"Content-Type": "application/json"},
        body=json_body({"input": {} if input is None else input}, workflow_id=workflow_id),
        repeatable=False,
        held_open=True,
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return _call(request, answers.read_resumption)


def get_paused_run(workflow_id: str, run_id: str) -> Call[PausedRun]:
    """Ask at what points a run waits or has waited, and what for; spends no rate limit."""
    request = Request(
        "GET",
        path_of("resume", check_workflow_id(workflow_id), check_run_id(run_id)),
        subject=f"read the pauses of run {run_id!r} of workflow {workflow_id!r}",
        workflow_id=workflow_id,
        run_id=run_id,
    )
    return _call(request, answers.read_paused_run)


def get_workflow_status(workflow_id: str) -> Call[WorkflowStatus]:
    """Ask whether a workflow is deployed; spends no rate limit."""
    request = Request(
        "GET",
        path_of("workflows", check_workflow_id(workflow_id), "status"),
        subject=f"read the deployment of workflow {workflow_id!r}",
        workflow_id=workflow_id,
    )
    return _call(request, answers.read_workflow_status)


def get_workflow(workflow_id: str) -> Call[Workflow]:
    """Ask v1 for a workflow's name, workspace and declared inputs."""
    request = Request(
        "GET",
        path_of("v1", "workflows", check_workflow_id(workflow_id)),
        subject=f"read workflow {workflow_id!r}",
        workflow_id=workflow_id,
    )
    return _call(request, answers.read_workflow)


def get_usage_limits() -> Call[UsageLimits]:
    """Ask for the limits and usage of the key's owner; spends no rate limit."""
    return _call(
        Request("GET", path_of("users", "me", "usage-limits"), subject="read the usage limits"), answers.read_usage
    )


def as_body(value: Any, *, workflow_id: str) -> dict[str, Any]:
    """The workflow input as this API takes it: its fields at the top level; anything but an object as ``input``.

    :raises SimInputError: a field has the name of a control field, which the server would obey or drop.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return {"input": value}
    taken = sorted(CONTROL_FIELDS.intersection(value))
    if taken:
        raise SimInputError(
            f"The input for workflow {workflow_id!r} has the field(s) {', '.join(taken)}. On the legacy API the input"
            " shares its names with control fields: Sim would obey or drop them. Rename them in the workflow's Start"
            " block, or use a server with the v2 API.",
            workflow_id=workflow_id,
            outcome=Outcome.NEVER_SENT,
        )
    return dict(value)


def _execute(
    workflow_id: str,
    input: Any,
    run_id: str | None,
    read: Callable[[Request, Response], T],
    *,
    headers: Mapping[str, str] | None = None,
    controls: Mapping[str, Any] | None = None,
) -> Call[T]:
    body = {**as_body(input, workflow_id=check_workflow_id(workflow_id)), **(controls or {})}
    plain = Request(
        "POST",
        path_of("workflows", workflow_id, "execute"),
        subject=f"start workflow {workflow_id!r}",
        headers={"Content-Type": "application/json", **(headers or {})},
        body=json_body(body, workflow_id=workflow_id),
        repeatable=False,
        held_open="X-Execution-Mode" not in (headers or {}),
        workflow_id=workflow_id,
    )

    def under(run_id: str) -> Call[T]:
        request = under_run_id(plain, "X-Execution-Id", run_id)
        return Call(request, lambda response: read(request, response), renew=under)

    return under(run_id) if run_id is not None else Call(plain, lambda response: read(plain, response))


def _call(request: Request, read: Callable[[Request, Response, Any], T]) -> Call[T]:
    """A call whose every error answer is Sim's own."""

    def read_response(response: Response) -> T:
        if response.status >= 400:
            raise answers.refused(request, response)
        return read(request, response, read_json(request, response))

    return Call(request, read_response)
