"""What goes wrong on order: over real sockets, on both dialects, and without any client of ours."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests

from airflow_provider_sim.emulator import SimEmulator

Dialect = Any
CUT = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


class V2:
    """The newer API, in the few words that these tests need."""

    name = "v2"
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
        body = {"input": given or {}, **({} if mode == "sync" else {mode: True}), **more.pop("body", {})}
        headers = {"X-Run-Id": run_id, **more.pop("headers", {})}
        return self.call("POST", f"/v2/workflows/{workflow_id}/execute", json=body, headers=headers, **more)

    def look(self, workflow_id: str = "echo", run_id: str = "r", **more: Any) -> requests.Response:
        return self.call("GET", f"/v2/workflows/{workflow_id}/runs/{run_id}", **more)

    def cancel(self, workflow_id: str = "slow", run_id: str = "r", **more: Any) -> requests.Response:
        return self.call("POST", f"/v2/workflows/{workflow_id}/runs/{run_id}/cancel", **more)

    def status(self, answer: requests.Response) -> str:
        return answer.json()["data"]["status"]

    def error(self, answer: requests.Response) -> str:
        return answer.json()["error"]["message"]

    def told(self, answer: requests.Response) -> dict[str, Any]:
        """What the answer tells, out of its envelope."""
        return answer.json()["data"]


class Legacy(V2):
    """The older one."""

    name = "legacy"
    ambiguous_header = "x-execution-id"

    def execute(
        self,
        workflow_id: str,
        given: dict[str, Any] | None = None,
        *,
        mode: str = "async",
        run_id: str = "r",
        **more: Any,
    ) -> requests.Response:
        headers = {"X-Execution-Id": run_id, **more.pop("headers", {})}
        if mode == "async":
            headers["X-Execution-Mode"] = "async"
        body = {**(given or {}), **({"stream": True} if mode == "stream" else {}), **more.pop("body", {})}
        return self.call("POST", f"/workflows/{workflow_id}/execute", json=body, headers=headers, **more)

    def look(self, workflow_id: str = "echo", run_id: str = "r", **more: Any) -> requests.Response:
        return self.call("GET", f"/workflows/{workflow_id}/executions/{run_id}", **more)

    def cancel(self, workflow_id: str = "slow", run_id: str = "r", **more: Any) -> requests.Response:
        return self.call("POST", f"/workflows/{workflow_id}/executions/{run_id}/cancel", **more)

    def status(self, answer: requests.Response) -> str:
        return answer.json()["status"]

    def error(self, answer: requests.Response) -> str:
        return answer.json()["error"]

    def told(self, answer: requests.Response) -> dict[str, Any]:
        return answer.json()


@pytest.fixture(params=[V2, Legacy], ids=lambda kind: kind.name)
def dialect(request, emulator) -> Dialect:
    return request.param(emulator)


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Future[Any]]]:
    """Call something in another thread."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


class Moments:
    """Waiting for what a server does in its own thread, without guessing how long it takes."""

    def __init__(self, sim: SimEmulator) -> None:
        self._condition = threading.Condition()
        sim.on_request(lambda _: self._tell())
        sim.on_start("slow", lambda _: self._tell())

    def _tell(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with self._condition:
            for _ in range(3000):
                if true():
                    return
                self._condition.wait(0.01)
        raise AssertionError("it never comes to be so")


@pytest.fixture
def moments(emulator) -> Moments:
    return Moments(emulator)


class TestDrops:
    """The connection is cut without an answer."""

    @pytest.mark.parametrize("reset", [False, True])
    def test_before_accept_nothing_is_done(self, emulator, dialect, reset):
        emulator.fault("drop_before_accept", reset=reset)
        with pytest.raises(CUT):
            dialect.execute("echo")
        assert emulator.runs == []
        assert [(seen.status, seen.faults) for seen in emulator.requests] == [(None, ("drop_before_accept",))]
        assert dialect.execute("echo").status_code == 202

    @pytest.mark.parametrize("reset", [False, True])
    def test_after_accept_the_run_is_there(self, emulator, dialect, reset):
        emulator.fault("drop_after_accept", reset=reset)
        with pytest.raises(CUT):
            dialect.execute("echo")
        assert dialect.status(dialect.look()) == "completed"
        assert [seen.status for seen in emulator.requests] == [None, 200]

    @pytest.mark.parametrize("mode", ["sync", "stream"])
    def test_sim_sees_that_a_held_open_run_s_caller_is_gone(self, emulator, dialect, moments, mode):
        emulator.fault("drop_after_accept")
        with pytest.raises(CUT):
            dialect.execute("slow", {"seconds": 600}, mode=mode)
        moments.until(lambda: emulator.runs[0].status == "cancelled")

    @pytest.mark.parametrize("mode", ["sync", "stream"])
    def test_behind_a_proxy_it_goes_on(self, emulator, dialect, moments, mode):
        emulator.fault("drop_after_accept", proxied=True)
        with pytest.raises(CUT):
            dialect.execute("slow", {"seconds": 600}, mode=mode)
        assert emulator.runs[0].status == "running"
        emulator.clock.advance(601)
        assert dialect.status(dialect.look("slow")) == "completed"

    @pytest.mark.parametrize(("fault", "runs"), [("drop_before_accept", 0), ("drop_after_accept", 1)])
    @pytest.mark.parametrize("reset", [False, True])
    def test_not_a_byte_is_sent(self, emulator, fault, runs, reset):
        emulator.fault(fault, reset=reset)
        with by_hand(emulator, "POST /api/workflows/echo/execute", {"message": "hi"}) as connection:
            if reset:
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
            else:
                assert connection.recv(1) == b""
        assert len(emulator.runs) == runs

    def test_other_requests_than_executions(self, emulator, dialect):
        dialect.execute("slow", {"seconds": 600})
        emulator.fault("drop_after_accept", match="cancel")
        with pytest.raises(CUT):
            dialect.cancel()
        assert dialect.status(dialect.look("slow")) == "cancelled"


def by_hand(sim: SimEmulator, line: str, body: object = None) -> socket.socket:
    """Send a request over a socket of one's own."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{line} HTTP/1.1\r\nHost: sim\r\nX-API-Key: {sim.api_key}\r\nContent-Length: {len(content)}\r\n\r\n"
    host, port = sim.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(head.encode() + content)
    return connection


class TestHolds:
    """Requests that wait inside the server."""

    def test_before_anything_is_done(self, emulator, dialect, elsewhere):
        hold = emulator.hold("execute")
        answer = elsewhere(dialect.execute, "echo")
        assert hold.wait_until_held().run_id == "r"
        assert emulator.runs == []
        assert len(hold.held) == 1
        hold.release()
        assert answer.result().status_code == 202
        assert hold.held == []

    @pytest.mark.parametrize("mode", ["sync", "async", "stream"])
    def test_accepted_but_unanswered(self, emulator, dialect, elsewhere, mode):
        with emulator.hold("execute", when="accepted") as hold:
            answer = elsewhere(dialect.execute, "slow", {"seconds": 600}, mode=mode)
            hold.wait_until_held()
            assert [run.status for run in emulator.runs] == ["running"]
            emulator.clock.advance(601)
        assert answer.result().status_code == (202 if mode == "async" else 200)

    def test_done_but_unanswered(self, emulator, dialect, elsewhere):
        with emulator.hold("execute", when="done") as hold:
            answer = elsewhere(dialect.execute, "echo_plain", mode="sync")
            hold.wait_until_held()
            assert emulator.runs[0].status == "completed"
        assert answer.result().status_code == 200

    @pytest.mark.parametrize(("when", "runs"), [("before", []), ("accepted", ["cancelled"])])
    def test_a_caller_who_hangs_up(self, emulator, moments, when, runs):
        hold = emulator.hold("execute", when=when)
        with by_hand(emulator, "POST /api/workflows/slow/execute", {"seconds": 600}):
            hold.wait_until_held()
        hold.wait_until_abandoned()
        moments.until(lambda: [run.status for run in emulator.runs] == runs)
        moments.until(lambda: [seen.status for seen in emulator.requests] == [None])

    @pytest.mark.parametrize("when", ["before", "accepted"])
    def test_a_caller_who_hangs_up_behind_a_proxy(self, emulator, moments, when):
        hold = emulator.hold("execute", when=when, proxied=True)
        with by_hand(emulator, "POST /api/workflows/slow/execute", {"seconds": 600}):
            hold.wait_until_held()
        hold.release()
        moments.until(lambda: [run.status for run in emulator.runs] == ["running"])

    def test_a_body_that_nobody_has_read_hides_no_hang_up(self, emulator):
        hold = emulator.hold("execute")
        with by_hand(emulator, "POST /api/workflows/echo/execute", {"message": "x" * 1_000_000}):
            hold.wait_until_held()
        hold.wait_until_abandoned()

    def test_several(self, emulator, dialect, elsewhere):
        hold = emulator.hold("execute", times=None)
        answers = [elsewhere(dialect.execute, "echo", run_id=f"r{number}") for number in range(4)]
        hold.wait_until_held(count=4)
        assert sorted(asked.run_id for asked in hold.held) == ["r0", "r1", "r2", "r3"]
        hold.release()
        assert {answer.result().status_code for answer in answers} == {202}
        assert dialect.execute("echo").status_code == 202, "released is over"

    def test_nothing_came(self, emulator):
        with emulator.hold("cancel") as hold, pytest.raises(TimeoutError, match="0 of 1 requests was held"):
            hold.wait_until_held(0.01)

    def test_resetting_the_emulator_lets_go(self, emulator, dialect, elsewhere):
        hold = emulator.hold("run")
        answer = elsewhere(dialect.look)
        hold.wait_until_held()
        emulator.reset()
        assert answer.result().status_code == 404


def test_stopping_a_server_that_holds_requests_makes_no_noise(capfd):
    with SimEmulator() as sim:
        hold = sim.hold(times=None, when="accepted")
        open_ones = [by_hand(sim, "POST /api/workflows/slow/execute", {}) for _ in range(3)]
        hold.wait_until_held(count=3)
        by_hand(sim, "POST /api/workflows/slow/execute", {}).close()
    for connection in open_ones:
        with connection:
            assert connection.recv(1) == b""
    assert capfd.readouterr() == ("", "")
