"""What this process knows about Sim servers."""

from __future__ import annotations

import functools
import time

RECHECK_AFTER = 300.0  # seconds until a missing feature is tried again: the server may have been upgraded


class Feature:
    """Whether a server has a feature."""

    _present: bool | None = None
    _missing_since: float = 0.0
    _pages: int = 0

    @property
    def present(self) -> bool | None:
        """Whether the server has it; None while unknown, and when a missing feature is to be tried again."""
        if self._present is False and time.monotonic() > self._missing_since + RECHECK_AFTER:
            return None
        return self._present

    def found(self) -> None:
        self._present, self._pages = True, 0

    def missing(self) -> None:
        self._present, self._missing_since, self._pages = False, time.monotonic(), 0

    def page_instead(self) -> None:
        """Record a 404 that isn't Sim's own: from a server too old for the feature or, rarely, from a proxy."""
        self._pages += 1
        if self._pages >= 2:
            self.missing()


class ServerFacts:
    """What this process knows about a server, for one key (Sim switches v2 on per user)."""

    def __init__(self) -> None:
        self.v2 = Feature()
        self.executions = Feature()  # the status route for runs (v0.6.81 and later)
        self.accepts_run_ids: bool | None = None  # by the legacy API (v0.7.32 and later); None until known


@functools.lru_cache(maxsize=256)
def facts_about(account: str) -> ServerFacts:
    """Return what is known about a server for a key, by ``rate_limited_as`` of the settings of its clients."""
    return ServerFacts()
