"""The exact requests of one run in each mode, so that none is added unnoticed."""

from __future__ import annotations

import re

import pytest

from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor

KINDS = {
    "start": r"POST .*/execute",
    "workflow": r"GET /api/v2/workflows/[^/]+$",
    "poll": r"GET .*/runs/[^/]+$",
    "output": r"GET /api/jobs/",
    "upload": r"POST /api/v2/files$",
    "find uploads": r"GET /api/v2/files\?",
    "delete upload": r"DELETE /api/v2/files/",
    "start session": r"POST /api/v2/files/uploads$",
    "transfer": r"PUT ",
    "complete": r"POST /api/v2/files/uploads/[^/]+/complete",
}
START, WORKFLOW, POLL, OUTPUT, UPLOAD, FIND, DELETE, *SESSION = KINDS


@pytest.fixture
def brief(emulator, connection):
    """A workflow whose runs finish before the first poll, and a connection with its workspace."""
    connection(extra={"workspace_id": emulator.workspace_id})
    emulator.workflow("brief", duration=0.2)(lambda given: {"ok": True})


def sent(emulator) -> list[str]:
    """The kinds of the requests, in order."""
    lines = [f"{request.method} {request.path}" for request in emulator.requests]
    return [next((kind for kind, pattern in KINDS.items() if re.match(pattern, line)), line) for line in lines]


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [START], id="sync"),
        pytest.param({"stream": True}, [START], id="streamed"),
        pytest.param({"wait_for_completion": False}, [START], id="not waiting"),
        pytest.param({"async_execution": True}, [START, POLL, OUTPUT], id="asynchronous"),
        pytest.param({"deferrable": True}, [START, POLL, OUTPUT], id="deferrable"),
    ],
)
def test_operator_sends_the_expected_requests_in_each_mode(run_task, emulator, options, expected):
    task = {"task_id": "t", "workflow_id": "brief", "input": {}, "poll_interval": 0.4, **options}
    run_task(SimExecuteWorkflowOperator(check_input="off", **task))
    assert sent(emulator) == expected


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("options", "files", "expected"),
    [
        pytest.param({}, [b"a", b"b"], [START], id="sync, small"),
        pytest.param({}, [bytes(8 * 2**20)], [UPLOAD, START, DELETE], id="sync, large"),
        pytest.param({"stream": True}, [bytes(8 * 2**20)], [UPLOAD, START, DELETE], id="streamed, large"),
        pytest.param(
            {"wait_for_completion": False, "keep_uploads": True}, [b"a"], [UPLOAD, START], id="not waiting, kept"
        ),
        pytest.param(
            {"async_execution": True},
            [b"a", b"b"],
            [UPLOAD, UPLOAD, START, POLL, OUTPUT, DELETE, DELETE],
            id="asynchronous",
        ),
        pytest.param({"deferrable": True}, [b"a"], [UPLOAD, START, POLL, OUTPUT, DELETE], id="deferrable"),
        pytest.param(
            {"deferrable": True}, [bytes(51 * 2**20)], [*SESSION, START, POLL, OUTPUT, DELETE], id="deferrable, session"
        ),
    ],
)
def test_operator_sends_the_expected_requests_for_files(run_task, emulator, options, files, expected):
    task = {"task_id": "t", "workflow_id": "brief", "input": {"files": files}, "poll_interval": 0.4, **options}
    run_task(SimExecuteWorkflowOperator(check_input="off", **task))
    assert sent(emulator) == expected


@pytest.mark.usefixtures("brief")
def test_check_input_costs_one_request(run_task, emulator):
    run_task(SimExecuteWorkflowOperator(task_id="t", workflow_id="brief", input={}))
    assert sent(emulator) == [WORKFLOW, START]


def test_links_need_no_request_after_the_check(run_task, emulator, connection):
    connection()
    run_task(SimExecuteWorkflowOperator(task_id="t", workflow_id="echo_plain", input={"message": "hi"}))
    assert sent(emulator) == [WORKFLOW, START]


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [START, POLL, POLL, OUTPUT], id="poked"),
        pytest.param({"deferrable": True}, [START, POLL, POLL, OUTPUT], id="deferrable"),
    ],
)
def test_sensor_sends_the_expected_requests(run_task, emulator, options, expected):
    """The sensor polls at once, since the run may have finished long ago."""
    start = SimExecuteWorkflowOperator(
        task_id="start", workflow_id="brief", input={}, wait_for_completion=False, check_input="off"
    )
    run_id = run_task(start)
    run_task(SimJobSensor(task_id="wait", workflow_id="brief", run_id=run_id, poke_interval=0.4, **options))
    assert sent(emulator) == expected
