"""Resources of both APIs, which differ in some field names."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_sim.client import models
from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.http import Request
from airflow_provider_sim.json_values import nodes, place_of, printable


def run_status(value: str) -> models.RunStatus:
    """Return a server's status; unknown ones are not terminal."""
    try:
        return models.RunStatus(value)
    except ValueError:
        return models.RunStatus.UNKNOWN


def parse_run(request: Request, data: Any) -> models.WorkflowRun:
    """Return a run: of v2, of its log, or of the legacy API, which have other names for some fields."""
    server_status = fields.required(fields.text(data, "status"))
    status = run_status(server_status)
    output, error = data.get("output", data.get("finalOutput")), data.get("error")
    return models.WorkflowRun(
        run_id=fields.required(fields.text(data, "runId") or fields.text(data, "executionId")),
        workflow_id=fields.text(data, "workflowId") or request.workflow_id,
        status=status,
        server_status=server_status,
        output=output,
        output_is_display_copy=output is not None,
        block_outputs=fields.mapping(data, "blockOutputs") or None,
        # Sim omits the error of a run that its cleanup job has failed.
        error=run_error(error) if error or status is models.RunStatus.FAILED else None,
        paused=_pause(data.get("paused")),
        trigger=fields.text(data, "trigger"),
        started_at=fields.text(data, "startedAt"),
        ended_at=fields.text(data, "endedAt"),
        duration_ms=fields.number(data, "durationMs" if "durationMs" in data else "totalDurationMs"),
        cost_usd=fields.number(fields.mapping(data, "cost"), "total"),
    )


def died_with_its_connection(run: models.WorkflowRun) -> bool:
    """Whether a run ended like a sync run whose caller disconnected; cancelling it in the UI looks the same."""
    if run.status is models.RunStatus.FAILED and run.error is not None:
        return run.error.code == "CANCELLED" or run.error.message.startswith("Client cancelled request")
    return run.status is models.RunStatus.CANCELLED


def run_error(error: object, *, code: str | None = None) -> models.RunError:
    """Return the error of a run, which is a string, an object, or missing, depending on the server's version."""
    if isinstance(error, dict) and error:
        return models.RunError(
            message=printable(fields.text(error, "message") or str(error)),
            code=fields.text(error, "code") or code,
            block_name=fields.text(error, "blockName"),
        )
    return models.RunError(
        message=printable(str(error)) if error else "the run failed without an error message", code=code
    )


def _pause(value: Any) -> models.Pause | None:
    if not isinstance(value, dict):
        return None
    context_id, kind = fields.text(value, "contextId"), fields.text(value, "pauseKind")
    return models.Pause(context_id, kind, fields.text(value, "resumeAt"))


def pause_in(output: Any) -> models.Pause | None:
    """Return the pause by a run's output: on the legacy API, paused runs are successful."""
    resume = fields.mapping(fields.mapping(output, "data"), "_resume")
    if resume:
        return models.Pause(context_id=fields.text(resume, "contextId"), kind="human")
    if isinstance(output, dict):
        if output.keys() == {"waitDuration", "resumeAt"}:
            return models.Pause(kind="time", resume_at=fields.text(output, "resumeAt"))
        if output.keys() == {"pausedBlocks", "pauseCount"}:
            return models.Pause()
    return None


def ending_of(execution: Mapping[str, Any], *, code: str | None = None, failed: bool = False) -> dict[str, Any]:
    """Return status, output, error and pause of an execution, as streams, jobs and the legacy API report them."""
    error, word, success = execution.get("error"), execution.get("status"), execution.get("success") is True
    pause = pause_in(execution.get("output")) if success or word == "paused" else None
    if pause or word == "paused":
        status = models.RunStatus.PAUSED
    elif success:
        status = models.RunStatus.COMPLETED
    elif word == "cancelled" or not (error or failed):
        status = models.RunStatus.CANCELLED  # that there is no error is the only sign
    else:
        status = models.RunStatus.FAILED
    failure = run_error(error, code=code) if status is models.RunStatus.FAILED else None
    return {"status": status, "output": execution.get("output"), "error": failure, "paused": pause}


def pause_point(entry: Any) -> models.PausePoint | None:
    """Return a pause point, with its question and fields."""
    context_id = fields.text(entry, "contextId")
    if context_id is None:
        return None
    response = fields.mapping(entry, "response")
    content = fields.mapping(response, "data") or response
    return models.PausePoint(
        context_id=context_id,
        status=fields.text(entry, "resumeStatus"),
        kind=fields.text(entry, "pauseKind"),
        question=_question(content),
        fields=_inputs(fields.sequence(content, "inputFormat")),
    )


def _question(content: Mapping[str, Any]) -> str | None:
    """The text that a pause shows: a single value alone, several with their names."""
    texts = {}
    for part in fields.sequence(content, "responseStructure"):
        value = fields.mapping(part).get("value")
        if value not in (None, ""):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            texts[fields.text(part, "name") or ""] = text
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "\n".join(f"{name}: {text}" for name, text in texts.items()) or None


def _inputs(declared: Sequence[Any]) -> tuple[models.WorkflowInput, ...]:
    return tuple(
        models.WorkflowInput(name=name, type=fields.text(entry, "type") or "")
        for entry in declared
        if (name := fields.text(entry, "name")) is not None
    )


def workflow_of(request: Request, data: Any) -> models.Workflow:
    workflow_id = fields.required(fields.text(data, "id") or request.workflow_id)
    inputs = _inputs(fields.sequence(data, "inputs"))
    return fields.model(models.Workflow, data, workflow_id=workflow_id, inputs=inputs)


def cancellation(request: Request, data: Any) -> models.Cancellation:
    return models.Cancellation(
        run_id=fields.text(data, "runId") or fields.text(data, "executionId") or request.run_id or "",
        accepted=fields.flag(data, "success") is True,
        reason=fields.text(data, "reason"),
    )


def resumed_status(request: Request, data: Any) -> models.RunStatus:
    """Return the status of a resumed run; it is queued unless it was started sync."""
    return run_status(fields.text(data, "status") or models.RunStatus.QUEUED)


def display_marks(output: Any) -> list[str]:
    """Return where a display copy is truncated or redacted, such as ``output.items[3].token``; the first ten."""
    marks = (
        place_of(path, "output")
        for value, path, _ in nodes(output)
        if isinstance(value, str)
        and (value in ("[REDACTED]", "[TRUNCATED]") or re.search(r"\.\.\. \[truncated \d+ chars\]\Z", value))
    )
    return list(itertools.islice(marks, 10))
