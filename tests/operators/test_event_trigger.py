"""SimRunEventTrigger as every Airflow has it; what Airflow 3.3 adds is in test_run_events."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from airflow_provider_sim.exceptions import SimInputError
from tests.operators.ended_runs import start, trigger, until
from tests.versions import AIRFLOW, needs_airflow

pytestmark = pytest.mark.usefixtures("connection")
watchers = needs_airflow("3.0", "asset watchers")


@watchers
def test_trigger_without_shared_streams_delivers_runs(client, emulator, monkeypatch):
    """As before Airflow 3.3."""
    monkeypatch.setattr("airflow_provider_sim.polling.finished_runs.EVENT_GAP", 0.1)

    def has_begun():
        return sum("/logs" in seen.path for seen in emulator.requests) > 1

    async def main():
        alone = trigger()
        events = alone.run()
        first = asyncio.create_task(anext(events))
        await until(has_begun)
        run_id = await asyncio.to_thread(start, client, message="x")
        event = await asyncio.wait_for(first, 20)
        await events.aclose()
        return run_id, event.payload

    run_id, payload = asyncio.run(main())
    assert [run["run_id"] for run in payload["runs"]] == [run_id]


@watchers
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workflow_ids": []}, "workflow_ids"),
        ({"workflow_ids": [""]}, "workflow_id"),
        ({"workflow_ids": ["other "]}, "workflow_id"),
        ({"workflow_ids": ["w", "other\n"]}, "workflow_id"),
        ({"workflow_ids": [7]}, "workflow_id"),
        ({"workflow_ids": "a,b"}, "workflow_id"),
        ({"workflow_ids": "https://www.sim.ai/workspace/1/w/other"}, "use only the last part of the address: 'other'"),
        ({"statuses": ["paused"]}, "statuses"),
        ({"statuses": []}, "statuses"),
        ({"triggers": []}, "triggers"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"poll_interval": float("inf")}, "poll_interval"),
    ],
)
def test_invalid_arguments_are_rejected_at_parse_time(arguments, words):
    with pytest.raises(SimInputError, match=words):
        trigger(**arguments)


@watchers
def test_trigger_survives_serialization():
    given = trigger(workflow_ids="w", statuses="failed", triggers="api", sim_conn_id="s")
    path, arguments = given.serialize()
    assert path == "airflow_provider_sim.triggers.events.SimRunEventTrigger"
    assert type(given)(**arguments).serialize() == (path, arguments)
    assert arguments["workflow_ids"] == ["w"]


@pytest.mark.skipif(AIRFLOW.major > 2, reason="Airflow 3 has asset watchers")
def test_airflow_2_has_no_event_triggers():
    with pytest.raises(ImportError, match="BaseEventTrigger"):
        importlib.import_module("airflow_provider_sim.triggers.events")
