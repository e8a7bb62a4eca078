"""Resources of both APIs, which differ in some field names."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.models import (
    Pause,
    PausePoint,
    RunError,
    RunStatus,
    Workflow,
    WorkflowInput,
    WorkflowRun,
)
from airflow_provider_sim.json_values import printable


def run_status(value: str) -> RunStatus:
    """Return a server's status; unknown ones are not terminal."""
    try:
        return RunStatus(value)
    except ValueError:
        return RunStatus.UNKNOWN


def parse_run(data: Any, *, run_id: str, output: str, duration: str) -> WorkflowRun | None:
    """Return a run; None if ``data`` isn't one.

    :param run_id: the API's name of this field, as ``output`` and ``duration``.
    """
    found, server_status = fields.text(data, run_id), fields.text(data, "status")
    if found is None or server_status is None:
        return None
    status = run_status(server_status)
    error = data.get("error")
    return WorkflowRun(
        run_id=found,
        workflow_id=fields.text(data, "workflowId"),
        status=status,
        server_status=server_status,
        output=data.get(output),
        output_is_display_copy=data.get(output) is not None,
        block_outputs=fields.mapping(data, "blockOutputs") or None,
        # Sim omits the error of a run that its cleanup job has failed.
        error=run_error(error) if error or status is RunStatus.FAILED else None,
        paused=_pause(data.get("paused")),
        trigger=fields.text(data, "trigger"),
        started_at=fields.text(data, "startedAt"),
        ended_at=fields.text(data, "endedAt"),
        duration_ms=fields.number(data, duration),
        cost_usd=fields.number(fields.mapping(data, "cost"), "total"),
    )


def died_with_its_connection(run: WorkflowRun) -> bool:
    """Whether a run ended like a sync run whose caller disconnected; cancelling it in the UI looks the same."""
    if run.status is RunStatus.FAILED and run.error is not None:
        return run.error.code == "CANCELLED" or run.error.message.startswith("Client cancelled request")
    return run.status is RunStatus.CANCELLED


def run_error(error: object, *, code: str | None = None) -> RunError:
    """Return the error of a run, which is a string, an object, or missing, depending on the server's version."""
    if isinstance(error, dict) and error:
        return RunError(
            message=printable(fields.text(error, "message") or str(error)),
            code=fields.text(error, "code") or code,
            block_id=fields.text(error, "blockId"),
            block_name=fields.text(error, "blockName"),
            block_type=fields.text(error, "blockType"),
        )
    return RunError(message=printable(str(error)) if error else "the run failed without an error message", code=code)


def _pause(value: Any) -> Pause | None:
    if not isinstance(value, dict):
        return None
    return Pause(
        context_id=fields.text(value, "contextId"),
        kind=fields.text(value, "pauseKind"),
        paused_at=fields.text(value, "pausedAt"),
        resume_at=fields.text(value, "resumeAt"),
        block_id=fields.text(value, "blockedOnBlockId"),
    )


def pause_in(output: Any) -> Pause | None:
    """Return the pause by a run's output: on the legacy API, paused runs are successful."""
    resume = fields.mapping(fields.mapping(output, "data"), "_resume")
    if resume:
        return Pause(context_id=fields.text(resume, "contextId"), kind="human")
    if isinstance(output, dict):
        if output.keys() == {"waitDuration", "resumeAt"}:
            return Pause(kind="time", resume_at=fields.text(output, "resumeAt"))
        if output.keys() == {"pausedBlocks", "pauseCount"}:
            return Pause()
    return None


def pause_point(entry: Any) -> PausePoint | None:
    """Return a pause point, with its question and fields in either of the servers' formats."""
    context_id = fields.text(entry, "contextId")
    if context_id is None:
        return None
    response = fields.mapping(entry, "response")
    content = fields.mapping(response, "data") or response
    inputs = fields.sequence(content, "inputFormat") or fields.sequence(content, "formFields")
    return PausePoint(
        context_id=context_id,
        status=fields.text(entry, "resumeStatus"),
        kind=fields.text(entry, "pauseKind"),
        block_id=fields.text(entry, "blockId"),
        question=_question(content),
        fields=tuple(
            WorkflowInput(name=name, type=fields.text(field, "type") or "")
            for field in inputs
            if (name := fields.text(field, "name")) is not None
        ),
    )


def _question(content: Mapping[str, Any]) -> str | None:
    """The text that a pause shows: a single value alone, several with their names."""
    values = [
        (fields.text(part, "name") or "", value)
        for part in fields.sequence(content, "responseStructure")
        if (value := fields.mapping(part).get("value")) not in (None, "")
    ] or [(name, value) for name, value in fields.mapping(content, "displayData").items() if value not in (None, "")]
    texts = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for name, value in values
    ]
    if len(texts) == 1:
        return texts[0][1]
    return "\n".join(f"{name}: {text}" for name, text in texts) or None


_MAX_MARKS = 10
_CUT = re.compile(r"\.\.\. \[truncated \d+ chars\]\Z")


def display_marks(output: Any) -> list[str]:
    """Return the first ten paths of truncated or replaced values in a display copy, such as ``items.3.token``."""
    return list(itertools.islice(_marks(output, ()), _MAX_MARKS))


def _marks(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _marks(item, (*path, str(name)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _marks(item, (*path, str(number)))
    elif isinstance(value, str) and (value in ("[REDACTED]", "[TRUNCATED]") or _CUT.search(value)):
        yield ".".join(path)


def workflow_of(data: Any, *, workflow_id: str | None) -> Workflow:
    """Return a workflow of v1 or v2."""
    return Workflow(
        workflow_id=fields.text(data, "id") or workflow_id or "",
        name=fields.text(data, "name"),
        workspace_id=fields.text(data, "workspaceId"),
        is_deployed=fields.flag(data, "isDeployed"),
        inputs=tuple(
            WorkflowInput(name=name, type=fields.text(declared, "type") or "")
            for declared in fields.sequence(data, "inputs")
            if (name := fields.text(declared, "name")) is not None
        ),
    )
