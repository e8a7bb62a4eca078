"""Output of the commands: tables, or one JSON value on stdout; notices go to stderr.

rich comes with Airflow; it isn't a requirement of this package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from airflow_provider_sim.client import RateLimit, RunStatus, UsageLimits, Workflow, WorkflowRun, Workspace
from airflow_provider_sim.exceptions import SimError

_COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "paused": "magenta", "running": "cyan"}
_ERR = Console(stderr=True, highlight=False)
_PIPE_WIDTH = 10_000  # columns without a terminal, so that lines aren't wrapped for grep


def out() -> Console:
    out = Console(highlight=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = _PIPE_WIDTH
    return out


def result(arguments: Any, value: Any, shown: str | Table) -> None:
    """Print a value as JSON, or as shown to a person."""
    if arguments.output:
        print(json.dumps(value, ensure_ascii=False, default=str))
    elif isinstance(shown, str):
        out().print(Text(shown), soft_wrap=True)
    else:
        out().print(shown)


def notice(message: str) -> None:
    _ERR.print(Text(message, "yellow"), soft_wrap=True)


def error(arguments: Any, error: SimError) -> None:
    _ERR.print(Text.assemble(("Error: ", "bold red"), str(error)), soft_wrap=True)
    if arguments.output:
        result(arguments, {"error": {"code": error.code, "message": str(error), "run_id": error.run_id}}, "")


def text(arguments: Any, chunk: str) -> None:
    if not arguments.output:
        print(chunk, end="", flush=True)


def waiting(arguments: Any, message: str) -> AbstractContextManager[Any]:
    """Show a progress message in a terminal, except during a stream."""
    return nullcontext() if getattr(arguments, "stream", False) and not arguments.output else _ERR.status(message)


def account(
    arguments: Any,
    base_url: str,
    speaks_v2: bool,
    workspaces: Sequence[Workspace],
    usage: UsageLimits,
    workflow: Workflow | None,
) -> None:
    used = "unknown" if usage.current_period_cost_usd is None else f"US$ {usage.current_period_cost_usd:.2f}"
    limit = "" if usage.limit_usd is None else f" of {usage.limit_usd:.2f} ({usage.percent_used or 0:.0f} %)"
    rows = {
        "Server": base_url,
        "API": "v2" if speaks_v2 else "legacy; v2 is switched off or missing",
        "Workspaces": "\n".join(f"{space.name or '(no name)'}  {space.workspace_id}" for space in workspaces) or "?",
        "Plan": usage.plan or "?",
        "Used": used + limit,
        "Sync": _bucket(usage.sync),
        "Async": _bucket(usage.asynchronous),
    }
    api, spaces = "v2" if speaks_v2 else "legacy", [asdict(workspace) for workspace in workspaces]
    values = {"base_url": base_url, "api": api, "workspaces": spaces, **asdict(usage)}
    if workflow is not None:
        rows |= dict(zip(("Workflow", "Name", "Deployed", "Inputs"), _cells(workflow), strict=True))
        values["workflow"] = asdict(workflow)
    result(arguments, values, _rows(rows))


def workflows(arguments: Any, workflows: Sequence[Workflow]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("ID", "Name", "Deployed", "Inputs"):
        table.add_column(name, overflow="fold", no_wrap=name == "ID")
    for workflow in workflows:
        table.add_row(*map(Text, _cells(workflow)))
    result(arguments, [asdict(workflow) for workflow in workflows], table)


def _cells(workflow: Workflow) -> tuple[str, str, str, str]:
    deployed = {True: "yes", False: "no", None: "?"}[workflow.is_deployed]
    inputs = ", ".join(f"{field.name}: {field.type}" for field in workflow.inputs)
    return workflow.workflow_id, workflow.name or "", deployed, inputs


def _bucket(limit: RateLimit | None) -> str:
    if limit is None:
        return "?"
    return f"{limit.remaining} of {limit.max_burst} runs left, {limit.requests_per_minute} added per minute"


def waits_for_person(run: WorkflowRun) -> bool:
    """Whether a run is paused until a person answers."""
    return run.status is RunStatus.PAUSED and not (run.paused is not None and run.paused.resumes_automatically)


def one_run(arguments: Any, run: WorkflowRun, *, link: str | None) -> None:
    rows: dict[str, str | Text] = {
        "Run": run.run_id or "?",
        "Workflow": run.workflow_id or "?",
        "Status": Text(run.server_status or run.status.value, _COLOURS.get(run.status.value, "")),
        "Started": run.started_at or "",
        "Duration": "" if run.duration_ms is None else f"{run.duration_ms / 1000:.1f} s",
        "Cost": "" if run.cost_usd is None else f"{run.cost_usd:.4f}",
        "Error": str(run.error or ""),
        "Link": (link or "") if run.status is RunStatus.FAILED or waits_for_person(run) else "",
    }
    details = {
        **run.details(),
        "error": run.error and asdict(run.error),
        "output": run.output,
        "output_is_display_copy": run.output_is_display_copy,
        "url": link,
    }
    result(arguments, details, _rows(rows))
    if arguments.output:
        return
    if run.output is not None:
        out().print(Text(json.dumps(run.output, indent=2, ensure_ascii=False)), soft_wrap=True)
    if run.output_is_display_copy:
        notice("This is Sim's display copy: long texts are truncated, secrets replaced.")


def _rows(rows: Mapping[str, str | Text]) -> Table:
    """Return names with their values, without the empty ones."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            shown.add_row(name, value if isinstance(value, Text) else Text(value))
    return shown
