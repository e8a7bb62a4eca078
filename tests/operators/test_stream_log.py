"""What a stream leaves in the task log and in the output, and what becomes of one that breaks off."""

from __future__ import annotations

import json
import logging

import pytest

from airflow_provider_sim.exceptions import SimRunFailedError, SimStreamError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from tests.canned_server import Answer, canned

END = {"event": "final", "data": {"success": True, "output": {"rest": 1}}}


def stream(*frames: dict) -> Answer:
    body = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames)
    return Answer(200, body.encode(), {"content-type": "text/event-stream"})


@pytest.fixture
def lines(caplog):
    """The lines that streams have left in the task log, with their levels where asked for."""
    logger = "airflow_provider_sim.operators.stream_log"
    caplog.set_level(logging.INFO, logger)

    def found(*, levels: bool = False) -> list:
        records = [record for record in caplog.records if record.name == logger]
        return [(record.levelname, record.message) if levels else record.message for record in records]

    return found


@pytest.fixture
def read(monkeypatch, run_task):
    """Stream these frames into a task; return its output."""

    def execute(*frames: dict, run: Answer | None = None, **arguments):
        with canned(("/execute", stream(*frames)), ("/", run or Answer(404))) as server:
            extra = {"api_version": "v2", "workspace_id": "w"}
            value = {"conn_type": "sim", "host": server.url, "password": "sk-sim-key", "extra": extra}
            monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", json.dumps(value))
            task = SimExecuteWorkflowOperator(
                task_id="t", workflow_id="wf-1", stream=True, retry_args={"initial_delay": 0.01}, **arguments
            )
            return run_task(task)

    return execute


def chunk(text: str, block: str = "b-1") -> dict:
    return {"blockId": block, "chunk": text}


def test_words_become_lines(read, lines):
    output = read(*map(chunk, ["Once ", "upon ", "a time\n", "there ", "was."]), END)
    assert lines() == ["Once upon a time", "there was."]
    assert output == {"rest": 1}, "Sim has put the text into the output already"


def test_a_long_line_is_written_before_it_ends(read, lines):
    read(*[chunk("word ")] * 40, END)
    assert [len(line) for line in lines()] == [160, 40]


def test_blocks_don_t_run_into_each_other(read, lines):
    read(chunk("one ", "b-1"), chunk("two ", "b-2"), chunk("more\n", "b-1"), END)
    assert lines() == ["one more", "two "]


def test_selected_texts_are_part_of_the_output(read):
    selected = {"selected_outputs": ["Agent.content"]}
    assert read(chunk("Once "), chunk("more", "b-2"), chunk("upon."), END, **selected) == {
        "b-1": "Once upon.",
        "b-2": "more",
        "rest": 1,
    }


def test_a_text_that_begins_anew_replaces_the_former_one(read, lines):
    frames = [chunk("A draft"), {"event": "chunk_reset", "blockId": "b-1"}, chunk("The text.")]
    output = read(*frames, END, selected_outputs=["Agent.content"])
    assert output["b-1"] == "The text."
    assert lines() == ["A draft", "Block b-1 begins its text anew.", "The text."]


def test_a_block_that_is_reset_before_it_said_anything(read, lines):
    output = read({"event": "chunk_reset", "blockId": "b-1"}, END, selected_outputs=["Agent.content"])
    assert (output, lines()) == ({"rest": 1}, ["Block b-1 begins its text anew."])


def test_a_block_s_error_is_in_the_log_and_the_run_goes_on(read, lines):
    assert read({"event": "stream_error", "blockId": "b-1", "error": "model is gone"}, chunk("On."), END) == {"rest": 1}
    assert lines(levels=True) == [("ERROR", "Block b-1: model is gone"), ("INFO", "On.")]


def test_what_an_agent_does_meanwhile_is_named(read, lines):
    read({"event": "thinking", "blockId": "b-1", "data": "hm"}, {"event": "tool", "blockId": "b-1"}, END)
    assert lines() == ["Block b-1: thinking", "Block b-1: tool"]


def test_a_run_that_fails_keeps_its_text_in_the_log(read, lines):
    with pytest.raises(SimRunFailedError, match="boom"):
        read(chunk("So far."), {"event": "error", "error": "boom"})
    assert lines() == ["So far."]


class TestBrokenOff:
    """A stream without its end."""

    def test_the_run_tells_how_it_ended(self, read):
        run = {"runId": "r", "workflowId": "wf-1", "status": "completed", "output": {"whole": True}}
        assert read(chunk("Once"), run=Answer(200, {"data": run})) == {"whole": True}

    @pytest.mark.parametrize("status", ["cancelled", "failed"])
    def test_a_run_that_sim_has_cancelled_for_it_is_the_stream_s_error(self, read, status):
        error = {"message": "Client cancelled request"} if status == "failed" else None
        run = {"runId": "r", "workflowId": "wf-1", "status": status, "error": error}
        with pytest.raises(SimStreamError, match="stopped before the run's end"):
            read(chunk("Once"), run=Answer(200, {"data": run}))

    def test_where_the_run_can_t_be_read_the_stream_s_own_error_is_told(self, read):
        with pytest.raises(SimStreamError, match=r"stopped before the run's end.*asynchronous execution"):
            read(chunk("Once"), run=Answer(502, b"<html>Bad Gateway</html>"))
