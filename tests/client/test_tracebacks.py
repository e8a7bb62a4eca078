"""Tracebacks of failed starts are short, and in calling order."""

from __future__ import annotations

import asyncio
import json
import traceback
from pathlib import Path

import pytest

import airflow_provider_sim
from airflow_provider_sim.client import AsyncSimClient, SimClient
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from tests.canned_server import Answer, canned, closed_port

PACKAGE = Path(airflow_provider_sim.__file__).parent
MAX_FRAMES = 8
FAILURES = {
    "v2": ("v2", Answer(404, {"error": {"code": "NOT_FOUND", "message": "Workflow not found"}})),
    "legacy": ("legacy", Answer(404, {"error": "Workflow not found"})),
    "unreachable": ("v2", None),
}


def frames(error: BaseException) -> list[str]:
    """The package's functions in an error's traceback, the outermost first."""
    return [
        f"{Path(frame.filename).relative_to(PACKAGE).with_suffix('')}:{frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(PACKAGE)
    ]


@pytest.fixture(params=FAILURES)
def failing(request):
    """URL and API version of a server that fails a start."""
    api_version, answer = FAILURES[request.param]
    if answer is None:
        yield f"http://127.0.0.1:{closed_port()}", api_version
        return
    with canned(answer) as server:
        yield server.url, api_version


FLOW = ["client/start:execute_workflow", "client/start:start_workflow_run"]


def test_sync_client_traceback_is_short(failing):
    url, api_version = failing
    with SimClient("key", url, api_version=api_version) as client, pytest.raises(SimError) as caught:
        client.execute_workflow("w")
    assert frames(caught.value) == ["client/methods:method", "client/methods:perform", *FLOW]


def test_async_client_traceback_is_short(failing):
    url, api_version = failing

    async def execute() -> None:
        async with AsyncSimClient("key", url, api_version=api_version) as client:
            await client.execute_workflow("w")

    with pytest.raises(SimError) as caught:
        asyncio.run(execute())
    assert frames(caught.value) == FLOW


def test_operator_traceback_is_short(failing, monkeypatch):
    url, api_version = failing
    extra = json.dumps({"api_version": api_version, "max_retries": 0})
    connection = {"conn_type": "sim", "host": url, "password": "key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", json.dumps(connection))
    task = SimExecuteWorkflowOperator(task_id="t", workflow_id="w", durable=False, do_xcom_push=False)
    with pytest.raises(SimError) as caught:
        task.execute({"ti": None})
    names = frames(caught.value)
    assert len(names) <= MAX_FRAMES
    assert names[0] == "operators/sim:execute"
    assert names[-2:] == ["client/methods:perform", "client/start:start_workflow_run"]
