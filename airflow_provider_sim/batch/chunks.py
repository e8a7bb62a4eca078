"""Inputs that a worker leaves to the triggerer, as XComs of the task.

A trigger's arguments appear in logs, so they contain no inputs. An XCom holds a chunk that is read in a moment, and the
triggerer keeps two chunks in memory.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from airflow_provider_sim.exceptions import Outcome, SimError

CHUNK_BYTES = 256 * 1024
"""Maximum size of a chunk with more than one input."""

_CACHED_CHUNKS = 2


def chunk_key(chunk: int) -> str:
    """Return the XCom key of a chunk."""
    return f"batch_inputs_{chunk}"


def chunked(inputs: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, str]]:
    """Divide inputs into chunks; yield the index of the first input and the JSON text of each.

    :param inputs: with their indices, in ascending order.
    """
    items: list[str] = []
    first = length = 0
    for index, value in inputs:
        text = json.dumps([index, value], separators=(",", ":"))
        if items and length + len(text) > CHUNK_BYTES:
            yield first, f"[{','.join(items)}]"
            items, length = [], 0
        if not items:
            first = index
        items.append(text)
        length += len(text) + 1
    if items:
        yield first, f"[{','.join(items)}]"


class DeferredInputs:
    """Returns inputs by index, and reads their chunks on demand.

    :param firsts: index of the first input of each chunk.
    :param read: returns the text of an XCom by its key; may block.
    """

    def __init__(self, firsts: Sequence[int], read: Callable[[str], Any]) -> None:
        self._firsts = firsts
        self._read = read
        self._chunks: dict[int, dict[int, Any]] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, index: int) -> Any:
        """Return an input.

        :raises SimError: its XCom was deleted.
        """
        chunk = bisect_right(self._firsts, index) - 1
        async with self._lock:
            if chunk not in self._chunks:
                inputs = await asyncio.to_thread(self._load, chunk) if chunk >= 0 else {}
                self._chunks = dict([*self._chunks.items(), (chunk, inputs)][-_CACHED_CHUNKS:])
            inputs = self._chunks[chunk]
        if index not in inputs:
            raise SimError(
                f"inputs[{index}] is missing in the task's XCom {chunk_key(chunk)!r}, which was deleted. A retry of the"
                " task resumes the batch.",
                outcome=Outcome.NEVER_SENT,
            )
        return inputs[index]

    def _load(self, chunk: int) -> dict[int, Any]:
        text = self._read(chunk_key(chunk))
        return dict(json.loads(text)) if isinstance(text, str) else {}
