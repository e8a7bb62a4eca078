"""Task outcome by run outcome, for operators and sensors."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_sim._compat import NULL_XCOMS
from airflow_provider_sim.arguments import OnPaused
from airflow_provider_sim.client import RunOutput, RunStatus, WorkflowRun
from airflow_provider_sim.exceptions import (
    Outcome,
    SimError,
    SimRunCancelledError,
    SimRunFailedError,
    SimRunPausedError,
)
from airflow_provider_sim.json_values import printable
from airflow_provider_sim.links.sim import APPROVAL_URL_KEY, RUN_URL_KEY
from airflow_provider_sim.metrics import Metric
from airflow_provider_sim.task.output import OutputDelivery, output_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import PausePoint, SimClient
    from airflow_provider_sim.operators.base import SimOperator
    from airflow_provider_sim.task.output import Fetch
    from airflow_provider_sim.task.pause_report import PauseReport
    from airflow_provider_sim.task.run_options import RunOptions

log = logging.getLogger(__name__)

# XCom keys
DISPLAY_COPY_KEY = "output_is_display_copy"  # True if Sim has truncated and redacted the output, else not pushed
DETAILS_KEY = "run_details"  # IDs, status, times and cost of the run, as far as Sim reports them
_OWN_KEYS = {"return_value", "run_id", "job_id", RUN_URL_KEY, APPROVAL_URL_KEY, DISPLAY_COPY_KEY, DETAILS_KEY}

# Airflow 3 puts keys into the path of a URL without quoting them, so that "a?b" would be stored as "a".
_is_xcom_key = re.compile(r"(?!\.{1,2}$)[^/?#%\\\x00-\x1f\x7f]{1,512}").fullmatch


def task_result(
    context: Context, task: SimOperator, run: WorkflowRun, options: RunOptions, output: RunOutput | None = None
) -> Any:
    """Return the output of a completed run, or the report of a paused one; raise for any other status.

    :param output: if the trigger has fetched it: then the task's hook isn't needed, whose import is slow.
    """
    ti: Any = context["ti"]
    took = "" if run.duration_ms is None else f" after {run.duration_ms / 1000:.1f} s"
    cost = "" if run.cost_usd is None else f", for US$ {run.cost_usd:.4f}"
    log.info("Run %s of workflow %s is %s%s%s.", run.run_id, run.workflow_id, run.status, took, cost)
    if run.status.is_terminal:
        Metric.RUN_FINISHED.incr(status=run.status.value)
    if options.do_xcom_push:
        ti.xcom_push(key=DETAILS_KEY, value=run.details())
    fetch = None
    if output is None:
        client = task.hook.get_conn()
        if run.status is RunStatus.PAUSED:
            return paused_result(client, run, options.on_paused)
        try:
            output = client.get_run_output(run, None if options.stream else options.selected_outputs)
        except (SimRunFailedError, SimRunCancelledError) as error:
            if url := ti.xcom_pull(task_ids=ti.task_id, key=RUN_URL_KEY, map_indexes=ti.map_index):
                error.args = (f"{error} {url}",)
            raise
        fetch = client.download_file
    if options.do_xcom_push and output.is_display_copy:
        ti.xcom_push(key=DISPLAY_COPY_KEY, value=True)
    result = delivered(run, output, options, fetch=fetch)
    if options.multiple_outputs and options.do_xcom_push:
        _check_fields(result, run)
    return result


def _check_fields(result: Any, run: WorkflowRun) -> None:
    """Raise if Airflow can't push each field of the result as an XCom, as ``multiple_outputs`` requests."""
    if not isinstance(result, dict):
        problem = f"is not an object but a {type(result).__name__}, which has no fields"
    elif replaced := _OWN_KEYS.intersection(result):
        problem = f"has fields named like XComs of the task: {', '.join(sorted(replaced))}"
    elif wrong := [key for key in result if not _is_xcom_key(key)]:
        problem = f"has the field {wrong[0]!r}, which can't be the key of an XCom"
    elif not NULL_XCOMS and None in result.values():
        problem = "has a field that is null, which Airflow 3.0 can't store as an XCom"
    else:
        return
    advice = "Omit multiple_outputs, or change the workflow's output"
    problem = f"The output {problem}, so multiple_outputs=True can't push its fields. {advice}"
    raise output_error(problem, run.workflow_id, run.run_id)


def delivered(run: WorkflowRun, output: RunOutput, options: RunOptions, *, fetch: Fetch | None = None) -> Any:
    """Return an output as the task's result; blocks while files are saved."""
    if output.is_display_copy:
        from airflow_provider_sim.client import display_marks

        marks = display_marks(output.value)
        log.warning(
            "The output of run %s is Sim's display copy: strings over 15,000 characters are truncated, and values under"
            " names such as 'password' or '…token' are redacted. Sim no longer has the raw output%s.",
            run.run_id,
            f"; truncated or redacted: {', '.join(marks)}" if marks else "",
        )
    workflow_id, run_id = run.workflow_id or "", run.run_id or ""
    return OutputDelivery(options, workflow_id, run_id, fetch).deliver(output.value)


def paused_result(client: SimClient, run: WorkflowRun, on_paused: OnPaused) -> PauseReport:
    """Return the report of a paused run, with its approval URL and question; raise if ``on_paused`` is ``fail``."""
    from airflow_provider_sim.client import approval_url

    workflow_id, run_id = run.workflow_id or "", run.run_id or ""
    url = approval_url(client.base_url, workflow_id, run_id)
    if on_paused == "fail":
        raise SimRunPausedError(
            f"Run {run_id!r} of workflow {workflow_id!r} waits for a person, and on_paused is 'fail'. Answer it at"
            f" {url} and wait for it with SimJobSensor, or set on_paused='wait'.",
            workflow_id=workflow_id,
            run_id=run_id,
        )
    log.info("Run %s waits for a person: %s", run_id, url)
    context_id = run.paused.context_id if run.paused else None
    points: list[PausePoint] = []
    try:
        paused = client.get_paused_run(workflow_id, run_id)
        points = [point for point in paused.points if point.is_open and context_id in (None, point.context_id)]
    except SimError as error:
        log.info("Could not read the pause of run %s: %s", run_id, error)
    point = points[0] if len(points) == 1 else None
    return {
        "status": "paused",
        "run_id": run_id,
        "context_id": point.context_id if point else context_id,
        "question": printable(point.question) if point and point.question else None,
        "fields": {field.name: field.type for field in point.fields} if point else {},
        "pause_kind": run.paused.kind if run.paused else None,
        "resume_at": run.paused.resume_at if run.paused else None,
        "approval_url": url,
    }


class RunEvent(NamedTuple):
    """The event of a ``SimRunTrigger``: a run's status, or ``timeout``, or ``error`` with a message."""

    status: str
    run_id: str
    job_id: str | None
    message: str | None
    completed_run: WorkflowRun | None  # without its output
    output: RunOutput | None  # if it is small
    uploads: dict[str, Any] | None


def read_run_event(event: Mapping[str, Any] | None, *, workflow_id: str) -> RunEvent:
    """Return the event of this task's trigger, validated; log an error's message."""
    given = event if isinstance(event, dict) else {}
    status, run_id, job_id, message = (given.get(name) for name in ("status", "run_id", "job_id", "message"))
    known = status in {"completed", "failed", "cancelled", "paused", "timeout", "error"}
    if not known or not isinstance(run_id, str) or given.get("workflow_id") != workflow_id:
        message = (
            f"The trigger's event isn't of a run of workflow {workflow_id!r}: {event!r}. The DAG was changed while the"
            " task was deferred, or this is a bug of the provider; clear the task to start over."
        )
        raise SimError(message, workflow_id=workflow_id, outcome=Outcome.RAN)
    if status == "error":
        log.warning("The trigger could not wait for run %s: %s", run_id, message)
    completed_run, output = None, None
    if status == "completed" and isinstance(details := given.get("details"), dict):
        completed_run = WorkflowRun.from_details({**details, "workflow_id": workflow_id, "run_id": run_id})
        if text := given.get("output"):
            output = RunOutput(value=json.loads(text), is_display_copy=given.get("is_display_copy") is True)
    return RunEvent(str(status), run_id, job_id, message, completed_run, output, given.get("uploads"))
