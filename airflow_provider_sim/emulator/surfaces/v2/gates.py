"""What every v2 request passes: address, key, switch, rate, query; and how v2 refuses."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.keys import Key
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.surfaces.wire import (
    BodyTooLargeError,
    answer,
    body_of,
    page_not_found,
    rate_headers,
    state_of,
    trouble_of,
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
    499: "CLIENT_CLOSED_REQUEST",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
_COMMON = {"cache-control": "private, no-store"}
_CHALLENGE = {"www-authenticate": 'SimApiKey realm="Sim API", header="x-api-key"'}
ID = re.compile(r"[A-Za-z0-9._:-]+")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z")
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


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
        check_run_id(run_id, "runId")
        found = self.state.find_run(self.path("workflow_id"), run_id, self.key)
        if found is None:
            raise Failure(404, "Run not found")
        return found


Handler = Callable[[Call], Awaitable[Response]]


def route(
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
                bucket = trouble_of(request).bucket("requests", state.limits.endpoint(operation, key.value))
                allowed = bucket.take()
                headers = rate_headers(bucket)
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
    trouble = trouble_of(request)
    address = trouble.bucket("address", state.limits.address)
    if (state.limits.per_address or trouble.limit == "address") and not address.take():
        raise _limited(address, rate_headers(address))
    value = request.headers.get("x-api-key")
    if value and trouble.keys_down:
        raise Failure(503, "Service temporarily unavailable", None, {"retry-after": "5"})
    key = state.keys.find(value)
    if key is None:
        raise Failure(401, "Invalid API key" if value else without_key, None, _CHALLENGE)
    if not state.profile.v2_on:
        raise Failure(404, "Not found")
    return key


def _limited(bucket: Bucket, headers: Mapping[str, str] | None = None) -> Failure:
    waiting = {"retry-after": str(bucket.retry_after), **(headers or {})}
    return Failure(429, "API rate limit exceeded", {"retryAfter": iso(bucket.reset)}, waiting)


def issue(code: str, path: list[str], message: str, **more: Any) -> Failure:
    """A validation error with one issue."""
    return Failure(400, message, [{**more, "code": code, "path": path, "message": message}])


def _check_query(request: Request, known: Iterable[str], required: Iterable[str]) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise unrecognized(unknown)
    for name in required:
        if name not in request.query_params:
            words = {"workspaceId": "Workspace ID is required"}.get(name, f"{name} is required")
            raise issue("invalid_type", [name], words, expected="string")


def unrecognized(keys: list[str]) -> Failure:
    quoted = ", ".join(f'"{key}"' for key in keys)
    return issue("unrecognized_keys", [], f"Unrecognized key{'s' if len(keys) > 1 else ''}: {quoted}", keys=keys)


def check_run_id(run_id: str, name: str) -> None:
    if not ID.fullmatch(run_id):
        raise issue(
            "invalid_format",
            [name],
            "Run ID can only contain letters, numbers, dots, underscores, colons, and hyphens",
            origin="string",
            format="regex",
            pattern="/^[A-Za-z0-9._:-]+$/",
        )
    if len(run_id) > 128:
        raise issue("too_big", [name], "Run ID too long", origin="string", maximum=128, inclusive=True)


def kind_of(value: Any) -> str:
    """A value's type as validation messages name it."""
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def mistyped(path: list[str], expected: str, value: Any) -> Failure:
    message = f"Invalid input: expected {expected}, received {kind_of(value)}"
    return issue("invalid_type", path, message, expected=expected)


async def json_object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await body_of(request))
    except BodyTooLargeError:
        raise Failure(413, "Request body is too large") from None
    except ValueError:
        raise Failure(400, "Request body must be valid JSON") from None
    if not isinstance(body, dict):
        raise mistyped([], "object", body)
    return body


def check_workspace(call: Call, workspace_id: str) -> None:
    if workspace_id not in (call.state.workspace_id, call.state.keys.other_user.workspace_id):
        raise Failure(404, "Workspace not found")
    if workspace_id != call.key.workspace_id:
        personal = call.key.kind == "personal"
        raise Failure(
            403, "Insufficient workspace permissions" if personal else "Workspace API key cannot access this workspace"
        )
