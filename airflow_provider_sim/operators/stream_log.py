"""A stream's text in the task log."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_sim.client.stream import (
    StreamBlockError,
    StreamChunk,
    StreamChunkReset,
    StreamEnd,
    StreamProgress,
)

if TYPE_CHECKING:
    from airflow_provider_sim.client.blocking import WorkflowStream
    from airflow_provider_sim.client.models import WorkflowExecutionResult

log = logging.getLogger(__name__)

_LINE_LENGTH = 160
"""Characters of text without a line break after which a log line is written all the same."""


class StreamLog:
    """Writes each block's text line by line; a chunk is mostly a word, and a log line for each couldn't be read.

    :param keep_text: whether the text becomes part of the result: it does where the author selected outputs, which Sim
        then leaves out of the final output.
    """

    def __init__(self, *, keep_text: bool) -> None:
        self._keep_text = keep_text
        self._unwritten: defaultdict[str, str] = defaultdict(str)
        self._texts: defaultdict[str, list[str]] = defaultdict(list)

    def read(self, stream: WorkflowStream) -> WorkflowExecutionResult:
        """Read a stream to its end and return the run's result.

        :raises SimStreamError: it stopped before.
        """
        result: WorkflowExecutionResult | None = None
        for event in stream:
            match event:
                case StreamChunk(block_id, text):
                    self._take(block_id or "", text)
                case StreamChunkReset(block_id):
                    self._void(block_id or "")
                case StreamBlockError(block_id, message):
                    log.error("Block %s: %s", block_id, message)
                case StreamProgress(kind, block_id, _):
                    log.info("Block %s: %s", block_id, kind)
                case StreamEnd(ended):
                    result = ended
        for block_id in list(self._unwritten):
            self._write(block_id)
        assert result is not None, "a stream without an end raises SimStreamError"
        return self._with_texts(result)

    def _take(self, block_id: str, text: str) -> None:
        if self._keep_text:
            self._texts[block_id].append(text)
        self._unwritten[block_id] += text
        if "\n" in text or len(self._unwritten[block_id]) >= _LINE_LENGTH:
            self._write(block_id)

    def _write(self, block_id: str) -> None:
        text = self._unwritten.pop(block_id, "")
        if text:
            log.info("%s", text.rstrip("\n"))

    def _void(self, block_id: str) -> None:
        self._write(block_id)
        self._texts.pop(block_id, None)
        log.info("Block %s begins its text anew.", block_id)

    def _with_texts(self, result: WorkflowExecutionResult) -> WorkflowExecutionResult:
        texts = {block_id: "".join(parts) for block_id, parts in self._texts.items()}
        if not texts:
            return result
        rest = result.output if isinstance(result.output, dict) else {}
        return replace(result, output={**texts, **rest})
