"""The sync client, over requests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self, TypeVar
from weakref import WeakSet

import requests
from requests.exceptions import ConnectTimeout, InvalidProxyURL, InvalidURL, ProxyError, SSLError

from airflow_provider_sim.client.api.files import check_file_status, file_request
from airflow_provider_sim.client.api.http import Request, Response
from airflow_provider_sim.client.api.workspace_files import Transfer
from airflow_provider_sim.client.base import BaseClient
from airflow_provider_sim.client.methods import SyncMethods, each
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.client.stream import StreamEvent
from airflow_provider_sim.client.transport import Reason, ca_bundle, innermost_reason, proxy_for
from airflow_provider_sim.client.upload_source import Part

_T = TypeVar("_T")

_NEVER_SENT = (ConnectTimeout, SSLError, ProxyError, InvalidURL, InvalidProxyURL)
_NEVER_CONNECTED = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError")
_CHUNK_BYTES = 64 * 1024
_ENCODINGS = requests.utils.DEFAULT_ACCEPT_ENCODING


class WorkflowStream(contextlib.AbstractContextManager["WorkflowStream"]):
    """A streamed execution: iterate over it for its events; the last one is a :class:`~.stream.StreamEnd`.

    Leaving the ``with`` block, or closing, disconnects, and disconnecting early cancels the run. Iterating raises
    SimStreamError if the stream stops before the run has finished.
    """

    def __init__(self, events: Iterator[StreamEvent], close: Callable[[], None] = lambda: None) -> None:
        self._events = events
        self.close = close

    def __iter__(self) -> Iterator[StreamEvent]:
        return self._events

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class SimClient(SyncMethods, BaseClient, contextlib.AbstractContextManager["SimClient"]):
    """Sync client for Sim's API. Thread-safe: each thread has its own HTTP session.

    See :class:`~.base.BaseClient` for its arguments.
    """

    _sleep = staticmethod(time.sleep)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sessions: WeakSet[requests.Session] = WeakSet()  # a thread's session ends with the thread
        self._own = threading.local()
        self._lock = threading.Lock()
        super().__init__(*args, **kwargs)

    def _client(self) -> Self:
        return self

    def _use(self, settings: ClientSettings) -> None:
        super()._use(settings)
        self.close()

    def download_file(self, url: str) -> Iterator[bytes]:
        """Download a file of an output; the API key isn't sent.

        :param url: from the output: an http or https URL, or a path on this server.
        :raises SimError: the download failed; raised at the first chunk.
        """
        request, address = file_request(url, self.base_url)
        timeout = self.settings.timeout
        try:
            with (
                _new_session(address, self.settings.verify) as session,
                session.get(address, timeout=timeout, stream=True, allow_redirects=False) as response,
            ):
                check_file_status(request, response.status_code)
                yield from response.iter_content(_CHUNK_BYTES)
        except OSError as error:
            raise self._error_for(request, timeout, error, address.partition("?")[0]) from error

    def close(self) -> None:
        """Close the HTTP sessions of all threads; a client that is used again opens new ones."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions, self._own = WeakSet(), threading.local()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    _transport_errors = (OSError,)  # those of requests, and from reading the CA bundle

    def open_stream(self, events: AsyncIterator[StreamEvent], opened: Any = None) -> WorkflowStream:
        return WorkflowStream(each(events)) if opened is None else WorkflowStream(each(events), opened.close)

    async def in_thread(self, do: Callable[..., _T], *args: Any) -> _T:
        return do(*args)

    async def _put(self, transfer: Transfer, part: Part, seconds: float) -> Response:
        options: Any = {"timeout": (self.settings.timeout, seconds), "allow_redirects": False, "stream": True}
        with (
            _new_session(transfer.url, self.settings.verify) as session,
            session.put(transfer.url, data=part, headers=transfer.headers, **options) as response,
        ):
            return self._head(transfer.request, response)

    def _session(self) -> requests.Session:
        """The session of the current thread: ``requests.Session`` isn't thread-safe."""
        session: requests.Session | None = getattr(self._own, "session", None)
        if session is None:
            session = _new_session(self.base_url, self.settings.verify)
            with self._lock:
                self._own.session = session
                self._sessions.add(session)
        return session

    async def _open(self, request: Request, connect_seconds: float, seconds: float) -> requests.Response:
        session = self._session()
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

    async def _chunks(self, opened: requests.Response, ends: float | None = None) -> AsyncIterator[bytes]:
        # requests yields a chunk as it arrives only if the response is chunked and no size is given.
        chunks = opened.iter_content(None if ends is not None and opened.raw.chunked else _CHUNK_BYTES)
        while True:
            if ends is not None:
                sock = getattr(opened.raw.connection, "sock", None)  # None after "Connection: close"
                left = ends - time.monotonic()
                if left <= 0:
                    raise requests.ReadTimeout
                if sock is not None:
                    sock.settimeout(left)
            chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def _close(self, opened: requests.Response) -> None:
        opened.close()

    def _reason_of(self, error: Exception) -> Reason:
        shown = repr(error)
        if (
            isinstance(error, _NEVER_SENT)
            or not isinstance(error, requests.RequestException)
            or any(name in shown for name in _NEVER_CONNECTED)
            or "handshake" in innermost_reason(error)  # requests reports its timeout as a read timeout
        ):
            return "unreachable"
        if isinstance(error, requests.Timeout) or "ReadTimeoutError" in shown:
            return "timed out"
        return "broken"


def _new_session(url: str, verify: bool | str) -> requests.Session:
    session = requests.Session()
    # Read once: requests would read the environment before each request, which takes a third of its time.
    proxy = proxy_for(url, socks_package="socks")
    session.proxies = {} if proxy is None else {"http": proxy, "https": proxy}
    session.verify = ca_bundle(verify)
    # The API key is the only identity that a request may have: no cookies, nothing from a .netrc file.
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session
