"""Inputs and results that a batch's processes leave to each other, as XComs of the task.

A trigger's arguments appear in logs, so they contain no inputs. The triggerer keeps two chunks in memory.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from airflow_provider_sim.exceptions import Outcome, SimError

CHUNK_BYTES = 256 * 1024  # size beyond which a chunk gets no further value

INPUTS_KEY = "batch_inputs_{}"  # with the chunk's number
RESULTS_KEY = "batch_results_{}"


def chunked(values: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, str]]:
    """Divide values, with their indices, into chunks; yield the index of the first value and the JSON text of each."""
    texts: list[str] = []
    first = length = 0
    for index, value in values:
        first = first if texts else index
        texts.append(json.dumps([index, value], separators=(",", ":")))
        length += len(texts[-1])
        if length > CHUNK_BYTES:
            yield first, f"[{','.join(texts)}]"
            texts, length = [], 0
    if texts:
        yield first, f"[{','.join(texts)}]"


def read_chunk(text: Any) -> dict[int, Any]:
    """Return the values of a chunk by index; empty if its XCom was deleted."""
    return dict(json.loads(text)) if text else {}


def deferred_inputs(firsts: Sequence[int], read: Callable[[str], Any]) -> Callable[[int], Awaitable[Any]]:
    """Return a function that returns an input by its index, and reads its chunk on demand.

    ``firsts`` are the indices of the first input of each chunk; ``read`` returns an XCom by its key, and may block.
    """
    lock, chunk = asyncio.Lock(), lru_cache(maxsize=2)(lambda key: read_chunk(read(key)))

    async def input_of(index: int) -> Any:
        key = INPUTS_KEY.format(bisect_right(firsts, index) - 1)
        async with lock:
            inputs = await asyncio.to_thread(chunk, key)
        if index not in inputs:
            raise SimError(
                f"inputs[{index}] is missing in the task's XCom {key!r}, which was deleted. A retry of the task resumes"
                " the batch.",
                outcome=Outcome.NEVER_SENT,
            )
        return inputs[index]

    return input_of
