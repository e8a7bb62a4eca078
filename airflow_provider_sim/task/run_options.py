"""Options of a task's runs: built once after rendering, and passed to the triggerer as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Self

from airflow_provider_sim.arguments import CheckInput, LargeOutputs, OnError, OnPaused
from airflow_provider_sim.exceptions import SimError

DEFAULT_MAX_OUTPUT_BYTES = 16 * 1024 * 1024  # each read of the XCom transfers them


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a task does with its runs; arguments of the operators unless described here."""

    sim_conn_id: str = "sim_default"
    workspace_id: str | None = None  # of the workflow, if known
    is_async: bool = True  # Sim queues the run; otherwise the connection is held open
    wait_for_completion: bool = True
    stream: bool = False
    poll_interval: float | None = None  # seconds; None for an adaptive interval
    started: float | None = None  # seconds since the epoch at which the run was started, if known
    deadline: float | None = None  # seconds since the epoch at which the task stops waiting; None for never
    timeout_from_start: float | None = None  # seconds, instead of a deadline, for a task that starts in the triggerer
    run_timeout: int | None = None  # seconds after which the server stops a run
    on_paused: OnPaused = "wait"
    on_error: OnError = "fail"
    max_active_runs: int | None = None
    skip_undeployed: bool = False
    check_input: CheckInput = "warn"
    keep_uploads: bool = False
    uploads: dict[str, Any] | None = None  # that the trigger deletes when the run has finished: the dict of Uploads
    durable: bool = True
    cancel_on_kill: bool = False
    selected_outputs: str | list[str] | None = None
    output_files_dir: str | None = None
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    large_outputs: LargeOutputs = "fail"
    do_xcom_push: bool = True
    multiple_outputs: bool = False
    end_from_trigger: bool = False  # the trigger ends the task when the run has completed

    @classmethod
    def of(cls, task: Any, **changes: Any) -> Self:
        """Return the options of an operator or sensor: its attributes of these names, and ``changes``, without None."""
        defaults = {field.name: field.default for field in fields(cls)}
        values = {name: getattr(task, name, None) for name in defaults} | changes
        return cls(**{name: _as_json(value, defaults[name]) for name, value in values.items() if value is not None})

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Return the options that :meth:`to_dict` made."""
        if unknown := set(options) - {field.name for field in fields(cls)}:
            raise SimError(
                f"Unknown options of the task's run: {', '.join(sorted(unknown))}. Another version of the provider"
                " deferred the task; install the same version on workers and triggerers."
            )
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as plain JSON."""
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return {field.name: value for field, value in values if value != field.default}


def _as_json(value: Any, default: Any) -> Any:
    """Return an argument as plain JSON: durations as seconds, tuples as lists, paths as text."""
    if isinstance(default, bool):
        return bool(value)
    if isinstance(value, timedelta):
        return int(value.total_seconds())
    if isinstance(value, tuple):
        return list(value)
    return str(value) if hasattr(value, "joinpath") else value
