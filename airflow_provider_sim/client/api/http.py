"""HTTP requests and responses as values, and what all of Sim's responses have in common."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from airflow_provider_sim.client.api.fields import MissingFieldError, camel_case
from airflow_provider_sim.client.checks import check_run_id, check_workflow_id
from airflow_provider_sim.client.models import RateLimitInfo, epoch
from airflow_provider_sim.exceptions import Outcome, SimError, SimInputError, SimRedirectError, SimResponseError

if TYPE_CHECKING:
    from airflow_provider_sim.client.file_flows import Part

_T = TypeVar("_T")

MAX_BODY_BYTES = 10 * 1024 * 1024  # Sim rejects larger request bodies with 413; its proxy may truncate them silently
RATE_WINDOW = 60.0  # seconds; a bucket is refilled once per window, by half its capacity
ADDRESS_BUCKET = "address"  # spent by every request to v2, whatever the key; no response reports its level
ADDRESS_CAPACITY = 600


class Hidden(str):
    """A string that isn't shown where variables are, as in crash reports."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Request(NamedTuple):
    """One HTTP request without the base URL and the API key, which only a transport knows."""

    method: str
    path: str  # begins with a slash and includes the query
    subject: str  # for messages: "start workflow 'wf-1'"
    headers: dict[str, str] = {}
    body: bytes | Part | None = None
    url: str | None = None  # to which the API key isn't sent; default: the path on the API's server
    idempotent: bool = True
    sync: bool = False  # the response arrives only when the run has finished
    stream_started: bool = False  # the response has begun to arrive as a stream, so the run was started
    workflow_id: str | None = None
    run_id: str | None = None
    run_id_header: str | None = None  # the header for the caller's run ID, if the request starts a run
    bucket: str | None = None  # that it spends besides the address's; the legacy API meters nothing

    def streaming(self) -> Request:
        """Return the start request for errors that occur once its stream has started."""
        subject = f"read the stream of run {self.run_id!r} of workflow {self.workflow_id!r}"
        return self._replace(subject=subject, stream_started=True)


def endpoint(
    method: str,
    path: str,
    subject: str,
    workflow_id: str | None = None,
    run_id: str | None = None,
    *,
    query: Mapping[str, Any] | None = None,
    content: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    **attributes: Any,
) -> Request:
    """Return the request to an endpoint; raise SimInputError if an ID is invalid, or the content can't be sent.

    ``path`` begins after ``/api/`` and has ``{workflow_id}`` and ``{run_id}`` in place of the IDs; ``subject`` has
    ``{workflow}`` and ``{run}`` in place of what names them.
    """
    if "{workflow_id}" in path:
        path = path.replace("{workflow_id}", quote(check_workflow_id(workflow_id), safe=":"))
    if "{run_id}" in path:
        path = path.replace("{run_id}", check_run_id(run_id))
    workflow = f"workflow {workflow_id!r}"
    json_headers = {} if content is None else {"Content-Type": "application/json"}
    return Request(
        method,
        f"/api/{path}{query_string(query or {})}",
        subject.replace("{run}", f"run {run_id!r} of {workflow}").replace("{workflow}", workflow),
        {**json_headers, **(headers or {})},
        None if content is None else json_body(content, workflow_id=workflow_id),
        workflow_id=workflow_id,
        run_id=run_id,
        **attributes,
    )


def query_string(values: Mapping[str, Any]) -> str:
    """Return the query for those values that are set; Sim rejects empty ones.

    Names become camel case, lists are joined, and dates may be in seconds since the epoch.
    """
    query = {}
    for name, value in values.items():
        if value is None or value is False or value in ("", []):
            continue
        key = camel_case(name)
        if value is True:
            query[key] = "true"
        elif isinstance(value, list):
            query[key] = ",".join(value)
        elif name.endswith("_date") and not isinstance(value, str):  # v2 requires the Z
            query[key] = datetime.fromtimestamp(value, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        else:
            query[key] = value
    return f"?{urlencode(query)}" if query else ""


class Response(NamedTuple):
    """One HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_html(self) -> bool:
        """Whether this is a web page: from a proxy, or from a server that doesn't know the path."""
        is_page = self.body.lstrip()[:15].lower().startswith((b"<!doctype", b"<html"))
        return is_page or "html" in self.headers.get("content-type", "").lower()


class Call(NamedTuple, Generic[_T]):
    """A request, and how to read its response."""

    request: Request
    parse: Callable[[Request, Response], _T]  # raises SimError or MissingFieldError
    parse_error: Callable[[Request, Response], Exception | None]  # of status 400 or above; None if it is a result

    def with_run_id(self, run_id: str) -> Call[_T]:
        """Return the same start with this run ID, if Sim accepts it."""
        assert self.request.run_id_header is not None
        headers = {**self.request.headers, self.request.run_id_header: check_run_id(run_id)}
        return self._replace(request=self.request._replace(headers=headers, run_id=run_id))

    def read(self, response: Response) -> _T:
        """Return the response's model, or raise the SimError that it reports."""
        if response.status >= 400 and (error := self.parse_error(self.request, response)):
            raise error
        try:
            return self.parse(self.request, response)
        except MissingFieldError:
            what = "the response is JSON, but not what Sim's API returns here; the base URL may lead to another program"
            raise error_of(SimResponseError, self.request, response, what) from None


def json_body(value: Mapping[str, Any], *, workflow_id: str | None) -> bytes:
    """Encode a request body; raise SimInputError if it is not JSON, or is larger than Sim accepts."""
    try:
        body = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError, UnicodeError) as error:
        raise SimInputError(
            f"The input for workflow {workflow_id!r} can't be written as JSON: {error}."
            " Give dicts with string keys, lists, strings, finite numbers, booleans and None;"
            " turn dates and other objects into strings first.",
            workflow_id=workflow_id,
        ) from error
    if len(body) > MAX_BODY_BYTES:
        raise SimInputError(
            f"The input for workflow {workflow_id!r} is {len(body) / 2**20:.1f} MiB as JSON; Sim accepts up to"
            f" {MAX_BODY_BYTES // 2**20} MiB. Put the data where the workflow can fetch it and send its URL.",
            code="PAYLOAD_TOO_LARGE",
            workflow_id=workflow_id,
        )
    return body


def read_json(request: Request, response: Response) -> Any:
    """Decode the body, or raise an error that gives the likely reason why it is not JSON."""
    if 300 <= response.status < 400:
        raise _redirect_error(request, response)
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        if response.is_html:
            what = "a web page, not JSON: the base URL may lead to a proxy, a login page or another site"
        elif not response.body.strip():
            what = "empty; a proxy between this machine and Sim may have lost it"
        else:
            what = "not JSON, or was truncated; a proxy between this machine and Sim may have failed"
        raise error_of(SimResponseError, request, response, f"the response is {what}") from error


def _redirect_error(request: Request, response: Response) -> SimError:
    """The error for any 3xx: following it would lose the body and could pass the key on to another host."""
    path = request.path.split("?")[0]
    target = response.headers.get("location", "").split("?")[0]
    advice = "Correct the connection's base URL (host): it must be the URL of the API itself"
    if path in target and "://" in target:
        advice = f"Set the connection's base URL (host) to {target.removesuffix(path)}"
    what = (
        f"the server redirects to {target or 'an unnamed place'}. {advice}; redirects are not followed, as they would"
        " lose the request's body and pass on the API key"
    )
    outcome = None if response.status == 303 else Outcome.REFUSED  # only 303 is sent after processing
    return error_of(SimRedirectError, request, response, what, outcome=outcome)


def error_of(
    error_class: type[SimError],
    request: Request,
    response: Response | None,
    what: str,
    *,
    outcome: Outcome | None = None,
    **attributes: Any,
) -> SimError:
    """Return an error with the request's subject, what happened and what to do next, and the request's ID."""
    if outcome is None:
        outcome = Outcome.REFUSED if request.idempotent else Outcome.RAN if request.stream_started else Outcome.UNKNOWN
    message = f"Could not {request.subject}: {what.rstrip('.')}."
    run = f"run {request.run_id!r}" if request.run_id else "a run"
    if request.stream_started:
        message += (
            " Sim cancels a streamed run when its reader disconnects; check the run before starting another, and use an"
            " async execution for long runs."
        )
    elif outcome is Outcome.UNKNOWN and request.path.endswith("/execute"):
        message += f" It is unknown whether {run} was started; check Sim's logs before starting another."
    elif outcome is Outcome.UNKNOWN and not request.idempotent:
        message += f" It is unknown whether it had an effect; check {run} in Sim before retrying."
    attributes = {"workflow_id": request.workflow_id, "run_id": request.run_id} | attributes
    if response is not None:
        request_id = response.headers.get("x-request-id")
        message += f" [HTTP {response.status}" + (f", request {request_id}]" if request_id else "]")
        found = {"status": response.status, "request_id": request_id, "retry_after": retry_after(response)}
        attributes = found | attributes
    return error_class(message, outcome=outcome, **attributes)


def retry_after(response: Response) -> float | None:
    """Return the seconds to wait by ``Retry-After``, which may be a number or a date; None without one."""
    value = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, seconds), 1e9)


def rate_limit_info(response: Response, *, bucket: str | None = None) -> RateLimitInfo | None:
    """Return what a response reports about a rate-limit bucket; None if nothing (always on the legacy API)."""
    limit = _whole(response.headers.get("x-ratelimit-limit"))
    remaining = _whole(response.headers.get("x-ratelimit-remaining"))
    reset = epoch(response.headers.get("x-ratelimit-reset"))
    wait = retry_after(response)
    if limit is remaining is reset is wait is None:
        return None
    if response.status == 429 and limit == ADDRESS_CAPACITY:
        bucket = ADDRESS_BUCKET  # the message is that of the operation's own bucket
    return RateLimitInfo(bucket=bucket, limit=limit, remaining=remaining, reset=reset, retry_after=wait)


def _whole(value: str | None) -> int | None:
    """A header's integer; None if it is invalid: an unreadable limit must not fail a run."""
    return int(value) if value and re.fullmatch(r"-?[0-9]{1,15}", value.strip()) else None
