"""No byte sequence as an answer or a stream makes a dialect raise anything but a SimError."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings, strategies as st

from airflow_provider_sim.client.api import legacy, v2
from airflow_provider_sim.client.api.http import Request, Response, rate_limit_info, retry_after
from airflow_provider_sim.client.stream import StreamReader
from airflow_provider_sim.exceptions import SimError

pytestmark = pytest.mark.slow

CALLS = {
    "v2 execute": lambda: v2.execute("w", {}, run_id="r"),
    "v2 execute async": lambda: v2.execute("w", {}, run_id="r", async_execution=True, run_timeout=5),
    "v2 stream": lambda: v2.execute("w", {}, run_id=None, stream=True, selected_outputs=None),
    "v2 run": lambda: v2.get_run("w", "r", include_output=True),
    "v2 runs": lambda: v2.list_runs("w"),
    "v2 logs": lambda: v2.list_logs("space"),
    "v2 cancel": lambda: v2.cancel_run("w", "r"),
    "v2 resume": lambda: v2.resume_run("w", "r", "c", None),
    "v2 workflow": lambda: v2.get_workflow("w"),
    "v2 workspaces": v2.list_workspaces,
    "legacy execute": lambda: legacy.execute("w", {}, run_id="r"),
    "legacy execute async": lambda: legacy.execute("w", {}, run_id=None, async_execution=True, run_timeout=None),
    "legacy stream": lambda: legacy.execute("w", {}, run_id="r", stream=True, selected_outputs=None),
    "legacy execution": lambda: legacy.get_run("w", "r"),
    "legacy job": lambda: legacy.get_job("j"),
    "legacy cancel": lambda: legacy.cancel_run("w", "r"),
    "legacy resume": lambda: legacy.resume_run("w", "r", "c", 1),
    "legacy status": lambda: legacy.get_workflow_status("w"),
    "legacy workflow": lambda: legacy.get_workflow("w"),
    "legacy usage": legacy.get_usage_limits,
}
KNOWN_KEYS = [
    "data", "error", "message", "code", "details", "success", "output", "status", "runId", "executionId", "jobId",
    "taskId", "metadata", "correlation", "paused", "cost", "total", "path", "async", "_resume", "contextId",
    "rateLimit", "sync", "remaining", "usage", "storage", "inputs", "name", "id", "nextCursor", "blockOutputs",
    "retryAfterSeconds", "event", "chunk", "blockId", "durationMs", "isDeployed", "statusUrl",
]  # fmt: skip
KNOWN_WORDS = [
    "completed",
    "failed",
    "cancelled",
    "paused",
    "queued",
    "Not found",
    "Workflow not found",
    "RUN_ID_CONFLICT",
]

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(KNOWN_WORDS)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KNOWN_KEYS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=20,
)
bodies = st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode())
headers = st.dictionaries(
    st.sampled_from(
        [
            "content-type",
            "retry-after",
            "location",
            "x-request-id",
            "x-ratelimit-reset",
            "x-ratelimit-limit",
            "x-run-id",
        ]
    ),
    st.text(max_size=20)
    | st.sampled_from(["application/json", "text/html", "Wed, 21 Oct 2015 07:28:00 GMT", "99999999999"]),
)
statuses = st.sampled_from(
    [200, 201, 202, 204, 302, 400, 401, 402, 403, 404, 405, 408, 409, 413, 418, 423, 429, 499, 500, 502, 503]
)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(CALLS)), statuses, headers, bodies)
def test_any_response_parses_or_raises_sim_error(name, status, headers, body):
    call = CALLS[name]()
    with contextlib.suppress(SimError, legacy.AmbiguousResponseError):  # a start finds out what the latter means
        call.read(Response(status, headers, body))


@settings(max_examples=300, deadline=None)
@given(headers)
def test_any_rate_limit_headers_are_accepted(headers):
    response = Response(200, headers, b"")
    wait = retry_after(response)
    assert wait is None or wait >= 0
    rate_limit_info(response)


frames = values.map(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n")


@settings(max_examples=500, deadline=None)
@given(st.lists(frames | st.binary(max_size=30), max_size=8), st.integers(1, 50))
def test_any_stream_bytes_parse_or_raise_sim_error(pieces, step):
    raw = b"".join(pieces)
    reader = StreamReader(Request("POST", "/", "start", workflow_id="w", run_id="r").streaming())
    with contextlib.suppress(SimError):
        for begin in range(0, len(raw), step):
            reader.feed(raw[begin : begin + step])
        reader.finish()


@settings(max_examples=300, deadline=None)
@given(values)
def test_any_input_becomes_json_or_sim_error(value):
    for dialect in (v2, legacy):
        try:
            call = dialect.execute("w", value, run_id="r")
        except SimError:
            continue
        json.loads(call.request.body)
