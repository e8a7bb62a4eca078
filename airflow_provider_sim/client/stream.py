"""Parser for the server-sent events of a streamed execution, without I/O.

Both APIs send the same frames. With ``selected_outputs``, Sim sends those block outputs as chunks of text; the final
frame contains the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.http import Request, error_of
from airflow_provider_sim.client.api.resources import ending_of, run_error
from airflow_provider_sim.client.checks import block_id_of
from airflow_provider_sim.client.models import RunStatus, WorkflowExecutionResult, WorkflowRun
from airflow_provider_sim.exceptions import Outcome, SimError, SimOutputError, SimStreamError
from airflow_provider_sim.json_values import well_formed

MAX_FRAME_BYTES = 256 * 1024 * 1024  # larger than any frame of Sim; limits the memory for an endless line


class StreamChunk(NamedTuple):
    """A part of a block's text."""

    block_id: str | None
    text: str


class StreamChunkReset(NamedTuple):
    """The text of this block so far is discarded; the block starts again."""

    block_id: str | None


class StreamProgress(NamedTuple):
    """An agent's thoughts or tool use (``thinking``, ``tool``), or an event of an unknown kind."""

    kind: str
    block_id: str | None
    data: dict[str, Any]  # the whole frame


class StreamBlockError(NamedTuple):
    """A block's stream failed; the run continues."""

    block_id: str | None
    message: str


class StreamEnd(NamedTuple):
    """The run is finished or paused; the last event of every stream that was not interrupted.

    :param streamed: False if the result did not come from a stream, and so has the whole output instead of the selected
        one: the stream was lost, and the run was found by its ID.
    """

    result: WorkflowExecutionResult
    streamed: bool = True


StreamEvent = StreamChunk | StreamChunkReset | StreamProgress | StreamBlockError | StreamEnd


class StreamReader:
    """Turns the bytes of one stream into events; buffers one unfinished line."""

    def __init__(self, request: Request) -> None:
        self._request = request  # contains the run's ID, which no frame does
        self._line: list[bytes] = []
        self._halves: dict[str | None, str] = {}
        self._ended = False

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Return the events that the chunk completes."""
        events: list[StreamEvent] = []
        *parts, rest = chunk.split(b"\n")
        for part in parts:
            line = b"".join((*self._line, part))
            self._line.clear()
            if line.startswith(b"data:"):  # Sim sends each frame as one; other lines are comments and unused fields
                events += self._parse_frame(line[5:].strip())
        self._line.append(rest)
        if sum(map(len, self._line)) > MAX_FRAME_BYTES:
            raise self._error(f"a frame of the stream is larger than {MAX_FRAME_BYTES // 2**20} MiB")
        return events

    def finish(self) -> None:
        """Raise SimStreamError if the stream has no final frame: the connection broke."""
        if not self._ended:
            raise self._error("the stream stopped before the run finished")

    def _parse_frame(self, data: bytes) -> list[StreamEvent]:
        if data in (b"[DONE]", b'"[DONE]"'):
            return []
        try:
            frame = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._error("a frame of the stream is not JSON") from error
        if not isinstance(frame, dict):
            raise self._error(f"a frame of the stream is {type(frame).__name__}, not an object")
        event = self._read_frame(frame)
        if not isinstance(event, StreamEnd):
            return [event]
        return [*(StreamChunk(block_id, well_formed(half)) for block_id, half in self._halves.items()), event]

    def _read_frame(self, frame: dict[str, Any]) -> StreamEvent:
        block_id = fields.text(frame, "blockId")
        match frame.get("event"):
            case None:
                chunk = frame.get("chunk")
                text = chunk if isinstance(chunk, str) else json.dumps(chunk)
                return StreamChunk(block_id, self._joined(block_id, text))
            case "chunk_reset":
                self._halves.pop(block_id, None)
                return StreamChunkReset(block_id)
            case "stream_error":
                return StreamBlockError(block_id, run_error(frame.get("error")).message)
            case "final":
                return self._end(fields.mapping(frame, "data"))
            case "error":
                return self._end({"success": False, "error": frame.get("error")})
            case kind:
                return StreamProgress(str(kind), block_id, frame)

    def _joined(self, block_id: str | None, text: str) -> str:
        """A chunk's text; the first half of a surrogate pair at its end is joined to the next chunk."""
        text = self._halves.pop(block_id, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._halves[block_id] = text[:-1], text[-1]
        return well_formed(text)

    def _end(self, data: dict[str, Any]) -> StreamEnd:
        self._ended = True
        result = WorkflowExecutionResult(
            run_id=self._request.run_id,
            workflow_id=self._request.workflow_id,
            server_status=fields.text(data, "status"),
            **ending_of(data),
        )
        return StreamEnd(result)

    def _error(self, what: str) -> SimError:
        return error_of(SimStreamError, self._request, None, what, outcome=Outcome.RAN)


def check_selected(selectors: Sequence[str], streamed: Collection[str], end: StreamEnd) -> None:
    """Raise if selected outputs of a completed run were not in its stream, which Sim doesn't report.

    A frame names a block by its ID, a selector mostly by its name. So a selector without output is known where it names
    an ID, where nothing was received, and where fewer blocks were received than selected. ``streamed`` has the IDs of
    the blocks that sent text.
    """
    result = end.result
    if not selectors or result.status is not RunStatus.COMPLETED:
        return
    if not end.streamed:
        raise selection_lost(result, selectors)
    rest = result.output if isinstance(result.output, Mapping) else {}
    received = {*streamed, *(block_id for block_id, output in rest.items() if output != {})}
    by_id = {selector: block_id for selector in selectors if (block_id := block_id_of(selector))}
    missing = [selector for selector, block_id in by_id.items() if block_id not in received]
    by_name = [selector for selector in selectors if selector not in by_id]
    if len({selector.partition(".")[0] for selector in by_name}) > len(received.difference(by_id.values())):
        missing += by_name
    if missing:
        raise result.error_as(
            SimOutputError,
            f"completed, but its stream had no output for {', '.join(missing)}: the workflow has no such block or"
            " field, or the block did not run. Correct selected_outputs: block name or block ID, and path, such as"
            " 'Agent 1.content'.",
        )


def selection_lost(run: WorkflowRun, selectors: Sequence[str]) -> SimOutputError:
    """Return the error for a completed run whose selected outputs were lost with its stream."""
    return run.error_as(
        SimOutputError,
        f"completed, but its stream was lost, and the selected outputs with it: {', '.join(selectors)}. A SimJobSensor"
        " with this run ID returns the whole output; clearing the task starts a new run.",
    )
