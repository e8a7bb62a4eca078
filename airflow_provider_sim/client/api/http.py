"""Requests and responses as values, and what all of Sim's answers have in common."""

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
U = TypeVar("U")

MAX_BODY_BYTES = 10 * 1024 * 1024
"""Sim refuses larger request bodies with 413; its proxy may cut them without a word."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""More than any answer of Sim's, unpacked; what a fault or an attacker sends beyond isn't read."""

RATE_WINDOW = 60.0
"""Seconds; a bucket is refilled all at once each time they have passed, by half its capacity (sim-api D.1)."""

ADDRESS_BUCKET = "address"
"""Every request to v2 spends it, whatever the key, on every server; no answer tells how full it is."""

ADDRESS_CAPACITY = 600


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, but for the base URL and the API key, which only a transport knows.

    :param path: begins with a slash and holds the query.
    :param body: JSON, or None for a request without one.
    :param subject: what this is about, for messages: ``start workflow 'wf-1'``.
    :param repeatable: sending it twice does no harm.
    :param held_open: the answer comes only when the run is over.
    :param begun: the answer has begun to come as a stream: the run was started.
    :param bucket: the rate bucket that it spends beside the address's; None on the legacy API, which meters nothing.
    """

    method: str
    path: str
    subject: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    repeatable: bool = True
    held_open: bool = False
    begun: bool = False
    workflow_id: str | None = None
    run_id: str | None = None
    bucket: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str | None:
        """Sim's id of the request."""
        return self.headers.get("x-request-id")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request together with the reading of its response.

    :param read: the response's meaning; raises SimError, and nothing else, for whatever it can't accept.
    :param renew: the same call under another run id, where it carries one.
    """

    request: Request
    read: Callable[[Response], T]
    renew: Callable[[str], Call[T]] | None = None


def path_of(*segments: str, query: Mapping[str, str | int | None] | None = None) -> str:
    """Join path segments, each percent-encoded, and those query values that are set; Sim refuses blank ones."""
    path = "/api/" + "/".join(quote(segment, safe=":") for segment in segments)
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def json_body(value: Mapping[str, Any], *, workflow_id: str) -> bytes:
    """Encode a request body.

    :raises SimInputError: the value isn't JSON, or is larger than Sim takes; nothing has been sent then.
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
            f"The input for workflow {workflow_id!r} is {len(body) / 2**20:.1f} MiB as JSON; Sim takes at most"
            f" {MAX_BODY_BYTES // 2**20} MiB. Put the data where the workflow can fetch it and send its address.",
            code="PAYLOAD_TOO_LARGE",
            workflow_id=workflow_id,
            outcome=Outcome.NEVER_SENT,
        )
    return body


def read_json(request: Request, response: Response) -> Any:
    """Decode the body.

    :raises SimRedirectError: the answer is a redirect.
    :raises SimResponseError: the body is no JSON, with the reason where it can be told.
    """
    refuse_redirect(request, response)
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise error_of(SimResponseError, request, response, _why_no_json(response)) from error


def is_html(response: Response) -> bool:
    """Whether this is a web page: a proxy's, or that of a server that doesn't know the path."""
    kind = response.headers.get("content-type", "")
    return "html" in kind.lower() or response.body.lstrip()[:15].lower().startswith((b"<!doctype", b"<html"))


def _why_no_json(response: Response) -> str:
    if is_html(response):
        return "the answer is a web page, not JSON: the base URL may lead to a proxy, a login page or another site"
    if not response.body.strip():
        return "the answer is empty; a proxy before Sim may have lost it"
    return "the answer is no JSON, or was cut short on its way; a proxy before Sim may have failed"


def refuse_redirect(request: Request, response: Response) -> None:
    """Raise for any 3xx: following it would lose the body and could hand the key to another host.

    :raises SimRedirectError: names the target, and the base URL to set if the target is the same path elsewhere.
    """
    if not 300 <= response.status < 400:
        return
    target = response.headers.get("location", "")
    path = request.path.split("?")[0]
    shown = target.split("?")[0]
    advice = (
        f"Set the connection's base URL (host) to {shown.removesuffix(path)}"
        if path in shown and "://" in shown
        else "Correct the connection's base URL (host): it must be the API's own address"
    )
    raise error_of(
        SimRedirectError,
        request,
        response,
        f"the server redirects to {shown or 'an unnamed place'}. {advice}; redirects are not followed, as they would"
        " lose the request's body and hand on the API key",
        outcome=None if response.status == 303 else Outcome.REFUSED,  # 303 alone is said after the deed
    )


def error_of(
    kind: type[SimError],
    request: Request,
    response: Response | None,
    what: str,
    *,
    outcome: Outcome | None = None,
    **facts: Any,
) -> SimError:
    """Build an error that says what was tried, what happened, and where to look it up.

    :param what: the middle of the sentence: what happened, and what to do next.
    :param outcome: default: ran if the request's stream has begun, unknown if the request may have had an effect,
        refused otherwise.
    :param facts: further attributes of :class:`~airflow_provider_sim.exceptions.SimError`.
    """
    if outcome is None:
        outcome = Outcome.REFUSED if request.repeatable else Outcome.RAN if request.begun else Outcome.UNKNOWN
    sentences = [f"Could not {request.subject}: {what.rstrip('.')}."]
    if request.begun:
        sentences.append(f"{LOST_STREAM}.")
    elif outcome is Outcome.UNKNOWN and not request.repeatable:
        sentences.append(_fate_unknown(request))
    where = ""
    if response is not None:
        facts.setdefault("status", response.status)
        facts.setdefault("request_id", response.request_id)
        facts.setdefault("retry_after", retry_after(response))
        where = f" [HTTP {response.status}" + (f", request {response.request_id}]" if response.request_id else "]")
    facts.setdefault("workflow_id", request.workflow_id)
    facts.setdefault("run_id", request.run_id)
    return kind(" ".join(sentences) + where, outcome=outcome, **facts)


class Body:
    """An answer's body as it comes in, piece by piece and unpacked.

    :param request: what is answered.
    :param head: the answer without its body.
    """

    def __init__(self, request: Request, head: Response) -> None:
        self._request = request
        self._head = head
        self._pieces: list[bytes] = []
        self._room = MAX_ANSWER_BYTES

    def add(self, piece: bytes) -> None:
        """Take a piece.

        :raises SimResponseError: that would be too much; the rest isn't to be read.
        """
        self._room -= len(piece)
        if self._room < 0:
            raise error_of(
                SimResponseError,
                self._request,
                self._head,
                f"the answer is larger than {MAX_ANSWER_BYTES // 2**20} MiB, and the rest of it wasn't read. Let the"
                " workflow return less, or an address in place of the data",
                worth_repeating=0,
            )
        self._pieces.append(piece)

    def whole(self) -> Response:
        """The answer with all of it."""
        return replace(self._head, body=b"".join(self._pieces))


LOST_STREAM = (
    "Sim cancels a streamed run when its reader is gone; look at the run before starting another, and use an"
    " asynchronous execution for long runs"
)


def streaming(request: Request) -> Request:
    """The same execution request, once its stream has begun."""
    subject = f"read the stream of run {request.run_id!r} of workflow {request.workflow_id!r}"
    return replace(request, subject=subject, begun=True)


def _fate_unknown(request: Request) -> str:
    run = f"run {request.run_id!r}" if request.run_id else "a run"
    if request.path.endswith("/execute"):
        return f"Whether {run} was started isn't known; look for it in Sim's logs before you start another."
    return f"Whether it was done all the same isn't known; look at {run} in Sim before you try again."


def retry_after(response: Response, *, now: Callable[[], float] | None = None) -> float | None:
    """Seconds that the server asks to wait, from ``Retry-After`` as seconds or as a date; None if it doesn't ask."""
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
    """What the answer says of a rate-limit bucket; None if it says nothing (the legacy API never does).

    :param bucket: the one that the request spends.
    """
    limit = _whole(response.headers.get("x-ratelimit-limit"))
    remaining = _whole(response.headers.get("x-ratelimit-remaining"))
    reset = _moment(response.headers.get("x-ratelimit-reset"))
    wait = retry_after(response)
    if limit is remaining is reset is wait is None:
        return None
    if response.status == 429 and limit == ADDRESS_CAPACITY:
        bucket = ADDRESS_BUCKET  # the words are the same as those of the operation's own bucket
    return RateLimitInfo(bucket=bucket, limit=limit, remaining=remaining, reset=reset, retry_after=wait)


def _whole(value: str | None) -> int | None:
    """A header's whole number, or None: a limit that can't be read must not break a run that can."""
    return int(value) if value and re.fullmatch(r"-?[0-9]{1,15}", value.strip()) else None


def _moment(value: str | None) -> float | None:
    """Seconds since the epoch, from ISO 8601 (v2) or a bare number (older servers)."""
    if value is None:
        return None
    seconds = _whole(value)
    if seconds is not None:
        return float(seconds)
    try:
        return datetime.fromisoformat(value.strip()).timestamp()
    except (ValueError, OverflowError):
        return None


def utc(moment: str | float) -> str:
    """A moment as v2 takes it in a query: ISO 8601 with Z.

    :param moment: that already, or seconds since the epoch.
    """
    if isinstance(moment, str):
        return moment
    return datetime.fromtimestamp(moment, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def under_run_id(request: Request, header: str, run_id: str) -> Request:
    """The same execution request, for a run id of our own.

    :raises SimInputError: Sim would refuse the id.
    """
    return replace(request, headers={**request.headers, header: check_run_id(run_id)}, run_id=run_id)
