"""A stream's text in the task log and in the output."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_sim.client import (
    RunStatus,
    StreamBlockError,
    StreamChunk,
    StreamChunkReset,
    StreamEnd,
    StreamProgress,
    check_selected,
    selectors_of,
)
from airflow_provider_sim.exceptions import SimOutputError
from airflow_provider_sim.task.output import as_json

if TYPE_CHECKING:
    from airflow_provider_sim.client import WorkflowExecutionResult, WorkflowStream
    from airflow_provider_sim.task.run_options import RunOptions

log = logging.getLogger(__name__)

_LINE_LENGTH = 160  # characters of text without a line break after which a log line is written
_MAX_STORED_BYTES = 256 * 1024 * 1024  # with large_outputs="store": held in memory until the run finishes


class StreamLog:
    """Logs each block's text line by line, since a chunk is mostly a single word.

    The text of selected outputs is added to the final output, in which Sim leaves it out. Text beyond the limit of an
    output fails the stream, which makes Sim cancel the run.
    """

    def __init__(self, options: RunOptions, *, run_id: str | None) -> None:
        self._max_bytes = _MAX_STORED_BYTES if options.large_outputs == "store" else options.max_output_bytes
        self._selectors = selectors_of(options.selected_outputs)
        self._run_id = run_id
        self._size = 0
        self._unlogged: defaultdict[str, str] = defaultdict(str)
        self._chunks: defaultdict[str, list[str]] = defaultdict(list)

    def read(self, stream: WorkflowStream) -> WorkflowExecutionResult:
        """Read a stream to its end and return the run's result."""
        end: StreamEnd | None = None
        for event in stream:
            match event:
                case StreamChunk(block_id, text):
                    self._add(block_id or "", text)
                case StreamChunkReset(block_id):
                    self._reset(block_id or "")
                case StreamBlockError(block_id, message):
                    log.error("Block %s: %s", block_id, message)
                case StreamProgress(kind, block_id, _):
                    log.info("Block %s: %s", block_id, kind)
                case StreamEnd():
                    end = event
        for block_id in list(self._unlogged):
            self._log_text(block_id)
        assert end is not None, "a stream without an end raises SimStreamError"
        check_selected(self._selectors, self._chunks, end)
        result = end.result
        if not self._chunks or result.status is not RunStatus.COMPLETED:
            return result
        output = result.output if isinstance(result.output, dict) else {}
        texts = {block_id: "".join(self._chunks.pop(block_id)) for block_id in list(self._chunks)}
        return replace(result, output={**texts, **output})

    def _add(self, block_id: str, text: str) -> None:
        if self._selectors:
            self._chunks[block_id].append(text)
            self._size += len(as_json(text)) - len('""')
            if self._size > self._max_bytes:
                raise SimOutputError(
                    f"The selected text of run {self._run_id!r} is larger than max_output_bytes"
                    f" ({self._max_bytes:,}). Select less, raise max_output_bytes, or set large_outputs='store' and"
                    " output_files_dir to store up to 256 MiB.",
                    run_id=self._run_id,
                )
        self._unlogged[block_id] += text
        if "\n" in text or len(self._unlogged[block_id]) >= _LINE_LENGTH:
            self._log_text(block_id)

    def _log_text(self, block_id: str) -> None:
        if text := self._unlogged.pop(block_id, ""):
            log.info("%s", text.rstrip("\n"))

    def _reset(self, block_id: str) -> None:
        self._log_text(block_id)
        self._size -= sum(len(as_json(text)) - len('""') for text in self._chunks.pop(block_id, []))
        log.info("Block %s discarded its text and starts again.", block_id)
