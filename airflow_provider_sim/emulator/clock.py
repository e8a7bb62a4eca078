"""The emulator's clock: the real time plus the seconds by which a test has advanced it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """Seconds since the epoch."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Advance the time: runs finish, buckets refill, queue entries expire."""
        self._ahead += seconds


def moment(text: str) -> float:
    """Parse an ISO 8601 time."""
    return datetime.fromisoformat(text).timestamp()


def iso(moment: float | None) -> str | None:
    """Format a time as Sim does: ISO 8601, UTC, milliseconds."""
    if moment is None:
        return None
    text = datetime.fromtimestamp(moment, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
