"""Which tasks can end in the triggerer; light enough for DAG parsing."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator


def can_end_in_trigger(task: Any) -> bool:
    """Whether a task's trigger is to end it when the run has completed."""
    return task.end_from_trigger and not needs_worker(task)


def needs_worker(task: Any) -> str | None:
    """Return which features of the task only a worker supports, if any.

    When a trigger ends a task, Airflow (3.3) sets the state and does nothing else: no asset events, no callbacks, no
    hooks, no XComs except those that the trigger pushes, no length for tasks that are mapped over the output.
    """
    only_on_workers: dict[str, Any] = {
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


def log_end_on_worker(task: Any) -> None:
    """Log why a worker ends a task that has ``end_from_trigger``, if the task itself is the reason."""
    if task.end_from_trigger and (why := needs_worker(task)):
        task.log.info("end_from_trigger has no effect, because only a worker supports: %s.", why)


def _overrides(task: Any, hook: str) -> bool:
    """Whether the task has such a hook, as an argument or as a method of its class."""
    return bool(getattr(task, f"_{hook}_hook", None)) or getattr(type(task), hook) is not getattr(BaseOperator, hook)
