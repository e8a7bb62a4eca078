"""Models of pauses, workflows, deployments, usage and files: frozen dataclasses, parsed once on arrival.

Times are ISO 8601 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from airflow_provider_sim.client.models import RunStatus, epoch

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_T]):
    """One page of a list.

    :param next_cursor: ``cursor`` of the next page, with the same filters; None on the last page.
    """

    items: tuple[_T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentAttempt:
    """Latest deployment or rollback of a workflow, which Sim performs in the background.

    :param version: the version that it deploys.
    :param status: Sim's value, such as ``active`` after success.
    :param error: Sim's message if it failed.
    :param action: ``deploy`` or ``rollback``.
    """

    version: int | None = None
    status: str | None = None
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
    """

    version: int
    is_live: bool
    name: str | None = None
    description: str | None = None
    created_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInput:
    """One declared input of a workflow's Start block."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A workflow's name, workspace and declared inputs."""

    workflow_id: str
    name: str | None = None
    workspace_id: str | None = None
    is_deployed: bool | None = None
    inputs: tuple[WorkflowInput, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A workspace that the key can access."""

    workspace_id: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """An execution bucket in the usage report.

    :param requests_per_minute: refill; None if the server doesn't report it.
    :param max_burst: capacity.
    """

    is_limited: bool
    requests_per_minute: int | None = None
    max_burst: int | None = None
    remaining: int | None = None
    reset_at: str | None = None

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

    sync: RateLimit | None = None
    asynchronous: RateLimit | None = None
    current_period_cost_usd: float | None = None
    limit_usd: float | None = None
    plan: str | None = None

    @property
    def percent_used(self) -> float | None:
        """Usage in percent of the limit; None without a limit."""
        return _percent(self.current_period_cost_usd, self.limit_usd)

    @property
    def rate_limit(self) -> dict[str, dict[str, Any]]:
        """The buckets ``sync`` and ``async``, by the SDK's names."""
        rates = {"sync": self.sync, "async": self.asynchronous}
        names = {"isLimited": "is_limited", "limit": "requests_per_minute", "remaining": "remaining"}
        names["resetAt"] = "reset_at"
        return {
            mode: {name: getattr(rate, field) for name, field in names.items()} for mode, rate in rates.items() if rate
        }

    @property
    def usage(self) -> dict[str, Any]:
        """``currentPeriodCost`` and ``limit`` in US dollars, and ``plan``, by the SDK's names."""
        return {"currentPeriodCost": self.current_period_cost_usd, "limit": self.limit_usd, "plan": self.plan}


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingStatus:
    """Billing status of the paying account; 200 credits are 1 US dollar.

    :param account_status: ``active``, ``limit_exceeded``, ``billing_blocked``.
    :param credits_used: None, as the other credits, for workspace keys and for keys of non-owners.
    """

    plan: str | None = None
    account_status: str | None = None
    period_start: str | None = None
    period_end: str | None = None
    credits_used: float | None = None
    credits_limit: float | None = None
    credits_remaining: float | None = None

    @property
    def refuses_runs(self) -> bool:
        """Whether Sim rejects runs."""
        return self.account_status in ("limit_exceeded", "billing_blocked")

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

    points: tuple[PausePoint, ...] = ()
    resumed_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceFile:
    """A file of a workspace.

    :param size: bytes.
    :param key: its key in Sim's storage.
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


def _percent(used: float | None, limit: float | None) -> float | None:
    return None if used is None or not limit else 100.0 * used / limit
