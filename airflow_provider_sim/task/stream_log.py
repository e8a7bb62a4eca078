"""A stream's text in the task log."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
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
)
from airflow_provider_sim.task.large_output import LargeOutput, LongText

if TYPE_CHECKING:
    from airflow_provider_sim.client import WorkflowExecutionResult, WorkflowStream
    from airflow_provider_sim.task.output import OutputRules

log = logging.getLogger(__name__)

_LINE_LENGTH = 160
"""Characters of text without a line break after which a log line is written all the same."""


class StreamLog:
    """Writes each block's text line by line; a chunk is mostly a word, and a log line for each couldn't be read.

    :param rules: for the result.
    :param selectors: the selected outputs. Their text becomes part of the result, since Sim leaves it out of the final
        output then.
    """

    def __init__(self, rules: OutputRules, selectors: Sequence[str]) -> None:
        self._rules = rules
        self._selectors = selectors
        self._unwritten: defaultdict[str, str] = defaultdict(str)
        self._texts: dict[str, LongText] = {}

    def read(self, stream: WorkflowStream) -> WorkflowExecutionResult:
        """Read a stream to its end and return the run's result.

        :raises SimStreamError: it stopped before.
        :raises SimOutputError: a selector selected nothing.
        """
        try:
            end = self._read_to_end(stream)
            check_selected(self._selectors, self._texts, end)
            return self._with_texts(end.result)
        finally:
            for text in self._texts.values():
                text.close()

    def _read_to_end(self, stream: WorkflowStream) -> StreamEnd:
        end: StreamEnd | None = None
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
                case StreamEnd():
                    end = event
        for block_id in list(self._unwritten):
            self._write(block_id)
        assert end is not None, "a stream without an end raises SimStreamError"
        return end

    def _take(self, block_id: str, text: str) -> None:
        if self._selectors:
            if block_id not in self._texts:
                rules = self._rules
                self._texts[block_id] = LongText(max_bytes=rules.max_bytes, keep=rules.large == "store")
            self._texts[block_id].add(text)
        self._unwritten[block_id] += text
        if "\n" in text or len(self._unwritten[block_id]) >= _LINE_LENGTH:
            self._write(block_id)

    def _write(self, block_id: str) -> None:
        text = self._unwritten.pop(block_id, "")
        if text:
            log.info("%s", text.rstrip("\n"))

    def _void(self, block_id: str) -> None:
        self._write(block_id)
        if block_id in self._texts:
            self._texts.pop(block_id).close()
        log.info("Block %s begins its text anew.", block_id)

    def _with_texts(self, result: WorkflowExecutionResult) -> WorkflowExecutionResult:
        if not self._texts or result.status is not RunStatus.COMPLETED:
            return result
        rest = result.output if isinstance(result.output, dict) else {}
        texts = {block_id: text for block_id, text in self._texts.items() if block_id not in rest}
        if not any(text.is_large for text in texts.values()):
            return replace(result, output={**{block_id: text.read() for block_id, text in texts.items()}, **rest})
        self._texts = {block_id: text for block_id, text in self._texts.items() if block_id in rest}
        return replace(result, output=LargeOutput(texts, rest))
