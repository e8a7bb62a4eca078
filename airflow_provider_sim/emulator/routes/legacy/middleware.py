"""Authentication, visibility and body checks of the legacy API, whose routes differ in their messages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.routes.wire import find_key, json_response, read_body, state_of, type_name
from airflow_provider_sim.emulator.state import ApiError, Key
from airflow_provider_sim.emulator.workflows import Workflow, new_name

Handler = Callable[[Request], Awaitable[Response]]
ROUTES: list[Route] = []


def route(name: str, method: str, path: str) -> Callable[[Handler], Handler]:

    def decorate(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            try:
                return await handler(request)
            except ApiError as error:
                return json_response(error.status, {"error": error.message, **(error.details or {})}, error.headers)

        ROUTES.append(Route(f"/api{path}", endpoint, methods=[method], name=name))
        return handler

    return decorate


def authenticate(
    request: Request, missing: str = "Unauthorized", wrong: str = "Invalid API key", *, coded: bool = False, **more: Any
) -> Key:
    """Return the request's API key, or raise an error if it is missing or invalid.

    :param missing: the message without a key, and ``wrong``: the message for an invalid key.
    :param coded: add a code that is derived from the message, and ``more``: add further fields.
    """
    key = find_key(request)
    if key is None:
        message = wrong if request.headers.get("x-api-key") else missing
        code = {"code": message.upper().replace(" ", "_")} if coded else {}
        raise ApiError(401, message, {**more, **code})
    return key


def visible_workflow(request: Request) -> Workflow:
    """Return the path's workflow, for routes that respond with 404 to a key without access."""
    key = authenticate(request, wrong="Unauthorized", requestId=new_name(8))
    workflow = state_of(request).find_workflow(request.path_params["workflow_id"], key)
    if workflow is None:
        raise ApiError(404, "Workflow not found", {"code": "WORKFLOW_NOT_FOUND", "requestId": new_name(8)})
    return workflow


async def json_object(request: Request) -> dict[str, Any]:
    """Return the body, which must be a JSON object or empty."""
    raw = await read_body(request, "Workflow execution request body exceeds maximum size")
    try:
        body = json.loads(raw) if raw.strip() else {}
    except ValueError:
        raise ApiError(400, "Invalid JSON in request body") from None
    if not isinstance(body, dict):
        message = f"Invalid input: expected object, received {type_name(body)}"
        raise ApiError(400, "Invalid request body", {"details": [{"path": "", "message": message}]})
    return body
