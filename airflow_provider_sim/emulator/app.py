"""The surfaces as one application, with the seam through which every request goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_provider_sim.emulator import control
from airflow_provider_sim.emulator.connections import Connections
from airflow_provider_sim.emulator.exchange import Exchange, asked_of
from airflow_provider_sim.emulator.faults import HEADER, fault_of_header
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.surfaces import legacy, pages, v1, v2
from airflow_provider_sim.emulator.surfaces.wire import answer, empty, page_not_found

API = (*v2.ROUTES, *v1.ROUTES, *legacy.ROUTES)


class Seam:
    """What every request passes: what was ordered to happen to it happens here, and it is recorded."""

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app = app
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["path"].startswith(control.PREFIX):
            await self._app(scope, receive, send)
            return
        state: State = scope["app"].state.sim
        exchange = Exchange(scope, receive, send, state, self._connections)
        try:
            own = [fault_of_header(value.decode("latin-1")) for name, value in scope["headers"] if name == HEADER]
        except ValueError as error:
            await exchange.answer(answer(400, {"error": f"{HEADER.decode()}: {error}"}))
            return
        try:
            if own or state.orders.are_any:
                body = await exchange.read_body()
                exchange.meet(asked_of(scope, body, API), own, state.orders.strike)
            await exchange.carry_out(self._app)
        except ClientDisconnect:  # in the middle of its request
            pass
        except asyncio.CancelledError:  # the server stops; uvicorn would write a traceback
            await exchange.cut()


async def _otherwise(request: Request) -> Response:
    """Whatever no route is for."""
    path = request.url.path
    if request.method == "OPTIONS":
        return Response(status_code=204)
    if path.endswith("/") and path != "/":
        return empty(308, {"location": path.rstrip("/")})
    if any(route.path_regex.match(path) for route in API):
        return empty(405)
    if path.startswith("/api/v2/"):
        return await v2.unknown(request)
    return page_not_found()


def application(state: State, connections: Connections, reset: Callable[[], None]) -> Starlette:
    """Build the server.

    :param state: its memory, and ``reset`` what gives it another.
    :param connections: its callers'.
    """
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app = Starlette(
        routes=[
            *control.ROUTES,
            *API,
            *pages.ROUTES,
            Route("/{path:path}", _otherwise, methods=methods),
        ],
        middleware=[Middleware(Seam, connections=connections)],
        exception_handlers={405: lambda _request, _error: empty(405)},
    )
    app.router.redirect_slashes = False
    app.state.sim = state
    app.state.reset = reset
    return app
