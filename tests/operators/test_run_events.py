"""SimRunEventTrigger with Airflow's shared streams, in a stand-in for the triggerer that can be killed.

What the triggerer has stored and what the trigger has saved outlive it; nothing else does. On a real Airflow:
``tests/airflow/test_ended_runs.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import threading

import pytest

from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.polling import finished_runs, rate_limits
from tests.operators.ended_runs import start, trigger, until

pytestmark = pytest.mark.usefixtures("connection")
structlog = pytest.importorskip("structlog", reason="Airflow 3.0 brought structlog")
shared_stream = pytest.importorskip("airflow.triggers.shared_stream", reason="Airflow 3.3 brought shared streams")

ASSET = "ended runs"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(finished_runs, "EVENT_GAP", 0.1)
    monkeypatch.setattr(finished_runs, "EVENT_DELAY", 0.0)


class Airflow:
    """What outlives a triggerer: the events of assets, and their states."""

    def __init__(self):
        self.stored = []
        self.state = {}

    def runs(self):
        return [run["run_id"] for payload in self.stored for run in payload["runs"]]

    def store(self, payload):
        self.stored.append(json.loads(json.dumps(payload)))


class Store:
    def __init__(self, state):
        self.state = state

    async def aget(self, key, default=None):
        return self.state.get(key, default)

    async def aset(self, key, value):
        await asyncio.sleep(0.01)
        self.state[key] = json.loads(json.dumps(value))


class Stores:
    def __init__(self, state):
        self._by_name = {ASSET: Store(state)}


class Triggerer:
    """Runs triggers as Airflow's does: their events are stored a while after they were made, and then confirmed.

    :param triggers: by the names of the Airflows that keep what they have told.
    """

    def __init__(self, triggers, *, delay=0.05):
        self.triggers = triggers
        self.delay = delay
        self.made = asyncio.Queue()
        self.tasks = []

    async def __aenter__(self):
        self.manager = shared_stream.SharedStreamManager(log=structlog.get_logger(), max_subscriber_queue=1024)
        self.tasks = [asyncio.create_task(self.persist())]
        for trigger_id, (given, airflow) in enumerate(self.triggers):
            _, arguments = given.serialize()
            trigger = type(given)(**json.loads(json.dumps(arguments)))
            trigger.asset_state_store = Stores(airflow.state)
            self.tasks.append(asyncio.create_task(self.run(trigger_id, trigger, airflow)))
        return self

    async def run(self, trigger_id, trigger, airflow):
        key = trigger.shared_stream_key()
        stream = self.manager.subscribe(trigger_id=trigger_id, trigger=trigger, key=key)
        async for event in trigger.filter_shared_stream(stream):
            seq = self.manager.bind_pending_event(trigger_id=trigger_id, key=key)
            self.made.put_nowait((airflow, event.payload, seq))

    async def persist(self):
        while True:
            airflow, payload, seq = await self.made.get()
            await asyncio.sleep(self.delay * random.random())
            airflow.store(payload)
            await asyncio.sleep(self.delay * random.random())
            self.manager.confirm_persisted([seq])

    async def __aexit__(self, *exc_info):
        """Die: nothing is stored or written down any more."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        with contextlib.suppress(BaseException):
            await self.manager.stop_all()
        rate_limits._shared.clear()


def begun(airflow):
    return until(lambda: bool(airflow.state))


async def looks(emulator, count=3):
    """Until Sim has been asked so often again for the runs that have started."""
    before = asked(emulator)
    await until(lambda: asked(emulator) >= before + count)


def asked(emulator):
    return sum("/logs" in seen.path for seen in emulator.requests)


def test_each_finished_run_is_delivered_with_its_status(client, emulator):
    airflow = Airflow()

    async def main():
        start(client, message="before")
        async with Triggerer([(trigger(workflow_ids=["echo_plain", "failing"]), airflow)]):
            await begun(airflow)
            first = await asyncio.to_thread(start, client, message="a")
            await until(lambda: first in airflow.runs())
            second = await asyncio.to_thread(start, client, "failing", message="b")
            await asyncio.to_thread(start, client, "echo", message="of another workflow")
            await until(lambda: second in airflow.runs())
            await looks(emulator)
        return first, second

    first, second = asyncio.run(main())
    assert airflow.runs() == [first, second]
    told, failed = (run for payload in airflow.stored for run in payload["runs"])
    assert (told["workflow_id"], told["status"], told["trigger"], told["cost_usd"]) == (
        "echo_plain",
        "completed",
        "api",
        0.005,
    )
    assert told["started_at"].endswith("Z")
    assert told["duration_ms"] >= 0
    assert failed["status"] == "failed"


def test_active_and_paused_runs_are_delivered_when_they_finish(client, emulator):
    airflow = Airflow()

    async def main():
        old = start(client, "slow", seconds=1.0)
        asked = start(client, "paused", message="x")
        async with Triggerer([(trigger(workflow_ids=["slow", "paused"]), airflow)]):
            await begun(airflow)
            await until(lambda: old in airflow.runs())
            assert asked not in airflow.runs(), "a pause is no end"
            emulator.resume(asked, {"approved": True})
            await until(lambda: asked in airflow.runs())

    asyncio.run(main())
    assert len(airflow.runs()) == 2


def test_statuses_and_triggers_filter_the_runs(client, emulator):
    everything, failures, schedules = Airflow(), Airflow(), Airflow()
    of_both = {"workflow_ids": ["echo_plain", "failing"]}

    async def main():
        triggers = [
            (trigger(**of_both), everything),
            (trigger(**of_both, statuses=["failed"]), failures),
            (trigger(**of_both, triggers=["schedule"]), schedules),
        ]
        async with Triggerer(triggers):
            for airflow in (everything, failures, schedules):
                await begun(airflow)
            for workflow_id in ("echo_plain", "failing"):
                await asyncio.to_thread(start, client, workflow_id, message="x")
            await until(lambda: len(everything.runs()) == 2 and len(failures.runs()) == 1)
            await looks(emulator)

    asyncio.run(main())
    assert (len(everything.runs()), len(failures.runs()), len(schedules.runs())) == (2, 1, 0)
    for airflow in (failures, schedules):
        [cursors] = airflow.state.values()
        assert all(None not in cursor["known"].values() for cursor in cursors.values()), (
            "what is not wanted is done with, too"
        )


def test_all_triggers_of_a_connection_share_their_requests(client, emulator):
    """Even with different poll intervals."""
    airflows = [Airflow() for _ in range(10)]

    async def main():
        triggers = [(trigger(poll_interval=0.5 + number % 3), airflow) for number, airflow in enumerate(airflows)]
        async with Triggerer(triggers):
            for airflow in airflows:
                await begun(airflow)
            before = asked(emulator)
            for _ in range(3):
                last = since()
                await until(lambda last=last: since() != last)
            looked = asked(emulator) - before
            run_id = await asyncio.to_thread(start, client, message="x")
            await until(lambda: all(run_id in airflow.runs() for airflow in airflows))
        return looked

    def since():
        """The cursor of one of them, which each poll advances."""
        [cursors] = airflows[0].state.values()
        return cursors["echo_plain"]["since"]

    assert asyncio.run(main()) <= 4, "one for all each time, and not one for each"
    assert all(len(airflow.runs()) == 1 for airflow in airflows)


def test_changed_connection_applies_from_the_next_poll(client, emulator, monkeypatch):
    """Triggers of other connections keep their server."""
    monkeypatch.setenv("AIRFLOW_CONN_SIM_TOO", emulator.connection())
    stays, goes = Airflow(), Airflow()

    async def main(other):
        async with Triggerer([(trigger(sim_conn_id="sim_too"), goes), (trigger(), stays)]):
            await asyncio.gather(begun(goes), begun(stays))
            monkeypatch.setenv("AIRFLOW_CONN_SIM_TOO", other.connection())
            await looks(other, 1)
            here = await asyncio.to_thread(start, client, message="here")
            with SimClient(other.api_key, base_url=other.url) as another:
                there = await asyncio.to_thread(start, another, message="there")
            await until(lambda: stays.stored and goes.stored)
        return here, there

    with SimEmulator() as other:
        other.workflow("echo_plain")(lambda given: given)
        here, there = asyncio.run(main(other))
    assert (stays.runs(), goes.runs()) == ([here], [there])


def test_runs_that_finish_without_a_triggerer_are_delivered_later(client, emulator):
    airflow = Airflow()

    async def main():
        async with Triggerer([(trigger(), airflow)]):
            await begun(airflow)
        missed = [start(client, message=str(number)) for number in range(5)]
        async with Triggerer([(trigger(), airflow)]):
            await until(lambda: len(airflow.runs()) >= 5)
            await looks(emulator)
        return missed

    assert sorted(asyncio.run(main())) == sorted(airflow.runs())


@pytest.mark.slow
def test_no_run_is_missed_over_twenty_kills(client, emulator):
    airflow = Airflow()
    emulator.workflow("brief", duration=lambda given: given.get("seconds", 0.0))(lambda given: {})
    runs = []
    done = threading.Event()

    def work():
        for number in range(200):
            runs.append(start(client, "brief", seconds=(number % 7) / 10))
            done.wait(0.03)

    async def main():
        async with Triggerer([(trigger(workflow_ids=["brief"]), airflow)]):
            await begun(airflow)
        worker = threading.Thread(target=work)
        worker.start()
        chance = random.Random(7)
        for _ in range(20):
            async with Triggerer([(trigger(workflow_ids=["brief"]), airflow)]):
                await asyncio.sleep(chance.uniform(0.1, 0.8))
        await asyncio.to_thread(worker.join)
        async with Triggerer([(trigger(workflow_ids=["brief"]), airflow)]):
            await until(lambda: set(airflow.runs()) >= set(runs), 60)
            await looks(emulator)

    asyncio.run(main())
    assert set(airflow.runs()) == set(runs)


def test_trigger_survives_failed_polls(client, emulator, caplog, connection):
    airflow = Airflow()
    caplog.set_level(logging.WARNING)

    async def main():
        async with Triggerer([(trigger(), airflow)]):
            await begun(airflow)
            with emulator.fault("server_error", match="logs", times=3) as order:
                await until(lambda: order.hits == 3)
            connection(password="sk-sim-wrong")
            await until(lambda: "doesn't accept the API key" in caplog.text)
            connection()
            run_id = await asyncio.to_thread(start, client, message="x")
            await until(lambda: run_id in airflow.runs(), 40)

    asyncio.run(main())
    assert "are not delivered until this is resolved" in caplog.text


def test_missing_workflow_does_not_stop_the_others(client, connection, caplog):
    connection(extra={"workspace_id": None})
    airflow = Airflow()

    async def main():
        async with Triggerer([(trigger(workflow_ids=["nowhere", "echo_plain"]), airflow)]):
            await begun(airflow)
            run_id = await asyncio.to_thread(start, client, message="x")
            await until(lambda: run_id in airflow.runs())

    asyncio.run(main())
    assert "Runs of workflow 'nowhere' are not delivered" in caplog.text


def test_each_connection_has_a_stream():
    async def stream_of(*names):
        triggers = [trigger(sim_conn_id=name) for name in names]
        keys = [one.shared_stream_key() for one in triggers]
        return len(set(keys)), len({one._stream for one in triggers})

    assert asyncio.run(stream_of("sim_default", "sim_too", "sim_too")) == (2, 2)


def test_triggers_of_one_asset_keep_their_cursors_apart():
    apart = [
        trigger(),
        trigger(workflow_ids=["echo"]),
        trigger(statuses=["failed"]),
        trigger(triggers=["api"]),
        trigger(sim_conn_id="another"),
    ]
    assert len({one.cursor_key for one in apart}) == len(apart)
    same = [trigger(workflow_ids=["a", "b"], poll_interval=1.0), trigger(workflow_ids=["b", "a"])]
    assert len({one.cursor_key for one in same}) == 1


def test_two_triggers_of_one_asset_deliver_all_runs(client, emulator):
    """Both cursors are in the same asset state."""
    airflow = Airflow()

    async def main():
        both = [(trigger(workflow_ids=["echo_plain"]), airflow), (trigger(workflow_ids=["failing"]), airflow)]
        async with Triggerer(both):
            await until(lambda: len(airflow.state) == 2)
        missed = [start(client, workflow_id, message="x") for workflow_id in ("echo_plain", "failing")]
        async with Triggerer(both):
            await until(lambda: len(airflow.runs()) >= 2)
            await looks(emulator)
        return missed

    assert sorted(asyncio.run(main())) == sorted(airflow.runs())
