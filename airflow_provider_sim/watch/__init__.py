"""Waiting for runs, for whoever has to: workers that hold on, sensors that look now and then, triggers.

What a look at a run means is decided in one place, :class:`RunWatch`. A worker looks by itself (:func:`wait_for_run`);
all triggers of a process share one :class:`~.watcher.Watcher` for each connection.
"""

from __future__ import annotations

from airflow_provider_sim.watch.run import (
    DEFAULT_POLL_INTERVAL,
    MAX_FAILED_LOOKS,
    NOT_FOUND_GRACE,
    RunWatch,
    await_run,
    not_over_in_time,
    wait_for_run,
)

__all__ = [
    "DEFAULT_POLL_INTERVAL",
    "MAX_FAILED_LOOKS",
    "NOT_FOUND_GRACE",
    "RunWatch",
    "await_run",
    "not_over_in_time",
    "wait_for_run",
]
