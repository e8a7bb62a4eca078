"""The sync client, over requests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakSet

import requests
from requests.exceptions import ConnectTimeout, InvalidProxyURL, InvalidURL, ProxyError, SSLError

from airflow_provider_sim.client import api
from airflow_provider_sim.client.api.http import Request
from airflow_provider_sim.client.base import BaseClient, Close
from airflow_provider_sim.client.methods import SyncMethods, each, perform
from airflow_provider_sim.client.transport import Reason, ca_bundle, innermost_reason, origin, proxy_for

if TYPE_CHECKING:
    from airflow_provider_sim.client.stream import StreamEvent

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

    def __init__(self, events: Iterator[StreamEvent], close: Callable[[], None]) -> None:
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
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()
        self._forget_sessions()

    def _client(self) -> Self:
        return self

    def _forget_sessions(self) -> None:
        self._sessions: WeakSet[requests.Session] = WeakSet()  # a thread's sessions end with the thread
        self._own = threading.local()

    def download_file(self, url: str) -> Iterator[bytes]:
        """Download a file of an output; the API key isn't sent.

        :param url: from the output: an http or https URL, or a path on this server.
        :raises SimError: the download failed; raised at the first chunk.
        """
        return each(self.body_of(api.files.file_call(url, self.base_url)))

    def close(self) -> None:
        """Close the HTTP sessions of all threads; a client that is used again opens new ones."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._forget_sessions()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    _transport_errors = (OSError,)  # those of requests, and from reading the CA bundle

    def open_stream(self, events: AsyncIterator[StreamEvent], close: Close) -> WorkflowStream:
        return WorkflowStream(each(events), lambda: perform(close()))

    async def in_thread(self, do: Callable[..., _T], *args: Any) -> _T:
        return do(*args)

    def _session(self, server: str) -> requests.Session:
        """The current thread's session for a server: ``requests.Session`` isn't thread-safe."""
        own: dict[str, requests.Session] = self._own.__dict__
        if server in own:
            return own[server]
        session = requests.Session()
        # Read once: requests would read the environment before each request, which takes a third of its time.
        proxy = proxy_for(server, socks_package="socks")
        session.proxies = {} if proxy is None else {"http": proxy, "https": proxy}
        session.verify = ca_bundle(self.settings.verify)
        # The API key is the only identity that a request may have: no cookies, nothing from a .netrc file.
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        with self._lock:
            own[server] = session
            self._sessions.add(session)
        return session

    async def _open(self, request: Request, url: str, headers: dict[str, str], seconds: float) -> requests.Response:
        session = self._session(origin(url))
        # Prepared here and not by the session, which would merge its settings into each request.
        prepared = requests.Request(request.method, url, {"Accept-Encoding": _ENCODINGS, **headers}, data=request.body)
        timeouts = (min(seconds, self.settings.timeout), seconds)
        return session.send(
            prepared.prepare(), timeout=timeouts, proxies=session.proxies, allow_redirects=False, stream=True
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
