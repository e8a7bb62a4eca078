"""A callback that starts a workflow and never raises."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.notifications.sim import MAX_EXCEPTION_LENGTH, SimNotifier
from tests.versions import needs_airflow

awaitable = needs_airflow("3.1", "callbacks on an event loop, and for deadlines: without a DAG")


@pytest.fixture
def context():
    """What Airflow tells a task's callback."""
    return {
        "ti": SimpleNamespace(
            dag_id="loads",
            run_id="manual__1",
            task_id="load",
            map_index=-1,
            try_number=2,
            state="failed",
            log_url="http://log",
        ),
        "dag": DAG("loads", schedule=None),
        "run_id": "manual__1",
        "exception": ValueError("no such column"),
    }


@pytest.fixture
def agent(emulator):
    """The workflow that looks at failures; the inputs that it was given."""
    emulator.workflow("agent")(lambda given: {"advice": "look at the column"})
    return lambda: emulator.inputs_of("agent")


TOLD = {
    "dag_id": "loads",
    "dag_run_id": "manual__1",
    "task_id": "load",
    "map_index": -1,
    "try_number": 2,
    "state": "failed",
    "exception": "ValueError: no such column",
    "log_url": "http://log",
    "reason": None,
}


def test_input_describes_the_task(agent, emulator, context):
    SimNotifier(workflow_id="agent")(context)
    assert agent() == [TOLD]
    assert [run.mode for run in emulator.runs] == ["async"]


@awaitable
def test_notifier_can_be_awaited(agent, context):
    async def main() -> None:
        await SimNotifier(workflow_id="agent", context=context)

    asyncio.run(main())
    assert agent() == [TOLD]


def test_fields_are_rendered_for_each_callback(agent, context):
    notifier = SimNotifier(
        workflow_id="{{ ti.log_url and 'agent' }}", input={"state": "{{ ti.task_id }} {{ exception }}"}
    )
    notifier(dict(context))
    context["ti"].task_id = "another"
    notifier(dict(context))
    assert [given["state"] for given in agent()] == ["load no such column", "another no such column"]


def test_dag_callback_sends_dag_run_and_reason(agent, context):
    SimNotifier(workflow_id="agent")({"dag": context["dag"], "run_id": "manual__1", "reason": "task_failure"})
    [told] = agent()
    assert {name: value for name, value in told.items() if value} == {
        "dag_id": "loads",
        "dag_run_id": "manual__1",
        "reason": "task_failure",
    }


def test_deadline_callback_sends_the_missed_deadline(agent):
    dag_run = {"dag_id": "loads", "dag_run_id": "manual__1", "state": "running"}
    SimNotifier(workflow_id="agent")(
        {"dag_run": dag_run, "deadline": {"id": "0", "deadline_time": "2026-11-27T06:00Z"}}
    )
    [given] = agent()
    assert {name: value for name, value in given.items() if value} == {
        **dag_run,
        "reason": "deadline missed: 2026-11-27T06:00Z",
    }


def test_long_exception_is_truncated(agent, context):
    SimNotifier(workflow_id="agent")({**context, "exception": "x" * 2 * MAX_EXCEPTION_LENGTH})
    [told] = agent()
    assert len(told["exception"]) == MAX_EXCEPTION_LENGTH


@awaitable
def test_empty_context_sends_empty_fields(agent):
    SimNotifier(workflow_id="agent")({})
    [told] = agent()
    assert not any(told.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workflow_id": "nowhere"}, "doesn't exist"),
        ({"workflow_id": "agent", "sim_conn_id": "nowhere"}, "Connection 'nowhere'"),
        ({"workflow_id": "{{ 1 / 0 }}"}, "division by zero"),
        ({"workflow_id": "agent", "input": {"a": {1, 2}}}, "JSON"),
    ],
)
@pytest.mark.parametrize("awaited", [False, pytest.param(True, marks=awaitable)])
def test_errors_are_logged_and_never_raised(agent, context, caplog, arguments, words, awaited):
    caplog.set_level(logging.WARNING)

    async def wait() -> None:
        await SimNotifier(**arguments, context=context)

    if awaited:
        asyncio.run(wait())
    else:
        SimNotifier(**arguments)(context)
    assert words in caplog.text
    assert agent() == []


@pytest.mark.parametrize("fault", ["server_error", "drop_after_accept"])
def test_workflow_starts_once_even_if_the_response_is_lost(agent, emulator, context, fault, monkeypatch):
    monkeypatch.setattr(SimClient, "_sleep", staticmethod(lambda _: None))
    with emulator.fault(fault, match="execute") as order:
        SimNotifier(workflow_id="agent")(context)
    assert (order.hits, len(agent())) == (1, 1)


def test_notifier_gives_up_at_its_timeout(agent, emulator, context, caplog):
    with emulator.hold("execute", times=None):
        SimNotifier(workflow_id="agent", timeout=0.05)(context)
    assert "was not started" in caplog.text
    assert agent() == []
