"""Limits of what a client accepts; light enough for DAG parsing."""

from __future__ import annotations

from typing import Any

MAX_RUN_TIMEOUT = 604_800
"""Seconds; the longest limit that Sim accepts for a run."""

RETRY_MINIMUMS = {
    "max_retries": 0,
    "initial_delay": 0,
    "max_delay": 0,
    "backoff_multiplier": 1,
    "jitter": 0,
    "max_retry_after": 0,
    "max_elapsed": 0,
}
"""Least values of the numbers in a :class:`~airflow_provider_sim.client.retry.RetryPolicy`."""


def is_retry_setting(name: str, value: Any) -> bool:
    """Whether a value is a number of at least the setting's least value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= RETRY_MINIMUMS[name]
