"""Each call of both dialects as a whole: what is sent, what a full answer means, and what is said of any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_sim.client.api import legacy, v2
from airflow_provider_sim.client.api.http import Call, Request, Response
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    BillingStatus,
    Cancellation,
    Deployment,
    DeploymentAttempt,
    Page,
    Pause,
    PausedRun,
    PausePoint,
    RateLimit,
    RunError,
    RunStatus,
    UsageLimits,
    Workflow,
    WorkflowExecutionResult,
    WorkflowInput,
    WorkflowRun,
    Workspace,
)
from airflow_provider_sim.exceptions import Outcome, SimResponseError, SimRouteMissingError

JSON = {"Content-Type": "application/json"}
BEGAN, ENDED = "2027-01-15T08:00:00.000Z", "2027-01-15T08:00:05.000Z"


def answer(body: object, status: int = 200) -> Response:
    return Response(status, {"content-type": "application/json"}, json.dumps(body).encode())


def start(api: str, run_id_header: str, body: bytes, *, bucket: str | None, sync: bool = True, **headers: str):
    """The request that starts workflow ``w`` as run ``r``."""
    return Request(
        "POST",
        f"{api}/workflows/w/execute",
        "start workflow 'w'",
        {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}, run_id_header: "r"},
        body,
        idempotent=False,
        sync=sync,
        workflow_id="w",
        run_id="r",
        run_id_header=run_id_header,
        bucket=bucket,
    )


def of_run(method: str, path: str, verb: str, bucket: str | None = None) -> Request:
    return Request(method, path, f"{verb} run 'r' of workflow 'w'", workflow_id="w", run_id="r", bucket=bucket)


def of_workflow(method: str, path: str, verb: str, bucket: str | None = None, body: bytes | None = None) -> Request:
    return Request(
        method,
        path,
        f"{verb} workflow 'w'",
        JSON if body is not None else {},
        body,
        idempotent=body is None,
        workflow_id="w",
        bucket=bucket,
    )


def resume(path: str, body: bytes, bucket: str | None) -> Request:
    return Request(
        "POST",
        path,
        "resume run 'r' of workflow 'w'",
        JSON,
        body,
        idempotent=False,
        sync=True,
        workflow_id="w",
        run_id="r",
        bucket=bucket,
    )


def run_told(**names: str) -> dict[str, Any]:
    """A run with everything that is ever told of one; ``names`` are those that a dialect gives its fields."""
    told = {
        "run_id": "r",
        "workflowId": "w",
        "status": "failed",
        "output": {"a": 1},
        "blockOutputs": {"b": 2},
        "error": {"message": "boom", "code": "C", "blockId": "b", "blockName": "Agent"},
        "paused": {
            "contextId": "c",
            "pauseKind": "time",
            "resumeAt": ENDED,
            "blockedOnBlockId": "b-2",
        },
        "trigger": "api",
        "startedAt": BEGAN,
        "endedAt": ENDED,
        "duration": 5000,
        "cost": {"total": 0.25},
    }
    return {names.get(name, name): value for name, value in told.items()}


FULL_RUN = WorkflowRun(
    run_id="r",
    workflow_id="w",
    status=RunStatus.FAILED,
    server_status="failed",
    output={"a": 1},
    output_is_display_copy=True,
    block_outputs={"b": 2},
    error=RunError("boom", "C", "Agent"),
    paused=Pause("c", "time", ENDED),
    trigger="api",
    started_at=BEGAN,
    ended_at=ENDED,
    duration_ms=5000.0,
    cost_usd=0.25,
)

DEPLOYED = {
    "data": {
        "id": "w-1",
        "isDeployed": True,
        "activeDeployment": {"version": 3},
        "deployedAt": BEGAN,
        "needsRedeployment": True,
        "latestDeploymentAttempt": {
            "version": 4,
            "status": "failed",
            "error": {"message": "no"},
        },
        "warnings": ["one", "two"],
    }
}
DEPLOYMENT = Deployment(
    workflow_id="w-1",
    is_deployed=True,
    version=3,
    deployed_at=BEGAN,
    needs_redeployment=True,
    latest_attempt=DeploymentAttempt(version=4, status="failed", error="no"),
    warnings=("one", "two"),
)

WORKFLOW = {
    "id": "w-1",
    "name": "Echo",
    "workspaceId": "space",
    "isDeployed": True,
    "inputs": [{"name": "message", "type": "string"}, {"name": "count"}, {"type": "nameless"}],
}
FULL_WORKFLOW = Workflow(
    workflow_id="w-1",
    name="Echo",
    workspace_id="space",
    is_deployed=True,
    inputs=(WorkflowInput(name="message", type="string"), WorkflowInput(name="count", type="")),
)

BUCKET = {
    "isLimited": True,
    "requestsPerMinute": 30,
    "limit": 7,
    "maxBurst": 60,
    "remaining": 12,
    "resetAt": ENDED,
}

V2_RUN = "/api/v2/workflows/w/runs/r"
RUN = "/api/workflows/w/executions/r"

# name: (what makes the call, its request, the body of a full answer, what that means)
ROWS: dict[str, tuple[Callable[[], Call[Any]], Request, Any, Any]] = {
    "v2 execute": (
        lambda: v2.execute("w", {"a": 1}, run_id="r"),
        start("/api/v2", "X-Run-Id", b'{"input":{"a":1}}', bucket="workflows.execute"),
        {
            "data": {
                "runId": "r-1",
                "workflowId": "w-1",
                "status": "failed",
                "output": {"a": 1},
                "error": {"message": "boom"},
                "startedAt": BEGAN,
                "endedAt": ENDED,
                "durationMs": 5000,
            }
        },
        WorkflowExecutionResult(
            run_id="r-1",
            workflow_id="w-1",
            status=RunStatus.FAILED,
            server_status="failed",
            output={"a": 1},
            error=RunError("boom"),
            started_at=BEGAN,
            ended_at=ENDED,
            duration_ms=5000.0,
        ),
    ),
    "v2 execute, paused": (
        lambda: v2.execute("w", None, run_id="r"),
        start("/api/v2", "X-Run-Id", b'{"input":{}}', bucket="workflows.execute"),
        {"data": {"runId": "r", "status": "paused", "output": {"data": {"_resume": {"contextId": "c"}}}}},
        WorkflowExecutionResult(
            run_id="r",
            workflow_id="w",
            status=RunStatus.PAUSED,
            server_status="paused",
            output={"data": {"_resume": {"contextId": "c"}}},
            paused=Pause("c", "human"),
        ),
    ),
    "v2 execute asynchronously": (
        lambda: v2.execute("w", {}, run_id="r", async_execution=True, run_timeout=60),
        start(
            "/api/v2",
            "X-Run-Id",
            b'{"input":{},"async":true,"executionTimeoutSeconds":60}',
            bucket="workflows.execute",
            sync=False,
        ),
        {"data": {"runId": "r-1"}},
        AsyncExecutionResult(run_id="r-1", workflow_id="w"),
    ),
    "v2 stream": (
        lambda: v2.execute("w", {}, run_id="r", stream=True, selected_outputs=["A.x"]),
        start(
            "/api/v2", "X-Run-Id", b'{"input":{},"stream":true,"selectedOutputs":["A.x"]}', bucket="workflows.execute"
        ),
        {"data": {"runId": "r", "status": "completed"}},
        WorkflowExecutionResult(run_id="r", workflow_id="w", status=RunStatus.COMPLETED, server_status="completed"),
    ),
    "v2 run": (
        lambda: v2.get_run("w", "r", include_output=True, selected_outputs=["b", "c"]),
        of_run("GET", f"{V2_RUN}?includeOutput=true&selectedOutputs=b%2Cc", "read", "workflows.runs.read"),
        {"data": run_told(run_id="runId", duration="durationMs")},
        FULL_RUN,
    ),
    "v2 runs": (
        lambda: v2.list_runs(
            "w", status="failed", trigger="api", start_date=BEGAN, end_date=ENDED, limit=5, cursor="n", order="asc"
        ),
        Request(
            "GET",
            "/api/v2/workflows/w/runs?status=failed&trigger=api&startDate=2027-01-15T08%3A00%3A00.000Z"
            "&endDate=2027-01-15T08%3A00%3A05.000Z&limit=5&cursor=n&order=asc",
            "list the runs of workflow 'w'",
            workflow_id="w",
            bucket="workflows.runs.list",
        ),
        {"data": [run_told(run_id="runId", duration="durationMs")], "nextCursor": "next"},
        Page(items=(FULL_RUN,), next_cursor="next"),
    ),
    "v2 logs": (
        lambda: v2.list_logs(
            "space",
            workflow_ids=["w", "v"],
            triggers=["api", "chat"],
            start_date=BEGAN,
            end_date=ENDED,
            limit=5,
            cursor="n",
            order="asc",
        ),
        Request(
            "GET",
            "/api/v2/logs?workspaceId=space&workflowIds=w%2Cv&triggers=api%2Cchat"
            "&startDate=2027-01-15T08%3A00%3A00.000Z&endDate=2027-01-15T08%3A00%3A05.000Z&limit=5&cursor=n&order=asc",
            "list the runs of workspace 'space'",
            bucket="logs.list",
        ),
        {"data": [run_told(run_id="runId", output="finalOutput", duration="totalDurationMs")], "nextCursor": "next"},
        Page(items=(FULL_RUN,), next_cursor="next"),
    ),
    "v2 cancel": (
        lambda: v2.cancel_run("w", "r"),
        of_run("POST", f"{V2_RUN}/cancel", "cancel", "workflows.runs.cancel"),
        {"data": {"runId": "r-1", "success": True, "reason": "recorded"}},
        Cancellation(run_id="r-1", accepted=True, reason="recorded"),
    ),
    "v2 resume": (
        lambda: v2.resume_run("w", "r", "c", {"yes": True}),
        resume(f"{V2_RUN}/resume", b'{"contextId":"c","input":{"yes":true}}', "workflows.runs.resume"),
        {"data": {"runId": "attempt", "status": "running", "output": 7}},
        RunStatus.RUNNING,
    ),
    "v2 workflow": (
        lambda: v2.get_workflow("w"),
        of_workflow("GET", "/api/v2/workflows/w", "read", "workflows.read"),
        {"data": WORKFLOW},
        FULL_WORKFLOW,
    ),
    "v2 deployment": (
        lambda: v2.deployment("w"),
        of_workflow("GET", "/api/v2/workflows/w/deployment", "read the deployment of", "workflows.deployment.read"),
        DEPLOYED,
        DEPLOYMENT,
    ),
    "v2 deploy": (
        lambda: v2.deployment("w", "deploy", name="one", description="first"),
        of_workflow(
            "POST",
            "/api/v2/workflows/w/deploy",
            "deploy",
            "workflows.deploy",
            b'{"name":"one","description":"first"}',
        ),
        {"data": {"isDeployed": False}},
        Deployment(workflow_id="w", is_deployed=False),
    ),
    "v2 undeploy": (
        lambda: v2.deployment("w", "undeploy"),
        of_workflow("DELETE", "/api/v2/workflows/w/deploy", "undeploy", "workflows.undeploy"),
        DEPLOYED,
        DEPLOYMENT,
    ),
    "v2 roll back": (
        lambda: v2.deployment("w", "rollback", version=2),
        of_workflow("POST", "/api/v2/workflows/w/rollback", "roll back", "workflows.rollback", b'{"version":2}'),
        DEPLOYED,
        DEPLOYMENT,
    ),
    "v2 roll back to the one before": (
        lambda: v2.deployment("w", "rollback"),
        of_workflow("POST", "/api/v2/workflows/w/rollback", "roll back", "workflows.rollback", b"{}"),
        DEPLOYED,
        DEPLOYMENT,
    ),
    "v2 billing": (
        lambda: v2.get_billing_status(),
        Request("GET", "/api/v2/billing/status", "read the billing status", bucket="billing.status"),
        {
            "data": {
                "plan": "pro",
                "status": "limit_exceeded",
                "period": {"start": BEGAN, "end": ENDED},
                "credits": {"used": 1, "limit": 4, "remaining": 3},
            }
        },
        BillingStatus(
            plan="pro",
            account_status="limit_exceeded",
            period_start=BEGAN,
            period_end=ENDED,
            credits_used=1.0,
            credits_limit=4.0,
            credits_remaining=3.0,
        ),
    ),
    "v2 workspaces": (
        lambda: v2.list_workspaces(),
        Request("GET", "/api/v2/workspaces", "list the workspaces", bucket="workspaces.list"),
        {"data": [{"id": "space", "name": "Ours"}, {"id": "other"}]},
        Page(items=(Workspace(workspace_id="space", name="Ours"), Workspace(workspace_id="other", name=None))),
    ),
    "legacy execute": (
        lambda: legacy.execute("w", {"a": 1}, run_id="r"),
        start("/api", "X-Execution-Id", b'{"a":1}', bucket=None),
        {
            "success": True,
            "output": {"a": 1},
            "metadata": {"executionId": "r-1", "startTime": BEGAN, "endTime": ENDED, "duration": 5000},
        },
        WorkflowExecutionResult(
            run_id="r-1",
            workflow_id="w",
            status=RunStatus.COMPLETED,
            output={"a": 1},
            started_at=BEGAN,
            ended_at=ENDED,
            duration_ms=5000.0,
        ),
    ),
    "legacy execute asynchronously": (
        lambda: legacy.execute("w", {}, run_id="r", async_execution=True, run_timeout=60),
        start(
            "/api",
            "X-Execution-Id",
            b"{}",
            bucket=None,
            sync=False,
            X_Execution_Mode="async",
            X_Execution_Timeout_Seconds="60",
        ),
        {"async": True, "jobId": "workflow-execution:r", "message": "queued"},
        AsyncExecutionResult(
            run_id="r",
            workflow_id="w",
            job_id="workflow-execution:r",
            run_id_is_ours=True,
        ),
    ),
    "legacy execute asynchronously, under another id": (
        lambda: legacy.execute("w", {}, run_id="r", async_execution=True, run_timeout=None),
        start("/api", "X-Execution-Id", b"{}", bucket=None, sync=False, X_Execution_Mode="async"),
        {"async": True, "jobId": "task_1"},
        AsyncExecutionResult(run_id="task_1", workflow_id="w", job_id="task_1", run_id_is_ours=False),
    ),
    "legacy stream": (
        lambda: legacy.execute("w", {}, run_id="r", stream=True, selected_outputs=["A.x"]),
        start("/api", "X-Execution-Id", b'{"stream":true,"selectedOutputs":["A.x"]}', bucket=None),
        {"success": False, "error": "boom", "executionId": "r-1"},
        WorkflowExecutionResult(run_id="r-1", workflow_id="w", status=RunStatus.FAILED, error=RunError("boom")),
    ),
    "legacy run": (
        lambda: legacy.get_run("w", "r", include_output=True, selected_outputs=["b", "c"]),
        of_run("GET", f"{RUN}?includeOutput=true&selectedOutputs=b%2Cc", "read"),
        run_told(run_id="executionId", output="finalOutput", duration="totalDurationMs"),
        FULL_RUN,
    ),
    "legacy job": (
        lambda: legacy.get_job("workflow-execution:r", workflow_id="w"),
        Request(
            "GET",
            "/api/jobs/workflow-execution:r",
            "read job 'workflow-execution:r'",
            workflow_id="w",
            run_id="r",
        ),
        {
            "taskId": "task_1",
            "status": "completed",
            "output": {"success": False, "output": {"a": 1}, "error": "boom", "executionId": "r-1"},
            "metadata": {
                "workflowId": "w-1",
                "startedAt": BEGAN,
                "completedAt": ENDED,
                "duration": 5000,
                "correlation": {"executionId": "r-2", "triggerType": "schedule"},
            },
        },
        WorkflowRun(
            run_id="r-1",
            workflow_id="w-1",
            status=RunStatus.FAILED,
            server_status="completed",
            output={"a": 1},
            error=RunError("boom"),
            trigger="schedule",
            started_at=BEGAN,
            ended_at=ENDED,
            duration_ms=5000.0,
        ),
    ),
    "legacy job, of a run that its queue entry names": (
        lambda: legacy.get_job("task_1"),
        Request("GET", "/api/jobs/task_1", "read job 'task_1'", run_id="task_1"),
        {
            "status": "failed",
            "error": "boom",
            "output": {"workflowId": "w-2"},
            "metadata": {"correlation": {"executionId": "r-2"}},
        },
        WorkflowRun(
            run_id="r-2",
            workflow_id="w-2",
            status=RunStatus.FAILED,
            server_status="failed",
            output={"workflowId": "w-2"},
            error=RunError("boom"),
        ),
    ),
    "legacy cancel": (
        lambda: legacy.cancel_run("w", "r"),
        of_run("POST", f"{RUN}/cancel", "cancel"),
        {"executionId": "r-1", "success": True, "reason": "recorded"},
        Cancellation(run_id="r-1", accepted=True, reason="recorded"),
    ),
    "legacy resume": (
        lambda: legacy.resume_run("w", "r", "c", {"yes": True}),
        resume("/api/resume/w/r/c", b'{"input":{"yes":true}}', None),
        {"executionId": "attempt", "status": "running", "output": 7},
        RunStatus.RUNNING,
    ),
    "legacy pauses": (
        lambda: legacy.get_paused_run("w", "r"),
        of_run("GET", "/api/resume/w/r", "read the pauses of"),
        {
            "executionId": "r-1",
            "resumedCount": 2,
            "pausePoints": [
                {
                    "contextId": "c",
                    "resumeStatus": "paused",
                    "pauseKind": "human",
                    "blockId": "b",
                    "response": {
                        "data": {
                            "inputFormat": [{"name": "yes", "type": "boolean"}, {"name": "why"}, {"type": "nameless"}],
                            "responseStructure": [{"name": "draft", "value": "Dear"}, {"name": "n", "value": 2}],
                        }
                    },
                },
                {
                    "contextId": "d",
                    "response": {
                        "inputFormat": [{"name": "ok", "type": "string"}],
                        "responseStructure": [{"name": "draft", "value": "Dear"}, {"name": "none", "value": ""}],
                    },
                },
                {"blockId": "without a context"},
            ],
        },
        PausedRun(
            points=(
                PausePoint(
                    context_id="c",
                    status="paused",
                    kind="human",
                    question="draft: Dear\nn: 2",
                    fields=(WorkflowInput(name="yes", type="boolean"), WorkflowInput(name="why", type="")),
                ),
                PausePoint(context_id="d", question="Dear", fields=(WorkflowInput(name="ok", type="string"),)),
            ),
            resumed_count=2,
        ),
    ),
    "legacy deployment": (
        lambda: legacy.get_workflow_status("w"),
        of_workflow("GET", "/api/workflows/w/status", "read the deployment of"),
        {"isDeployed": True, "deployedAt": BEGAN, "needsRedeployment": True},
        Deployment(workflow_id="w", is_deployed=True, deployed_at=BEGAN, needs_redeployment=True),
    ),
    "legacy workflow": (
        lambda: legacy.get_workflow("w"),
        of_workflow("GET", "/api/v1/workflows/w", "read"),
        {"data": WORKFLOW},
        FULL_WORKFLOW,
    ),
    "legacy usage": (
        lambda: legacy.get_usage_limits(),
        Request("GET", "/api/users/me/usage-limits", "read the usage limits"),
        {
            "rateLimit": {"sync": BUCKET, "async": {"isLimited": False, "requestsPerMinute": 7, "remaining": 0}},
            "usage": {"currentPeriodCost": 1.5, "limit": 20, "plan": "pro"},
        },
        UsageLimits(
            sync=RateLimit(is_limited=True, requests_per_minute=30, max_burst=60, remaining=12, reset_at=ENDED),
            asynchronous=RateLimit(is_limited=True, requests_per_minute=7, max_burst=None, remaining=0, reset_at=None),
            current_period_cost_usd=1.5,
            limit_usd=20.0,
            plan="pro",
        ),
    ),
}

ANY_JSON_WILL_DO = {
    "legacy cancel",
    "legacy execute",
    "legacy resume",
    "legacy stream",
    "legacy workflow",
    "v2 cancel",
    "v2 resume",
    "v2 workflow",
}
"""Calls whose answers hold nothing that must be there; a Response block's can be anything."""
DEMANDING = sorted(ROWS.keys() - ANY_JSON_WILL_DO)


@pytest.mark.parametrize("name", ROWS)
def test_each_call_builds_the_expected_request(name):
    make, request, _, _ = ROWS[name]
    assert make().request == request


@pytest.mark.parametrize("name", ROWS)
def test_each_call_parses_a_full_response(name):
    make, _, body, meaning = ROWS[name]
    status = 202 if "asynchronously" in name else 500 if name == "legacy stream" else 200
    assert make().read(answer(body, status)) == meaning


@pytest.mark.parametrize("name", DEMANDING)
def test_foreign_response_names_the_request(name):
    make, request, _, _ = ROWS[name]
    body = {"data": {"of": "something else"}} if request.path.startswith("/api/v2/") else {"of": "something else"}
    status = 202 if "asynchronously" in name else 200
    with pytest.raises(SimResponseError, match=rf"not what Sim.*\[HTTP {status}\]") as caught:
        make().read(answer(body, status))
    error = caught.value
    assert error.status == status
    assert str(error).startswith(f"Could not {request.subject}: the response is JSON, but not what Sim")
    assert (error.workflow_id, error.run_id) == (request.workflow_id, request.run_id)
    assert error.outcome is (Outcome.REFUSED if request.idempotent else Outcome.UNKNOWN)


@pytest.mark.parametrize("name", ROWS)
def test_rejection_names_the_request(name):
    make, request, _, _ = ROWS[name]
    body = {"error": {"code": "X", "message": "Nope"}} if request.path.startswith("/api/v2/") else {"error": "Nope"}
    with pytest.raises(Exception, match="Could not") as caught:
        make().read(answer(body, 403))
    error = getattr(caught.value, "rejection", caught.value)
    assert str(error).startswith(f"Could not {request.subject}: ")
    assert (error.status, error.workflow_id, error.run_id) == (403, request.workflow_id, request.run_id)


@pytest.mark.parametrize("name", ["v2 runs", "v2 logs", "v2 workspaces"])
def test_list_with_an_invalid_entry_is_rejected(name):
    make, request, body, _ = ROWS[name]
    with pytest.raises(SimResponseError, match=rf"Could not {request.subject}: .*\[HTTP 200\]"):
        make().read(answer({"data": [*body["data"], {"of": "something else"}]}))


@pytest.mark.parametrize("name", ["v2 run", "legacy run"])
def test_missing_route_is_named_without_the_query(name):
    make, request, _, _ = ROWS[name]
    path = request.path.partition("?")[0]
    with pytest.raises(SimRouteMissingError, match=f"there is no Sim API at {path}: "):
        make().read(Response(404, {"content-type": "text/html"}, b"<html>"))


def test_cancel_409_means_run_is_already_over():
    refused = legacy.cancel_run("w", "r").read(answer({"error": "Execution is over"}, 409))
    assert refused == Cancellation(run_id="r", accepted=False, reason="already_over")


@pytest.mark.parametrize("dialect", [v2, legacy])
def test_with_run_id_replaces_the_run_id(dialect):
    call = dialect.execute("w", {"a": 1}, run_id="r")
    assert call.with_run_id("s").request == dialect.execute("w", {"a": 1}, run_id="s").request
