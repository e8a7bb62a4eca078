"""Base of the sync and the asyncio client: settings, rate-limit information, and sending one request.

Everything that waits is a coroutine. In the sync client, no coroutine suspends: it runs to its end at once.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from airflow_provider_sim import __version__, exceptions
from airflow_provider_sim.client import api, transport
from airflow_provider_sim.client.api.http import Call, Hidden, Request, Response, error_of, rate_limit_info
from airflow_provider_sim.client.checks import SYNC_TIMEOUT
from airflow_provider_sim.client.models import RateLimitInfo
from airflow_provider_sim.client.retry import RequestOptions, RetryPolicy
from airflow_provider_sim.client.server_facts import ServerFacts, facts_about
from airflow_provider_sim.client.settings import DEFAULT_BASE_URL, DEFAULT_TIMEOUT, ClientSettings

if TYPE_CHECKING:
    from airflow_provider_sim.client.stream import StreamEvent
    from airflow_provider_sim.client.workspace_models import RateLimit, UsageLimits

T = TypeVar("T")
Close = Callable[[], Coroutine[Any, Any, None]]

RESPONSE_TOO_LARGE = "RESPONSE_TOO_LARGE"
_MAX_BYTES_ON_LOOP = 64 * 1024  # larger responses are parsed in a thread: a thousand runs take tens of milliseconds
_MIN_TIMEOUT = 1.0  # seconds to wait for a response although the deadline has passed
_CONNECTION_ERRORS = (
    exceptions.SimAuthenticationError,
    exceptions.SimConfigurationError,
    exceptions.SimConnectionError,
    exceptions.SimPermissionError,
    exceptions.SimRedirectError,
    exceptions.SimResponseError,
    exceptions.SimRouteMissingError,
    exceptions.SimV2OffError,
)


class BaseClient(ABC):
    """A client without a transport.

    :param api_key: a personal or workspace key.
    :param base_url: with scheme and any path prefix.
    :param api_version: ``v2``, ``legacy``, or ``auto`` to detect it.
    :param timeout: seconds to wait for a response; sync executions have another timeout.
    :param verify: whether to verify TLS certificates, or the path of a CA bundle to verify them with.
    :param retry: for idempotent requests; only ``execute_with_retry`` retries an execution.
    :ivar max_response_bytes: maximum size of a response, decompressed; default: 256 MiB.
    :ivar on_rate_limit: called with the rate-limit information of each response that has some.
    :ivar settings: its settings, also for another client.
    :ivar facts: what is known about the server, shared by all clients of this process for the same server and key.
    :raises SimConfigurationError: an argument is invalid.
    """

    settings: ClientSettings
    facts: ServerFacts
    max_response_bytes = 256 * 1024 * 1024

    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        api_version: str = "auto",
        timeout: float = DEFAULT_TIMEOUT,
        verify: bool | str = True,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._rate_limit: RateLimitInfo | None = None
        self.on_rate_limit: Callable[[RateLimitInfo], None] | None = None
        self._use(ClientSettings(api_key, base_url, api_version, timeout, verify, retry or RetryPolicy()))

    @classmethod
    def from_settings(cls, settings: ClientSettings) -> Self:
        """Return a client with these settings."""
        client = cls(settings.api_key, settings.base_url)
        client._use(settings)
        return client

    def _use(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.facts = facts_about(settings.rate_limited_as)

    @property
    def base_url(self) -> str:
        """The server, without a trailing slash."""
        return self.settings.base_url

    @property
    def speaks_v2(self) -> bool | None:
        """Whether requests go to the v2 API; None until known."""
        chosen = self.settings.api_version
        return self.facts.v2.present if chosen == "auto" else chosen == "v2"

    @property
    def accepts_run_ids(self) -> bool:
        """Whether the server is known to accept the caller's run ID, so the same ID starts no second run."""
        return bool(self.speaks_v2 or self.facts.accepts_run_ids)

    @property
    def start_bucket(self) -> str | None:
        """The rate bucket that a start spends; None on the legacy API, which meters no requests."""
        return None if self.speaks_v2 is False else api.v2.EXECUTE_BUCKET

    def start_limit(self, usage: UsageLimits) -> RateLimit | None:
        """Return the execution limit that async starts spend; on the legacy API, that of sync ones."""
        return usage.sync if self.speaks_v2 is False else usage.asynchronous

    def check_input(self, workflow_id: str, input: Any) -> None:
        """Reject an input that can't be sent; sends nothing.

        :raises SimInputError: it isn't JSON, is too large, or has fields that the API reserves.
        """
        used: Any = api.legacy if self.speaks_v2 is False else api.v2
        used.execute(workflow_id, input)

    def with_retry(self, retry: RetryPolicy) -> Self:
        """Return a copy with another retry policy; it uses this client's connections, and isn't closed."""
        other = copy.copy(self)
        other.settings = replace(self.settings, retry=retry)
        return other

    def set_api_key(self, api_key: str) -> None:
        """Use another key from now on."""
        self._use(replace(self.settings, api_key=api_key))

    def set_base_url(self, base_url: str) -> None:
        """Use another server from now on."""
        self._use(replace(self.settings, base_url=base_url))

    def get_rate_limit_info(self) -> RateLimitInfo | None:
        """Return the rate-limit information of the latest response that had some; None before."""
        return self._rate_limit

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, api_version={self.settings.api_version!r})"

    _transport_errors: ClassVar[tuple[type[Exception], ...]]  # what the HTTP library raises
    _sleep: Callable[[float], Awaitable[None] | None]

    async def sleep(self, seconds: float) -> None:
        if (waiting := self._sleep(seconds)) is not None:
            await waiting

    @abstractmethod
    async def in_thread(self, do: Callable[..., T], *args: Any) -> T:
        """Call a blocking function, without blocking an event loop."""

    @abstractmethod
    def open_stream(self, events: AsyncIterator[StreamEvent], close: Close) -> Any:
        """Return a streamed execution."""

    @abstractmethod
    async def _open(self, request: Request, url: str, headers: dict[str, str], seconds: float) -> Any:
        """Send a request; return the HTTP library's response without its body, or time out after ``seconds``."""

    @abstractmethod
    def _chunks(self, opened: Any, ends: float | None = None) -> AsyncIterator[bytes]:
        """Yield a body, decompressed; a stream times out at ``ends`` of ``time.monotonic()``, others with each read."""

    @abstractmethod
    async def _close(self, opened: Any) -> None: ...

    @abstractmethod
    def _reason_of(self, error: Exception) -> transport.Reason:
        """Return what a transport error means, by what the server may have received."""

    async def send(self, call: Call[T], options: RequestOptions) -> Any:
        """Send a request once, and return its result, or the stream with the result."""
        response = await self._exchange(call.request, options)
        if not isinstance(response, Response):
            return response
        if len(response.body) > _MAX_BYTES_ON_LOOP:
            return await self.in_thread(call.read, response)
        return call.read(response)

    async def _exchange(self, request: Request, options: RequestOptions) -> Any:
        """Send a request, and return its :class:`.Response`, or a stream."""
        seconds = options.timeout or (SYNC_TIMEOUT if request.sync else self.settings.timeout)
        if request.sync and options.deadline is not None:
            seconds = min(seconds, max(_MIN_TIMEOUT, options.deadline - time.time()))
        ends = time.monotonic() + seconds
        with self._explained(request, seconds):
            opened, head = await self._send(request, seconds)
            if options.stream and head.status == 200 and "event-stream" in head.headers.get("content-type", ""):
                events = self._events(opened, request.streaming(), seconds, ends)
                return self.open_stream(events, functools.partial(self._close, opened))
            try:
                return await self._whole_response(request, head, opened)
            finally:
                await self._close(opened)

    async def body_of(self, call: Call[None]) -> AsyncIterator[bytes]:
        """Yield the body of a response with status 200; the call reads any other."""
        request, seconds = call.request, self.settings.timeout
        try:
            with self._explained(request, seconds):
                opened, head = await self._send(request, seconds)
                try:
                    if head.status != 200:
                        call.read(await self._whole_response(request, head, opened))
                    async for chunk in self._chunks(opened):
                        yield chunk
                finally:
                    await self._close(opened)
        except exceptions.SimError as error:
            raise self.with_connection(error)  # noqa: B904 - the same error

    async def _send(self, request: Request, seconds: float) -> tuple[Any, Response]:
        """Send a request; return the HTTP library's response, and its status and headers."""
        headers = {"Accept": "application/json", "User-Agent": f"airflow-provider-sim/{__version__}"} | request.headers
        if request.url is None:
            headers["X-API-Key"] = Hidden(self.settings.api_key)
        url = request.url or self.base_url + request.path
        opened = await self._open(request, url, headers, seconds)
        head = Response(opened.status_code, {name.lower(): value for name, value in opened.headers.items()}, b"")
        if request.url is None and (info := rate_limit_info(head, bucket=request.bucket)):
            self._rate_limit = info
            if self.on_rate_limit is not None:
                self.on_rate_limit(info)
        return opened, head

    @contextlib.contextmanager
    def _explained(self, request: Request, seconds: float) -> Iterator[None]:
        """Turn the HTTP library's errors into those of this package."""
        try:
            yield
        except self._transport_errors as error:
            server = self.base_url if request.url is None else transport.origin(request.url)
            explained = transport.error_for(self._reason_of(error), request, server, seconds, error)
            raise explained from transport.without_frames(error)

    async def _whole_response(self, request: Request, head: Response, opened: Any) -> Response:
        chunks, size = [], 0
        async for chunk in self._chunks(opened):
            size += len(chunk)
            if size > self.max_response_bytes:
                what = (
                    f"the response is larger than {self.max_response_bytes:,} bytes, and the rest of it was not read."
                    " Change the workflow to return less, or a URL in place of the data"
                )
                raise error_of(exceptions.SimResponseError, request, head, what, code=RESPONSE_TOO_LARGE, max_retries=0)
            chunks.append(chunk)
        body = b"".join(chunks)
        if head.status >= 400:  # some proxies return the request's headers
            body = body.replace(self.settings.api_key.encode(), b"***")
        return head._replace(body=body)

    async def _events(self, opened: Any, request: Request, seconds: float, ends: float) -> AsyncIterator[StreamEvent]:
        from airflow_provider_sim.client.stream import StreamReader

        reader = StreamReader(request)
        with self._explained(request, seconds):
            async for chunk in self._chunks(opened, ends):
                for event in reader.feed(chunk):
                    yield event
        reader.finish()

    def with_connection(self, error: exceptions.SimError) -> exceptions.SimError:
        """Add the connection's ID to an error that a change of the connection may fix."""
        if self.settings.connection is not None and isinstance(error, _CONNECTION_ERRORS):
            connection = f"connection {self.settings.connection!r}"
            message = str(error)
            if connection not in message:
                message = f"{message[:-1]}, {connection}]" if message.endswith("]") else f"{message} [{connection}]"
            error.args = (message,)
        return error
