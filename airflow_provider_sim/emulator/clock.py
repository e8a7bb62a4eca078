"""The emulator's time: the real one, plus what a test has moved it on by."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """Seconds since the epoch, as Sim would see them."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """The present moment."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move time on: runs end, buckets refill, queue entries age."""
        self._ahead += seconds


def moment(text: str) -> float:
    """The moment that an ISO 8601 text names."""
    return datetime.fromisoformat(text).timestamp()


def iso(moment: float | None) -> str | None:
    """A moment as Sim writes it: ISO 8601, UTC, milliseconds."""
    if moment is None:
        return None
    text = datetime.fromtimestamp(moment, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
