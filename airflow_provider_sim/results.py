"""From a run that is over, or paused, to what a task returns or raises. Operators and sensors share it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.client.dialects.resources import display_marks
from airflow_provider_sim.client.models import JobStatus, RunStatus, WorkflowExecutionResult, WorkflowRun
from airflow_provider_sim.client.pages import approval_page
from airflow_provider_sim.exceptions import Outcome, SimError, SimOutputError, SimRunError, SimRunPausedError
from airflow_provider_sim.output import OutputDelivery
from airflow_provider_sim.watch import OnPaused, not_over_in_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client.blocking import SimClient
    from airflow_provider_sim.output import OutputRules

log = logging.getLogger(__name__)


DISPLAY_COPY_KEY = "output_is_display_copy"
"""XCom: whether the task's output is the copy that Sim cuts and redacts for display."""


def task_result(
    context: Context,
    client: SimClient,
    run: WorkflowRun,
    *,
    on_paused: OnPaused,
    rules: OutputRules,
    selected_outputs: Sequence[str] | None = None,
    push: bool = True,
) -> Any:
    """Return the output of a completed run, or the report of a paused one; raise for any other end.

    :param on_paused: ``fail`` raises for a pause; otherwise it is reported.
    :param rules: what to do with files and with large outputs.
    :param selected_outputs: block ids, with or without a path, whose outputs to return instead.
    :param push: whether to say by an XCom if the output is a display copy.
    :raises SimRunError: the run failed, was cancelled, or is paused and shouldn't be.
    :raises SimOutputError: the output is too large, or a file of it can't be saved.
    """
    if run.status is RunStatus.PAUSED:
        return _paused(client, run, on_paused)
    run.raise_for_status()
    workflow_id, run_id = run.workflow_id or "", run.run_id or ""
    if selected_outputs:
        output: Any = _block_outputs(client, workflow_id, run_id, selected_outputs)
        is_copy = False
    else:
        if not isinstance(run, WorkflowExecutionResult | JobStatus):
            run = client.get_workflow_result(workflow_id, run_id)
            run.raise_for_status()
        output, is_copy = run.output, run.output_is_display_copy
    if is_copy:
        log.warning(
            "The output of run %s is Sim's display copy: strings over 15,000 characters are cut, and values under names"
            " such as 'password' or '…token' are replaced. Sim no longer holds the raw output%s.",
            run_id,
            f"; what was cut or replaced is at {', '.join(marks)}" if (marks := display_marks(output)) else "",
        )
    if push:
        context["ti"].xcom_push(key=DISPLAY_COPY_KEY, value=is_copy)
    return OutputDelivery(rules, workflow_id=workflow_id, run_id=run_id, fetch=client.download_file).deliver(output)


def _block_outputs(client: SimClient, workflow_id: str, run_id: str, selected: Sequence[str]) -> dict[str, Any]:
    """The raw outputs of single blocks, by what selected them."""
    outputs = client.get_workflow_run(workflow_id, run_id, selected_outputs=selected).block_outputs or {}
    missing = [name for name in selected if name not in outputs]
    if missing:
        raise SimOutputError(
            f"Run {run_id!r} of workflow {workflow_id!r} has no block output {', '.join(missing)}. Without stream=True,"
            " selected_outputs takes the ids of blocks, with or without a path (block-id.field), not their names.",
            workflow_id=workflow_id,
            run_id=run_id,
            outcome=Outcome.RAN,
        )
    return {name: outputs[name] for name in selected}


def _paused(client: SimClient, run: WorkflowRun, on_paused: OnPaused) -> dict[str, Any]:
    workflow_id, run_id = run.workflow_id or "", run.run_id or ""
    url = approval_page(client.base_url, workflow_id, run_id)
    if on_paused is OnPaused.FAIL:
        raise SimRunPausedError(
            f"Run {run_id!r} of workflow {workflow_id!r} waits for a person, and on_paused is 'fail'. Answer it at"
            f" {url} and wait for it with a SimJobSensor, or set on_paused to 'wait'.",
            workflow_id=workflow_id,
            run_id=run_id,
            outcome=Outcome.RAN,
        )
    log.info("Run %s waits for a person: %s", run_id, url)
    return {
        "status": RunStatus.PAUSED.value,
        "run_id": run_id,
        "context_id": run.paused.context_id if run.paused else None,
        "pause_kind": run.paused.kind if run.paused else None,
        "resume_at": run.paused.resume_at if run.paused else None,
        "approval_url": url,
    }


def read_event(event: Mapping[str, Any] | None, *, workflow_id: str) -> tuple[str, str | None]:
    """Return the run id and the job id of a trigger's event that says that the run is over or paused.

    :param workflow_id: the task's own workflow.
    :raises SimRunTimeoutError: the trigger gave up at its deadline.
    :raises SimError: the trigger couldn't look at the run, or the event is none of our trigger's.
    """
    status = (event or {}).get("status")
    run_id = (event or {}).get("run_id")
    job_id = (event or {}).get("job_id")
    if event is None or not isinstance(run_id, str) or event.get("workflow_id") != workflow_id:
        raise SimError(
            f"The trigger's event doesn't belong to workflow {workflow_id!r}: {event!r}. This is a fault of the"
            " provider or of a change to the DAG while the task was deferred; clear the task to start over.",
            workflow_id=workflow_id,
        )
    facts: dict[str, Any] = {"workflow_id": workflow_id, "run_id": run_id, "outcome": Outcome.RAN}
    if status == "timeout":
        raise not_over_in_time(workflow_id, run_id)
    if status == "error":
        raise SimRunError(
            f"Lost sight of run {run_id!r} of workflow {workflow_id!r} while waiting for it: {event.get('message')} The"
            " run may go on in Sim.",
            **facts,
        )
    if status not in {"completed", "failed", "cancelled", "paused"}:
        raise SimError(f"The trigger's event has the unknown status {status!r}: {event!r}.", **facts)
    return run_id, job_id if isinstance(job_id, str) else None
