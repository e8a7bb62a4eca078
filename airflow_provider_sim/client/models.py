"""Models of Sim's resources: frozen dataclasses, parsed once on arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from airflow_provider_sim.exceptions import Outcome, SimError, SimRunCancelledError, SimRunFailedError

JOB_PREFIX = "workflow-execution:"
"""Job IDs of the database queue are this and the run ID; the Trigger.dev queue finds its jobs by it, too."""

_DETAILS = ("workflow_id", "run_id", "status", "trigger", "started_at", "ended_at", "duration_ms", "cost_usd")

_T = TypeVar("_T")
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


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed.

    :param message: Sim's message.
    :param code: for example ``BLOCK_EXECUTION_FAILED``, ``TIMEOUT``; None from servers that only send a message.
    :param block_name: the block that failed (sync v2 executions only).
    """

    message: str
    code: str | None = None
    block_id: str | None = None
    block_name: str | None = None

    def __str__(self) -> str:
        """Message, block and code in one line."""
        block = f" in block {self.block_name!r}" if self.block_name else ""
        code = f" ({self.code})" if self.code else ""
        return f"{self.message}{block}{code}"


@dataclass(frozen=True, slots=True)
class Pause:
    """Current pause of a run.

    :param context_id: ID of the pause point for resuming it; None during a resume.
    :param kind: ``human`` waits for a person, ``time`` resumes automatically at ``resume_at``; None if unknown.
    :param resume_at: ISO 8601 UTC, for ``time`` pauses.
    """

    context_id: str | None = None
    kind: str | None = None
    resume_at: str | None = None
    block_id: str | None = None

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
    :param started_at: ISO 8601 UTC, as ``ended_at``; the latter is also set on paused runs.
    :param duration_ms: milliseconds.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowExecutionResult(WorkflowRun):
    """Result of a sync execution: the finished or paused run, with its raw output."""

    @property
    def success(self) -> bool:
        """Whether the run completed or is paused; False for failed and cancelled ones."""
        return self.status in (RunStatus.COMPLETED, RunStatus.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutput:
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
class DeploymentAttempt:
    """Latest deployment or rollback of a workflow, which Sim performs in the background.

    :param version: the version that it deploys.
    :param status: Sim's value, such as ``active`` after success.
    :param error: Sim's message if it failed.
    :param action: ``deploy`` or ``rollback``.
    :param requested_at: ISO 8601 UTC.
    """

    version: int | None
    status: str | None
    error: str | None = None
    action: str | None = None
    requested_at: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether it has finished without success."""
        return self.error is not None or (self.status or "").lower() in ("failed", "error", "cancelled")

    @property
    def is_active(self) -> bool:
        """Whether it succeeded, so its version is live."""
        return self.status == "active" and not self.has_failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Live version of a workflow, and its latest deployment attempt.

    :param version: number of the live version; None if there is none, or if the server doesn't report it.
    :param deployed_at: ISO 8601 UTC.
    :param needs_redeployment: the draft has changed since the deployment; runs use the deployed version.
    :param latest_attempt: None if there was none since the workflow was last undeployed.
    :param warnings: Sim's messages.
    """

    workflow_id: str
    is_deployed: bool
    version: int | None = None
    deployed_at: str | None = None
    needs_redeployment: bool | None = None
    latest_attempt: DeploymentAttempt | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowVersion:
    """A deployed version of a workflow.

    :param is_live: whether runs use it.
    :param created_at: ISO 8601 UTC.
    :param deployed_by: name of the user.
    :param latest_status: of its latest deployment attempt: ``preparing``, ``activating``, ``active``, ``failed`` or
        ``superseded``.
    """

    version: int
    is_live: bool
    name: str | None = None
    description: str | None = None
    created_at: str | None = None
    deployed_by: str | None = None
    latest_status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInput:
    """One declared input of a workflow's Start block."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A workflow's name, workspace and declared inputs."""

    workflow_id: str
    name: str | None
    workspace_id: str | None
    is_deployed: bool | None
    inputs: tuple[WorkflowInput, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A workspace that the key can access."""

    workspace_id: str
    name: str | None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """An execution bucket in the usage report.

    :param requests_per_minute: refill; None if the server doesn't report it.
    :param max_burst: capacity.
    :param reset_at: ISO 8601 UTC.
    """

    is_limited: bool
    requests_per_minute: int | None
    max_burst: int | None
    remaining: int | None
    reset_at: str | None

    @property
    def reset(self) -> float | None:
        """``reset_at`` in seconds since the epoch."""
        return epoch(self.reset_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimits:
    """Limits and usage of the key's owner.

    :param sync: bucket of sync executions, and of all executions on the legacy API.
    :param asynchronous: bucket of async executions on v2.
    :param current_period_cost_usd: US dollars used in the billing period, of ``limit_usd``.
    :param plan: for example ``free``, ``pro``.
    """

    sync: RateLimit | None
    asynchronous: RateLimit | None
    current_period_cost_usd: float | None
    limit_usd: float | None
    plan: str | None

    @property
    def percent_used(self) -> float | None:
        """Usage in percent of the limit; None without a limit."""
        return _percent(self.current_period_cost_usd, self.limit_usd)

    @property
    def rate_limit(self) -> dict[str, dict[str, Any]]:
        """The buckets ``sync`` and ``async``, by the SDK's names."""
        buckets = {"sync": self.sync, "async": self.asynchronous}
        return {
            name: {
                "isLimited": bucket.is_limited,
                "limit": bucket.requests_per_minute,
                "requestsPerMinute": bucket.requests_per_minute,
                "maxBurst": bucket.max_burst,
                "remaining": bucket.remaining,
                "resetAt": bucket.reset_at,
            }
            for name, bucket in buckets.items()
            if bucket is not None
        }

    @property
    def usage(self) -> dict[str, Any]:
        """``currentPeriodCost`` and ``limit`` in US dollars, and ``plan``, by the SDK's names."""
        return {"currentPeriodCost": self.current_period_cost_usd, "limit": self.limit_usd, "plan": self.plan}


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingStatus:
    """Billing status of the paying account; 200 credits are 1 US dollar.

    :param account_status: ``active``, ``limit_exceeded``, ``billing_blocked``.
    :param refuses_runs: whether Sim rejects runs in this status.
    :param period_start: ISO 8601 UTC, as ``period_end``.
    :param credits_used: None, as the other credits, for workspace keys and for keys of non-owners.
    """

    plan: str | None
    account_status: str | None
    refuses_runs: bool
    period_start: str | None
    period_end: str | None
    credits_used: float | None = None
    credits_limit: float | None = None
    credits_remaining: float | None = None

    @property
    def percent_used(self) -> float | None:
        """Credits used in percent of the limit; None if unknown."""
        return _percent(self.credits_used, self.credits_limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """Result of a cancel request.

    :param accepted: Sim's ``success``; neither value proves the run's outcome, only its status does.
    :param reason: Sim's code, for example ``recorded``, ``already_completed``, ``redis_unavailable``.
    :param status: of the run afterwards, if it was read.
    """

    run_id: str
    accepted: bool
    reason: str | None = None
    status: RunStatus | None = None

    @property
    def finished_before(self) -> bool:
        """Whether the run had finished before it could be cancelled."""
        return self.status is not None and self.status.is_terminal and self.status is not RunStatus.CANCELLED

    def __str__(self) -> str:
        """The result by the run's status; HTTP 200 and ``success`` don't prove it."""
        if self.status is RunStatus.CANCELLED:
            return f"Run {self.run_id} is cancelled."
        if self.finished_before:
            return f"Run {self.run_id} was {self.status} before it could be cancelled."
        if self.status is None:
            return f"Cancellation of run {self.run_id} was requested; the run's status could not be read."
        return (
            f"Cancellation of run {self.run_id} was requested; the run is still {self.status}. Sim may stop it at the"
            " end of its current block. Check its log in Sim."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PausePoint:
    """A point at which a run waits, or has waited.

    :param context_id: its ID for answering it.
    :param status: ``paused``, ``queued``, ``resuming``, ``resumed``, ``failed``.
    :param kind: ``human`` or ``time``, as of :class:`Pause`; None if unknown.
    :param question: the text that the person sees.
    :param fields: the fields of the answer.
    """

    context_id: str
    status: str | None = None
    kind: str | None = None
    block_id: str | None = None
    question: str | None = None
    fields: tuple[WorkflowInput, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it waits for a person's answer."""
        return self.kind != "time" and self.status in ("paused", "failed", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PausedRun:
    """All pause points of a run.

    :param resumed_count: number of answered ones; None if the server doesn't report it.
    """

    run_id: str
    points: tuple[PausePoint, ...] = ()
    resumed_count: int | None = None

    @property
    def open_points(self) -> tuple[PausePoint, ...]:
        """The pause points that wait for a person's answer."""
        return tuple(point for point in self.points if point.is_open)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceFile:
    """A file of a workspace.

    :param size: bytes.
    :param key: its key in Sim's storage.
    :param uploaded_at: ISO 8601 UTC.
    """

    file_id: str
    name: str
    size: int
    content_type: str
    key: str
    folder_path: str = "/"
    uploaded_at: str | None = None

    def reference(self, name: str | None = None) -> dict[str, Any]:
        """Return the value by which a run takes it, for the list of a ``file[]`` field.

        :param name: the file's name in the run; default: its name in the workspace.
        """
        url = f"/api/files/serve/{self.key}?context=workspace"
        content = {"size": self.size, "type": self.content_type, "key": self.key}
        return {"id": self.file_id, "name": name or self.name, "url": url, **content}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_T]):
    """One page of a list.

    :param next_cursor: ``cursor`` of the next page, with the same filters; None on the last page.
    """

    items: tuple[_T, ...]
    next_cursor: str | None = None


def _percent(used: float | None, limit: float | None) -> float | None:
    return None if used is None or not limit else 100.0 * used / limit


def epoch(moment: str | None) -> float | None:
    """Return an ISO 8601 moment in seconds since the epoch; None if it isn't one."""
    try:
        return None if moment is None else datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return None
