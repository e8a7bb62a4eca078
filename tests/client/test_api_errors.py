"""What Sim answers when it doesn't start a run, and what may be tried again: each row once for each client."""

from __future__ import annotations

import pytest

from airflow_provider_sim.client.retry import NO_RETRY
from airflow_provider_sim.exceptions import (
    Outcome,
    SimAuthenticationError,
    SimConflictError,
    SimInputError,
    SimNotFoundError,
    SimPermanentError,
    SimPermissionError,
    SimRateLimitError,
    SimResponseError,
    SimRouteMissingError,
    SimRunIdConflictError,
    SimServerError,
    SimUsageLimitError,
    SimV2OffError,
    SimWorkflowNotDeployedError,
)
from tests.canned_server import Answer, canned

RETRIES = 2


def v2(status: int, code: str, message: str, details: object = None, **headers: str) -> Answer:
    error = {"code": code, "message": message} | ({} if details is None else {"details": details})
    return Answer(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


def legacy(status: int, error: str, headers: dict[str, str] | None = None, **more: object) -> Answer:
    return Answer(status, {"error": error, **more}, headers or {})


# Where the fate of an execution is unknown, the client asks for its run; here the server has none.
NO_RUNS = [
    ("/runs/", v2(404, "NOT_FOUND", "Run not found")),
    ("/executions/", legacy(404, "Execution not found")),
    ("/jobs/", legacy(404, "Task not found", code="TASK_NOT_FOUND")),
]

# name: (api_version, asynchronous, answer, error, its facts, starts of 1 + RETRIES, a new run id for each?)
ROWS = {
    "v2 wrong key": ("v2", False, v2(401, "UNAUTHORIZED", "Invalid API key"), SimAuthenticationError,
                     {"code": "UNAUTHORIZED"}, 1, None),
    "v2 usage limit": ("v2", False, v2(402, "USAGE_LIMIT_EXCEEDED", "Usage limit exceeded: $2 used of $1 limit."),
                       SimUsageLimitError, {"code": "USAGE_LIMIT_EXCEEDED", "run_id_spent": True}, 1, None),
    "v2 not deployed": ("v2", False, v2(403, "FORBIDDEN", "Workflow is not deployed",
                                        {"code": "WORKFLOW_NOT_DEPLOYED"}),
                        SimWorkflowNotDeployedError, {"detail_code": "WORKFLOW_NOT_DEPLOYED"}, 1, None),
    "v2 personal keys off": ("v2", False, v2(403, "FORBIDDEN", "Personal API keys are not allowed for this workspace",
                                             {"code": "PERSONAL_API_KEYS_DISABLED"}), SimPermissionError,
                             {"detail_code": "PERSONAL_API_KEYS_DISABLED"}, 1, None),
    "v2 unknown workflow": ("v2", False, v2(404, "NOT_FOUND", "Workflow not found"), SimNotFoundError,
                            {"code": "WORKFLOW_NOT_FOUND"}, 1, None),
    "v2 off": ("v2", False, v2(404, "NOT_FOUND", "Not found"), SimV2OffError, {"code": "V2_OFF"}, 1, None),
    "no such route": ("v2", False, Answer(404, b"<!DOCTYPE html><title>404</title>", {"content-type": "text/html"}),
                      SimRouteMissingError, {"code": "ROUTE_MISSING"}, 1, None),
    "v2 wrong field": ("v2", False, v2(400, "BAD_REQUEST", "Invalid input", [
        {"path": ["input"], "message": "expected record, received string", "code": "invalid_type"}]),
        SimInputError, {"code": "INVALID_INPUT"}, 1, None),
    "v2 run id used": ("v2", False, v2(409, "CONFLICT", "Run ID has already been used",
                                       {"code": "RUN_ID_CONFLICT", "runId": "r"}), SimRunIdConflictError,
                       {"code": "RUN_ID_CONFLICT", "run_id_spent": True}, 3, True),
    "v2 other conflict": ("v2", False, v2(409, "CONFLICT", "Paused execution is not resumable"), SimConflictError,
                          {"code": "CONFLICT"}, 1, None),
    "v2 too large": ("v2", False, v2(413, "PAYLOAD_TOO_LARGE", "Request body is too large"), SimInputError,
                     {"code": "PAYLOAD_TOO_LARGE"}, 1, None),
    "v2 request bucket": ("v2", False, v2(429, "RATE_LIMITED", "API rate limit exceeded",
                                          {"retryAfter": "2026-01-01T00:00:00.000Z"}, retry_after="7"),
                          SimRateLimitError, {"retry_after": 7.0, "run_id_spent": False}, 3, False),
    "v2 execution bucket": ("v2", True, v2(429, "RATE_LIMITED", "Rate limit exceeded. Please try again later.",
                                           {"code": "RATE_LIMIT_EXCEEDED"}, retry_after="42"), SimRateLimitError,
                            {"detail_code": "RATE_LIMIT_EXCEEDED", "retry_after": 42.0, "run_id_spent": True}, 3, True),
    "v2 concurrency": ("v2", True, v2(429, "RATE_LIMITED", "Too many concurrent executions are in progress",
                                      {"code": "EXECUTION_CONCURRENCY_LIMIT"}, retry_after="5"), SimRateLimitError,
                       {"detail_code": "EXECUTION_CONCURRENCY_LIMIT", "retry_after": 5.0, "run_id_spent": True},
                       3, True),
    "v2 gate": ("v2", False, v2(429, "RATE_LIMITED", "Server is at capacity. Please retry shortly.", retry_after="5"),
                SimRateLimitError, {"retry_after": 5.0, "run_id_spent": False}, 3, False),
    "v2 unavailable": ("v2", False, v2(503, "SERVICE_UNAVAILABLE", "Usage admission is temporarily unavailable",
                                       retry_after="5"), SimServerError,
                       {"code": "SERVICE_UNAVAILABLE", "outcome": Outcome.REFUSED}, 3, False),
    "v2 ambiguous queue": ("v2", True, v2(503, "SERVICE_UNAVAILABLE", "Async execution queue acceptance could not be"
                                          " confirmed", {"code": "ASYNC_ENQUEUE_AMBIGUOUS", "runId": "r"}),
                           SimServerError, {"code": "ASYNC_ENQUEUE_AMBIGUOUS", "outcome": Outcome.UNKNOWN}, 3, True),
    "v2 not queued": ("v2", True, v2(500, "INTERNAL_ERROR", "Failed to queue async execution"), SimServerError,
                      {"outcome": Outcome.REFUSED}, 3, False),
    "v2 failed somehow": ("v2", False, v2(500, "INTERNAL_ERROR", "Something broke"), SimServerError,
                          {"outcome": Outcome.UNKNOWN}, 3, False),
    "v2 proxy gave up": ("v2", False, Answer(504, b"<html>Gateway Time-out</html>", {"content-type": "text/html"}),
                         SimServerError, {"outcome": Outcome.UNKNOWN, "status": 504}, 3, False),
    "legacy wrong key": ("legacy", False, legacy(401, "Invalid API key"), SimAuthenticationError,
                         {"code": "UNAUTHORIZED"}, 3, False),
    "legacy usage limit": ("legacy", False, legacy(402, "Usage limit exceeded: $2 used of $1 limit."),
                           SimUsageLimitError, {"run_id_spent": True}, 1, None),
    "legacy not deployed": ("legacy", True, legacy(403, "Workflow is not deployed"), SimWorkflowNotDeployedError,
                            {"detail_code": "WORKFLOW_NOT_DEPLOYED"}, 1, None),
    "legacy other user": ("legacy", False, legacy(403, "Unauthorized: Access denied to read this workflow"),
                          SimPermissionError, {"code": "FORBIDDEN"}, 1, None),
    "legacy unknown workflow": ("legacy", False, legacy(404, "Workflow not found"), SimNotFoundError,
                                {"code": "WORKFLOW_NOT_FOUND"}, 1, None),
    "legacy bad body": ("legacy", False, legacy(400, "Invalid request body", details=[
        {"path": "stream", "message": "expected boolean"}]), SimInputError, {"code": "INVALID_INPUT"}, 1, None),
    "legacy id used": ("legacy", True, legacy(409, "Execution ID has already been used", code="EXECUTION_ID_CONFLICT",
                                              executionId="r"), SimRunIdConflictError, {"run_id_spent": True}, 3, True),
    "legacy too large": ("legacy", False, legacy(413, "Workflow execution request body exceeds maximum size"),
                         SimInputError, {"code": "PAYLOAD_TOO_LARGE"}, 1, None),
    "legacy bucket": ("legacy", True, legacy(429, "Rate limit exceeded. Please try again later."), SimRateLimitError,
                      {"detail_code": "RATE_LIMIT_EXCEEDED", "retry_after": None, "default_wait": 20.0,
                       "run_id_spent": True}, 3, True),
    "legacy concurrency": ("legacy", False, legacy(429, "Too many concurrent executions are in progress"),
                           SimRateLimitError,
                           {"detail_code": "EXECUTION_CONCURRENCY_LIMIT", "default_wait": 5.0}, 3, True),
    "legacy gate": ("legacy", False, legacy(429, "Too many requests", {"retry-after": "5"},
                                            code="ADMISSION_GATE_CAPACITY", retryable=True, retryAfterSeconds=5),
                    SimRateLimitError, {"detail_code": "ADMISSION_GATE_CAPACITY", "retry_after": 5.0}, 3, False),
    "legacy unavailable": ("legacy", False, legacy(503, "Service temporarily at capacity"), SimServerError,
                           {"outcome": Outcome.REFUSED}, 3, False),
    "legacy ambiguous queue": ("legacy", True, legacy(503, "Async execution queue acceptance could not be confirmed",
                                                      code="ASYNC_ENQUEUE_AMBIGUOUS"), SimServerError,
                               {"code": "ASYNC_ENQUEUE_AMBIGUOUS", "outcome": Outcome.UNKNOWN}, 3, True),
    "legacy not queued": ("legacy", True, legacy(500, "Failed to queue async execution"), SimServerError,
                          {"outcome": Outcome.REFUSED}, 3, False),
    "legacy failed somehow": ("legacy", True, legacy(500, "Something broke"), SimServerError,
                              {"outcome": Outcome.UNKNOWN}, 1, None),
    "legacy nobody receives it": ("legacy", True, legacy(499, "Client cancelled request"), SimServerError,
                                  {"outcome": Outcome.UNKNOWN}, 1, None),
    "a login page": ("v2", False, Answer(200, b"<html>Please log in</html>", {"content-type": "text/html"}),
                     SimResponseError, {"code": "INVALID_JSON", "outcome": Outcome.UNKNOWN}, 3, False),
    "a proxy's limit": ("legacy", True, Answer(429, b"slow down"), SimRateLimitError, {"outcome": Outcome.REFUSED},
                        3, False),
    "a proxy's size limit": ("v2", False, Answer(413, b"<html>Too large</html>", {"content-type": "text/html"}),
                             SimInputError, {"code": "PAYLOAD_TOO_LARGE", "outcome": Outcome.REFUSED}, 1, None),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_rejected_start_raises_and_retries_as_listed(connect, row):
    version, asynchronous, answer, kind, facts, attempts, renewed = ROWS[row]
    with canned(*NO_RUNS, ("/execute", answer)) as server:
        client = connect(server.url, api_version=version)
        with pytest.raises(kind) as caught:
            client.execute_with_retry("wf-1", {"a": 1}, async_execution=asynchronous, max_retries=RETRIES)
    error = caught.value
    assert {name: getattr(error, name) for name in facts} == facts
    assert error.status == answer.status
    assert "wf-1" in str(error)
    assert f"HTTP {answer.status}" in str(error)
    starts = [got for got in server.requests if got.method == "POST"]
    assert len(starts) == attempts
    run_ids = [got.run_id for got in starts]
    assert None not in run_ids
    if error.outcome is not Outcome.UNKNOWN and kind is not SimRunIdConflictError:
        assert len(server.requests) == attempts, "nothing to find out"
        assert len(client.sleeps) == attempts - 1
    if renewed is not None:
        assert len(set(run_ids)) == (attempts if renewed else 1), run_ids
    if wait := facts.get("retry_after"):
        assert all(wait <= slept <= wait * 1.25 for slept in client.sleeps), "never before the time that Sim names"


@pytest.mark.parametrize("row", ROWS)
def test_execute_workflow_sends_one_start_request(connect, row):
    version, asynchronous, answer, kind, *_ = ROWS[row]
    with canned(answer) as server:
        client = connect(server.url, api_version=version)
        with pytest.raises(kind):
            client.execute_workflow("wf-1", async_execution=asynchronous)
    # A held-open legacy answer that may be a Response block's is looked into, but nothing is started again.
    assert [got.method for got in server.requests].count("POST") == 1


def test_error_message_contains_server_message_and_request_id(connect):
    answer = v2(403, "FORBIDDEN", "Only on Tuesdays", None, x_request_id="abc12345")
    with canned(answer) as server, pytest.raises(SimPermanentError) as caught:
        connect(server.url, api_version="v2").execute_workflow("wf-1")
    assert "Only on Tuesdays" in str(caught.value)
    assert "request abc12345" in str(caught.value)
    assert caught.value.request_id == "abc12345"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("v2 request bucket", r"poll less often .*, and asks to wait 7 s\. \[HTTP"),
        ("v2 execution bucket", "executions per minute are used up.*, and asks to wait 42 s"),
        ("v2 concurrency", "concurrent runs is reached.*, and asks to wait 5 s"),
        ("v2 gate", "the server is at capacity.*, and asks to wait 5 s"),
        ("legacy bucket", r"executions per minute are used up.*try again later'\. \[HTTP"),
        ("legacy concurrency", r"concurrent runs is reached.*in progress'\. \[HTTP"),
        ("legacy gate", "the server is at capacity.*, and asks to wait 5 s"),
        ("a proxy's limit", "a proxy between this machine and Sim limits"),
        ("legacy not queued", "has started nothing"),
        ("v2 unavailable", "has done nothing; retry later.*, and asks to wait 5 s"),
        ("v2 ambiguous queue", "doesn't know whether it has queued the run.*unknown whether run '.+' was started"),
        ("v2 proxy gave up", "a web page: Sim may be down or overloaded.*unknown whether run '.+' was started"),
    ],
)
def test_rate_limit_message_names_limit_and_wait(connect, row, words):
    version, asynchronous, answer, kind, *_ = ROWS[row]
    with canned(answer) as server, pytest.raises(kind, match=words):
        connect(server.url, api_version=version).execute_workflow("wf-1", async_execution=asynchronous)


def test_v1_rate_limit_is_a_request_limit(connect):
    told = {"error": "Rate limit exceeded", "message": "API rate limit exceeded", "retryAfter": 1_790_000_000_000}
    with canned(Answer(429, told, {"retry-after": "9"})) as server:
        client = connect(server.url, api_version="legacy")
        with pytest.raises(SimRateLimitError, match=r"poll less often.*asks to wait 9 s") as caught:
            client.with_retry(NO_RETRY).get_workflow("wf-1")
    assert (caught.value.detail_code, caught.value.retry_after, caught.value.run_id_spent) == (None, 9.0, False)


def test_error_message_contains_validation_issues(connect):
    with canned(ROWS["v2 wrong field"][2]) as server, pytest.raises(SimInputError) as caught:
        connect(server.url, api_version="v2").execute_workflow("wf-1")
    assert "input: expected record, received string" in str(caught.value)


def test_successful_retry_returns_the_result(connect):
    done = {"data": {"runId": "r", "workflowId": "wf-1", "status": "completed", "output": {"a": 1}, "error": None}}
    with canned(ROWS["v2 gate"][2], Answer(200, done)) as server:
        client = connect(server.url, api_version="v2")
        assert client.execute_with_retry("wf-1").output == {"a": 1}
    assert len(client.sleeps) == 1


def test_fixed_run_id_is_not_retried_after_rejection(connect):
    with canned(ROWS["v2 concurrency"][2]) as server:
        client = connect(server.url, api_version="v2")
        with pytest.raises(SimRateLimitError):
            client.execute_with_retry("wf-1", async_execution=True, run_id="mine", max_retries=RETRIES)
    assert [got.run_id for got in server.requests] == ["mine"]


def test_too_long_retry_after_is_not_waited_for(connect):
    with canned(v2(429, "RATE_LIMITED", "API rate limit exceeded", retry_after="3600")) as server:
        client = connect(server.url, api_version="v2")
        with pytest.raises(SimRateLimitError) as caught:
            client.execute_with_retry("wf-1")
    assert (caught.value.retry_after, client.sleeps) == (3600.0, [])


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_read_request_is_retried_after_server_error(connect, status):
    run = {"data": {"runId": "r", "workflowId": "w", "status": "running"}}
    with canned(Answer(status, b"oops"), Answer(status, b"oops"), Answer(200, run)) as server:
        client = connect(server.url, api_version="v2")
        assert client.get_workflow_run("w", "r").status == "running"
    assert len(server.requests) == 3
