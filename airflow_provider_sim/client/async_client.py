"""The asyncio client, over httpx: the methods of :class:`~.sync_client.SimClient` as coroutines.

For code that shares an event loop, such as triggers.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
import tenacity

from airflow_provider_sim.client import transport_errors
from airflow_provider_sim.client.api.files import check_file_status, file_request
from airflow_provider_sim.client.api.http import BodyReader, Request, Response, streaming
from airflow_provider_sim.client.base import BaseClient, copy_metadata, given
from airflow_provider_sim.client.environment import ca_bundle, proxy_for
from airflow_provider_sim.client.flows import Flows
from airflow_provider_sim.client.models import AsyncExecutionResult, WorkflowExecutionResult
from airflow_provider_sim.client.start import start
from airflow_provider_sim.client.steps import Attempts, Delays, Flow, StepOptions
from airflow_provider_sim.client.stream import StreamEnd, StreamEvent, StreamReader
from airflow_provider_sim.exceptions import SimConfigurationError, SimError

P = ParamSpec("P")
T = TypeVar("T")

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)

_MAX_BYTES_ON_LOOP = 64 * 1024
"""Larger responses are parsed in a thread: a page of a thousand runs takes tens of milliseconds."""

# httpx's default of 5 s closes every connection between two polls.
_LIMITS = httpx.Limits(max_connections=50, max_keepalive_connections=50, keepalive_expiry=120)


class AsyncWorkflowStream:
    """A streamed execution, for ``async for``; see :class:`~.sync_client.WorkflowStream`."""

    def __init__(self, events: AsyncIterator[StreamEvent], close: Callable[[], Awaitable[None]]) -> None:
        self._events = events
        self.close = close

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Return the events, once."""
        return self._events

    async def __aenter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Disconnect."""
        await self.close()


_Started = WorkflowExecutionResult | AsyncExecutionResult | AsyncWorkflowStream


def _async(
    flow: Callable[Concatenate[Flows, P], Flow[T]],
) -> Callable[Concatenate[AsyncSimClient, P], Coroutine[Any, Any, T]]:
    """Return the client method that performs a flow."""

    async def method(self: AsyncSimClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(flow(self._flows, *args, **kwargs))

    copy_metadata("AsyncSimClient", method, flow)
    return method


class AsyncSimClient(BaseClient):
    """Asyncio client for Sim's API. An instance has one connection pool per base URL, for one event loop.

    See :class:`~.base.BaseClient` for its arguments.
    """

    _shares_with: AsyncSimClient | None = None
    _slots: AbstractAsyncContextManager[Any] = nullcontext()
    _sleep = staticmethod(asyncio.sleep)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pools: dict[str, httpx.AsyncClient] = {}

    async def execute_workflow(self, workflow_id: str, input: Any = None, **options: Any) -> _Started:
        """As :meth:`.SimClient.execute_workflow`."""
        started: _Started = await self._run(start(self._flows, workflow_id, input, **given(options)))
        return started

    async def execute_with_retry(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        max_retries: int | None = None,
        initial_delay: float | None = None,
        max_delay: float | None = None,
        backoff_multiplier: float | None = None,
        retry_on_rate_limit: bool | None = None,
        **options: Any,
    ) -> _Started:
        """As :meth:`.SimClient.execute_with_retry`."""
        policy = self._settings.retry.adjusted(
            max_retries=max_retries,
            initial_delay=initial_delay,
            max_delay=max_delay,
            backoff_multiplier=backoff_multiplier,
            retry_on_rate_limit=retry_on_rate_limit,
        )
        started: _Started = await self._run(start(self._flows, workflow_id, input, retry=policy, **given(options)))
        return started

    get_workflow_run = _async(Flows.get_workflow_run)
    get_workflow_result = _async(Flows.get_workflow_result)
    get_output = _async(Flows.get_output)
    list_workflow_runs = _async(Flows.list_workflow_runs)
    list_logs = _async(Flows.list_logs)
    cancel_workflow_run = _async(Flows.cancel_workflow_run)
    stop_workflow_run = _async(Flows.stop_workflow_run)
    get_paused_run = _async(Flows.get_paused_run)
    resume_workflow_run = _async(Flows.resume_workflow_run)
    get_job_status = _async(Flows.get_job_status)
    get_workflow_status = _async(Flows.get_workflow_status)
    validate_workflow = _async(Flows.validate_workflow)
    get_workflow = _async(Flows.get_workflow)
    list_workflows = _async(Flows.list_workflows)
    get_deployment = _async(Flows.get_deployment)
    deploy_workflow = _async(Flows.deploy_workflow)
    undeploy_workflow = _async(Flows.undeploy_workflow)
    rollback_workflow = _async(Flows.rollback_workflow)
    list_workspaces = _async(Flows.list_workspaces)
    get_usage_limits = _async(Flows.get_usage_limits)
    get_billing_status = _async(Flows.get_billing_status)
    get_usage = _async(Flows.get_usage)

    async def download_file(self, url: str) -> AsyncIterator[bytes]:
        """As :meth:`.SimClient.download_file`."""
        request, address = file_request(url, self.base_url)
        timeout = self._settings.timeout
        try:
            async with (
                httpx.AsyncClient(**await _transport(address, self._settings.verify), timeout=timeout) as http,
                http.stream("GET", address) as response,
            ):
                check_file_status(request, response.status_code)
                async for chunk in response.aiter_bytes():
                    yield chunk
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _error_for(request, address.partition("?")[0], timeout, error) from error

    # --- transport -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close all connections; a client that is used again opens new ones."""
        pools, self._pools = self._pools, {}
        for http in pools.values():
            await http.aclose()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close all connections."""
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        delays = Delays()
        try:
            step = next(flow)
            while True:
                attempts = Attempts(step, self._settings.retry, delays)
                try:
                    result: Any = await tenacity.AsyncRetrying(sleep=self._sleep, **attempts.tenacity())(
                        self._attempt, attempts, step.options
                    )
                except SimError as error:
                    step = flow.throw(self._for_flow(error))
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value = end.value
            return _stream_of(value) if isinstance(value, StreamEnd) else value  # type: ignore[return-value]

    async def _attempt(self, attempts: Attempts, options: StepOptions) -> Any:
        call = attempts.next_call()
        try:
            async with self._slots:
                connect, wait = self._timeouts(call.request, options)
                response = await self._exchange(call.request, options, connect, wait)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            cause = transport_errors.without_frames(error)
            raise _error_for(call.request, self.base_url, wait, error) from cause
        if isinstance(response, AsyncWorkflowStream):
            return response
        if error_response := call.error_in(response):
            raise error_response
        if len(response.body) > _MAX_BYTES_ON_LOOP:
            return await asyncio.to_thread(call.read, response)
        return call.read(response)

    async def _exchange(
        self, request: Request, options: StepOptions, connect: float, wait: float
    ) -> Response | AsyncWorkflowStream:
        ends = asyncio.get_running_loop().time() + wait
        http = await (self._shares_with or self)._open_http()
        response = await http.send(
            http.build_request(
                request.method,
                self.base_url + request.path,
                content=request.body,
                headers=self._headers(request),
                timeout=httpx.Timeout(wait, connect=connect),
            ),
            stream=True,
        )
        head = Response(response.status_code, {name.lower(): value for name, value in response.headers.items()}, b"")
        self._record_rate_limit(request, head)
        if options.stream and self._is_event_stream(head):
            return AsyncWorkflowStream(self._events(response, request, wait, ends), response.aclose)
        try:
            body = BodyReader(request, head)
            async for chunk in response.aiter_bytes():
                body.add(chunk)
            return self._without_key(body.response())
        finally:
            await response.aclose()

    async def _events(
        self, response: httpx.Response, request: Request, wait: float, ends: float
    ) -> AsyncIterator[StreamEvent]:
        reader = StreamReader(workflow_id=request.workflow_id or "", run_id=request.run_id)
        try:
            async for chunk in _chunks(response, ends):
                for event in reader.feed(chunk):
                    yield event
        except (httpx.HTTPError, TimeoutError) as error:
            cause = transport_errors.without_frames(error)
            raise _error_for(streaming(request), self.base_url, wait, error) from cause
        reader.finish()

    async def _open_http(self) -> httpx.AsyncClient:
        if http := self._pools.get(self.base_url):
            return http
        base_url = self.base_url
        transport = await _transport(base_url, self._settings.verify)
        if base_url not in self._pools:  # another request may have opened it in the meantime
            # The API key is the only identity that a request may have: no cookies, nothing from a .netrc file.
            self._pools[base_url] = httpx.AsyncClient(
                **transport,
                limits=_LIMITS,
                follow_redirects=False,
                cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
                auth=lambda request: request,
            )
        return self._pools[base_url]


def limited(client: AsyncSimClient, requests: int) -> AsyncSimClient:
    """Return a client that shares the connections of ``client`` and has up to ``requests`` requests in flight.

    Only requests take one of these slots, not the delays between retries: a rate-limited call holds none.
    """
    other = copy.copy(client)
    other._shares_with, other._slots = client, asyncio.Semaphore(requests)
    return other


async def _chunks(response: httpx.Response, ends: float) -> AsyncIterator[bytes]:
    """Yield a stream's bytes as they arrive.

    :param ends: the loop's time at which the stream times out: the timeout of httpx applies to each read, and starts
        again with every chunk.
    :raises TimeoutError: the stream has timed out.
    """
    chunks = response.aiter_bytes()
    while True:
        async with asyncio.timeout_at(ends):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


def _stream_of(end: StreamEnd) -> AsyncWorkflowStream:
    async def events() -> AsyncIterator[StreamEvent]:
        yield end

    async def close() -> None:
        pass

    return AsyncWorkflowStream(events(), close)


async def _transport(url: str, verify: bool | str) -> dict[str, Any]:
    """Httpx's arguments for the connections to one server.

    A thread reads the environment and builds the SSL context, which takes tens of milliseconds.

    :raises SimConfigurationError: the environment's proxy or CA bundle can't be used.
    """

    def read() -> dict[str, Any]:
        context = _ssl_context(ca_bundle(verify))
        proxy = proxy_for(url, socks_package="socksio")
        if proxy is None:
            return {"verify": context, "trust_env": False}
        of_proxy = context if proxy.lower().startswith("https:") else None
        return {"verify": context, "trust_env": False, "proxy": httpx.Proxy(proxy, ssl_context=of_proxy)}

    return await asyncio.to_thread(read)


@functools.lru_cache(maxsize=16)
def _ssl_context(bundle: bool | str) -> ssl.SSLContext:
    """The SSL context of all clients with the same CA bundle.

    :raises SimConfigurationError: the CA bundle can't be read.
    """
    if isinstance(bundle, bool):
        return httpx.create_ssl_context(verify=bundle, trust_env=False)
    try:
        if os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise SimConfigurationError(f"The CA bundle {bundle!r} can't be read ({error}).") from error


def _error_for(request: Request, base_url: str, wait: float, error: Exception) -> SimError:
    """Return the error for a transport error, by what the server may have received."""
    if isinstance(error, _NEVER_SENT):
        return transport_errors.unreachable(request, base_url, error)
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return transport_errors.timed_out(request, base_url, wait)
    return transport_errors.broken(request, base_url, error)
