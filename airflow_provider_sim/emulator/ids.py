"""Ids as Sim makes them; nobody has to be unable to guess an emulator's."""

from __future__ import annotations

import random
import uuid

_numbers = random.Random()  # noqa: S311 - the system's own source costs more than all the rest of a request


def new_id() -> str:
    """An id of a run, a block, a pause: a random UUID."""
    return str(uuid.UUID(int=_numbers.getrandbits(128), version=4))


def new_name(digits: int) -> str:
    """A shorter one, of hexadecimal digits."""
    return f"{_numbers.getrandbits(4 * digits):0{digits}x}"
