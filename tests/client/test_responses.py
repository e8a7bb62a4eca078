"""Successful responses in every supported shape, and what the client reads in them."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

import pytest

from airflow_provider_sim.client.api import legacy, v2
from airflow_provider_sim.client.api.http import Request, Response, rate_limit_info
from airflow_provider_sim.client.api.resources import died_with_its_connection, display_marks
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    Cancellation,
    Pause,
    RunError,
    RunStatus,
    WorkflowExecutionResult,
    WorkflowRun,
)
from airflow_provider_sim.client.stream import (
    StreamBlockError,
    StreamChunk,
    StreamChunkReset,
    StreamEnd,
    StreamProgress,
    StreamReader,
)
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimPermanentError,
    SimResponseError,
    SimRunCancelledError,
    SimRunFailedError,
    SimStreamError,
    SimUnsupportedError,
)


def answer(body: object, status: int = 200) -> Response:
    return Response(status, {"content-type": "application/json"}, json.dumps(body).encode())


# --- receipts ------------------------------------------------------------------------------------------------------

JOB = "workflow-execution:11111111-2222-4333-8444-555555555555"
RUN = "11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize(
    ("body", "run_id", "job_id"),
    [
        pytest.param({"success": True, "async": True, "jobId": JOB, "message": "queued",
                      "statusUrl": "http://inside:3000/api/jobs/x"}, RUN, JOB, id="jobId"),
        pytest.param({"success": True, "async": True, "jobId": "run_abc", "executionId": RUN, "statusUrl": "x"}, RUN,
                     "run_abc", id="jobId and executionId"),
        pytest.param({"success": True, "async": True, "executionId": RUN}, RUN, JOB, id="executionId"),
    ],
)  # fmt: skip
def test_legacy_receipt_ids(body, run_id, job_id):
    receipt = legacy.execute("w", {}, run_id="sent", async_execution=True, run_timeout=None).read(answer(body, 202))
    assert isinstance(receipt, AsyncExecutionResult)
    assert (receipt.run_id, receipt.job_id, receipt.status) == (run_id, job_id, RunStatus.QUEUED)


def test_v2_receipt_has_the_run_id():
    body = {"runId": RUN, "statusUrl": "http://inside:3000/api/v2/elsewhere"}
    receipt = v2.execute("w", {}, run_id=RUN, async_execution=True, run_timeout=None).read(answer({"data": body}, 202))
    assert receipt.run_id == RUN


ASYNC = legacy.execute("w", {}, run_id="sent", async_execution=True, run_timeout=None)
STREAM = legacy.execute("w", {}, run_id="sent", stream=True, selected_outputs=None)
TASK = {"success": True, "taskId": "task_1", "status": "queued", "links": {"status": "/api/jobs/task_1"}}
FINISHED = {"success": True, "output": {"a": 1}, "metadata": {"duration": 12}}


@pytest.mark.parametrize(
    ("call", "response", "run_id"),
    [
        pytest.param(ASYNC, answer(TASK, 202), "task_1", id="v0.3.10-receipt"),
        pytest.param(ASYNC, answer(FINISHED), None, id="v0.5.0-ignores-async"),
        pytest.param(ASYNC, answer({"success": False, "error": "boom"}, 500), None, id="v0.5.0-ignores-async-fails"),
        pytest.param(STREAM, answer(FINISHED), None, id="v0.3.10-ignores-stream"),
    ],
)
def test_server_before_v0_5_44_is_a_non_retryable_error(call, response, run_id):
    with pytest.raises(SimUnsupportedError, match=r"Sim v0\.5\.44 or later is required") as caught:
        call.read(response)
    error = caught.value
    assert (error.outcome, error.run_id, error.max_retries) == (Outcome.RAN, run_id, 0)
    assert isinstance(error, SimPermanentError)


def test_run_that_fails_before_streaming_is_failed():
    result = STREAM.read(answer({"success": False, "error": "boom", "output": {}}, 500))
    assert (result.status, result.error.message) == (RunStatus.FAILED, "boom")


@pytest.mark.parametrize("body", [{}, {"success": True}, [], "queued", None, {"jobId": 7}])
@pytest.mark.parametrize("status", [200, 202])
def test_receipt_without_an_id_is_rejected(body, status):
    with pytest.raises(SimResponseError):
        ASYNC.read(answer(body, status))


# --- statuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("pending", "queued"),
        ("queued", "queued"),
        ("waiting", "queued"),
        ("admitting", "queued"),
        ("admitted", "queued"),
        ("processing", "running"),
        ("running", "running"),
        ("completed", "completed"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("delayed", "unknown"),
        ("anything", "unknown"),
    ],
)
def test_job_statuses(word, status):
    job = legacy.get_job(JOB).read(answer({"success": True, "taskId": JOB, "status": word, "output": None}))
    assert (job.status, job.server_status, job.run_id) == (status, word, RUN)
    assert job.status.is_terminal is (status in ("completed", "failed", "cancelled"))


@pytest.mark.parametrize(
    "word", ["queued", "pending", "running", "redacting", "paused", "completed", "failed", "cancelled", "new word"]
)
def test_run_statuses(word):
    on_v2 = v2.get_run("w", "r").read(answer({"data": {"runId": "r", "status": word}}))
    on_legacy = legacy.get_run("w", "r").read(answer({"executionId": "r", "status": word}))
    assert on_v2.status == on_legacy.status
    assert on_v2.server_status == word
    assert on_v2.status == (word if word != "new word" else "unknown")
    assert on_v2.status.is_terminal is (word in ("completed", "failed", "cancelled")), "an unknown word is not an end"


PAUSE = {"data": {"operation": "human", "_resume": {"contextId": "c-1"}}, "status": 200, "headers": {}}


@pytest.mark.parametrize(
    ("output", "kind", "context"),
    [
        pytest.param(PAUSE, "human", "c-1", id="human"),
        pytest.param({"waitDuration": 60_000, "resumeAt": "2026-01-01T00:00:00Z"}, "time", None, id="wait"),
        pytest.param({"pausedBlocks": [], "pauseCount": 2}, None, None, id="several"),
    ],
)
def test_pause_in_a_successful_legacy_response(output, kind, context):
    """The legacy API reports success, and its jobs report completed."""
    held_open = legacy.execute("w", {}, run_id="r").read(answer({"success": True, "output": output}))
    entry = {"success": True, "output": output}
    job = legacy.get_job(JOB).read(answer({"taskId": JOB, "status": "completed", "output": entry}))
    for run in (held_open, job):
        assert run.status is RunStatus.PAUSED
        assert (run.paused.kind, run.paused.context_id) == (kind, context)


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        ({"success": True, "output": {"a": 1}}, "completed"),
        ({"success": False, "output": {}, "error": "boom"}, "failed"),
        ({"success": False, "output": {}}, "cancelled"),
        ({"a": 1}, "completed"),
        (None, "completed"),
    ],
)
def test_completed_job_has_the_status_of_its_output(entry, status):
    job = legacy.get_job(JOB).read(answer({"taskId": JOB, "status": "completed", "output": entry}))
    assert job.status == status
    assert job.output == (entry["output"] if entry and "success" in entry else entry)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("boom", "boom"),
        ({"message": "boom", "code": "X"}, "boom"),
        (None, "without an error message"),
        ({}, "without an error message"),
    ],
)
def test_error_of_a_failed_run_in_each_format(error, message):
    data = {"runId": "r", "status": "failed", "error": error}
    assert message in v2.get_run("w", "r").read(answer({"data": data})).error.message
    job = {"taskId": JOB, "status": "failed", "error": error}
    assert message in legacy.get_job(JOB).read(answer(job)).error.message


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(200, {"success": True, "output": {"a": 1}}, "completed", id="completed"),
        pytest.param(200, {"success": False, "output": {}}, "cancelled", id="cancelled"),
        pytest.param(500, {"success": False, "output": {}, "error": "boom"}, "failed", id="failed"),
        pytest.param(408, {"success": False, "output": {}, "error": "timed out"}, "failed", id="timed out"),
        pytest.param(429, {"success": False, "error": "model key throttled"}, "failed", id="throttled inside"),
    ],
)
def test_legacy_sync_results(status, body, expected):
    result = legacy.execute("w", {}, run_id="mine").read(answer(body, status))
    assert (result.status, result.run_id) == (expected, "mine")
    assert (result.error is not None) is (expected == "failed")
    if status == 408:
        assert result.error.code == "TIMEOUT"


@pytest.mark.parametrize("body", [{"echo": 1}, [1, 2], "text", None, 7, {"success": "yes"}])
def test_response_block_body_is_the_output(body):
    result = legacy.execute("w", {}, run_id="r").read(answer(body, 201))
    assert result.status is RunStatus.COMPLETED
    assert result.output == {"data": body, "status": 201, "headers": {"Content-Type": "application/json"}}


# --- streams -------------------------------------------------------------------------------------------------------


def events_of(*frames: str, pieces: int | None = None) -> list:
    raw = "".join(f"data: {frame}\n\n" for frame in frames).encode()
    reader = StreamReader(Request("POST", "/", "start", workflow_id="w", run_id="r").streaming())
    step = pieces or len(raw)
    found = [event for begin in range(0, len(raw), step) for event in reader.feed(raw[begin : begin + step])]
    reader.finish()
    return found


FINAL = '{"event":"final","data":{"success":true,"output":{"a":"ä"}}}'


@pytest.mark.parametrize("sentinel", ["[DONE]", '"[DONE]"'])
@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 1000])
def test_stream_is_parsed_in_pieces_of_any_size(sentinel, pieces):
    chunk, end = events_of('{"blockId":"b","chunk":"Größe 🎈"}', FINAL, sentinel, pieces=pieces)
    assert chunk == StreamChunk("b", "Größe 🎈")
    assert end.result.output == {"a": "ä"}
    assert (end.result.run_id, end.result.workflow_id) == ("r", "w")


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        ('{"blockId":"b","chunk":"x"}', StreamChunk("b", "x")),
        ('{"blockId":"b","chunk":{"a":1}}', StreamChunk("b", '{"a": 1}')),
        ('{"event":"chunk_reset","blockId":"b"}', StreamChunkReset("b")),
        ('{"event":"stream_error","blockId":"b","error":"cut"}', StreamBlockError("b", "cut")),
        ('{"event":"thinking","blockId":"b","data":"hm"}', StreamProgress(
            "thinking", "b", {"event": "thinking", "blockId": "b", "data": "hm"})),
        ('{"event":"later","x":1}', StreamProgress("later", None, {"event": "later", "x": 1})),
    ],
)  # fmt: skip
def test_stream_events(frame, event):
    assert events_of(frame, FINAL)[0] == event


@pytest.mark.parametrize(
    ("frame", "status", "error"),
    [
        ('{"event":"final","data":{"success":true,"output":{}}}', "completed", None),
        ('{"event":"final","data":{"success":false,"output":{},"error":"boom"}}', "failed", "boom"),
        ('{"event":"final","data":{"success":false,"status":"cancelled"}}', "cancelled", None),
        ('{"event":"final","data":{"success":true,"status":"paused"}}', "paused", None),
        ('{"event":"error","error":"boom"}', "failed", "boom"),
    ],
)
def test_stream_end_status_and_error(frame, status, error):
    (end,) = events_of(frame)
    assert isinstance(end, StreamEnd)
    assert end.result.status == status
    assert (end.result.error and end.result.error.message) == error


def test_stream_end_has_the_fields_of_a_sync_response():
    final = {"event": "final", "data": {"success": True, "status": "paused", "output": PAUSE}}
    assert events_of(json.dumps(final)) == [
        StreamEnd(
            WorkflowExecutionResult(
                run_id="r",
                workflow_id="w",
                status=RunStatus.PAUSED,
                server_status="paused",
                output=PAUSE,
                paused=Pause("c-1", "human"),
            )
        )
    ]


def test_stream_accepts_crlf_line_ends():
    frames = ['{"blockId":"b","chunk":"x"}', '{"blockId":"b","chunk":"y"}', FINAL]
    reader = StreamReader(Request("POST", "/", "start", workflow_id="w", run_id="r").streaming())
    events = reader.feed("".join(f"data: {frame}\r\n\r\n" for frame in frames).encode())
    assert events == events_of(*frames)


def test_stream_ignores_comments_and_other_fields():
    reader = StreamReader(Request("POST", "/", "start", workflow_id="w", run_id=None).streaming())
    events = reader.feed(f": ping\r\nevent: x\r\nid: 1\r\n\r\ndata: {FINAL}\r\n\r\n".encode())
    assert [type(event) for event in events] == [StreamEnd]


@pytest.mark.parametrize("frame", ["[1]", "nonsense", "{", "7"])
def test_unreadable_stream_frame_is_an_error(frame):
    with pytest.raises(SimStreamError, match="'w'"):
        events_of(frame)


def test_too_large_stream_frame_is_an_error(monkeypatch):
    monkeypatch.setattr("airflow_provider_sim.client.stream.MAX_FRAME_BYTES", 1000)
    reader = StreamReader(Request("POST", "/", "start", workflow_id="w", run_id="r").streaming())
    reader.feed(b"x" * 1000)
    with pytest.raises(SimStreamError, match="larger than"):
        reader.feed(b"x")


# --- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "on_legacy", "on_v2"),
    [
        ({"a": 1}, {"a": 1}, {"input": {"a": 1}}),
        ("text", {"input": "text"}, {"input": {"input": "text"}}),
        (7, {"input": 7}, {"input": {"input": 7}}),
        ([1, 2], {"input": [1, 2]}, {"input": {"input": [1, 2]}}),
        (None, {}, {"input": {}}),
        ({}, {}, {"input": {}}),
    ],
)
def test_input_format_of_each_api_version(value, on_legacy, on_v2):
    assert json.loads(legacy.execute("w", value, run_id=None).request.body) == on_legacy
    assert json.loads(v2.execute("w", value, run_id=None).request.body) == on_v2


@pytest.mark.parametrize("name", sorted(legacy.CONTROL_FIELDS))
def test_legacy_rejects_control_fields_in_the_input(name):
    with pytest.raises(SimError, match=f"field.*{name}.*v2"):
        legacy.execute("w", {name: True}, run_id=None)
    assert json.loads(v2.execute("w", {name: True}, run_id=None).request.body) == {"input": {name: True}}


def test_async_execution_requests():
    on_legacy = legacy.execute("w", {"a": 1}, run_id="r", async_execution=True, run_timeout=60).request
    assert on_legacy.headers["X-Execution-Mode"] == "async"
    assert on_legacy.headers["X-Execution-Timeout-Seconds"] == "60"
    assert on_legacy.headers["X-Execution-Id"] == "r"
    on_v2 = v2.execute("w", {"a": 1}, run_id="r", async_execution=True, run_timeout=60).request
    assert json.loads(on_v2.body) == {"input": {"a": 1}, "async": True, "executionTimeoutSeconds": 60}
    assert on_v2.headers["X-Run-Id"] == "r"
    assert "X-Execution-Mode" not in on_v2.headers
    assert "X-Execution-Mode" not in legacy.execute("w", {}, run_id="r").request.headers


def test_streamed_execution_requests():
    on_legacy = legacy.execute("w", {"a": 1}, run_id="r", stream=True, selected_outputs=["Agent.content"]).request
    assert json.loads(on_legacy.body) == {"a": 1, "stream": True, "selectedOutputs": ["Agent.content"]}
    on_v2 = v2.execute("w", {"a": 1}, run_id="r", stream=True, selected_outputs=["Agent.content"]).request
    assert json.loads(on_v2.body) == {"input": {"a": 1}, "stream": True, "selectedOutputs": ["Agent.content"]}


def test_paths_are_encoded_and_unset_queries_left_out():
    assert v2.get_run("w%1é", "r:1").request.path == "/api/v2/workflows/w%251%C3%A9/runs/r:1"
    assert v2.list_runs("w", status="failed", limit=5).request.path.endswith("/runs?status=failed&limit=5")
    asked = v2.get_run("w", "r", include_output=True, selected_outputs=["b-1.x", "b-2"]).request.path
    assert asked.endswith("?includeOutput=true&selectedOutputs=b-1.x%2Cb-2")


def test_list_logs_query():
    asked = v2.list_logs(
        "space",
        workflow_ids=["w-1", "w-2"],
        triggers=["api"],
        start_date=1_800_000_000.0004,
        end_date="2027-02-01T00:00Z",
    ).request
    query = dict(parse_qsl(asked.path.partition("?")[2], strict_parsing=True))
    assert query == {
        "workspaceId": "space",
        "workflowIds": "w-1,w-2",
        "triggers": "api",
        "startDate": "2027-01-15T08:00:00.000Z",
        "endDate": "2027-02-01T00:00Z",
    }
    assert v2.list_logs("space", workflow_ids=[], triggers=[]).request.path == "/api/v2/logs?workspaceId=space"


@pytest.mark.parametrize(
    ("status", "headers", "bucket"),
    [
        pytest.param(200, {"x-ratelimit-limit": "600"}, "logs.list", id="an answer"),
        pytest.param(429, {"x-ratelimit-limit": "60", "retry-after": "5"}, "logs.list", id="refused by its own"),
        pytest.param(429, {"x-ratelimit-limit": "600", "retry-after": "60"}, "address", id="refused by the address's"),
        pytest.param(503, {"retry-after": "5"}, "logs.list", id="nothing but a wait"),
    ],
)
def test_rate_limit_bucket_of_a_response(status, headers, bucket):
    assert rate_limit_info(Response(status, headers, b""), bucket="logs.list").bucket == bucket


@pytest.mark.parametrize(
    ("started_at", "began"),
    [
        ("2027-01-15T08:00:00.250Z", 1_800_000_000.25),
        ("2027-01-15T09:00:00+01:00", 1_800_000_000.0),
        ("yesterday", None),
        (None, None),
    ],
)
def test_start_time_is_parsed_from_started_at(started_at, began):
    assert WorkflowRun(run_id="r", status=RunStatus.RUNNING, started_at=started_at).start_time == began


# --- representations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RunError("boom"), "boom"),
        (RunError("boom", code="C"), "boom (C)"),
        (RunError("boom", block_name="Agent"), "boom in block 'Agent'"),
        (RunError("boom", code="C", block_name="Agent"), "boom in block 'Agent' (C)"),
    ],
)
def test_run_error_as_text(error, words):
    assert str(error) == words


def test_run_details():
    run = WorkflowRun(
        run_id="r",
        status=RunStatus.FAILED,
        workflow_id="w",
        trigger="api",
        started_at="a",
        ended_at="b",
        duration_ms=3.0,
        cost_usd=0.5,
    )
    assert run.details() == {
        "workflow_id": "w",
        "run_id": "r",
        "status": "failed",
        "trigger": "api",
        "started_at": "a",
        "ended_at": "b",
        "duration_ms": 3.0,
        "cost_usd": 0.5,
    }


RUN_TOLD = "Run 'r' of workflow 'w'"


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (
            RunStatus.CANCELLED,
            None,
            f"{RUN_TOLD} was cancelled before it completed. A retry of the task that started it, or clearing that task,"
            " starts another.",
        ),
        (RunStatus.FAILED, None, f"{RUN_TOLD} failed: no error message. Its log in Sim shows each block."),
        (RunStatus.FAILED, RunError("boom", "C"), f"{RUN_TOLD} failed: boom (C). Its log in Sim shows each block."),
    ],
)
def test_raise_for_status_raises_failed_and_cancelled_runs(status, error, message):
    run = WorkflowRun(run_id="r", status=status, workflow_id="w", error=error)
    with pytest.raises(SimRunCancelledError if status == "cancelled" else SimRunFailedError) as caught:
        run.raise_for_status()
    assert str(caught.value) == message
    body = caught.value
    assert (body.workflow_id, body.run_id, body.outcome) == ("w", "r", Outcome.RAN)
    assert body.detail_code == (error and error.code)


@pytest.mark.parametrize("status", sorted(set(RunStatus) - {RunStatus.CANCELLED, RunStatus.FAILED}))
def test_raise_for_status_ignores_other_statuses(status):
    WorkflowRun(run_id="r", status=status).raise_for_status()


@pytest.mark.parametrize(
    ("accepted", "reason", "status", "words"),
    [
        (True, "recorded", RunStatus.CANCELLED, "Run r is cancelled."),
        (
            False,
            None,
            RunStatus.COMPLETED,
            "Run r was completed before it could be cancelled.",
        ),
        (
            True,
            None,
            None,
            "Cancellation of run r was requested; the run's status could not be read.",
        ),
        (
            True,
            "recorded",
            RunStatus.RUNNING,
            "Cancellation of run r was requested; the run is still running. Sim may stop it at the end of its current"
            " block. Check its log in Sim.",
        ),
    ],
)
def test_cancellation_as_text(accepted, reason, status, words):
    assert str(Cancellation(run_id="r", accepted=accepted, reason=reason, status=status)) == words


@pytest.mark.parametrize(
    ("status", "error", "died"),
    [
        (RunStatus.CANCELLED, None, True),
        (RunStatus.FAILED, RunError("any", "CANCELLED"), True),
        (RunStatus.FAILED, RunError("Client cancelled request after 3 s"), True),
        (RunStatus.FAILED, RunError("boom", "C"), False),
        (RunStatus.FAILED, None, False),
        (RunStatus.COMPLETED, None, False),
    ],
)
def test_run_that_ended_with_its_connection_is_recognized(status, error, died):
    assert died_with_its_connection(WorkflowRun(run_id="r", status=status, error=error)) is died


def test_display_marks_name_the_truncated_and_redacted_paths():
    output = {
        "items": [{"token": "[REDACTED]", "text": "whole"}, "long... [truncated 17 chars]"],
        "file": {"base64": "[TRUNCATED]"},
        "quoted": "... [truncated 17 chars] in the middle",
    }
    assert display_marks(output) == ["output.items[0].token", "output.items[1]", "output.file.base64"]
    assert len(display_marks(["[REDACTED]"] * 11)) == 10
