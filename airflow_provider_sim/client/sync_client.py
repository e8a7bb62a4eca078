"""The blocking client, over requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload
from weakref import WeakSet

import requests
import tenacity

from airflow_provider_sim.client import transport_errors
from airflow_provider_sim.client.api.files import check_file_answer, file_request
from airflow_provider_sim.client.api.http import Body, Request, Response, streaming
from airflow_provider_sim.client.base import BaseClient
from airflow_provider_sim.client.environment import ca_bundle, proxy_for
from airflow_provider_sim.client.flows import Flow, RequestStep, RunId, given
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
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.client.start import submit
from airflow_provider_sim.client.stream import StreamEnd, StreamEvent, StreamReader
from airflow_provider_sim.exceptions import SimError

T = TypeVar("T")

_NEVER_SENT = (
    requests.exceptions.ConnectTimeout,
    requests.exceptions.SSLError,
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidProxyURL,
)
_NEVER_CONNECTED = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError")
_PIECE_BYTES = 64 * 1024
_ENCODINGS = requests.utils.DEFAULT_ACCEPT_ENCODING


class WorkflowStream:
    """A streamed execution: iterate over it for its events; the last one is the run's end.

    Leaving the ``with`` block, or closing, hangs up, and hanging up before the end cancels the run. Iterating raises
    SimStreamError where the stream stops before the run's end.

    :param events: as they come.
    :param close: hangs up.
    """

    def __init__(self, events: Iterator[StreamEvent], close: Callable[[], None] = lambda: None) -> None:
        self._events = events
        self.close = close

    def __iter__(self) -> Iterator[StreamEvent]:
        """Give the events, once."""
        return self._events

    def __enter__(self) -> Self:
        """Give the stream itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Hang up."""
        self.close()


_Started = WorkflowExecutionResult | AsyncExecutionResult | WorkflowStream


class SimClient(BaseClient):
    """Sim's API for blocking code. Thread-safe: each thread has an HTTP session of its own.

    See :class:`~.base.BaseClient` for its arguments.
    """

    _sleep = staticmethod(time.sleep)

    def _use(self, settings: ClientSettings) -> None:
        super()._use(settings)
        self._sessions = _Sessions(settings)

    # --- running workflows ---------------------------------------------------------------------------------------

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

    def execute_workflow(
        self, workflow_id: str, input: Any = None, *, timeout: float | None = None, **options: Any
    ) -> _Started:
        """Run a deployed workflow, once: an error is raised, not tried again.

        :param workflow_id: the workflow.
        :param input: the Start block's fields as a dict; any other value arrives as the field ``input``.
        :param timeout: seconds to wait for the answer; default 3600 where it is held open until the run's end.
        :param stream: receive the output as it comes, as a :class:`WorkflowStream`.
        :param selected_outputs: with ``stream``, the block outputs to stream: ``Block name.path``.
        :param async_execution: queue the run and return a receipt.
        :param run_id: the run's id, if it is to be known beforehand: 1 to 128 of ``A-Za-z0-9._:-``; or a function that
            gives one.
        :param run_timeout: with ``async_execution``, seconds after which the server stops the run.
        :raises SimError: see :mod:`airflow_provider_sim.exceptions`. A run that failed or was cancelled is a result.
        """
        started: _Started = self._hold(self._talk.execute(workflow_id, input, timeout=timeout, **given(options)))
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
        waits_out_limits: bool | None = None,
        **options: Any,
    ) -> _Started:
        """Run a deployed workflow once, and try again where that can't start it twice: see :mod:`.submission`.

        Where an answer is lost, the run is looked for and taken up: the result may then be of a run that still goes on,
        to be waited for by :meth:`get_workflow_run`.

        :param max_retries: repetitions after the first attempt; default: the client's policy, as for the next three.
        :param initial_delay: seconds before the first repetition, unless Sim asks for another by Retry-After.
        :param max_delay: seconds that the growing delay stops at.
        :param backoff_multiplier: by how much the delay grows.
        :param waits_out_limits: False raises a refusal for too many requests or runs at once.
        :param options: as for :meth:`execute_workflow`, and ``deadline``: seconds since the epoch after which nothing
            is tried again; ``before_attempt``: called when an attempt is about to be sent, which it can keep from that
            by raising.
        :raises SimError: the last attempt's error.
        """
        policy = self._settings.retry.adjusted(
            max_retries=max_retries,
            initial_delay=initial_delay,
            max_delay=max_delay,
            backoff_multiplier=backoff_multiplier,
            waits_out_limits=waits_out_limits,
        )
        started: _Started = self._hold(submit(self._talk, workflow_id, input, retry=policy, **given(options)))
        if options.get("stream") and isinstance(started, WorkflowExecutionResult):
            return WorkflowStream(iter([StreamEnd(started, streamed=False)]))  # the stream was lost, and its run found
        return started

    # --- runs ----------------------------------------------------------------------------------------------------

    def get_workflow_run(
        self,
        workflow_id: str,
        run_id: str,
        *,
        include_output: bool = False,
        selected_outputs: Sequence[str] | None = None,
        job_id: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> WorkflowRun:
        """Ask for a run, however it was started.

        :param run_id: the run's id; on old servers a job's id, too.
        :param include_output: with the output of a completed run, as a display copy.
        :param selected_outputs: block ids, with or without a path, whose outputs to add.
        :param job_id: the run's queue entry, where the receipt told one; old servers know no other way.
        :param retry: other than the client's policy.
        :raises SimRunNotFoundError: there is no such run.
        """
        return self._hold(
            self._talk.get_workflow_run(
                workflow_id,
                run_id,
                include_output=include_output,
                selected_outputs=selected_outputs,
                job_id=job_id,
                retry=retry,
            )
        )

    def get_workflow_result(self, workflow_id: str, run_id: str, *, job_id: str | None = None) -> WorkflowRun:
        """Ask for a completed run with its output: the raw one where the server still has it, else the display copy."""
        return self._hold(self._talk.get_workflow_result(workflow_id, run_id, job_id=job_id))

    def get_output(self, run: WorkflowRun, selected_outputs: Sequence[str] | None = None) -> RunOutput:
        """Give what a run that is over has returned: the raw output where Sim still has it.

        :param selected_outputs: block ids, with or without a path, whose outputs to give instead, as a dict.
        :raises SimRunFailedError: it failed.
        :raises SimRunCancelledError: it was cancelled.
        :raises SimOutputError: a selector selects nothing.
        """
        return self._hold(self._talk.get_output(run, selected_outputs))

    def list_workflow_runs(
        self, workflow_id: str, *, retry: RetryPolicy | None = None, **filters: Any
    ) -> Page[WorkflowRun]:
        """List one page of a workflow's runs; runs that are only queued are not among them. Takes the v2 API.

        :param retry: other than the client's policy.
        :param filters: ``status`` (one of pending, running, completed, failed, cancelled, paused), ``trigger``,
            ``start_date`` and ``end_date`` (ISO 8601 with Z, or seconds since the epoch), ``limit`` (1 to 100),
            ``cursor``, ``order`` (desc, asc).
        """
        return self._hold(self._talk.list_workflow_runs(workflow_id, retry=retry, **filters))

    def list_logs(self, workspace_id: str, *, retry: RetryPolicy | None = None, **filters: Any) -> Page[WorkflowRun]:
        """List one page of a workspace's runs; runs that are only queued are not among them. Takes the v2 API.

        A run that waits for a person is ``pending`` here; :meth:`get_workflow_run` calls it ``paused``.

        :param retry: other than the client's policy.
        :param filters: ``workflow_ids`` and ``triggers`` (iterables), ``level`` (info, error), ``start_date`` and
            ``end_date`` (ISO 8601 with Z, or seconds since the epoch; both count by a run's start), ``run_id``,
            ``include_output``, ``limit`` (1 to 1000), ``cursor``, ``order`` (desc, asc).
        """
        return self._hold(self._talk.list_logs(workspace_id, retry=retry, **filters))

    def cancel_workflow_run(self, workflow_id: str, run_id: str, *, retry: RetryPolicy | None = None) -> Cancellation:
        """Ask for a run to be cancelled; only its status tells whether it was.

        :param retry: other than the client's policy.
        :raises SimUnsupportedError: the server is older than v0.5.44.
        """
        return self._hold(self._talk.cancel_workflow_run(workflow_id, run_id, retry=retry))

    def stop_workflow_run(
        self, workflow_id: str, run_id: str, *, job_id: str | None = None, retry: RetryPolicy | None = None
    ) -> Cancellation:
        """Cancel a run, also one whose start may still be on its way, and look what became of it.

        :param job_id: as for :meth:`get_workflow_run`.
        :param retry: other than the client's policy; it also says how long to look for the run.
        :raises SimRunNotFoundError: there is no such run.
        :raises SimUnsupportedError: the server is older than v0.5.44.
        """
        return self._hold(self._talk.stop_workflow_run(workflow_id, run_id, job_id=job_id, retry=retry))

    def get_paused_run(self, workflow_id: str, run_id: str) -> PausedRun:
        """Ask for the points at which a run waits or has waited, with what a person is shown and asked for there.

        Where a server, or the key, can't list them: the one point at which the run waits now, without that.

        :raises SimRunNotFoundError: there is no such run.
        """
        return self._hold(self._talk.get_paused_run(workflow_id, run_id))

    def resume_workflow_run(self, workflow_id: str, run_id: str, *, context_id: str, input: Any = None) -> Resumption:
        """Answer a human pause; then go on watching the same run.

        :param context_id: the pause point, from the run's ``paused.context_id``.
        :param input: the answer, as the pause block's fields.
        :raises SimConflictError: it was answered already.
        """
        return self._hold(self._talk.resume_workflow_run(workflow_id, run_id, context_id=context_id, input=input))

    def get_job_status(self, job_id: str) -> JobStatus:
        """Ask for a run's queue entry; Sim keeps it for a day after the run's end."""
        return self._hold(self._talk.get_job_status(job_id))

    def download_file(self, url: str) -> Iterator[bytes]:
        """Get a file of an output by the address that Sim gives; the API key isn't sent.

        :param url: an http or https address, or a path on this server.
        :raises SimError: it can't be got; raised at the first piece.
        """
        request, address = file_request(url, self.base_url)
        timeout = self._settings.timeout
        try:
            with (
                _session(address, self._settings.verify) as session,
                session.get(address, timeout=timeout, stream=True, allow_redirects=False) as answer,
            ):
                check_file_answer(request, answer.status_code)
                yield from answer.iter_content(_PIECE_BYTES)
        except OSError as error:
            raise _fault(request, address.partition("?")[0], timeout, error) from error

    # --- workflows and limits ------------------------------------------------------------------------------------

    def get_workflow_status(self, workflow_id: str) -> WorkflowStatus:
        """Ask whether a workflow is deployed."""
        return self._hold(self._talk.get_workflow_status(workflow_id))

    def validate_workflow(self, workflow_id: str) -> bool:
        """Whether a workflow can be run; False also where that can't be found out."""
        return self._hold(self._talk.validate_workflow(workflow_id))

    def get_workflow(self, workflow_id: str, *, retry: RetryPolicy | None = None) -> Workflow:
        """Ask for a workflow's name, workspace and declared inputs.

        :param retry: other than the client's policy.
        """
        return self._hold(self._talk.get_workflow(workflow_id, retry=retry))

    def get_deployment(self, workflow_id: str) -> Deployment:
        """Ask what of a workflow is live, and how its last deploying goes. Takes the v2 API."""
        return self._hold(self._talk.get_deployment(workflow_id))

    def deploy_workflow(
        self, workflow_id: str, *, name: str | None = None, description: str | None = None
    ) -> Deployment:
        """Ask for a workflow's draft to be made live, as a new version; Sim does it in the background. Takes v2.

        :param name: of the version, up to 100 characters.
        :param description: of the version.
        :raises SimPermissionError: it takes an admin's personal key; workspace keys may not.
        """
        return self._hold(self._talk.deploy_workflow(workflow_id, name=name, description=description))

    def undeploy_workflow(self, workflow_id: str) -> Deployment:
        """Take a workflow's live version back. Takes v2, and the key that :meth:`deploy_workflow` takes."""
        return self._hold(self._talk.undeploy_workflow(workflow_id))

    def rollback_workflow(self, workflow_id: str, version: int | None = None) -> Deployment:
        """Ask for an earlier version to be made live. Takes v2, and the key that :meth:`deploy_workflow` takes.

        :param version: its number; default: the one before the live one.
        """
        return self._hold(self._talk.rollback_workflow(workflow_id, version))

    def list_workspaces(self) -> Page[Workspace]:
        """List the workspaces that the key may see. Takes the v2 API."""
        return self._hold(self._talk.list_workspaces())

    def get_usage_limits(self) -> UsageLimits:
        """Ask for limits and usage of the key's owner; for a workspace key, of whoever made it."""
        return self._hold(self._talk.get_usage_limits())

    def get_billing_status(self) -> BillingStatus:
        """Ask for plan, billing period and credits of the key's owner. Takes the v2 API."""
        return self._hold(self._talk.get_billing_status())

    def get_usage(self) -> tuple[UsageLimits, BillingStatus | None]:
        """Ask for both: :meth:`get_usage_limits` and :meth:`get_billing_status`, None where it can't be had."""
        return self._hold(self._talk.get_usage())

    # --- carrying it out -----------------------------------------------------------------------------------------

    def set_api_key(self, api_key: str) -> None:
        """Use another key from now on."""
        self.close()
        super().set_api_key(api_key)

    def set_base_url(self, base_url: str) -> None:
        """Send requests to another server from now on."""
        self.close()
        super().set_base_url(base_url)

    def close(self) -> None:
        """Close the HTTP sessions of all threads; a client that is used again opens new ones."""
        sessions, self._sessions = self._sessions, _Sessions(self._settings)
        sessions.close()

    def __enter__(self) -> Self:
        """Give the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the HTTP sessions."""
        self.close()

    def _hold(self, conversation: Flow[T]) -> T:
        """Carry a conversation's questions to the server until it has its result."""
        delays = Delays()
        try:
            question = next(conversation)
            while True:
                try:
                    answer = self._perform(question, delays)
                except SimError as error:
                    question = conversation.throw(self._naming_connection(error))
                else:
                    question = conversation.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _perform(self, question: RequestStep, delays: Delays) -> Any:
        attempts = self._attempts(question, delays)

        def attempt() -> Any:
            call = attempts.next_call()
            response = self._exchange(call.request, question)
            if isinstance(response, WorkflowStream):
                return response
            result = call.read(response)
            if not question.streamed:
                return result
            return WorkflowStream(iter([StreamEnd(result, streamed=False)]))

        return tenacity.Retrying(sleep=self._sleep, **attempts.tenacity())(attempt)

    def _exchange(self, request: Request, question: RequestStep) -> Response | WorkflowStream:
        connect, wait = self._timeouts(request, question)
        ends = time.monotonic() + wait
        try:
            session = self._sessions.get()
            # Prepared here and not by the session, which would merge settings of its own into each request.
            headers = {"Accept-Encoding": _ENCODINGS, **self._headers(request)}
            prepared = requests.Request(request.method, self.base_url + request.path, headers, data=request.body)
            answer = session.send(
                prepared.prepare(),
                timeout=(connect, wait),
                proxies=session.proxies,
                allow_redirects=False,
                stream=True,
            )
            headers = {name.lower(): value for name, value in answer.headers.items()}
            head = Response(answer.status_code, headers, b"")
            self._note_rate_limit(request, head)
            if question.streamed and self._is_event_stream(head):
                return WorkflowStream(self._events(answer, request, wait, ends), answer.close)
            body = Body(request, head)
            with answer:
                for piece in answer.iter_content(_PIECE_BYTES):
                    body.add(piece)
            return self._without_key(body.whole())
        except OSError as error:
            raise _fault(request, self.base_url, wait, error) from transport_errors.without_frames(error)

    def _events(self, answer: requests.Response, request: Request, wait: float, ends: float) -> Iterator[StreamEvent]:
        reader = StreamReader(workflow_id=request.workflow_id or "", run_id=request.run_id)
        try:
            for piece in _pieces(answer, ends):
                yield from reader.feed(piece)
        except requests.RequestException as error:
            raise _fault(streaming(request), self.base_url, wait, error) from transport_errors.without_frames(error)
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


def _pieces(answer: requests.Response, ends: float) -> Iterator[bytes]:
    """Yield a stream's bytes as they arrive.

    :param ends: ``time.monotonic()`` at which the stream times out: the timeout of requests applies to each read, and
        starts again with every piece.
    :raises requests.ReadTimeout: the stream has timed out.
    """
    # requests hands on a piece as it arrives only where the response is chunked and no size is asked for.
    pieces = answer.iter_content(None if answer.raw.chunked else _PIECE_BYTES)
    while True:
        left = ends - time.monotonic()
        if left <= 0:
            raise requests.ReadTimeout
        sock = getattr(answer.raw.connection, "sock", None)  # None after "Connection: close"
        if sock is not None:
            sock.settimeout(left)
        piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _session(url: str, verify: bool | str) -> requests.Session:
    """Return a session for one server.

    :raises SimConfigurationError: the environment's proxy or CA bundle can't be used.
    """
    session = requests.Session()
    # Read once: requests would read the environment before each request, which takes a third of its time.
    proxy = proxy_for(url, socks_package="socks")
    session.proxies = {} if proxy is None else {"http": proxy, "https": proxy}
    session.verify = ca_bundle(verify)
    # Sim's key is all the identity that a request may carry: no cookies, nothing from a .netrc file.
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


def _fault(request: Request, base_url: str, wait: float, error: OSError) -> SimError:
    """Tell what went wrong apart by what the server can have seen.

    :param error: one of requests' own, or that of a CA bundle which isn't there.
    """
    shown = repr(error)
    if (
        isinstance(error, _NEVER_SENT)
        or not isinstance(error, requests.RequestException)
        or any(name in shown for name in _NEVER_CONNECTED)
        or "handshake" in transport_errors.innermost_reason(error)  # a silent one is a read timeout to requests
    ):
        return transport_errors.unreachable(request, base_url, error)
    if isinstance(error, requests.Timeout) or "ReadTimeoutError" in shown:
        return transport_errors.timed_out(request, base_url, wait)
    return transport_errors.broken(request, base_url, error)
