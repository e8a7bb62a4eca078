"""SimResumeRunOperator against the emulator: Sim accepts one answer, even if a request or the worker fails."""

from __future__ import annotations

import inspect
import threading

import pytest

from airflow_provider_sim.exceptions import (
    SimConflictError,
    SimInputError,
    SimPauseAnsweredError,
    SimRunNotFoundError,
    SimRunTimeoutError,
    SimServerError,
)
from airflow_provider_sim.operators.runs import SimResumeRunOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor
from tests.canned_server import Answer, canned

pytestmark = pytest.mark.usefixtures("connection")
YES = {"approved": True, "comment": "fine"}


@pytest.fixture(params=["v2", "legacy"])
def api_version(request, connection):
    connection(extra={"api_version": request.param})
    return request.param


@pytest.fixture
def ask(run_task, context):
    """Start a run that asks a person; give the report of its pause."""

    def start(workflow_id="paused", **options):
        options = {"async_execution": True, "poll_interval": 0.02, "on_paused": "return", "durable": False} | options
        task = {"task_id": "t", "workflow_id": workflow_id, "input": {"message": "the plan"}}
        return run_task(SimExecuteWorkflowOperator(**task, **options))

    return start


def operator(run_id, **arguments):
    task = {"task_id": "r", "workflow_id": "paused", "run_id": run_id, "input": YES, "poll_interval": 0.02}
    return SimResumeRunOperator(**task | arguments)


@pytest.mark.usefixtures("api_version")
@pytest.mark.parametrize("how", [{"async_execution": True}, {"async_execution": False}], ids=["async", "held open"])
def test_answer_resumes_the_run_and_the_sensor_completes(run_task, ask, emulator, context, how):
    report = ask(**how)
    assert (report["question"], report["fields"]) == (
        "Approve the plan?",
        {"approved": "boolean", "comment": "string"},
    )
    run_id = emulator.runs[0].run_id
    answered = run_task(operator(run_id))
    assert answered == {"run_id": run_id, "context_id": report["context_id"], "status": "completed"}
    assert context["ti"].xcoms["approval_url"].endswith(f"/resume/paused/{run_id}")
    end = run_task(SimJobSensor(task_id="s", workflow_id="paused", run_id=run_id, poke_interval=0.02))
    assert end["result"] == YES


@pytest.mark.usefixtures("api_version")
def test_sensor_waits_for_the_resumed_run(run_task, ask, emulator):
    run_id = ask()["run_id"]
    emulator.state.resume_delay = 0.3
    assert run_task(operator(run_id))["status"] == "paused"  # Sim says so until it has gone on
    sensor = SimJobSensor(task_id="s", workflow_id="paused", run_id=run_id, poke_interval=0.02, deferrable=True)
    assert run_task(sensor)["result"] == YES


@pytest.mark.usefixtures("api_version")
def test_context_id_selects_the_pause(run_task, ask):
    report = ask()
    assert run_task(operator(report["run_id"], context_id=report["context_id"]))["status"] == "completed"


@pytest.mark.usefixtures("api_version")
def test_operator_waits_until_the_run_pauses(run_task, ask, emulator):
    body = emulator.state.workflows["paused"].body
    emulator.workflow("later", duration=0.3, inputs={"message": "string"})(lambda given: body(given))
    run_id = ask("later", wait_for_completion=False)
    assert run_task(operator(run_id, workflow_id="later"))["status"] == "completed"


@pytest.mark.usefixtures("api_version")
def test_run_that_never_pauses_times_out(run_task, ask):
    run_id = ask("slow", wait_for_completion=False)
    with pytest.raises(SimRunTimeoutError, match=r"not paused at any pause point .* status is running"):
        run_task(operator(run_id, workflow_id="slow", timeout=0.05))


@pytest.mark.usefixtures("api_version")
@pytest.mark.parametrize("named", [False, True])
def test_pause_answered_by_another_user_fails(run_task, ask, emulator, named):
    report = ask()
    emulator.resume(report["run_id"], {"approved": False})
    with pytest.raises(SimPauseAnsweredError, match="accepts no answer"):
        run_task(operator(report["run_id"], context_id=report["context_id"] if named else None))
    assert emulator.runs[0].output(base_url="", workspace_id="")["result"]["approved"] is False


@pytest.mark.usefixtures("api_version")
def test_concurrent_answer_of_another_user_fails_the_task(run_task, ask, emulator):
    report = ask()
    emulator.state.resume_delay = 60
    emulator.on_request(
        lambda seen: (
            emulator.runs[0].resume({"approved": False}, after=60)
            if seen.method == "GET" and "resume" in seen.path and emulator.runs[0].resumed_at is None
            else None
        )
    )
    with pytest.raises(SimPauseAnsweredError, match="answered by another user"):
        run_task(operator(report["run_id"]))


@pytest.mark.usefixtures("api_version")
@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        pytest.param("drop_after_accept", 1, id="the receipt is lost"),
        pytest.param("server_error", 2, id="lost on its way"),
    ],
)
def test_answer_is_resent_only_if_sim_rejected_it(run_task, ask, emulator, fault, sent):
    run_id = ask()["run_id"]
    with emulator.fault(fault, match="resume") as order:
        assert run_task(operator(run_id))["status"] == "completed"
    assert order.hits == 1
    assert sum(seen.method == "POST" and "resume" in seen.path for seen in emulator.requests) == sent


@pytest.mark.usefixtures("api_version")
@pytest.mark.parametrize("named", [False, True])
def test_retry_after_an_accepted_answer_succeeds(run_task, ask, emulator, context, named):
    """The worker died after Sim had accepted the answer."""
    report = ask()
    run_id = report["run_id"]
    task = {"context_id": report["context_id"] if named else None}
    run_task(operator(run_id, **task))
    context["ti"].try_number = 2
    assert run_task(operator(run_id, **task))["context_id"] == report["context_id"]
    assert emulator.runs[0].output(base_url="", workspace_id="")["result"] == YES


@pytest.mark.usefixtures("api_version")
def test_retry_answers_after_a_server_error(run_task, ask, emulator, context):
    run_id = ask()["run_id"]
    with emulator.fault("server_error", match="resume", times=None), pytest.raises(SimServerError):
        run_task(operator(run_id, timeout=0.05, retry_args={"max_retries": 0}))
    context["ti"].try_number = 2
    assert run_task(operator(run_id))["status"] == "completed"


def test_cleared_task_does_not_claim_an_earlier_answer(run_task, ask, context):
    run_id = ask()["run_id"]
    run_task(operator(run_id))
    context["dag_run"].clear_number += 1
    context["ti"].max_tries += 1
    with pytest.raises(SimPauseAnsweredError, match="run is completed"):
        run_task(operator(run_id))


def test_retry_succeeds_although_another_task_was_cleared(run_task, ask, context):
    """Clearing another task raises only the clear number of the DAG run."""
    report = ask()
    run_task(operator(report["run_id"]))
    context["dag_run"].clear_number += 1
    context["ti"].try_number = 2
    assert run_task(operator(report["run_id"]))["context_id"] == report["context_id"]


@pytest.mark.usefixtures("api_version")
class TestBeforeAirflow33:
    """Without a task state store, no state outlives a try."""

    @pytest.fixture(autouse=True)
    def second_try(self, context):
        del context["task_state_store"]
        context["ti"].try_number = 2

    def test_retry_claims_an_answered_pause_given_by_context_id(self, run_task, ask, emulator):
        report = ask()
        emulator.resume(report["run_id"], YES)
        run_task(operator(report["run_id"], context_id=report["context_id"]))

    def test_retry_answers_an_open_pause_given_by_context_id(self, run_task, ask):
        report = ask()
        assert run_task(operator(report["run_id"], context_id=report["context_id"]))["status"] == "completed"

    def test_retry_answers_a_run_without_earlier_answers(self, run_task, ask):
        assert run_task(operator(ask()["run_id"]))["status"] == "completed"

    def test_retry_without_context_id_does_not_claim_an_answer(self, run_task, ask, emulator):
        run_id = ask()["run_id"]
        emulator.resume(run_id, YES)
        with pytest.raises(SimInputError, match="Name the pause by context_id"):
            run_task(operator(run_id))


def point(context_id, question, status="paused"):
    shown = {"responseStructure": [{"name": "question", "value": question}]}
    return {"contextId": context_id, "resumeStatus": status, "response": {"data": shown}}


def test_several_open_pauses_are_listed(run_task, connection):
    run = {"runId": "r", "workflowId": "w", "status": "paused", "paused": {"contextId": "c-1", "pauseKind": "human"}}
    points = [point("c-0", "Gone?", "resumed"), point("c-1", "Pay the bill?"), point("c-2", "Send it?")]
    detail = {"executionId": "r", "resumedCount": 1, "pausePoints": points}
    answers = [("/runs/r", Answer(200, {"data": run})), ("/api/resume/", Answer(200, detail))]
    with canned(*answers, ("/resume", Answer(202, {"data": {"runId": "a"}}))) as server:
        connection(host=server.url, extra={"api_version": "v2", "workspace_id": "w"})
        with pytest.raises(SimInputError, match=r"2 open pauses.*c-1 \(Pay the bill\?\); c-2 \(Send it\?\)\."):
            run_task(operator("r", workflow_id="w"))
        assert not [seen for seen in server.requests if seen.method == "POST"]


def test_unknown_run_fails_the_task(run_task):
    with pytest.raises(SimRunNotFoundError):
        run_task(operator("nowhere", retry_args={"max_retries": 0}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workflow_id": ""}, "workflow_id"),
        ({"run_id": "../x"}, "run_id"),
        ({"poll_interval": 0}, "poll_interval"),
    ],
)
def test_invalid_arguments_are_rejected_before_any_request(run_task, emulator, arguments, words):
    with pytest.raises(SimInputError, match=words):
        run_task(operator(**{"run_id": "r"} | arguments))
    assert not emulator.requests


def test_answer_that_is_not_json_is_rejected(run_task, ask):
    with pytest.raises(SimInputError, match="JSON"):
        run_task(operator(ask()["run_id"], input={"approved": {1}}))


def test_automatic_pause_is_not_answered(run_task, ask):
    run_id = ask("waiting", wait_for_completion=False)
    with pytest.raises(SimRunTimeoutError, match=r"not paused .* status is paused"):
        run_task(operator(run_id, workflow_id="waiting", timeout=0.05))


def test_pause_answered_error_is_a_conflict_error():
    assert issubclass(SimPauseAnsweredError, SimConflictError)


def test_only_one_of_two_concurrent_answers_succeeds(ask, emulator, context):
    """Sim accepts one answer, and only the task that sent it succeeds."""
    run_id = ask()["run_id"]
    outcomes = []
    execute = inspect.unwrap(SimResumeRunOperator.execute)  # what Airflow 2 wraps it in knows the first thread only

    def answer():
        try:
            outcomes.append(execute(operator(run_id), {"ti": context["ti"]})["status"])
        except SimPauseAnsweredError:
            outcomes.append("answered")

    threads = [threading.Thread(target=answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["answered", "completed"]
