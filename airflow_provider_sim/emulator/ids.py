"""Random IDs; they need not be secret."""

from __future__ import annotations

import random
import uuid

_random = random.Random()  # noqa: S311 - the operating system's source takes longer than the rest of a request


def new_id() -> str:
    """Return a random UUID, as for a run or a block."""
    return str(uuid.UUID(int=_random.getrandbits(128), version=4))


def new_name(digits: int) -> str:
    """Return a random hexadecimal number."""
    return f"{_random.getrandbits(4 * digits):0{digits}x}"
