"""Runs and workflows as several APIs show them."""

from __future__ import annotations

from typing import Any

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.display import display_copy
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.emulator.runs import COST, Run
from airflow_provider_sim.emulator.state import State
from airflow_provider_sim.emulator.workflows import Workflow


def pause_of(run: Run) -> dict[str, Any] | None:
    if run.status != "paused":
        return None
    known = run.resumed_at is None  # after it was resumed, the run stays paused for a moment without a pause point
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


def cancellation(before: str, redis: bool, recorded: bool, reason: str, lost: str | None) -> dict[str, Any]:
    """Return the result of a cancellation; ``before`` is the run's status, ``lost`` the reason why it has no effect."""
    return {
        "success": lost is None,
        "redisAvailable": redis,
        "durablyRecorded": recorded,
        "locallyAborted": False,
        "pausedCancelled": before == "paused" and lost is None,
        "reason": reason,
    }


def cost_of(run: Run) -> dict[str, float] | None:
    """Return the cost in US dollars; None before the end, and for runs that did not execute or were cleaned up."""
    ended = run.ended_at
    unknown = ended is None or run.refused is not None or run.swept_at is not None or ended < run.started_at
    return None if unknown else {"total": COST}


def display_output(state: State, run: Run) -> Any:
    return display_copy(state.output_of(run)) if run.status == "completed" else None


def level_of(run: Run) -> str:
    return "error" if run.status == "failed" else "info"


def duration_of(run: Run) -> int | None:
    """Return the rounded duration in milliseconds."""
    return None if run.duration_ms is None else round(run.duration_ms)


def run_log(run: Run) -> dict[str, Any]:
    return {
        "workflowId": run.workflow_id,
        "level": level_of(run),
        "trigger": run.trigger,
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "totalDurationMs": duration_of(run),
        "cost": cost_of(run),
    }


def workflow_summary(state: State, workflow: Workflow) -> dict[str, Any]:
    """Return the fields of a workflow that v1 and v2 show."""
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


def bucket_usage(bucket: Bucket) -> dict[str, Any]:
    return {
        "requestsPerMinute": bucket.per_minute,
        "maxBurst": bucket.capacity,
        "remaining": bucket.shown_remaining,
        "resetAt": iso(bucket.reset),
    }
