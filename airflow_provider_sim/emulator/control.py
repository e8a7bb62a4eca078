"""``/__emulator__``: for tests in another process to order faults, and to see what the server has seen.

None of it is Sim's. It needs no key, and is not recorded among the requests.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.exchange import SeenRequest
from airflow_provider_sim.emulator.faults import fault_named
from airflow_provider_sim.emulator.orders import Count, Hold, Match, Order
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.surfaces.wire import answer, state_of

PREFIX = "/__emulator__/"

Handler = Callable[[Request], Awaitable[Any]]


def _route(path: str, method: str) -> Callable[[Handler], Route]:
    """Make a handler a route: its result is the answer, a ValueError the caller's mistake."""

    def decorate(handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return answer(200, await handler(request))
            except ValueError as error:
                return answer(400, {"error": str(error)})

        return Route(PREFIX + path, endpoint, methods=[method], name=handler.__name__)

    return decorate


async def _fields(request: Request, *known: str) -> dict[str, Any]:
    """The body's fields.

    :param known: which there are; any, if none are named.
    :raises ValueError: it is no JSON object, or has others.
    """
    try:
        body = json.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    if known and set(body) != set(known):
        raise ValueError(f"the body must have {', '.join(known)}, and nothing else")
    return body


@_route("faults", "POST")
async def order_fault(request: Request) -> dict[str, Any]:
    """Order a fault: its name as ``fault``, the rest as in Python."""
    body = await _fields(request)
    counting = {name: body.pop(name) for name in ("times", "after", "lasting") if name in body}
    match = Match.of(body.pop("match", None))
    order = Order(fault_named(body.pop("fault", ""), body), match, Count(**counting))
    state_of(request).orders.add(order)
    return order.told()


@_route("faults", "GET")
async def list_faults(request: Request) -> dict[str, Any]:
    """Every fault that was ordered, with how many requests it has struck."""
    return {"faults": [order.told() for order in state_of(request).orders if not isinstance(order, Hold)]}


@_route("faults", "DELETE")
async def clear_faults(request: Request) -> dict[str, Any]:
    """Take all faults back."""
    return {"cleared": state_of(request).orders.undo(lambda order: not isinstance(order, Hold))}


@_route("faults/{number:int}", "DELETE")
async def clear_fault(request: Request) -> dict[str, Any]:
    """Take one fault back."""
    number = request.path_params["number"]
    return {"cleared": state_of(request).orders.undo(lambda order: order.number == number)}


@_route("runs", "GET")
async def list_runs(request: Request) -> dict[str, Any]:
    """Every run, in the order of their starts."""
    return {"runs": [_run(run) for run in state_of(request).runs.values()]}


def _run(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "workflow_id": run.workflow_id,
        "mode": run.mode,
        "input": run.input,
        "status": run.status,
        "refused": run.refused,
        "created_at": iso(run.created_at),
        "ended_at": iso(run.ended_at),
    }


@_route("requests", "GET")
async def list_requests(request: Request) -> dict[str, Any]:
    """Every request, in the order of their answers."""
    return {"requests": [_seen(seen) for seen in state_of(request).requests]}


def _seen(seen: SeenRequest) -> dict[str, Any]:
    return {
        "method": seen.method,
        "path": seen.path,
        "headers": dict(seen.headers),
        "body": seen.body.decode(errors="replace"),
        "status": seen.status,
        "faults": seen.faults,
    }


@_route("clock", "POST")
async def advance_clock(request: Request) -> dict[str, Any]:
    """Move time on by ``advance`` seconds."""
    seconds = (await _fields(request, "advance"))["advance"]
    if type(seconds) not in (int, float) or seconds < 0:
        raise ValueError(f"advance is a number of seconds, not {seconds!r}")
    clock = state_of(request).clock
    clock.advance(seconds)
    return {"now": iso(clock.now())}


@_route("reset", "POST")
async def reset(request: Request) -> dict[str, Any]:
    """Become a new server."""
    request.app.state.reset()
    return {}


async def _nothing(request: Request) -> Response:
    """Say what there is."""
    there = ", ".join(f"{' '.join(sorted((route.methods or set()) - {'HEAD'}))} {route.path}" for route in _ROUTES)
    return answer(404, {"error": f"there is no {request.method} {request.url.path}; there are {there}"})


_ROUTES = [
    order_fault,
    list_faults,
    clear_faults,
    clear_fault,
    list_runs,
    list_requests,
    advance_clock,
    reset,
]
ROUTES = [*_ROUTES, Route(PREFIX + "{path:path}", _nothing, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])]
