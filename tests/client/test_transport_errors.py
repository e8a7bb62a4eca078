"""What goes wrong between us and the server: what is said, and whether it may be tried again."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest

from airflow_provider_sim.client import async_client, base, transport
from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.client.stream import StreamChunk
from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConnectionError,
    SimRedirectError,
    SimResponseError,
    SimStreamError,
    SimTimeoutError,
)
from tests.canned_server import Answer, CannedServer, canned, closed_port, held
from tests.certificates import self_signed
from tests.client.conftest import KEY

DONE = Answer(200, {"data": {"runId": "r", "workflowId": "wf-1", "status": "completed", "output": {"a": 1}}})
UNKNOWN_OUTCOME = "It is unknown whether run {!r} was started; check Sim's logs before starting another."


def until(condition):
    """Whether a condition becomes true within 5 s."""
    ends = time.monotonic() + 5
    while not condition() and time.monotonic() < ends:
        time.sleep(0.02)
    return condition()


def test_closed_port_is_a_retryable_connection_error(connect):
    url = f"http://127.0.0.1:{closed_port()}"
    client = connect(url, api_version="v2")
    with pytest.raises(SimConnectionError, match="can't be reached") as caught:
        client.execute_with_retry("wf-1", max_retries=2)
    assert url in str(caught.value)
    assert caught.value.outcome is Outcome.NEVER_SENT
    assert len(client.sleeps) == 2, "nothing was sent: it may be tried again"


def test_unknown_host_is_a_connection_error(connect):
    client = connect("http://sim.invalid", api_version="v2")
    with pytest.raises(SimConnectionError, match=r"sim\.invalid can't be reached") as caught:
        client.get_workflow_run("wf-1", "r")
    assert caught.value.outcome is Outcome.NEVER_SENT


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(silent=True), id="without a word"),
        pytest.param(Answer(200, b'{"data": {"runId": "r"}}', cut=9), id="in mid-answer"),
    ],
)
def test_start_is_not_retried_after_broken_connection(connect, answer):
    with canned(answer) as server:
        client = connect(server.url, api_version="v2")
        with pytest.raises(SimConnectionError, match=r"Could not start.*broke before the whole response") as caught:
            client.execute_with_retry("wf-1", max_retries=2)
    assert caught.value.outcome is Outcome.UNKNOWN
    starts = [got for got in server.requests if got.method == "POST"]
    assert len(starts) == 1, "it may have been started, and that can't be found out: never a second time"


def test_read_request_is_retried_after_broken_connection(connect):
    with canned(Answer(silent=True), DONE) as server:
        assert connect(server.url, api_version="v2").get_workflow_run("wf-1", "r").output == {"a": 1}
    assert len(server.requests) == 2


TOO_LATE = Answer(delay=1.0)


def test_sync_start_times_out(connect):
    with canned(("/execute", TOO_LATE), *[("/usage-limits", TOO_LATE)] * 2, Answer()) as server:
        client = connect(server.url, api_version="v2")
        with pytest.raises(SimTimeoutError, match=r"within 0\.4 s.*cancels a sync run.*deferrable") as caught:
            client.execute_with_retry("wf-1", timeout=0.4, max_retries=2)
        assert caught.value.code == "TIMEOUT"
        assert f"It is unknown whether run {caught.value.run_id!r} was started" in str(caught.value)
        once = RetryPolicy(max_retries=1)
        with pytest.raises(SimTimeoutError, match="'timeout'"):
            connect(server.url, api_version="v2", timeout=0.4, retry=once).get_usage_limits()
    assert [got.method for got in server.requests] == ["POST", *["GET"] * 3, *["GET"] * 2], "the run is asked for"


def test_async_start_times_out(connect):
    with canned(TOO_LATE) as server:
        client = connect(server.url, api_version="v2", timeout=0.4)
        with pytest.raises(SimTimeoutError, match="Sim may be overloaded"):
            client.execute_workflow("wf-1", async_execution=True)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(Answer(200, b"<html><body>Welcome!</body></html>"), "a web page, not JSON", id="HTML"),
        pytest.param(Answer(200, b'{"data": {"runId": "r", "sta'), "truncated", id="truncated JSON"),
        pytest.param(Answer(200, b""), "the response is empty", id="nothing"),
        pytest.param(Answer(200, [1, 2]), "not what Sim's API returns", id="other JSON"),
        pytest.param(Answer(200, {"data": {"id": 7}}), "not what Sim's API returns", id="other fields"),
        pytest.param(Answer(200, b"\xff\xfe{}"), "not JSON", id="no text"),
    ],
)
def test_unreadable_response_is_a_response_error(connect, answer, words):
    with canned(answer) as server:
        client = connect(server.url, api_version="v2")
        with pytest.raises(SimResponseError, match=words) as caught:
            client.execute_workflow("wf-1")
    assert (caught.value.code, caught.value.outcome) == ("INVALID_JSON", Outcome.UNKNOWN)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_rejected_and_names_the_target(connect, status):
    with canned(DONE) as elsewhere:
        target = f"{elsewhere.url}/api/v2/workflows/wf-1/execute"
        with canned(Answer(status, b"", {"location": f"{target}?token=t"})) as server:
            client = connect(server.url, api_version="v2")
            with pytest.raises(SimRedirectError, match=rf"Set .* \(host\) to {elsewhere.url};") as caught:
                client.execute_with_retry("wf-1")
    assert elsewhere.requests == [], "the key goes to no other origin"
    assert len(server.requests) == 1
    assert str(caught.value) == (
        f"Could not start workflow 'wf-1': the server redirects to {target}. Set the connection's base URL (host) to"
        f" {elsewhere.url}; redirects are not followed, as they would lose the request's body and pass on the API key."
        f"{' ' + UNKNOWN_OUTCOME.format(caught.value.run_id) if status == 303 else ''} [HTTP {status}]"
    )


def test_redirect_without_a_location(connect):
    with canned(Answer(302)) as server, pytest.raises(SimRedirectError) as caught:
        connect(server.url, api_version="v2").get_workflow_run("wf-1", "r")
    assert str(caught.value) == (
        "Could not read run 'r' of workflow 'wf-1': the server redirects to an unnamed place. Correct the connection's"
        " base URL (host): it must be the URL of the API itself; redirects are not followed, as they would lose the"
        " request's body and pass on the API key. [HTTP 302]"
    )


# --- streams -------------------------------------------------------------------------------------------------------


def stream(body: bytes, **how: object) -> Answer:
    return Answer(200, body, {"content-type": "text/event-stream"}, **how)


def test_stream_without_an_end_is_a_stream_error(connect):
    with canned(stream(b'data: {"blockId":"b","chunk":"Once"}\n\ndata: "[DONE]"\n\n')) as server:
        client = connect(server.url, api_version="v2")
        events = client.events(client.execute_workflow("wf-1", stream=True, run_id="mine"))
        assert next(events).text == "Once"
        with pytest.raises(SimStreamError, match=r"stopped before the run finished.*async execution") as caught:
            next(events)
    assert caught.value.outcome is Outcome.RAN
    assert (caught.value.workflow_id, caught.value.run_id) == ("wf-1", "mine")


def test_broken_stream_is_a_connection_error(connect):
    whole = b'data: {"blockId":"b","chunk":"Once"}\n\n' + b"x" * 100
    with canned(stream(whole, cut=60)) as server:
        client = connect(server.url, api_version="v2")
        events = client.events(client.execute_workflow("wf-1", stream=True, run_id="mine"))
        with pytest.raises(SimConnectionError, match=r"read the stream of run 'mine'.*broke before") as caught:
            list(events)
    assert caught.value.outcome is Outcome.RAN


def test_stalled_stream_times_out(connect):
    """The timeout applies to each piece of the stream."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    frame = b'data: {"blockId":"b","chunk":"Once"}\n\n'
    with held(head + b"%x\r\n%b\r\n" % (len(frame), frame)) as (url, _):
        client = connect(url, api_version="v2")
        events = client.events(client.execute_workflow("wf-1", stream=True, run_id="mine", timeout=0.6))
        assert next(events) == StreamChunk("b", "Once")
        with pytest.raises(SimTimeoutError, match=r"read the stream of run 'mine'.*within 0\.6 s"):
            next(events)


def test_timeout_ends_a_stream_that_keeps_sending(connect):
    with SimEmulator(api_key=KEY) as sim:
        sim.workflow("talk", chunks=lambda given: ["word "] * 50, chunk_delay=0.2, block="Agent")(lambda given: {})
        client = connect(sim.url, api_version="v2")
        started = time.monotonic()
        stream = client.execute_workflow("talk", stream=True, selected_outputs=["Agent.content"], timeout=1.0)
        with pytest.raises(SimTimeoutError, match=r"did not finish within 1 s") as caught:
            list(client.events(stream))
        assert 0.9 < time.monotonic() - started < 3
        assert caught.value.outcome is Outcome.RAN
        [run] = sim.runs
        assert until(lambda: run.status == "cancelled")


def test_stream_that_is_not_json_is_a_stream_error(connect):
    with canned(stream(b"data: hello\n\n")) as server:
        client = connect(server.url, api_version="v2")
        with pytest.raises(SimStreamError, match="not JSON"):
            list(client.events(client.execute_workflow("wf-1", stream=True)))


# --- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path) -> Path:
    """Path of the server's certificate."""
    return tmp_path / "server.pem"


@pytest.fixture
def tls_server(certificate):
    with CannedServer(DONE, tls=self_signed(certificate)) as server:
        yield server


def test_untrusted_certificate(connect, tls_server):
    client = connect(tls_server.url, api_version="v2")
    with pytest.raises(SimConnectionError, match=r"no secure connection.*'verify'") as caught:
        client.execute_with_retry("wf-1")
    assert (caught.value.code, caught.value.outcome) == ("TLS_ERROR", Outcome.NEVER_SENT)
    assert client.sleeps == [], "no certificate becomes better by waiting"


@pytest.mark.parametrize("how", ["bundle", "not at all"])
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_ca_bundle_of_verify_is_trusted(connect, tls_server, certificate, how):
    verify = str(certificate) if how == "bundle" else False
    assert connect(tls_server.url, api_version="v2", verify=verify).execute_workflow("wf-1").output == {"a": 1}


def test_ca_bundle_of_the_environment_is_trusted(connect, tls_server, certificate, monkeypatch):
    monkeypatch.setattr(async_client, "_ssl_context", async_client._ssl_context.__wrapped__)  # which reads it once
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert connect(tls_server.url, api_version="v2").execute_workflow("wf-1").output == {"a": 1}


def test_missing_ca_bundle_is_an_error(connect, tls_server):
    client = connect(tls_server.url, api_version="v2", verify="/nowhere/ca.pem")
    with pytest.raises(Exception, match=r"/nowhere/ca\.pem") as caught:
        client.execute_workflow("wf-1")
    assert type(caught.value).__name__ in ("SimConfigurationError", "SimConnectionError")


def test_http_request_to_https_server_is_a_connection_error(connect, tls_server):
    client = connect(tls_server.url.replace("https", "http"), api_version="v2")
    with pytest.raises(SimConnectionError):
        client.execute_workflow("wf-1")


def test_https_request_to_http_server_suggests_http(connect):
    with canned(DONE) as server:
        client = connect(server.url.replace("http", "https"), api_version="v2", timeout=0.4)
        with pytest.raises(SimConnectionError, match=r"\(host\) with http://") as caught:
            client.execute_workflow("wf-1")
    assert caught.value.outcome is Outcome.NEVER_SENT


@pytest.mark.parametrize("packed", [False, True], ids=["as-it-is", "gzip"])
def test_endless_response_is_cut_off(connect, monkeypatch, packed):
    monkeypatch.setattr(base.BaseClient, "max_response_bytes", 2**20)
    body = b'{"data": "' + bytes(40 * 2**20)
    headers = {"content-type": "application/json"} | ({"content-encoding": "gzip"} if packed else {})
    with canned(Answer(200, gzip.compress(body, 1) if packed else body, headers=headers)) as server:
        client = connect(server.url, api_version="v2")
        with pytest.raises(SimResponseError, match=r"Could not read.*larger than 1,048,576 bytes.*return less"):
            client.get_workflow_run("wf-1", "r")
    assert len(server.requests) == 1, "it would be as large again"


def chained(error: Exception, *, cause: Exception | None = None, context: Exception | None = None) -> Exception:
    """An error with a cause and a context, each with its own traceback."""
    try:
        raise error
    except (OSError, ValueError) as raised:
        raised.__cause__, raised.__context__ = cause, context
        return raised


def test_without_frames_clears_tracebacks_of_chained_errors():
    deep = [chained(ValueError(name)) for name in "abcd"]
    cause = chained(OSError("cause"), cause=deep[0], context=deep[1])
    context = chained(OSError("context"), cause=deep[2], context=deep[3])
    error = chained(OSError("outer"), cause=cause, context=context)
    assert error.__traceback__ is not None
    assert transport.without_frames(error) is error
    assert [one.__traceback__ for one in (error, cause, context, *deep)] == [None] * 7


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(OSError("plain"), "plain", id="its words"),
        pytest.param(OSError(111, "refused"), "refused", id="words, not numbers"),
        pytest.param(OSError(), "OSError", id="none: its name"),
        pytest.param(
            type("IncompleteRead", (Exception,), {})(), "it was closed too early", id="a name that says little"
        ),
        pytest.param(chained(OSError("outer"), cause=OSError("inner")), "inner", id="the cause"),
        pytest.param(chained(OSError("outer"), context=OSError("inner")), "inner", id="the context"),
        pytest.param(OSError(ValueError("inner")), "inner", id="an error in place of words"),
        pytest.param(OSError("<urllib3 object at 0x1>: name unknown"), "name unknown", id="without addresses"),
        pytest.param(OSError("x" * 301), "x" * 300, id="not for ever"),
    ],
)
def test_innermost_reason(error, words):
    assert transport.innermost_reason(error) == words


def test_innermost_reason_of_circular_causes():
    first, second = OSError("first"), OSError("second")
    first.__cause__, second.__cause__ = second, first
    assert transport.innermost_reason(first) in ("first", "second")
