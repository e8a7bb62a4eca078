"""A stream's text in the task log and in the output, and streams that break off."""

from __future__ import annotations

import json
import logging

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_sim.exceptions import SimOutputError, SimRunFailedError, SimStreamError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from tests.canned_server import Answer, canned

END = {"event": "final", "data": {"success": True, "output": {"rest": 1}}}


def stream(*frames: dict) -> Answer:
    body = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames)
    return Answer(200, body.encode(), {"content-type": "text/event-stream"})


@pytest.fixture
def lines(caplog):
    """The lines that streams have left in the task log, with their levels where asked for."""
    logger = "airflow_provider_sim.task.stream_log"
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


def test_chunks_are_joined_to_lines(read, lines):
    output = read(*map(chunk, ["Once ", "upon ", "a time\n", "there ", "was."]), END)
    assert lines() == ["Once upon a time", "there was."]
    assert output == {"rest": 1}, "Sim has put the text into the output already"


def test_long_line_is_split(read, lines):
    read(*[chunk("word ")] * 40, END)
    assert [len(line) for line in lines()] == [160, 40]


def test_blocks_have_separate_lines(read, lines):
    read(chunk("one ", "b-1"), chunk("two ", "b-2"), chunk("more\n", "b-1"), END)
    assert lines() == ["one more", "two "]


def test_selected_text_is_part_of_the_output(read):
    selected = {"selected_outputs": ["Agent.content"]}
    assert read(chunk("Once "), chunk("more", "b-2"), chunk("upon."), END, **selected) == {
        "b-1": "Once upon.",
        "b-2": "more",
        "rest": 1,
    }


def test_reset_discards_the_text(read, lines):
    frames = [chunk("A draft"), {"event": "chunk_reset", "blockId": "b-1"}, chunk("The text.")]
    output = read(*frames, END, selected_outputs=["Agent.content"])
    assert output["b-1"] == "The text."
    assert lines() == ["A draft", "Block b-1 discarded its text and starts again.", "The text."]


def test_reset_of_a_block_without_text_is_logged(read, lines):
    output = read({"event": "chunk_reset", "blockId": "b-1"}, END, selected_outputs=["Agent.content"])
    assert (output, lines()) == ({"rest": 1}, ["Block b-1 discarded its text and starts again."])


class TestLargeText:
    """Selected text beyond ``max_output_bytes``."""

    SELECTED = {"selected_outputs": ["Agent.content"], "max_output_bytes": 20}
    FRAMES = [*[chunk("Ä\n")] * 10, chunk('"', "b-2"), chunk("\\", "b-2"), END]

    def test_stream_fails_at_max_output_bytes(self, read, lines):
        with pytest.raises(SimOutputError, match=r"max_output_bytes \(20\)") as caught:
            read(*self.FRAMES, **self.SELECTED)
        assert caught.value.run_id
        assert lines() == ["Ä"] * 5, "the sixth chunk exceeds 20 bytes as JSON"

    def test_large_text_is_stored(self, read, tmp_path):
        stored = read(*self.FRAMES, **self.SELECTED, output_files_dir=tmp_path.as_uri(), large_outputs="store")
        assert stored["size"] == 72
        written = ObjectStoragePath(stored["output_path"]).read_bytes()
        assert len(written) == 72
        assert json.loads(written) == {"b-1": "Ä\n" * 10, "b-2": '"\\', "rest": 1}

    def test_stored_text_is_limited(self, read, monkeypatch, tmp_path):
        monkeypatch.setattr("airflow_provider_sim.task.stream_log._MAX_STORED_BYTES", 30)
        with pytest.raises(SimOutputError, match="max_output_bytes"):
            read(*self.FRAMES, **self.SELECTED, output_files_dir=tmp_path.as_uri(), large_outputs="store")

    def test_files_of_the_final_output_are_saved(self, read, tmp_path):
        file = {"name": "a.txt", "key": "k", "context": "execution", "size": 2, "base64": "aGk="}
        end = {"event": "final", "data": {"success": True, "output": {"b-3": file}}}
        given = {"output_files_dir": tmp_path.as_uri(), "large_outputs": "store"}
        stored = json.loads(
            ObjectStoragePath(read(chunk("x" * 30), end, **self.SELECTED, **given)["output_path"]).read_bytes()
        )
        assert ObjectStoragePath(stored["b-3"]["path"]).read_bytes() == b"hi"

    @pytest.mark.parametrize("large", ["fail", "store"])
    def test_discarded_text_does_not_count(self, read, tmp_path, large):
        frames = [chunk("x" * 18), {"event": "chunk_reset", "blockId": "b-1"}, chunk("A" * 4), END]
        given = {"output_files_dir": tmp_path.as_uri(), "large_outputs": large}
        assert read(*frames, **{**self.SELECTED, "max_output_bytes": 25}, **given) == {"b-1": "AAAA", "rest": 1}

    def test_final_output_replaces_the_streamed_text(self, read):
        end = {"event": "final", "data": {"success": True, "output": {"b-1": "short"}}}
        assert read(chunk("x" * 18), end, **self.SELECTED) == {"b-1": "short"}


def test_block_error_is_logged_and_the_run_continues(read, lines):
    assert read({"event": "stream_error", "blockId": "b-1", "error": "model is gone"}, chunk("On."), END) == {"rest": 1}
    assert lines(levels=True) == [("ERROR", "Block b-1: model is gone"), ("INFO", "On.")]


def test_progress_events_are_logged(read, lines):
    read({"event": "thinking", "blockId": "b-1", "data": "hm"}, {"event": "tool", "blockId": "b-1"}, END)
    assert lines() == ["Block b-1: thinking", "Block b-1: tool"]


def test_text_of_a_failed_run_is_logged(read, lines):
    with pytest.raises(SimRunFailedError, match="boom"):
        read(chunk("So far."), {"event": "error", "error": "boom"})
    assert lines() == ["So far."]


class TestInterruptedStream:
    """A stream without its end."""

    def test_interrupted_stream_returns_the_output_of_the_run(self, read):
        run = {"runId": "r", "workflowId": "wf-1", "status": "completed", "output": {"whole": True}}
        assert read(chunk("Once"), run=Answer(200, {"data": run})) == {"whole": True}

    @pytest.mark.parametrize("status", ["cancelled", "failed"])
    def test_run_cancelled_by_the_disconnect_raises_the_stream_error(self, read, status):
        error = {"message": "Client cancelled request"} if status == "failed" else None
        run = {"runId": "r", "workflowId": "wf-1", "status": status, "error": error}
        with pytest.raises(SimStreamError, match="stopped before the run finished"):
            read(chunk("Once"), run=Answer(200, {"data": run}))

    def test_unreadable_run_raises_the_stream_error(self, read):
        with pytest.raises(SimStreamError, match=r"stopped before the run finished.*async execution"):
            read(chunk("Once"), run=Answer(502, b"<html>Bad Gateway</html>"))
