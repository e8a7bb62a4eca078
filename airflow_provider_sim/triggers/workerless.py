"""Tasks that start or end in the triggerer, without a worker (Airflow 3.3 and later); light enough for DAG parsing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sim._compat import TRIGGERS_REPLACE_WORKERS
from airflow_provider_sim.task.deadlines import DEFERRAL_MARGIN

if TYPE_CHECKING:
    from airflow.triggers.base import StartTriggerArgs


def can_end_in_trigger(task: Any) -> bool:
    """Whether a task's trigger is to end it when the run has completed."""
    return task.end_from_trigger and not needs_worker(task)


def needs_worker(task: Any) -> str | None:
    """Return which features of the task only a worker supports, if any: Airflow (3.3) only sets the task's state."""
    only_on_workers: dict[str, Any] = {
        "any task before Airflow 3.3": not TRIGGERS_REPLACE_WORKERS,
        "outlets": task.outlets,
        "multiple_outputs": getattr(task, "multiple_outputs", False),
        "on_success_callback": task.on_success_callback,
        "post_execute": _overrides(task, "post_execute"),
        "the DAG's result": getattr(task, "returns_dag_result", False),
    }
    if getattr(task, "start_from_trigger", False):  # the DAG is still being built
        only_on_workers["on_execute_callback"] = task.on_execute_callback
        only_on_workers["pre_execute"] = _overrides(task, "pre_execute")
    elif task.has_dag():
        only_on_workers["tasks mapped over the output"] = next(task.iter_mapped_dependants(), None)
    return ", ".join(name for name, given in only_on_workers.items() if given) or None


def _overrides(task: Any, hook: str) -> bool:
    """Whether the task has such a hook, as an argument or as a method of a user's class."""
    package = getattr(type(task), hook).__module__.partition(".")[0]
    return bool(getattr(task, f"_{hook}_hook", None)) or package not in ("airflow", "airflow_provider_sim")


def log_end_on_worker(task: Any) -> None:
    """Log why a worker ends a task that has ``end_from_trigger``, if the task itself is the reason."""
    if task.end_from_trigger and (why := needs_worker(task)):
        task.log.info("end_from_trigger has no effect, because only a worker supports: %s.", why)


def start_trigger_args(sensor: Any) -> StartTriggerArgs:
    """Return Airflow's description of the trigger in which a ``SimJobSensor`` starts.

    :raises ValueError: the sensor can't start in the triggerer; the message contains the reason.
    """
    from airflow.triggers.base import StartTriggerArgs

    from airflow_provider_sim.task.run_options import RunOptions

    if not TRIGGERS_REPLACE_WORKERS:
        raise ValueError("start_from_trigger needs Airflow 3.3: earlier triggerers render no templates")
    templated = {name: _for_triggerer(getattr(sensor, name)) for name in sensor.template_fields}
    ids = {name: templated.pop(name) for name in ("workflow_id", "run_id")}
    limit = sensor.execution_timeout
    options = RunOptions.of(
        sensor,
        timeout_from_start=sensor.timeout if limit is None else min(sensor.timeout, limit.total_seconds()),
        end_from_trigger=can_end_in_trigger(sensor),
        **templated,
    )
    return StartTriggerArgs(
        trigger_cls="airflow_provider_sim.triggers.sim.SimRunTrigger",
        trigger_kwargs={**ids, "options": options.to_dict()},
        next_method="execute_complete",
        timeout=timedelta(seconds=sensor.timeout) + DEFERRAL_MARGIN,
    )


def _for_triggerer(value: Any) -> Any:
    """Return an argument as the triggerer (Airflow 3.3) can render it; raise ``ValueError`` if it can't.

    It can't pull the list of XComs that a pull without ``map_indexes`` requests: the trigger would never start.
    """
    if isinstance(value, list | tuple):
        return [_for_triggerer(item) for item in value]
    if hasattr(value, "joinpath"):
        return str(value)
    operator = getattr(value, "operator", None)  # of an XCom
    if operator is not None:
        if not getattr(operator, "is_mapped", False) and next(operator.iter_mapped_task_groups(), None) is None:
            return f"{{{{ ti.xcom_pull(task_ids={operator.task_id!r}, key={value.key!r}, map_indexes=-1) }}}}"
    elif isinstance(value, str | int | None) and ("xcom_pull" not in str(value) or "map_indexes" in str(value)):
        return value
    raise ValueError(
        "start_from_trigger has no effect: Airflow's triggerer can't pull XComs of mapped tasks or lists, and others"
        f" only by templates with map_indexes=-1; an argument is {value!r}"
    )
