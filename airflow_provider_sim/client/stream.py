"""Server-sent-event bytes of a streamed execution, as typed events. No I/O.

The same frames come from both dialects. ``selected_outputs`` makes Sim send those block outputs as chunks of text; the
final frame then holds the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_sim.client.dialects import fields
from airflow_provider_sim.client.dialects.exchange import LOST_STREAM
from airflow_provider_sim.client.dialects.resources import pause_in, run_error
from airflow_provider_sim.client.models import RunStatus, WorkflowExecutionResult
from airflow_provider_sim.exceptions import Outcome, SimStreamError

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Far above any output that Sim puts into one frame; an endless line must not fill the memory."""


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """A piece of a block's text."""

    block_id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class StreamChunkReset:
    """The text of this block so far is void; it begins anew."""

    block_id: str | None


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """What an agent thinks or which tool it uses (``thinking``, ``tool``), or an event that is not known here.

    :param data: the whole frame.
    """

    kind: str
    block_id: str | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamBlockError:
    """A block's stream failed; the run goes on."""

    block_id: str | None
    message: str


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The run is over or paused; the last event of every stream that wasn't cut off."""

    result: WorkflowExecutionResult


StreamEvent = StreamChunk | StreamChunkReset | StreamProgress | StreamBlockError | StreamEnd


class StreamReader:
    """Turns the bytes of one stream into events; holds at most one unfinished line.

    :param workflow_id: the workflow that runs.
    :param run_id: its run's id, which no frame tells.
    """

    def __init__(self, *, workflow_id: str, run_id: str | None) -> None:
        self._workflow_id = workflow_id
        self._run_id = run_id
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._ended = False

    def feed(self, piece: bytes) -> list[StreamEvent]:
        """Return the events that ``piece`` completes.

        :raises SimStreamError: a frame is no JSON object, or larger than any that Sim sends.
        """
        events: list[StreamEvent] = []
        first, *rest = piece.split(b"\n")
        self._hold(first)
        for following in rest:
            line = b"".join(self._line).removesuffix(b"\r")
            self._line, self._line_bytes = [following], len(following)
            event = self._take_line(line)
            if event is not None:
                events.append(event)
        return events

    def finish(self) -> None:
        """Say that no more bytes will come.

        :raises SimStreamError: the run's end hasn't been told: the connection was cut.
        """
        if not self._ended:
            raise self._error(f"the stream stopped before the run's end. {LOST_STREAM}")

    def _hold(self, piece: bytes) -> None:
        self._line.append(piece)
        self._line_bytes += len(piece)
        if self._line_bytes > MAX_FRAME_BYTES:
            raise self._error(f"a frame of the stream is larger than {MAX_FRAME_BYTES // 2**20} MiB")

    def _take_line(self, line: bytes) -> StreamEvent | None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            return None
        if line or not self._data:
            return None  # comments and fields that Sim doesn't use
        data, self._data = b"\n".join(self._data), []
        return self._take_frame(data)

    def _take_frame(self, data: bytes) -> StreamEvent | None:
        if data.strip() in (b"[DONE]", b'"[DONE]"'):
            return None
        try:
            frame = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._error("a frame of the stream is no JSON") from error
        if not isinstance(frame, dict):
            raise self._error(f"a frame of the stream is {type(frame).__name__}, not an object")
        return self._read_frame(frame)

    def _read_frame(self, frame: dict[str, Any]) -> StreamEvent:
        block_id = fields.text(frame, "blockId")
        match frame.get("event"):
            case None:
                chunk = frame.get("chunk")
                return StreamChunk(block_id, chunk if isinstance(chunk, str) else json.dumps(chunk))
            case "chunk_reset":
                return StreamChunkReset(block_id)
            case "stream_error":
                return StreamBlockError(block_id, run_error(frame.get("error")).message)
            case "final":
                return self._end(fields.mapping(frame, "data"))
            case "error":
                return self._end({"success": False, "error": frame.get("error")}, block_id=block_id)
            case kind:
                return StreamProgress(str(kind), block_id, frame)

    def _end(self, data: dict[str, Any], *, block_id: str | None = None) -> StreamEnd:
        self._ended = True
        success, error = data.get("success") is True, data.get("error")
        if data.get("status") == "paused":
            status = RunStatus.PAUSED
        elif success:
            status = RunStatus.COMPLETED
        else:  # as in held-open answers, no success and no error is what is told of a cancelled run
            cancelled = data.get("status") == "cancelled" or not error
            status = RunStatus.CANCELLED if cancelled else RunStatus.FAILED
        failed = status is RunStatus.FAILED
        return StreamEnd(
            WorkflowExecutionResult(
                run_id=self._run_id,
                workflow_id=self._workflow_id,
                status=status,
                server_status=fields.text(data, "status"),
                output=data.get("output"),
                error=replace(run_error(error), block_id=block_id) if failed else None,
                paused=pause_in(data.get("output")) if status is RunStatus.PAUSED else None,
            )
        )

    def _error(self, what: str) -> SimStreamError:
        run = f"run {self._run_id!r}" if self._run_id else "a run"
        return SimStreamError(
            f"Could not read the stream of {run} of workflow {self._workflow_id!r}: {what}.",
            workflow_id=self._workflow_id,
            run_id=self._run_id,
            outcome=Outcome.RAN,
        )
