"""An answer to a pause, told and noted to the word; how the operator answers is in ``tests/operators``."""

from __future__ import annotations

import logging
import time

import pytest

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.exceptions import (
    Outcome,
    SimInputError,
    SimPauseAnsweredError,
    SimRunTimeoutError,
    SimServerError,
)
from airflow_provider_sim.polling.pause import PauseAnswer
from tests.canned_server import Answer, canned

YES = {"approved": True, "comment": "fine"}
INTERVAL = 7.5


@pytest.fixture(params=["v2", "legacy"])
def client(request, emulator, monkeypatch):
    monkeypatch.setattr(SimClient, "_sleep", staticmethod(lambda _: None))
    with SimClient(emulator.api_key, base_url=emulator.url, api_version=request.param) as client:
        yield client


@pytest.fixture
def asked(client, emulator):
    """A run that asks a person: its id and its pause point."""
    run_id = client.execute_workflow("paused", {"message": "the plan"}, async_execution=True).run_id
    [point] = client.get_paused_run("paused", run_id).open_points
    emulator.requests.clear()
    return run_id, point.context_id


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "airflow_provider_sim.polling.pause")
    return lambda: [
        found.getMessage() for found in caplog.records if found.name == "airflow_provider_sim.polling.pause"
    ]


class Answering:
    """An answer, with what it noted and how long it slept.

    :param before: is done when the answer is about to be sent.
    :param meanwhile: is done in each sleep.
    """

    def __init__(
        self, run_id, *, before=lambda: None, meanwhile=lambda: None, workflow_id="paused", seconds=60.0, **fields
    ):
        self.noted, self.naps = [], []
        self.before, self.meanwhile = before, meanwhile
        self.answer = PauseAnswer(
            workflow_id=workflow_id,
            run_id=run_id,
            poll_interval=INTERVAL,
            deadline=time.time() + seconds,
            note=self._note,
            **{"context_id": None, "input": YES} | fields,
        )

    def give(self, client):
        return self.answer.give(client, sleep=self._sleep)

    def _note(self, context_id):
        self.noted.append(context_id)
        self.before()

    def _sleep(self, seconds):
        self.naps.append(seconds)
        self.meanwhile()


def sent(emulator):
    """The answers that were sent."""
    return [seen for seen in emulator.requests if seen.method == "POST" and "resume" in seen.path]


def test_the_pause_is_noted_before_the_answer_is_sent(client, asked, emulator):
    run_id, context_id = asked
    before = []
    answering = Answering(run_id, before=lambda: before.append(len(sent(emulator))))
    assert answering.give(client) == context_id
    assert (answering.noted, before, answering.naps) == ([context_id], [0], [])
    assert emulator.runs[0].status == "completed"


def test_a_run_that_does_not_ask_yet_is_waited_for(client, emulator, told):
    body = emulator.state.workflows["paused"].body
    emulator.workflow("later", duration=2 * INTERVAL, inputs={"message": "string"})(lambda given: body(given))
    run_id = client.execute_workflow("later", {"message": "x"}, async_execution=True).run_id
    answering = Answering(run_id, workflow_id="later", meanwhile=lambda: emulator.clock.advance(INTERVAL))
    answering.give(client)
    assert answering.naps == [INTERVAL] * 2
    assert told() == [f"Run {run_id} is running; waiting until it asks a person."] * 2


def test_a_run_that_asks_nobody_in_time(client, emulator):
    run_id = client.execute_workflow("slow", {"seconds": 600}, async_execution=True).run_id
    answering = Answering(run_id, workflow_id="slow", context_id="c-7", seconds=0)
    with pytest.raises(SimRunTimeoutError) as caught:
        answering.give(client)
    assert str(caught.value) == (
        f"Run {run_id!r} of workflow 'slow' is running, and waits for no person at c-7 when the time to wait for that"
        " was up. Give the task a longer timeout."
    )
    assert (caught.value.workflow_id, caught.value.run_id) == ("slow", run_id)
    assert caught.value.outcome is Outcome.NEVER_SENT
    assert (answering.noted, answering.naps) == ([], [])


def test_a_run_that_asks_somewhere_else_in_time(client, asked):
    run_id, context_id = asked
    with pytest.raises(SimRunTimeoutError, match=rf"no person at c-7 when.* It waits at {context_id}\. Give the task"):
        Answering(run_id, context_id="c-7", seconds=0).give(client)


def test_what_is_over_waits_for_nobody(client, asked, emulator):
    run_id, _ = asked
    emulator.resume(run_id, {"approved": False})
    with pytest.raises(SimPauseAnsweredError) as caught:
        Answering(run_id).give(client)
    assert str(caught.value).startswith(
        f"Run {run_id!r} of workflow 'paused' waits for no answer of this task: it is completed. What was answered is"
        f" at {emulator.url}/resume/paused/{run_id}."
    )
    assert (caught.value.workflow_id, caught.value.run_id) == ("paused", run_id)


def test_a_named_pause_of_a_run_that_goes_on(client, asked, emulator):
    run_id, context_id = asked
    emulator.state.runs[run_id].resume({"approved": False}, after=3600)
    with pytest.raises(SimPauseAnsweredError, match=f"of this task: pause {context_id} was answered by somebody else"):
        Answering(run_id, context_id=context_id).give(client)


def test_an_answer_whose_receipt_is_lost_was_ours(client, asked, emulator, told):
    run_id, context_id = asked
    with emulator.fault("drop_after_accept", match="resume"):
        assert Answering(run_id).give(client) == context_id
    assert len(sent(emulator)) == 1
    [line] = told()
    assert line.endswith("The pause is answered all the same.")


def test_an_answer_that_was_lost_is_sent_again(client, asked, emulator, told):
    run_id, context_id = asked
    answering = Answering(run_id)
    with emulator.fault("server_error", match="resume", times=2):
        assert answering.give(client) == context_id
    assert len(sent(emulator)) == 3
    assert (answering.naps, answering.noted) == ([INTERVAL] * 2, [context_id])
    assert all(line.endswith("The pause is still open: answering it again.") for line in told())


def test_until_the_time_is_up(client, asked, emulator):
    run_id, _ = asked
    answering = Answering(run_id, seconds=0)
    with emulator.fault("server_error", match="resume", times=None), pytest.raises(SimServerError):
        answering.give(client)
    assert (len(sent(emulator)), answering.naps) == (1, [])


def test_a_refusal_that_says_nothing_of_the_pause_is_the_author_s_to_mend(client, asked, emulator):
    run_id, _ = asked
    answering = Answering(run_id, input={"approved": {1}})
    with pytest.raises(SimInputError, match="JSON"):
        answering.give(client)
    assert answering.naps == []


def test_somebody_who_was_quicker_by_a_moment(client, asked, emulator):
    run_id, context_id = asked
    answering = Answering(run_id, before=lambda: emulator.state.runs[run_id].resume({"approved": False}, after=3600))
    with pytest.raises(SimPauseAnsweredError, match=f"pause {context_id} was answered by somebody else") as caught:
        answering.give(client)
    assert caught.value.__cause__ is not None
    assert answering.naps == []


class TestAnEarlierTry:
    def test_that_was_heard(self, client, asked, emulator, told):
        run_id, context_id = asked
        emulator.resume(run_id, YES)
        answering = Answering(run_id, earlier=context_id)
        assert answering.give(client) == context_id
        assert (answering.noted, sent(emulator)) == ([], [])
        assert told() == [f"An earlier try has answered pause {context_id} of run {run_id}."]

    def test_that_was_not(self, client, asked, emulator):
        run_id, context_id = asked
        answering = Answering(run_id, earlier=context_id)
        assert answering.give(client) == context_id
        assert (answering.noted, len(sent(emulator))) == ([context_id], 1)

    def test_whose_answer_comes_at_last(self, client, asked, emulator, told):
        """Sim refuses this try's answer, since it has just taken the earlier one's."""
        run_id, context_id = asked
        answering = Answering(run_id, earlier=context_id, before=lambda: emulator.resume(run_id, YES))
        assert answering.give(client) == context_id
        [line] = told()
        assert line.endswith("The pause is answered all the same.")


def test_an_answered_pause_beside_an_open_one():
    """It is another's that is open: the one that was answered isn't asked for again."""
    points = [
        {"contextId": "c-0", "resumeStatus": "resumed", "response": {"data": {}}},
        {"contextId": "c-1", "resumeStatus": "paused", "response": {"data": {}}},
    ]
    run = {"runId": "r", "workflowId": "w", "status": "paused", "paused": {"contextId": "c-1", "pauseKind": "human"}}
    detail = {"executionId": "r", "resumedCount": 1, "pausePoints": points}
    with (
        canned(("/runs/r", Answer(200, {"data": run})), ("/api/resume/", Answer(200, detail))) as server,
        SimClient("key", base_url=server.url, api_version="v2") as client,
    ):
        assert Answering("r", workflow_id="w", earlier="c-0").give(client) == "c-0"
        with pytest.raises(SimPauseAnsweredError, match="pause c-0 was answered by somebody else"):
            Answering("r", workflow_id="w", context_id="c-0").give(client)


def test_several_are_listed_with_their_questions():
    def point(context_id, question):
        shown = {"responseStructure": [{"name": "question", "value": question}]} if question else {}
        return {"contextId": context_id, "resumeStatus": "paused", "response": {"data": shown}}

    run = {"runId": "r", "workflowId": "w", "status": "paused", "paused": {"contextId": "c-1", "pauseKind": "human"}}
    points = [point("c-1", "Pay\nthe bill?"), point("c-2", None)]
    detail = {"executionId": "r", "resumedCount": 0, "pausePoints": points}
    with (
        canned(("/runs/r", Answer(200, {"data": run})), ("/api/resume/", Answer(200, detail))) as server,
        SimClient("key", base_url=server.url, api_version="v2") as client,
        pytest.raises(SimInputError) as caught,
    ):
        Answering("r", workflow_id="w").give(client)
    assert str(caught.value) == (
        "Run 'r' of workflow 'w' waits at 2 pauses. Name one of them by context_id: c-1 (Pay, the bill?); c-2."
    )
    assert (caught.value.workflow_id, caught.value.run_id) == ("w", "r")
    assert caught.value.outcome is Outcome.NEVER_SENT
