"""Answers, bodies and held-open runs: what all surfaces share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.exchange import SLICE, Exchange, Trouble
from airflow_provider_sim.emulator.ids import new_name
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.workflows import at_path

MAX_BODY_BYTES = 10 * 1024 * 1024


class BodyTooLargeError(Exception):
    """The request's body is over Sim's limit."""


def state_of(request: Request) -> State:
    """The server's memory."""
    state: State = request.app.state.sim
    return state


def trouble_of(request: Request) -> Trouble:
    """What is to go wrong with a request."""
    exchange: Exchange = request.scope["sim.exchange"]
    return exchange.trouble


def answer(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer, with a request id."""
    given = {"x-request-id": new_name(8), "content-type": "application/json", **(headers or {})}
    return Response(_json(body), status, given)


def _json(value: Any, **options: Any) -> bytes:
    """JSON as Sim sends it: in UTF-8, with half a surrogate pair escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, **options).encode()
    except UnicodeEncodeError:
        return json.dumps(value, **options).encode()


def empty(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An answer without a body, as the web framework below Sim gives for a wrong method."""
    return Response(b"", status, dict(headers or {}))


def page(status: int, title: str, words: str) -> Response:
    """A web page."""
    title, words = escape(title), escape(words)
    text = f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1>{words}</body></html>"
    return Response(text, status, {"content-type": "text/html; charset=utf-8"})


def page_not_found() -> Response:
    """The web page for paths that no route is at."""
    return page(404, "404", "There is no such page.")


def rate_headers(bucket: Bucket) -> dict[str, str]:
    """What v1 and v2 tell of a bucket of requests in each answer."""
    return {
        "x-ratelimit-limit": str(bucket.capacity),
        "x-ratelimit-remaining": str(bucket.remaining),
        "x-ratelimit-reset": str(iso(bucket.reset)),
    }


async def body_of(request: Request) -> bytes:
    """The request's body.

    :raises BodyTooLargeError: it is over 10 MiB.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    return await request.body()


async def begin(request: Request, run: Run, *, held_open: bool) -> None:
    """A request has started its run: here it may be held up or cut off, and ``held_open`` waits for the run's end."""
    state = state_of(request)
    exchange: Exchange = request.scope["sim.exchange"]
    state.in_flight += 1
    try:
        await exchange.accept()
        if held_open:
            await see_to_end(request, run)
    finally:
        state.in_flight -= 1


async def see_to_end(request: Request, run: Run) -> bool:
    """Wait until a run has ended or paused; a caller who hangs up cancels it.

    :returns: whether the caller is still there.
    """
    while run.status in ("queued", "running"):
        rest = run.first_leg_ends_at - run.now()
        await asyncio.sleep(min(max(rest, 0.0), SLICE))
        if await request.is_disconnected():
            run.abandon()
            return False
    return True


def event_stream(
    state: State, request: Request, run: Run, selected: list[str], headers: Mapping[str, str]
) -> StreamingResponse:
    """A run as server-sent events."""
    given = {
        "content-type": "text/event-stream",
        "cache-control": "no-cache",
        "x-request-id": new_name(8),
        **headers,
    }
    return StreamingResponse(_frames(state, request, run, selected), 200, given)


async def _frames(state: State, request: Request, run: Run, selected: list[str]) -> AsyncIterator[bytes]:
    workflow = run.workflow
    streamed = [name for name in selected if workflow.chunks is not None and workflow.selects(name) is not None]
    try:
        if streamed and workflow.chunks is not None:
            for chunk in workflow.chunks(run.input):
                await asyncio.sleep(workflow.chunk_delay)
                yield _frame({"blockId": workflow.block_id, "chunk": chunk})
        await see_to_end(request, run)
        yield _frame(_last_event(state, run, selected, streamed))
        yield b'data: "[DONE]"\n\n'
    finally:
        run.abandon()  # if it still goes on, the reader has hung up


def _frame(value: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(value, separators=(",", ":")) + b"\n\n"


def _last_event(state: State, run: Run, selected: list[str], streamed: list[str]) -> dict[str, Any]:
    status = run.status
    if status == "failed":
        return {"event": "error", "error": (run.error or ("Execution failed", ""))[0]}
    output: Any = run.output(base_url=state.base_url, workspace_id=state.workspace_id)
    if status == "completed" and selected:
        output = _selected(run, [name for name in selected if name not in streamed])
    data = {"success": status != "cancelled", "output": output if output is not None else {}}
    if status == "paused":
        data["status"] = "paused"
    return {"event": "final", "data": data}


def _selected(run: Run, selectors: list[str]) -> dict[str, Any]:
    """Selected block outputs as the final frame holds them: by block id, then by path; those that exist."""
    block_id, found = run.workflow.block_id, {}
    whole = run.block_outputs([block_id], ids_only=True).get(block_id)
    for selector in selectors:
        path = run.workflow.selects(selector)
        parent = at_path(whole, path[:-1]) if path else None
        if path and isinstance(parent, dict) and path[-1] in parent:
            found[".".join(path)] = parent[path[-1]]
    return {block_id: found} if found else {}
