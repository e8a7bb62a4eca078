"""The asyncio client, over httpx: the methods of :class:`~.sync_client.SimClient` as coroutines.

For code that shares an event loop, such as triggers.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self, TypeVar

import httpx

from airflow_provider_sim.client import api
from airflow_provider_sim.client.api.http import Request
from airflow_provider_sim.client.base import BaseClient, Close
from airflow_provider_sim.client.file_flows import Part
from airflow_provider_sim.client.retry import RequestOptions
from airflow_provider_sim.client.start import StartFlows
from airflow_provider_sim.client.stream import StreamEvent
from airflow_provider_sim.client.transport import Reason, ca_bundle, origin, proxy_for
from airflow_provider_sim.exceptions import SimConfigurationError

_T = TypeVar("_T")

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)

# httpx's default of 5 s closes every connection between two polls.
_LIMITS = httpx.Limits(max_connections=50, max_keepalive_connections=50, keepalive_expiry=120)


class AsyncWorkflowStream(AbstractAsyncContextManager["AsyncWorkflowStream"]):
    """A streamed execution, for ``async for``; see :class:`~.sync_client.WorkflowStream`."""

    def __init__(self, events: AsyncIterator[StreamEvent], close: Close) -> None:
        self._events = events
        self.close = close

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        return self._events

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class AsyncSimClient(BaseClient, StartFlows, AbstractAsyncContextManager["AsyncSimClient"]):
    """Asyncio client for Sim's API. An instance has one connection pool per server, for one event loop.

    See :class:`~.base.BaseClient` for its arguments.
    """

    _shares_with: AsyncSimClient | None = None
    _slots: AbstractAsyncContextManager[Any] = nullcontext()
    _sleep = staticmethod(asyncio.sleep)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pools: dict[str, httpx.AsyncClient] = {}

    @property
    def _client(self) -> Self:
        return self

    def download_file(self, url: str) -> AsyncIterator[bytes]:
        """As :meth:`.SimClient.download_file`."""
        return self.body_of(api.files.file_call(url, self.base_url))

    async def close(self) -> None:
        """Close all connections; a client that is used again opens new ones."""
        pools, self._pools = self._pools, {}
        for http in pools.values():
            await http.aclose()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    _transport_errors = (httpx.HTTPError, httpx.InvalidURL, OSError)

    def open_stream(self, events: AsyncIterator[StreamEvent], close: Close) -> AsyncWorkflowStream:
        return AsyncWorkflowStream(events, close)

    async def in_thread(self, do: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.to_thread(do, *args)

    async def _exchange(self, request: Request, options: RequestOptions) -> Any:
        async with self._slots:
            return await super()._exchange(request, options)

    async def _open(self, request: Request, url: str, headers: dict[str, str], seconds: float) -> httpx.Response:
        http = await (self._shares_with or self)._open_http(origin(url))
        content: Any = request.body
        if isinstance(content, Part):
            content, headers["Content-Length"] = _read_in_threads(content), str(len(content))
        timeout = httpx.Timeout(seconds, connect=min(seconds, self.settings.timeout))
        prepared = http.build_request(request.method, url, content=content, headers=headers, timeout=timeout)
        return await http.send(prepared, stream=True)

    async def _chunks(self, opened: httpx.Response, ends: float | None = None) -> AsyncIterator[bytes]:
        chunks = opened.aiter_bytes()
        while True:
            async with asyncio.timeout(None if ends is None else ends - time.monotonic()):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def _close(self, opened: httpx.Response) -> None:
        await opened.aclose()

    def _reason_of(self, error: Exception) -> Reason:
        if isinstance(error, _NEVER_SENT):
            return "unreachable"
        return "timed out" if isinstance(error, httpx.TimeoutException | TimeoutError) else "broken"

    async def _open_http(self, server: str) -> httpx.AsyncClient:
        if http := self._pools.get(server):
            return http
        transport = await asyncio.to_thread(_transport, server, self.settings.verify)
        if server not in self._pools:  # another request may have opened it in the meantime
            # The API key is the only identity that a request may have: no cookies, nothing from a .netrc file.
            self._pools[server] = httpx.AsyncClient(
                **transport,
                limits=_LIMITS,
                follow_redirects=False,
                cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
                auth=lambda request: request,
            )
        return self._pools[server]


async def _read_in_threads(part: Part) -> AsyncIterator[bytes]:
    chunks = iter(part)
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk


def limited(client: AsyncSimClient, requests: int) -> AsyncSimClient:
    """Return a client that shares the connections of ``client`` and has up to ``requests`` requests in flight.

    Only requests take one of these slots, not the delays between retries: a rate-limited call holds none.
    """
    other = copy.copy(client)
    other._shares_with, other._slots = client, asyncio.Semaphore(requests)
    return other


def _transport(url: str, verify: bool | str) -> dict[str, Any]:
    """Httpx's arguments for one server; called in a thread: building the SSL context takes tens of milliseconds."""
    context = _ssl_context(ca_bundle(verify))
    arguments: dict[str, Any] = {"verify": context, "trust_env": False}
    if proxy := proxy_for(url, socks_package="socksio"):
        is_tls = proxy.lower().startswith("https:")
        arguments["proxy"] = httpx.Proxy(proxy, ssl_context=context if is_tls else None)
    return arguments


@functools.lru_cache(maxsize=16)
def _ssl_context(bundle: bool | str) -> ssl.SSLContext:
    """The SSL context of all clients with the same CA bundle."""
    if isinstance(bundle, bool):
        return httpx.create_ssl_context(verify=bundle, trust_env=False)
    try:
        if os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise SimConfigurationError(f"The CA bundle {bundle!r} can't be read ({error}).") from error
