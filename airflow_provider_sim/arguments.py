"""Checks of arguments: constants when the DAG file is parsed, templated fields after rendering.

A rule takes an argument's value and returns what the value must be, or None if the value is valid.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from math import isfinite
from typing import Any, Literal, get_args

from airflow_provider_sim.client import (
    MAX_RUN_TIMEOUT,
    RETRY_MINIMUMS,
    check_block_ids,
    check_run_id,
    check_workflow_id,
    is_retry_setting,
)
from airflow_provider_sim.exceptions import SimInputError
from airflow_provider_sim.task.deadlines import seconds

OnPaused = Literal["wait", "fail", "return"]  # what to do when a run waits for a person

LargeOutputs = Literal["fail", "store"]
CheckInput = Literal["warn", "fail", "off"]  # how to treat an input that doesn't match the declared fields

OnError = Literal["fail", "collect"]
DeploymentAction = Literal["deploy", "undeploy", "rollback"]

_LONGEST_DURATION = timedelta(days=3653).total_seconds()
_RETRY_KEYS = ", ".join(f"{name} (from {least})" for name, least in RETRY_MINIMUMS.items())

Rule = Callable[[Any], str | None]


def check_arguments(
    rules: Mapping[str, Rule],
    given: Mapping[str, Any],
    *,
    contradiction: Callable[[Mapping[str, Any]], str | None] = lambda given: None,
    templated: Collection[str] = (),
) -> None:
    """Check those arguments that have a rule one by one, then all together by ``contradiction``.

    :param templated: names of fields that may contain templates, which are not checked; empty after rendering.
    :raises SimInputError: names the argument and what to choose. No request was sent.
    """
    constants = {name: value for name, value in given.items() if name not in templated or not is_template(value)}
    checked = ((name, rule(constants[name])) for name, rule in rules.items() if name in constants)
    wrong = next((f"{name} is {constants[name]!r}; {expected}" for name, expected in checked if expected), None)
    if wrong := wrong or contradiction(constants):
        raise SimInputError(f"{wrong}.")


def is_template(value: Any) -> bool:
    """Whether Airflow is going to replace the value, or a part of it: Jinja, an XCom, a mapped argument."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(map(is_template, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(is_template, value))
    return not isinstance(value, os.PathLike) and callable(getattr(value, "resolve", None))


def optional(rule: Rule) -> Rule:
    """Accept None, too."""
    return lambda value: None if value is None else rule(value)


def one_of(choices: Any) -> Rule:
    """Accept the values of a ``Literal``."""
    values: tuple[str, ...] = get_args(choices)
    return lambda value: None if value in values else f"it can be {', '.join(values)}"


def _is_number(value: Any, kind: Any = int | float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and isfinite(value)


def _rule(expected: str) -> Callable[[Callable[[Any], bool]], Rule]:
    """Make a rule of a function that returns whether a value is valid."""
    return lambda is_valid: lambda value: None if is_valid(value) else expected


@_rule("it must be a number of seconds above 0, or a timedelta, and ten years at most")
def duration(value: Any) -> bool:
    given = seconds(value)
    return _is_number(given) and 0 < given <= _LONGEST_DURATION


@_rule(f"it can be 1 to {MAX_RUN_TIMEOUT} whole seconds, or a timedelta of as many")
def run_timeout(value: Any) -> bool:
    given = int(value.total_seconds()) if isinstance(value, timedelta) else value
    return _is_number(given, int) and 1 <= given <= MAX_RUN_TIMEOUT


@_rule("it must be percent of the usage limit, a number above 0")
def percentage(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isfinite(float(value)) and float(value) > 0
    except (TypeError, ValueError):
        return False


@_rule("it must be a string, or a list of strings, each a block and optionally a path: 'Agent 1.content'")
def selectors(value: Any) -> bool:
    """Reject also a list's text, which a template without render_template_as_native_obj gives."""
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, str) and item.strip() and not item.startswith("[") for item in items)


@_rule(f"it must be a dict of numbers with the keys {_RETRY_KEYS}")
def retry_args(value: Any) -> bool:
    known = isinstance(value, Mapping) and value.keys() <= RETRY_MINIMUMS.keys()
    return known and all(is_retry_setting(name, number) for name, number in value.items())


positive_int = _rule("it must be a whole number above 0")(lambda value: _is_number(value, int) and value > 0)
version_number = _rule("it must be the number of a deployed version")(lambda value: str(value).isdecimal())


def _checked_by(check: Callable[[Any], object]) -> Rule:
    """Use a check of the client, which raises an error of its own."""
    return lambda value: None if check(value) else ""


workflow_id, run_id = _checked_by(check_workflow_id), _checked_by(check_run_id)


def block_selectors(value: Any) -> str | None:
    """Accept block IDs with or without a path: what selects outputs of a finished run."""
    return selectors(value) or _checked_by(check_block_ids)(value)


def missing_output_folder(given: Mapping[str, Any]) -> str | None:
    """Require a folder for outputs that are to be stored."""
    if given.get("large_outputs") == "store" and not given.get("output_files_dir", "unknown"):
        return "large_outputs='store' needs output_files_dir, the folder to store them in"
    return None
