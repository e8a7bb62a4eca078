"""Options of a task's runs: built once after rendering, and passed to the triggerer as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin, get_type_hints

from airflow_provider_sim.arguments import CheckInput, LargeOutputs, OnError, OnPaused, UnconvertedFiles
from airflow_provider_sim.exceptions import SimError

if TYPE_CHECKING:
    from airflow_provider_sim.task.output import OutputRules


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a task does with its runs; arguments of the operators unless described here.

    :param workspace_id: of the workflow, if known.
    :param is_async: Sim queues the run; otherwise the connection is held open.
    :param poll_interval: seconds between polls.
    :param deadline: seconds since the epoch at which the task stops waiting; None for never.
    :param timeout_from_start: seconds from the task's start, instead of ``deadline``, for a task that starts in the
        triggerer.
    :param run_timeout: seconds after which the server stops a run.
    :param end_from_trigger: the trigger ends the task when the run has completed.
    :raises SimError: an option has the wrong type.
    """

    sim_conn_id: str = "sim_default"
    workspace_id: str | None = None
    is_async: bool = True
    wait_for_completion: bool = True
    stream: bool = False
    poll_interval: float = 10.0
    deadline: float | None = None
    timeout_from_start: float | None = None
    run_timeout: int | None = None
    on_paused: OnPaused = "wait"
    on_error: OnError = "fail"
    max_active_runs: int | None = None
    skip_undeployed: bool = False
    check_input: CheckInput = "warn"
    unconverted_files: UnconvertedFiles = "fail"
    durable: bool = True
    cancel_on_kill: bool = False
    selected_outputs: str | list[str] | None = None
    output_files_dir: str | None = None
    max_output_bytes: int | None = None
    large_outputs: LargeOutputs = "fail"
    do_xcom_push: bool = True
    end_from_trigger: bool = False

    def __post_init__(self) -> None:
        """Check the types, since the values may come from an earlier version of the provider."""
        for name, hint in _type_hints().items():
            if not _is_valid(getattr(self, name), hint):
                raise SimError(f"The option {name!r} of the task's run is invalid: {getattr(self, name)!r}.")

    @classmethod
    def of(cls, task: Any, **changes: Any) -> Self:
        """Return the options of an operator or sensor: its attributes of these names, and ``changes``."""
        hints = _type_hints()
        values = {name: getattr(task, name) for name in hints if hasattr(task, name)} | changes
        return cls(**{name: _as_json(value, hints[name]) for name, value in values.items()})

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Return the options that :meth:`to_dict` made.

        :raises SimError: an option is unknown, or has the wrong type.
        """
        if unknown := set(options) - set(_type_hints()):
            raise SimError(
                f"Unknown options of the task's run: {', '.join(sorted(unknown))}. Another version of the provider"
                " deferred the task; install the same version on workers and triggerers."
            )
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as plain JSON."""
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return {field.name: value for field, value in values if field.default is MISSING or value != field.default}

    @property
    def output_rules(self) -> OutputRules:
        """The rules for files and large values in outputs."""
        from airflow_provider_sim.task.output import OutputRules

        return OutputRules.given(self.output_files_dir, self.max_output_bytes, self.large_outputs)


@cache
def _type_hints() -> dict[str, Any]:
    hints = get_type_hints(RunOptions, localns={"OutputRules": object})
    return {field.name: hints[field.name] for field in fields(RunOptions)}


def _is_valid(value: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_is_valid(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) is hint or (hint is float and type(value) is int)


def _as_json(value: Any, hint: Any) -> Any:
    """Return an argument as plain JSON: durations as seconds, tuples as lists, paths as text."""
    if hint is bool:
        return bool(value)
    if isinstance(value, timedelta):
        return int(value.total_seconds())
    if isinstance(value, tuple):
        return list(value)
    return str(value) if hasattr(value, "joinpath") else value
