"""The ASGI application: all routes behind the middleware that applies faults."""

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
from airflow_provider_sim.emulator.request_context import RequestContext, request_info
from airflow_provider_sim.emulator.routes import legacy, pages, v1, v2
from airflow_provider_sim.emulator.routes.v2.middleware import error_response
from airflow_provider_sim.emulator.routes.wire import empty_response, not_found_page, state_of
from airflow_provider_sim.emulator.state import ApiError, State

API = (*v2.ROUTES, *v1.ROUTES, *legacy.ROUTES)


class FaultMiddleware:
    """Records each request and applies the faults of the rules."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(control.PREFIX):
            await self._app(scope, receive, send)
            return
        state: State = scope["app"].state.sim
        context = RequestContext(
            *(scope, receive, send),
            clock=state.clock,
            connections=state.connections,
            record=state.record,
        )
        try:
            if state.fault_rules:
                is_transfer = scope["method"] == "PUT"  # of a file's content, of any size
                context.info = request_info(scope, b"" if is_transfer else await context.read_body(), API)
                if not context.finished:
                    context.faults = state.fault_rules.apply(context.info)
            await context.handle(self._app)
        except ClientDisconnect:  # while it sent the request
            pass
        except asyncio.CancelledError:  # the server stops; uvicorn would log a traceback
            await context.cut()


async def _no_route(request: Request) -> Response:
    path = request.url.path
    if request.method == "OPTIONS":
        return Response(status_code=204)
    if path.endswith("/") and path != "/":
        return empty_response(308, {"location": path.rstrip("/")})
    if any(route.path_regex.match(path) for route in API):
        return empty_response(405)
    if path.startswith("/api/v2/") and state_of(request).profile.v2:
        return error_response(ApiError(404, "Not found"))
    return not_found_page()


def application(state: State, reset: Callable[[], None]) -> Starlette:
    """Build the application.

    :param reset: called to replace the state by a new one.
    """
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app = Starlette(
        routes=[*control.ROUTES, *API, *pages.ROUTES, Route("/{path:path}", _no_route, methods=methods)],
        middleware=[Middleware(FaultMiddleware)],
        exception_handlers={405: lambda _request, _error: empty_response(405)},
    )
    app.router.redirect_slashes = False
    app.state.sim = state
    app.state.reset = reset
    return app
