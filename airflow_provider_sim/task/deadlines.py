"""Deadlines and deferral timeouts; light enough for DAG parsing."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

DEFERRAL_MARGIN = timedelta(minutes=5)  # after a trigger's own deadline, if no triggerer was running at that time


def deferral_timeout(deadline: float | None) -> timedelta | None:
    """Return the timeout of a deferral whose trigger has a deadline, in seconds since the epoch."""
    return None if deadline is None else timedelta(seconds=max(0.0, deadline - time.time())) + DEFERRAL_MARGIN


def after_deferral(next_method: str, next_kwargs: dict[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
    """Return the method that resumes a task: ``execute_timeout`` if the deferral itself has timed out."""
    timed_out = next_method == "__fail__" and (next_kwargs or {}).get("error") == "Trigger timeout"
    return ("execute_timeout", {}) if timed_out else (next_method, next_kwargs)


def task_started_at(task_instance: Any) -> float:
    """Return when a try started, in seconds since the epoch; now if Airflow doesn't report it."""
    start: datetime | None = getattr(task_instance, "start_date", None)
    return start.timestamp() if start else time.time()


def deadline(
    context: Context, timeout: float | timedelta | None, execution_timeout: timedelta | None, *, otherwise: float
) -> float:
    """Return the seconds since the epoch at which a try stops waiting.

    That is ``timeout`` (or ``otherwise``, seconds) from now, or ``execution_timeout`` from the try's start if that is
    earlier: Airflow itself applies ``execution_timeout`` to each process of a deferred task separately.
    """
    moments = [time.time() + seconds(otherwise if timeout is None else timeout)]
    if execution_timeout is not None:
        moments.append(task_started_at(context["ti"]) + seconds(execution_timeout))
    return min(moments)


def seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else value
