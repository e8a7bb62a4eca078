"""``/__emulator__``: what another process may order and see."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from airflow_provider_sim.emulator import SimEmulator


def control(sim: SimEmulator, method: str, path: str, **more: Any) -> requests.Response:
    """Call a control endpoint, which requires no key."""
    return requests.request(method, f"{sim.url}/__emulator__/{path}", timeout=30, **more)


def execute(sim: SimEmulator, run_id: str = "r") -> int:
    """Start a run; return the response's status."""
    url = f"{sim.url}/api/v2/workflows/echo/execute"
    headers = {"X-API-Key": sim.api_key, "X-Run-Id": run_id}
    body = {"async": True, "input": {"message": "hü"}}
    return requests.post(url, json=body, headers=headers, timeout=30, allow_redirects=False).status_code


class TestFaults:
    """Faults are added, listed and removed."""

    def test_added_fault_is_listed_and_applied(self, emulator):
        body = {"fault": "server_error", "status": 502, "match": "execute", "times": 2, "after": 1}
        ordered = control(emulator, "POST", "faults", json=body)
        assert ordered.status_code == 200
        told = {
            "id": 1,
            "fault": "server_error",
            "status": 502,
            "when": "before",
            "page": False,
            "message": "",
            "code": "",
            "proxied": False,
            "match": {"operation": "execute"},
            "times": 2,
            "after": 1,
            "hits": 0,
            "finished": False,
        }
        assert ordered.json() == told
        assert [execute(emulator, f"r{number}") for number in range(4)] == [202, 502, 502, 202]
        listed = control(emulator, "GET", "faults").json()["faults"]
        assert listed == [{**told, "hits": 2, "finished": True}]

    def test_fault_without_limit_applies_until_removed(self, emulator):
        control(emulator, "POST", "faults", json={"fault": "auth_outage", "times": None, "match": {"surface": "v2"}})
        assert [execute(emulator) for _ in range(3)] == [503] * 3
        assert control(emulator, "DELETE", "faults").json() == {"removed": 1}
        assert execute(emulator) == 202
        assert control(emulator, "GET", "faults").json() == {"faults": []}

    def test_removed_fault_no_longer_applies(self, emulator):
        numbers = [
            control(emulator, "POST", "faults", json={"fault": name, "times": None}).json()["id"]
            for name in ("auth_outage", "redirect")
        ]
        assert execute(emulator) == 301, "the first to answer wins"
        assert control(emulator, "DELETE", f"faults/{numbers[1]}").json() == {"removed": 1}
        assert execute(emulator) == 503
        assert control(emulator, "DELETE", f"faults/{numbers[1]}").json() == {"removed": 0}

    def test_holds_are_not_listed_as_faults(self, emulator):
        with emulator.hold("cancel"):
            assert control(emulator, "GET", "faults").json() == {"faults": []}
            assert control(emulator, "DELETE", "faults").json() == {"removed": 0}

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"delay"'])
    def test_invalid_body_is_rejected(self, emulator, body):
        answer = control(emulator, "POST", "faults", data=body)
        assert (answer.status_code, answer.json()) == (400, {"error": "the body must be a JSON object"})

    def test_fault_without_name_is_rejected(self, emulator):
        answer = control(emulator, "POST", "faults", json={})
        assert (answer.status_code, answer.json()["error"].partition(";")[0]) == (400, "unknown fault ''")


class TestRecords:
    """Runs and requests, for assertions in another process."""

    def test_runs_endpoint_lists_runs(self, emulator):
        execute(emulator)
        [run] = control(emulator, "GET", "runs").json()["runs"]
        assert (run.pop("created_at"), run.pop("ended_at")) == (run_time := emulator_time(emulator), run_time)
        assert run == {
            "run_id": "r",
            "workflow_id": "echo",
            "mode": "async",
            "input": {"message": "hü", "count": 0, "payload": {}},
            "status": "completed",
            "refused": None,
        }

    def test_requests_endpoint_lists_requests_and_faults(self, emulator):
        control(emulator, "POST", "faults", json={"fault": "drop_after_accept"})
        with pytest.raises(requests.ConnectionError):
            execute(emulator)
        execute(emulator)
        seen = control(emulator, "GET", "requests").json()["requests"]
        assert [(one["method"], one["path"], one["status"], one["faults"]) for one in seen] == [
            ("POST", "/api/v2/workflows/echo/execute", None, ["drop_after_accept"]),
            ("POST", "/api/v2/workflows/echo/execute", 409, []),
        ]
        assert json.loads(seen[0]["body"])["input"] == {"message": "hü"}
        assert seen[0]["headers"]["x-run-id"] == "r"
        assert emulator.api_key not in json.dumps(seen)

    def test_control_requests_are_not_recorded(self, emulator):
        control(emulator, "GET", "runs")
        assert control(emulator, "GET", "requests").json() == {"requests": []}

    def test_faults_do_not_apply_to_control_requests(self, emulator):
        emulator.fault("drop_before_accept", times=None)
        assert control(emulator, "GET", "runs").status_code == 200


def emulator_time(sim: SimEmulator) -> str:
    """Creation time of the first run."""
    from airflow_provider_sim.emulator.clock import iso

    return str(iso(sim.runs[0].created_at))


class TestClockAndReset:
    """The clock and reset endpoints."""

    def test_clock_endpoint_advances_the_clock(self, emulator):
        before = emulator.clock.now()
        told = control(emulator, "POST", "clock", json={"advance": 3600.5}).json()["now"]
        assert emulator.clock.now() >= before + 3600.5
        assert told.endswith("Z")

    @pytest.mark.parametrize("body", [{}, {"advance": "1"}, {"advance": -1}, {"advance": True}, {"forward": 1}])
    def test_invalid_clock_values_are_rejected(self, emulator, body):
        assert control(emulator, "POST", "clock", json=body).status_code == 400

    def test_reset_removes_runs_and_faults(self, emulator):
        execute(emulator)
        control(emulator, "POST", "faults", json={"fault": "auth_outage"})
        assert control(emulator, "POST", "reset").json() == {}
        assert emulator.runs == []
        assert execute(emulator) == 202
        assert control(emulator, "GET", "faults").json() == {"faults": []}

    @pytest.mark.parametrize(("method", "path"), [("GET", "clock"), ("DELETE", "runs"), ("GET", "nowhere")])
    def test_unknown_control_path_is_a_404(self, emulator, method, path):
        answer = control(emulator, method, path)
        assert answer.status_code == 404
        assert answer.json()["error"].startswith(
            f"unknown route {method} /__emulator__/{path}; choose from POST /__emu"
        )
