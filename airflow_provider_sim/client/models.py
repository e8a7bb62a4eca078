"""What Sim tells, as frozen values: parsed once where it arrives, and never passed on as a raw dict."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from airflow_provider_sim.exceptions import Outcome, SimRunCancelledError, SimRunFailedError

T = TypeVar("T")


class RunStatus(StrEnum):
    """State of a run. Whatever a server says that isn't known here is ``UNKNOWN``, and not an end."""

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
        """Whether the run is over for good."""
        return self in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed.

    :param message: Sim's own words.
    :param code: for example ``BLOCK_EXECUTION_FAILED``, ``TIMEOUT``; None from servers that tell only the message.
    :param block_name: the block that failed, where the server says so (held-open v2 executions only).
    """

    message: str
    code: str | None = None
    block_id: str | None = None
    block_name: str | None = None
    block_type: str | None = None

    def __str__(self) -> str:
        """Message, block and code in one line."""
        block = f" in block {self.block_name!r}" if self.block_name else ""
        code = f" ({self.code})" if self.code else ""
        return f"{self.message}{block}{code}"


@dataclass(frozen=True, slots=True)
class Pause:
    """Where a run is paused.

    :param context_id: names the pause point when resuming it; None while a resume is under way.
    :param kind: ``human`` waits for a person, ``time`` resumes by itself at ``resume_at``; None where it isn't told.
    :param resume_at: ISO 8601 UTC, for ``time`` pauses.
    """

    context_id: str | None = None
    kind: str | None = None
    paused_at: str | None = None
    resume_at: str | None = None
    block_id: str | None = None

    @property
    def resumes_alone(self) -> bool:
        """Whether nobody has to do anything."""
        return self.kind == "time"

    @property
    def resumes_at(self) -> float | None:
        """``resume_at`` in seconds since the epoch."""
        return _epoch(self.resume_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRun:
    """One run as a server describes it.

    :param run_id: Sim's ``runId`` (``executionId`` on the legacy API); None where an old server didn't tell.
    :param status: see :class:`RunStatus`; ``server_status`` keeps the server's word.
    :param output: the workflow's output, if asked for and there is one.
    :param output_is_display_copy: ``output`` went through Sim's display filter: strings over 15,000 characters cut,
        values under keys such as ``password`` or ``*token`` replaced.
    :param block_outputs: outputs of single blocks, by selector.
    :param started_at: ISO 8601 UTC, as ``ended_at``; the latter is set on paused runs too.
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
    def began(self) -> float | None:
        """When it started, in seconds since the epoch; moves by some milliseconds in a run's first moments."""
        return _epoch(self.started_at)

    def details(self) -> dict[str, Any]:
        """Say of it what Sim tells of every run, in plain JSON: ids, status, what started it, times and cost."""
        return {
            "workflow_id": self.workflow_id,
            "run_id": self.run_id,
            "status": self.status.value,
            "trigger": self.trigger,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "duration_ms": self.duration_ms,
            "cost_usd": self.cost_usd,
        }

    def raise_for_status(self) -> None:
        """Raise an error if the run failed or was cancelled.

        :raises SimRunFailedError: it failed; with Sim's own message.
        :raises SimRunCancelledError: it was cancelled.
        """
        name = f"Run {self.run_id!r} of workflow {self.workflow_id!r}"
        facts: dict[str, Any] = {"workflow_id": self.workflow_id, "run_id": self.run_id, "outcome": Outcome.RAN}
        if self.status is RunStatus.CANCELLED:
            raise SimRunCancelledError(
                f"{name} was cancelled before it completed. A retry of the task that started it, or clearing that task,"
                " starts another.",
                **facts,
            )
        if self.status is RunStatus.FAILED:
            code = self.error.code if self.error else None
            raise SimRunFailedError(
                f"{name} failed: {self.error or 'Sim does not say why'}. Its log in Sim shows each block.",
                detail_code=code,
                **facts,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowExecutionResult(WorkflowRun):
    """What a held-open execution answers: the finished or paused run, with its raw output."""

    @property
    def success(self) -> bool:
        """Whether the run completed or is paused; False for failed and cancelled ones."""
        return self.status in (RunStatus.COMPLETED, RunStatus.PAUSED)

    @property
    def metadata(self) -> dict[str, Any]:
        """``duration`` in milliseconds, ``runId``, ``startTime`` and ``endTime``, under the SDK's names."""
        return {
            "duration": self.duration_ms,
            "runId": self.run_id,
            "startTime": self.started_at,
            "endTime": self.ended_at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus(WorkflowRun):
    """A run as its queue entry (``/api/jobs``) shows it: the only view of runs before v0.6.81.

    The status is the run's, not the queue entry's: an entry is ``completed`` for cancelled and paused runs, too.

    :param job_id: the queue entry's id.
    :param metadata: the server's details of the entry; the keys differ by version.
    """

    job_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutput:
    """What a completed run has returned.

    :param is_display_copy: it went through Sim's display filter, because Sim no longer holds the raw output.
    """

    value: Any
    is_display_copy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncExecutionResult:
    """The receipt of an asynchronous start.

    :param run_id: the run's ID; servers before v0.5.80 return only the job's ID, which serves as the run's.
    :param job_id: the queue entry's id, on the legacy API.
    :param status: ``queued``, or the status of a run to which the start was re-attached.
    :param run_id_is_ours: whether the run has the id that the request chose; servers before v0.7.32 choose their own.
    :param path: where the status can be read, relative to the base URL. Sim's own status URL names the host that the
        server was configured with, which needn't be one that we can reach or may send the key to.
    """

    run_id: str
    workflow_id: str
    job_id: str | None = None
    status: RunStatus = RunStatus.QUEUED
    message: str = ""
    run_id_is_ours: bool = True
    path: str = ""

    @property
    def success(self) -> bool:
        """Whether Sim took the run: always, as refusals are raised."""
        return True

    @property
    def task_id(self) -> str:
        """The id's name in SDK 0.1."""
        return self.job_id or self.run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStatus:
    """Whether a workflow is deployed.

    :param deployed_at: ISO 8601 UTC.
    :param needs_redeployment: the draft has changed since; runs use the deployed version.
    """

    is_deployed: bool
    deployed_at: str | None = None
    needs_redeployment: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentAttempt:
    """The last deploying, or rolling back, of a workflow, which Sim brings to its end in the background.

    :param attempt_id: Sim's id of it.
    :param version: the version that it is to make live.
    :param status: Sim's word, such as ``active`` once it has succeeded.
    :param readiness: of the parts that it takes, ``webhooks``, ``schedules`` and ``mcp``.
    :param error: why it failed, in Sim's words.
    :param action: ``deploy`` or ``rollback``.
    :param requested_at: ISO 8601 UTC.
    """

    attempt_id: str | None
    version: int | None
    status: str | None
    readiness: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    action: str | None = None
    requested_at: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether it has finished without success."""
        return self.error is not None or (self.status or "").lower() in ("failed", "error", "cancelled")

    @property
    def is_active(self) -> bool:
        """Whether it is over, and what it deployed is live."""
        return self.status == "active" and not self.has_failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What of a workflow is live, and what is about to be.

    :param version: the live version's number; None if none is live, or where the server doesn't tell.
    :param deployed_at: ISO 8601 UTC.
    :param needs_redeployment: the draft has changed since; None where the server doesn't tell.
    :param latest_attempt: None where none was made since the workflow was last undeployed, or on v1.
    :param warnings: Sim's own.
    """

    workflow_id: str
    is_deployed: bool
    version: int | None = None
    deployed_at: str | None = None
    needs_redeployment: bool | None = None
    latest_attempt: DeploymentAttempt | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInput:
    """One declared input of a workflow's Start block."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A workflow's name, place and declared inputs."""

    workflow_id: str
    name: str | None
    workspace_id: str | None
    is_deployed: bool | None
    inputs: tuple[WorkflowInput, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A workspace that the key may see."""

    workspace_id: str
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitInfo:
    """What the last answer with rate-limit headers said of its bucket.

    :param bucket: the bucket's name in Sim, such as ``workflows.runs.read`` or ``logs.list``; ``address`` is the one
        that all requests to v2 from one address share, and which only tells of itself when it is empty.
    :param limit: the bucket's capacity, twice the plan's rate per minute.
    :param remaining: requests left in it.
    :param reset: when it is refilled, seconds since the epoch.
    :param retry_after: seconds to wait, when the answer was a refusal.
    """

    bucket: str | None = None
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """One execution bucket as the usage report shows it.

    :param requests_per_minute: refill, None from servers that don't say.
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
        return _epoch(self.reset_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimits:
    """Limits and usage of the key's owner.

    :param sync: bucket of held-open executions, and of all executions on the legacy API.
    :param asynchronous: bucket of asynchronous executions on v2.
    :param current_period_cost_usd: US dollars used in the billing period, of ``limit_usd``.
    :param plan: for example ``free``, ``pro``.
    """

    sync: RateLimit | None
    asynchronous: RateLimit | None
    current_period_cost_usd: float | None
    limit_usd: float | None
    plan: str | None
    storage_used_bytes: int | None = None
    storage_limit_bytes: int | None = None

    @property
    def percent_used(self) -> float | None:
        """Usage in percent of the limit; None where the server sets none."""
        return _percent(self.current_period_cost_usd, self.limit_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingStatus:
    """How the account that pays stands, in Sim's credits, of which 200 are a US dollar.

    :param account_status: Sim's word: ``active``, ``limit_exceeded``, ``billing_blocked``.
    :param refuses_runs: whether that means that no run is started.
    :param period_start: ISO 8601 UTC, as ``period_end``.
    :param credits_used: None, as the other figures, where the key may not know: workspace keys, and who isn't owner.
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
        """Credits used in percent of the limit; None where one of them isn't known."""
        return _percent(self.credits_used, self.credits_limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """What a cancel request achieved.

    :param accepted: Sim's ``success``; neither value proves how the run ends, only its status does.
    :param reason: Sim's code, for example ``recorded``, ``already_completed``, ``redis_unavailable``.
    :param status: of the run afterwards, where it was looked at.
    """

    run_id: str
    accepted: bool
    reason: str | None = None
    status: RunStatus | None = None

    @property
    def finished_before(self) -> bool:
        """Whether the run had finished by itself before it could be cancelled."""
        return self.status is not None and self.status.is_terminal and self.status is not RunStatus.CANCELLED

    def __str__(self) -> str:
        """What the request achieved, by the run's status; HTTP 200 and ``success`` don't prove it."""
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
class Resumption:
    """What a resume request achieved.

    :param run_id: the run to go on watching: the original one.
    :param attempt_id: Sim's id of this resume; stops resolving once the attempt is over.
    :param status: of the run, where the answer tells it (runs that were started held-open).
    :param output: of the resumed run, in the same case.
    """

    run_id: str
    attempt_id: str | None
    status: RunStatus
    output: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PausePoint:
    """One of the places at which a run waits, or has waited.

    :param context_id: names it when answering it.
    :param status: Sim's word: ``paused``, ``queued``, ``resuming``, ``resumed``, ``failed``.
    :param kind: ``human`` or ``time``, as of :class:`Pause`; None where it isn't told.
    :param question: what the person is shown, as text.
    :param fields: what the person is asked for.
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

    :param resumed_count: how many were answered so far; None where the server doesn't tell.
    """

    run_id: str
    points: tuple[PausePoint, ...] = ()
    resumed_count: int | None = None

    @property
    def open_points(self) -> tuple[PausePoint, ...]:
        """Those that wait for a person's answer."""
        return tuple(point for point in self.points if point.is_open)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list.

    :param next_cursor: hand it in for the next page, with the same filters; None on the last page.
    """

    items: tuple[T, ...]
    next_cursor: str | None = None


def _percent(used: float | None, limit: float | None) -> float | None:
    """``used`` in percent of the limit; None where it isn't known, or there is no limit."""
    return None if used is None or not limit else 100.0 * used / limit


def _epoch(moment: str | None) -> float | None:
    """A moment in seconds since the epoch; None if it can't be read."""
    try:
        return None if moment is None else datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return None
