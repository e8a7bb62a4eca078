"""Models of runs: frozen dataclasses, parsed once on arrival. Times are ISO 8601 UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow_provider_sim.exceptions import Outcome, SimError, SimRunCancelledError, SimRunFailedError

if TYPE_CHECKING:
    from airflow_provider_sim.client.workspace_models import *

JOB_PREFIX = "workflow-execution:"
"""Job IDs of the database queue are this and the run ID; the Trigger.dev queue finds its jobs by it, too."""

_DETAILS = ("workflow_id", "run_id", "status", "trigger", "started_at", "ended_at", "duration_ms", "cost_usd")

_E = TypeVar("_E", bound=SimError)


class RunStatus(StrEnum):
    """Status of a run; any status that isn't listed here is ``UNKNOWN``, which is not terminal."""

    QUEUED = "queued"
    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    REDACTING = "redacting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_terminal(self) -> bool:
        """Whether the run has finished."""
        return self in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


class RunError(NamedTuple):
    """Why a run failed.

    :param message: Sim's message.
    :param code: for example ``BLOCK_EXECUTION_FAILED``, ``TIMEOUT``; None from servers that only send a message.
    :param block_name: the block that failed (sync v2 executions only).
    """

    message: str
    code: str | None = None
    block_name: str | None = None

    def __str__(self) -> str:
        """Message, block and code in one line."""
        block = f" in block {self.block_name!r}" if self.block_name else ""
        code = f" ({self.code})" if self.code else ""
        return f"{self.message}{block}{code}"


class Pause(NamedTuple):
    """Current pause of a run.

    :param context_id: ID of the pause point for resuming it; None during a resume.
    :param kind: ``human`` waits for a person, ``time`` resumes automatically at ``resume_at``; None if unknown.
    """

    context_id: str | None = None
    kind: str | None = None
    resume_at: str | None = None

    @property
    def resumes_automatically(self) -> bool:
        """Whether no person has to act."""
        return self.kind == "time"

    @property
    def resumes_at(self) -> float | None:
        """``resume_at`` in seconds since the epoch."""
        return epoch(self.resume_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRun:
    """A run.

    :param run_id: Sim's ``runId`` (``executionId`` on the legacy API); None from some old servers.
    :param status: see :class:`RunStatus`; ``server_status`` is the server's original value.
    :param output: the workflow's output, if requested and available.
    :param output_is_display_copy: ``output`` went through Sim's display filter: strings over 15,000 characters are
        truncated, values under keys such as ``password`` or ``*token`` replaced.
    :param block_outputs: outputs of single blocks, by selector.
    :param ended_at: also set on paused runs.
    :param cost_usd: US dollars so far.
    """

    run_id: str | None
    status: RunStatus
    workflow_id: str | None = None
    server_status: str | None = None
    output: Any = None
    output_is_display_copy: bool = False
    block_outputs: dict[str, Any] | None = None
    error: RunError | None = None
    paused: Pause | None = None
    trigger: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    duration_ms: float | None = None
    cost_usd: float | None = None

    @property
    def start_time(self) -> float | None:
        """``started_at`` in seconds since the epoch; changes by some milliseconds just after the start."""
        return epoch(self.started_at)

    @property
    def end_time(self) -> float | None:
        """``ended_at`` in seconds since the epoch."""
        return epoch(self.ended_at)

    @property
    def metadata(self) -> dict[str, Any]:
        """``duration`` in milliseconds, ``runId``, ``startTime`` and ``endTime``, by the SDK's names."""
        values = (self.duration_ms, self.run_id, self.started_at, self.ended_at)
        return dict(zip(("duration", "runId", "startTime", "endTime"), values, strict=True))

    def __getitem__(self, name: str) -> Any:
        """Return a value by the name that it has in the SDK's dict of a job, such as ``run["status"]``."""
        status = "processing" if self.server_status == "processing" else self.status.value
        error = self.error and self.error.message
        return {"status": status, "output": self.output, "error": error, "metadata": self.metadata}[name]

    def details(self) -> dict[str, Any]:
        """Return its IDs, status, trigger, times and cost, as JSON."""
        return {name: getattr(self, name) for name in _DETAILS} | {"status": self.status.value}

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> WorkflowRun:
        """Return the run of which :meth:`details` returned these."""
        given: dict[str, Any] = {name: details.get(name) for name in _DETAILS}
        return cls(**given | {"status": RunStatus(details["status"])})

    def raise_for_status(self) -> None:
        """Raise an error if the run failed or was cancelled.

        :raises SimRunFailedError: it failed; the message contains Sim's.
        :raises SimRunCancelledError: it was cancelled.
        """
        if self.status is RunStatus.CANCELLED:
            raise self.error_as(
                SimRunCancelledError,
                "was cancelled before it completed. A retry of the task that started it, or clearing that task, starts"
                " another.",
            )
        if self.status is RunStatus.FAILED:
            what = f"failed: {self.error or 'no error message'}. Its log in Sim shows each block."
            raise self.error_as(SimRunFailedError, what, detail_code=self.error.code if self.error else None)

    def error_as(self, kind: type[_E], what: str, *, detail_code: str | None = None) -> _E:
        """Return an error about this run, which was started.

        :param what: what the message says after the run's name.
        """
        return kind(
            f"Run {self.run_id!r} of workflow {self.workflow_id!r} {what}",
            detail_code=detail_code,
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            outcome=Outcome.RAN,
        )


class WorkflowExecutionResult(WorkflowRun):
    """Result of a sync execution: the finished or paused run, with its raw output."""

    __slots__ = ()

    @property
    def success(self) -> bool:
        """Whether the run completed or is paused; False for failed and cancelled ones."""
        return self.status in (RunStatus.COMPLETED, RunStatus.PAUSED)


class RunOutput(NamedTuple):
    """Output of a completed run.

    :param is_display_copy: it went through Sim's display filter, because Sim no longer has the raw output.
    """

    value: Any
    is_display_copy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncExecutionResult:
    """Receipt of an async start.

    :param run_id: the run's ID; servers before v0.5.80 return only the job's ID, which serves as the run's.
    :param job_id: ID of the queue entry, on the legacy API.
    :param status: ``queued``, or the status of a run to which the start was re-attached.
    :param run_id_is_ours: whether the run has the request's run ID; servers before v0.7.32 generate another one.
    """

    run_id: str
    workflow_id: str
    job_id: str | None = None
    status: RunStatus = RunStatus.QUEUED
    run_id_is_ours: bool = True

    @property
    def success(self) -> bool:
        """Always True: rejections are raised."""
        return True

    @property
    def task_id(self) -> str:
        """The ID for ``get_job_status``, by the SDK's name."""
        return self.job_id or f"{JOB_PREFIX}{self.run_id}"

    @property
    def links(self) -> dict[str, str]:
        """The path of the queue entry as ``status``, by the SDK's name."""
        return {"status": f"/api/jobs/{self.task_id}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitInfo:
    """Rate-limit headers of a response.

    :param bucket: name in Sim, such as ``workflows.runs.read`` or ``logs.list``; ``address`` is the bucket of all
        requests to v2 from one IP address, which responses report only when it is empty.
    :param limit: the bucket's capacity, twice the plan's rate per minute.
    :param remaining: requests left in the bucket.
    :param reset: time of the next refill, seconds since the epoch.
    :param retry_after: seconds to wait, if the request was rejected.
    """

    bucket: str | None = None
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None
    retry_after: float | None = None


def epoch(moment: str | None) -> float | None:
    """Return an ISO 8601 moment in seconds since the epoch; None if it isn't one."""
    try:
        return None if moment is None else datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return None


def __getattr__(name: str) -> Any:
    """Import the other models on first use: starting and polling runs needs none of them."""
    if name.startswith("__"):
        raise AttributeError(name)
    from airflow_provider_sim.client import workspace_models

    return getattr(workspace_models, name)
