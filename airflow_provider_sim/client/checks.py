"""Checks of IDs and settings; no I/O, and light enough for DAG parsing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_sim.exceptions import SimInputError

MAX_RUN_TIMEOUT = 604_800  # seconds; the longest limit that Sim accepts for a run
SYNC_TIMEOUT = 3600.0  # seconds for sync executions: longer than any plan lets one run, since disconnecting cancels it
_RETRY_NUMBERS = ("max_retries", "initial_delay", "max_delay", "jitter", "max_retry_after", "max_elapsed")
RETRY_MINIMUMS = dict.fromkeys(_RETRY_NUMBERS, 0) | {"backoff_multiplier": 1}  # of a RetryPolicy

_RUN_ID = r"[A-Za-z0-9._:-]{1,128}"
_BLOCK_ID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


def check_workflow_id(workflow_id: object) -> str:
    """Return the workflow ID, or raise SimInputError if it can't be one."""
    if not isinstance(workflow_id, str) or not workflow_id.strip():
        raise _wrong(f"workflow_id is {workflow_id!r}; it must be the ID of a deployed Sim workflow")
    address = workflow_id.strip().partition("?")[0].partition("#")[0].rstrip("/")
    last = address.rpartition("/")[2]
    if "/" in workflow_id and last:
        raise _wrong(f"workflow_id is {workflow_id!r}; use only the last part of the address: {last!r}")
    if workflow_id in (".", "..") or not workflow_id.isprintable() or not set(workflow_id).isdisjoint(" ,/\\?#"):
        raise _wrong(f"workflow_id is {workflow_id!r}, which contains spaces or characters that no workflow ID has")
    return workflow_id


def _wrong(what: str) -> SimInputError:
    return SimInputError(f"{what}. The ID is the last part of the workflow's address in Sim's editor.")


def check_run_id(run_id: object) -> str:
    """Return the run ID, or raise SimInputError if Sim wouldn't accept it."""
    if isinstance(run_id, str) and re.fullmatch(_RUN_ID, run_id) and run_id not in (".", "..", "None"):
        return run_id
    if run_id in (None, "", "None"):
        why = ": there is no run. Where it is an XCom, the task it is pulled from pushed none."
    else:
        why = "; Sim accepts 1 to 128 letters, digits, dots, underscores, colons and hyphens."
    raise SimInputError(
        f"run_id is {run_id!r}{why} Pass what SimExecuteWorkflowOperator returned or pushed as the XCom 'run_id'.",
    )


def selectors_of(selected_outputs: object) -> list[str]:
    """Return selected outputs as a list; a string is one selector, and None is none."""
    if selected_outputs is None or selected_outputs == "":
        return []
    if isinstance(selected_outputs, Iterable) and not isinstance(selected_outputs, str | Mapping):
        selectors = list(selected_outputs)
    else:
        selectors = [selected_outputs]
    for selector in selectors:
        if not isinstance(selector, str) or not selector.strip():
            raise SimInputError(
                f"selected_outputs contains {selector!r}. It must be a string such as 'Agent 1.content', or a"
                " list of strings.",
            )
    return selectors


def block_id_of(selector: str) -> str | None:
    """Return the block ID that a selector starts with; None if it starts with a block's name."""
    found = re.match(_BLOCK_ID, selector)
    return found[0] if found else None


def check_block_ids(selectors: Sequence[object]) -> None:
    """Reject selectors of a finished run's block outputs that would select nothing, which Sim doesn't report."""
    for selector in selectors if not isinstance(selectors, str) else [selectors]:
        if not isinstance(selector, str) or not re.match(_BLOCK_ID, selector):
            raise SimInputError(
                f"selected_outputs contains {selector!r}. Without stream=True it requires block IDs, optionally with"
                " a path (block-id.field): block names select nothing in a finished run.",
            )


def is_retry_setting(name: str, value: Any) -> bool:
    """Whether a value is a number of at least the setting's least value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= RETRY_MINIMUMS[name]
