"""Polling of runs, deployments and pauses.

A worker polls with :func:`wait_for_run`; all triggers of a triggerer share one :class:`~.poller.RunPoller` for each
connection. Both decide by :class:`~.poll_state.PollState`.
"""

from __future__ import annotations

from airflow_provider_sim.polling.poll_state import RunPollState, timeout_error, unreachable_error, wait_for_run

__all__ = ["RunPollState", "timeout_error", "unreachable_error", "wait_for_run"]
