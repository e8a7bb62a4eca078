"""Deadlines and deferral, as operators and sensors share them; light enough for DAG parsing."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sim._compat import deferral_timed_out

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

DEFERRAL_MARGIN = timedelta(minutes=5)
"""After a trigger's own deadline, in case that no triggerer was there to keep it."""


def after_deferral(next_method: str, next_kwargs: dict[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
    """Return the method that resumes a task: ``execute_out_of_time`` where the deferral itself has timed out.

    (A function, as a base class before ``BaseOperator`` makes Airflow forget the defaults of mapped tasks.)
    """
    return ("execute_out_of_time", {}) if deferral_timed_out(next_method, next_kwargs) else (next_method, next_kwargs)


def task_started_at(task_instance: Any) -> float:
    """When a try has begun, in seconds since the epoch; where Airflow doesn't tell, now."""
    began: datetime | None = getattr(task_instance, "start_date", None)
    return began.timestamp() if began else time.time()


def deadline(
    context: Context, timeout: float | timedelta | None, execution_timeout: timedelta | None, *, otherwise: float
) -> float:
    """Return the seconds since the epoch at which a try stops waiting.

    That is its own ``timeout`` from now, or ``execution_timeout`` from the try's start if that is earlier: Airflow
    itself applies ``execution_timeout`` to each process of a deferred task anew.

    :param otherwise: seconds to wait where ``timeout`` is None.
    """
    moment = time.time() + seconds(otherwise if timeout is None else timeout)
    if execution_timeout is None:
        return moment
    return min(moment, task_started_at(context["ti"]) + execution_timeout.total_seconds())


def seconds(value: float | timedelta) -> float:
    """A duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value
