"""Implementation of the commands. Each raises ``SystemExit``, since Airflow's CLI ignores what a command returns."""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import sys
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
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
    Workflow,
    WorkflowExecutionResult,
    WorkflowRun,
    WorkflowStream,
    approval_url,
    check_selected,
    new_run_id,
    run_url,
)
from airflow_provider_sim.exceptions import SimError, SimInputError, SimNotFoundError, SimUnsupportedError
from airflow_provider_sim.polling import RunPollState, wait_for_run
from airflow_provider_sim.task.input import input_fields

CANCEL_TIMEOUT = 10.0  # seconds for each request of a cancellation after Ctrl-C


class ExitCode(IntEnum):
    """Exit codes; argparse uses 2."""

    SUCCESS = 0
    ERROR = 1
    NOT_COMPLETED = 3
    PAUSED = 4
    INTERRUPTED = 130


def _command(command: Callable[[Any, SimClient], ExitCode]) -> Callable[[Any], None]:
    """Provide a command's client, print its errors, and exit with its code."""

    @functools.wraps(command)
    def run_command(arguments: Any) -> None:
        # Without handlers, warnings are printed to stderr; Airflow 2 logs connections to stdout.
        logging.getLogger("airflow_provider_sim").propagate = False
        logging.getLogger("airflow.hooks.base").setLevel(logging.WARNING)
        try:
            with _client(arguments) as client:
                if getattr(arguments, "workflow_id", None) is not None:
                    arguments.workflow_id = _workflow_id(arguments, client)
                code = command(arguments, client)
        except SimError as error:
            show.error(arguments, error)
            code = ExitCode.ERROR
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        sys.stdout.flush()
        sys.exit(int(code))

    return run_command


@contextmanager
def _client(arguments: Any) -> Iterator[SimClient]:
    """Open the client of the connection or of the environment, and set ``arguments.workspace`` if it names one."""
    arguments.workspace = None
    key = os.environ.get("SIM_API_KEY", "")
    if arguments.conn_id is None and key:
        settings = ClientSettings(api_key=key, base_url=os.environ.get("SIM_BASE_URL") or DEFAULT_BASE_URL)
        with SimClient.from_settings(settings) as client:
            yield client
        return
    from airflow_provider_sim._compat import use_stored_connections
    from airflow_provider_sim.hooks.sim import SimHook

    with SimHook(arguments.conn_id or SimHook.default_conn_name) as hook:
        use_stored_connections()
        logging.disable(logging.WARNING)  # Airflow logs that it opens its database, before 3.3 to stdout
        try:
            with warnings.catch_warnings(action="ignore"):
                client = hook.get_conn()
        finally:
            logging.disable(logging.NOTSET)
        arguments.workspace = hook.workspace_id
        yield client


def _workflows(arguments: Any, client: SimClient) -> Iterator[Workflow]:
    """Yield the workflows of the connection's workspace, or of all that the key can access, without their inputs."""
    spaces = [arguments.workspace] if arguments.workspace else [x.workspace_id for x in client.list_workspaces().items]
    for workspace_id in spaces:
        page = client.list_workflows(workspace_id, limit=100)
        yield from page.items
        while page.next_cursor is not None:
            page = client.list_workflows(workspace_id, limit=100, cursor=page.next_cursor)
            yield from page.items


def _workflow_id(arguments: Any, client: SimClient) -> str:
    """Return the ID of the workflow that a command names by its ID or its name."""
    named: str = arguments.workflow_id
    with suppress(ValueError):
        return str(uuid.UUID(named))
    try:
        known = list(_workflows(arguments, client))
    except SimUnsupportedError:  # only the v2 API lists workflows
        return named
    found = [each for each in known if each.workflow_id == named] or [each for each in known if each.name == named]
    if len(found) == 1:
        return found[0].workflow_id
    if found:
        candidates = ", ".join(f"{each.workflow_id} (workspace {each.workspace_id})" for each in found)
        raise SimInputError(f"{len(found)} workflows have the name {named!r}: {candidates}. Pass the ID of one.")
    similar = difflib.get_close_matches(named, [each.name or "" for each in known])
    hint = f" Similar names: {', '.join(map(repr, similar))}." if similar else ""
    raise SimNotFoundError(
        f"No workflow has the ID or the name {named!r}.{hint} The command 'workflows' lists those of the key."
    )


@_command
def check(arguments: Any, client: SimClient) -> ExitCode:
    try:
        workspaces = client.list_workspaces().items
    except SimUnsupportedError:
        workspaces = ()
    workflow = client.get_workflow(arguments.workflow_id) if arguments.workflow_id else None
    usage = client.get_usage_limits()
    show.account(arguments, client.base_url, bool(client.speaks_v2), workspaces, usage, workflow)
    return ExitCode.NOT_COMPLETED if workflow is not None and workflow.is_deployed is False else ExitCode.SUCCESS


@_command
def workflows(arguments: Any, client: SimClient) -> ExitCode:
    with show.waiting(arguments, "Reading the workflows"):
        found = [client.get_workflow(each.workflow_id) for each in _workflows(arguments, client)]
    show.workflows(arguments, found)
    return ExitCode.SUCCESS


@_command
def run(arguments: Any, client: SimClient) -> ExitCode:
    input, run_id = input_fields(_input(arguments.input), workflow_id=arguments.workflow_id), new_run_id()
    deadline = None if arguments.timeout is None else time.time() + arguments.timeout
    try:
        with show.waiting(arguments, f"Running {arguments.workflow_id} ({run_id})"):
            result = _start(arguments, client, input, run_id, deadline)
            if isinstance(result, AsyncExecutionResult):
                run_id = result.run_id
                if arguments.no_wait:
                    receipt = {name: str(getattr(result, name)) for name in ("run_id", "workflow_id", "status")}
                    show.result(arguments, receipt, run_id)
                    return ExitCode.SUCCESS
                result = _wait(arguments, client, result, deadline)
    except KeyboardInterrupt:
        _cancel(arguments, client, run_id)
        return ExitCode.INTERRUPTED
    except SimError as error:
        if error.run_id and deadline is not None and time.time() >= deadline:
            _cancel(arguments, client, error.run_id)
        raise
    return _show(arguments, client, result)


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
    arguments: Any, client: SimClient, input: Any, run_id: str, deadline: float | None
) -> WorkflowRun | AsyncExecutionResult:
    options: dict[str, Any] = {"run_id": run_id, "deadline": deadline}
    if arguments.async_execution or arguments.no_wait:
        options["async_execution"] = True
    elif arguments.stream:
        options |= {"stream": True, "selected_outputs": arguments.select}
    started: WorkflowRun | AsyncExecutionResult | WorkflowStream
    started = client.start_workflow_run(arguments.workflow_id, input, **options)
    return _read_stream(arguments, started) if isinstance(started, WorkflowStream) else started


def _read_stream(arguments: Any, stream: WorkflowStream) -> WorkflowExecutionResult:
    """Print the text of a stream and return its result, with the selected texts, which Sim omits from the output."""
    texts: defaultdict[str, str] = defaultdict(str)
    with stream:
        for event in stream:
            match event:
                case StreamChunk(block_id, text):
                    texts[block_id or ""] += text
                    show.text(arguments, text)
                case StreamChunkReset(block_id):
                    texts.pop(block_id or "", None)
                case StreamEnd(result):
                    show.text(arguments, "\n")
                    check_selected(arguments.select or [], texts, event)
                    if not (arguments.select and arguments.output and result.status is RunStatus.COMPLETED):
                        return result
                    return replace(result, output=texts | (result.output if isinstance(result.output, dict) else {}))
    raise AssertionError("a stream without an end raises SimStreamError")


def _wait(arguments: Any, client: SimClient, receipt: AsyncExecutionResult, deadline: float | None) -> WorkflowRun:
    ids: dict[str, Any] = {name: getattr(receipt, name) for name in ("workflow_id", "run_id", "job_id")}
    state = RunPollState(**ids, poll_interval=arguments.poll_interval, deadline=deadline, on_paused="return")
    run = wait_for_run(client, state)
    return client.get_workflow_result(**ids) if run.status is RunStatus.COMPLETED else run


def _cancel(arguments: Any, client: SimClient, run_id: str) -> None:
    """Cancel a run with another client, since the first may be reading a response."""
    timeout = min(CANCEL_TIMEOUT, client.settings.timeout)
    with SimClient.from_settings(replace(client.settings, timeout=timeout, retry=NO_RETRY)) as canceller:
        try:
            show.notice(str(canceller.stop_workflow_run(arguments.workflow_id, run_id)))
        except SimError as error:
            show.notice(f"Run {run_id} could not be cancelled. {error}")


def _show(arguments: Any, client: SimClient, run: WorkflowRun) -> ExitCode:
    """Show a run with a link: to the page that answers a paused run, or to its log."""
    is_waiting, link = show.waits_for_person(run), None
    if run.workflow_id is not None and run.run_id is not None:
        page = approval_url if is_waiting else functools.partial(run_url, workspace_id=arguments.workspace)
        link = page(client.base_url, run.workflow_id, run.run_id)
    show.one_run(arguments, run, link=link)
    if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        return ExitCode.NOT_COMPLETED
    return ExitCode.PAUSED if is_waiting else ExitCode.SUCCESS


@_command
def status(arguments: Any, client: SimClient) -> ExitCode:
    found = client.get_workflow_run(arguments.workflow_id, arguments.run_id)
    if found.status is RunStatus.COMPLETED:
        found = client.get_workflow_result(arguments.workflow_id, arguments.run_id)
    return _show(arguments, client, found)


@_command
def cancel(arguments: Any, client: SimClient) -> ExitCode:
    cancellation = client.stop_workflow_run(arguments.workflow_id, arguments.run_id)
    show.result(arguments, asdict(cancellation), str(cancellation))
    return ExitCode.SUCCESS if cancellation.status is RunStatus.CANCELLED else ExitCode.NOT_COMPLETED
