"""The official SDKs, each in an environment of its own, take the emulator for a Sim server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.request_context import RecordedRequest

pytestmark = pytest.mark.sdk
HERE = Path(__file__).parent
UV = Path(sys.executable).parent / "uv"
ENVIRONMENT = dict(os.environ)
"""With the certificates of whoever runs the tests, which tests don't see: they are needed to install something."""


def drive(version: str, profile: str, folder: Path) -> tuple[dict, SimEmulator]:
    """Install an SDK and call all its methods."""
    python = folder / version / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder / version], check=True, env=ENVIRONMENT)
    lock = HERE / f"requirements-{version}.txt"
    install = [UV, "pip", "sync", "--quiet", "--require-hashes", "--python", python, lock]
    subprocess.run(install, check=True, env=ENVIRONMENT)
    with SimEmulator(profile=profile) as sim:

        @sim.workflow("limited")
        def limited(given):
            return {"ran": True}

        sim.state.limits.sync_per_minute = 50
        sim.state.limits.clear()

        def empty_then_refill(request: RecordedRequest) -> None:
            if "usage-limits" in request.path:  # the step before the one that is to be refused
                while sim.state.limits.sync.take():
                    pass
            elif request.status == 429:
                sim.clock.advance(60)

        sim.on_request(empty_then_refill)
        command = [python, HERE / "drive.py", sim.url, sim.api_key]
        ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        return json.loads(ran.stdout), sim


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Results of SDK 0.1.2 on a server with v2 switched off."""
    return drive("0.1.2", "v0.8-legacy", tmp_path_factory.mktemp("sdk"))


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Results of SDK 0.2.1 on a current server."""
    return drive("0.2.1", "v0.8", tmp_path_factory.mktemp("sdk"))


@pytest.fixture(params=["old", "new"])
def told(request):
    """Results of each SDK."""
    return request.getfixturevalue(request.param)[0]


def test_every_public_sdk_method_is_called(told):
    assert told["not called"] == []


def test_sync_results_and_input_formats(told):
    assert told["sync"]["success"] is True
    assert told["sync"]["output"]["result"] == {"message": "hi", "count": 3, "payload": {}}
    assert told["text input"]["output"]["result"] == {"input": {"input": "text"}}
    assert told["list input"]["output"]["result"] == {"input": {"input": [1, 2]}}
    assert told["file input"]["output"]["result"][0]["size"] == 2
    assert told["sync method"]["success"] is True


def test_error_codes_and_statuses(told):
    facts = {name: (told[name]["code"], told[name]["status"]) for name in ("wrong key", "undeployed", "unknown")}
    assert [status for _, status in facts.values()] == [401, 403, 404]
    assert told["client timeout"]["code"] == "TIMEOUT"
    assert told["job unknown"]["status"] == 404
    assert told["status unknown"]["status"] == 404


def test_job_deployment_and_usage_responses(told):
    assert told["job"]["status"] == "completed"
    assert told["job"]["output"]["output"]["result"]["message"] == "hi"
    assert told["status"]["is_deployed"] is True
    assert told["valid"] == [True, False, False]
    assert told["usage"]["usage"]["plan"] == "free"


def test_rate_limited_start_is_retried(told):
    assert told["limited"]["output"] == {"ran": True}
    assert len(told["slept"]) == 1


def test_old_sdk_uses_the_legacy_api(old):
    told, sim = old
    assert (told["async"]["success"], told["async"]["output"]) == (True, None), "it does not know such receipts"
    assert "boom: x" in told["failing"]["error"]
    assert told["rate limit"] is None or told["rate limit"]["limit"] == 0, "its servers told no limits"
    assert all("/api/v2/" not in request.path for request in sim.requests)


def test_new_sdk_uses_the_v2_api(new):
    told, sim = new
    run_id = told["async"]["run_id"]
    assert told["async"]["status_url"] == f"{sim.url}/api/v2/workflows/echo_plain/runs/{run_id}"
    assert (told["failing"]["success"], told["failing"]["status"]) == (False, "failed")
    assert told["run"]["output"]["result"]["message"] == "hi"
    assert told["run unknown"]["status"] == 404
    assert told["rate limit"]["remaining"] > 0
    assert told["rate limit"]["reset"] > 1_700_000_000_000, "milliseconds, from an ISO time"
