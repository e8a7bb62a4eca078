"""Starts after lost or failed requests: lookups, retries and re-attached runs, for both APIs and clients."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_sim.client.models import AsyncExecutionResult, RunStatus, WorkflowExecutionResult
from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.exceptions import (
    Outcome,
    SimAuthenticationError,
    SimConnectionError,
    SimRateLimitError,
    SimRunIdConflictError,
    SimServerError,
)
from tests.canned_server import Answer, CannedServer, canned

RETRIES = 2


class V2:
    """Responses of the v2 API."""

    version = "v2"
    run_path = "/runs/"
    accepted = Answer(202, {"data": {"runId": "fresh", "statusUrl": "x"}})
    finished = Answer(200, {"data": {"runId": "fresh", "workflowId": "w", "status": "completed", "output": {"a": 1}}})
    unknown_run = Answer(404, {"error": {"code": "NOT_FOUND", "message": "Run not found"}})
    broke = Answer(500, {"error": {"code": "INTERNAL_ERROR", "message": "Something broke"}})
    id_used = Answer(
        409, {"error": {"code": "CONFLICT", "message": "Run ID has already been used", "details": {
            "code": "RUN_ID_CONFLICT", "runId": "r"}}}
    )  # fmt: skip
    ambiguous = Answer(
        503, {"error": {"code": "SERVICE_UNAVAILABLE", "message": "Async execution queue acceptance could not be"
                        " confirmed", "details": {"code": "ASYNC_ENQUEUE_AMBIGUOUS", "runId": "r"}}}
    )  # fmt: skip
    down = Answer(503, {"error": {"code": "SERVICE_UNAVAILABLE", "message": "Usage admission is unavailable"}})
    busy = Answer(
        429, {"error": {"code": "RATE_LIMITED", "message": "Too many concurrent executions",
                        "details": {"code": "EXECUTION_CONCURRENCY_LIMIT"}}}, {"retry-after": "5"}
    )  # fmt: skip

    @staticmethod
    def run(status: str, error: str | None = None) -> Answer:
        failure = {"message": error, "code": "EXECUTION_FAILED"} if error else None
        data = {"runId": "r", "workflowId": "w", "status": status, "error": failure, "output": {"a": 1}}
        return Answer(200, {"data": data})


class Legacy:
    """Responses of the legacy API."""

    version = "legacy"
    run_path = "/executions/"
    accepted = Answer(202, {"success": True, "async": True, "jobId": "workflow-execution:mine", "executionId": "mine"})
    finished = Answer(200, {"success": True, "executionId": "fresh", "output": {"a": 1}})
    unknown_run = Answer(404, {"error": "Execution not found"})
    broke = Answer(500, {"error": "Something broke"})
    id_used = Answer(409, {"error": "Execution ID has already been used", "code": "EXECUTION_ID_CONFLICT"})
    ambiguous = Answer(
        503, {"error": "Async execution queue acceptance could not be confirmed", "code": "ASYNC_ENQUEUE_AMBIGUOUS"}
    )
    down = Answer(503, {"error": "Service temporarily at capacity"})
    busy = Answer(429, {"error": "Too many concurrent executions are in progress"})

    @staticmethod
    def run(status: str, error: str | None = None) -> Answer:
        body = {"executionId": "r", "workflowId": "w", "status": status, "error": error, "finalOutput": {"a": 1}}
        return Answer(200, body)


NO_JOB = ("/jobs/", Answer(404, {"error": "Task not found", "code": "TASK_NOT_FOUND"}))
LOST = {
    "no answer": Answer(silent=True),
    "half an answer": Answer(202, b'{"data": {"runId": "r"}}', cut=9),
    "a proxy's 502": Answer(502, b"<html>Bad Gateway</html>", {"content-type": "text/html"}),
    "a 500 without a message": None,
}


@pytest.fixture(params=[V2, Legacy], ids=["v2", "legacy"])
def api(request):
    """Each API version in turn."""
    return request.param


@pytest.fixture(params=LOST)
def lost(request, api):
    """Each way of losing a response."""
    return LOST[request.param] or api.broke


@pytest.fixture
def lost_held_open(api, lost):
    """The same for a sync start: there a legacy JSON 500 may be the workflow's own Response block."""
    if api is Legacy and lost is Legacy.broke:
        return Answer(500, b"Internal Server Error")
    return lost


def starts(server: CannedServer) -> list[str | None]:
    """The run IDs of all start requests."""
    return [got.run_id for got in server.requests if got.method == "POST"]


def submit(connect, server, api, *, asynchronous: bool = True, delay: float = 1.0, **options: Any) -> Any:
    """Start a workflow with a new client; return the result and the client."""
    client = connect(server.url, api_version=api.version, retry=RetryPolicy(max_retries=RETRIES, initial_delay=delay))
    return client.start_workflow_run("w", async_execution=asynchronous, **options), client


class TestLostResponse:
    @pytest.mark.parametrize("status", ["queued", "running", "paused", "completed", "failed", "cancelled", "redacting"])
    def test_existing_run_is_reattached(self, connect, api, lost, status, caplog):
        with canned(NO_JOB, (api.run_path, api.run(status)), ("/execute", lost)) as server:
            taken, _ = submit(connect, server, api)
        assert isinstance(taken, AsyncExecutionResult)
        assert (taken.run_id, taken.status) == ("r", status)
        assert len(starts(server)) == 1
        assert f"exists and is {status}" in caplog.text

    @pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled"])
    def test_sync_start_returns_the_existing_run(self, connect, api, lost_held_open, status):
        error = "Boom: no" if status == "failed" else None
        with canned(NO_JOB, (api.run_path, api.run(status, error)), ("/execute", lost_held_open)) as server:
            taken, _ = submit(connect, server, api, asynchronous=False)
        assert isinstance(taken, WorkflowExecutionResult)
        assert (taken.run_id, taken.status) == ("r", status)
        if status == "completed":
            assert taken.output == {"a": 1}
        assert len(starts(server)) == 1

    def test_missing_run_is_started_with_the_same_id(self, connect, lost):
        with canned(NO_JOB, (V2.run_path, V2.unknown_run), ("/execute", lost), ("/execute", V2.accepted)) as server:
            submit(connect, server, V2)
        first, second = starts(server)
        assert first == second

    def test_retries_follow_the_policy(self, connect, lost):
        with (
            canned(NO_JOB, (V2.run_path, V2.unknown_run), ("/execute", lost)) as server,
            pytest.raises((SimConnectionError, SimServerError)) as caught,
        ):
            submit(connect, server, V2)
        assert caught.value.outcome is Outcome.UNKNOWN
        assert len(starts(server)) == 1 + RETRIES
        assert len(set(starts(server))) == 1

    def test_start_is_not_retried_if_server_may_choose_ids(self, connect, lost):
        with (
            canned(NO_JOB, (Legacy.run_path, Legacy.unknown_run), ("/execute", lost)) as server,
            pytest.raises((SimConnectionError, SimServerError)),
        ):
            submit(connect, server, Legacy)
        assert len(starts(server)) == 1

    def test_legacy_start_is_retried_if_server_keeps_ids(self, connect, lost):
        answers = [("/execute", answer) for answer in (Legacy.accepted, lost, Legacy.accepted)]
        with canned(NO_JOB, (Legacy.run_path, Legacy.unknown_run), *answers) as server:
            client = connect(server.url, api_version="legacy")
            for _ in range(2):
                client.execute_with_retry("w", async_execution=True, run_id="mine")
        assert starts(server) == ["mine"] * 3

    def test_start_is_not_retried_after_failed_lookup(self, connect, api, lost):
        with (
            canned(NO_JOB, (api.run_path, Answer(500, b"")), ("/execute", lost)) as server,
            pytest.raises((SimConnectionError, SimServerError), match="Could not start"),
        ):
            submit(connect, server, api)
        assert len(starts(server)) == 1

    def test_failed_lookup_is_retried(self, connect, api, lost):
        lookups = [(api.run_path, answer) for answer in (Answer(500, b""), Answer(silent=True), api.run("running"))]
        with canned(NO_JOB, *lookups, ("/execute", lost)) as server:
            taken, _ = submit(connect, server, api)
        assert taken.status is RunStatus.RUNNING
        assert len(starts(server)) == 1

    def test_run_visible_after_a_moment_is_reattached(self, connect, lost):
        lookups = [(V2.run_path, answer) for answer in (V2.unknown_run, V2.run("running"))]
        with canned(NO_JOB, *lookups, ("/execute", lost)) as server:
            taken, client = submit(connect, server, V2)
        assert taken.run_id == "r"
        assert len(client.sleeps) == 1
        assert len(starts(server)) == 1

    def test_lost_stream_ends_with_the_run_result(self, connect, api, lost_held_open):
        with canned(NO_JOB, (api.run_path, api.run("completed")), ("/execute", lost_held_open)) as server:
            client = connect(server.url, api_version=api.version)
            [end] = client.events(client.execute_with_retry("w", stream=True, max_retries=RETRIES))
        assert (end.result.status, end.result.output) == ("completed", {"a": 1})
        assert len(starts(server)) == 1


class TestAmbiguousQueue:
    def test_existing_run_is_reattached(self, connect, api):
        with canned(NO_JOB, (api.run_path, api.run("queued")), ("/execute", api.ambiguous)) as server:
            taken, _ = submit(connect, server, api)
        assert taken.run_id == "r"
        assert len(starts(server)) == 1

    def test_run_missing_after_a_minute_is_started_again(self, connect, api):
        answers = [("/execute", api.ambiguous), ("/execute", api.accepted)]
        with canned(NO_JOB, (api.run_path, api.unknown_run), *answers) as server:
            _, client = submit(connect, server, api)
        first, second = starts(server)
        assert first != second, "Sim keeps the claim on an id whose fate it doesn't know"
        assert 45 <= sum(client.sleeps) <= 60

    def test_earlier_waits_do_not_shorten_the_minute(self, connect, api):
        busy = replace(api.busy, headers={"retry-after": "50"})
        answers = [("/execute", answer) for answer in (busy, api.ambiguous, api.ambiguous, api.accepted)]
        with canned(NO_JOB, (api.run_path, api.unknown_run), *answers) as server:
            _, client = submit(connect, server, api)
        assert len(set(starts(server))) == 4
        assert sum(client.sleeps) >= 50 + 2 * 45

    def test_deadline_within_the_minute_raises_without_restart(self, connect, api):
        answers = [("/execute", api.ambiguous), ("/execute", api.accepted)]
        with (
            canned(NO_JOB, (api.run_path, api.unknown_run), *answers) as server,
            pytest.raises(SimServerError, match="doesn't know whether it has queued"),
        ):
            submit(connect, server, api, deadline=time.time() + 5)
        assert len(starts(server)) == 1

    def test_run_id_chosen_by_the_server_is_used(self, connect):
        ambiguous = replace(Legacy.ambiguous, body={**Legacy.ambiguous.body, "executionId": "its-own"})
        with canned(("/its-own", Legacy.run("queued")), NO_JOB, ("/execute", ambiguous)) as server:
            submit(connect, server, Legacy)
        assert len(starts(server)) == 1


class TestRunIdConflict:
    @pytest.mark.parametrize("status", ["running", "completed", "failed"])
    def test_own_run_is_reattached(self, connect, api, status):
        answer = api.run(status, "Boom: no" if status == "failed" else None)
        with canned(NO_JOB, (api.run_path, answer), ("/execute", api.id_used)) as server:
            taken, _ = submit(connect, server, api)
        assert (taken.run_id, taken.status) == ("r", status)
        assert len(starts(server)) == 1

    @pytest.mark.parametrize(
        "words",
        ["Rate limit exceeded. Please try again later.", "Too many concurrent executions", "Usage limit exceeded: $2"],
    )
    def test_rejected_start_with_that_id_is_started_again(self, connect, api, words):
        answers = [("/execute", api.id_used), ("/execute", api.accepted)]
        with canned(NO_JOB, (api.run_path, api.run("failed", words)), *answers) as server:
            submit(connect, server, api)
        first, second = starts(server)
        assert first != second

    def test_run_not_yet_visible_is_waited_for(self, connect, api):
        """Sim reserves the run ID before the queue shows the run."""
        lookups = [(api.run_path, answer) for answer in [api.unknown_run] * 6 + [api.run("running")]]
        with canned(NO_JOB, *lookups, ("/execute", api.id_used)) as server:
            taken, client = submit(connect, server, api)
        assert taken.run_id == "r"
        assert len(starts(server)) == 1
        assert 20 <= sum(client.sleeps) <= 60

    def test_deadline_before_the_run_is_visible_raises_conflict(self, connect, api):
        answers = [("/execute", api.id_used), ("/execute", api.accepted)]
        with (
            canned(NO_JOB, (api.run_path, api.unknown_run), *answers) as server,
            pytest.raises(SimRunIdConflictError),
        ):
            submit(connect, server, api, deadline=time.time() + 5)
        assert len(starts(server)) == 1

    def test_fixed_run_id_is_not_replaced(self, connect, api):
        with (
            canned(NO_JOB, (api.run_path, api.unknown_run), ("/execute", api.id_used)) as server,
            pytest.raises(SimRunIdConflictError),
        ):
            submit(connect, server, api, run_id="mine")
        assert starts(server) == ["mine"]


class TestRejectedStart:
    def test_each_retry_takes_a_new_run_id(self, connect, api):
        ids = iter(["one", "two", "three"])
        answers = [("/execute", api.busy), ("/execute", api.busy), ("/execute", api.accepted)]
        with canned(*answers) as server:
            submit(connect, server, api, run_id=ids)
        assert starts(server) == ["one", "two", "three"]

    def test_legacy_401_is_retried(self, connect):
        outage = Answer(401, {"error": "Invalid API key"})
        with canned(("/execute", outage), ("/execute", outage), ("/execute", Legacy.accepted)) as server:
            submit(connect, server, Legacy)
        assert len(starts(server)) == 3

    def test_v2_401_is_not_retried(self, connect):
        with (
            canned(Answer(401, {"error": {"code": "UNAUTHORIZED", "message": "Invalid API key"}})) as server,
            pytest.raises(SimAuthenticationError),
        ):
            submit(connect, server, V2)
        assert len(server.requests) == 1


class TestDeadline:
    def test_no_retry_after_the_deadline(self, connect, api):
        with canned(("/execute", api.busy)) as server, pytest.raises(SimRateLimitError):
            submit(connect, server, api, deadline=time.time() - 1)
        assert len(starts(server)) == 1

    def test_lost_start_is_not_resent_after_the_deadline(self, connect, lost):
        with (
            canned(NO_JOB, (V2.run_path, V2.unknown_run), ("/execute", lost), ("/execute", V2.accepted)) as server,
            pytest.raises((SimConnectionError, SimServerError)),
        ):
            submit(connect, server, V2, deadline=time.time() - 1)
        assert len(starts(server)) == 1

    def test_sync_response_is_awaited_until_the_deadline(self, connect, api):
        """This holds for the second attempt, too."""
        time_is_up = {"timeout": 20, "deadline": time.time() + 0.5, "delay": 0.01}
        answers = [("/execute", api.down), ("/execute", replace(api.finished, delay=20))]
        with canned(NO_JOB, (api.run_path, api.run("running")), *answers) as server:
            taken, _ = submit(connect, server, api, asynchronous=False, **time_is_up)
        assert taken.status is RunStatus.RUNNING
        assert len(starts(server)) == 2

    def test_max_elapsed_limits_all_waits_together(self, connect):
        with canned(NO_JOB, (V2.run_path, Answer(500, b"")), ("/execute", V2.busy), ("/execute", V2.broke)) as server:
            client = connect(server.url, api_version="v2", retry=patience(max_elapsed=7, initial_delay=4, jitter=0))
            with pytest.raises(SimServerError):
                client.execute_with_retry("w", async_execution=True)
        assert sum(client.sleeps) <= 7
        assert len(client.sleeps) == 1, "Sim's 5 s, which leaves no 4 s for another look"

    def test_retry_wait_and_reason_are_logged(self, connect, api, caplog):
        caplog.set_level(logging.WARNING)
        with canned(("/execute", api.busy), ("/execute", api.accepted)) as server:
            submit(connect, server, api)
        assert "concurrent runs is reached" in caplog.text
        assert "Retrying in" in caplog.text

    def test_retry_after_date_is_waited_for(self, connect):
        later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
        busy = Answer(429, {"error": {"code": "RATE_LIMITED", "message": "x"}}, {"retry-after": later})
        with canned(("/execute", busy), ("/execute", V2.accepted)) as server:
            _, client = submit(connect, server, V2)
        assert 25 < client.sleeps[0] < 40


def patience(**settings: float) -> Any:
    return RetryPolicy(**settings)
