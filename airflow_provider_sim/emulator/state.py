"""All that a server remembers, and the rules by which a run may start."""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_sim.emulator.builtin import builtin_workflows
from airflow_provider_sim.emulator.clock import Clock
from airflow_provider_sim.emulator.exchange import SeenRequest, Trouble
from airflow_provider_sim.emulator.keys import Key, KeyRing
from airflow_provider_sim.emulator.limits import Bucket, Limits
from airflow_provider_sim.emulator.orders import Orders
from airflow_provider_sim.emulator.profiles import Profile
from airflow_provider_sim.emulator.runs import COST, Run
from airflow_provider_sim.emulator.workflows import Workflow


@dataclass(frozen=True, slots=True)
class Refused(Exception):
    """An execution that is not started.

    :param status: HTTP status.
    :param message: Sim's words.
    :param code: v2's detail code.
    :param retry_after: seconds, where v2 says so.
    :param run_id: the run that there may be nevertheless.
    """

    status: int
    message: str
    code: str | None = None
    retry_after: int | None = None
    run_id: str | None = None


@dataclass(slots=True)
class State:
    """The server's memory; a test may change any of it while the server runs.

    :ivar queue_delay: seconds that an asynchronous run waits in the queue.
    :ivar resume_delay: seconds until an asynchronous run goes on after a pause was answered.
    :ivar keep_jobs: whether queue entries are kept for their day.
    :ivar redis: whether the server has Redis, which changes what a cancellation says.
    """

    profile: Profile
    clock: Clock
    keys: KeyRing
    limits: Limits
    workspace_id: str
    orders: Orders = field(init=False)
    base_url: str = ""
    queue_delay: float = 0.0
    resume_delay: float = 0.0
    keep_jobs: bool = True
    redis: bool = False
    created_at: float = 0.0
    in_flight: int = 0
    workflows: dict[str, Workflow] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    requests: deque[SeenRequest] = field(default_factory=lambda: deque(maxlen=100_000))
    start_listeners: list[Callable[[Run], None]] = field(default_factory=list)
    request_listeners: list[Callable[[SeenRequest], None]] = field(default_factory=list)
    _active: dict[str, Run] = field(default_factory=dict)
    _by_start: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Deploy the workflows that every emulator has."""
        self.created_at = self.clock.now()
        self.orders = Orders(self.clock)
        for workflow in builtin_workflows():
            self.add(workflow)

    def add(self, workflow: Workflow) -> None:
        """Put a workflow into the first workspace."""
        workflow.name = workflow.name or workflow.workflow_id
        workflow.created_at = self.clock.now()
        workflow.deployed_at = self.clock.now() if workflow.deployed else None
        self.workflows[workflow.workflow_id] = workflow

    def find_workflow(self, workflow_id: str, key: Key) -> Workflow | None:
        """The workflow, if the key may see it."""
        return self.workflows.get(workflow_id) if key.workspace_id == self.workspace_id else None

    def find_run(self, workflow_id: str, run_id: str, key: Key) -> Run | None:
        """The run, if it is of this workflow and the key may see it; this is a look at it."""
        run = self.look_at(run_id)
        if run is None or run.workflow_id != workflow_id or key.workspace_id != self.workspace_id:
            return None
        return run

    def look_at(self, run_id: str) -> Run | None:
        """The run, unless there is none, or it isn't to be found yet."""
        run = self.runs.get(run_id)
        return None if run is None or run.hides() else run

    def personal_key_refused(self, key: Key) -> bool:
        """Whether the key is a personal one and the workspace takes none."""
        return key.kind == "personal" and not self.keys.personal_keys_allowed

    def listed(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        newest_first: bool = False,
        beyond: Run | None = None,
    ) -> Iterator[Run]:
        """The runs that lists show, in the order of their starts: those that have left the queue.

        :param since: the moment from which on they have started, and ``until`` which one.
        :param beyond: only those that come after this one, in the order asked for.
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
        trouble: Trouble | None = None,
    ) -> Run:
        """Start a run.

        :param bucket: the execution bucket that it spends.
        :param timeout: seconds that the caller asked for.
        :param trouble: what is to go wrong.
        :raises Refused: a limit is reached, and the run id used up by it; or an asynchronous run may not be queued.
        """
        limits = self.limits
        trouble = trouble or Trouble()
        unsure = None
        if trouble.enqueued is not None and mode == "async":
            unsure = Refused(503, "Async execution queue acceptance could not be confirmed", AMBIGUOUS, run_id=run_id)
            if not trouble.enqueued:
                raise unsure
        plans = limits.async_timeout if mode == "async" else limits.sync_timeout
        run = Run(
            run_id=run_id,
            workflow=workflow,
            input=workflow.read_input(sent),
            mode=mode,
            user_id=key.user_id,
            now=self.clock.now,
            created_at=self.clock.now(),
            queued_for=self.queue_delay if mode == "async" else 0.0,
            timeout=min(plans, timeout) if timeout else plans,
            stuck=trouble.stuck,
            failing=trouble.failing,
            unseen_looks=trouble.unseen_looks,
            unseen_seconds=trouble.unseen_seconds,
        )
        refusal = self._refusal(trouble.bucket("execution", bucket), crowded=trouble.limit == "concurrency")
        self._keep(run)
        if refusal is not None:
            run.refused = refusal.message
            raise refusal
        self._active[run_id] = run
        limits.usage += COST if limits.billing else 0.0
        for listener in self.start_listeners:
            listener(run)
        if unsure is not None:
            raise unsure
        return run

    def _keep(self, run: Run) -> None:
        self.runs[run.run_id] = run
        insort(self._by_start, run, key=_start)

    def _refusal(self, bucket: Bucket, *, crowded: bool) -> Refused | None:
        limits = self.limits
        crowded = crowded or (limits.concurrent_runs is not None and self.active_runs() >= limits.concurrent_runs)
        if limits.usage > limits.usage_limit:
            return Refused(
                402,
                f"Usage limit exceeded: ${limits.usage:.2f} used of ${limits.usage_limit:.2f} limit."
                " Please upgrade your plan or raise your usage limit to continue.",
            )
        if not bucket.take():
            return Refused(
                429, "Rate limit exceeded. Please try again later.", "RATE_LIMIT_EXCEEDED", bucket.retry_after
            )
        if crowded:
            return Refused(
                429,
                "Too many concurrent executions are in progress for this billing account."
                " Please wait for them to finish and try again.",
                "EXECUTION_CONCURRENCY_LIMIT",
                5,
            )
        return None

    def active_runs(self) -> int:
        """How many runs go on or are queued."""
        self._active = {run_id: run for run_id, run in self._active.items() if run.status in ("queued", "running")}
        return len(self._active)

    def attempt(self, run: Run, answer: Any) -> str:
        """Resume a run; the attempt's id resolves to nothing afterwards, as it does in Sim."""
        return run.resume(answer, after=self.resume_delay if run.mode == "async" else 0.0)

    def restart(self) -> None:
        """Die and come back: runs that go on stay so for ever, queued ones are forgotten."""
        for run_id, run in list(self.runs.items()):
            status = run.status
            if status == "queued":
                del self.runs[run_id]
                self._by_start.remove(run)
                self._active.pop(run_id, None)
            elif status == "running":
                run.stuck = True

    def record(self, request: SeenRequest) -> None:
        """Keep a request for whoever asserts on it."""
        self.requests.append(request)
        for listener in self.request_listeners:
            listener(request)

    def clear(self) -> None:
        """Forget runs, requests, listeners, orders and what the buckets have lost; workflows and settings stay."""
        self.runs.clear()
        self._by_start.clear()
        self._active.clear()
        self.requests.clear()
        self.start_listeners.clear()
        self.request_listeners.clear()
        self.orders.undo()
        self.limits.clear()


_start = operator.attrgetter("started_at")
AMBIGUOUS = "ASYNC_ENQUEUE_AMBIGUOUS"
