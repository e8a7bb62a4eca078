"""Metrics about runs and requests, sent by Airflow's ``Stats``; listed in ``docs/reference/metrics.md``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import Any

log = logging.getLogger(__name__)

SHORTEST_WAIT = 1.0  # seconds; a shorter wait is for the response that contains what is left of a limit
LONGEST_WAIT = 60.0  # seconds after which a wait is sent, and the rest of it counts as another one


class Metric(Enum):
    """Names of the metrics, to which Airflow adds its prefix."""

    RUN_STARTED = "sim.run.started"
    RUN_REATTACHED = "sim.run.reattached"
    RUN_FINISHED = "sim.run.finished"
    RUN_CANCELLED = "sim.run.cancelled"
    RUN_EVENT_DELAY = "sim.run.event_delay"
    POLL_REQUESTS = "sim.poll.requests"
    RATE_LIMIT_WAIT = "sim.rate_limit.wait"

    def incr(self, count: int = 1, **tags: str) -> None:
        """Increment a counter, and for a tag the one that ends with its value, because plain StatsD has no tags."""
        if count:
            _send("incr", self.value, count, tags=tags)
            for value in tags.values():
                _send("incr", f"{self.value}.{value}", count)

    def timing(self, seconds: float) -> None:
        _send("timing", self.value, timedelta(seconds=max(0.0, seconds)))


def _send(method: str, name: str, *args: Any, **more: Any) -> None:
    """Call a method of Airflow's ``Stats``; a failure never concerns the task."""
    try:
        from airflow_provider_sim._compat import airflow_stats

        getattr(airflow_stats(), method)(name, *args, **more)
    except Exception as error:  # whatever Airflow and its metrics client raise
        log.debug("The metric %s was not sent: %s: %s", name, type(error).__name__, error)


class WaitTimer:
    """Times a loop's waits for rate limits; ``clock`` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None

    def update(self, is_waiting: bool) -> None:
        """Start or end a wait; called in each pass of the loop."""
        now = self._clock()
        waited = 0.0 if self._since is None else now - self._since
        if self._since is None or not is_waiting or waited >= LONGEST_WAIT:
            self._since = now if is_waiting else None
            if waited >= SHORTEST_WAIT:
                Metric.RATE_LIMIT_WAIT.timing(waited)
