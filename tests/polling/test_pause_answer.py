"""An answer to a pause, told and noted to the word; how the operator answers is in ``tests/operators``."""

from __future__ import annotations

import logging
import time
from functools import partial
from types import SimpleNamespace

import pytest

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.exceptions import (
    Outcome,
    SimInputError,
    SimPauseAnsweredError,
    SimRunTimeoutError,
    SimServerError,
)
from airflow_provider_sim.polling import pause, poll_state
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
    [point] = client.get_paused_run("paused", run_id).points
    emulator.requests.clear()
    return run_id, point.context_id


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "airflow_provider_sim.polling.pause")
    return lambda: [
        found.getMessage() for found in caplog.records if found.name == "airflow_provider_sim.polling.pause"
    ]


class Answering:
    """An answer that records the pause points it persists, and its sleeps.

    :param before: called before the answer is sent.
    :param meanwhile: called in each sleep.
    """

    def __init__(
        self, run_id, *, before=lambda: None, meanwhile=lambda: None, workflow_id="paused", seconds=60.0, **fields
    ):
        self.persisted, self.sleeps = [], []
        self.before, self.meanwhile = before, meanwhile
        self.answer = partial(
            PauseAnswer,
            workflow_id=workflow_id,
            run_id=run_id,
            poll_interval=INTERVAL,
            deadline=time.time() + seconds,
            persist=self._persist,
            **{"context_id": None, "input": YES} | fields,
        )

    def send(self, client):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pause, "time", SimpleNamespace(time=time.time, sleep=self._sleep))
            patch.setattr(poll_state, "time", SimpleNamespace(time=time.time, sleep=self._sleep))
            return self.answer(client=client).send()

    def _persist(self, context_id):
        self.persisted.append(context_id)
        self.before()

    def _sleep(self, seconds):
        self.sleeps.append(seconds)
        self.meanwhile()


def sent(emulator):
    """The answers that were sent."""
    return [seen for seen in emulator.requests if seen.method == "POST" and "resume" in seen.path]


def test_pause_point_is_persisted_before_the_answer_is_sent(client, asked, emulator):
    run_id, context_id = asked
    before = []
    answering = Answering(run_id, before=lambda: before.append(len(sent(emulator))))
    assert answering.send(client) == context_id
    assert (answering.persisted, before, answering.sleeps) == ([context_id], [0], [])
    assert emulator.runs[0].status == "completed"


def test_waits_until_the_run_is_paused(client, emulator):
    body = emulator.state.workflows["paused"].body
    emulator.workflow("later", duration=2 * INTERVAL, inputs={"message": "string"})(lambda given: body(given))
    run_id = client.execute_workflow("later", {"message": "x"}, async_execution=True).run_id
    answering = Answering(run_id, workflow_id="later", meanwhile=lambda: emulator.clock.advance(INTERVAL))
    answering.send(client)
    assert answering.sleeps == [pytest.approx(INTERVAL, rel=0.11)] * 2


def test_run_not_paused_before_the_deadline_times_out(client, emulator):
    run_id = client.execute_workflow("slow", {"seconds": 600}, async_execution=True).run_id
    answering = Answering(run_id, workflow_id="slow", context_id="c-7", seconds=0)
    with pytest.raises(SimRunTimeoutError, match=r"not paused at c-7 .* status is running") as caught:
        answering.send(client)
    assert (caught.value.workflow_id, caught.value.run_id) == ("slow", run_id)
    assert caught.value.outcome is Outcome.NEVER_SENT
    assert (answering.persisted, answering.sleeps) == ([], [])


def test_run_paused_at_another_point_times_out(client, asked):
    run_id, context_id = asked
    with pytest.raises(SimRunTimeoutError, match=rf"not paused at c-7 .* is paused at {context_id}\."):
        Answering(run_id, context_id="c-7", seconds=0).send(client)


def test_finished_run_accepts_no_answer(client, asked, emulator):
    run_id, _ = asked
    emulator.resume(run_id, {"approved": False})
    with pytest.raises(SimPauseAnsweredError, match=f"completed.* {emulator.url}/resume/paused/{run_id}") as caught:
        Answering(run_id).send(client)
    assert (caught.value.workflow_id, caught.value.run_id) == ("paused", run_id)


def test_answered_pause_of_an_active_run_is_an_error(client, asked, emulator):
    run_id, context_id = asked
    emulator.state.runs[run_id].resume({"approved": False}, after=3600)
    with pytest.raises(SimPauseAnsweredError, match=f"pause {context_id} was answered"):
        Answering(run_id, context_id=context_id).send(client)


def test_lost_response_to_an_accepted_answer_is_a_success(client, asked, emulator, messages):
    run_id, context_id = asked
    with emulator.fault("drop_after_accept", match="resume"):
        assert Answering(run_id).send(client) == context_id
    assert len(sent(emulator)) == 1
    [line] = messages()
    assert line.endswith("The pause is answered nevertheless.")


def test_failed_answer_is_sent_again(client, asked, emulator, messages):
    run_id, context_id = asked
    answering = Answering(run_id)
    with emulator.fault("server_error", match="resume", times=2):
        assert answering.send(client) == context_id
    assert len(sent(emulator)) == 3
    assert (answering.sleeps, answering.persisted) == ([INTERVAL] * 2, [context_id])
    assert all(line.endswith("The pause is still open. Sending the answer again.") for line in messages())


def test_failed_answer_is_not_resent_after_the_deadline(client, asked, emulator):
    run_id, _ = asked
    answering = Answering(run_id, seconds=0)
    with emulator.fault("server_error", match="resume", times=None), pytest.raises(SimServerError):
        answering.send(client)
    assert (len(sent(emulator)), answering.sleeps) == (1, [])


def test_invalid_answer_is_not_sent_again(client, asked, emulator):
    run_id, _ = asked
    answering = Answering(run_id, input={"approved": {1}})
    with pytest.raises(SimInputError, match="JSON"):
        answering.send(client)
    assert answering.sleeps == []


def test_answer_that_comes_second_is_rejected(client, asked, emulator):
    run_id, context_id = asked
    answering = Answering(run_id, before=lambda: emulator.state.runs[run_id].resume({"approved": False}, after=3600))
    with pytest.raises(SimPauseAnsweredError, match=f"pause {context_id} was answered") as caught:
        answering.send(client)
    assert caught.value.__cause__ is not None
    assert answering.sleeps == []


class TestEarlierTry:
    def test_answer_accepted_in_an_earlier_try_is_not_resent(self, client, asked, emulator, messages):
        run_id, context_id = asked
        emulator.resume(run_id, YES)
        answering = Answering(run_id, previous=context_id)
        assert answering.send(client) == context_id
        assert (answering.persisted, sent(emulator)) == ([], [])
        assert messages() == [f"Pause {context_id} of run {run_id} was answered by an earlier try."]

    def test_answer_not_accepted_in_an_earlier_try_is_sent(self, client, asked, emulator):
        run_id, context_id = asked
        answering = Answering(run_id, previous=context_id)
        assert answering.send(client) == context_id
        assert (answering.persisted, len(sent(emulator))) == ([context_id], 1)

    def test_earlier_answer_accepted_during_this_try_is_a_success(self, client, asked, emulator, messages):
        """Sim rejects this try's answer, since it has just accepted the earlier one."""
        run_id, context_id = asked
        answering = Answering(run_id, previous=context_id, before=lambda: emulator.resume(run_id, YES))
        assert answering.send(client) == context_id
        [line] = messages()
        assert line.endswith("The pause is answered nevertheless.")


def test_answered_pause_is_recognized_beside_an_open_one():
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
        assert Answering("r", workflow_id="w", previous="c-0").send(client) == "c-0"
        with pytest.raises(SimPauseAnsweredError, match="pause c-0 was answered"):
            Answering("r", workflow_id="w", context_id="c-0").send(client)


def test_ambiguous_answer_error_lists_the_open_pauses():
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
        Answering("r", workflow_id="w").send(client)
    assert str(caught.value).endswith("c-1 (Pay, the bill?); c-2.")
    assert (caught.value.workflow_id, caught.value.run_id) == ("w", "r")
    assert caught.value.outcome is Outcome.NEVER_SENT
