"""What a trigger needs to know of a task to end it without a worker; light enough for DAG parsing."""

from __future__ import annotations

from typing import Any

_ARGUMENTS = ("selected_outputs", "output_files_dir", "max_output_bytes", "large_outputs", "do_xcom_push")


def trigger_arguments(task: Any) -> dict[str, Any]:
    """Return those arguments of ``SimRunTrigger`` that say how to end the task; none where a worker is to end it.

    :param task: an operator or sensor that has ``end_from_trigger``.
    """
    if not task.end_from_trigger:
        return {}
    return {"end_from_trigger": True, **{name: getattr(task, name) for name in _ARGUMENTS}}
