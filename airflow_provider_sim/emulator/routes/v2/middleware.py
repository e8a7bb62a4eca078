"""Checks that every v2 request passes (address, API key, switch, rate limit, query), and v2's error responses."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.routes import wire
from airflow_provider_sim.emulator.routes.wire import faults_of, json_response, rate_headers, state_of
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.state import ApiError, Key, State
from airflow_provider_sim.emulator.workflows import Workflow

CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    402: "USAGE_LIMIT_EXCEEDED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "RATE_LIMITED",
    499: "CLIENT_CLOSED_REQUEST",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
_HEADERS = {"cache-control": "private, no-store"}
_CHALLENGE = {"www-authenticate": 'SimApiKey realm="Sim API", header="x-api-key"'}
_ID = re.compile(r"[A-Za-z0-9._:-]+")
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Call(NamedTuple):
    """A request that has passed the checks."""

    state: State
    request: Request
    key: Key

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    def workflow(self) -> Workflow:
        found = self.state.find_workflow(self.request.path_params["workflow_id"], self.key)
        if found is None:
            raise ApiError(404, "Workflow not found")
        if self.state.personal_key_refused(self.key):
            message = "Personal API keys are not allowed for this workspace"
            raise ApiError(403, message, {"code": "PERSONAL_API_KEYS_DISABLED"})
        return found

    def run(self) -> Run:
        run_id = self.request.path_params["run_id"]
        check_run_id(run_id, "runId")
        found = self.state.find_run(self.request.path_params["workflow_id"], run_id, self.key)
        if found is None:
            raise ApiError(404, "Run not found")
        return found

    def check_workspace(self, workspace_id: str | None) -> None:
        """Raise an error if the workspace is missing or the key may not access it."""
        if workspace_id is None:
            raise missing_workspace()
        if workspace_id not in (self.state.workspace_id, self.state.keys.other_user.workspace_id):
            raise ApiError(404, "Workspace not found")
        if workspace_id != self.key.workspace_id:
            personal = "Insufficient workspace permissions"
            message = personal if self.key.kind == "personal" else "Workspace API key cannot access this workspace"
            raise ApiError(403, message)


Handler = Callable[[Call], Awaitable[Response]]
ROUTES: list[Route] = []


def route(name: str, method: str, path: str, query: str = "") -> Callable[[Handler], Handler]:
    """Add a route, with its own rate limit, whose handler is called after the checks.

    :param query: the known query parameters, separated by spaces.
    """

    def decorate(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            state = state_of(request)
            if not state.profile.v2:
                return wire.not_found_page()
            headers: dict[str, str] = {}
            try:
                key = _authenticate(state, request, "Unauthorized" if name == "execute" else "API key required")
                bucket = faults_of(request).bucket("requests", state.limits.endpoint(name, key.value))
                allowed = bucket.take()
                headers = rate_headers(bucket)
                if not allowed:
                    raise _rate_limited(bucket)
                check_known(request.query_params, query.split())
                response = await handler(Call(state, request, key))
            except ApiError as error:
                return error_response(error, headers)
            for header, value in {**_HEADERS, **headers}.items():
                response.headers.setdefault(header, value)
            return response

        ROUTES.append(Route(f"/api/v2{path}", endpoint, methods=[method], name=name))
        return handler

    return decorate


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    body = {"code": CODES[error.status], "message": error.message}
    if error.details is not None:
        body["details"] = error.details
    return json_response(error.status, {"error": body}, {**_HEADERS, **(headers or {}), **error.headers})


def _authenticate(state: State, request: Request, without_key: str) -> Key:
    faults = faults_of(request)
    address = faults.bucket("address", state.limits.address)
    if (state.limits.per_address or faults.exhaust("address")) and not address.take():
        raise _rate_limited(address, rate_headers(address))
    has_key = bool(request.headers.get("x-api-key"))
    if has_key and "auth_outage" in faults:
        raise ApiError(503, "Service temporarily unavailable", None, {"retry-after": "5"})
    key = wire.find_key(request)
    if key is None:
        raise ApiError(401, "Invalid API key" if has_key else without_key, None, _CHALLENGE)
    if not state.profile.v2_on:
        raise ApiError(404, "Not found")
    return key


def _rate_limited(bucket: Bucket, headers: Mapping[str, str] | None = None) -> ApiError:
    headers = {"retry-after": str(bucket.retry_after), **(headers or {})}
    return ApiError(429, "API rate limit exceeded", {"retryAfter": iso(bucket.reset)}, headers)


def invalid(code: str, path: list[str], message: str, **more: Any) -> ApiError:
    return ApiError(400, message, [{**more, "code": code, "path": path, "message": message}])


def missing_workspace() -> ApiError:
    return invalid("invalid_type", ["workspaceId"], "Workspace ID is required", expected="string")


def invalid_cursor() -> ApiError:
    return ApiError(400, "cursor is not a valid pagination cursor. Restart pagination without a cursor.")


def out_of_range(path: list[str], message: str, origin: str = "number", **limit: int) -> ApiError:
    """Return the validation error for a value beyond its ``minimum`` or ``maximum``."""
    code = "too_small" if "minimum" in limit else "too_big"
    return invalid(code, path, message, origin=origin, **limit, inclusive=True)


def wrong_type(path: list[str], expected: str, value: Any) -> ApiError:
    message = f"Invalid input: expected {expected}, received {wire.type_name(value)}"
    return invalid("invalid_type", path, message, expected=expected)


def check_known(names: Iterable[str], known: Iterable[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        quoted = ", ".join(f'"{name}"' for name in unknown)
        plural = "s" if len(unknown) > 1 else ""
        raise invalid("unrecognized_keys", [], f"Unrecognized key{plural}: {quoted}", keys=unknown)


def check_run_id(run_id: str, name: str) -> None:
    if not _ID.fullmatch(run_id):
        message = "Run ID can only contain letters, numbers, dots, underscores, colons, and hyphens"
        pattern = "/^[A-Za-z0-9._:-]+$/"
        raise invalid("invalid_format", [name], message, origin="string", format="regex", pattern=pattern)
    if len(run_id) > 128:
        raise out_of_range([name], "Run ID too long", origin="string", maximum=128)


async def json_object(
    request: Request, *, optional: bool = False, maximum: int = wire.MAX_BODY_BYTES
) -> dict[str, Any]:
    """Return the body, which must be a JSON object; ``{}`` for an empty body that is ``optional``."""
    raw = await wire.read_body(request, "Request body is too large", maximum)
    if optional and not raw:
        return {}
    try:
        body = json.loads(raw)
    except ValueError:
        raise ApiError(400, "Request body must be valid JSON") from None
    if not isinstance(body, dict):
        raise wrong_type([], "object", body)
    return body


def limit_of(call: Call, *, default: int, maximum: int, clamp: bool = False) -> int:
    text = call.query.get("limit")
    if text is None:
        return default
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise out_of_range(["limit"], "limit must be at least 1", minimum=1)
    if number > maximum and not clamp:
        raise out_of_range(["limit"], f"limit cannot exceed {maximum}", maximum=maximum)
    return min(number, maximum)


def page(call: Call, items: list[dict[str, Any]], limit: int) -> Response:
    """Return one page of items; a cursor is the encoded ID of a page's last item."""
    cursors = [base64.b64encode(item["id"].encode()).decode() for item in items]
    cursor = call.query.get("cursor")
    if cursor is not None and cursor not in cursors:
        raise invalid_cursor()
    begin = 0 if cursor is None else cursors.index(cursor) + 1
    end = begin + limit
    next_cursor = cursors[end - 1] if end < len(items) else None
    return json_response(200, {"data": items[begin:end], "nextCursor": next_cursor})
