"""What everything that defers has in common; light enough for DAG parsing."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_sim.versions import deferral_timed_out

BACKSTOP = timedelta(minutes=5)
"""After a trigger's own deadline, in case that no triggerer was there to keep it."""


def after_deferral(next_method: str, next_kwargs: dict[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
    """What a task goes on with: ``execute_out_of_time``, for a last look, where Airflow has ended its deferral.

    (A function, as a base class before ``BaseOperator`` makes Airflow forget the defaults of mapped tasks.)
    """
    return ("execute_out_of_time", {}) if deferral_timed_out(next_method, next_kwargs) else (next_method, next_kwargs)


def began_at(task_instance: Any) -> float:
    """When a try has begun, in seconds since the epoch; where Airflow doesn't tell, now."""
    began: datetime | None = getattr(task_instance, "start_date", None)
    return began.timestamp() if began else time.time()


def seconds(value: float | timedelta) -> float:
    """A duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value
