"""The asyncio client, over httpx: what :class:`~.blocking.SimClient` offers, to be awaited.

For code that shares an event loop, such as triggers. Its methods take, return and raise what those of the blocking
client do; their docstrings stand there.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self, TypeVar

import httpx
import tenacity

from airflow_provider_sim.client import transport_errors
from airflow_provider_sim.client.api.files import check_file_answer, file_request
from airflow_provider_sim.client.api.http import Body, Request, Response, streaming
from airflow_provider_sim.client.base import BaseClient
from airflow_provider_sim.client.environment import ca_bundle, proxy_for
from airflow_provider_sim.client.flows import Flow, RequestStep, given
from airflow_provider_sim.client.models import (
    AsyncExecutionResult,
    BillingStatus,
    Cancellation,
    Deployment,
    JobStatus,
    Page,
    PausedRun,
    Resumption,
    RunOutput,
    UsageLimits,
    Workflow,
    WorkflowExecutionResult,
    WorkflowRun,
    WorkflowStatus,
    Workspace,
)
from airflow_provider_sim.client.retry import Delays, RetryPolicy
from airflow_provider_sim.client.start import submit
from airflow_provider_sim.client.stream import StreamEnd, StreamEvent, StreamReader
from airflow_provider_sim.exceptions import SimConfigurationError, SimError

T = TypeVar("T")

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)

_READ_APART_BYTES = 64 * 1024
"""Larger answers are read in a thread: a page of a thousand runs takes tens of milliseconds."""

# httpx's own 5 s close every connection between two polls.
_LIMITS = httpx.Limits(max_connections=50, max_keepalive_connections=50, keepalive_expiry=120)


class AsyncWorkflowStream:
    """A streamed execution, for ``async for``; see :class:`~.blocking.WorkflowStream`."""

    def __init__(self, events: AsyncIterator[StreamEvent], close: Callable[[], Awaitable[None]]) -> None:
        self._events = events
        self.close = close

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Give the events, once."""
        return self._events

    async def __aenter__(self) -> Self:
        """Give the stream itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Hang up."""
        await self.close()


_Started = WorkflowExecutionResult | AsyncExecutionResult | AsyncWorkflowStream


class AsyncSimClient(BaseClient):
    """Sim's API for code on an event loop. One instance holds one pool of connections per base URL, for one loop.

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
        started: _Started = await self._hold(self._talk.execute(workflow_id, input, **given(options)))
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
        waits_out_limits: bool | None = None,
        **options: Any,
    ) -> _Started:
        """As :meth:`.SimClient.execute_with_retry`."""
        policy = self._settings.retry.adjusted(
            max_retries=max_retries,
            initial_delay=initial_delay,
            max_delay=max_delay,
            backoff_multiplier=backoff_multiplier,
            waits_out_limits=waits_out_limits,
        )
        started: _Started = await self._hold(submit(self._talk, workflow_id, input, retry=policy, **given(options)))
        if options.get("stream") and isinstance(started, WorkflowExecutionResult):
            return _stream_of(started)  # the stream was lost, and its run found
        return started

    async def get_workflow_run(
        self,
        workflow_id: str,
        run_id: str,
        *,
        include_output: bool = False,
        selected_outputs: Sequence[str] | None = None,
        job_id: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> WorkflowRun:
        """As :meth:`.SimClient.get_workflow_run`."""
        conversation = self._talk.get_workflow_run(
            workflow_id,
            run_id,
            include_output=include_output,
            selected_outputs=selected_outputs,
            job_id=job_id,
            retry=retry,
        )
        return await self._hold(conversation)

    async def get_workflow_result(self, workflow_id: str, run_id: str, *, job_id: str | None = None) -> WorkflowRun:
        """As :meth:`.SimClient.get_workflow_result`."""
        return await self._hold(self._talk.get_workflow_result(workflow_id, run_id, job_id=job_id))

    async def get_output(self, run: WorkflowRun, selected_outputs: Sequence[str] | None = None) -> RunOutput:
        """As :meth:`.SimClient.get_output`."""
        return await self._hold(self._talk.get_output(run, selected_outputs))

    async def list_workflow_runs(
        self, workflow_id: str, *, retry: RetryPolicy | None = None, **filters: Any
    ) -> Page[WorkflowRun]:
        """As :meth:`.SimClient.list_workflow_runs`."""
        return await self._hold(self._talk.list_workflow_runs(workflow_id, retry=retry, **filters))

    async def list_logs(
        self, workspace_id: str, *, retry: RetryPolicy | None = None, **filters: Any
    ) -> Page[WorkflowRun]:
        """As :meth:`.SimClient.list_logs`."""
        return await self._hold(self._talk.list_logs(workspace_id, retry=retry, **filters))

    async def cancel_workflow_run(
        self, workflow_id: str, run_id: str, *, retry: RetryPolicy | None = None
    ) -> Cancellation:
        """As :meth:`.SimClient.cancel_workflow_run`."""
        return await self._hold(self._talk.cancel_workflow_run(workflow_id, run_id, retry=retry))

    async def stop_workflow_run(
        self, workflow_id: str, run_id: str, *, job_id: str | None = None, retry: RetryPolicy | None = None
    ) -> Cancellation:
        """As :meth:`.SimClient.stop_workflow_run`."""
        return await self._hold(self._talk.stop_workflow_run(workflow_id, run_id, job_id=job_id, retry=retry))

    async def get_paused_run(self, workflow_id: str, run_id: str) -> PausedRun:
        """As :meth:`.SimClient.get_paused_run`."""
        return await self._hold(self._talk.get_paused_run(workflow_id, run_id))

    async def resume_workflow_run(
        self, workflow_id: str, run_id: str, *, context_id: str, input: Any = None
    ) -> Resumption:
        """As :meth:`.SimClient.resume_workflow_run`."""
        return await self._hold(self._talk.resume_workflow_run(workflow_id, run_id, context_id=context_id, input=input))

    async def get_job_status(self, job_id: str) -> JobStatus:
        """As :meth:`.SimClient.get_job_status`."""
        return await self._hold(self._talk.get_job_status(job_id))

    async def download_file(self, url: str) -> AsyncIterator[bytes]:
        """As :meth:`.SimClient.download_file`."""
        request, address = file_request(url, self.base_url)
        timeout = self._settings.timeout
        try:
            async with (
                httpx.AsyncClient(**await _transport(address, self._settings.verify), timeout=timeout) as http,
                http.stream("GET", address) as answer,
            ):
                check_file_answer(request, answer.status_code)
                async for piece in answer.aiter_bytes():
                    yield piece
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _fault(request, address.partition("?")[0], timeout, error) from error

    async def get_workflow_status(self, workflow_id: str) -> WorkflowStatus:
        """As :meth:`.SimClient.get_workflow_status`."""
        return await self._hold(self._talk.get_workflow_status(workflow_id))

    async def validate_workflow(self, workflow_id: str) -> bool:
        """As :meth:`.SimClient.validate_workflow`."""
        return await self._hold(self._talk.validate_workflow(workflow_id))

    async def get_workflow(self, workflow_id: str, *, retry: RetryPolicy | None = None) -> Workflow:
        """As :meth:`.SimClient.get_workflow`."""
        return await self._hold(self._talk.get_workflow(workflow_id, retry=retry))

    async def get_deployment(self, workflow_id: str) -> Deployment:
        """As :meth:`.SimClient.get_deployment`."""
        return await self._hold(self._talk.get_deployment(workflow_id))

    async def deploy_workflow(
        self, workflow_id: str, *, name: str | None = None, description: str | None = None
    ) -> Deployment:
        """As :meth:`.SimClient.deploy_workflow`."""
        return await self._hold(self._talk.deploy_workflow(workflow_id, name=name, description=description))

    async def undeploy_workflow(self, workflow_id: str) -> Deployment:
        """As :meth:`.SimClient.undeploy_workflow`."""
        return await self._hold(self._talk.undeploy_workflow(workflow_id))

    async def rollback_workflow(self, workflow_id: str, version: int | None = None) -> Deployment:
        """As :meth:`.SimClient.rollback_workflow`."""
        return await self._hold(self._talk.rollback_workflow(workflow_id, version))

    async def list_workspaces(self) -> Page[Workspace]:
        """As :meth:`.SimClient.list_workspaces`."""
        return await self._hold(self._talk.list_workspaces())

    async def get_usage_limits(self) -> UsageLimits:
        """As :meth:`.SimClient.get_usage_limits`."""
        return await self._hold(self._talk.get_usage_limits())

    async def get_billing_status(self) -> BillingStatus:
        """As :meth:`.SimClient.get_billing_status`."""
        return await self._hold(self._talk.get_billing_status())

    async def get_usage(self) -> tuple[UsageLimits, BillingStatus | None]:
        """As :meth:`.SimClient.get_usage`."""
        return await self._hold(self._talk.get_usage())

    async def close(self) -> None:
        """Close all connections; the client may be used again and then opens others."""
        pools, self._pools = self._pools, {}
        for http in pools.values():
            await http.aclose()

    async def __aenter__(self) -> Self:
        """Give the client itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close all connections."""
        await self.close()

    async def _hold(self, conversation: Flow[T]) -> T:
        """Carry a conversation's questions to the server until it has its result."""
        delays = Delays()
        try:
            question = next(conversation)
            while True:
                try:
                    answer = await self._perform(question, delays)
                except SimError as error:
                    question = conversation.throw(self._naming_connection(error))
                else:
                    question = conversation.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _perform(self, question: RequestStep, delays: Delays) -> Any:
        attempts = self._attempts(question, delays)

        async def attempt() -> Any:
            call = attempts.next_call()
            response = await self._exchange(call.request, question)
            if isinstance(response, AsyncWorkflowStream):
                return response
            if len(response.body) > _READ_APART_BYTES:
                result = await asyncio.to_thread(call.read, response)
            else:
                result = call.read(response)
            if not question.streamed:
                return result
            return _stream_of(result)

        return await tenacity.AsyncRetrying(sleep=self._sleep, **attempts.tenacity())(attempt)

    async def _exchange(self, request: Request, question: RequestStep) -> Response | AsyncWorkflowStream:
        async with self._slots:
            return await self._send(request, question)

    async def _send(self, request: Request, question: RequestStep) -> Response | AsyncWorkflowStream:
        connect, wait = self._timeouts(request, question)
        ends = asyncio.get_running_loop().time() + wait
        try:
            http = await (self._shares_with or self)._open_http()
            answer = await http.send(
                http.build_request(
                    request.method,
                    self.base_url + request.path,
                    content=request.body,
                    headers=self._headers(request),
                    timeout=httpx.Timeout(wait, connect=connect),
                ),
                stream=True,
            )
            headers = {name.lower(): value for name, value in answer.headers.items()}
            head = Response(answer.status_code, headers, b"")
            self._note_rate_limit(request, head)
            if question.streamed and self._is_event_stream(head):
                return AsyncWorkflowStream(self._events(answer, request, wait, ends), answer.aclose)
            try:
                body = Body(request, head)
                async for piece in answer.aiter_bytes():
                    body.add(piece)
                return self._without_key(body.whole())
            finally:
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _fault(request, self.base_url, wait, error) from transport_errors.without_frames(error)

    async def _events(
        self, answer: httpx.Response, request: Request, wait: float, ends: float
    ) -> AsyncIterator[StreamEvent]:
        reader = StreamReader(workflow_id=request.workflow_id or "", run_id=request.run_id)
        try:
            async for piece in _pieces(answer, ends):
                for event in reader.feed(piece):
                    yield event
        except (httpx.HTTPError, TimeoutError) as error:
            raise _fault(streaming(request), self.base_url, wait, error) from transport_errors.without_frames(error)
        reader.finish()

    async def _open_http(self) -> httpx.AsyncClient:
        if http := self._pools.get(self.base_url):
            return http
        base_url = self.base_url
        transport = await _transport(base_url, self._settings.verify)
        if base_url not in self._pools:  # another request may have opened it since
            # Sim's key is all the identity that a request may carry: no cookies, nothing from a .netrc file.
            self._pools[base_url] = httpx.AsyncClient(
                **transport,
                limits=_LIMITS,
                follow_redirects=False,
                cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
                auth=lambda request: request,
            )
        return self._pools[base_url]


def limited(client: AsyncSimClient, requests: int) -> AsyncSimClient:
    """Return a client that shares the connections of ``client`` and has at most ``requests`` requests in flight.

    Only requests take one of these slots, not the delays between retries: a rate-limited call holds none.
    """
    other = copy.copy(client)
    other._shares_with, other._slots = client, asyncio.Semaphore(requests)
    return other


async def _pieces(answer: httpx.Response, ends: float) -> AsyncIterator[bytes]:
    """Yield a stream's bytes as they arrive.

    :param ends: the loop's time at which the stream times out: the timeout of httpx applies to each read, and starts
        again with every piece.
    :raises TimeoutError: the stream has timed out.
    """
    pieces = answer.aiter_bytes()
    while True:
        async with asyncio.timeout_at(ends):
            piece = await anext(pieces, None)
        if piece is None:
            return
        yield piece


def _stream_of(result: WorkflowExecutionResult) -> AsyncWorkflowStream:
    async def events() -> AsyncIterator[StreamEvent]:
        yield StreamEnd(result, streamed=False)

    async def close() -> None:
        pass

    return AsyncWorkflowStream(events(), close)


async def _transport(url: str, verify: bool | str) -> dict[str, Any]:
    """Return httpx's arguments for the connections to one server.

    Reading the environment and building an SSL context takes tens of milliseconds, so that a thread does it.

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
    """Return the SSL context that all clients with the same CA bundle share.

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


def _fault(request: Request, base_url: str, wait: float, error: Exception) -> SimError:
    """Tell what went wrong apart by what the server can have seen."""
    if isinstance(error, _NEVER_SENT):
        return transport_errors.unreachable(request, base_url, error)
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return transport_errors.timed_out(request, base_url, wait)
    return transport_errors.broken(request, base_url, error)
