"""SimResumeRunOperator against the emulator: an answer is taken once, whatever becomes of the request or the worker."""

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
def test_the_answer_is_taken_and_the_sensor_sees_the_end(run_task, ask, emulator, context, how):
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
def test_a_pause_that_is_named(run_task, ask):
    report = ask()
    assert run_task(operator(report["run_id"], context_id=report["context_id"]))["status"] == "completed"


@pytest.mark.usefixtures("api_version")
def test_a_run_that_does_not_wait_yet_is_waited_for(run_task, ask, emulator):
    body = emulator.state.workflows["paused"].body
    emulator.workflow("later", duration=0.3, inputs={"message": "string"})(lambda given: body(given))
    run_id = ask("later", wait_for_completion=False)
    assert run_task(operator(run_id, workflow_id="later"))["status"] == "completed"


@pytest.mark.usefixtures("api_version")
def test_but_not_for_ever(run_task, ask):
    run_id = ask("slow", wait_for_completion=False)
    with pytest.raises(SimRunTimeoutError, match=r"not paused at any pause point .* status is running"):
        run_task(operator(run_id, workflow_id="slow", timeout=0.05))


@pytest.mark.usefixtures("api_version")
@pytest.mark.parametrize("named", [False, True])
def test_what_somebody_else_has_answered_fails_without_retries(run_task, ask, emulator, named):
    report = ask()
    emulator.resume(report["run_id"], {"approved": False})
    with pytest.raises(SimPauseAnsweredError, match="accepts no answer"):
        run_task(operator(report["run_id"], context_id=report["context_id"] if named else None))
    assert emulator.runs[0].output(base_url="", workspace_id="")["result"]["approved"] is False


@pytest.mark.usefixtures("api_version")
def test_somebody_else_is_quicker_by_a_moment(run_task, ask, emulator):
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
def test_an_answer_is_sent_again_only_where_sim_has_not_taken_it(run_task, ask, emulator, fault, sent):
    run_id = ask()["run_id"]
    with emulator.fault(fault, match="resume") as order:
        assert run_task(operator(run_id))["status"] == "completed"
    assert order.hits == 1
    assert sum(seen.method == "POST" and "resume" in seen.path for seen in emulator.requests) == sent


@pytest.mark.usefixtures("api_version")
@pytest.mark.parametrize("named", [False, True])
def test_a_retry_knows_what_was_answered(run_task, ask, emulator, context, named):
    """The worker died after the answer was taken."""
    report = ask()
    run_id = report["run_id"]
    task = {"context_id": report["context_id"] if named else None}
    run_task(operator(run_id, **task))
    context["ti"].try_number = 2
    assert run_task(operator(run_id, **task))["context_id"] == report["context_id"]
    assert emulator.runs[0].output(base_url="", workspace_id="")["result"] == YES


@pytest.mark.usefixtures("api_version")
def test_a_retry_answers_what_the_earlier_try_could_not(run_task, ask, emulator, context):
    run_id = ask()["run_id"]
    with emulator.fault("server_error", match="resume", times=None), pytest.raises(SimServerError):
        run_task(operator(run_id, timeout=0.05, retry_args={"max_retries": 0}))
    context["ti"].try_number = 2
    assert run_task(operator(run_id))["status"] == "completed"


def test_a_cleared_task_does_not_take_another_s_answer_for_its_own(run_task, ask, context):
    run_id = ask()["run_id"]
    run_task(operator(run_id))
    context["dag_run"].clear_number += 1
    context["ti"].max_tries += 1
    with pytest.raises(SimPauseAnsweredError, match="run is completed"):
        run_task(operator(run_id))


def test_a_retry_knows_it_although_another_task_was_cleared_meanwhile(run_task, ask, context):
    """That raises the DAG run's number alone."""
    report = ask()
    run_task(operator(report["run_id"]))
    context["dag_run"].clear_number += 1
    context["ti"].try_number = 2
    assert run_task(operator(report["run_id"]))["context_id"] == report["context_id"]


@pytest.mark.usefixtures("api_version")
class TestBeforeAirflow33:
    """Nothing is kept over the tries."""

    @pytest.fixture(autouse=True)
    def second_try(self, context):
        del context["task_state_store"]
        context["ti"].try_number = 2

    def test_a_retry_takes_a_named_pause_that_was_answered_for_its_own(self, run_task, ask, emulator):
        report = ask()
        emulator.resume(report["run_id"], YES)
        run_task(operator(report["run_id"], context_id=report["context_id"]))

    def test_a_retry_answers_a_named_pause_that_is_open(self, run_task, ask):
        report = ask()
        assert run_task(operator(report["run_id"], context_id=report["context_id"]))["status"] == "completed"

    def test_a_retry_answers_a_run_that_was_never_answered(self, run_task, ask):
        assert run_task(operator(ask()["run_id"]))["status"] == "completed"

    def test_a_retry_does_not_guess(self, run_task, ask, emulator):
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


def test_no_such_run(run_task):
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
def test_bad_arguments_are_refused_before_anything_is_asked(run_task, emulator, arguments, words):
    with pytest.raises(SimInputError, match=words):
        run_task(operator(**{"run_id": "r"} | arguments))
    assert not emulator.requests


def test_an_answer_that_is_no_json_is_refused(run_task, ask):
    with pytest.raises(SimInputError, match="JSON"):
        run_task(operator(ask()["run_id"], input={"approved": {1}}))


def test_automatic_pause_is_not_answered(run_task, ask):
    run_id = ask("waiting", wait_for_completion=False)
    with pytest.raises(SimRunTimeoutError, match=r"not paused .* status is paused"):
        run_task(operator(run_id, workflow_id="waiting", timeout=0.05))


def test_answered_is_a_conflict():
    assert issubclass(SimPauseAnsweredError, SimConflictError)


def test_two_at_once(ask, emulator, context):
    """Only one answer is taken, and only one task says that it was its own."""
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
