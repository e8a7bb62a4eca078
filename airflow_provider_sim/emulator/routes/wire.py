"""Responses, request bodies, errors and event streams that all APIs share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.request_context import POLL_INTERVAL, Faults, RequestContext
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import ApiError, Key, State
from airflow_provider_sim.emulator.workflows import at_path, new_name

MAX_BODY_BYTES = 10 * 1024 * 1024


def state_of(request: Request) -> State:
    state: State = request.app.state.sim
    return state


def faults_of(request: Request) -> Faults:
    return Faults({fault.name: fault for fault in RequestContext.of(request).faults})


def find_key(request: Request) -> Key | None:
    """Return the request's API key if it is valid and the key store is available."""
    if "auth_outage" in faults_of(request):
        return None
    return state_of(request).keys.find(request.headers.get("x-api-key"))


def json_response(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Response:
    all_headers = {"x-request-id": new_name(8), "content-type": "application/json", **(headers or {})}
    return Response(_json(body), status, all_headers)


def _json(value: Any, **options: Any) -> bytes:
    """Encode JSON as Sim does: in UTF-8, with lone surrogates escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, **options).encode()
    except UnicodeEncodeError:
        return json.dumps(value, **options).encode()


def empty_response(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response without a body, as Sim's web framework does for a wrong method."""
    return Response(b"", status, dict(headers or {}))


def html_page(status: int, title: str, text: str) -> Response:
    title, text = escape(title), escape(text)
    page = f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1>{text}</body></html>"
    return Response(page, status, {"content-type": "text/html; charset=utf-8"})


def not_found_page() -> Response:
    """Return the web page for paths without a route."""
    return html_page(404, "404", "This page could not be found.")


def rate_headers(bucket: Bucket) -> dict[str, str]:
    return {
        "x-ratelimit-limit": str(bucket.capacity),
        "x-ratelimit-remaining": str(bucket.remaining),
        "x-ratelimit-reset": str(iso(bucket.reset)),
    }


async def read_body(request: Request, too_large: str, maximum: int = MAX_BODY_BYTES) -> bytes:
    """Return the request's body, or raise an error with this message if it is larger than ``maximum`` bytes."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > maximum:
        raise ApiError(413, too_large)
    return await request.body()


def type_name(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


async def run_started(request: Request, run: Run, *, wait: bool) -> None:
    """Enter the stage ``accepted``; ``wait`` then waits until the run has finished or paused."""
    state = state_of(request)
    state.in_flight += 1
    try:
        await RequestContext.of(request).accept()
        if wait:
            await _wait_for_end(request, run)
    finally:
        state.in_flight -= 1


async def _wait_for_end(request: Request, run: Run) -> None:
    """Wait until a run has finished or paused; cancel it if its caller disconnects."""
    while run.status in ("queued", "running"):
        remaining = run.first_leg_ends_at - run.now()
        await asyncio.sleep(min(max(remaining, 0.0), POLL_INTERVAL))
        if await request.is_disconnected():
            run.abandon()
            return


def event_stream(request: Request, run: Run, selected: list[str]) -> StreamingResponse:
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-request-id": new_name(8)}
    return StreamingResponse(_events(request, run, selected), 200, headers)


async def _events(request: Request, run: Run, selected: list[str]) -> AsyncIterator[bytes]:
    workflow = run.workflow
    streamed = [name for name in selected if workflow.chunks is not None and workflow.selects(name) is not None]
    try:
        if streamed and workflow.chunks is not None:
            for chunk in workflow.chunks(run.input):
                await asyncio.sleep(workflow.chunk_delay)
                yield _event({"blockId": workflow.block_id, "chunk": chunk})
        await _wait_for_end(request, run)
        yield _event(_last_event(state_of(request), run, selected, streamed))
        yield b'data: "[DONE]"\n\n'
    finally:
        run.abandon()  # no effect on a finished run


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(value, separators=(",", ":")) + b"\n\n"


def _last_event(state: State, run: Run, selected: list[str], streamed: list[str]) -> dict[str, Any]:
    status = run.status
    if status == "failed":
        return {"event": "error", "error": (run.error or ("Execution failed", ""))[0]}
    output: Any = state.output_of(run)
    if status == "completed" and selected:
        output = _selected_outputs(run, [name for name in selected if name not in streamed])
    data = {"success": status != "cancelled", "output": output if output is not None else {}}
    if status == "paused":
        data["status"] = "paused"
    return {"event": "final", "data": data}


def _selected_outputs(run: Run, selectors: list[str]) -> dict[str, Any]:
    """Return the selected outputs that exist, by block ID and path, as the last event has them."""
    block_id, found = run.workflow.block_id, {}
    output = run.block_outputs([block_id]).get(block_id)
    for selector in selectors:
        path = run.workflow.selects(selector)
        parent = at_path(output, path[:-1]) if path else None
        if path and isinstance(parent, dict) and path[-1] in parent:
            found[".".join(path)] = parent[path[-1]]
    return {block_id: found} if found else {}
