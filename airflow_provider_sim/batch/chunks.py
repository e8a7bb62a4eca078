"""Inputs and results that a batch's processes leave to each other, as XComs of the task.

A trigger's arguments appear in logs, so they contain no inputs. The triggerer keeps two chunks in memory.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from airflow_provider_sim.exceptions import Outcome, SimError

CHUNK_BYTES = 256 * 1024  # maximum size of a chunk with more than one value

INPUTS_KEY = "batch_inputs_{}"  # with the chunk's number
RESULTS_KEY = "batch_results_{}"


def chunked(values: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, str]]:
    """Divide values, with their indices, into chunks; yield the index of the first value and the JSON text of each."""
    items: list[str] = []
    first = length = 0
    for index, value in values:
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


def read_chunk(text: Any) -> dict[int, Any]:
    """Return the values of a chunk by index; empty if its XCom was deleted."""
    return dict(json.loads(text)) if isinstance(text, str) else {}


class DeferredInputs:
    """Returns inputs by index, and reads their chunks on demand.

    :param firsts: index of the first input of each chunk.
    :param read: returns the text of an XCom by its key; may block.
    """

    def __init__(self, firsts: Sequence[int], read: Callable[[str], Any]) -> None:
        self._firsts = firsts
        self._chunk = lru_cache(maxsize=2)(lambda number: read_chunk(read(INPUTS_KEY.format(number))))
        self._lock = asyncio.Lock()

    async def __call__(self, index: int) -> Any:
        """Return an input."""
        number = bisect_right(self._firsts, index) - 1
        async with self._lock:
            inputs = await asyncio.to_thread(self._chunk, number)
        if index not in inputs:
            raise SimError(
                f"inputs[{index}] is missing in the task's XCom {INPUTS_KEY.format(number)!r}, which was deleted. A"
                " retry of the task resumes the batch.",
                outcome=Outcome.NEVER_SENT,
            )
        return inputs[index]
