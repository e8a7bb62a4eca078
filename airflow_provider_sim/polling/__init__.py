"""Waiting for runs, for whoever has to: workers that hold on, sensors that look now and then, triggers.

What a look at a run means is decided in one place, :class:`PollState`. A worker looks by itself (:func:`wait_for_run`);
all triggers of a process share one :class:`~.watcher.Watcher` for each connection.
"""

from __future__ import annotations

from airflow_provider_sim.polling.poll_state import (
    DEFAULT_POLL_INTERVAL,
    MAX_FAILED_POLLS,
    NOT_FOUND_GRACE,
    PollState,
    await_run,
    timeout_error,
    wait_for_run,
)

__all__ = [
    "DEFAULT_POLL_INTERVAL",
    "MAX_FAILED_POLLS",
    "NOT_FOUND_GRACE",
    "PollState",
    "await_run",
    "timeout_error",
    "wait_for_run",
]
