"""Tasks without a scheduler: a context that takes XComs, and a triggerer of a few lines."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.module_loading import import_string
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.polling.poll_state import _latest_durations
from airflow_provider_sim.triggers import batch as batch_triggers

WAITING = {
    "held open": {},
    "asynchronous": {"async_execution": True},
    "deferrable": {"deferrable": True},
    "streamed": {"stream": True},
}
"""The ways to wait for a run, as arguments of the operator."""


class TaskInstance:
    """One try of a task instance; keeps the XComs that it pushes, in their order."""

    def __init__(self, try_number: int = 1, max_tries: int = 2) -> None:
        self.dag_id, self.run_id, self.task_id, self.map_index = "a_dag", "manual__2026-01-01", "t", -1
        self.try_number, self.max_tries = try_number, max_tries
        self.start_date = datetime.now(tz=UTC)
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        json.dumps(value)  # what an XCom backend does first
        self.xcoms[key] = value

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)


class TaskState(dict[str, Any]):
    """Airflow 3.3's task state store, as a task sees it."""

    def set(self, key: str, value: Any) -> None:
        self[key] = json.loads(json.dumps(value))


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": TaskInstance(), "dag_run": SimpleNamespace(clear_number=0), "task_state_store": TaskState()}


@pytest.fixture
def xcoms(context, monkeypatch):
    """Let a batch's trigger read the task's XComs."""

    def of(names: dict[str, Any]) -> dict[str, Any]:
        ti = context["ti"]
        assert names == {name: getattr(ti, name) for name in ("dag_id", "task_id", "run_id", "map_index")}
        return ti.xcoms

    monkeypatch.setattr(batch_triggers, "read_xcom", lambda names, key: of(names).get(key))


@pytest.fixture(autouse=True)
def _no_known_durations():
    """Forget the runs of other tests."""
    _latest_durations.cache_clear()


@pytest.fixture
def connection(emulator, monkeypatch):
    """The connection ``sim_default`` to the emulator; call it to change it."""

    def connect(**fields: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", emulator.connection(**fields))

    return connect


@pytest.fixture(params=WAITING, ids=[mode.replace(" ", "-") for mode in WAITING])
def mode(request) -> dict[str, Any]:
    """Each way to wait, as arguments of the operator."""
    return WAITING[request.param]


@pytest.fixture
def run_task(context, monkeypatch):
    """Execute a task to its end, through the triggerer where it defers; return its result and its events."""
    monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.01)

    def run(task: Any) -> Any:
        try:
            return task.execute(context)
        except TaskDeferred as deferral:
            event = fire(deferral.trigger)
            context["deferral"], context["event"] = deferral, event
            return getattr(task, deferral.method_name)(context, event=event)

    return run


@pytest.fixture
def client(emulator):
    with SimClient(emulator.api_key, base_url=emulator.url) as client:
        yield client


def rebuilt(trigger: Any, ti: TaskInstance | None = None) -> Any:
    """A trigger as it is in another process: made anew from its serialised form."""
    path, arguments = trigger.serialize()
    another = import_string(path)(**json.loads(json.dumps(arguments)))
    assert another.serialize() == (path, arguments)
    another.task_instance = ti
    return another


def fire(trigger: Any, ti: TaskInstance | None = None) -> dict[str, Any]:
    """Run a trigger as another process does, to its one event."""
    another = rebuilt(trigger, ti)

    async def events() -> list[Any]:
        return [event async for event in another.run()]

    [event] = asyncio.run(events())
    json.dumps(event.payload)
    return event.payload
