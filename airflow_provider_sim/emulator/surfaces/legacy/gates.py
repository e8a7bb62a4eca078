"""What legacy requests pass, each route in its own words: key, visibility, body; and how they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.ids import new_name
from airflow_provider_sim.emulator.keys import Key
from airflow_provider_sim.emulator.profiles import Profile
from airflow_provider_sim.emulator.surfaces.wire import (
    BodyTooLargeError,
    answer,
    body_of,
    page_not_found,
    state_of,
    trouble_of,
)
from airflow_provider_sim.emulator.workflows import Workflow

JOB_PREFIX = "workflow-execution:"
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Failure(Exception):
    """An error answer: ``error`` and whatever else the body holds."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(error)
        self.status, self.body, self.headers = status, {"error": error, **more}, headers


Handler = Callable[[Request], Awaitable[Response]]


def route(
    path: str, method: str, *, had_by: Callable[[Profile], bool] = lambda profile: True
) -> Callable[[Handler], Route]:
    """Make a handler a route.

    :param had_by: which versions have it; in others there is no such page.
    """

    def decorate(handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            if not had_by(state_of(request).profile):
                return page_not_found()
            try:
                return await handler(request)
            except Failure as failure:
                return answer(failure.status, failure.body, failure.headers)

        return Route(f"/api{path}", endpoint, methods=[method], name=handler.__name__)

    return decorate


def _code_of(message: str, coded: bool) -> dict[str, Any]:
    """The code that some routes make of their message."""
    return {"code": message.upper().replace(" ", "_")} if coded else {}


def key_of(request: Request, missing: str, wrong: str | None = None, *, coded: bool = False, **more: Any) -> Key:
    """The request's key.

    :param missing: what the route says without a key, and with a wrong one unless ``wrong`` is given.
    :raises Failure: there is none, or it is none of ours.
    """
    value = request.headers.get("x-api-key")
    key = None if trouble_of(request).keys_down else state_of(request).keys.find(value)
    if key is None:
        message = (wrong or missing) if value else missing
        raise Failure(401, message, None, **more, **_code_of(message, coded))
    return key


def visible_workflow(request: Request) -> Workflow:
    """The path's workflow, for routes that hide what the key may not see."""
    key = key_of(request, "Unauthorized", requestId=new_name(8))
    workflow = state_of(request).find_workflow(request.path_params["workflow_id"], key)
    if workflow is None:
        raise Failure(404, "Workflow not found", code="WORKFLOW_NOT_FOUND", requestId=new_name(8))
    return workflow


async def body_as_object(request: Request) -> dict[str, Any]:
    try:
        raw = await body_of(request)
    except BodyTooLargeError:
        raise Failure(413, "Workflow execution request body exceeds maximum size") from None
    try:
        body = json.loads(raw) if raw.strip() else {}
    except ValueError:
        raise Failure(400, "Invalid JSON in request body") from None
    if not isinstance(body, dict):
        kind = {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(body), "number")
        issue = {"path": "", "message": f"Invalid input: expected object, received {kind}"}
        raise Failure(400, "Invalid request body", details=[issue])
    return body
