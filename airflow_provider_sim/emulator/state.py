"""The server's state, its API keys, and the rules by which a run may start."""

from __future__ import annotations

import logging
import operator
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_sim.emulator.builtin import builtin_workflows
from airflow_provider_sim.emulator.clock import Clock
from airflow_provider_sim.emulator.connections import Connections
from airflow_provider_sim.emulator.fault_rules import FaultRules
from airflow_provider_sim.emulator.files import Files
from airflow_provider_sim.emulator.limits import Bucket, Limits
from airflow_provider_sim.emulator.profiles import Profile
from airflow_provider_sim.emulator.request_context import Faults, RecordedRequest
from airflow_provider_sim.emulator.runs import COST, Run
from airflow_provider_sim.emulator.workflows import BlockError, DeploymentAttempt, Workflow

log = logging.getLogger(__name__)

_MODEL_LIMIT = BlockError(
    "429 Rate limit exceeded for the hosted model key. Please try again later.",
    block="Agent",
    block_type="agent",
    status=429,
)


@dataclass(frozen=True, slots=True)
class Key:
    """One API key; the kind is ``personal`` or ``workspace``."""

    value: str
    kind: str
    user_id: str
    workspace_id: str


class KeyRing:
    """The server's API keys: two users, each with a workspace, a personal key and a workspace key."""

    def __init__(self, api_key: str, workspace_id: str) -> None:
        self.personal_keys_allowed = True  # in the first workspace
        other = f"other-{workspace_id}"
        self.personal = Key(api_key, "personal", "user-1", workspace_id)
        self.workspace = Key("sk-sim-emulator-workspace-key", "workspace", "user-1", workspace_id)
        self.other_user = Key("sk-sim-emulator-other-user-key", "personal", "user-2", other)
        self.other_workspace = Key("sk-sim-emulator-other-workspace-key", "workspace", "user-2", other)
        keys = (self.personal, self.workspace, self.other_user, self.other_workspace)
        self._by_value = {key.value: key for key in keys}

    def find(self, value: str | None) -> Key | None:
        return self._by_value.get(value) if value else None


class ApiError(Exception):
    """An error response; the details are v2's ``details``, or further fields of another API's body."""

    def __init__(
        self, status: int, message: str, details: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.details, self.headers = status, message, details, dict(headers or {})


@dataclass(slots=True)
class State:
    """The server's state; a test may change it while the server runs."""

    profile: Profile
    clock: Clock
    keys: KeyRing
    limits: Limits
    workspace_id: str
    connections: Connections = field(default_factory=Connections)
    fault_rules: FaultRules = field(default_factory=FaultRules)
    base_url: str = ""
    queue_delay: float = 0.0  # seconds that an asynchronous run waits in the queue
    resume_delay: float = 0.0  # seconds until an asynchronous run continues after it was resumed
    keep_jobs: bool = True  # the queue keeps entries of finished runs for a day
    redis: bool = False  # the server has Redis, which affects the responses to cancellations
    created_at: float = 0.0
    in_flight: int = 0
    workflows: dict[str, Workflow] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    requests: deque[RecordedRequest] = field(default_factory=lambda: deque(maxlen=100_000))
    start_listeners: list[Callable[[Run], None]] = field(default_factory=list)
    request_listeners: list[Callable[[RecordedRequest], None]] = field(default_factory=list)
    files: Files = field(default_factory=Files)
    _active: dict[str, Run] = field(default_factory=dict)
    _by_start: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.created_at = self.clock.now()
        for workflow in builtin_workflows():
            self.add(workflow)

    def add(self, workflow: Workflow) -> None:
        """Add a workflow to the first workspace."""
        workflow.name = workflow.name or workflow.workflow_id
        workflow.created_at = self.clock.now()
        first = DeploymentAttempt("deploy", workflow.version, workflow.created_at, "active")
        workflow.attempt = first if workflow.deployed else None
        workflow.deployed_at = workflow.created_at if workflow.deployed else None
        self.workflows[workflow.workflow_id] = workflow

    def find_workflow(self, workflow_id: str, key: Key) -> Workflow | None:
        return self.workflows.get(workflow_id) if key.workspace_id == self.workspace_id else None

    def find_run(self, workflow_id: str, run_id: str, key: Key) -> Run | None:
        """Poll a run: return it if it is of this workflow and the key may read it."""
        run = self.poll(run_id)
        if run is None or run.workflow_id != workflow_id or key.workspace_id != self.workspace_id:
            return None
        return run

    def poll(self, run_id: str) -> Run | None:
        run = self.runs.get(run_id)
        return run if run is not None and run.poll() else None

    def output_of(self, run: Run) -> Any:
        return run.output(base_url=self.base_url, workspace_id=self.workspace_id)

    def personal_key_refused(self, key: Key) -> bool:
        return key.kind == "personal" and not self.keys.personal_keys_allowed

    def is_at_capacity(self, faults: Faults) -> bool:
        gate = self.limits.admission_gate
        return faults.exhaust("gate") or (gate is not None and self.in_flight >= gate)

    def listed(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        newest_first: bool = False,
        beyond: Run | None = None,
    ) -> Iterator[Run]:
        """Return the runs that have left the queue, in the order of their starts.

        :param since: the earliest start, and ``until``: before the latest.
        :param beyond: only runs after this one, in the requested order.
        """
        runs = self._by_start
        first = 0 if since is None else bisect_left(runs, since, key=_start)
        end = len(runs) if until is None else bisect_left(runs, until, key=_start)
        if beyond is not None:
            place = runs.index(beyond)
            first, end = (first, min(end, place)) if newest_first else (max(first, place + 1), end)
        places = range(end - 1, first - 1, -1) if newest_first else range(first, end)
        return (run for run in map(runs.__getitem__, places) if run.status != "queued" and not run.is_hidden)

    def start(
        self,
        workflow: Workflow,
        sent: Mapping[str, Any],
        *,
        mode: str,
        key: Key,
        run_id: str,
        bucket: Bucket,
        timeout: int | None = None,
        faults: Faults | None = None,
    ) -> Run:
        """Start a run.

        :param bucket: the bucket of executions that it uses.
        :param timeout: the time limit that the caller chose, in seconds.
        :raises ApiError: v2's error, because a file is invalid, a limit is reached, or an asynchronous run may not be
            queued.
        """
        limits = self.limits
        faults = faults or Faults()
        try:
            stored = sent if mode == "async" else workflow.store_files(sent)
        except ValueError as error:
            raise ApiError(400, f"File processing failed: {error}") from None
        ambiguous = None
        if "ambiguous_enqueue" in faults:
            message = "Async execution queue acceptance could not be confirmed"
            ambiguous = ApiError(
                503, message, {"code": "ASYNC_ENQUEUE_AMBIGUOUS", "runId": run_id}, {"x-run-id": run_id}
            )
            if not faults["ambiguous_enqueue"].started:
                raise ambiguous
        hidden = faults.get("transient_404")
        limit = limits.async_timeout if mode == "async" else limits.sync_timeout
        run = Run(
            run_id=run_id,
            workflow=workflow,
            input=workflow.read_input(stored),
            mode=mode,
            user_id=key.user_id,
            now=self.clock.now,
            created_at=self.clock.now(),
            queued_for=self.queue_delay if mode == "async" else 0.0,
            timeout=min(limit, timeout) if timeout else limit,
            stuck="stuck_run" in faults,
            failing=_MODEL_LIMIT if faults.exhaust("model") else None,
            files=self.files,
            workspace_id=self.workspace_id,
            hidden_polls=hidden.polls if hidden else 0,
            hidden_seconds=hidden.seconds if hidden else 0.0,
        )
        refused = self._exceeded_limit(faults.bucket("execution", bucket), crowded=faults.exhaust("concurrency"))
        self.add_run(run)
        if refused is not None:
            run.refused = refused.message
            raise refused
        self._active[run_id] = run
        limits.usage += COST if limits.billing else 0.0
        for listener in self.start_listeners:
            listener(run)
        if ambiguous is not None:
            raise ambiguous
        return run

    def add_run(self, run: Run) -> None:
        self.runs[run.run_id] = run
        insort(self._by_start, run, key=_start)

    def _exceeded_limit(self, bucket: Bucket, *, crowded: bool) -> ApiError | None:
        limits = self.limits
        crowded = crowded or (limits.concurrent_runs is not None and self.active_runs() >= limits.concurrent_runs)
        if limits.usage > limits.usage_limit:
            message = f"Usage limit exceeded: ${limits.usage:.2f} used of ${limits.usage_limit:.2f} limit."
            return ApiError(402, f"{message} Please upgrade your plan or raise your usage limit to continue.")
        if not bucket.take():
            message, headers = "Rate limit exceeded. Please try again later.", {"retry-after": str(bucket.retry_after)}
            return ApiError(429, message, {"code": "RATE_LIMIT_EXCEEDED"}, headers)
        if crowded:
            message = "Too many concurrent executions are in progress for this billing account."
            message += " Please wait for them to finish and try again."
            return ApiError(429, message, {"code": "EXECUTION_CONCURRENCY_LIMIT"}, {"retry-after": "5"})
        return None

    def active_runs(self) -> int:
        self._active = {run_id: run for run_id, run in self._active.items() if run.status in ("queued", "running")}
        return len(self._active)

    def resume(self, run: Run, answer: Any) -> str:
        """Resume a run; return the attempt's ID."""
        return run.resume(answer, after=self.resume_delay if run.mode == "async" else 0.0)

    def restart(self) -> None:
        """Crash and start again: connections are cut, running runs stay ``running`` forever, queued ones are lost."""
        for run_id, run in list(self.runs.items()):
            status = run.status
            if status == "queued":
                del self.runs[run_id]
                self._by_start.remove(run)
                self._active.pop(run_id, None)
            elif status == "running":
                run.stuck = True
        self.connections.cut_all()

    def record(self, request: RecordedRequest) -> None:
        self.requests.append(request)
        faults = f"  fault: {', '.join(request.faults)}" if request.faults else ""
        log.debug("%s %s %s%s", request.status or "---", request.method, request.path, faults)
        for listener in self.request_listeners:
            listener(request)

    def clear(self) -> None:
        """Remove runs, files, requests, listeners and faults, and refill the buckets; workflows and settings stay."""
        for collection in (self.runs, self._by_start, self._active, self.requests, self.files.all):
            collection.clear()
        self.start_listeners.clear()
        self.request_listeners.clear()
        self.fault_rules.remove()
        self.limits.clear()


_start = operator.attrgetter("started_at")
