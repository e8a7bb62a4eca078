"""HTTP requests and responses as values, and what all of Sim's responses have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from airflow_provider_sim.client.ids import check_run_id
from airflow_provider_sim.client.models import RateLimitInfo
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimInputError,
    SimRedirectError,
    SimResponseError,
)

T = TypeVar("T")

MAX_BODY_BYTES = 10 * 1024 * 1024
"""Sim rejects larger request bodies with 413; its proxy may truncate them silently."""

MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""Decompressed; larger than any response of Sim."""

RATE_WINDOW = 60.0
"""Seconds; a bucket is refilled once per window, by half its capacity."""

ADDRESS_BUCKET = "address"
"""Spent by every request to v2, whatever the key, on every server; no response reports its level."""

ADDRESS_CAPACITY = 600


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request without the base URL and the API key, which only a transport knows.

    :param path: begins with a slash and includes the query.
    :param subject: for messages: ``start workflow 'wf-1'``.
    :param body: JSON, if any.
    :param idempotent: sending it twice has the effect of sending it once.
    :param sync: the response arrives only when the run has finished.
    :param stream_started: the response has begun to arrive as a stream, so the run was started.
    :param run_id_header: the header for the caller's run ID, if the request starts a run.
    :param bucket: the rate bucket that it spends besides the address's; None on the legacy API, which meters nothing.
    """

    method: str
    path: str
    subject: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    idempotent: bool = True
    sync: bool = False
    stream_started: bool = False
    workflow_id: str | None = None
    run_id: str | None = None
    run_id_header: str | None = None
    bucket: str | None = None

    def with_run_id(self, run_id: str) -> Request:
        """Return the start request with this run ID.

        :raises SimInputError: Sim would reject the ID.
        """
        assert self.run_id_header is not None
        return replace(self, headers={**self.headers, self.run_id_header: check_run_id(run_id)}, run_id=run_id)


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str | None:
        """Sim's ID of the request."""
        return self.headers.get("x-request-id")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how to read its response.

    :param parse: turns a response into its model, or raises SimError.
    :param parse_error: returns the error in a response with status 400 or above; None if it is a result.
    """

    request: Request
    parse: Callable[[Request, Response], T]
    parse_error: Callable[[Request, Response], SimError | None]

    def with_run_id(self, run_id: str) -> Call[T]:
        """Return the same call with another run ID."""
        return replace(self, request=self.request.with_run_id(run_id))

    def error_in(self, response: Response) -> SimError | None:
        """Return the error that the response reports, if any."""
        return None if response.status < 400 else self.parse_error(self.request, response)

    def read(self, response: Response) -> T:
        """Return the response's model.

        :raises SimError: the response reports an error, or can't be read.
        """
        if error := self.error_in(response):
            raise error
        return self.parse(self.request, response)


def path_of(*segments: str, query: Mapping[str, str | int | None] | None = None) -> str:
    """Join percent-encoded path segments and those query values that are set; Sim rejects empty ones."""
    path = "/api/" + "/".join(quote(segment, safe=":") for segment in segments)
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def json_body(value: Mapping[str, Any], *, workflow_id: str) -> bytes:
    """Encode a request body.

    :raises SimInputError: the value is not JSON, or is larger than Sim accepts. No request was sent.
    """
    try:
        body = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError, UnicodeError) as error:
        raise SimInputError(
            f"The input for workflow {workflow_id!r} can't be written as JSON: {error}."
            " Give dicts with string keys, lists, strings, finite numbers, booleans and None;"
            " turn dates and other objects into strings first.",
            workflow_id=workflow_id,
            outcome=Outcome.NEVER_SENT,
        ) from error
    if len(body) > MAX_BODY_BYTES:
        raise SimInputError(
            f"The input for workflow {workflow_id!r} is {len(body) / 2**20:.1f} MiB as JSON; Sim accepts up to"
            f" {MAX_BODY_BYTES // 2**20} MiB. Put the data where the workflow can fetch it and send its URL.",
            code="PAYLOAD_TOO_LARGE",
            workflow_id=workflow_id,
            outcome=Outcome.NEVER_SENT,
        )
    return body


def read_json(request: Request, response: Response) -> Any:
    """Decode the body.

    :raises SimRedirectError: the response is a redirect.
    :raises SimResponseError: the body is not JSON; the message gives the likely reason.
    """
    _reject_redirect(request, response)
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise error_of(SimResponseError, request, response, _why_no_json(response)) from error


def is_html(response: Response) -> bool:
    """Whether this is a web page: from a proxy, or from a server that doesn't know the path."""
    content_type = response.headers.get("content-type", "")
    return "html" in content_type.lower() or response.body.lstrip()[:15].lower().startswith((b"<!doctype", b"<html"))


def _why_no_json(response: Response) -> str:
    if is_html(response):
        return "the response is a web page, not JSON: the base URL may lead to a proxy, a login page or another site"
    if not response.body.strip():
        return "the response is empty; a proxy between this machine and Sim may have lost it"
    return "the response is not JSON, or was truncated; a proxy between this machine and Sim may have failed"


def _reject_redirect(request: Request, response: Response) -> None:
    """Raise for any 3xx: following it would lose the body and could pass the key on to another host.

    :raises SimRedirectError: names the target, and the base URL to set if the target is the same path elsewhere.
    """
    if not 300 <= response.status < 400:
        return
    path = request.path.split("?")[0]
    target = response.headers.get("location", "").split("?")[0]
    advice = (
        f"Set the connection's base URL (host) to {target.removesuffix(path)}"
        if path in target and "://" in target
        else "Correct the connection's base URL (host): it must be the URL of the API itself"
    )
    raise error_of(
        SimRedirectError,
        request,
        response,
        f"the server redirects to {target or 'an unnamed place'}. {advice}; redirects are not followed, as they would"
        " lose the request's body and pass on the API key",
        outcome=None if response.status == 303 else Outcome.REFUSED,  # only 303 is sent after processing
    )


def error_of(
    error_class: type[SimError],
    request: Request,
    response: Response | None,
    what: str,
    *,
    outcome: Outcome | None = None,
    **attributes: Any,
) -> SimError:
    """Return an error with the request's subject, what happened, and the request's ID.

    :param what: what happened, and what to do next.
    :param outcome: default: ran if the request's stream has started, unknown if the request may have had an effect,
        refused otherwise.
    :param attributes: further attributes of :class:`~airflow_provider_sim.exceptions.SimError`.
    """
    if outcome is None:
        outcome = Outcome.REFUSED if request.idempotent else Outcome.RAN if request.stream_started else Outcome.UNKNOWN
    sentences = [f"Could not {request.subject}: {what.rstrip('.')}."]
    if request.stream_started:
        sentences.append(f"{LOST_STREAM}.")
    elif outcome is Outcome.UNKNOWN and not request.idempotent:
        sentences.append(_unknown_outcome(request))
    suffix = ""
    if response is not None:
        attributes.setdefault("status", response.status)
        attributes.setdefault("request_id", response.request_id)
        attributes.setdefault("retry_after", retry_after(response))
        suffix = f" [HTTP {response.status}" + (f", request {response.request_id}]" if response.request_id else "]")
    attributes.setdefault("workflow_id", request.workflow_id)
    attributes.setdefault("run_id", request.run_id)
    return error_class(" ".join(sentences) + suffix, outcome=outcome, **attributes)


class BodyReader:
    """Collects a response's body, chunk by chunk and decompressed."""

    def __init__(self, request: Request, head: Response) -> None:
        self._request = request
        self._head = head
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Add a chunk.

        :raises SimResponseError: the body is too large; the rest must not be read.
        """
        self._size += len(chunk)
        if self._size > MAX_RESPONSE_BYTES:
            raise error_of(
                SimResponseError,
                self._request,
                self._head,
                f"the response is larger than {MAX_RESPONSE_BYTES // 2**20} MiB, and the rest of it was not read."
                " Change the workflow to return less, or a URL in place of the data",
                max_retries=0,
            )
        self._chunks.append(chunk)

    def response(self) -> Response:
        """Return the response with its whole body."""
        return replace(self._head, body=b"".join(self._chunks))


LOST_STREAM = (
    "Sim cancels a streamed run when its reader disconnects; check the run before starting another, and use an async"
    " execution for long runs"
)


def streaming(request: Request) -> Request:
    """Return the start request for errors that occur once its stream has started."""
    subject = f"read the stream of run {request.run_id!r} of workflow {request.workflow_id!r}"
    return replace(request, subject=subject, stream_started=True)


def _unknown_outcome(request: Request) -> str:
    run = f"run {request.run_id!r}" if request.run_id else "a run"
    if request.path.endswith("/execute"):
        return f"It is unknown whether {run} was started; check Sim's logs before starting another."
    return f"It is unknown whether it had an effect; check {run} in Sim before retrying."


def retry_after(response: Response, *, now: Callable[[], float] | None = None) -> float | None:
    """Return the seconds to wait by ``Retry-After``, which may be a number or a date; None without one."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    current = now() if now else datetime.now(tz=UTC).timestamp()
    return max(0.0, moment.timestamp() - current)


def rate_limit_info(response: Response, *, bucket: str | None = None) -> RateLimitInfo | None:
    """Return what a response reports about a rate-limit bucket; None if nothing (always on the legacy API).

    :param bucket: the one that the request spends.
    """
    limit = _whole(response.headers.get("x-ratelimit-limit"))
    remaining = _whole(response.headers.get("x-ratelimit-remaining"))
    reset = _timestamp(response.headers.get("x-ratelimit-reset"))
    wait = retry_after(response)
    if limit is remaining is reset is wait is None:
        return None
    if response.status == 429 and limit == ADDRESS_CAPACITY:
        bucket = ADDRESS_BUCKET  # the message is that of the operation's own bucket
    return RateLimitInfo(bucket=bucket, limit=limit, remaining=remaining, reset=reset, retry_after=wait)


def _whole(value: str | None) -> int | None:
    """A header's integer; None if it is invalid: an unreadable limit must not fail a run."""
    return int(value) if value and re.fullmatch(r"-?[0-9]{1,15}", value.strip()) else None


def _timestamp(value: str | None) -> float | None:
    """Seconds since the epoch, from ISO 8601 (v2) or a number (older servers)."""
    seconds = _whole(value)
    if value is None or seconds is not None:
        return None if seconds is None else float(seconds)
    try:
        return datetime.fromisoformat(value.strip()).timestamp()
    except (ValueError, OverflowError):
        return None


def utc(moment: str | float | None) -> str | None:
    """Return a moment as v2 accepts it in a query: ISO 8601 with Z.

    :param moment: that already, or seconds since the epoch.
    """
    if moment is None or isinstance(moment, str):
        return moment
    return datetime.fromtimestamp(moment, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
