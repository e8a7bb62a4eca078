"""What goes wrong on order: over real sockets, on both dialects, and without any client of ours."""

from __future__ import annotations

import itertools
import json
import logging
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_sim.emulator import Match, SimEmulator
from airflow_provider_sim.emulator.app import API
from airflow_provider_sim.emulator.fault_rules import OPERATIONS

Dialect = Any
CUT = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


class V2:
    """Requests and responses of the v2 API."""

    name = "v2"
    workflows, runs = "/v2/workflows", "runs"
    ambiguous_header = "x-run-id"

    def __init__(self, sim: SimEmulator) -> None:
        self.sim = sim

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {"X-API-Key": self.sim.api_key, **more.pop("headers", {})}
        url = f"{self.sim.url}/api{path}"
        return requests.request(method, url, headers=headers, timeout=30, allow_redirects=False, **more)

    def execute(
        self,
        workflow_id: str,
        given: dict[str, Any] | None = None,
        *,
        mode: str = "async",
        run_id: str = "r",
        **more: Any,
    ) -> requests.Response:
        body, headers = self.start(given or {}, mode, run_id)
        body, headers = body | more.pop("body", {}), headers | more.pop("headers", {})
        return self.call("POST", f"{self.workflows}/{workflow_id}/execute", json=body, headers=headers, **more)

    def start(self, given: dict[str, Any], mode: str, run_id: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Body and headers that start a run."""
        return {"input": given, **({} if mode == "sync" else {mode: True})}, {"X-Run-Id": run_id}

    def look(self, workflow_id: str = "echo", run_id: str = "r", **more: Any) -> requests.Response:
        return self.call("GET", f"{self.workflows}/{workflow_id}/{self.runs}/{run_id}", **more)

    def cancel(self, workflow_id: str = "slow", run_id: str = "r", **more: Any) -> requests.Response:
        return self.call("POST", f"{self.workflows}/{workflow_id}/{self.runs}/{run_id}/cancel", **more)

    def status(self, answer: requests.Response) -> str:
        return answer.json()["data"]["status"]

    def error(self, answer: requests.Response) -> str:
        return answer.json()["error"]["message"]

    def told(self, answer: requests.Response) -> dict[str, Any]:
        """The response's data without its envelope."""
        return answer.json()["data"]


class Legacy(V2):
    """Requests and responses of the legacy API."""

    name = "legacy"
    workflows, runs = "/workflows", "executions"
    ambiguous_header = "x-execution-id"

    def start(self, given: dict[str, Any], mode: str, run_id: str) -> tuple[dict[str, Any], dict[str, str]]:
        body = {**given, "stream": True} if mode == "stream" else given
        return body, {"X-Execution-Id": run_id, **({"X-Execution-Mode": "async"} if mode == "async" else {})}

    def status(self, answer: requests.Response) -> str:
        return answer.json()["status"]

    def error(self, answer: requests.Response) -> str:
        return answer.json()["error"]

    def told(self, answer: requests.Response) -> dict[str, Any]:
        return answer.json()


@pytest.fixture(params=[V2, Legacy], ids=lambda kind: kind.name)
def dialect(request, emulator) -> Dialect:
    return request.param(emulator)


@pytest.fixture(autouse=True)
def _no_noise(monkeypatch):
    """Ordered faults are no errors of the server, so it logs none."""
    logged: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handle", logged.append)
    yield
    assert [record.getMessage() for record in logged] == []


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Future[Any]]]:
    """Call something in another thread."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


class Moments:
    """Waits for the server's thread without fixed sleeps."""

    def __init__(self, sim: SimEmulator) -> None:
        self._condition = threading.Condition()
        self._sim = sim
        sim.on_request(lambda _: self._tell())
        sim.on_start("slow", lambda _: self._tell())

    def _tell(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until a condition is true."""
        with self._condition:
            for _ in range(3000):
                if true():
                    return
                self._condition.wait(0.01)
        raise AssertionError("it never comes to be so")

    def go_by(self, answer: Future[Any], *, at_least: float) -> None:
        """Advance the emulator's clock until there is a response, and check how many seconds it took."""
        clock = self._sim.clock
        began = clock.now()
        self.until(lambda: answer.done() or bool(clock.advance(at_least / 20)))
        assert clock.now() - began >= at_least


@pytest.fixture
def moments(emulator) -> Moments:
    return Moments(emulator)


class TestDrops:
    """The connection is closed without a response."""

    @pytest.mark.parametrize("reset", [False, True])
    def test_drop_before_accept_starts_no_run(self, emulator, dialect, reset):
        emulator.fault("drop_before_accept", reset=reset)
        with pytest.raises(CUT):
            dialect.execute("echo")
        assert emulator.runs == []
        assert [(seen.status, seen.faults) for seen in emulator.requests] == [(None, ("drop_before_accept",))]
        assert dialect.execute("echo").status_code == 202

    @pytest.mark.parametrize("reset", [False, True])
    def test_drop_after_accept_starts_the_run(self, emulator, dialect, reset):
        emulator.fault("drop_after_accept", reset=reset)
        with pytest.raises(CUT):
            dialect.execute("echo")
        assert dialect.status(dialect.look()) == "completed"
        assert [seen.status for seen in emulator.requests] == [None, 200]

    @pytest.mark.parametrize("mode", ["sync", "stream"])
    def test_drop_cancels_a_sync_run(self, emulator, dialect, moments, mode):
        emulator.fault("drop_after_accept")
        with pytest.raises(CUT):
            dialect.execute("slow", {"seconds": 600}, mode=mode)
        moments.until(lambda: emulator.runs[0].status == "cancelled")

    @pytest.mark.parametrize("mode", ["sync", "stream"])
    def test_drop_behind_a_proxy_does_not_cancel(self, emulator, dialect, moments, mode):
        emulator.fault("drop_after_accept", proxied=True)
        with pytest.raises(CUT):
            dialect.execute("slow", {"seconds": 600}, mode=mode)
        assert emulator.runs[0].status == "running"
        emulator.clock.advance(601)
        assert dialect.status(dialect.look("slow")) == "completed"

    @pytest.mark.parametrize(("fault", "runs"), [("drop_before_accept", 0), ("drop_after_accept", 1)])
    @pytest.mark.parametrize("reset", [False, True])
    def test_drop_sends_no_bytes(self, emulator, fault, runs, reset):
        emulator.fault(fault, reset=reset)
        with by_hand(emulator, "POST /api/workflows/echo/execute", {"message": "hi"}) as connection:
            if reset:
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
            else:
                assert connection.recv(1) == b""
        assert len(emulator.runs) == runs

    def test_drop_of_other_requests(self, emulator, dialect):
        dialect.execute("slow", {"seconds": 600})
        emulator.fault("drop_after_accept", match="cancel")
        with pytest.raises(CUT):
            dialect.cancel()
        assert dialect.status(dialect.look("slow")) == "cancelled"


def everything(connection: socket.socket) -> bytes:
    """The bytes received until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def http_body(connection: socket.socket) -> bytes:
    """The body of the next response."""
    with connection.makefile("rb") as reader:
        head = dict(line.rstrip().split(b": ", 1) for line in itertools.takewhile(bytes.strip, reader) if b": " in line)
        return reader.read(int(head[b"content-length"]))


def by_hand(sim: SimEmulator, line: str, body: object = None) -> socket.socket:
    """Send a request over a plain socket."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{line} HTTP/1.1\r\nHost: sim\r\nX-API-Key: {sim.api_key}\r\nContent-Length: {len(content)}\r\n\r\n"
    host, port = sim.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(head.encode() + content)
    return connection


class TestHolds:
    """Requests that are held inside the server."""

    def test_hold_before_accept(self, emulator, dialect, elsewhere):
        hold = emulator.hold("execute")
        answer = elsewhere(dialect.execute, "echo")
        assert hold.wait_until_held().run_id == "r"
        assert emulator.runs == []
        hold.release()
        assert answer.result().status_code == 202

    @pytest.mark.parametrize("mode", ["sync", "async", "stream"])
    def test_hold_after_accept(self, emulator, dialect, elsewhere, mode):
        with emulator.hold("execute", when="accepted") as hold:
            answer = elsewhere(dialect.execute, "slow", {"seconds": 600}, mode=mode)
            hold.wait_until_held()
            assert [run.status for run in emulator.runs] == ["running"]
            emulator.clock.advance(601)
        assert answer.result().status_code == (202 if mode == "async" else 200)

    def test_hold_before_response(self, emulator, dialect, elsewhere):
        with emulator.hold("execute", when="done") as hold:
            answer = elsewhere(dialect.execute, "echo_plain", mode="sync")
            hold.wait_until_held()
            assert emulator.runs[0].status == "completed"
        assert answer.result().status_code == 200

    @pytest.mark.parametrize(("when", "runs"), [("before", []), ("accepted", ["cancelled"])])
    def test_client_disconnect_ends_the_held_request(self, emulator, moments, when, runs):
        hold = emulator.hold("execute", when=when)
        with by_hand(emulator, "POST /api/workflows/slow/execute", {"seconds": 600}):
            hold.wait_until_held()
        hold.wait_until_abandoned()
        moments.until(lambda: [run.status for run in emulator.runs] == runs)
        moments.until(lambda: [seen.status for seen in emulator.requests] == [None])

    @pytest.mark.parametrize("when", ["before", "accepted"])
    def test_client_disconnect_behind_a_proxy_is_not_noticed(self, emulator, moments, when):
        hold = emulator.hold("execute", when=when, proxied=True)
        with by_hand(emulator, "POST /api/workflows/slow/execute", {"seconds": 600}):
            hold.wait_until_held()
        hold.release()
        moments.until(lambda: [run.status for run in emulator.runs] == ["running"])

    def test_disconnect_is_detected_during_a_large_body(self, emulator):
        hold = emulator.hold("execute")
        with by_hand(emulator, "POST /api/workflows/echo/execute", {"message": "x" * 1_000_000}):
            hold.wait_until_held()
        hold.wait_until_abandoned()

    def test_several_holds(self, emulator, dialect, elsewhere):
        hold = emulator.hold("execute", times=None)
        answers = [elsewhere(dialect.execute, "echo", run_id=f"r{number}") for number in range(4)]
        assert {hold.wait_until_held(count=number).run_id for number in range(1, 5)} == {"r0", "r1", "r2", "r3"}
        hold.release()
        assert {answer.result().status_code for answer in answers} == {202}
        assert dialect.execute("echo").status_code == 202, "released is over"

    def test_wait_times_out_without_a_request(self, emulator):
        with emulator.hold("cancel") as hold, pytest.raises(TimeoutError, match="0 of 1 requests were held"):
            hold.wait_until_held(0.01)

    def test_reset_releases_held_requests(self, emulator, dialect, elsewhere):
        hold = emulator.hold("run")
        answer = elsewhere(dialect.look)
        hold.wait_until_held()
        emulator.reset()
        assert answer.result().status_code == 404


@pytest.fixture
def plain_server(monkeypatch):
    """A server as on Airflow 2, without the faster parser and loop that Airflow 3 brings."""
    monkeypatch.setattr("airflow_provider_sim.emulator.connections.AutoHTTPProtocol", H11Protocol)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with SimEmulator() as sim:
        yield sim


class TestPlainServer:
    """The same faults with uvicorn's h11 parser and the asyncio loop."""

    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize("fault", ["drop_before_accept", "drop_after_accept"])
    def test_drop_sends_no_bytes(self, plain_server, fault, reset):
        plain_server.fault(fault, reset=reset)
        with by_hand(plain_server, "POST /api/workflows/slow/execute", {"seconds": 60}) as connection:
            if reset:
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
            else:
                assert connection.recv(1) == b""

    def test_truncated_body(self, plain_server):
        plain_server.fault("half_answer")
        with by_hand(plain_server, "POST /api/workflows/echo_plain/execute", {}) as connection:
            head, _, half = everything(connection).partition(b"\r\n\r\n")
        assert len(half) == int(re.search(rb"content-length: (\d+)", head)[1]) // 2

    def test_cut_stream_ends_after_its_head(self, plain_server):
        plain_server.fault("cut_stream", frames=0)
        with by_hand(plain_server, "POST /api/workflows/echo/execute", {"stream": True}) as connection:
            assert everything(connection).endswith(b"\r\n\r\n")

    def test_client_disconnect_ends_the_held_request(self, plain_server):
        hold = plain_server.hold(when="accepted")
        with by_hand(plain_server, "POST /api/workflows/slow/execute", {"seconds": 60, "message": "x" * 1_000_000}):
            hold.wait_until_held()
        hold.wait_until_abandoned()


class TestTruncatedResponses:
    """The response ends after its head and half of its body."""

    def test_truncated_response_fails_in_the_client(self, emulator, dialect):
        emulator.fault("half_answer")
        with pytest.raises(CUT):
            dialect.execute("echo_plain", {"message": "hi"}, mode="sync")
        assert emulator.runs[0].status == "completed"

    def test_truncated_bytes(self, emulator):
        with by_hand(emulator, "POST /api/workflows/echo_plain/execute", {"message": "hi"}) as connection:
            whole = http_body(connection)
        with (
            emulator.fault("half_answer"),
            by_hand(emulator, "POST /api/workflows/echo_plain/execute", {"message": "hi"}) as connection,
        ):
            head, _, half = everything(connection).partition(b"\r\n\r\n")
        declared = int(re.search(rb"content-length: (\d+)", head)[1])
        assert head.startswith(b"HTTP/1.1 200 ")
        assert len(half) == declared // 2
        assert abs(declared - len(whole)) < 10, "it is the answer that there would have been"

    def test_truncated_stream(self, emulator, dialect):
        emulator.fault("half_answer")
        with pytest.raises(CUT):
            dialect.execute("echo_plain", mode="stream")


class TestDelays:
    """Delays in seconds of the emulator's clock."""

    @pytest.mark.parametrize(("when", "runs"), [("before", 0), ("accepted", 1), ("done", 1)])
    def test_delay_at_each_stage(self, emulator, dialect, elsewhere, moments, when, runs):
        order = emulator.fault("delay", seconds=3600, when=when)
        answer = elsewhere(dialect.execute, "echo")
        moments.until(lambda: order.hits == 1 and len(emulator.runs) == runs)
        assert not answer.done()
        moments.go_by(answer, at_least=3600)
        assert answer.result().status_code == 202

    @pytest.mark.parametrize(("proxied", "runs"), [(False, 0), (True, 1)])
    def test_client_timeout_during_a_delay(self, emulator, dialect, moments, proxied, runs):
        order = emulator.fault("delay", seconds=3600, proxied=proxied)
        with by_hand(emulator, "POST /api/workflows/echo/execute", {}):
            moments.until(lambda: order.hits == 1)
        moments.until(lambda: not proxied or emulator.clock.advance(3600) or bool(emulator.requests))
        moments.until(lambda: [seen.status for seen in emulator.requests] == [None])
        assert len(emulator.runs) == runs


class TestServerErrors:
    """Responses with status 500 and above."""

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (500, "INTERNAL_ERROR", "Internal server error"),
            (503, "SERVICE_UNAVAILABLE", "Service temporarily unavailable"),
            (499, "CLIENT_CLOSED_REQUEST", "Internal server error"),
        ],
    )
    def test_error_body_of_sim(self, emulator, dialect, status, code, words):
        emulator.fault("server_error", status=status)
        answer = dialect.execute("echo")
        assert answer.status_code == status
        assert answer.json() == {"error": {"code": code, "message": words} if dialect.name == "v2" else words}
        assert ("retry-after" in answer.headers) == (status == 503 and dialect.name == "v2")
        assert emulator.runs == []

    def test_custom_error_message(self, emulator, dialect):
        emulator.fault("server_error", message="Failed to queue async execution", code="SOME_CODE")
        told = dialect.execute("echo").json()
        if dialect.name == "v2":
            assert told["error"]["details"] == {"code": "SOME_CODE"}
        else:
            assert told == {"error": "Failed to queue async execution", "code": "SOME_CODE"}

    @pytest.mark.parametrize(
        "settings", [{"status": 502}, {"status": 504}, {"status": 520}, {"status": 499, "page": True}, {"page": True}]
    )
    def test_error_page_of_a_proxy(self, emulator, dialect, settings):
        emulator.fault("server_error", **settings)
        answer = dialect.execute("echo")
        assert answer.status_code == settings.get("status", 500)
        assert answer.headers["content-type"].startswith("text/html")
        assert f"<title>{answer.status_code} {answer.reason or 'Error'}</title>" in answer.text

    @pytest.mark.parametrize(("proxied", "status"), [(False, "cancelled"), (True, "running")])
    def test_proxy_timeout_of_a_sync_run(self, emulator, dialect, moments, proxied, status):
        emulator.fault("server_error", status=504, when="accepted", proxied=proxied)
        assert dialect.execute("slow", {"seconds": 600}, mode="sync").status_code == 504
        moments.until(lambda: emulator.runs[0].status == status)

    def test_error_after_an_async_run_is_queued(self, emulator, dialect):
        emulator.fault("server_error", when="accepted")
        assert dialect.execute("echo").status_code == 500
        assert dialect.status(dialect.look()) == "completed"


class TestRedirects:
    """Redirects to another URL."""

    @pytest.mark.parametrize(
        ("settings", "location"),
        [
            ({}, "https://www.sim.ai{path}"),
            ({"location": "https://elsewhere.example", "status": 308}, "https://elsewhere.example{path}"),
            ({"location": "https://elsewhere.example/login"}, "https://elsewhere.example/login"),
        ],
    )
    def test_redirect_status_and_location(self, emulator, dialect, settings, location):
        emulator.fault("redirect", **settings)
        answer = dialect.execute("echo")
        assert answer.status_code == settings.get("status", 301)
        assert answer.headers["location"] == location.format(path=urlsplit(answer.url).path)
        assert emulator.runs == []


LIMITS = {
    ("v2", "requests"): ("API rate limit exceeded", {"retryAfter"}, "≤60", False),
    ("v2", "address"): ("API rate limit exceeded", {"retryAfter"}, "≤60", False),
    ("v2", "execution"): ("Rate limit exceeded. Please try again later.", "RATE_LIMIT_EXCEEDED", "≤60", True),
    ("v2", "concurrency"): ("Too many concurrent executions", "EXECUTION_CONCURRENCY_LIMIT", "5", True),
    ("v2", "gate"): ("Server is at capacity. Please retry shortly.", None, "5", False),
    ("legacy", "execution"): ("Rate limit exceeded. Please try again later.", None, None, True),
    ("legacy", "concurrency"): ("Too many concurrent executions", None, None, True),
    ("legacy", "gate"): ("Too many requests", "ADMISSION_GATE_CAPACITY", "5", False),
}


class TestLimits:
    """429 responses of every kind."""

    @pytest.mark.parametrize(("name", "kind"), LIMITS)
    def test_429_responses(self, emulator, name, kind):
        words, code, retry_after, burnt = LIMITS[name, kind]
        dialect = V2(emulator) if name == "v2" else Legacy(emulator)
        emulator.fault("rate_limit", kind=kind, times=3)
        answers = [dialect.execute("echo", run_id=f"r{number}") for number in range(4)]
        assert [answer.status_code for answer in answers] == [429, 429, 429, 202]
        refused = answers[0]
        assert dialect.error(refused).startswith(words)
        details = refused.json()["error"].get("details") if name == "v2" else refused.json()
        assert set(details) == code if isinstance(code, set) else (details or {}).get("code") == code
        waiting = refused.headers.get("retry-after")
        assert 0 <= int(waiting) <= 60 if retry_after == "≤60" else waiting == retry_after
        assert ("x-ratelimit-limit" in refused.headers) == (name == "v2")
        if kind in ("requests", "address"):
            assert refused.headers["x-ratelimit-remaining"] == "0"
        assert dialect.execute("echo", run_id="r0").status_code == (409 if burnt else 202)
        assert [run.refused is not None for run in emulator.runs][:1] == [burnt]

    def test_429_of_read_requests(self, emulator):
        emulator.fault("rate_limit", kind="requests", match=Match(surface="v1"))
        path = f"/v1/logs?workspaceId={emulator.workspace_id}"
        assert V2(emulator).look().status_code == 404
        refused = V2(emulator).call("GET", path)
        assert (refused.status_code, refused.json()["error"]) == (429, "Rate limit exceeded")
        assert isinstance(refused.json()["retryAfter"], int)
        assert V2(emulator).call("GET", path).status_code == 200

    def test_limit_kind_applies_to_matching_requests_only(self, emulator):
        order = emulator.fault("rate_limit", kind="requests")
        assert Legacy(emulator).execute("echo").status_code == 202, "the legacy API has no such limit"
        assert order.hits == 0
        assert V2(emulator).look().status_code == 429

    @pytest.mark.parametrize("value", ["Wed, 21 Oct 2037 07:28:00 GMT", 0])
    def test_custom_retry_after(self, emulator, dialect, value):
        emulator.fault("rate_limit", retry_after=value)
        assert dialect.execute("echo").headers["retry-after"] == str(value)

    def test_rate_limit_of_a_hosted_model(self, emulator, dialect):
        emulator.fault("rate_limit", kind="model")
        answer = dialect.execute("echo_plain", mode="sync")
        if dialect.name == "v2":
            assert (answer.status_code, dialect.status(answer)) == (200, "failed")
        else:
            assert (answer.status_code, answer.json()["success"]) == (429, False)
        assert "retry-after" not in answer.headers
        assert [run.status for run in emulator.runs] == ["failed"]
        assert dialect.status(dialect.look("echo_plain")) == "failed"


class TestAuthOutages:
    """The store of API keys is unavailable."""

    def test_outage_for_some_requests(self, emulator):
        emulator.fault("auth_outage", times=2)
        v2, legacy = V2(emulator), Legacy(emulator)
        away, wrong = v2.execute("echo"), legacy.execute("echo")
        assert (away.status_code, away.headers["retry-after"]) == (503, "5")
        assert away.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert (wrong.status_code, wrong.json()) == (401, {"error": "Invalid API key"})
        assert legacy.execute("echo").status_code == 202

    def test_outage_until_removed(self, emulator, dialect):
        outage = emulator.fault("auth_outage", times=None)
        assert {dialect.look().status_code for _ in range(5)} == {503 if dialect.name == "v2" else 401}
        outage.remove()
        assert dialect.look().status_code == 404

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/workflows/echo", {"error": "Invalid API key"}),
            ("/jobs/workflow-execution:r", {"error": "Invalid API key", "code": "INVALID_API_KEY"}),
            ("/users/me/usage-limits", {"error": "Authentication required", "code": "AUTHENTICATION_REQUIRED"}),
        ],
    )
    def test_401_body_per_route(self, emulator, path, body):
        emulator.fault("auth_outage")
        answer = Legacy(emulator).call("GET", path)
        assert (answer.status_code, answer.json()) == (401, body)


class TestLostRuns:
    """Lost, stuck and restarted runs, and lost cancellations."""

    @pytest.mark.parametrize("started", [True, False])
    def test_ambiguous_enqueue(self, emulator, dialect, started):
        emulator.fault("ambiguous_enqueue", started=started)
        answer = dialect.execute("echo")
        assert answer.status_code == 503
        assert dialect.error(answer) == "Async execution queue acceptance could not be confirmed"
        if dialect.name == "v2":
            assert answer.json()["error"]["details"] == {"code": "ASYNC_ENQUEUE_AMBIGUOUS", "runId": "r"}
        else:
            assert (answer.json()["code"], answer.json()["executionId"]) == ("ASYNC_ENQUEUE_AMBIGUOUS", "r")
        assert answer.headers[dialect.ambiguous_header] == "r"
        assert "retry-after" not in answer.headers
        assert dialect.look().status_code == (200 if started else 404)
        assert dialect.execute("echo").status_code == (409 if started else 202)

    def test_ambiguous_enqueue_does_not_apply_to_sync_runs(self, emulator, dialect):
        order = emulator.fault("ambiguous_enqueue")
        assert dialect.execute("echo", mode="sync").status_code == 200
        assert order.hits == 0

    @pytest.mark.parametrize("mode", ["async", "sync", "stream"])
    def test_stuck_run_stays_running_until_cancelled(self, emulator, dialect, elsewhere, moments, mode):
        emulator.fault("stuck_run")
        answer = elsewhere(dialect.execute, "echo", mode=mode)
        moments.until(lambda: bool(emulator.runs))
        emulator.clock.advance(30 * 24 * 3600)
        assert dialect.status(dialect.look()) == "running"
        if mode == "async":
            assert answer.result().status_code == 202
        dialect.cancel("echo")
        answer.result()
        assert emulator.runs[0].status == "cancelled"

    def test_disconnect_does_not_cancel_a_stuck_run(self, emulator, moments):
        emulator.fault("stuck_run")
        with by_hand(emulator, "POST /api/workflows/echo/execute", {}):
            moments.until(lambda: bool(emulator.runs))
        moments.until(lambda: bool(emulator.requests))
        assert emulator.runs[0].status == "running"

    @pytest.mark.parametrize("when", ["before", "accepted"])
    def test_restart(self, emulator, dialect, elsewhere, moments, when):
        dialect.execute("slow", {"seconds": 60}, run_id="going_on")
        dialect.execute("echo", run_id="over")
        dialect.execute("paused", run_id="paused")
        emulator.state.queue_delay = 60
        dialect.execute("echo", run_id="queued")
        emulator.state.queue_delay = 0
        held_open = elsewhere(dialect.execute, "slow", {"seconds": 60}, mode="sync", run_id="held_open")
        moments.until(lambda: len(emulator.runs) == 5)
        emulator.fault("restart", when=when, match=Match("execute"))
        for future in (held_open, elsewhere(dialect.execute, "slow", {"seconds": 60}, run_id="last")):
            with pytest.raises(CUT):
                future.result()
        emulator.clock.advance(3600)
        expected = {"going_on": "running", "over": "completed", "paused": "paused", "held_open": "running"}
        if when == "accepted":
            expected["last"] = "running"
        assert {run.run_id: run.status for run in emulator.runs} == expected
        assert dialect.look(run_id="queued").status_code == 404
        assert dialect.execute("echo", run_id="queued").status_code == 202, "nothing is left of it, not even its id"

    def test_restart_closes_connections_and_listens_again(self, emulator, dialect):
        with requests.Session() as session, by_hand(emulator, "GET /api/nowhere") as idle:
            http_body(idle)
            emulator.restart()
            assert idle.recv(1) == b""
            assert session.get(f"{emulator.url}/api/nowhere", timeout=30).status_code == 404

    def test_run_not_found_at_first(self, emulator, dialect):
        emulator.fault("transient_404", polls=2)
        assert dialect.execute("echo").status_code == 202
        assert emulator_lists(emulator) == []
        looks = [dialect.look() for _ in range(3)]
        assert [look.status_code for look in looks] == [404, 404, 200]
        words = {"v2": "Run not found", "legacy": "Execution not found"}[dialect.name]
        assert dialect.error(looks[0]) == words
        assert emulator_lists(emulator) == ["r"]

    def test_run_not_found_for_some_time(self, emulator, dialect):
        emulator.fault("transient_404", polls=0, seconds=5)
        dialect.execute("echo")
        job = "/jobs/workflow-execution:r"
        assert [dialect.look().status_code, dialect.call("GET", job).status_code] == [404, 404]
        emulator.clock.advance(6)
        assert [dialect.look().status_code, dialect.call("GET", job).status_code] == [200, 200]

    @pytest.mark.parametrize("reason", ["redis_unavailable", "redis_write_failed"])
    def test_lost_cancellation(self, emulator, dialect, reason):
        dialect.execute("slow", {"seconds": 60})
        emulator.fault("lost_cancel", reason=reason)
        lost = dialect.cancel()
        told = dialect.told(lost)
        assert (lost.status_code, told["success"], told["reason"]) == (200, False, reason)
        assert dialect.status(dialect.look("slow")) == "running"
        assert dialect.told(dialect.cancel())["success"] is True
        assert dialect.status(dialect.look("slow")) == "cancelled"

    def test_cancellation_of_a_finished_run_is_not_lost(self, emulator):
        legacy = Legacy(emulator)
        legacy.execute("echo")
        emulator.fault("lost_cancel")
        assert legacy.cancel("echo").status_code == 409


def emulator_lists(sim: SimEmulator) -> list[str]:
    """IDs of the runs in the workspace's log."""
    answer = V2(sim).call("GET", f"/v2/logs?workspaceId={sim.workspace_id}")
    return [item["runId"] for item in answer.json()["data"]]


class TestStreams:
    """Slow and truncated streams."""

    AGENT = {"body": {"selectedOutputs": ["Agent.content"]}, "mode": "stream"}

    def test_slow_stream(self, emulator, dialect, elsewhere, moments):
        emulator.fault("slow_stream", seconds=60)
        answer = elsewhere(dialect.execute, "streaming", {"message": "hi"}, **self.AGENT)
        moments.go_by(answer, at_least=60 * 19)
        frames = [line.removeprefix("data: ") for line in answer.result().text.split("\n\n") if line]
        assert (len(frames), json.loads(frames[0])["chunk"], frames[-1]) == (19, "You ", '"[DONE]"')

    @pytest.mark.parametrize("frames", [0, 2])
    def test_cut_stream(self, emulator, dialect, frames):
        emulator.fault("cut_stream", frames=frames)
        got = []
        with (
            dialect.execute("streaming", {"message": "hi"}, stream=True, **self.AGENT) as answer,
            pytest.raises(CUT),
        ):
            got.extend(line for line in answer.iter_lines(chunk_size=1) if line)
        assert len(got) == frames

    @pytest.mark.parametrize(("proxied", "status"), [(False, "cancelled"), (True, "completed")])
    def test_run_status_after_a_cut_stream(self, emulator, dialect, moments, proxied, status):
        emulator.workflow("telling", duration=60, chunks=lambda _: ["a ", "b ", "c "], block="Agent")(
            lambda _: {"content": "a b c"}
        )
        emulator.fault("cut_stream", frames=1, proxied=proxied)
        with dialect.execute("telling", stream=True, **self.AGENT) as answer, pytest.raises(CUT):
            answer.content  # noqa: B018
        moments.until(lambda: emulator.runs[0].status != "running" or proxied)
        emulator.clock.advance(61)
        assert emulator.runs[0].status == status

    def test_stream_faults_do_not_apply_to_other_requests(self, emulator, dialect):
        orders = [emulator.fault("slow_stream", seconds=3600), emulator.fault("cut_stream", frames=0)]
        assert dialect.execute("echo", mode="sync").status_code == 200
        assert [order.hits for order in orders] == [0, 0]


class TestMatching:
    """Which requests a fault applies to."""

    @pytest.mark.parametrize(
        ("match", "struck"),
        [
            (None, [0, 1, 2, 3, 4, 5, 6]),
            ("execute", [0, 1, 2]),
            ("run", [3, 4]),
            ("job", [5]),
            (Match(surface="v2"), [0, 3]),
            (Match(surface="legacy"), [1, 2, 4, 5, 6]),
            (Match(workflow_id="echo_plain"), [1, 4]),
            (Match(run_id="b"), [1, 4]),
            (Match(run_id="c"), [2, 5]),
            (Match(mode="async"), [0, 1]),
            (Match(mode="sync", operation="execute"), [2]),
            (Match("execute", surface="v2", workflow_id="echo_plain"), []),
            (Match("usage_limits"), [6]),
        ],
    )
    def test_match_by_operation(self, emulator, match, struck):
        v2, legacy = V2(emulator), Legacy(emulator)
        emulator.fault("server_error", match=match, times=None)
        answers = [
            v2.execute("echo", run_id="a"),
            legacy.execute("echo_plain", run_id="b"),
            legacy.execute("echo", run_id="", body={"executionId": "c"}, mode="sync"),
            v2.look(run_id="a"),
            legacy.look("echo_plain", run_id="b"),
            legacy.call("GET", "/jobs/workflow-execution%3Ac"),
            legacy.call("GET", "/users/me/usage-limits"),
        ]
        assert [number for number, answer in enumerate(answers) if answer.status_code == 500] == struck

    def test_match_by_number(self, emulator, dialect):
        order = emulator.fault("server_error", match="run", after=2, times=2)
        assert [dialect.look().status_code for _ in range(6)] == [404, 404, 500, 500, 404, 404]
        assert (order.hits, order.is_finished) == (2, True)

    def test_fault_until_undone(self, emulator, dialect):
        order = emulator.fault("server_error", times=None)
        assert dialect.look().status_code == 500
        order.remove()
        assert dialect.look().status_code == 404
        with emulator.fault("server_error", times=None):
            assert dialect.look().status_code == 500
        assert dialect.look().status_code == 404

    def test_several_faults_apply_to_one_request(self, emulator, dialect):
        first = emulator.fault("stuck_run")
        second = emulator.fault("drop_after_accept")
        with pytest.raises(CUT):
            dialect.execute("echo")
        assert (first.hits, second.hits) == (1, 1)
        assert dialect.status(dialect.look()) == "running"
        assert emulator.requests[0].faults == ("stuck_run", "drop_after_accept")

    def test_clear_and_reset_remove_faults(self, emulator, dialect):
        for forget in (emulator.clear, emulator.reset):
            emulator.fault("server_error", times=None)
            forget()
            assert dialect.look().status_code == 404

    def test_every_route_has_an_operation(self):
        assert {route.name for route in API} == set(OPERATIONS)


MISTAKES = [
    ({"name": "typo"}, "unknown fault 'typo'; choose from drop_before_accept, "),
    ({"name": "delay", "second": 1}, "delay has no parameter second; it has seconds, when, proxied"),
    ({"name": "stuck_run", "x": 1}, "stuck_run has no parameter x; it has none"),
    ({"name": "delay", "seconds": "long"}, "delay: seconds is a number, not 'long'"),
    ({"name": "delay", "seconds": -1}, "delay: seconds is a number, not -1"),
    ({"name": "delay", "when": "later"}, "unknown stage 'later'; choose from before, accepted, done"),
    ({"name": "restart", "when": 1.5}, "restart: when is a text, not 1.5"),
    ({"name": "delay", "seconds": "NaN"}, "delay: seconds is a number, not 'NaN'"),
    ({"name": "server_error", "status": 99}, "99 is not an HTTP status"),
    ({"name": "server_error", "status": True}, "server_error: status is a whole number, not True"),
    ({"name": "server_error", "page": 1}, "server_error: page is a truth value, not 1"),
    ({"name": "redirect", "status": 200}, "200 is not a redirect status"),
    ({"name": "rate_limit", "kind": "luck"}, "unknown kind 'luck'; choose from execution, "),
    ({"name": "stuck_run", "match": "excute"}, "match: unknown operation 'excute'; choose from abort_upload, "),
    ({"name": "stuck_run", "match": {"wokflow_id": "x"}}, "match has no wokflow_id; it has operation, surface, "),
    ({"name": "stuck_run", "match": {"surface": "v3"}}, "match: unknown surface 'v3'; choose from legacy, v1, v2"),
    ({"name": "stuck_run", "match": {"run_id": 3}}, "match: run_id is a text, not 3"),
    ({"name": "stuck_run", "match": 3}, "match is an operation's name or an object, not 3"),
    ({"name": "stuck_run", "times": 0}, "times is a whole number from 1 on, not 0"),
    ({"name": "stuck_run", "after": None}, "after is a whole number from 0 on, not None"),
]


class TestInvalidFaults:
    """Invalid faults are rejected, not ignored."""

    @pytest.mark.parametrize(("order", "words"), MISTAKES)
    def test_invalid_fault_method_call(self, emulator, order, words):
        with pytest.raises(ValueError, match=re.escape(words)):
            emulator.fault(**order)

    @pytest.mark.parametrize(("order", "words"), MISTAKES)
    def test_invalid_fault_request(self, emulator, order, words):
        body = {"fault": order["name"], **{key: value for key, value in order.items() if key != "name"}}
        answer = requests.post(f"{emulator.url}/__emulator__/faults", json=body, timeout=30)
        assert answer.status_code == 400
        assert words in answer.json()["error"]

    def test_invalid_hold_stage(self, emulator):
        with pytest.raises(ValueError, match="unknown stage 'after'"):
            emulator.hold(when="after")


def test_stop_with_held_requests_logs_nothing(capfd):
    with SimEmulator() as sim:
        hold = sim.hold(times=None, when="accepted")
        open_ones = [by_hand(sim, "POST /api/workflows/slow/execute", {}) for _ in range(3)]
        hold.wait_until_held(count=3)
        by_hand(sim, "POST /api/workflows/slow/execute", {}).close()
    for connection in open_ones:
        with connection:
            assert connection.recv(1) == b""
    assert capfd.readouterr() == ("", "")
