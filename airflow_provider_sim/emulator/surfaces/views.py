"""What several surfaces show of a run or a workflow."""

from __future__ import annotations

from typing import Any

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.display import display_copy
from airflow_provider_sim.emulator.runs import COST, Run
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.workflows import Workflow


def paused_of(run: Run) -> dict[str, Any] | None:
    """Where a run is paused."""
    if run.status != "paused":
        return None
    known = run.resumed_at is None  # an answer was given: what it waited for is gone, and the run is not yet back
    return {
        "contextId": run.context_id if known else None,
        "pausedAt": iso(run.first_leg_ends_at),
        "resumeAt": iso(run.resumes_at) if known else None,
        "pauseKind": ("human" if run.resumes_at is None else "time") if known else None,
        "blockedOnBlockId": run.context_id if known else None,
        "automaticResumeWaitingReason": None,
        "pausePointCount": 1,
        "resumedCount": 0,
    }


def cost_of(run: Run) -> dict[str, float] | None:
    """US dollars; nothing before the run's end, and for runs that never left the queue or whose server died."""
    ended = run.ended_at
    never_ran = ended is None or run.refused is not None or run.swept_at is not None or ended < run.started_at
    return None if never_ran else {"total": COST}


def output_shown(state: State, run: Run) -> Any:
    """The display copy of a completed run's output."""
    if run.status != "completed":
        return None
    return display_copy(run.output(base_url=state.base_url, workspace_id=state.workspace_id))


def level_of(run: Run) -> str:
    """The log level of a run."""
    return "error" if run.status == "failed" else "info"


def duration_of(run: Run) -> int | None:
    """Milliseconds from start to end, as views of a run show them."""
    took = run.duration_ms
    return None if took is None else round(took)


def run_facts(run: Run) -> dict[str, Any]:
    """What every log of runs says of one."""
    return {
        "workflowId": run.workflow_id,
        "level": level_of(run),
        "trigger": run.trigger,
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "totalDurationMs": duration_of(run),
        "cost": cost_of(run),
    }


def workflow_facts(state: State, workflow: Workflow) -> dict[str, Any]:
    """What every view of a workflow begins with."""
    completed = [run for run in state.runs.values() if run.workflow is workflow and run.status == "completed"]
    return {
        "id": workflow.workflow_id,
        "name": workflow.name,
        "description": workflow.description or None,
        "folderPath": "/",
        "workspaceId": state.workspace_id,
        "isDeployed": workflow.deployed,
        "deployedAt": iso(workflow.deployed_at),
        "runCount": len(completed),
        "lastRunAt": iso(completed[-1].started_at) if completed else None,
        "createdAt": iso(workflow.created_at),
        "updatedAt": iso(workflow.created_at),
    }
