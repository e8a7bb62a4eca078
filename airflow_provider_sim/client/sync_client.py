"""The sync client, over requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload
from weakref import WeakSet

import requests
import tenacity

from airflow_provider_sim.client import transport_errors
from airflow_provider_sim.client.api.files import check_file_status, file_request
from airflow_provider_sim.client.api.http import BodyReader, Request, Response, streaming
from airflow_provider_sim.client.base import BaseClient, copy_metadata, given
from airflow_provider_sim.client.environment import ca_bundle, proxy_for
from airflow_provider_sim.client.flows import Flows
from airflow_provider_sim.client.models import AsyncExecutionResult, WorkflowExecutionResult
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.client.start import start
from airflow_provider_sim.client.steps import Attempts, Delays, Flow, RunId, StepOptions
from airflow_provider_sim.client.stream import StreamEnd, StreamEvent, StreamReader
from airflow_provider_sim.exceptions import SimError

P = ParamSpec("P")
T = TypeVar("T")

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


_Started = WorkflowExecutionResult | AsyncExecutionResult | WorkflowStream


def _sync(flow: Callable[Concatenate[Flows, P], Flow[T]]) -> Callable[Concatenate[SimClient, P], T]:
    """Return the client method that performs a flow."""

    def method(self: SimClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(flow(self._flows, *args, **kwargs))

    copy_metadata("SimClient", method, flow)
    return method


class SimClient(BaseClient):
    """Sync client for Sim's API. Thread-safe: each thread has its own HTTP session.

    See :class:`~.base.BaseClient` for its arguments.
    """

    _sleep = staticmethod(time.sleep)

    def _use(self, settings: ClientSettings) -> None:
        super()._use(settings)
        self._sessions = _Sessions(settings)

    @overload
    def execute_workflow(
        self,
        workflow_id: str,
        input: Any = ...,
        *,
        timeout: float | None = ...,
        stream: Literal[False] | None = ...,
        selected_outputs: None = ...,
        async_execution: Literal[False] | None = ...,
        run_id: RunId | None = ...,
    ) -> WorkflowExecutionResult: ...
    @overload
    def execute_workflow(
        self,
        workflow_id: str,
        input: Any = ...,
        *,
        timeout: float | None = ...,
        stream: Literal[True],
        selected_outputs: Sequence[str] | None = ...,
        run_id: RunId | None = ...,
    ) -> WorkflowStream: ...
    @overload
    def execute_workflow(
        self,
        workflow_id: str,
        input: Any = ...,
        *,
        timeout: float | None = ...,
        async_execution: Literal[True],
        run_id: RunId | None = ...,
        run_timeout: int | None = ...,
    ) -> AsyncExecutionResult: ...

    def execute_workflow(self, workflow_id: str, input: Any = None, **options: Any) -> _Started:
        """Run a deployed workflow, without retries.

        :param workflow_id: the workflow.
        :param input: the Start block's fields as a dict; any other value arrives as the field ``input``.
        :param timeout: seconds to wait for the response; default: 3600 for sync and streamed executions.
        :param stream: return the output as it arrives, as a :class:`WorkflowStream`.
        :param selected_outputs: with ``stream``, the block outputs to stream: ``Block name.path``.
        :param async_execution: queue the run and return a receipt.
        :param run_id: the run's ID, 1 to 128 of ``A-Za-z0-9._:-``; default: a random one.
        :param run_timeout: with ``async_execution``, seconds after which the server stops the run.
        :raises SimError: see :mod:`airflow_provider_sim.exceptions`. A run that failed or was cancelled is a result.
        """
        started: _Started = self._run(start(self._flows, workflow_id, input, **given(options)))
        return started

    def execute_with_retry(
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
        """Run a deployed workflow once, with retries that can't start it twice.

        If a response is lost, the client looks for the run and re-attaches to it: the result may then be of a run that
        is still active, for which :meth:`get_workflow_run` polls.

        :param max_retries: retries after the first attempt; default of this and the next three: the client's policy.
        :param initial_delay: seconds before the first retry, unless Sim sends a Retry-After.
        :param max_delay: upper limit of the growing delay in seconds.
        :param backoff_multiplier: factor by which the delay grows.
        :param retry_on_rate_limit: False raises rate-limit errors at once.
        :param options: as for :meth:`execute_workflow`, and: ``run_id`` may be an endless iterator of IDs, of which
            each attempt that needs a new one takes the next, just before it is sent; ``deadline``, seconds since the
            epoch after which no retry starts; ``stop``, a :class:`~.steps.StopToken` that keeps further attempts from
            being sent; ``unsent_ids``, IDs that were not used before this call, so if Sim rejects one of them as used,
            it belongs to another run.
        :raises SimError: the last attempt's error.
        :raises StartStoppedError: ``stop`` was set.
        """
        policy = self._settings.retry.adjusted(
            max_retries=max_retries,
            initial_delay=initial_delay,
            max_delay=max_delay,
            backoff_multiplier=backoff_multiplier,
            retry_on_rate_limit=retry_on_rate_limit,
        )
        started: _Started = self._run(start(self._flows, workflow_id, input, retry=policy, **given(options)))
        return started

    get_workflow_run = _sync(Flows.get_workflow_run)
    get_workflow_result = _sync(Flows.get_workflow_result)
    get_output = _sync(Flows.get_output)
    list_workflow_runs = _sync(Flows.list_workflow_runs)
    list_logs = _sync(Flows.list_logs)
    cancel_workflow_run = _sync(Flows.cancel_workflow_run)
    stop_workflow_run = _sync(Flows.stop_workflow_run)
    get_paused_run = _sync(Flows.get_paused_run)
    resume_workflow_run = _sync(Flows.resume_workflow_run)
    get_job_status = _sync(Flows.get_job_status)
    get_workflow_status = _sync(Flows.get_workflow_status)
    validate_workflow = _sync(Flows.validate_workflow)
    get_workflow = _sync(Flows.get_workflow)
    list_workflows = _sync(Flows.list_workflows)
    get_deployment = _sync(Flows.get_deployment)
    deploy_workflow = _sync(Flows.deploy_workflow)
    undeploy_workflow = _sync(Flows.undeploy_workflow)
    rollback_workflow = _sync(Flows.rollback_workflow)
    list_workspaces = _sync(Flows.list_workspaces)
    get_usage_limits = _sync(Flows.get_usage_limits)
    get_billing_status = _sync(Flows.get_billing_status)
    get_usage = _sync(Flows.get_usage)

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
            raise _error_for(request, address.partition("?")[0], timeout, error) from error

    # --- transport -----------------------------------------------------------------------------------------------

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

    def _run(self, flow: Flow[T]) -> T:
        delays = Delays()
        try:
            step = next(flow)
            while True:
                attempts = Attempts(step, self._settings.retry, delays)
                try:
                    result = tenacity.Retrying(sleep=self._sleep, **attempts.tenacity())(
                        self._attempt, attempts, step.options
                    )
                except SimError as error:
                    step = flow.throw(self._for_flow(error))
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value = end.value
            return WorkflowStream(iter([value])) if isinstance(value, StreamEnd) else value  # type: ignore[return-value]

    def _attempt(self, attempts: Attempts, options: StepOptions) -> Any:
        call = attempts.next_call()
        connect, wait = self._timeouts(call.request, options)
        try:
            response = self._exchange(call.request, options, connect, wait)
        except OSError as error:
            cause = transport_errors.without_frames(error)
            raise _error_for(call.request, self.base_url, wait, error) from cause
        if isinstance(response, WorkflowStream):
            return response
        if error_response := call.error_in(response):
            raise error_response
        return call.read(response)

    def _exchange(
        self, request: Request, options: StepOptions, connect: float, wait: float
    ) -> Response | WorkflowStream:
        ends = time.monotonic() + wait
        session = self._sessions.get()
        # Prepared here and not by the session, which would merge its settings into each request.
        headers = {"Accept-Encoding": _ENCODINGS, **self._headers(request)}
        prepared = requests.Request(request.method, self.base_url + request.path, headers, data=request.body)
        response = session.send(
            prepared.prepare(),
            timeout=(connect, wait),
            proxies=session.proxies,
            allow_redirects=False,
            stream=True,
        )
        head = Response(response.status_code, {name.lower(): value for name, value in response.headers.items()}, b"")
        self._record_rate_limit(request, head)
        if options.stream and self._is_event_stream(head):
            return WorkflowStream(self._events(response, request, wait, ends), response.close)
        body = BodyReader(request, head)
        with response:
            for chunk in response.iter_content(_CHUNK_BYTES):
                body.add(chunk)
        return self._without_key(body.response())

    def _events(self, response: requests.Response, request: Request, wait: float, ends: float) -> Iterator[StreamEvent]:
        reader = StreamReader(workflow_id=request.workflow_id or "", run_id=request.run_id)
        try:
            for chunk in _chunks(response, ends):
                yield from reader.feed(chunk)
        except requests.RequestException as error:
            cause = transport_errors.without_frames(error)
            raise _error_for(streaming(request), self.base_url, wait, error) from cause
        reader.finish()


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


def _chunks(response: requests.Response, ends: float) -> Iterator[bytes]:
    """Yield a stream's bytes as they arrive.

    :param ends: ``time.monotonic()`` at which the stream times out: the timeout of requests applies to each read, and
        starts again with every chunk.
    :raises requests.ReadTimeout: the stream has timed out.
    """
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


def _error_for(request: Request, base_url: str, wait: float, error: OSError) -> SimError:
    """Return the error for a transport error, by what the server may have received.

    :param error: one of requests' own, or from reading the CA bundle.
    """
    shown = repr(error)
    if (
        isinstance(error, _NEVER_SENT)
        or not isinstance(error, requests.RequestException)
        or any(name in shown for name in _NEVER_CONNECTED)
        or "handshake" in transport_errors.innermost_reason(error)  # requests reports its timeout as a read timeout
    ):
        return transport_errors.unreachable(request, base_url, error)
    if isinstance(error, requests.Timeout) or "ReadTimeoutError" in shown:
        return transport_errors.timed_out(request, base_url, wait)
    return transport_errors.broken(request, base_url, error)
