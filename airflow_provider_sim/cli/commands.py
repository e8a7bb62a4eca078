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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from enum import IntEnum
from pathlib import Path
from typing import Any

from airflow_provider_sim.client import (
    DEFAULT_BASE_URL,
    NO_RETRY,
    AsyncExecutionResult,
    RateLimit,
    RunStatus,
    SimClient,
    Workflow,
    WorkflowRun,
    WorkflowStream,
    approval_url,
    new_run_id,
    run_url,
)
from airflow_provider_sim.exceptions import SimError, SimInputError, SimNotFoundError, SimUnsupportedError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.polling import RunPollState, wait_for_run
from airflow_provider_sim.task.input import input_fields
from airflow_provider_sim.task.run_options import RunOptions
from airflow_provider_sim.task.stream_log import StreamLog

log = logging.getLogger(__name__)

_WORKFLOW_COLUMNS = ("Workflow", "Name", "Deployed", "Inputs")


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
        package_log = logging.getLogger("airflow_provider_sim")
        package_log.propagate, package_log.handlers = False, [logging.StreamHandler(sys.stderr)]
        package_log.setLevel(logging.INFO)
        try:
            with _client(arguments.conn_id) as client:
                if getattr(arguments, "workflow_id", None) is not None:
                    arguments.workflow_id = _workflow_id(arguments.workflow_id, client)
                code = command(arguments, client)
        except SimError as error:
            log.error("Error: %s", error)
            if arguments.output:
                print(json.dumps({"error": {"code": error.code, "message": str(error), "run_id": error.run_id}}))
            code = ExitCode.ERROR
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        sys.exit(code)

    return run_command


def _client(conn_id: str | None) -> SimClient:
    if conn_id is None and (key := os.environ.get("SIM_API_KEY")):
        return SimClient(key, os.environ.get("SIM_BASE_URL") or DEFAULT_BASE_URL)
    # Otherwise, Airflow 3 reads connections from its database only for tasks, servers and its own commands.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    logging.disable(logging.WARNING)  # Airflow logs that it opens its database, before 3.3 to stdout
    try:
        with warnings.catch_warnings(action="ignore"):
            return SimHook(conn_id or SimHook.default_conn_name).get_conn()
    finally:
        logging.disable(logging.NOTSET)


def _workflows(client: SimClient) -> Iterator[Workflow]:
    """Yield the workflows of the connection's workspace, or of all that the key can access, without their inputs."""
    of_connection = client.settings.workspace_id
    spaces = [of_connection] if of_connection else [space.workspace_id for space in client.list_workspaces().items]
    for workspace_id in spaces:
        cursor, is_last = None, False
        while not is_last:
            page = client.list_workflows(workspace_id, limit=100, cursor=cursor)
            yield from page.items
            cursor, is_last = page.next_cursor, page.next_cursor is None


def _workflow_id(named: str, client: SimClient) -> str:
    """Return the ID of the workflow that a command names by its ID or its name."""
    with suppress(ValueError):
        return str(uuid.UUID(named))
    try:
        known = list(_workflows(client))
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
    raise SimNotFoundError(f"No workflow has the ID or the name {named!r}.{hint} The command 'workflows' lists all.")


@_command
def check(arguments: Any, client: SimClient) -> ExitCode:
    try:
        workspaces = client.list_workspaces().items
    except SimUnsupportedError:
        workspaces = ()
    usage = client.get_usage_limits()
    workflow = client.get_workflow(arguments.workflow_id) if arguments.workflow_id else None
    api, spaces = "v2" if client.speaks_v2 else "legacy", [asdict(workspace) for workspace in workspaces]
    used = f"US$ {usage.current_period_cost_usd or 0:.2f} of {usage.limit_usd or 0:.2f}"
    rows = [
        ("Server", client.base_url),
        ("API", api),
        ("Workspaces", ", ".join(f"{space.name} ({space.workspace_id})" for space in workspaces) or "?"),
        ("Plan", usage.plan or "?"),
        ("Used", f"{used} ({usage.percent_used or 0:.0f} %)"),
        ("Sync", _bucket(usage.sync)),
        ("Async", _bucket(usage.asynchronous)),
    ]
    values = {"base_url": client.base_url, "api": api, "workspaces": spaces, **asdict(usage)}
    if workflow:
        rows += zip(_WORKFLOW_COLUMNS, _workflow_cells(workflow), strict=True)
        values["workflow"] = asdict(workflow)
    _print(arguments, values, _table(rows))
    return ExitCode.NOT_COMPLETED if workflow and workflow.is_deployed is False else ExitCode.SUCCESS


def _bucket(limit: RateLimit | None) -> str:
    if limit is None:
        return "?"
    return f"{limit.remaining} of {limit.max_burst} runs left, {limit.requests_per_minute} added per minute"


def _workflow_cells(workflow: Workflow) -> tuple[str, str, str, str]:
    deployed = {True: "yes", False: "no", None: "?"}[workflow.is_deployed]
    inputs = ", ".join(f"{field.name}: {field.type}" for field in workflow.inputs)
    return workflow.workflow_id, workflow.name or "", deployed, inputs


@_command
def workflows(arguments: Any, client: SimClient) -> ExitCode:
    found = [client.get_workflow(each.workflow_id) for each in _workflows(client)]
    rows = [_WORKFLOW_COLUMNS, *map(_workflow_cells, found)]
    _print(arguments, [asdict(workflow) for workflow in found], _table(rows))
    return ExitCode.SUCCESS


@_command
def run(arguments: Any, client: SimClient) -> ExitCode:
    input, run_id = input_fields(_input(arguments.input), workflow_id=arguments.workflow_id), new_run_id()
    deadline = None if arguments.timeout is None else time.time() + arguments.timeout
    try:
        log.info("Starting run %s of workflow %s.", run_id, arguments.workflow_id)
        is_async = arguments.async_execution or arguments.no_wait
        how = {"async_execution": is_async, "stream": arguments.stream, "selected_outputs": arguments.select}
        result = client.start_workflow_run(arguments.workflow_id, input, run_id=run_id, deadline=deadline, **how)
        if isinstance(result, WorkflowStream):
            limits = RunOptions(selected_outputs=arguments.select, max_output_bytes=sys.maxsize)
            with result as stream:
                result = StreamLog(limits, run_id=run_id).read(stream)
        elif isinstance(result, AsyncExecutionResult):
            run_id = result.run_id
            if arguments.no_wait:
                receipt = {name: getattr(result, name) for name in ("run_id", "workflow_id", "status")}
                _print(arguments, receipt, run_id)
                return ExitCode.SUCCESS
            ids: dict[str, Any] = {name: getattr(result, name) for name in ("workflow_id", "run_id", "job_id")}
            state = RunPollState(**ids, poll_interval=arguments.poll_interval, deadline=deadline, on_paused="return")
            result = _with_output(client, wait_for_run(client, state), **ids)
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
        raise SimInputError(f"The --input can't be read as JSON: {error}.") from None


def _with_output(client: SimClient, run: WorkflowRun, **ids: Any) -> WorkflowRun:
    return client.get_workflow_result(**ids) if run.status is RunStatus.COMPLETED else run


def _cancel(arguments: Any, client: SimClient, run_id: str) -> None:
    try:
        log.info("%s", client.with_retry(NO_RETRY).stop_workflow_run(arguments.workflow_id, run_id))
    except SimError as error:
        log.error("Run %s could not be cancelled. %s", run_id, error)


def _show(arguments: Any, client: SimClient, run: WorkflowRun) -> ExitCode:
    """Show a run with a link: to the page that answers a paused run, or to its log."""
    is_waiting = run.status is RunStatus.PAUSED and not (run.paused and run.paused.resumes_automatically)
    link = None
    if run.run_id is not None:
        ids = (client.base_url, arguments.workflow_id, run.run_id)
        link = approval_url(*ids) if is_waiting else run_url(*ids, client.settings.workspace_id)
    details = {
        **run.details(),
        "error": run.error and run.error._asdict(),
        "output": run.output,
        "output_is_display_copy": run.output_is_display_copy,
        "url": link,
    }
    rows = [
        ("Run", run.run_id or "?"),
        ("Workflow", arguments.workflow_id),
        ("Status", run.server_status or run.status.value),
        ("Started", run.started_at or ""),
        ("Duration", "" if run.duration_ms is None else f"{run.duration_ms / 1000:.1f} s"),
        ("Cost", "" if run.cost_usd is None else f"{run.cost_usd:.4f}"),
        ("Error", str(run.error or "")),
        ("Link", (link or "") if run.status is RunStatus.FAILED or is_waiting else ""),
    ]
    output = "" if run.output is None else "\n" + json.dumps(run.output, indent=2, ensure_ascii=False)
    _print(arguments, details, _table([row for row in rows if row[1]]) + output)
    if run.output_is_display_copy:
        log.warning("This is Sim's display copy: long texts are truncated, secrets replaced.")
    if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        return ExitCode.NOT_COMPLETED
    return ExitCode.PAUSED if is_waiting else ExitCode.SUCCESS


@_command
def status(arguments: Any, client: SimClient) -> ExitCode:
    ids = {"workflow_id": arguments.workflow_id, "run_id": arguments.run_id}
    return _show(arguments, client, _with_output(client, client.get_workflow_run(**ids), **ids))


@_command
def cancel(arguments: Any, client: SimClient) -> ExitCode:
    cancellation = client.stop_workflow_run(arguments.workflow_id, arguments.run_id)
    _print(arguments, asdict(cancellation), str(cancellation))
    return ExitCode.SUCCESS if cancellation.status is RunStatus.CANCELLED else ExitCode.NOT_COMPLETED


def _print(arguments: Any, value: Any, text: str) -> None:
    print(json.dumps(value, ensure_ascii=False) if arguments.output else text)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
