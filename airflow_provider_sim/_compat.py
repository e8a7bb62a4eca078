"""What differs between Airflow's versions and isn't covered by ``airflow.providers.common.compat``."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from airflow import __version__ as airflow_version
from packaging.version import Version

log = logging.getLogger(__name__)

_VERSION = Version(Version(airflow_version).base_version)
AIRFLOW_V_3_0_PLUS = Version("3.0") <= _VERSION
AIRFLOW_V_3_1_PLUS = Version("3.1") <= _VERSION
AIRFLOW_V_3_2_PLUS = Version("3.2") <= _VERSION
AIRFLOW_V_3_3_PLUS = Version("3.3") <= _VERSION

TRIGGERS_HAVE_ON_KILL = AIRFLOW_V_3_3_PLUS
"""Whether Airflow notifies a trigger when a user has cleared or marked the task."""

TRIGGERS_RENDER_TEMPLATES = AIRFLOW_V_3_3_PLUS
"""Whether the triggerer renders the arguments of tasks that start there."""

TASKS_END_IN_TRIGGERERS = AIRFLOW_V_3_3_PLUS
"""Whether a trigger can push XComs, and so end a task."""

EVENT_TRIGGERS_SHARE_STREAMS = AIRFLOW_V_3_3_PLUS
"""Whether event triggers share a stream, stored events are confirmed, and assets have a state store."""

_PROCESS_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


def deferral_timed_out(next_method: str, next_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether Airflow resumes a task only to fail it, because its deferral's own timeout has passed."""
    return next_method == "__fail__" and (next_kwargs or {}).get("error") == "Trigger timeout"


def resumed_context() -> Any:
    """Return the context of a task that Airflow 2 is resuming after a deferral; None otherwise."""
    from airflow.providers.common.compat.sdk import get_current_context

    try:
        context: Any = get_current_context()
    except Exception:  # which one, depends on the version
        return None
    return context if getattr(context["ti"], "next_method", None) else None


def task_state_store(context: Any) -> Any:
    """Return the store that keeps a task's state across its tries (Airflow 3.3 and later); None otherwise."""
    return context.get("task_state_store")


def first_reschedule_date(context: Any) -> datetime | None:
    """Return when a rescheduled sensor started first; None if that is now.

    Airflow 2 keeps the start of the first process on the task instance itself.
    """
    ti = context["ti"]
    moment: datetime | None = (
        ti.get_first_reschedule_date(context) if AIRFLOW_V_3_0_PLUS else getattr(ti, "start_date", None)
    )
    return moment


@contextmanager
def with_stored_connections() -> Iterator[None]:
    """Find connections in Airflow's database, too, as Airflow's own commands do.

    Outside of tasks and servers, Airflow 3 asks the environment and secrets backends alone.
    """
    before = os.environ.get(_PROCESS_CONTEXT)
    os.environ[_PROCESS_CONTEXT] = "server"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PROCESS_CONTEXT]
        else:
            os.environ[_PROCESS_CONTEXT] = before


async def is_deferred(task_instance: Any) -> bool:
    """Whether a trigger's task still waits for it, asked for when the trigger is cancelled.

    Before Airflow 3.3 a cancelled trigger isn't told why: a triggerer that stops or hands its triggers on cancels them
    as well as a user does who clears the task; only then is the task no longer deferred.
    """
    return str(await asyncio.to_thread(_state_of, task_instance)).rpartition(".")[2].lower() == "deferred"


async def push_xcoms(task_instance: Any, xcoms: Mapping[str, Any]) -> None:
    """Push XComs of a trigger's task as a worker would (Airflow 3.3).

    ``TaskSuccessEvent`` could carry them, but Airflow 3.3.2 stores those as JSON text, and that is what a later task
    then pulls.
    """
    from airflow.sdk.execution_time.xcom import XCom

    names = names_of(task_instance)
    for key, value in xcoms.items():
        await asyncio.to_thread(XCom.set, key=key, value=value, **names)


def _state_of(task_instance: Any) -> Any:
    names = names_of(task_instance)
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:  # Airflow 2
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        with create_session() as session:
            return session.query(TaskInstance.state).filter_by(**names).scalar()
    states = RuntimeTaskInstance.get_task_states(
        dag_id=names["dag_id"],
        task_ids=[names["task_id"]],
        run_ids=[names["run_id"]],
        map_index=names["map_index"],
    )
    return states.get(names["run_id"], {}).get(names["task_id"])


def read_xcom(names: Mapping[str, Any], key: str) -> Any:
    """Read an XCom, also in the triggerer; blocks.

    :param names: of its task instance, as :func:`names_of` gives them.
    """
    from airflow.providers.common.compat.sdk import XCom

    try:
        return XCom.get_one(key=key, **names)
    except ImportError:  # Airflow 3.0 runs the triggers of dag.test() without a supervisor
        return _read_stored_xcom(names, key)


def _read_stored_xcom(names: Mapping[str, Any], key: str) -> Any:
    from airflow.models.xcom import XComModel
    from airflow.sdk.execution_time.xcom import XCom
    from airflow.utils.session import create_session

    with create_session() as session:
        get_many: Any = XComModel.get_many
        row = get_many(key=key, **_as_filters(names), session=session).first()
        return None if row is None else XCom.deserialize_value(row)


def delete_xcom(names: Mapping[str, Any], key: str) -> None:
    """Delete an XCom that is no longer needed; a failure is logged only. As :func:`read_xcom`."""
    try:
        _delete_xcom(names, key)
    except Exception as error:  # whatever Airflow or its XCom backend raises
        log.warning("The XCom %r was not deleted: %s: %s", key, type(error).__name__, error)


def _delete_xcom(names: Mapping[str, Any], key: str) -> None:
    from airflow.providers.common.compat.sdk import XCom

    if AIRFLOW_V_3_0_PLUS:
        XCom.delete(key=key, **names)
        return
    from airflow.utils.session import create_session

    with create_session() as session:
        XCom.delete(XCom.get_many(key=key, **_as_filters(names), session=session), session=session)


def _as_filters(names: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run_id": names["run_id"],
        "dag_ids": names["dag_id"],
        "task_ids": names["task_id"],
        "map_indexes": names["map_index"],
    }


def names_of(task_instance: Any) -> dict[str, Any]:
    """What Airflow tells task instances apart by, as plain JSON."""
    names = {name: getattr(task_instance, name) for name in ("dag_id", "task_id", "run_id", "map_index")}
    return {**names, "map_index": -1 if names["map_index"] is None else names["map_index"]}
