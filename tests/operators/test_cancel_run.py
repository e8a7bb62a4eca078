"""SimCancelRunOperator against the emulator."""

from __future__ import annotations

import pytest

from airflow_provider_sim.exceptions import SimInputError, SimRunNotFoundError, SimRunTimeoutError, SimUnsupportedError
from airflow_provider_sim.operators.runs import SimCancelRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture(params=["v2", "legacy"])
def api_version(request, connection):
    connection(extra={"api_version": request.param})


@pytest.fixture
def start(run_task):
    """Start a run and don't wait for it."""

    def start_run(**given):
        return run_task(
            SimExecuteWorkflowOperator(task_id="t", workflow_id="slow", input=given, wait_for_completion=False)
        )

    return start_run


def operator(run_id, **arguments):
    return SimCancelRunOperator(
        **{"task_id": "c", "workflow_id": "slow", "run_id": run_id, "poll_interval": 0.02} | arguments
    )


@pytest.mark.usefixtures("api_version")
def test_operator_cancels_the_run(run_task, start, emulator):
    run_id = start(seconds=60)
    result = run_task(operator(run_id))
    assert (result["run_id"], result["status"]) == (run_id, "cancelled")
    assert emulator.runs[0].status == "cancelled"


@pytest.mark.usefixtures("api_version")
def test_finished_run_is_unchanged(run_task, start, emulator):
    run_id = start(seconds=60)
    run_task(operator(run_id))
    assert run_task(operator(run_id))["status"] == "cancelled"
    emulator.workflow("quick")(lambda given: {})
    done = SimExecuteWorkflowOperator(task_id="t", workflow_id="quick")
    run_task(done)
    result = run_task(operator(emulator.runs[-1].run_id, workflow_id="quick"))
    assert result["status"] == "completed"


def test_run_that_is_not_cancelled_fails_the_task(run_task, start, emulator, monkeypatch):
    run_id = start(seconds=60)
    monkeypatch.setattr(type(emulator.runs[0]), "cancel", lambda run: None)
    with pytest.raises(SimRunTimeoutError):
        run_task(operator(run_id, timeout=0.1))


def test_wait_for_completion_false_returns_without_waiting(run_task, start):
    assert run_task(operator(start(seconds=60), wait_for_completion=False))["status"] in ("cancelled", "running")


def test_unknown_run_fails_the_task(run_task):
    with pytest.raises(SimRunNotFoundError):
        run_task(operator("no-such-run", retry_args={"max_retries": 0}))


def test_invalid_run_id_is_rejected_before_any_request(run_task, emulator):
    with pytest.raises(SimInputError):
        run_task(operator("a run"))
    assert not emulator.requests


@pytest.mark.sim_emulator(profile="v0.5.44")
def test_missing_cancel_route_raises_unsupported_error(run_task, start, emulator):
    emulator.fault("server_error", match="cancel", times=None, status=404, page=True)
    with pytest.raises(SimUnsupportedError, match="too old for this"):
        run_task(operator(start(seconds=60)))
