"""What the commands do. Each ends in ``SystemExit``, since Airflow's CLI takes no note of what a command returns."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any

from airflow_provider_sim.cli import show
from airflow_provider_sim.client import (
    DEFAULT_BASE_URL,
    NO_RETRY,
    AsyncExecutionResult,
    ClientSettings,
    RunStatus,
    SimClient,
    StreamChunk,
    StreamChunkReset,
    StreamEnd,
    WorkflowExecutionResult,
    WorkflowRun,
    WorkflowStream,
    approval_url,
    check_selected,
    new_run_id,
    run_url,
)
from airflow_provider_sim.exceptions import SimError, SimInputError, SimRateLimitError, SimUnsupportedError
from airflow_provider_sim.polling import RunPollState, wait_for_run
from airflow_provider_sim.task.input import input_fields

STOPPING_TIMEOUT = 10.0
"""Seconds for each question while a run is being cancelled after Ctrl-C."""


class Exit(IntEnum):
    """What a command's end means to a script; 2 is argparse's."""

    FINE = 0
    ERROR = 1
    NOT_SO = 3
    PAUSED = 4
    INTERRUPTED = 130


Does = Callable[[Any, "_Server"], Exit]


class _Server:
    """The client, and the workspace that its connection names."""

    def __init__(self, client: SimClient, workspace_id: str | None) -> None:
        self.client = client
        self._workspace_id = workspace_id

    def link_to(self, run: WorkflowRun) -> str | None:
        """Return the page in Sim on which a paused run is answered, or the run's log.

        If the connection has no workspace, the latter is the workflow's page.
        """
        if run.workflow_id is None or run.run_id is None:
            return None
        if show.waits_for_person(run):
            return approval_url(self.client.base_url, run.workflow_id, run.run_id)
        return run_url(self.client.base_url, run.workflow_id, run.run_id, self._workspace_id)

    def workspace(self) -> str:
        """Return the workspace to list when none is named.

        :raises SimInputError: there is more than one.
        """
        if self._workspace_id:
            return self._workspace_id
        spaces = self.client.list_workspaces().items
        if len(spaces) != 1:
            names = ", ".join(f"{space.workspace_id} ({space.name})" for space in spaces)
            raise SimInputError(f"The key sees {len(spaces)} workspaces; choose one by --workspace: {names}.")
        return spaces[0].workspace_id


def _command(does: Does) -> Callable[[Any], None]:
    """Give a command its client; its errors are sentences, and its end an exit code."""

    @functools.wraps(does)
    def carry_out(arguments: Any) -> None:
        _quiet()
        try:
            with _server(arguments.conn_id) as server:
                code = does(arguments, server)
        except SimError as error:
            show.error(arguments, error)
            code = Exit.ERROR
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        sys.stdout.flush()
        sys.exit(int(code))

    return carry_out


def _quiet() -> None:
    """Our log goes to stderr, and only what somebody should know; Airflow 2 would tell stdout of each connection."""
    logging.getLogger("airflow.hooks.base").setLevel(logging.WARNING)
    ours = logging.getLogger("airflow_provider_sim")
    if not any(isinstance(handler, show.LogLines) for handler in ours.handlers):
        ours.addHandler(show.LogLines())
    ours.propagate = False
    ours.setLevel(logging.WARNING)


@contextmanager
def _hushed() -> Iterator[None]:
    """Airflow opens its database with many words, before 3.3 to stdout, where a script expects nothing but JSON."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _server(conn_id: str | None) -> Iterator[_Server]:
    """The server that the connection names, or else the environment."""
    key = os.environ.get("SIM_API_KEY", "")
    if conn_id is None and key:
        settings = ClientSettings(api_key=key, base_url=os.environ.get("SIM_BASE_URL") or DEFAULT_BASE_URL)
        with SimClient.from_settings(settings) as client:
            yield _Server(client, None)
        return
    from airflow_provider_sim._compat import with_stored_connections
    from airflow_provider_sim.hooks.sim import SimHook

    with SimHook(conn_id or SimHook.default_conn_name) as hook:
        with _hushed(), with_stored_connections():
            server = _Server(hook.get_conn(), hook.workspace_id)
        yield server


@_command
def check(arguments: Any, server: _Server) -> Exit:
    """Say whom the connection leads to."""
    client = server.client
    try:
        spaces = client.list_workspaces().items
    except SimUnsupportedError:
        spaces = ()
    usage = client.get_usage_limits()
    show.account(arguments, client.base_url, bool(client.speaks_v2), spaces, usage)
    return Exit.FINE


@_command
def run(arguments: Any, server: _Server) -> Exit:
    """Run a workflow."""
    given, run_id = input_fields(_input(arguments.input), workflow_id=arguments.workflow_id), new_run_id()
    deadline = None if arguments.timeout is None else time.time() + arguments.timeout
    try:
        with show.waiting(arguments, f"Running {arguments.workflow_id} ({run_id})"):
            ended = _start(arguments, server.client, given, run_id, deadline)
            if isinstance(ended, AsyncExecutionResult):
                run_id = ended.run_id
                if arguments.no_wait:
                    show.receipt(arguments, ended)
                    return Exit.FINE
                ended = _wait(arguments, server.client, ended, deadline)
    except KeyboardInterrupt:
        _stop(arguments, server.client, run_id)
        return Exit.INTERRUPTED
    except SimError as error:
        if error.run_id and deadline is not None and time.time() >= deadline:
            _stop(arguments, server.client, error.run_id)
        raise
    return _show(arguments, server, ended)


def _input(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise SimInputError(
            f"The --input can't be read as JSON: {error}. In a shell: --input '{{\"a\": 1}}'."
        ) from None


def _start(
    arguments: Any, client: SimClient, given: Any, run_id: str, deadline: float | None
) -> WorkflowRun | AsyncExecutionResult:
    options: dict[str, Any] = {"run_id": run_id, "deadline": deadline}
    if arguments.async_execution or arguments.no_wait:
        options["async_execution"] = True
    elif arguments.stream:
        options |= {"stream": True, "selected_outputs": arguments.select}
    started = client.execute_with_retry(arguments.workflow_id, given, **options)
    if not isinstance(started, WorkflowStream):
        return started
    texts: defaultdict[str, str] = defaultdict(str)
    with started:
        for event in started:
            match event:
                case StreamChunk(block_id, text):
                    texts[block_id or ""] += text
                    show.text(arguments, text)
                case StreamChunkReset(block_id):
                    texts.pop(block_id or "", None)
                case StreamEnd(result):
                    show.text(arguments, "\n")
                    check_selected(arguments.select or [], texts, event)
                    return _with_texts(result, texts) if arguments.select and arguments.output else result
    raise AssertionError("a stream without an end raises SimStreamError")


def _with_texts(result: WorkflowExecutionResult, texts: dict[str, str]) -> WorkflowExecutionResult:
    """The result with the streamed texts, which Sim leaves out of the final output."""
    if result.status is not RunStatus.COMPLETED:
        return result
    return replace(result, output={**texts, **(result.output if isinstance(result.output, dict) else {})})


def _wait(arguments: Any, client: SimClient, receipt: AsyncExecutionResult, deadline: float | None) -> WorkflowRun:
    watch = RunPollState(
        receipt.workflow_id,
        receipt.run_id,
        job_id=receipt.job_id,
        poll_interval=arguments.poll_interval,
        deadline=deadline,
        on_paused="return",
    )
    ended = wait_for_run(client, watch)
    if ended.status is not RunStatus.COMPLETED:
        return ended
    return client.get_workflow_result(receipt.workflow_id, receipt.run_id, job_id=receipt.job_id)


def _stop(arguments: Any, client: SimClient, run_id: str) -> None:
    """Cancel a run from a client of its own: the other one may be in the middle of an answer."""
    with SimClient(
        client.settings.api_key,
        client.base_url,
        api_version=client.settings.api_version,
        timeout=min(STOPPING_TIMEOUT, client.settings.timeout),
        verify=client.settings.verify,
        retry=NO_RETRY,
    ) as own:
        try:
            show.remark(str(own.stop_workflow_run(arguments.workflow_id, run_id)))
        except SimError as error:
            show.remark(f"Run {run_id} could not be cancelled. {error}")


def _show(arguments: Any, server: _Server, run: WorkflowRun) -> Exit:
    """Show a run; return the exit code of its status."""
    show.one_run(arguments, run, link=server.link_to(run))
    if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        return Exit.NOT_SO
    return Exit.PAUSED if show.waits_for_person(run) else Exit.FINE


@_command
def status(arguments: Any, server: _Server) -> Exit:
    """Show a run."""
    found = server.client.get_workflow_run(arguments.workflow_id, arguments.run_id)
    if found.status is RunStatus.COMPLETED:
        found = server.client.get_workflow_result(arguments.workflow_id, arguments.run_id)
    return _show(arguments, server, found)


@_command
def watch(arguments: Any, server: _Server) -> Exit:
    """Show the latest runs."""
    client = server.client
    if arguments.workflow:
        page = functools.partial(client.list_workflow_runs, arguments.workflow, limit=arguments.limit)
    else:
        page = functools.partial(client.list_logs, arguments.workspace or server.workspace(), limit=arguments.limit)
    if arguments.once or not show.is_watched(arguments):
        show.runs(arguments, _with_pauses(client, page().items))
        return Exit.FINE
    with show.live() as screen:
        while True:
            wait = arguments.interval
            try:
                screen.update(show.table(_with_pauses(client, page().items)), refresh=True)
            except SimRateLimitError as error:
                wait = max(wait, error.retry_after or 0.0)
            time.sleep(wait)


def _with_pauses(client: SimClient, runs: Sequence[WorkflowRun]) -> list[WorkflowRun]:
    """Return listed runs with the status that :func:`status` shows: lists call a paused run ``pending``."""
    return [_read(client, run) if run.status is RunStatus.PENDING else run for run in runs]


def _read(client: SimClient, run: WorkflowRun) -> WorkflowRun:
    try:
        return client.get_workflow_run(run.workflow_id or "", run.run_id or "", retry=NO_RETRY)
    except SimError:  # such as a rate limit: better the list's status than none
        return run


@_command
def cancel(arguments: Any, server: _Server) -> Exit:
    """Cancel a run."""
    done = server.client.stop_workflow_run(arguments.workflow_id, arguments.run_id)
    show.cancellation(arguments, done)
    return Exit.FINE if done.status is RunStatus.CANCELLED else Exit.NOT_SO
