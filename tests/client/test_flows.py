"""What is asked of a server, in which order, until it is known what it can do."""

from __future__ import annotations

import pytest

from airflow_provider_sim.client import server_facts
from airflow_provider_sim.client.api import http, legacy
from airflow_provider_sim.client.models import RunOutput, RunStatus, WorkflowRun
from airflow_provider_sim.client.retry import NO_RETRY, StartStoppedError, StopToken
from airflow_provider_sim.client.server_facts import facts_about
from airflow_provider_sim.client.start import checked_mode
from airflow_provider_sim.client.workspace_models import PausedRun, PausePoint
from airflow_provider_sim.exceptions import (
    Outcome,
    SimInputError,
    SimNotFoundError,
    SimOutputError,
    SimPermissionError,
    SimResponseError,
    SimRouteMissingError,
    SimRunNotFoundError,
    SimServerError,
    SimUnsupportedError,
    SimV2OffError,
)
from tests.canned_server import Answer, canned

V2_OFF = Answer(404, {"error": {"code": "NOT_FOUND", "message": "Not found"}})
NO_PAGE = Answer(404, b"<!DOCTYPE html><title>404</title>", {"content-type": "text/html"})
V2_DONE = Answer(200, {"data": {"runId": "r", "workflowId": "w", "status": "completed", "output": 1}})
LEGACY_DONE = Answer(200, {"success": True, "executionId": "r", "output": 1})
UNKNOWN_TO_V2 = Answer(404, {"error": {"code": "NOT_FOUND", "message": "Workflow not found"}})
UNKNOWN_TO_LEGACY = Answer(404, {"error": "Workflow not found"})
RUN = Answer(200, {"executionId": "r", "workflowId": "w", "status": "running"})
JOB = Answer(200, {"taskId": "workflow-execution:r", "status": "processing"})
NO_JOB = Answer(404, {"error": "Task not found", "code": "TASK_NOT_FOUND"})


def asked(server) -> list[str]:
    """The paths of the requests, in short form."""
    return [got.path.removeprefix("/api/").partition("?")[0] for got in server.requests]


class TestApiVersion:
    """``auto`` detects the API version once per process, server and key."""

    def test_auto_uses_v2_if_available(self, connect):
        with canned(V2_DONE) as server:
            client = connect(server.url)
            assert client.speaks_v2 is None
            client.execute_workflow("w")
            assert client.speaks_v2 is True
            client.execute_workflow("w")
        assert asked(server) == ["v2/workflows/w/execute"] * 2

    def test_auto_uses_legacy_if_v2_is_off(self, connect):
        with canned(("/api/v2/", V2_OFF), ("/api/workflows", LEGACY_DONE)) as server:
            assert connect(server.url).execute_workflow("w").output == 1
            client = connect(server.url)
            assert client.speaks_v2 is False, "what one client found out all clients know"
            client.execute_workflow("w")
        assert asked(server) == ["v2/workflows/w/execute", "workflows/w/execute", "workflows/w/execute"]

    def test_auto_uses_legacy_after_two_404_pages(self, connect):
        with canned(("/api/v2/", NO_PAGE), ("/api/workflows", LEGACY_DONE)) as server:
            client = connect(server.url)
            assert [client.execute_workflow("w").output for _ in range(3)] == [1, 1, 1]
            assert client.speaks_v2 is False
        assert asked(server) == [*["v2/workflows/w/execute", "workflows/w/execute"] * 2, "workflows/w/execute"]

    def test_single_404_page_does_not_rule_out_v2(self, connect):
        with canned(NO_PAGE, LEGACY_DONE, V2_DONE, NO_PAGE, V2_DONE) as server:
            client = connect(server.url)
            assert client.execute_workflow("w").output == 1
            assert client.speaks_v2 is None
            client.execute_workflow("w")
            assert client.speaks_v2 is True
            with pytest.raises(SimResponseError) as caught:
                client.execute_workflow("w")
            assert caught.value.max_retries, "retryable: v2 was there before"
            client.execute_workflow("w")
        assert asked(server) == [f"{api}workflows/w/execute" for api in ("v2/", "", "v2/", "v2/", "v2/")]

    def test_missing_v2_is_rechecked_after_some_minutes(self, connect, monkeypatch):
        with canned(V2_OFF, LEGACY_DONE, LEGACY_DONE, V2_DONE) as server:
            client = connect(server.url)
            client.execute_workflow("w")
            client.execute_workflow("w")
            monkeypatch.setattr(server_facts, "RECHECK_AFTER", -1.0)
            assert client.speaks_v2 is None
            client.execute_workflow("w")
            assert client.speaks_v2 is True
        assert asked(server) == [f"{api}workflows/w/execute" for api in ("v2/", "", "", "v2/")]

    def test_legacy_fallback_sends_the_latest_run_id(self, connect):
        """v2 may be switched off between a rejection that has used a run ID and the retry with the next one."""
        chosen: list[str] = []

        def ids():
            for run_id in ("one", "two", "three"):
                chosen.append(run_id)
                yield run_id

        details = {"code": "EXECUTION_CONCURRENCY_LIMIT"}
        full = Answer(429, {"error": {"code": "RATE_LIMITED", "message": "Too many", "details": details}})
        with canned(("/api/v2/", full), ("/api/v2/", V2_OFF), ("/api/workflows", LEGACY_DONE)) as server:
            connect(server.url).start_workflow_run("w", run_id=ids())
        assert [got.run_id for got in server.requests] == ["one", "two", "two"]
        assert chosen == ["one", "two"], "what was written down last is what runs"

    def test_api_version_is_detected_per_key(self, connect):
        """Sim enables v2 per user."""
        with canned(("/api/v2/", V2_OFF), ("/api/workflows", LEGACY_DONE)) as server:
            connect(server.url, key="sk-one").execute_workflow("w")
            connect(server.url, key="sk-two").execute_workflow("w")
        assert asked(server).count("v2/workflows/w/execute") == 2

    def test_api_version_is_detected_again_after_the_facts_are_forgotten(self, connect):
        with canned(("/api/v2/", V2_OFF), ("/api/workflows", LEGACY_DONE)) as server:
            connect(server.url).execute_workflow("w")
            facts_about.cache_clear()
            connect(server.url).execute_workflow("w")
        assert asked(server).count("v2/workflows/w/execute") == 2

    def test_v2_off_is_not_reported_as_missing_workflow(self, connect):
        with canned(V2_OFF) as server:
            with pytest.raises(SimV2OffError, match=r"switched off.*V2_API=true"):
                connect(server.url, api_version="v2").execute_workflow("w")
            assert asked(server) == ["v2/workflows/w/execute"]

    def test_workflow_not_found_on_v2_confirms_v2(self, connect):
        with canned(UNKNOWN_TO_V2) as server:
            client = connect(server.url)
            with pytest.raises(SimNotFoundError, match="'w'"):
                client.execute_workflow("w")
            assert client.speaks_v2 is True
        assert asked(server) == ["v2/workflows/w/execute"], "not asked again on the other API"

    def test_workflow_not_found_on_legacy_server(self, connect):
        answers = [("/api/v2/", V2_OFF), ("/api/workflows", UNKNOWN_TO_LEGACY)]
        with canned(*answers) as server, pytest.raises(SimNotFoundError) as caught:
            connect(server.url).execute_workflow("w")
        assert caught.value.code == "WORKFLOW_NOT_FOUND"

    def test_server_without_sim_is_a_route_error(self, connect):
        with canned(NO_PAGE) as server:
            client = connect(server.url)
            with pytest.raises(SimRouteMissingError, match="name another site"):
                client.execute_workflow("w")
            assert client.speaks_v2 is None, "that says nothing of a server"

    @pytest.mark.parametrize("version", ["v2", "legacy"])
    def test_configured_api_version_is_not_detected(self, connect, version):
        answer = V2_DONE if version == "v2" else LEGACY_DONE
        with canned(answer) as server:
            connect(server.url, api_version=version).execute_workflow("w")
        assert asked(server) == ["v2/workflows/w/execute" if version == "v2" else "workflows/w/execute"]


class TestRunsOfOldServers:
    """Servers before v0.6.81 have no status route for runs, only jobs."""

    def test_run_is_read_from_its_job_without_run_route(self, connect):
        with canned(("/executions/", NO_PAGE), ("/jobs/", JOB)) as server:
            client = connect(server.url, api_version="legacy")
            assert [client.get_workflow_run("w", "r").status for _ in range(3)] == ["running"] * 3
        route, job = "workflows/w/executions/r", "jobs/workflow-execution:r"
        assert asked(server) == [route, job, route, job, job], "a single 404 page may be a proxy's"

    def test_job_id_selects_the_job(self, connect):
        with canned(("/executions/", NO_PAGE), ("/jobs/", JOB)) as server:
            client = connect(server.url, api_version="legacy")
            client.get_workflow_run("w", "r", job_id="run_from_another_queue")
        assert asked(server)[-1] == "jobs/run_from_another_queue"

    def test_id_known_only_to_the_queue_is_found(self, connect):
        unknown = Answer(404, {"error": "Execution not found"})
        with canned(("/executions/", unknown), ("workflow-execution:", NO_JOB), ("/jobs/task_1", JOB)) as server:
            assert connect(server.url, api_version="legacy").get_workflow_run("w", "task_1").status == "running"
        assert asked(server)[-1] == "jobs/task_1"

    def test_unknown_run_id_raises_not_found(self, connect):
        unknown = Answer(404, {"error": "Execution not found"})
        with (
            canned(("/executions/", unknown), ("/jobs/", NO_JOB)) as server,
            pytest.raises(SimRunNotFoundError) as caught,
        ):
            connect(server.url, api_version="legacy").get_workflow_run("w", "r")
        assert "older than" not in str(caught.value)

    def test_unknown_run_id_on_old_server_names_its_version(self, connect):
        answers = [("/executions/", NO_PAGE), ("/jobs/", NO_JOB)]
        with canned(*answers) as server, pytest.raises(SimRunNotFoundError, match=r"older than v0\.6\.81") as caught:
            connect(server.url, api_version="legacy").get_workflow_run("w", "r")
        error = caught.value
        assert (error.workflow_id, error.run_id, error.status, error.outcome) == ("w", "r", 404, Outcome.REFUSED)

    def test_get_output_rejects_blocks_without_output(self, connect):
        told = Answer(200, {"data": {"runId": "r", "status": "completed", "blockOutputs": {"b": 1}}})
        run = WorkflowRun(run_id="r", workflow_id="w", status=RunStatus.COMPLETED)
        with canned(told) as server:
            client = connect(server.url, api_version="v2")
            assert client.get_run_output(run, ["b"]) == RunOutput(value={"b": 1})
            with pytest.raises(SimOutputError) as caught:
                client.get_run_output(run, ["b", "c", "d"])
        assert str(caught.value) == (
            "Run 'r' of workflow 'w' has no block output c, d. Without stream=True, selected_outputs requires block"
            " IDs, optionally with a path (block-id.field), not block names."
        )
        assert (caught.value.run_id, caught.value.outcome) == ("r", Outcome.RAN)

    def test_cancel_without_a_route_is_unsupported(self, connect):
        with canned(NO_PAGE) as server, pytest.raises(SimUnsupportedError, match="too old for this") as caught:
            connect(server.url, api_version="legacy").cancel_workflow_run("w", "r")
        assert caught.value.run_id == "r"

    @pytest.mark.parametrize(
        ("method", "of", "words"),
        [
            ("list_workflow_runs", ["w"], "list the runs of workflow 'w'"),
            ("list_logs", ["w"], "list the runs of workspace 'w'"),
            ("list_workspaces", [], "list the workspaces"),
            ("get_deployment", ["w"], "read the deployment of workflow 'w'"),
            ("deploy_workflow", ["w"], "deploy workflow 'w'"),
            ("undeploy_workflow", ["w"], "undeploy workflow 'w'"),
            ("rollback_workflow", ["w"], "roll back workflow 'w'"),
            ("get_billing_status", [], "read the billing status"),
        ],
    )
    def test_v2_only_methods_are_rejected_on_legacy(self, connect, method, of, words):
        with canned(V2_OFF) as server, pytest.raises(SimUnsupportedError) as caught:
            getattr(connect(server.url), method)(*of)
        assert str(caught.value) == (
            f"Could not {words}: this requires Sim's v2 API, which this server doesn't have or has switched off"
            " (Sim v0.8.0 and later, V2_API=true)."
        )
        assert caught.value.outcome is Outcome.NEVER_SENT


class TestResults:
    """A finished run's output: raw if the queue still has it, else Sim's display copy."""

    SHOWN = Answer(200, {"data": {"runId": "r", "workflowId": "w", "status": "completed", "output": "cut"}})

    def test_raw_output_of_the_job_is_preferred(self, connect):
        job = Answer(200, {"taskId": "j", "status": "completed", "output": {"success": True, "output": "whole"}})
        with canned(("/jobs/", job), self.SHOWN) as server:
            assert connect(server.url, api_version="v2").get_workflow_result("w", "r").output == "whole"

    @pytest.mark.parametrize("job", [NO_JOB, NO_PAGE, Answer(500, b"oops"), Answer(403, {"error": "Access denied"})])
    def test_display_copy_is_returned_without_job_output(self, connect, job):
        with canned(("/jobs/", job), self.SHOWN) as server:
            run = connect(server.url, api_version="v2").get_workflow_result("w", "r")
        assert (run.output, run.output_is_display_copy) == ("cut", True)


class TestResponseBlocks:
    """On the legacy API, a workflow's Response block may respond with any status and body."""

    def execute(self, connect, status: Answer, code: int = 500, body: object = None):
        answer = Answer(code, {"error": "author says slow down"} if body is None else body)
        with canned(("/execute", answer), ("/executions/", status), ("/jobs/", NO_JOB)) as server:
            return connect(server.url, api_version="legacy").execute_workflow("w", run_id="mine")

    @pytest.mark.parametrize("code", [400, 401, 404, 429, 500, 503])
    def test_completed_run_returns_its_response_block_output(self, connect, code):
        completed = Answer(200, {"executionId": "mine", "status": "completed"})
        result = self.execute(connect, completed, code)
        assert (result.status, result.run_id) == ("completed", "mine")
        assert result.output["status"] == code
        assert result.output["data"] == {"error": "author says slow down"}

    def test_failed_run_returns_its_error(self, connect):
        failed = Answer(200, {"executionId": "mine", "status": "failed", "error": "boom"})
        result = self.execute(connect, failed)
        assert (result.status, result.output, result.error.message) == ("failed", None, "boom")

    def test_missing_run_raises_the_rejection(self, connect):
        with pytest.raises(SimServerError) as caught:
            self.execute(connect, Answer(404, {"error": "Execution not found"}))
        assert "author says slow down" in str(caught.value)

    def test_failed_lookup_raises_with_unknown_outcome(self, connect):
        with pytest.raises(SimServerError) as caught:
            self.execute(connect, Answer(403, {"error": "Access denied"}))
        assert caught.value.outcome is Outcome.UNKNOWN

    def test_proxy_error_page_is_not_a_result(self, connect):
        with pytest.raises(SimServerError, match="may be down or overloaded"):
            self.execute(connect, Answer(404, {"error": "Execution not found"}), 502, b"<html>Bad Gateway</html>")


class TestArguments:
    """Invalid arguments are rejected before a request is sent."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"stream": True, "async_execution": True}, "can't be combined"),
            ({"selected_outputs": ["A.b"]}, "requires stream=True"),
            ({"run_timeout": 60}, "run_timeout requires an async"),
            ({"async_execution": True, "run_timeout": 0}, "1 to 604800"),
            ({"async_execution": True, "run_timeout": 604_801}, "1 to 604800"),
            ({"async_execution": True, "run_timeout": True}, "1 to 604800"),
            ({"async_execution": True, "run_timeout": 1.5}, "1 to 604800"),
            ({"run_id": "a b"}, "letters, digits, dots"),
            ({"run_id": "x" * 129}, "1 to 128"),
            ({"run_id": ""}, "there is no run"),
        ],
    )
    def test_invalid_execution_options_are_rejected(self, connect, options, words):
        with canned(V2_DONE) as server:
            with pytest.raises(SimInputError, match=words) as caught:
                connect(server.url).execute_workflow("w", **options)
            assert server.requests == []
        assert caught.value.outcome is Outcome.NEVER_SENT

    @pytest.mark.parametrize("workflow_id", ["", "  ", None, 7, "..", ".", " w", "w\n", "w\x00"])
    def test_invalid_workflow_ids_are_rejected(self, connect, workflow_id):
        with canned(V2_DONE) as server:
            with pytest.raises(SimInputError, match="workflow_id") as caught:
                connect(server.url).execute_workflow(workflow_id)
            assert server.requests == []
        assert caught.value.outcome is Outcome.NEVER_SENT

    @pytest.mark.parametrize(
        ("check", "message"),
        [
            pytest.param(
                lambda: http.json_body({"a": float("nan")}, workflow_id="w"),
                "The input for workflow 'w' can't be written as JSON: Out of range float values are not JSON compliant."
                " Give dicts with string keys, lists, strings, finite numbers, booleans and None; turn dates and other"
                " objects into strings first.",
                id="no JSON",
            ),
            pytest.param(
                lambda: http.json_body({"a": "x" * 11 * 2**20}, workflow_id="w"),
                "The input for workflow 'w' is 11.0 MiB as JSON; Sim accepts up to 10 MiB. Put the data where the"
                " workflow can fetch it and send its URL.",
                id="too much JSON",
            ),
            pytest.param(
                lambda: legacy.as_body({"stream": 1, "workflowId": 2}, workflow_id="w"),
                "The input for workflow 'w' has the field(s) stream, workflowId. On the legacy API these are"
                " control fields: Sim would interpret or drop them. Rename them in the workflow's Start block, or use a"
                " server with the v2 API.",
                id="control fields",
            ),
            pytest.param(
                lambda: checked_mode(True, None, True, None),
                "stream and async_execution can't be combined: a stream needs an open connection.",
                id="stream and async",
            ),
            pytest.param(
                lambda: checked_mode(False, ["A.b"], False, None),
                "selected_outputs requires stream=True; set it or omit selected_outputs.",
                id="outputs without a stream",
            ),
            pytest.param(
                lambda: checked_mode(False, None, False, 60),
                "run_timeout requires an async execution; a sync one has the plan's limit.",
                id="a limit of a held-open run",
            ),
            pytest.param(
                lambda: checked_mode(False, None, True, 0),
                "run_timeout is 0; it can be 1 to 604800 whole seconds.",
                id="no limit",
            ),
        ],
    )
    def test_input_error_messages(self, check, message):
        with pytest.raises(SimInputError) as caught:
            check()
        assert str(caught.value).replace("compliant: nan.", "compliant.") == message
        assert caught.value.outcome is Outcome.NEVER_SENT
        assert caught.value.workflow_id == ("w" if "workflow 'w'" in message else None)

    @pytest.mark.parametrize("run_timeout", [1, 604_800])
    def test_run_timeout_limits_are_accepted(self, run_timeout):
        checked_mode(False, None, True, run_timeout)

    def test_json_body_accepts_up_to_the_size_limit(self):
        most = http.MAX_BODY_BYTES - len('{"a":""}')
        assert len(http.json_body({"a": "x" * most}, workflow_id="w")) == http.MAX_BODY_BYTES
        with pytest.raises(SimInputError):
            http.json_body({"a": "x" * (most + 1)}, workflow_id="w")

    @pytest.mark.parametrize(
        "value",
        [{"x": object()}, {"x": float("nan")}, {"x": float("inf")}, {("a", "b"): 1}, {"x": "\ud800"}, {"x": {1, 2}}],
        ids=["object", "nan", "infinity", "tuple key", "half a character", "set"],
    )
    @pytest.mark.parametrize("version", ["v2", "legacy"])
    def test_input_that_is_not_json_is_rejected(self, connect, value, version):
        with canned(V2_DONE) as server:
            with pytest.raises(SimInputError, match="can't be written as JSON"):
                connect(server.url, api_version=version).execute_workflow("w", value)
            assert server.requests == []

    def test_circular_input_is_rejected(self, connect):
        value: dict = {}
        value["again"] = value
        with canned(V2_DONE) as server, pytest.raises(SimInputError, match="can't be written as JSON"):
            connect(server.url).execute_workflow("w", value)

    def test_input_over_10_mib_is_rejected(self, connect):
        with canned(V2_DONE) as server:
            client = connect(server.url, api_version="v2")
            with pytest.raises(SimInputError, match=r"10\.\d MiB as JSON; Sim accepts up to 10") as caught:
                client.execute_workflow("w", {"x": "y" * 10 * 2**20})
            assert server.requests == []
            client.execute_workflow("w", {"x": "y" * (10 * 2**20 - 100)})
        assert caught.value.code == "PAYLOAD_TOO_LARGE"


BUSY = Answer(503, {"error": {"code": "SERVICE_UNAVAILABLE", "message": "Busy"}})


PATIENT_READS = {
    "get_workflow_run": ["w", "r"],
    "cancel_workflow_run": ["w", "r"],
    "stop_workflow_run": ["w", "r"],
    "get_workflow": ["w"],
}
PATIENT_LISTS = {"list_workflow_runs": ["w"], "list_logs": ["space"]}


@pytest.mark.parametrize(
    ("api_version", "method", "of"),
    [
        *(("legacy", method, of) for method, of in PATIENT_READS.items()),
        *(("v2", method, of) for method, of in (PATIENT_READS | PATIENT_LISTS).items()),
    ],
)
def test_retry_argument_overrides_the_client_policy(connect, api_version, method, of):
    with canned(BUSY) as server:
        client = connect(server.url, api_version=api_version)
        with pytest.raises(SimServerError):
            getattr(client.with_retry(NO_RETRY), method)(*of)
        assert (len(set(asked(server))), client.sleeps) == (len(server.requests), [])
        with pytest.raises(SimServerError):
            getattr(client, method)(*of)
        assert len(client.sleeps) >= 3


class TestStopToken:
    def test_stop_token_set_before_prevents_the_start(self, connect):
        token = StopToken()
        token.stopped = True
        with canned(V2_DONE) as server:
            with pytest.raises(StartStoppedError):
                connect(server.url, api_version="v2").start_workflow_run("w", stop=token)
            assert server.requests == []

    def test_stop_token_set_while_waiting_prevents_the_retry(self, connect):
        token = StopToken()

        def stop(seconds: float) -> None:
            token.stopped = True

        with canned(BUSY, V2_DONE) as server:
            client = connect(server.url, api_version="v2", meanwhile=stop)
            with pytest.raises(StartStoppedError):
                client.start_workflow_run("w", stop=token)
            assert len(server.requests) == 1


class TestStopWorkflowRun:
    """Cancelling a run, then reading its status once."""

    CANCELLED = Answer(200, {"executionId": "r", "success": True, "reason": "recorded"})

    def stop(self, connect, run: Answer):
        with canned(("/cancel", self.CANCELLED), run) as server:
            client = connect(server.url, api_version="legacy")
            return client.stop_workflow_run("w", "r", job_id="j"), server, client

    def test_stop_returns_the_status_after_cancel(self, connect):
        stopped, server, _ = self.stop(connect, RUN)
        assert (stopped.accepted, stopped.reason, stopped.status) == (True, "recorded", "running")
        assert asked(server) == ["workflows/w/executions/r/cancel", "workflows/w/executions/r"]

    def test_failed_status_lookup_is_not_retried(self, connect):
        stopped, server, client = self.stop(connect, Answer(503, {"error": "Service temporarily at capacity"}))
        assert (stopped.accepted, stopped.status) == (True, None)
        assert (len(server.requests), client.sleeps) == (2, [])

    def test_status_is_read_from_the_job_without_run_route(self, connect):
        with canned(("/cancel", self.CANCELLED), ("/executions/", NO_PAGE), ("/jobs/j", JOB)) as server:
            stopped = connect(server.url, api_version="legacy").stop_workflow_run("w", "r", job_id="j")
        assert (stopped.status, asked(server)[-1]) == ("running", "jobs/j")

    def test_cancel_is_retried_until_the_run_exists(self, connect):
        unknown = Answer(404, {"error": "Execution not found"})
        with canned(("/cancel", unknown), ("/cancel", self.CANCELLED), RUN) as server:
            client = connect(server.url, api_version="legacy")
            assert client.stop_workflow_run("w", "r").status == "running"
        assert len(client.sleeps) == 1


class TestPausePoints:
    """If a server can't list pause points, the run contains the one at which it waits."""

    def points(self, connect, **run: object):
        told = Answer(200, {"executionId": "r", "workflowId": "w", **run})
        with canned(("/resume/", NO_PAGE), told) as server:
            return connect(server.url, api_version="legacy").get_paused_run("w", "r")

    def test_paused_run_has_one_pause_point(self, connect):
        paused = {"contextId": "c", "pauseKind": "human", "blockedOnBlockId": "b"}
        point = PausePoint(context_id="c", kind="human")
        assert self.points(connect, status="paused", paused=paused) == PausedRun(points=(point,))

    @pytest.mark.parametrize(
        "run",
        [
            pytest.param({"status": "running", "paused": {"contextId": "c"}}, id="it goes on"),
            pytest.param({"status": "paused"}, id="nothing is told"),
            pytest.param({"status": "paused", "paused": {"pauseKind": "human"}}, id="no point is told"),
        ],
    )
    def test_run_without_a_pause_has_no_pause_points(self, connect, run):
        assert self.points(connect, **run) == PausedRun()


def test_validate_workflow_is_false_after_an_error(connect):
    for answer in (UNKNOWN_TO_LEGACY, Answer(500, b"oops"), Answer(200, {"isDeployed": False})):
        with canned(answer) as server:
            assert connect(server.url).validate_workflow("w") is False
    with canned(Answer(200, {"isDeployed": True, "deployedAt": "t"})) as server:
        assert connect(server.url).validate_workflow("w") is True


def test_rate_limit_info_is_from_the_last_response_with_it(connect):
    told = {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "59", "x-ratelimit-reset": "2026-01-01T00:00:10.500Z"}
    odd = {"x-ratelimit-limit": "many", "x-ratelimit-remaining": "", "x-ratelimit-reset": "soon"}
    run = {"data": {"runId": "r", "status": "running"}}
    with canned(Answer(200, run, told), Answer(200, run), Answer(200, run, odd)) as server:
        client = connect(server.url, api_version="v2")
        assert client.get_rate_limit_info() is None
        client.get_workflow_run("w", "r")
        info = client.get_rate_limit_info()
        assert (info.limit, info.remaining, info.reset) == (60, 59, 1767225610.5)
        client.get_workflow_run("w", "r")
        client.get_workflow_run("w", "r")
        assert client.get_rate_limit_info() == info, "answers that say nothing, or nonsense, change nothing"


def test_set_api_key_and_set_base_url(connect):
    with canned(V2_DONE) as first, canned(V2_DONE) as second:
        client = connect(first.url, api_version="v2")
        client.execute_workflow("w")
        client.set_api_key("sk-another")
        client.set_base_url(second.url + "//")
        client.execute_workflow("w")
    assert first.requests[0].headers["x-api-key"] != "sk-another"
    assert second.requests[0].headers["x-api-key"] == "sk-another"
    assert client.base_url == second.url


def test_no_proxy_applies_after_set_base_url(connect, monkeypatch):
    with canned(V2_DONE) as proxy, canned(V2_DONE) as near:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        client = connect("http://sim.invalid", api_version="v2")
        client.execute_workflow("w")
        client.set_base_url(near.url)
        client.execute_workflow("w")
    assert [got.path for got in proxy.requests] == ["http://sim.invalid/api/v2/workflows/w/execute"]
    assert [got.path for got in near.requests] == ["/api/v2/workflows/w/execute"]


def test_client_sends_no_cookies_or_netrc_credentials(connect, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with canned(Answer(200, V2_DONE.body, {"set-cookie": "session=1; Path=/"})) as server:
        client = connect(server.url, api_version="v2")
        client.execute_workflow("w")
        client.execute_workflow("w")
    for got in server.requests:
        assert got.headers.keys().isdisjoint({"cookie", "authorization"})
        assert got.headers["user-agent"].startswith("airflow-provider-sim/")


def test_job_403_is_a_permission_error(connect):
    with canned(Answer(403, {"error": "Access denied"})) as server, pytest.raises(SimPermissionError):
        connect(server.url).get_job_status("j")
