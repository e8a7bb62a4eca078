"""The surfaces as one application, with the seam through which every request goes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_sim.emulator.state import SeenRequest, State
from airflow_provider_sim.emulator.surfaces import legacy, v1, v2
from airflow_provider_sim.emulator.surfaces.wire import empty, page_not_found


class Seam:
    """What every request passes: it is recorded here. Faults that a test orders belong here, too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record it once its answer has begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: State = scope["app"].state.sim
        body: list[bytes] = []

        async def receive_and_keep() -> Message:
            message = await receive()
            body.append(message.get("body", b""))
            return message

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
                headers.pop("x-api-key", None)
                path = scope["raw_path"].decode()
                if scope["query_string"]:
                    path += f"?{scope['query_string'].decode()}"
                sent = b"".join(body)
                state.record(SeenRequest(scope["method"], path, headers, sent, message["status"]))
            await send(message)

        await self._app(scope, receive_and_keep, send_and_record)


async def _otherwise(request: Request) -> Response:
    """Whatever no route is for."""
    path = request.url.path
    if request.method == "OPTIONS":
        return Response(status_code=204)
    if path.endswith("/") and path != "/":
        return empty(308, {"location": path.rstrip("/")})
    if any(route.path_regex.match(path) for route in (*v2.ROUTES, *legacy.ROUTES, *v1.ROUTES)):
        return empty(405)
    if path.startswith("/api/v2/"):
        return await v2.unknown(request)
    return page_not_found()


def application(state: State) -> Starlette:
    """Build the server around its memory."""
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app = Starlette(
        routes=[
            *v2.ROUTES,
            *v1.ROUTES,
            *legacy.ROUTES,
            Route("/{path:path}", _otherwise, methods=methods),
        ],
        middleware=[Middleware(Seam)],
        exception_handlers={405: lambda _request, _error: empty(405)},
    )
    app.router.redirect_slashes = False
    app.state.sim = state
    return app
