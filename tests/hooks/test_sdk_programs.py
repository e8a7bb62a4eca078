"""Programs for Sim's Python SDK work with the hook in place of the SDK's client.

Each follows a usage sample of the SDK's documentation, in other words; only the client and the error class differ.
"""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from airflow_provider_sim.client import StreamChunk, StreamEnd
from airflow_provider_sim.emulator.profiles import PROFILES
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.hooks.sim import SimHook

NEWEST = [pytest.param(name, marks=pytest.mark.sim_emulator(profile=name)) for name in ("v0.7", "v0.8-legacy", "v0.8")]


@pytest.fixture(params=NEWEST)
def client(request, emulator):
    """The hook, for each of both APIs."""
    assert emulator.state.profile is PROFILES[request.param]
    with SimHook("sim_default", retry_args={"initial_delay": 0.01, "max_retries": 0}) as hook:
        yield hook


def code_of(client: SimHook, workflow_id: str, **options: object) -> str:
    try:
        client.execute_workflow(workflow_id, **options)
    except SimError as error:
        return error.code
    return "none"


def test_basic_run(client):
    assert client.validate_workflow("echo_plain")
    assert client.get_workflow_status("echo_plain").is_deployed
    result = client.execute_workflow("echo_plain", input_data={"message": "hi"}, timeout=30.0)
    assert (result.success, result.output["result"]["message"], result.error) == (True, "hi", None)
    assert result.metadata.get("duration") >= 0
    assert client.execute_workflow("echo_plain", {"message": "hi"}, stream=None, async_execution=None).success


def test_failed_run_is_a_result(client):
    result = client.execute_workflow("failing", {"message": "x"})
    assert (result.success, bool(str(result.error))) == (False, True)


def test_error_codes(client, emulator, monkeypatch):
    assert code_of(client, "undeployed") == "WORKFLOW_NOT_DEPLOYED"
    assert code_of(client, "slow", input_data={"seconds": 60}, timeout=0.2) == "TIMEOUT"
    emulator.state.limits.usage = emulator.state.limits.usage_limit + 1
    assert code_of(client, "echo") == "USAGE_LIMIT_EXCEEDED"
    monkeypatch.setenv("AIRFLOW_CONN_SIM_WRONG", emulator.connection(password="sk-sim-wrong"))
    with SimHook("sim_wrong", retry_args={"max_retries": 0}) as wrong:
        assert code_of(wrong, "echo") == "UNAUTHORIZED"


def test_context_manager_closes_the_session(client):
    with client as same:
        assert same.execute_workflow("echo_plain").success
        assert same.get_conn()._sessions
    assert client._conn is None


def test_batch_with_validation(client):
    results = []
    for workflow_id, given in [("echo_plain", {"message": "a"}), ("undeployed", {}), ("failing", {"message": "x"})]:
        if not client.validate_workflow(workflow_id):
            continue
        try:
            result = client.execute_workflow(workflow_id, given)
            results.append({"id": workflow_id, "success": result.success, "error": result.error})
        except SimError as error:
            results.append({"id": workflow_id, "success": False, "error": str(error)})
    assert [(result["id"], result["success"]) for result in results] == [("echo_plain", True), ("failing", False)]
    assert results[1]["error"]


def test_async_run_is_polled_as_a_job(client):
    receipt = client.execute_workflow("slow", input_data={"seconds": 0.2}, async_execution=True)
    assert receipt.success
    assert hasattr(receipt, "task_id")
    assert receipt.links["status"].endswith(receipt.task_id)
    job, polls = client.get_job_status(receipt.task_id), 0
    while job["status"] in ["queued", "processing"]:
        polls += 1
        time.sleep(0.05)
        job = client.get_job_status(receipt.task_id)
    assert (job["status"], job["error"], polls > 0) == ("completed", None, True)
    assert job["output"] == client.get_output("slow", receipt.run_id)
    assert "duration" in job["metadata"]


def test_failed_job_has_the_error(client):
    job = client.get_job_status(client.execute_workflow("failing", {"message": "x"}, async_execution=True).task_id)
    assert job["status"] == "failed"
    assert isinstance(job["error"], str)


def test_rate_limit_is_raised_after_all_retries(client, emulator):
    emulator.state.limits.concurrent_runs = 0
    with pytest.raises(SimError) as caught:
        client.execute_with_retry(
            "echo_plain",
            input_data={"message": "hi"},
            max_retries=0,
            initial_delay=1.0,
            max_delay=60.0,
            backoff_multiplier=2.0,
        )
    assert caught.value.code == "RATE_LIMIT_EXCEEDED"
    info = client.get_rate_limit_info()
    if info is not None and info.reset is not None:
        assert datetime.fromtimestamp(info.reset).year > 2000


def test_usage_monitoring(client):
    limits = client.get_usage_limits()
    for mode in ("sync", "async"):
        assert limits.rate_limit[mode].keys() >= {"limit", "remaining", "resetAt", "isLimited"}
        assert limits.rate_limit[mode]["isLimited"] is False
    assert f"{limits.usage['currentPeriodCost']:.2f} of {limits.usage['limit']:.2f}, {limits.usage['plan']}"
    assert limits.usage["currentPeriodCost"] / limits.usage["limit"] * 100 == limits.percent_used


def test_streaming(client):
    result = client.execute_workflow(
        "streaming", input_data={"message": "hi"}, stream=True, selected_outputs=["Agent.content"]
    )
    *chunks, end = result
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, StreamChunk)).startswith("You wrote: hi")
    assert isinstance(end, StreamEnd)


def test_configuration_by_environment(emulator, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", '{"conn_type": "sim"}')
    monkeypatch.setenv("SIM_API_KEY", emulator.api_key)
    monkeypatch.setenv("SIM_BASE_URL", emulator.url)
    with SimHook() as client:
        assert client.execute_workflow("echo_plain").success


def test_output_of_an_unfinished_run_is_a_conflict(client):
    run_id = client.execute_workflow("slow", {"seconds": 60}, async_execution=True).run_id
    with pytest.raises(SimError, match="has no output before it is completed") as caught:
        client.get_output("slow", run_id)
    assert caught.value.code == "CONFLICT"


@pytest.mark.sim_emulator(profile="v0.8")
def test_workspace_defaults_to_the_only_one_of_the_key(emulator, monkeypatch):
    with SimHook() as hook:
        assert {workflow.name for workflow in hook.list_workflows(limit=100).items} >= {"echo", "slow"}
    assert [request.path.partition("?")[0] for request in emulator.requests] == [
        "/api/v2/workspaces",
        "/api/v2/workflows",
    ]
    extra = {"workspace_id": emulator.workspace_id}
    monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", emulator.connection(extra=extra))
    with SimHook() as hook:
        assert hook.list_logs().items == ()
    assert [request.path.partition("?")[0] for request in emulator.requests][2:] == ["/api/v2/logs"]
