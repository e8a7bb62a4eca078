"""Which tasks can end in the triggerer, and what their trigger needs for that; light enough for DAG parsing."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator


def trigger_arguments(task: Any) -> dict[str, Any]:
    """Return the arguments of ``SimRunTrigger`` with which it ends the task; none where a worker ends it.

    :param task: an operator or sensor that has ``end_from_trigger``.
    """
    if not task.end_from_trigger or needs_worker(task):
        return {}
    folder, selected = task.output_files_dir, task.selected_outputs
    return {
        "end_from_trigger": True,
        "selected_outputs": list(selected) if isinstance(selected, tuple | set | frozenset) else selected,
        "output_files_dir": None if folder is None else str(folder),
        "max_output_bytes": task.max_output_bytes,
        "large_outputs": task.large_outputs,
        "do_xcom_push": task.do_xcom_push,
    }


def needs_worker(task: Any) -> str | None:
    """Return what the task has that only a worker takes care of, if anything.

    When a trigger ends a task, Airflow (3.3) sets the state and does nothing else: no asset events, no callbacks, no
    hooks, no XComs but those that the trigger pushes, no length for tasks that are mapped over the output.
    """
    only_on_workers: dict[str, Any] = {
        "outlets": task.outlets,
        "multiple_outputs": getattr(task, "multiple_outputs", False),
        "on_success_callback": task.on_success_callback,
        "post_execute": _overrides(task, "post_execute"),
        "the DAG's result": getattr(task, "returns_dag_result", False),
    }
    if getattr(task, "start_from_trigger", False):  # is asked while the DAG is still being built
        only_on_workers["on_execute_callback"] = task.on_execute_callback
        only_on_workers["pre_execute"] = _overrides(task, "pre_execute")
    elif task.has_dag():
        only_on_workers["tasks mapped over the output"] = next(task.iter_mapped_dependants(), None)
    return ", ".join(name for name, given in only_on_workers.items() if given) or None


def log_end_on_worker(task: Any) -> None:
    """Log why a worker ends a task that has ``end_from_trigger``, if it is because of the task itself."""
    if task.end_from_trigger and (why := needs_worker(task)):
        task.log.info("end_from_trigger has no effect, because a worker takes care of: %s.", why)


def _overrides(task: Any, hook: str) -> bool:
    """Whether the task has such a hook, as an argument or as a method of its class."""
    return bool(getattr(task, f"_{hook}_hook", None)) or getattr(type(task), hook) is not getattr(BaseOperator, hook)
