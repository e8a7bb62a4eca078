"""Sensors that start in the triggerer (Airflow 3.3 and later)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sim._compat import TRIGGERS_RENDER_TEMPLATES
from airflow_provider_sim.task.deadlines import DEFERRAL_MARGIN
from airflow_provider_sim.task.run_options import RunOptions
from airflow_provider_sim.triggers.end_from_trigger import can_end_in_trigger

if TYPE_CHECKING:
    from airflow.triggers.base import StartTriggerArgs


def start_trigger_args(sensor: Any) -> StartTriggerArgs:
    """Return Airflow's description of the trigger in which a ``SimJobSensor`` starts.

    :raises ValueError: the sensor can't start in the triggerer; the message contains the reason.
    """
    from airflow.triggers.base import StartTriggerArgs

    if not TRIGGERS_RENDER_TEMPLATES:
        raise ValueError("start_from_trigger needs Airflow 3.3: earlier triggerers render no templates")
    ends_in_trigger = can_end_in_trigger(sensor)
    names = sensor.template_fields if ends_in_trigger else ("workflow_id", "run_id", "sim_conn_id")
    templated = {name: _for_triggerer(getattr(sensor, name)) for name in names}
    workflow_id, run_id = templated.pop("workflow_id"), templated.pop("run_id")
    limit = sensor.execution_timeout
    options = RunOptions.of(
        sensor,
        poll_interval=sensor.poke_interval,
        timeout_from_start=sensor.timeout if limit is None else min(sensor.timeout, limit.total_seconds()),
        end_from_trigger=ends_in_trigger,
        **{"selected_outputs": None, "output_files_dir": None, **templated},
    )
    return StartTriggerArgs(
        trigger_cls="airflow_provider_sim.triggers.sim.SimRunTrigger",
        trigger_kwargs={"workflow_id": workflow_id, "run_id": run_id, "options": options.to_dict()},
        next_method="execute_complete",
        timeout=timedelta(seconds=sensor.timeout) + DEFERRAL_MARGIN,
    )


def _for_triggerer(value: Any) -> Any:
    """Return an argument as the triggerer (Airflow 3.3) can render it.

    It can pull the XCom of one task instance, but not the list that a pull without ``map_indexes`` requests first: the
    trigger would never start. What it renders is text.

    :raises ValueError: it can't.
    """
    if isinstance(value, list | tuple):
        return [_for_triggerer(item) for item in value]
    if hasattr(value, "joinpath"):
        return str(value)
    operator, key = getattr(value, "operator", None), getattr(value, "key", None)
    if operator is not None and not getattr(operator, "is_mapped", False):
        if next(operator.iter_mapped_task_groups(), None) is None:
            return f"{{{{ ti.xcom_pull(task_ids={operator.task_id!r}, key={key!r}, map_indexes=-1) }}}}"
    elif isinstance(value, str | int | None) and not _pulls_list(value):
        return value
    raise ValueError(
        "start_from_trigger has no effect: Airflow's triggerer can't pull XComs of mapped tasks or lists, and others"
        f" only by templates with map_indexes=-1; an argument is {value!r}"
    )


def _pulls_list(value: object) -> bool:
    return isinstance(value, str) and "xcom_pull" in value and "map_indexes" not in value
