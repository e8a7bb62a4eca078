"""Every answer recorded with a real Sim server, read by the dialects.

``readings.tsv`` says what each of them must become: the model and what a task decides on, or the error with its code
and with what it says of the run. Look twice before changing a line of it: the recordings are the truth.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from airflow_provider_sim.client.api import legacy, v2, workspace_files
from airflow_provider_sim.client.api.http import Call, Request, Response
from airflow_provider_sim.client.api.workspace_files import UploadSession, new_file
from airflow_provider_sim.client.file_flows import Part
from airflow_provider_sim.client.stream import StreamReader
from airflow_provider_sim.exceptions import SimError
from tests.recordings import WHERE_MISSING, Recording, file_recordings, recordings

RECORDED = [recording for recording in recordings() + file_recordings() if recording.name != "v2_files_download"]
"""The excluded one is a file's content."""
READINGS = dict(line.split("\t", 1) for line in (Path(__file__).parent / "readings.tsv").read_text().splitlines())

pytestmark = pytest.mark.skipif(not RECORDED, reason=WHERE_MISSING)


def call_of(recording: Recording) -> Call[Any]:
    """The client's call for this endpoint; if it has none, only the dialect's envelope."""
    path = unquote(recording.path.partition("?")[0]).rstrip("/")
    parts = path.split("/")
    dialect: Any = v2 if path.startswith("/api/v2/") else legacy
    workflow_id = parts[parts.index("workflows") + 1] if "workflows" in parts[:-1] else ""
    run_id = recording.sent_headers.get("x-run-id") or recording.sent_headers.get("x-execution-id") or "sent"
    run_id = run_id if run_id.isprintable() and " " not in run_id and len(run_id) <= 128 else "sent"
    asynchronous = b'"async": true' in (recording.sent_body or b"")
    if path.startswith(("/api/v2/files", "/api/v2/uploads")):
        return file_call_of(recording, parts)
    match (recording.method, parts[-1], parts[-2]):
        case ("POST", "execute", _):
            if recording.sent_headers.get("x-execution-mode") == "async" or asynchronous:
                return dialect.execute(workflow_id, {}, run_id=run_id, async_execution=True, run_timeout=None)
            return dialect.execute(workflow_id, {}, run_id=run_id)
        case ("POST", "cancel", _):
            return dialect.cancel_run(workflow_id, parts[-2])
        case ("POST", "resume", _):
            return v2.resume_run(workflow_id, parts[-2], "context", {})
        case ("POST", _, _) if "/api/resume/" in path:
            return legacy.resume_run(parts[3], parts[4], parts[5], {})
        case ("GET", run, "runs") if " " not in run:
            return v2.get_run(workflow_id, run, include_output=True)
        case ("GET", run, "executions"):
            return legacy.get_run(workflow_id, run)
        case ("GET", job_id, "jobs"):
            return legacy.get_job(job_id)
        case ("GET", "runs", _):
            return v2.list_runs(workflow_id)
        case ("GET", "logs", "v2"):
            return v2.list_logs("space")
        case ("GET", "status", "billing"):
            return v2.get_billing_status()
        case ("GET", "status", _):
            return legacy.get_workflow_status(workflow_id)
        case ("GET", "usage-limits", _):
            return legacy.get_usage_limits()
        case ("GET", "deployment", _):
            return v2.deployment(workflow_id)
        case ("GET", "versions", _):
            return v2.list_versions(workflow_id)
        case ("POST", "deploy", _):
            return v2.deployment(workflow_id, "deploy")
        case ("DELETE", "deploy", _):
            return v2.deployment(workflow_id, "undeploy")
        case ("GET", "workspaces", "v2"):
            return v2.list_workspaces()
        case ("GET", "workflows", "v2"):
            return v2.list_workflows("space")
        case ("GET", found, "workflows"):
            return dialect.get_workflow(found)
    path = recording.path.removeprefix("/api/")
    return dialect._call(
        lambda request, data: data, recording.method, path, "do something that the client doesn't offer"
    )


def file_call_of(recording: Recording, parts: list[str]) -> Call[Any]:
    """The client's call for an endpoint of the files API."""
    file = new_file("space", "a.txt", None, None)
    session = UploadSession(file, "upload", "token", None)
    match (recording.method, parts[3:]):
        case ("POST", ["files"]):
            return workspace_files.create(file, b"hello")
        case ("GET", ["files"]):
            return workspace_files.list_files("space")
        case ("POST", ["files", "uploads"]):
            return workspace_files.create_session(file, 100)
        case ("POST", ["files", "uploads", _, "complete"]):
            return workspace_files.complete(session)
        case ("DELETE", ["files", "uploads", _]):
            return workspace_files.abort(session)
        case ("DELETE", ["files", file_id]):
            return workspace_files.delete("space", file_id)
        case ("PUT", ["uploads", _]):
            request = Request("PUT", "/upload", "transfer the file")
            return workspace_files.put(request, Part(io.BytesIO(), 0, 0))
        case ("GET", ["files", file_id]):
            return workspace_files.download("space", file_id)
    path = recording.path.removeprefix("/api/")
    return v2._call(lambda request, data: data, recording.method, path, "do something that the client doesn't offer")


def read(recording: Recording) -> str:
    """How the dialects read a recorded response, in one line."""
    call = call_of(recording)
    response = Response(recording.status, recording.headers, b"" if recording.raw == b"null" else recording.raw)
    try:
        if recording.status == 200 and "event-stream" in recording.headers["content-type"]:
            reader = StreamReader(Request("POST", "/", "start", workflow_id="w", run_id="sent").streaming())
            events = [event for piece in recording.raw.split(b",") for event in reader.feed(piece + b",")]
            reader.finish()
            return " + ".join(_told(getattr(event, "result", event)) for event in events)
        return _told(call.read(response))
    except legacy.AmbiguousResponseError as error:
        return f"AmbiguousResponseError: {_told(error.result)}"
    except SimError as error:
        facts = [type(error).__name__, error.code, str(error.detail_code or "-"), error.outcome.value]
        facts += ["id spent"] if error.run_id_spent else []
        facts += [f"wait {'some' if error.retry_after > 5 else error.retry_after:}"] if error.retry_after else []
        return ", ".join(facts)


def _told(value: Any) -> str:
    if not dataclasses.is_dataclass(value):
        return f"data: {', '.join(sorted(value)) if isinstance(value, dict) else type(value).__name__}"
    facts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    told = [type(value).__name__]
    if facts.get("status") is not None:
        told.append(facts["status"].value)
    if isinstance(facts.get("output"), dict):
        told.append(f"output {{{', '.join(facts['output'])}}}")
    elif facts.get("output") is not None:
        told.append(f"output {type(facts['output']).__name__}")
    if facts.get("output_is_display_copy"):
        told.append("display copy")
    if facts.get("error"):
        error = facts["error"]
        told.append(
            f"error {error.code}: {error.message} {f'in {error.block_name}' if error.block_name else ''}".strip()
        )
    if facts.get("paused"):
        pause = facts["paused"]
        told.append(f"paused by {pause.kind}{'' if pause.context_id else ', no context'}")
    for name in ("accepted", "reason", "is_deployed", "version", "size", "content_type"):
        if facts.get(name) is not None:
            told.append(f"{name} {facts[name]}")
    for name in ("job_id", "cost_usd", "next_cursor", "workspace_id", "plan"):
        if facts.get(name):
            told.append(f"has {name}")
    if "items" in facts:
        told.append(f"{len(facts['items'])} of {', '.join(sorted({_told(item) for item in facts['items']}))}")
    if facts.get("sync"):
        told.append(f"sync {facts['sync'].remaining} limited {facts['sync'].is_limited}")
    return ", ".join(told)


@pytest.mark.parametrize("recording", RECORDED, ids=lambda recording: recording.name)
def test_recorded_response_is_read_as_expected(recording):
    assert read(recording) == READINGS[recording.name]


def test_every_recording_has_an_expected_reading():
    assert {recording.name for recording in RECORDED} == READINGS.keys()
