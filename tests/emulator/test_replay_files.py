"""Every request to the files API recorded with a real Sim server, and those of runs with files, as in test_replay."""

from __future__ import annotations

import json
import re

import pytest
import requests

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.files import StoredFile
from airflow_provider_sim.emulator.workflows import Workflow
from tests.emulator.test_replay import check
from tests.recordings import WHERE_MISSING, Recording, file_recordings

RECORDED = {recording.name: recording for recording in file_recordings()}
WORKSPACE = "a0ba4b1e-129b-4f77-a947-0cd521eabfb6"
FOREIGN = "11111111-2222-4333-8444-555555555555"
WORKFLOW = "b3381b29-1dd4-4d55-8230-9b250c9d2fce"

pytestmark = pytest.mark.skipif(not RECORDED, reason=WHERE_MISSING)


def prepare(recording: Recording, sim: SimEmulator) -> None:
    """Bring the emulator into the state in which the real server was: two files, and the sessions of the path."""
    sim.state.limits.endpoint_per_minute, sim.state.limits.async_timeout = 30, 5400.0
    sim.state.limits.clear()
    echo = Workflow(WORKFLOW, lambda given: {"result": given["papers"], "stdout": ""}, inputs={"papers": "file[]"})
    sim.state.add(echo)
    listed, created = RECORDED["v2_files_list"].body["data"][0], RECORDED["v2_files_create"].body["data"]
    name = recording.name
    if not re.fullmatch("v2_files_create(_bad.*|_no.*|_workspace_key)?|v2_files_upload_session.*", name):
        for data in (listed, created):
            file = _add(sim, data["name"], data["size"], data["type"], file_id=data["id"], key=data["key"])
            file.path.write_bytes(b"hello")
            file.status = "completed"
            file.deleted_at = 0.0 if name == "v2_files_delete_again" else None
    if (session := re.search("uploads/([0-9a-f-]{36})", recording.path)) is not None:
        created = next(
            recorded.body["data"]["session"]
            for recorded in RECORDED.values()
            if recorded.name.startswith("v2_files_upload_session") and session[1] in str(recorded.body)
        )
        token = recording.sent_headers["upload-token"]
        file = _add(sim, created["name"], created["size"], created["contentType"], session_id=session[1], token=token)
        if recording.status == 200 and "complete" in name:
            file.path.write_bytes(bytes(file.size))
        file.status = "completed" if name.endswith("complete_again") else "uploading"
    if (run := re.search("(?:/runs/|workflow-execution:)([0-9a-f-]{36})", recording.path)) is not None:
        start = RECORDED["v2_execute_async_file_reference" + "_gone" * name.endswith("_gone")]
        started = requests.post(
            f"{sim.url}{start.path}",
            start.sent_body.replace(WORKSPACE.encode(), sim.workspace_id.encode()),
            headers={"X-API-Key": sim.api_key, "X-Run-Id": run[1]},
            timeout=5,
        )
        assert started.status_code == 202, started.text


def _add(sim: SimEmulator, name: str, size: int, kind: str, **values: str) -> StoredFile:
    where = {"workspace_id": sim.workspace_id, "folder_path": "/", "uploaded_at": sim.clock.now()}
    file = sim.state.files.add(name=name, size=size, content_type=kind, **where)
    for attribute, value in values.items():
        setattr(file, attribute, value.replace(WORKSPACE, sim.workspace_id))
    return file


def send(recording: Recording, sim: SimEmulator) -> requests.Response:
    def here(text: str) -> str:
        return text.replace(FOREIGN, "another").replace(WORKSPACE, sim.workspace_id)

    headers = dict(recording.sent_headers)
    if "x-api-key" in headers:
        keys = {"v2_files_create_bad_key": "wrong"} | dict.fromkeys(
            ("v2_files_create_workspace_key", "v2_files_list_workspace_key"), sim.workspace_key
        )
        headers["x-api-key"] = keys.get(recording.name, sim.api_key)
    body = None if recording.sent_body is None else here(recording.sent_body.decode())
    if body and (size := re.fullmatch("<(\\d+) bytes>", body)):
        body = "x" * int(size[1])
    return requests.request(recording.method, sim.url + here(recording.path), headers=headers, data=body, timeout=10)


@pytest.mark.parametrize("recording", RECORDED.values(), ids=RECORDED)
def test_response_equals_the_recorded_one(recording, emulator):
    prepare(recording, emulator)
    answer = send(recording, emulator)
    if recording.name == "v2_files_download":
        assert answer.content == recording.raw
        assert answer.headers["content-disposition"] == recording.headers["content-disposition"]
    answer.headers.pop("cache-control", None)  # these recordings don't have it
    check(recording, answer)
    if '"base64": "aGVsbG8="' in json.dumps(recording.body):
        assert '"base64": "aGVsbG8="' in answer.text


@pytest.mark.parametrize("deleted_after", [5, 15])
def test_run_reads_files_that_exist_until_its_end(emulator, deleted_after):
    emulator.workflow("slow_echo", inputs={"files": "file[]"}, duration=10)(lambda given: given["files"])
    file = _add(emulator, "a.txt", 5, "text/plain", status="completed")
    file.path.write_bytes(b"hello")
    headers = {"X-API-Key": emulator.api_key, "X-Execution-Mode": "async"}
    url, given = f"{emulator.url}/api/workflows/slow_echo/execute", {"files": [{"key": file.key}]}
    requests.post(url, json=given, headers=headers, timeout=5).raise_for_status()
    [shown] = requests.get(f"{emulator.url}/__emulator__/files", timeout=5).json()["files"]
    assert (shown["name"], shown["size"], shown["key"]) == ("a.txt", 5, file.key)
    emulator.clock.advance(deleted_after)
    file.deleted_at = emulator.clock.now()
    emulator.clock.advance(10)
    assert emulator.runs[0].status == "completed"
    assert emulator.runs[0].outcome[0].get("base64") == (None if deleted_after < 10 else "aGVsbG8=")
    assert emulator.files == []
