"""Both clients with every server version that the emulator can be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_sim.client.models import AsyncExecutionResult, RunStatus, WorkflowExecutionResult
from airflow_provider_sim.client.stream import StreamChunk, StreamEnd
from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.profiles import PROFILES
from airflow_provider_sim.exceptions import (
    SimNotFoundError,
    SimOutputError,
    SimRateLimitError,
    SimRunIdConflictError,
    SimRunNotFoundError,
    SimUnsupportedError,
    SimUsageLimitError,
    SimWorkflowNotDeployedError,
)

pytestmark = pytest.mark.usefixtures("emulator")
EVERYWHERE = [pytest.param(name, marks=pytest.mark.sim_emulator(profile=name), id=name) for name in PROFILES]
ON_V2 = [name for name, profile in PROFILES.items() if profile.v2_on]


@pytest.fixture(params=EVERYWHERE)
def profile(request) -> str:
    """Each server version in turn."""
    return request.param


@pytest.fixture
def sim(profile, emulator) -> SimEmulator:
    """The server."""
    assert emulator.state.profile.name == profile
    return emulator


@pytest.fixture
def client(sim, connect):
    """A client that detects the server's API version."""
    return connect(sim.url, key=sim.api_key)


class TestEveryServer:
    """Behavior that is the same on every server version."""

    def test_sync_run_returns_its_output(self, client, sim):
        result = client.execute_workflow("echo_plain", {"message": "hi", "count": 3})
        assert isinstance(result, WorkflowExecutionResult)
        assert result.status is RunStatus.COMPLETED
        assert result.output["result"] == {"message": "hi", "count": 3, "payload": {}}
        assert (result.metadata["runId"], result.metadata["duration"]) == (result.run_id, result.duration_ms)
        assert len(sim.runs) == 1

    def test_response_block_output_has_status_and_data(self, client):
        output = client.execute_workflow("echo", {"message": "hi"}).output
        assert (output["status"], output["data"]["ok"]) == (200, True)

    def test_failing_run_returns_failed_with_error(self, client, sim):
        result = client.execute_workflow("failing", {"message": "x"})
        assert result.status is RunStatus.FAILED
        assert "boom: x" in result.error.message
        assert len(sim.runs) == 1

    def test_async_run_result_can_be_read(self, client, sim):
        receipt = client.execute_workflow("echo_plain", {"message": "hi"}, async_execution=True)
        assert isinstance(receipt, AsyncExecutionResult)
        run = client.get_workflow_run("echo_plain", receipt.run_id, job_id=receipt.job_id)
        assert run.status is RunStatus.COMPLETED
        result = client.get_workflow_result("echo_plain", receipt.run_id, job_id=receipt.job_id)
        assert result.output["result"]["message"] == "hi"
        assert client.get_workflow_run("echo_plain", f"workflow-execution:{sim.runs[0].run_id}").status == "completed"

    def test_async_run_is_queued_then_running_then_completed(self, client, sim):
        sim.state.queue_delay = 60
        receipt = client.execute_workflow("slow", {"seconds": 60}, async_execution=True)
        seen = []
        for _ in range(3):
            seen.append(client.get_workflow_run("slow", receipt.run_id, job_id=receipt.job_id).status)
            sim.clock.advance(61)
        assert seen == [RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.COMPLETED]

    def test_streamed_run_yields_chunks_then_end(self, client):
        stream = client.execute_workflow(
            "streaming", {"message": "sea"}, stream=True, selected_outputs=["Agent.content"]
        )
        *chunks, end = client.events(stream)
        assert isinstance(end, StreamEnd)
        assert end.result.status is RunStatus.COMPLETED
        assert all(isinstance(chunk, StreamChunk) for chunk in chunks)
        assert "".join(chunk.text for chunk in chunks).startswith("You wrote: sea.")

    def test_get_output_returns_a_block_output(self, client, sim, profile):
        run = client.execute_workflow("echo_plain", {"message": "hi"})
        message = f"{sim.state.workflows['echo_plain'].block_id}.result.message"
        if not PROFILES[profile].executions:
            with pytest.raises(SimRunNotFoundError, match=r"older than v0\.6\.81"):
                client.get_run_output(run, [message])
            return
        assert client.get_run_output(run, [message]).value == {message: "hi"}
        with pytest.raises(SimOutputError, match="has no block output nothing"):
            client.get_run_output(run, ["nothing"])

    def test_workflow_status_reports_deployment(self, client):
        assert client.get_workflow_status("echo").is_deployed is True
        assert client.validate_workflow("echo") is True
        assert client.validate_workflow("undeployed") is False
        assert client.validate_workflow("nowhere") is False

    def test_usage_limits_report_cost_and_limit(self, client, sim):
        sim.state.limits.usage, sim.state.limits.usage_limit = 2.5, 10.0
        limits = client.get_usage_limits()
        assert (limits.current_period_cost_usd, limits.limit_usd, limits.percent_used) == (2.5, 10.0, 25.0)
        assert limits.sync.remaining > 0

    def test_rejected_starts_raise_matching_errors(self, client, sim):
        with pytest.raises(SimWorkflowNotDeployedError, match="press Deploy"):
            client.execute_workflow("undeployed")
        with pytest.raises(SimNotFoundError, match="nowhere"):
            client.execute_workflow("nowhere")
        sim.state.limits.usage, sim.state.limits.usage_limit = 2.0, 1.0
        with pytest.raises(SimUsageLimitError, match=r"\$2\.00 used of \$1\.00"):
            client.execute_workflow("echo")

    def test_rate_limited_start_succeeds_after_a_minute(self, client, sim):
        sim.state.limits.sync_per_minute = 1
        sim.state.limits.clear()
        for _ in range(2):
            client.execute_workflow("echo")
        with pytest.raises(SimRateLimitError):
            client.execute_workflow("echo")
        sim.clock.advance(60)
        assert client.execute_with_retry("echo").status is RunStatus.COMPLETED

    def test_job_status_returns_output_or_not_found(self, client):
        receipt = client.execute_workflow("echo_plain", {"message": "hi"}, async_execution=True)
        assert receipt.success
        job = client.get_job_status(receipt.task_id)
        assert (job.status, job.output["result"]["message"]) == (RunStatus.COMPLETED, "hi")
        with pytest.raises(SimRunNotFoundError):
            client.get_job_status("workflow-execution:nowhere")


class TestOldServers:
    """A missing feature is a clear error."""

    @pytest.mark.parametrize("profile", [name for name in EVERYWHERE if name.id not in ON_V2], indirect=True)
    def test_listing_runs_requires_v2(self, client):
        with pytest.raises(SimUnsupportedError, match="v2 API"):
            client.list_workflow_runs("slow")


class TestNewServers:
    """Features of later server versions."""

    def test_cancel_ends_an_active_run(self, client, sim):
        receipt = client.execute_workflow("slow", {"seconds": 60}, async_execution=True)
        assert client.cancel_workflow_run("slow", receipt.run_id).accepted is True
        assert client.get_workflow_run("slow", receipt.run_id, job_id=receipt.job_id).status is RunStatus.CANCELLED
        client.cancel_workflow_run("slow", receipt.run_id)

    @pytest.mark.parametrize("profile", [name for name in EVERYWHERE if PROFILES[name.id].run_ids], indirect=True)
    def test_used_run_id_is_rejected(self, client, sim):
        first = client.execute_workflow("slow", {"seconds": 60}, async_execution=True, run_id="mine-1")
        assert first.run_id == "mine-1"
        with pytest.raises(SimRunIdConflictError, match=r"mine-1.*no run was started"):
            client.execute_workflow("slow", {"seconds": 60}, async_execution=True, run_id="mine-1")
        sim.state.limits.usage, sim.state.limits.usage_limit = 2.0, 1.0
        with pytest.raises(SimUsageLimitError):
            client.execute_workflow("echo", run_id="burnt")
        sim.state.limits.usage = 0.0
        with pytest.raises(SimRunIdConflictError):
            client.execute_workflow("echo", run_id="burnt")
        assert [run.run_id for run in sim.runs] == ["mine-1", "burnt"]

    @pytest.mark.parametrize("profile", [name for name in EVERYWHERE if PROFILES[name.id].executions], indirect=True)
    def test_paused_run_is_resumed_by_context_id(self, client, sim):
        run_id = client.execute_workflow("paused", {"message": "x"}, async_execution=True).run_id
        run = client.get_workflow_run("paused", run_id)
        assert (run.status, run.paused.kind) == (RunStatus.PAUSED, "human")
        with pytest.raises(SimNotFoundError):
            client.resume_workflow_run("paused", run_id, context_id="another")
        sim.state.resume_delay = 30
        answer = client.resume_workflow_run(
            "paused", run_id, context_id=run.paused.context_id, input_data={"approved": True}
        )
        assert answer is RunStatus.QUEUED
        resuming = client.get_workflow_run("paused", run_id)
        assert (resuming.status, resuming.paused.context_id) == (RunStatus.PAUSED, None)
        sim.clock.advance(31)
        assert client.get_workflow_result("paused", run_id).output["result"]["approved"] is True

    @pytest.mark.parametrize("profile", [name for name in EVERYWHERE if name.id in ON_V2], indirect=True)
    def test_runs_and_logs_are_listed_in_pages(self, client, sim):
        for number in range(5):
            client.execute_workflow("echo", {"count": number})
            sim.clock.advance(1)  # moments are told in milliseconds, and two runs could share one
        sim.state.queue_delay = 60
        client.execute_workflow("echo", async_execution=True)
        first = client.list_workflow_runs("echo", limit=2)
        second = client.list_workflow_runs("echo", limit=4, cursor=first.next_cursor)
        assert [run.run_id for run in (*first.items, *second.items)] == [run.run_id for run in sim.runs[4::-1]]
        assert second.next_cursor is None, "a queued run is in no list"
        assert client.list_workflow_runs("echo", status="failed").items == ()
        log = client.list_logs(sim.workspace_id, workflow_ids=["echo"], triggers=["api"], order="asc", limit=1000)
        assert [run.run_id for run in log.items] == [run.run_id for run in sim.runs[:5]]
        assert {run.status for run in log.items} == {RunStatus.COMPLETED}
        later = client.list_logs(sim.workspace_id, start_date=log.items[2].start_time, end_date=log.items[3].start_time)
        assert [run.run_id for run in later.items] == [run.run_id for run in sim.runs[3:1:-1]]
        assert client.list_workspaces().items[0].workspace_id == sim.workspace_id

    @pytest.mark.parametrize("profile", [name for name in EVERYWHERE if name.id in ON_V2], indirect=True)
    def test_result_is_a_display_copy_after_job_expires(self, client, sim):
        run_id = client.execute_workflow("secrets", {"count": 20_000}, async_execution=True).run_id
        assert client.get_workflow_result("secrets", run_id).output["result"]["password"] == "p-1"
        sim.clock.advance(25 * 3600)
        copy = client.get_workflow_result("secrets", run_id)
        assert copy.output_is_display_copy
        assert copy.output["result"]["password"] == "[REDACTED]"
        assert "truncated 5000 chars" in copy.output["result"]["text"]

    @pytest.mark.parametrize("profile", [name for name in EVERYWHERE if PROFILES[name.id].v2], indirect=True)
    def test_workflow_reads_match_the_workflow_list(self, client, sim):
        workflow = client.get_workflow("echo")
        assert (workflow.workspace_id, workflow.is_deployed) == (sim.workspace_id, True)
        assert {declared.name for declared in workflow.inputs} == {"message", "count", "payload"}
        if client.speaks_v2:
            pages = [client.list_workflows(sim.workspace_id, limit=2)]
            while pages[-1].next_cursor:
                pages.append(client.list_workflows(sim.workspace_id, limit=2, cursor=pages[-1].next_cursor))
            listed = {item.workflow_id: item for page in pages for item in page.items}
            assert listed["echo"] == replace(workflow, inputs=())
            assert set(listed) == set(sim.state.workflows)

    @pytest.mark.parametrize("profile", [name for name in EVERYWHERE if name.id in ON_V2], indirect=True)
    def test_versions_are_listed_newest_first(self, client):
        client.deploy_workflow("echo", name="second", description="adds a branch")
        client.rollback_workflow("echo", 1)
        first = client.list_workflow_versions("echo", limit=1)
        second = client.list_workflow_versions("echo", limit=1, cursor=first.next_cursor)
        assert second.next_cursor is None
        found = [(each.version, each.name, each.description, each.is_live) for each in first.items + second.items]
        assert found == [(2, "second", "adds a branch", False), (1, None, None, True)]

    @pytest.mark.parametrize("profile", [name for name in EVERYWHERE if PROFILES[name.id].run_ids], indirect=True)
    def test_run_timeout_fails_the_run(self, client, sim):
        receipt = client.execute_workflow("slow", {"seconds": 60}, async_execution=True, run_timeout=5)
        sim.clock.advance(6)
        run = client.get_workflow_run("slow", receipt.run_id, job_id=receipt.job_id)
        assert run.status is RunStatus.FAILED
        assert run.error.message == "Execution timed out after 5 seconds"


def test_both_clients_have_the_same_public_methods():
    from airflow_provider_sim.client.async_client import AsyncSimClient
    from airflow_provider_sim.client.sync_client import SimClient

    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(SimClient) == public(AsyncSimClient)
