"""How the inputs that a worker hasn't sent get to the triggerer: as XComs of the task, in parts.

A trigger's arguments stand in logs and in every copy of it; so they hold no inputs. XComs of a task are where Airflow
keeps data, in its database or, with a backend for that, in object storage. A part is small enough that reading it stops
nobody, and only two of them are held at a time.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from airflow_provider_sim.exceptions import Outcome, SimError

PART_BYTES = 256 * 1024

_KEPT = 2


def key_of(part: int) -> str:
    """The key of a part's XCom."""
    return f"batch_inputs_{part}"


def in_parts(inputs: Iterable[tuple[int, Any]], size: int = PART_BYTES) -> Iterator[tuple[int, str]]:
    """Divide inputs into parts: the number of the first of each, and its JSON text.

    :param inputs: with their numbers, in ascending order.
    :param size: bytes, which a part reaches only if it holds a single input.
    """
    held: list[str] = []
    first = length = 0
    for index, value in inputs:
        text = json.dumps([index, value], separators=(",", ":"))
        if held and length + len(text) > size:
            yield first, f"[{','.join(held)}]"
            held, length = [], 0
        if not held:
            first = index
        held.append(text)
        length += len(text) + 1
    if held:
        yield first, f"[{','.join(held)}]"


class DeferredInputs:
    """Gives inputs by their numbers, and gets their parts when they are needed.

    :param firsts: the number of the first input of each part.
    :param read: gets a part's text by its XCom's key; may block.
    """

    def __init__(self, firsts: Sequence[int], read: Callable[[str], Any]) -> None:
        self._firsts = firsts
        self._read = read
        self._parts: dict[int, dict[int, Any]] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, index: int) -> Any:
        """Get an input.

        :raises SimError: it isn't there any more.
        """
        part = bisect_right(self._firsts, index) - 1
        async with self._lock:
            if part not in self._parts:
                found = await asyncio.to_thread(self._load, part) if part >= 0 else {}
                self._parts = dict([*self._parts.items(), (part, found)][-_KEPT:])
            inputs = self._parts[part]
        if index not in inputs:
            raise SimError(
                f"inputs[{index}] isn't in the XCom {key_of(part)!r}, by which the task handed it to the triggerer."
                " Somebody has deleted the task's XComs. A retry of the task goes on with the batch.",
                outcome=Outcome.NEVER_SENT,
            )
        return inputs[index]

    def _load(self, part: int) -> dict[int, Any]:
        text = self._read(key_of(part))
        return dict(json.loads(text)) if isinstance(text, str) else {}
