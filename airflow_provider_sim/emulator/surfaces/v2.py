"""``/api/v2``."""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.display import display_copy
from airflow_provider_sim.emulator.files import BadFileError, with_files_stored
from airflow_provider_sim.emulator.keys import Key
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.runs import COST, Run
from airflow_provider_sim.emulator.state import Refused, State, new_run_id
from airflow_provider_sim.emulator.surfaces.wire import (
    BodyTooLargeError,
    answer,
    body_of,
    empty,
    event_stream,
    page_not_found,
    see_to_end,
    state_of,
)
from airflow_provider_sim.emulator.workflows import Workflow

CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    402: "USAGE_LIMIT_EXCEEDED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
_COMMON = {"cache-control": "private, no-store"}
_CHALLENGE = {"www-authenticate": 'SimApiKey realm="Sim API", header="x-api-key"'}
_ID = re.compile(r"[A-Za-z0-9._:-]+")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Failure(Exception):
    """An error answer."""

    def __init__(
        self, status: int, message: str, details: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.details, self.headers = status, message, details, dict(headers or {})

    def answer(self, headers: Mapping[str, str]) -> Response:
        """As it is sent."""
        error = {"code": CODES[self.status], "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        return answer(self.status, {"error": error}, {**_COMMON, **headers, **self.headers})


class Call(NamedTuple):
    """A request that has passed the gates."""

    state: State
    request: Request
    key: Key

    def path(self, name: str) -> str:
        """A part of the path."""
        value: str = self.request.path_params[name]
        return value

    def workflow(self) -> Workflow:
        """The workflow that the path names.

        :raises Failure: the key may not see it.
        """
        found = self.state.find_workflow(self.path("workflow_id"), self.key)
        if found is None:
            raise Failure(404, "Workflow not found")
        if self.state.personal_key_refused(self.key):
            raise Failure(
                403, "Personal API keys are not allowed for this workspace", {"code": "PERSONAL_API_KEYS_DISABLED"}
            )
        return found

    def run(self) -> Run:
        """The run that the path names.

        :raises Failure: its id can't be one, or the key may not see it.
        """
        run_id = self.path("run_id")
        _check_run_id(run_id, "runId")
        found = self.state.find_run(self.path("workflow_id"), run_id, self.key)
        if found is None:
            raise Failure(404, "Run not found")
        return found


Handler = Callable[[Call], Awaitable[Response]]


def _route(
    path: str,
    method: str,
    operation: str,
    *,
    query: Iterable[str] = (),
    required: Iterable[str] = (),
    without_key: str = "API key required",
) -> Callable[[Handler], Route]:
    """Make a handler a route behind v2's gates: address, key, switch, rate, query."""

    def decorate(handler: Handler) -> Route:
        @functools.wraps(handler)
        async def endpoint(request: Request) -> Response:
            state = state_of(request)
            if not state.profile.v2:
                return page_not_found()
            headers: dict[str, str] = {}
            try:
                key = _gates(state, request, without_key)
                bucket = state.limits.endpoint(operation, key.value)
                allowed = bucket.take()
                headers = _rate_headers(bucket)
                if not allowed:
                    raise _limited(bucket)
                _check_query(request, query, required)
                response = await handler(Call(state, request, key))
            except Failure as failure:
                return failure.answer(headers)
            for name, value in {**_COMMON, **headers}.items():
                response.headers.setdefault(name, value)
            return response

        return Route(f"/api/v2{path}", endpoint, methods=[method], name=handler.__name__)

    return decorate


def _gates(state: State, request: Request, without_key: str) -> Key:
    address = state.limits.address
    if state.limits.per_address and not address.take():
        raise _limited(address, _rate_headers(address))
    value = request.headers.get("x-api-key")
    key = state.keys.find(value)
    if key is None:
        raise Failure(401, "Invalid API key" if value else without_key, None, _CHALLENGE)
    if not state.profile.v2_on:
        raise Failure(404, "Not found")
    return key


def _rate_headers(bucket: Bucket) -> dict[str, str]:
    return {
        "x-ratelimit-limit": str(bucket.capacity),
        "x-ratelimit-remaining": str(bucket.remaining),
        "x-ratelimit-reset": str(iso(bucket.reset)),
    }


def _limited(bucket: Bucket, headers: Mapping[str, str] | None = None) -> Failure:
    waiting = {"retry-after": str(bucket.retry_after), **(headers or {})}
    return Failure(429, "API rate limit exceeded", {"retryAfter": iso(bucket.reset)}, waiting)


def _issue(code: str, path: list[str], message: str, **more: Any) -> Failure:
    """A validation error with one issue."""
    return Failure(400, message, [{**more, "code": code, "path": path, "message": message}])


def _check_query(request: Request, known: Iterable[str], required: Iterable[str]) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise _unrecognized(unknown)
    for name in required:
        if name not in request.query_params:
            words = {"workspaceId": "Workspace ID is required"}.get(name, f"{name} is required")
            raise _issue("invalid_type", [name], words, expected="string")


def _unrecognized(keys: list[str]) -> Failure:
    quoted = ", ".join(f'"{key}"' for key in keys)
    return _issue("unrecognized_keys", [], f"Unrecognized key{'s' if len(keys) > 1 else ''}: {quoted}", keys=keys)


def _check_run_id(run_id: str, name: str) -> None:
    if not _ID.fullmatch(run_id):
        raise _issue(
            "invalid_format",
            [name],
            "Run ID can only contain letters, numbers, dots, underscores, colons, and hyphens",
            origin="string",
            format="regex",
            pattern="/^[A-Za-z0-9._:-]+$/",
        )
    if len(run_id) > 128:
        raise _issue("too_big", [name], "Run ID too long", origin="string", maximum=128, inclusive=True)


def _kind(value: Any) -> str:
    """A value's type as validation messages name it."""
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def _mistyped(path: list[str], expected: str, value: Any) -> Failure:
    message = f"Invalid input: expected {expected}, received {_kind(value)}"
    return _issue("invalid_type", path, message, expected=expected)


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await body_of(request))
    except BodyTooLargeError:
        raise Failure(413, "Request body exceeds maximum size") from None
    except ValueError:
        raise Failure(400, "Request body must be valid JSON") from None
    if not isinstance(body, dict):
        raise _mistyped([], "object", body)
    return body


# --- executing -----------------------------------------------------------------------------------------------------

_EXECUTE_FIELDS = {
    "input": dict,
    "async": bool,
    "stream": bool,
    "executionTimeoutSeconds": int,
    "selectedOutputs": list,
    "includeThinking": bool,
    "includeToolCalls": bool,
    "includeFileBase64": bool,
    "base64MaxBytes": int,
}
_EXPECTED = {dict: "record", bool: "boolean", int: "number", list: "array"}


def _check_execution(request: Request, body: dict[str, Any]) -> None:
    unknown = [name for name in body if name not in _EXECUTE_FIELDS]
    if unknown:
        raise _unrecognized(unknown)
    for name, value in body.items():
        expected = _EXECUTE_FIELDS[name]
        if type(value) is not expected:
            raise _mistyped([name], _EXPECTED[expected], value)
    timeout = body.get("executionTimeoutSeconds")
    if timeout is not None and not 1 <= timeout <= 604_800:
        small = timeout < 1
        raise _issue(
            "too_small" if small else "too_big",
            ["executionTimeoutSeconds"],
            "Too small: expected number to be >=1" if small else "Too big: expected number to be <=604800",
            origin="number",
            **{"minimum" if small else "maximum": 1 if small else 604_800},
            inclusive=True,
        )
    run_id = request.headers.get("x-run-id")
    if run_id is not None:
        _check_run_id(run_id, "x-run-id")
    if body.get("async") and body.get("stream"):
        raise Failure(400, "async and stream cannot be combined")
    if timeout is not None and not body.get("async"):
        raise Failure(400, "executionTimeoutSeconds is supported only for async execution")
    if body.get("async") and (body.get("selectedOutputs") or "includeFileBase64" in body or "base64MaxBytes" in body):
        raise Failure(400, "Async execution does not support output options")
    if (body.get("includeThinking") or body.get("includeToolCalls")) and (
        request.headers.get("x-sim-stream-protocol") != "agent-events-v1"
    ):
        raise Failure(
            400,
            "includeThinking and includeToolCalls require the X-Sim-Stream-Protocol: agent-events-v1 request header,"
            " which declares that the client understands agent-event frames.",
        )


@_route("/workflows/{workflow_id}/execute", "POST", "workflows.execute", without_key="Unauthorized")
async def execute(call: Call) -> Response:
    """Run a workflow: held open, streamed, or queued."""
    state, request = call.state, call.request
    gate = state.limits.admission_gate
    if gate is not None and state.in_flight >= gate:
        raise Failure(429, "Server is at capacity. Please retry shortly.", None, {"retry-after": "5"})
    body = await _json_object(request)
    _check_execution(request, body)
    workflow = call.workflow()
    if not workflow.deployed:
        raise Failure(403, "Workflow is not deployed", {"code": "WORKFLOW_NOT_DEPLOYED"})
    run_id = request.headers.get("x-run-id") or new_run_id()
    if run_id in state.runs:
        details = {"code": "RUN_ID_CONFLICT", "runId": run_id}
        raise Failure(409, "Run ID has already been used", details, {"x-run-id": run_id})
    mode = "async" if body.get("async") else "stream" if body.get("stream") else "sync"
    run = _started(call, workflow, body, mode, run_id)
    if mode == "async":
        url = f"{state.base_url}/api/v2/workflows/{workflow.workflow_id}/runs/{run_id}"
        return answer(202, {"data": {"runId": run_id, "statusUrl": url}}, {"x-run-id": run_id})
    if mode == "stream":
        return event_stream(state, request, run, body.get("selectedOutputs") or [], {})
    state.in_flight += 1
    try:
        await see_to_end(request, run)
    finally:
        state.in_flight -= 1
    result = {
        "runId": run_id,
        "workflowId": workflow.workflow_id,
        "status": run.status,
        "output": run.output(base_url=state.base_url, workspace_id=state.workspace_id),
        "error": run.sync_error,
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "durationMs": run.duration_ms,
    }
    return answer(200, {"data": result}, {"x-run-id": run_id})


def _started(call: Call, workflow: Workflow, body: dict[str, Any], mode: str, run_id: str) -> Run:
    state = call.state
    sent = body.get("input") or {}
    try:
        if mode != "async":
            sent = with_files_stored(workflow, sent)
        return state.start(
            workflow,
            sent,
            mode=mode,
            key=call.key,
            run_id=run_id,
            bucket=state.limits.execution(asynchronous=mode == "async"),
            timeout=body.get("executionTimeoutSeconds"),
        )
    except BadFileError as error:
        raise Failure(400, f"File processing failed: {error}") from error
    except Refused as refused:
        details = {"code": refused.code} if refused.code else None
        headers = {} if refused.retry_after is None else {"retry-after": str(refused.retry_after)}
        raise Failure(refused.status, refused.message, details, headers) from refused


# --- runs ----------------------------------------------------------------------------------------------------------


def paused_of(run: Run) -> dict[str, Any] | None:
    """Where a run is paused."""
    if run.status != "paused":
        return None
    return {
        "contextId": run.context_id,
        "pausedAt": iso(run.first_leg_ends_at),
        "resumeAt": iso(run.resumes_at),
        "pauseKind": "human" if run.resumes_at is None else "time",
        "blockedOnBlockId": run.context_id,
        "automaticResumeWaitingReason": None,
        "pausePointCount": 1,
        "resumedCount": 0,
    }


def run_facts(run: Run) -> dict[str, Any]:
    """What every view of a run begins with."""
    return {
        "runId": run.run_id,
        "workflowId": run.workflow_id,
        "status": run.status,
        "trigger": run.trigger,
        "startedAt": iso(run.started_at if run.status != "queued" else run.created_at),
        "endedAt": iso(run.ended_at),
    }


def cost_of(run: Run) -> dict[str, float] | None:
    """US dollars; nothing before the run's end, and for runs that never left the queue."""
    ended = run.ended_at
    never_ran = ended is None or run.refused is not None or ended < run.started_at
    return None if never_ran else {"total": COST}


def output_shown(call_state: State, run: Run) -> Any:
    """The display copy of a completed run's output."""
    if run.status != "completed":
        return None
    return display_copy(run.output(base_url=call_state.base_url, workspace_id=call_state.workspace_id))


@_route(
    "/workflows/{workflow_id}/runs/{run_id}", "GET", "workflows.runs.read", query=("includeOutput", "selectedOutputs")
)
async def get_run(call: Call) -> Response:
    """One run."""
    include = call.request.query_params.get("includeOutput", "false")
    if include not in _BOOLEANS:
        raise _issue("invalid_type", ["includeOutput"], "must be a boolean (true/false)", expected="boolean")
    run = call.run()
    selectors = [name for name in call.request.query_params.get("selectedOutputs", "").split(",") if name]
    told = run.error
    data = {
        **run_facts(run),
        "durationMs": None if run.duration_ms is None else round(run.duration_ms),
        "paused": paused_of(run),
        "cost": cost_of(run),
        "error": None if told is None else {"message": told[0], "code": told[1]},
        "output": output_shown(call.state, run) if _BOOLEANS[include] else None,
        "blockOutputs": run.block_outputs(selectors, ids_only=True) if selectors else None,
    }
    return answer(200, {"data": data})


_STATUSES = ("pending", "running", "completed", "failed", "cancelled", "paused")


@_route(
    "/workflows/{workflow_id}/runs",
    "GET",
    "workflows.runs.list",
    query=("status", "trigger", "startDate", "endDate", "limit", "cursor", "order"),
)
async def list_runs(call: Call) -> Response:
    """A workflow's runs, newest first."""
    query = call.request.query_params
    status = query.get("status")
    if status is not None and status not in _STATUSES:
        options = "|".join(f'"{name}"' for name in _STATUSES)
        message = f"Invalid option: expected one of {options}"
        raise _issue("invalid_value", ["status"], message, values=list(_STATUSES))
    limit = _limit(query.get("limit"), default=50, most=100, clamp=False)
    window = _window(query)
    workflow = call.workflow()
    runs = [
        run
        for run in call.state.listed()
        if run.workflow is workflow
        and (status is None or run.status == status)
        and ("trigger" not in query or run.trigger == query["trigger"])
        and window(run)
    ]
    page, following = _page(call, runs, limit)
    items = [
        {
            **run_facts(run),
            "durationMs": None if run.duration_ms is None else round(run.duration_ms),
            "cost": cost_of(run),
        }
        for run in page
    ]
    return answer(200, {"data": items, "nextCursor": following})


@_route(
    "/logs",
    "GET",
    "logs.list",
    query=[
        "workspaceId",
        "workflowIds",
        "triggers",
        "level",
        "startDate",
        "endDate",
        "runId",
        "minDurationMs",
        "maxDurationMs",
        "minCost",
        "maxCost",
        "model",
        "folderPaths",
        "details",
        "includeTraceSpans",
        "includeFinalOutput",
        "limit",
        "cursor",
        "order",
    ],
    required=("workspaceId",),
)
async def list_logs(call: Call) -> Response:
    """A workspace's runs, up to 1000 at once, with their stored status."""
    query = call.request.query_params
    _check_workspace(call, query["workspaceId"])
    limit = _limit(query.get("limit"), default=100, most=1000, clamp=True)
    window = _window(query)
    workflows = {name for name in query.get("workflowIds", "").split(",") if name}
    triggers = {name for name in query.get("triggers", "all").split(",") if name}
    runs = [
        run
        for run in call.state.listed()
        if (not workflows or run.workflow_id in workflows)
        and ("all" in triggers or run.trigger in triggers)
        and query.get("level", level_of(run)) == level_of(run)
        and query.get("runId", run.run_id) == run.run_id
        and window(run)
    ]
    page, following = _page(call, runs, limit)
    with_output = _BOOLEANS.get(query.get("includeFinalOutput", "false"), False)
    items = [
        log_item(call.state, run) | ({"finalOutput": output_shown(call.state, run)} if with_output else {})
        for run in page
    ]
    return answer(200, {"data": items, "nextCursor": following})


def level_of(run: Run) -> str:
    """The log level of a run."""
    return "error" if run.status == "failed" else "info"


def log_item(state: State, run: Run) -> dict[str, Any]:
    """A run as the log lists it."""
    return {
        "runId": run.run_id,
        "workflowId": run.workflow_id,
        "deploymentVersionId": f"version-{run.workflow.version}",
        "status": run.log_status,
        "level": level_of(run),
        "trigger": run.trigger,
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "totalDurationMs": None if run.duration_ms is None else round(run.duration_ms),
        "cost": cost_of(run),
        "files": None,
    }


@_route("/logs/{run_id}", "GET", "logs.read")
async def get_log(call: Call) -> Response:
    """One run's log, with its workflow and workspace."""
    run = call.state.runs.get(call.path("run_id"))
    if run is None or run.status == "queued" or call.key.workspace_id != call.state.workspace_id:
        raise Failure(404, "Log not found")
    data = log_item(call.state, run)
    data["workflow"] = {
        "id": run.workflow_id,
        "name": run.workflow.name,
        "description": run.workflow.description,
        "folderPath": "/",
        "workspaceId": call.state.workspace_id,
        "deleted": False,
    }
    return answer(200, {"data": {**data, "traceSpans": [], "finalOutput": output_shown(call.state, run)}})


def _limit(text: str | None, *, default: int, most: int, clamp: bool) -> int:
    if text is None:
        return default
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise _issue("too_small", ["limit"], "Too small: expected number to be >=1", origin="number", minimum=1)
    if number > most and not clamp:
        raise _issue("too_big", ["limit"], f"Too big: expected number to be <={most}", origin="number", maximum=most)
    return min(number, most)


def _window(query: Mapping[str, str]) -> Callable[[Run], bool]:
    """Whether a run began between the query's dates."""
    for name in ("startDate", "endDate"):
        if name in query and not _UTC.fullmatch(query[name]):
            raise _issue(
                "invalid_format",
                [name],
                f"{name} must be a UTC ISO 8601 timestamp, e.g. 2026-08-06T00:00:00Z",
                origin="string",
                format="datetime",
                pattern=_UTC.pattern,
            )
    first, last = query.get("startDate"), query.get("endDate")
    return lambda run: (
        (first is None or str(iso(run.started_at)) >= first) and (last is None or str(iso(run.started_at)) <= last)
    )


def _page(call: Call, runs: list[Run], limit: int) -> tuple[list[Run], str | None]:
    """A page of runs and the cursor of the next; a cursor holds for its own filters only."""
    query = dict(call.request.query_params)
    cursor = query.pop("cursor", None)
    query.pop("limit", None)
    scope = json.dumps([call.request.url.path, sorted(query.items())])
    if query.get("order", "desc") == "desc":
        runs.reverse()
    begin = 0
    if cursor is not None:
        try:
            told, last_id = json.loads(base64.b64decode(cursor))
            if told != scope:
                raise ValueError
            begin = next(number for number, run in enumerate(runs) if run.run_id == last_id) + 1
        except (ValueError, TypeError, StopIteration):
            raise Failure(
                400, "cursor is not a valid pagination cursor. Restart pagination without a cursor."
            ) from None
    page = runs[begin : begin + limit]
    more = begin + limit < len(runs)
    return page, base64.b64encode(json.dumps([scope, page[-1].run_id]).encode()).decode() if more else None


@_route("/workflows/{workflow_id}/runs/{run_id}/cancel", "POST", "workflows.runs.cancel")
async def cancel_run(call: Call) -> Response:
    """Cancel a run; says no more of what it achieved than Sim does."""
    run, redis = call.run(), call.state.redis
    before = run.status
    run.cancel()
    facts = {"success": True, "redis": redis, "recorded": False, "reason": f"already_{before}"}
    if before in ("paused", "queued"):
        facts |= {"redis": before == "paused" or redis, "recorded": True, "reason": "recorded"}
    elif before == "running":
        facts |= {"recorded": redis, "reason": "recorded" if redis else "already_cancelled"}
    elif not redis:
        facts |= {"success": False, "reason": "redis_unavailable"}
    data = {
        "success": facts["success"],
        "runId": run.run_id,
        "redisAvailable": facts["redis"],
        "durablyRecorded": facts["recorded"],
        "locallyAborted": False,
        "pausedCancelled": before == "paused",
        "reason": facts["reason"],
    }
    return answer(200, {"data": data})


@_route("/workflows/{workflow_id}/runs/{run_id}/resume", "POST", "workflows.runs.resume")
async def resume_run(call: Call) -> Response:
    """Answer a human pause."""
    body = await _json_object(call.request)
    unknown = [name for name in body if name not in ("contextId", "input")]
    if unknown:
        raise _unrecognized(unknown)
    if not isinstance(body.get("contextId"), str):
        received = _kind(body["contextId"]) if "contextId" in body else "undefined"
        message = f"Invalid input: expected string, received {received}"
        raise _issue("invalid_type", ["contextId"], message, expected="string")
    run = call.run()
    if run.resumed_at is not None or run.cancelled_at is not None:
        raise Failure(409, "Paused execution is not resumable")
    if run.status != "paused" or body["contextId"] != run.context_id:
        raise Failure(404, "Pause point not found for execution")
    if run.resumes_at is not None:
        raise Failure(400, "Time-based pauses resume automatically")
    attempt = call.state.attempt(run, body.get("input"))
    if run.mode != "sync":
        url = f"{call.state.base_url}/api/v2/workflows/{run.workflow_id}/runs/{attempt}"
        return answer(202, {"data": {"runId": attempt, "statusUrl": url}}, {"x-run-id": attempt})
    output = run.output(base_url=call.state.base_url, workspace_id=call.state.workspace_id)
    data = {"runId": attempt, "workflowId": run.workflow_id, "status": run.status, "output": output, "error": None}
    return answer(200, {"data": data}, {"x-run-id": attempt})


# --- workflows, workspaces, billing --------------------------------------------------------------------------------


def _described(state: State, workflow: Workflow) -> dict[str, Any]:
    completed = [run for run in state.runs.values() if run.workflow is workflow and run.status == "completed"]
    return {
        "id": workflow.workflow_id,
        "name": workflow.name,
        "description": workflow.description or None,
        "folderPath": "/",
        "workspaceId": state.workspace_id,
        "isDeployed": workflow.deployed,
        "deployedAt": iso(workflow.deployed_at),
        "runCount": len(completed),
        "lastRunAt": iso(completed[-1].started_at) if completed else None,
        "createdAt": iso(workflow.created_at),
        "updatedAt": iso(workflow.created_at),
    }


@_route("/workflows/{workflow_id}", "GET", "workflows.read")
async def get_workflow(call: Call) -> Response:
    """One workflow with its declared inputs."""
    workflow = call.workflow()
    inputs = [{"name": name, "type": kind} for name, kind in (workflow.inputs or {}).items()]
    return answer(200, {"data": {**_described(call.state, workflow), "variables": {}, "inputs": inputs}})


@_route("/workflows/{workflow_id}", "DELETE", "workflows.delete")
async def delete_workflow(call: Call) -> Response:
    """Remove a workflow."""
    workflow = call.workflow()
    del call.state.workflows[workflow.workflow_id]
    return answer(200, {"data": {"id": workflow.workflow_id, "deleted": True}})


@_route(
    "/workflows",
    "GET",
    "workflows.list",
    query=["workspaceId", "folderPath", "deployedOnly", "search", "sortBy", "sortOrder", "limit", "cursor"],
    required=("workspaceId",),
)
async def list_workflows(call: Call) -> Response:
    """A workspace's workflows."""
    query = call.request.query_params
    _check_workspace(call, query["workspaceId"])
    limit = _limit(query.get("limit"), default=50, most=100, clamp=False)
    begin = int(query["cursor"]) if query.get("cursor", "").isdigit() else 0
    found = [
        workflow
        for workflow in call.state.workflows.values()
        if (query.get("deployedOnly") != "true" or workflow.deployed)
        and query.get("search", "").lower() in workflow.name.lower()
    ]
    following = str(begin + limit) if begin + limit < len(found) else None
    items = [_described(call.state, workflow) for workflow in found[begin : begin + limit]]
    return answer(200, {"data": items, "nextCursor": following})


def _check_workspace(call: Call, workspace_id: str) -> None:
    if workspace_id not in (call.state.workspace_id, call.state.keys.other_user.workspace_id):
        raise Failure(404, "Workspace not found")
    if workspace_id != call.key.workspace_id:
        personal = call.key.kind == "personal"
        raise Failure(
            403, "Insufficient workspace permissions" if personal else "Workspace API key cannot access this workspace"
        )


def _deployment(workflow: Workflow) -> dict[str, Any]:
    version = {
        "deploymentVersionId": f"version-{workflow.version}",
        "version": workflow.version,
        "deployedAt": iso(workflow.deployed_at),
    }
    attempt = {
        "id": f"attempt-{workflow.version}",
        "deploymentVersionId": f"version-{workflow.version}",
        "version": workflow.version,
        "action": "deploy",
        "status": "active",
        "isCurrent": True,
        "readiness": {"webhooks": "ready", "schedules": "ready", "mcp": "ready"},
        "requestedAt": iso(workflow.deployed_at),
        "activatedAt": iso(workflow.deployed_at),
        "error": None,
    }
    return {
        "id": workflow.workflow_id,
        "isDeployed": workflow.deployed,
        "deployedAt": iso(workflow.deployed_at),
        "warnings": [],
        "activeDeployment": version if workflow.deployed else None,
        "latestDeploymentAttempt": attempt if workflow.deployed else None,
    }


@_route("/workflows/{workflow_id}/deployment", "GET", "workflows.deployment.read")
async def get_deployment(call: Call) -> Response:
    """Whether a workflow is deployed, and how."""
    return answer(200, {"data": {**_deployment(call.workflow()), "needsRedeployment": False}})


def _require_personal_key(call: Call) -> None:
    if call.key.kind == "workspace":
        raise Failure(
            403, "Workspace API keys cannot perform this operation", {"code": "WORKSPACE_KEY_OPERATION_NOT_PERMITTED"}
        )


@_route("/workflows/{workflow_id}/deploy", "POST", "workflows.deploy")
async def deploy(call: Call) -> Response:
    """Deploy a workflow."""
    workflow = call.workflow()
    _require_personal_key(call)
    workflow.version += workflow.deployed
    workflow.deployed, workflow.deployed_at = True, call.state.clock.now()
    warnings = ["Deployment activation completed, and post-activation notifications are queued."]
    return answer(200, {"data": {**_deployment(workflow), "warnings": warnings, "version": workflow.version}})


@_route("/workflows/{workflow_id}/deploy", "DELETE", "workflows.undeploy")
async def undeploy(call: Call) -> Response:
    """Take a workflow's deployment back."""
    workflow = call.workflow()
    _require_personal_key(call)
    workflow.deployed, workflow.deployed_at = False, None
    return answer(200, {"data": _deployment(workflow)})


@_route("/workflows/{workflow_id}/versions", "GET", "workflows.versions.list", query=("limit", "cursor"))
async def list_versions(call: Call) -> Response:
    """A workflow's deployed versions."""
    workflow = call.workflow()
    version = {
        "id": f"version-{workflow.version}",
        "version": workflow.version,
        "name": None,
        "description": None,
        "isActive": workflow.deployed,
        "createdAt": iso(workflow.created_at),
        "deployedBy": "The Emulator",
        "latestOperationStatus": "active",
    }
    return answer(200, {"data": [version], "nextCursor": None})


@_route("/workflows/import", "POST", "workflows.import")
async def import_workflow(call: Call) -> Response:
    """Make a workflow of an export: a draft that returns its input."""
    body = await _json_object(call.request)
    _check_workspace(call, str(body.get("workspaceId")))
    exported = body.get("workflow")
    inner = exported.get("workflow") if isinstance(exported, dict) else None
    description = str((inner or {}).get("description") or "") if isinstance(inner, dict) else ""
    name = str(body.get("name") or "imported")
    workflow = Workflow(new_run_id(), lambda given: {"result": given, "stdout": ""}, deployed=False, name=name)
    workflow.description = description
    call.state.add(workflow)
    described = _described(call.state, workflow)
    kept = ("id", "name", "description", "workspaceId", "folderPath", "createdAt", "updatedAt")
    return answer(201, {"data": {key: described[key] for key in kept}})


@_route("/workspaces", "GET", "workspaces.list", query=("limit", "cursor"))
async def list_workspaces(call: Call) -> Response:
    """The workspaces that the key opens."""
    state = call.state
    space = {
        "id": call.key.workspace_id,
        "name": "Emulated" if call.key.workspace_id == state.workspace_id else "Other",
        "color": "#701ffc",
        "logoUrl": None,
        "memberCount": 1,
        "createdAt": iso(state.created_at),
        "updatedAt": iso(state.created_at),
    }
    return answer(200, {"data": [space], "nextCursor": None})


@_route("/billing/status", "GET", "billing.status", query=("workspaceId",))
async def billing_status(call: Call) -> Response:
    """Plan and credits; a workspace key isn't told of the latter."""
    limits, personal = call.state.limits, call.key.kind == "personal"
    limit = round(200 * limits.usage_limit) if limits.billing else 200_000
    used = round(200 * limits.usage)
    data = {
        "workspaceId": call.request.query_params.get("workspaceId"),
        "period": {"start": "1970-01-01T00:00:00.000Z", "end": "9999-12-31T00:00:00.000Z"},
        "plan": limits.plan.name,
        "status": "limit_exceeded" if limits.usage > limits.usage_limit else "active",
        "credits": {"used": used, "limit": limit, "remaining": limit - used} if personal else None,
        "storage": {"usedBytes": 0, "limitBytes": 5_368_709_120, "percentUsed": 0} if personal else None,
    }
    return answer(200, {"data": data})


async def unknown(request: Request) -> Response:
    """A path or method that v2 doesn't have."""
    state = state_of(request)
    if not state.profile.v2:
        return page_not_found()
    if any(route.matches(request.scope)[0].value == 1 for route in ROUTES):
        return empty(405)
    return Failure(404, "Not found").answer({})


ROUTES: list[Route] = [
    execute,
    cancel_run,
    resume_run,
    get_run,
    list_runs,
    list_logs,
    get_log,
    import_workflow,
    list_workflows,
    get_workflow,
    delete_workflow,
    get_deployment,
    deploy,
    undeploy,
    list_versions,
    list_workspaces,
    billing_status,
]
