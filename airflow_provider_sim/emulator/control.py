"""The control API ``/__emulator__``, by which other processes add faults and read what the server received.

It needs no API key, and its requests are not recorded.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.fault_rules import FaultRule, Hold, Match
from airflow_provider_sim.emulator.faults import create_fault
from airflow_provider_sim.emulator.routes.wire import json_response, state_of

PREFIX = "/__emulator__/"

Handler = Callable[[Request], Awaitable[Any]]
ROUTES: list[Route] = []


def _route(path: str, method: str) -> Callable[[Handler], Handler]:
    """Add a route: the handler's result is the response, a ValueError is a 400."""

    def decorate(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            try:
                return json_response(200, await handler(request))
            except ValueError as error:
                return json_response(400, {"error": str(error)})

        ROUTES.append(Route(PREFIX + path, endpoint, methods=[method]))
        return handler

    return decorate


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


@_route("faults", "POST")
async def add_fault(request: Request) -> dict[str, Any]:
    """Add a fault: its name as ``fault``, and the arguments of :meth:`.SimEmulator.fault`."""
    body = await _json_object(request)
    count = {name: body.pop(name) for name in ("times", "after") if name in body}
    match = Match.of(body.pop("match", None))
    rule = FaultRule(create_fault(body.pop("fault", ""), body), match, **count)
    state_of(request).fault_rules.add(rule)
    return rule.to_dict()


@_route("faults", "GET")
async def list_faults(request: Request) -> dict[str, Any]:
    return {"faults": [rule.to_dict() for rule in state_of(request).fault_rules if not isinstance(rule, Hold)]}


@_route("faults", "DELETE")
async def remove_faults(request: Request) -> dict[str, Any]:
    return {"removed": state_of(request).fault_rules.remove(lambda rule: not isinstance(rule, Hold))}


@_route("faults/{number:int}", "DELETE")
async def remove_fault(request: Request) -> dict[str, Any]:
    number = request.path_params["number"]
    return {"removed": state_of(request).fault_rules.remove(lambda rule: rule.number == number)}


@_route("runs", "GET")
async def list_runs(request: Request) -> dict[str, Any]:
    shown = ("run_id", "workflow_id", "mode", "input", "status", "refused")
    return {
        "runs": [
            {name: getattr(run, name) for name in shown}
            | {"created_at": iso(run.created_at), "ended_at": iso(run.ended_at)}
            for run in state_of(request).runs.values()
        ]
    }


@_route("files", "GET")
async def list_files(request: Request) -> dict[str, Any]:
    shown = ("file_id", "workspace_id", "folder_path", "name", "size", "content_type", "key", "sha256")
    return {"files": [{name: getattr(file, name) for name in shown} for file in state_of(request).files.existing]}


@_route("requests", "GET")
async def list_requests(request: Request) -> dict[str, Any]:
    recorded = state_of(request).requests
    return {"requests": [{**asdict(each), "body": each.body.decode(errors="replace")} for each in recorded]}


@_route("clock", "POST")
async def advance_clock(request: Request) -> dict[str, Any]:
    """Advance the clock by ``advance`` seconds."""
    body = await _json_object(request)
    if set(body) != {"advance"}:
        raise ValueError("the body must have advance, and nothing else")
    seconds = body["advance"]
    if type(seconds) not in (int, float) or seconds < 0:
        raise ValueError(f"advance is a number of seconds, not {seconds!r}")
    clock = state_of(request).clock
    clock.advance(seconds)
    return {"now": iso(clock.now())}


@_route("reset", "POST")
async def reset(request: Request) -> dict[str, Any]:
    request.app.state.reset()
    return {}


async def _no_route(request: Request) -> Response:
    routes = ", ".join(f"{' '.join(sorted((route.methods or set()) - {'HEAD'}))} {route.path}" for route in ROUTES[:-1])
    return json_response(404, {"error": f"unknown route {request.method} {request.url.path}; choose from {routes}"})


ROUTES.append(Route(PREFIX + "{path:path}", _no_route, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]))
