"""Replay of each recorded request on the emulator: its response equals that of the real server.

Compared are the status, the headers that a client reads, the body's shape (key names, types, formats) and, for errors
and states, the text. IDs, times, numbers and the workflows' outputs differ.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
import requests

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.workflows import new_id
from tests.recordings import WHERE_MISSING, Recording, recordings

RECORDED = recordings()
RECORDED_WORKSPACE = "ae63f6ba-05a8-4386-968d-b13e061ea9eb"
TEMPORARY = "701d0ee3-9238-40eb-96ed-dc5fb10b2d47"
"""The workflow that was imported, deployed, undeployed and deleted while the recordings were made."""
INPUT = {"message": "hi", "count": 3, "payload": {"a": [1, 2]}}

pytestmark = pytest.mark.skipif(not RECORDED, reason=WHERE_MISSING)

WORKFLOWS = {
    match[1]: recording.workflow
    for recording in RECORDED
    if recording.workflow and (match := re.search(r"/workflows/([0-9a-f-]{36})", recording.path))
}
"""The recorded workflows' ids and names."""
ID_OF = {name: workflow_id for workflow_id, name in WORKFLOWS.items()}

# States that only the recording's name contains, not its path or response.
STATE_BEFORE = {
    "legacy_cancel": "running",
    "legacy_cancel_again": "cancelled",
    "v2_cancel": "running",
    "v2_cancel_again": "cancelled",
    "v2_cancel_empty_json": "cancelled",
    "v2_cancel_paused": "paused",
    "v2_cancel_queued": "queued",
    "v2_cancel_with_body": "cancelled",
    "redis_v2_cancel": "running",
    "redis_v2_cancel_completed": "completed",
    "v2_resume": "paused",
    "v2_resume_again": "resumed",
    "v2_resume_bad_context": "paused",
    "v2_resume_missing_context": "paused",
    "v2_run_resumed_paused": "resuming",
    "v2_run_resumed_completed": "resumed",
    "v2_run_sync_resumed": "resumed",
    "orphan_legacy_job_after_cleanup_cron": "swept",
    "orphan_v2_run_after_cleanup_cron": "swept",
    "v2_run_job_failed_no_log": "swept in the queue",
    "legacy_job_pending_cancelled": "cancelled in the queue",
    "v2_run_queued_cancelled": "cancelled in the queue",
}


@dataclasses.dataclass
class Replay:
    """One recording and the emulator that is to answer it."""

    recording: Recording
    sim: SimEmulator

    def prepare(self) -> None:
        """Bring the emulator into the state in which the real server was."""
        recording, state = self.recording, self.sim.state
        builtin = dict(state.workflows)
        state.workflows.clear()
        for workflow_id, name in WORKFLOWS.items():
            workflow = dataclasses.replace(builtin[name], workflow_id=workflow_id, name=f"airflow-{name}")
            workflow.defaults = {"payload": ""}  # as the recorded workflows' Start blocks declare it
            state.add(workflow)
        if recording.name in ("v2_deploy", "v2_undeploy", "v2_delete_workflow", "v2_execute_after_undeploy"):
            deployed = recording.name == "v2_undeploy"
            state.add(dataclasses.replace(builtin["echo"], workflow_id=TEMPORARY, deployed=deployed))
        state.keys.personal_keys_allowed = "personal_keys_disallowed" not in recording.name
        self._start_earlier_runs()
        self._set_limits()
        if "limited" in recording.name or recording.name.startswith("rl_"):
            self._drain()

    def _set_limits(self) -> None:
        limits, name = self.sim.state.limits, self.recording.name
        if name.startswith("rl_"):
            limits.sync_per_minute = limits.async_per_minute = 1
            limits.endpoint_per_minute = 3
        if name.startswith(("bill_", "gate_", "ul_", "conc_", "redis_")):
            limits.endpoint_per_minute = int(self.recording.headers.get("x-ratelimit-limit", "60")) // 2
        limits.clear()
        if name.startswith("gate_"):
            limits.admission_gate = 0
        if name.startswith(("redis_", "conc_")):
            self.sim.state.redis = True
        if name.startswith("conc_"):
            limits.concurrent_runs = 1
        if name.startswith("ul_"):
            theirs = re.search(r"\$([\d.]+) used of \$([\d.]+) limit", json.dumps(self.recording.body))
            limits.billing, limits.usage, limits.usage_limit = True, 10.62, 1.0
            if theirs:
                limits.usage, limits.usage_limit = float(theirs[1]), float(theirs[2])
        if timeout := re.search(r"timed out after (\d+) second", self.recording.raw.decode()):
            limits.sync_timeout = float(timeout[1])
            self.sim.state.start_listeners.append(lambda _: self.sim.clock.advance(10))

    def _drain(self) -> None:
        """Empty the buckets that the answer says are empty."""
        state, theirs = self.sim.state, self.recording.raw.decode()
        if "preauth" in self.recording.name:
            _empty(state.limits.address)
        if "Rate limit exceeded. Please" in theirs:
            _empty(state.limits.sync)
            _empty(state.limits.asynchronous)
        elif "API rate limit exceeded" in theirs:
            for operation in ("execute", "run"):
                _empty(state.limits.endpoint(operation, state.keys.personal.value))
        if self.recording.name == "rl_usage_limits_after":
            _empty(state.limits.sync)

    def _start_earlier_runs(self) -> None:
        recording, state = self.recording, self.sim.state
        body = recording.body if isinstance(recording.body, dict) else {}
        path = unquote(recording.path.partition("?")[0])
        match = re.search(r"(?:/runs/|/executions/|/jobs/workflow-execution:)([^/]+)", path)
        if match and (
            recording.status != 404
            or "other_" in recording.name
            or "wrong_workflow" in recording.name
            or recording.name == "v2_resume_bad_context"
        ):
            self._start(self._workflow_of(path, body), match[1], self._state_before(body))
        elif recording.name.startswith("conc_") and recording.status == 429:
            self._start(ID_OF["slow"], "earlier", "running")
        elif "reused" in recording.name:
            sent = json.loads(recording.sent_body or b"{}")
            self._start(ID_OF["echo"], _chosen_id(recording) or sent["executionId"], "completed")
        elif (recording.method in ("GET", "HEAD") and re.search(r"/(runs|logs|workflows)(\?|$)", recording.path)) or (
            recording.path.endswith(tuple(WORKFLOWS))
        ):
            self._start_listed_runs(body)
        elif recording.name == "cron_resume_poll":
            self._start(ID_OF["waiting"], "earlier", "paused")
        state.requests.clear()

    def _start_listed_runs(self, body: dict[str, Any]) -> None:
        """As many runs as the recorded list shows, and one where a next page was announced."""
        path = self.recording.path
        status = re.search(r"status=(\w+)", path)
        count = 5
        if "/runs" in path and isinstance(body.get("data"), list) and "cursor" not in path:
            count = len(body["data"]) + bool(body.get("nextCursor"))
        wanted = "completed" if status is None else {"failed": "timed out"}.get(status[1], status[1])
        for workflow_id, name in WORKFLOWS.items():
            listed = workflow_id in path if "/runs" in path else "/logs" not in path or name.startswith("echo")
            for _ in range(count if listed and name != "undeployed" else 0):
                self._start(workflow_id, new_id(), wanted)

    def _workflow_of(self, path: str, body: dict[str, Any]) -> str:
        if "wrong_workflow" in self.recording.name:
            return ID_OF["paused"]
        in_path = re.search(r"/workflows/([^/]+)", path)
        return in_path[1] if in_path else body.get("metadata", {}).get("workflowId", ID_OF["echo_plain"])

    def _state_before(self, body: dict[str, Any]) -> str:
        if self.recording.name in STATE_BEFORE:
            return STATE_BEFORE[self.recording.name]
        theirs = (body.get("data") if isinstance(body.get("data"), dict) else body) or {}
        status = theirs.get("status", "completed")
        if "timed out" in json.dumps(theirs):
            return "timed out"
        return {"processing": "running", "pending": "queued"}.get(str(status), str(status))

    def _start(self, workflow_id: str, run_id: str, wanted: str) -> Run:
        """Make a run that is in the wanted state already."""
        state = self.sim.state
        workflow = state.workflows[workflow_id]
        sent: dict[str, Any] = dict(INPUT)
        if workflow.name.endswith("large"):
            sent["count"] = 9 * 1024 if "huge" in self.recording.name else 1024
        state.queue_delay = 3600.0 if "queue" in wanted else 0.0
        mode = "sync" if "_sync" in self.recording.name else "async"
        run = state.start(
            workflow,
            sent,
            mode=mode,
            key=state.keys.personal,
            run_id=run_id,
            bucket=state.limits.sync,
            timeout=5 if wanted == "timed out" or "timeout5" in self.recording.name else None,
        )
        if wanted in ("running", "swept"):
            run.stuck = True
        elif "queue" not in wanted and wanted != "cancelled":
            run.created_at -= 60.0 if workflow.name.endswith("waiting") is False else 1.0
        if wanted.startswith("cancelled"):
            run.cancel()
        elif wanted.startswith("swept"):
            run.created_at -= 0.0 if "queue" in wanted else 8 * 24 * 3600.0
            run.sweep()
        elif wanted in ("resumed", "resuming"):
            given_back = self.recording.body.get("data", {}).get("output") or {}
            run.resume(given_back.get("result"), after=60.0 if wanted == "resuming" else 0.0)
        context = json.loads(self.recording.sent_body or b"{}") if "resume" in self.recording.path else {}
        if "contextId" in context and "bad" not in self.recording.name:
            run.context_id = context["contextId"]
        selected = re.search(r"selectedOutputs=([0-9a-f-]{36})", unquote(self.recording.path))
        if selected:
            workflow.block_id = selected[1]
        return run

    def send(self) -> requests.Response:
        """Send the recorded request."""
        recording = self.recording
        headers = dict(recording.sent_headers)
        if headers.get("x-api-key") == "REDACTED":
            headers["x-api-key"] = self._key()
        path = recording.path.replace(RECORDED_WORKSPACE, self.sim.workspace_id)
        if "cursor=" in path and recording.status == 200:
            first = requests.get(self.sim.url + re.sub(r"&?cursor=[^&]*", "", path), headers=headers, timeout=5)
            path = re.sub(r"cursor=[^&]*", f"cursor={first.json()['nextCursor']}", path)
        body = recording.sent_body
        if recording.name == "legacy_execute_oversized":
            body = json.dumps({"message": "x" * 10_485_800}).encode()
        if body is not None:
            body = body.replace(RECORDED_WORKSPACE.encode(), self.sim.workspace_id.encode())
        return requests.request(
            recording.method, self.sim.url + path, headers=headers, data=body, timeout=10, allow_redirects=False
        )

    def _key(self) -> str:
        name = self.recording.name
        for words, key in (
            ("other_user_key", self.sim.other_user_key),
            ("other_workspace_key", self.sim.other_workspace_key),
            ("workspace_key", self.sim.workspace_key),
        ):
            if words in name:
                return key
        return self.sim.api_key


def _empty(bucket: Any) -> None:
    while bucket.take():
        pass


def _chosen_id(recording: Recording) -> str | None:
    return recording.sent_headers.get("x-run-id") or recording.sent_headers.get("x-execution-id")


# --- comparing -----------------------------------------------------------------------------------------------------

SPOKEN = frozenset({"error", "message", "code", "reason", "status", "event", "pauseKind"})
"""Keys whose values are Sim's own words."""
FORMATS = {
    "uuid": re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
    "job id": re.compile(r"workflow-execution:.+"),
    "url": re.compile(r"https?://[^/]+/.*"),
}
VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|airflow-[0-9a-z-]+")


def kind_of(value: Any) -> str:
    """A leaf's type and format."""
    if value is None or isinstance(value, bool):
        return str((value and "true") or value)
    if isinstance(value, int | float):
        return "number"
    return next((name for name, pattern in FORMATS.items() if pattern.fullmatch(value)), "text")


def differences(recorded: Any, ours: Any, path: str = "", key: str = "") -> Iterator[str]:
    """Where two bodies disagree, one line each."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        if all(FORMATS["uuid"].match(name) for name in (*recorded, *ours)):  # keyed by block: one id stands for another
            recorded, ours = dict(enumerate(recorded.values())), dict(enumerate(ours.values()))
        if recorded.keys() != ours.keys():
            yield f"{path}: keys {sorted(recorded, key=str)} became {sorted(ours, key=str)}"
        for name in recorded.keys() & ours.keys():
            yield from differences(recorded[name], ours[name], f"{path}.{name}", str(name))
    elif isinstance(recorded, list) and isinstance(ours, list):
        if bool(recorded) != bool(ours):
            yield f"{path}: {len(recorded)} items became {len(ours)}"
        for item in ours:
            found = [list(differences(candidate, item, f"{path}[]")) for candidate in recorded]
            if found and all(found):
                yield from min(found, key=len)
                break
    elif isinstance(recorded, dict | list) or isinstance(ours, dict | list):
        yield f"{path}: {recorded!r:.80} became {ours!r:.80}"
    elif key in SPOKEN and isinstance(recorded, str):
        theirs, given_back = (VARIABLE.sub("<id>", str(value)) for value in (recorded, ours))
        if theirs != given_back:
            yield f"{path}: {theirs!r:.200} became {given_back!r:.200}"
    elif kind_of(recorded) != kind_of(ours):
        yield f"{path}: {kind_of(recorded)} ({recorded!r:.60}) became {kind_of(ours)} ({ours!r:.60})"


def events(raw: bytes) -> list[Any]:
    """The frames of an event stream."""
    return [json.loads(line.removeprefix("data: ")) for line in raw.decode().split("\n\n") if line]


def header_differences(recorded: dict[str, str], ours: dict[str, str]) -> Iterator[str]:
    """Where the headers that a client reads disagree."""
    for name in ("content-type", "cache-control", "www-authenticate", "x-custom", "x-ratelimit-limit", "location"):
        theirs, given_back = (headers.get(name, "").partition(";")[0] for headers in (recorded, ours))
        if name == "location":
            theirs, given_back = theirs.partition("?")[0], given_back.partition("?")[0]
        if theirs != given_back:
            yield f"header {name}: {theirs!r} became {given_back!r}"
    for name in ("x-request-id", "x-run-id"):
        if (name in recorded) != (name in ours):
            yield f"header {name}: {recorded.get(name)!r} became {ours.get(name)!r}"
    for name in ("x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"):
        theirs, given_back = recorded.get(name), ours.get(name)
        if (theirs is None) != (given_back is None) or (theirs and given_back and _form(theirs) != _form(given_back)):
            yield f"header {name}: {theirs!r} became {given_back!r}"


def _form(value: str) -> str:
    return "integer" if value.isdigit() else "time" if FORMATS["time"].fullmatch(value) else "text"


def _cases() -> Iterator[Any]:
    for recording in RECORDED:
        profile = "v0.8-legacy" if recording.name.startswith("v2off_") else "v0.8"
        yield pytest.param(recording, id=recording.name, marks=pytest.mark.sim_emulator(profile=profile))


def check(recording: Recording, answer: requests.Response) -> None:
    """Compare an answer with the recorded one."""
    found = []
    if answer.status_code != recording.status:
        found.append(f"status {recording.status} became {answer.status_code} {answer.text:.300}")
    found += header_differences(recording.headers, {name.lower(): value for name, value in answer.headers.items()})
    if recording.raw in (b"", b"null"):
        found += [] if answer.content in (b"", b"null") else [f"an empty body became {answer.text:.100}"]
    elif recording.headers.get("content-type", "").startswith("text/event-stream"):
        found += differences(events(recording.raw), events(answer.content))
    elif recording.body is not None:  # else it is abridged
        found += differences(recording.body, answer.json())
    assert not found, "\n".join(found)


@pytest.mark.parametrize("recording", list(_cases()))
def test_response_equals_the_recorded_one(recording, emulator):
    replay = Replay(recording, emulator)
    replay.prepare()
    check(recording, replay.send())
