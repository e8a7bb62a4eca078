"""A caller that keeps to Sim's limits by itself, and a cancelling that none of them holds up."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import count

import pytest

from airflow_provider_sim.client.models import RunStatus
from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.exceptions import SimInputError, SimRateLimitError

SELF_LIMITED = RetryPolicy(retry_on_rate_limit=False)


@pytest.fixture
def client(emulator, connect):
    """A client that knows which API it speaks."""
    face = connect(emulator.url, key=emulator.api_key)
    face.get_workflow_status("echo_plain")
    return face


def test_rate_limit_is_raised_if_retry_on_rate_limit_is_off(client, emulator):
    emulator.state.limits.concurrent_runs = 0
    run_ids = map("run-{}".format, count(1))
    with pytest.raises(SimRateLimitError):
        client.start_workflow_run(
            "echo_plain",
            async_execution=True,
            retry=SELF_LIMITED,
            run_id=run_ids,
        )
    assert client.sleeps == []
    assert [run.run_id for run in emulator.runs] == ["run-1"]


def test_server_error_is_retried_if_retry_on_rate_limit_is_off(client, emulator):
    with emulator.fault("server_error", status=503, match="execute"):
        receipt = client.start_workflow_run("echo_plain", async_execution=True, retry=SELF_LIMITED)
    assert client.sleeps
    assert [run.run_id for run in emulator.runs] == [receipt.run_id]


def test_cancel_uses_legacy_if_v2_is_rate_limited(client, emulator):
    receipt = client.execute_workflow("slow", {"seconds": 60}, async_execution=True)
    emulator.state.limits.endpoint_per_minute = 0
    emulator.state.limits.clear()
    assert client.cancel_workflow_run("slow", receipt.run_id).accepted is True
    assert emulator.runs[0].status == "cancelled"


def test_result_of_a_failed_run_has_its_error(client):
    receipt = client.execute_workflow("failing", {"message": "x"}, async_execution=True)
    result = client.get_workflow_result("failing", receipt.run_id)
    assert (result.status, "boom: x" in result.error.message) == (RunStatus.FAILED, True)


def test_check_input_sends_no_request(client, emulator):
    seen = len(emulator.requests)
    client.check_input("echo_plain", {"message": "hi"})
    with pytest.raises(SimInputError, match="JSON"):
        client.check_input("echo_plain", {"message": object()})
    assert len(emulator.requests) == seen


@pytest.mark.parametrize("api_version", ["v2", "legacy"])
def test_check_input_rejects_control_fields_on_legacy_only(emulator, connect, api_version):
    client = connect(emulator.url, key=emulator.api_key, api_version=api_version)
    with pytest.raises(SimInputError, match="control fields") if api_version == "legacy" else nullcontext():
        client.check_input("echo_plain", {"stream": True})


def test_get_usage_has_billing_on_v2_only(emulator, connect):
    limits, billing = connect(emulator.url, key=emulator.api_key, api_version="v2").get_usage()
    assert billing.plan == limits.plan
    limits, billing = connect(emulator.url, key=emulator.api_key, api_version="legacy").get_usage()
    assert (limits.plan is not None, billing) == (True, None)


@pytest.mark.parametrize(("api_version", "metered"), [("v2", True), ("legacy", False)])
def test_start_bucket_and_start_limit_by_api_version(emulator, connect, api_version, metered):
    client = connect(emulator.url, key=emulator.api_key, api_version=api_version)
    usage = client.get_usage_limits()
    assert (client.start_bucket is not None) is metered
    assert client.start_limit(usage) is (usage.asynchronous if metered else usage.sync)
