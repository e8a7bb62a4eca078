"""Differences between Airflow versions that ``airflow.providers.common.compat`` doesn't cover."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow import __version__ as airflow_version
from packaging.version import Version

_VERSION = Version(Version(airflow_version).base_version)
AIRFLOW_V_3_0_PLUS = Version("3.0") <= _VERSION
AIRFLOW_V_3_2_PLUS = Version("3.2") <= _VERSION
AIRFLOW_V_3_3_PLUS = Version("3.3") <= _VERSION
TRIGGERS_REPLACE_WORKERS = AIRFLOW_V_3_3_PLUS  # they render the arguments of tasks that start there, and push XComs
NULL_XCOMS = _VERSION.release[:2] != (3, 0)  # Airflow 3.0's API rejects them with a validation error
TRIGGERS_GET_ON_KILL = AIRFLOW_V_3_3_PLUS  # when a user has cleared or marked the task


def airflow_stats() -> Any:
    if AIRFLOW_V_3_2_PLUS:
        import airflow.sdk.serde  # noqa: F401  configures Stats, which the triggerer of 3.2 doesn't
    from airflow.providers.common.compat.sdk import Stats

    return Stats


def resumed_context() -> Any:
    """Return the context of a task that Airflow 2 is resuming after a deferral; None otherwise."""
    from airflow.providers.common.compat.sdk import get_current_context

    try:
        context: Any = get_current_context()
    except Exception:  # its class depends on the version
        return None
    return context if getattr(context["ti"], "next_method", None) else None


def first_reschedule_date(context: Any) -> datetime | None:
    """Return when a rescheduled sensor started first, which Airflow 2 keeps on the task instance; None if now."""
    ask = getattr(context["ti"], "get_first_reschedule_date", None)
    return ask(context) if ask else getattr(context["ti"], "start_date", None)


def names_of(task_instance: Any) -> dict[str, Any]:
    """Return what identifies a task instance, as plain JSON."""
    names = {name: getattr(task_instance, name) for name in ("dag_id", "task_id", "run_id", "map_index")}
    return {**names, "map_index": -1 if names["map_index"] is None else names["map_index"]}


async def is_deferred(task_instance: Any) -> bool:
    """Whether a trigger's task is still deferred, checked when the trigger is cancelled.

    Before Airflow 3.3 that tells a triggerer that stops or reassigns its triggers from a user who clears the task.
    """
    return str(await asyncio.to_thread(_state_of, task_instance)).rpartition(".")[2].lower() == "deferred"


def _state_of(task_instance: Any) -> Any:
    if not AIRFLOW_V_3_0_PLUS:
        return task_instance.current_state()
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    dag_id, task_id, run_id, map_index = names_of(task_instance).values()
    tasks = {"dag_id": dag_id, "task_ids": [task_id], "run_ids": [run_id], "map_index": map_index}
    return RuntimeTaskInstance.get_task_states(**tasks).get(run_id, {}).get(task_id)


async def push_xcoms(task_instance: Any, xcoms: Mapping[str, Any]) -> None:
    """Push XComs of a trigger's task as a worker would; Airflow 3.3.2 stores those of its end events as JSON text."""
    from airflow.sdk.execution_time.xcom import XCom

    names = names_of(task_instance)
    for key, value in xcoms.items():
        await asyncio.to_thread(XCom.set, key=key, value=value, **names)


def stores_xcoms_itself() -> bool:
    """Whether Airflow stores XComs in its database, not by the backend of a deployment, which may encrypt them."""
    from airflow.providers.common.compat.sdk import conf

    return str(conf.get("core", "xcom_backend", fallback=".BaseXCom")).endswith(".BaseXCom")


def read_xcom(names: Mapping[str, Any], key: str) -> Any:
    """Read an XCom of the task instance with these names, also in the triggerer; blocks."""
    from airflow.providers.common.compat.sdk import XCom

    try:
        return XCom.get_one(key=key, **names)
    except ImportError:  # Airflow 3.0 runs the triggers of dag.test() without a supervisor
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            return XCom.deserialize_value(session.query(XComModel).filter_by(key=key, **names).one())
