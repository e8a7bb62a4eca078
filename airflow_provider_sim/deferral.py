"""What everything that defers has in common; light enough for DAG parsing."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.versions import deferral_timed_out

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    _Base = BaseOperator
else:
    _Base = object

BACKSTOP = timedelta(minutes=5)
"""After a trigger's own deadline, in case that no triggerer was there to keep it."""


class LooksALastTime(_Base):
    """A task that looks once more where Airflow itself has ended its deferral."""

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, also where Airflow itself has ended it."""
        if deferral_timed_out(next_method, next_kwargs):
            next_method, next_kwargs = "execute_out_of_time", {}
        return super().resume_execution(next_method, next_kwargs, context)

    def execute_out_of_time(self, context: Context) -> Any:
        """Look a last time, since no trigger did in time."""
        raise NotImplementedError


def began_at(task_instance: Any) -> float:
    """When a try has begun, in seconds since the epoch; where Airflow doesn't tell, now."""
    began: datetime | None = getattr(task_instance, "start_date", None)
    return began.timestamp() if began else time.time()


def seconds(value: float | timedelta) -> float:
    """A duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value
