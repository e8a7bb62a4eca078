"""The sync client, over requests."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from weakref import WeakSet

import requests

from airflow_provider_sim.client import transport_errors
from airflow_provider_sim.client.api.files import check_file_status, file_request
from airflow_provider_sim.client.api.http import Request
from airflow_provider_sim.client.base import BaseClient
from airflow_provider_sim.client.environment import ca_bundle, proxy_for
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.client.start import StartFlows
from airflow_provider_sim.client.stream import StreamEvent

_P = ParamSpec("_P")
_T = TypeVar("_T")

_NEVER_SENT = (
    requests.exceptions.ConnectTimeout,
    requests.exceptions.SSLError,
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidProxyURL,
)
_NEVER_CONNECTED = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError")
_CHUNK_BYTES = 64 * 1024
_ENCODINGS = requests.utils.DEFAULT_ACCEPT_ENCODING


class WorkflowStream:
    """A streamed execution: iterate over it for its events; the last one is a :class:`~.stream.StreamEnd`.

    Leaving the ``with`` block, or closing, disconnects, and disconnecting early cancels the run. Iterating raises
    SimStreamError if the stream stops before the run has finished.
    """

    def __init__(self, events: Iterator[StreamEvent], close: Callable[[], None] = lambda: None) -> None:
        self._events = events
        self.close = close

    def __iter__(self) -> Iterator[StreamEvent]:
        """Return the events, once."""
        return self._events

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Disconnect."""
        self.close()


def _perform(flow: Awaitable[_T]) -> _T:
    """Return the result of a flow that never suspends, as all of a sync client."""
    try:
        flow.__await__().send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    raise AssertionError("a flow of the sync client was suspended")


def _sync(
    flow: Callable[Concatenate[StartFlows, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[SimClient, _P], _T]:
    """Return the client method that performs a flow."""

    @functools.wraps(flow)
    def method(self: SimClient, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return _perform(flow(StartFlows(self), *args, **kwargs))

    return method


class SimClient(BaseClient):
    """Sync client for Sim's API. Thread-safe: each thread has its own HTTP session.

    See :class:`~.base.BaseClient` for its arguments.
    """

    _sleep = staticmethod(time.sleep)

    def _use(self, settings: ClientSettings) -> None:
        super()._use(settings)
        self._sessions = _Sessions(settings)

    execute_workflow = _sync(StartFlows.execute_workflow)
    execute_with_retry = _sync(StartFlows.execute_with_retry)
    get_workflow_run = _sync(StartFlows.get_workflow_run)
    get_workflow_result = _sync(StartFlows.get_workflow_result)
    get_output = _sync(StartFlows.get_output)
    list_workflow_runs = _sync(StartFlows.list_workflow_runs)
    list_logs = _sync(StartFlows.list_logs)
    cancel_workflow_run = _sync(StartFlows.cancel_workflow_run)
    stop_workflow_run = _sync(StartFlows.stop_workflow_run)
    get_paused_run = _sync(StartFlows.get_paused_run)
    resume_workflow_run = _sync(StartFlows.resume_workflow_run)
    get_job_status = _sync(StartFlows.get_job_status)
    get_workflow_status = _sync(StartFlows.get_workflow_status)
    validate_workflow = _sync(StartFlows.validate_workflow)
    get_workflow = _sync(StartFlows.get_workflow)
    list_workflows = _sync(StartFlows.list_workflows)
    get_deployment = _sync(StartFlows.get_deployment)
    deploy_workflow = _sync(StartFlows.deploy_workflow)
    undeploy_workflow = _sync(StartFlows.undeploy_workflow)
    rollback_workflow = _sync(StartFlows.rollback_workflow)
    list_workspaces = _sync(StartFlows.list_workspaces)
    get_usage_limits = _sync(StartFlows.get_usage_limits)
    get_billing_status = _sync(StartFlows.get_billing_status)
    get_usage = _sync(StartFlows.get_usage)

    def download_file(self, url: str) -> Iterator[bytes]:
        """Download a file of an output; the API key isn't sent.

        :param url: from the output: an http or https URL, or a path on this server.
        :raises SimError: the download failed; raised at the first chunk.
        """
        request, address = file_request(url, self.base_url)
        timeout = self._settings.timeout
        try:
            with (
                _session(address, self._settings.verify) as session,
                session.get(address, timeout=timeout, stream=True, allow_redirects=False) as response,
            ):
                check_file_status(request, response.status_code)
                yield from response.iter_content(_CHUNK_BYTES)
        except OSError as error:
            raise self._error_for(request, timeout, error, address.partition("?")[0]) from error

    def set_api_key(self, api_key: str) -> None:
        """Use another key from now on."""
        self.close()
        super().set_api_key(api_key)

    def set_base_url(self, base_url: str) -> None:
        """Use another server from now on."""
        self.close()
        super().set_base_url(base_url)

    def close(self) -> None:
        """Close the HTTP sessions of all threads; a client that is used again opens new ones."""
        sessions, self._sessions = self._sessions, _Sessions(self._settings)
        sessions.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the HTTP sessions."""
        self.close()

    # --- transport -----------------------------------------------------------------------------------------------

    _transport_errors = (OSError,)  # those of requests, and from reading the CA bundle

    async def sleep(self, seconds: float) -> None:
        """Wait before a retry."""
        self._sleep(seconds)

    def open_stream(self, events: AsyncIterator[StreamEvent], response: Any = None) -> WorkflowStream:
        """Return a streamed execution."""

        def each() -> Iterator[StreamEvent]:
            while True:
                try:
                    yield _perform(anext(events))
                except StopAsyncIteration:
                    return

        return WorkflowStream(each()) if response is None else WorkflowStream(each(), response.close)

    async def _open(self, request: Request, connect_seconds: float, seconds: float) -> requests.Response:
        session = self._sessions.get()
        # Prepared here and not by the session, which would merge its settings into each request.
        headers = {"Accept-Encoding": _ENCODINGS, **self._headers(request)}
        prepared = requests.Request(request.method, self.base_url + request.path, headers, data=request.body)
        return session.send(
            prepared.prepare(),
            timeout=(connect_seconds, seconds),
            proxies=session.proxies,
            allow_redirects=False,
            stream=True,
        )

    async def _chunks(self, response: requests.Response) -> AsyncIterator[bytes]:
        for chunk in response.iter_content(_CHUNK_BYTES):
            yield chunk

    async def _stream_chunks(self, response: requests.Response, ends: float) -> AsyncIterator[bytes]:
        # requests yields a chunk as it arrives only if the response is chunked and no size is given.
        chunks = response.iter_content(None if response.raw.chunked else _CHUNK_BYTES)
        while True:
            left = ends - time.monotonic()
            if left <= 0:
                raise requests.ReadTimeout
            sock = getattr(response.raw.connection, "sock", None)  # None after "Connection: close"
            if sock is not None:
                sock.settimeout(left)
            chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def _close(self, response: requests.Response) -> None:
        response.close()

    def _reason_of(self, error: Exception) -> transport_errors.Reason:
        shown = repr(error)
        if (
            isinstance(error, _NEVER_SENT)
            or not isinstance(error, requests.RequestException)
            or any(name in shown for name in _NEVER_CONNECTED)
            or "handshake" in transport_errors.innermost_reason(error)  # requests reports its timeout as a read timeout
        ):
            return "unreachable"
        if isinstance(error, requests.Timeout) or "ReadTimeoutError" in shown:
            return "timed out"
        return "broken"


class _Sessions:
    """HTTP sessions for one server, one per thread: ``requests.Session`` isn't thread-safe."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._own = threading.local()
        self._all: WeakSet[requests.Session] = WeakSet()  # a thread's session ends with the thread
        self._lock = threading.Lock()

    def get(self) -> requests.Session:
        """Return the session of the current thread."""
        session: requests.Session | None = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = _session(self._settings.base_url, self._settings.verify)
            with self._lock:
                self._all.add(session)
        return session

    def close(self) -> None:
        """Close all sessions."""
        with self._lock:
            for session in self._all:
                session.close()


def _session(url: str, verify: bool | str) -> requests.Session:
    """Return a session for one server.

    :raises SimConfigurationError: the environment's proxy or CA bundle can't be used.
    """
    session = requests.Session()
    # Read once: requests would read the environment before each request, which takes a third of its time.
    proxy = proxy_for(url, socks_package="socks")
    session.proxies = {} if proxy is None else {"http": proxy, "https": proxy}
    session.verify = ca_bundle(verify)
    # The API key is the only identity that a request may have: no cookies, nothing from a .netrc file.
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session
