"""Every cell of the table in ``docs/reference/task-outcomes.md``, in every mode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred
from airflow.triggers.base import TaskSuccessEvent
from packaging.version import Version

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.workflows import BlockError, Pausing
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.polling import poll_state
from airflow_provider_sim.sensors.sim import SimJobSensor
from airflow_provider_sim.triggers import sim as triggers
from tests.operators.conftest import WAITING, rebuilt
from tests.versions import AIRFLOW

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "task-outcomes.md").read_text()
_, _, *ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line.startswith("|")
]
TABLE = {what: dict(zip(("operator", "sensor", "batch", "run"), cells, strict=True)) for what, *cells in ROWS}

NOTHING = "\N{EN DASH}"
OUTPUT = {"said": "hi"}

DEFERRED = {"deferrable": True}
ENDED_THERE = {"ended in the triggerer": DEFERRED | {"end_from_trigger": True}} if Version("3.3") <= AIRFLOW else {}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "operator": WAITING | ENDED_THERE,
    "sensor": {"poked": {}, "rescheduled": {"mode": "reschedule"}, "deferred": DEFERRED} | ENDED_THERE,
    "batch": {"worker": {}, "triggerer": DEFERRED},
}
SIM_MAY_QUEUE_IT = ("asynchronous", "deferrable", *ENDED_THERE, *WAYS["sensor"], *WAYS["batch"])


@dataclass(frozen=True)
class Fate:
    """What becomes of a run, and of whoever waits for it.

    :param arrange: prepare the emulator for it.
    :param options: of the task.
    :param rendered: what templated arguments of the task render to.
    :param run_options: of the run that a sensor waits for.
    :param ways: the ways to wait in which it can be.
    """

    given: dict[str, Any] = field(default_factory=dict)
    arrange: Callable[[SimEmulator], Any] = lambda emulator: None
    options: dict[str, Any] = field(default_factory=dict)
    run_options: dict[str, Any] = field(default_factory=dict)
    rendered: dict[str, Any] = field(default_factory=dict)
    ways: tuple[str, ...] = ()


def somebody_answers(emulator):
    def answer(seen):
        for run in emulator.runs:
            if seen.method == "GET" and run.status == "paused":
                emulator.resume(run.run_id, {"approved": True})

    emulator.on_request(answer)


def somebody_cancels(emulator):
    emulator.on_start("any", lambda run: run.cancel())


def server_fails(emulator):
    emulator.fault("server_error", match="run", times=None, status=500)


def hours_go_by(emulator):
    emulator.on_request(lambda seen: emulator.clock.advance(3600) if seen.method == "GET" else None)


LONG, FOR_A_PERSON, FOR_AN_HOUR = {"seconds": 36_000}, {"waits": "for a person"}, {"waits": "for an hour"}
FATES = {
    "completes": Fate(),
    "fails": Fate({"fails": True}),
    "fails, with `soft_fail` or `never_fail`": Fate({"fails": True}, options={"soft_fail": True}),
    "is cancelled in Sim": Fate(LONG, somebody_cancels),
    "exceeds its `run_timeout`": Fate(
        LONG, hours_go_by, {"run_timeout": 60}, {"run_timeout": 60}, ways=SIM_MAY_QUEUE_IT
    ),
    'waits for a person, `on_paused="wait"`': Fate(FOR_A_PERSON, somebody_answers),
    'waits for a person, `on_paused="fail"`': Fate(FOR_A_PERSON, options={"on_paused": "fail"}),
    'waits for a person, `on_paused="return"`': Fate(FOR_A_PERSON, options={"on_paused": "return"}),
    "waits until a time that Sim knows": Fate(FOR_AN_HOUR, hours_go_by, {"on_paused": "fail"}),
    "is not finished at the task's `timeout`": Fate(LONG, options={"timeout": timedelta(seconds=0.2)}),
    "is not finished at the sensor's `timeout`": Fate(LONG, options={"timeout": 0.2}),
    "the same, with `cancel_on_timeout`": Fate(LONG, options={"timeout": 0.2, "cancel_on_timeout": True}),
    "the same, with `soft_fail`": Fate(LONG, options={"timeout": 0.2, "soft_fail": True}),
    "can't be polled: the server answers 500": Fate(LONG, server_fails),
    "is unknown to Sim": Fate(),
    "has no ID: `run_id` is `None` or empty": Fate(rendered={"run_id": "None"}),
}


def cells() -> Iterator[Any]:
    """Each cell that holds something, in each way to wait."""
    for what, row in TABLE.items():
        for who, ways in WAYS.items():
            for way in ways:
                if row[who] != NOTHING and way in (FATES[what].ways or ways):
                    yield pytest.param(what, who, way, id=f"{what}-{who}-{way}".replace("`", "").replace(" ", "_"))


@pytest.fixture
def make_task(emulator, client):
    """The task that waits for a run with this fate; for a sensor, the run is started."""

    def make(who, fate, options, known):
        common = {"task_id": "t", "workflow_id": "any", **options, **fate.options}
        if who == "sensor":
            common.pop("run_timeout", None)
            run_id = "of-nobody"
            if known:
                started = client.execute_workflow("any", fate.given, async_execution=True, **fate.run_options)
                run_id = started.run_id
            sensor = SimJobSensor(run_id="{{ run_id }}", poke_interval=0.02, **common)
            sensor.run_id = fate.rendered.get("run_id", run_id)
            return sensor
        if who == "batch":
            return SimExecuteWorkflowBatchOperator(inputs=[fate.given], poll_interval=0.02, **common)
        return SimExecuteWorkflowOperator(input=fate.given, poll_interval=0.02, **common)

    return make


@pytest.fixture
def play(context):
    """Execute a task to its end, on the worker and in the triggerer; return its output."""

    async def events(trigger):
        return [event async for event in rebuilt(trigger, context["ti"]).run()]

    def run(task):
        try:
            while True:
                with suppress(AirflowRescheduleException):
                    return task.execute(context)
        except TaskDeferred as deferral:
            [event] = asyncio.run(events(deferral.trigger))
            if isinstance(event, TaskSuccessEvent):
                return context["ti"].xcoms["return_value"]
            return task.resume_execution(deferral.method_name, {"event": event.payload}, context)

    return run


@pytest.fixture(autouse=True)
def _airflow_and_time(context, connection, xcoms, monkeypatch):
    """A triggerer that pushes the task's XComs, and nobody who waits before he looks again."""

    async def push(task_instance, xcoms):
        context["ti"].xcoms.update(xcoms)

    connection()
    started = context["ti"].start_date
    context["ti"].get_first_reschedule_date = lambda context: started
    monkeypatch.setattr(triggers, "push_xcoms", push)
    monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.01)
    monkeypatch.setattr(poll_state, "NOT_FOUND_GRACE", 0.0)
    monkeypatch.setattr(SimClient, "_sleep", staticmethod(lambda _: None))


@pytest.fixture(autouse=True)
def _workflow(emulator):
    @emulator.workflow("any", duration=lambda given: given.get("seconds", 0.0))
    def any_fate(given):
        if given.get("fails"):
            raise BlockError("no", block="Any")
        waits = {"for a person": Pausing(lambda answer: OUTPUT), "for an hour": Pausing(lambda answer: OUTPUT, 3600)}
        return waits.get(given.get("waits"), OUTPUT)


def words(who, came):
    """What came of a task, as the table says it."""
    if isinstance(came, Exception):
        return f"`{type(came).__name__}`"
    [result] = came if who == "batch" else [came]
    if result == OUTPUT:
        return "the outputs" if who == "batch" else "the output"
    assert (result["status"], set(result) >= {"context_id", "approval_url"}) == ("paused", True)
    return "a report"


@pytest.mark.parametrize(("what", "who", "way"), list(cells()))
def test_each_table_cell_matches_the_outcome(play, make_task, emulator, what, who, way):
    fate, row = FATES[what], TABLE[what]
    fate.arrange(emulator)
    task = make_task(who, fate, WAYS[who][way], known=row["run"] != NOTHING)
    try:
        came = play(task)
    except AirflowException as error:
        came = error
    assert words(who, came) == row[who]
    assert [run.status for run in emulator.runs] == [row["run"]] * (row["run"] != NOTHING)


def test_every_table_row_is_tested():
    assert list(TABLE) == list(FATES)
