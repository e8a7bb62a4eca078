"""Planning of shared polls, without I/O: the fewest requests that answer for all runs that are due.

Two kinds of requests return the status of a run, and each spends a rate bucket:

- a read returns one run;
- a page of a workspace's log returns up to 1,000 runs, sorted by their start.

All due runs of a workspace share one list, which starts at the oldest of them. A run is read if it is the only one to
poll in its workspace, if no list contains it, or if the rate limits leave no room for a list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from math import inf
from operator import attrgetter
from typing import NamedTuple

from airflow_provider_sim.client import LOGS_BUCKET, RUN_BUCKET, STARTED_BY_API, WORKFLOW_BUCKET, RunStatus, WorkflowRun
from airflow_provider_sim.polling.poll_state import RunPollState
from airflow_provider_sim.rate_limits import RateLimits

START_TOLERANCE = 1.0
"""Seconds before and after a run's start; Sim corrects the start by some milliseconds in a run's first moments."""


@dataclass(slots=True, eq=False, kw_only=True)
class PolledRun:
    """State of a run that is polled for one caller.

    :param state: decides what each response means for the caller.
    :param run_id: ID that lists contain; differs from the caller's if that is a job ID.
    :param due: time of the next poll, in seconds since the epoch.
    :param interval: seconds between the previous poll and ``due``.
    :param since: earliest possible start on the server, while the start is unknown.
    :param started_at: start on the server, if known.
    :param listed_to: start up to which the current poll has listed runs already.
    :param status: last known status.
    :param trigger: what started the run; lists are filtered by it.
    :param read_at: time at which to read the run, because no list contains it, or not what it waits for.
    :param unlisted: lists don't contain the run.
    :param in_flight: a request that answers for the run was sent.
    :param reads: consecutive reads without progress.
    :param misses: consecutive lists that should contain the run and didn't.
    """

    state: RunPollState
    run_id: str
    due: float
    interval: float
    since: float
    started_at: float | None = None
    listed_to: float = -inf
    status: RunStatus | None = None
    trigger: str = STARTED_BY_API
    read_at: float = inf
    unlisted: bool = False
    in_flight: bool = False
    reads: int = 0
    misses: int = 0

    @property
    def workflow_id(self) -> str:
        """Workflow that the run belongs to."""
        return self.state.workflow_id

    @property
    def earliest(self) -> float:
        """Start of the next list for this run."""
        return max(self.listed_to, self.since if self.started_at is None else self.started_at - START_TOLERANCE)

    @property
    def latest(self) -> float:
        """End of the lists for this run."""
        return inf if self.started_at is None else self.started_at + START_TOLERANCE

    def update_start(self, response: WorkflowRun) -> None:
        """Set what a response contains about the run's start."""
        if response.status is not RunStatus.QUEUED and response.start_time is not None:
            self.started_at = response.start_time
        self.trigger = response.trigger or self.trigger


class Request(NamedTuple):
    """A request to send: a read, a list or a request for a workflow's workspace.

    :param bucket: rate bucket, which identifies the kind of request.
    :param runs: runs that it answers for, sorted by their earliest start in a list.
    :param workspace_id: workspace whose log to list.
    """

    bucket: str | None
    runs: list[PolledRun]
    workspace_id: str = ""


@dataclass(slots=True)
class Workspaces:
    """Workspaces of workflows, as far as known.

    :ivar by_workflow: workspace IDs.
    :ivar closed: workspaces whose log can't be used, and workflows whose workspace can't be found, for some time.
    """

    by_workflow: dict[str, str] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def is_unknown(self, workflow_id: str) -> bool:
        """Return whether to request a workflow's workspace."""
        return workflow_id not in self.by_workflow and workflow_id not in self.closed

    def of(self, run: PolledRun) -> str | None:
        """Return the workspace whose log contains a run; None if the run must be read."""
        workspace_id = None if run.unlisted else self.by_workflow.get(run.workflow_id)
        return None if workspace_id in self.closed else workspace_id


def plan(
    due: Sequence[PolledRun],
    near: Sequence[PolledRun],
    workspaces: Workspaces,
    limits: RateLimits,
    *,
    now: float,
    v2: bool | None,
    max_reads: int,
) -> list[Request]:
    """Return the requests to send now.

    :param due: runs to list or read.
    :param near: runs that are due soon, which lists include so that polls coincide.
    :param now: seconds since the epoch.
    :param v2: whether the server has the v2 API, and with it lists; None before its first response.
    :param max_reads: number of runs that may be read at once.
    """
    if v2 is None:
        max_reads = min(1, max_reads)  # the response shows whether the server has lists
    planner = _Planner(limits, now, RUN_BUCKET if v2 is not False else None, max_reads)
    planner.read(due if not v2 else [run for run in due if run.read_at <= now])
    if v2:
        planner.poll([run for run in due if run.due <= now and run not in planner.planned], near, workspaces)
    return planner.requests


@dataclass(slots=True)
class _Planner:
    """A plan under construction.

    :ivar planned: runs that one of the requests answers for.
    :ivar available: number of further requests by rate bucket.
    """

    limits: RateLimits
    now: float
    read_bucket: str | None
    max_reads: int
    requests: list[Request] = field(default_factory=list)
    planned: set[PolledRun] = field(default_factory=set)
    available: dict[str | None, int] = field(default_factory=dict)

    def read(self, runs: Iterable[PolledRun]) -> None:
        """Read runs, the longest waiting first, as far as the rate limits allow."""
        for run in nlargest(self.max_reads, runs, key=self.intervals_waited):
            if self.add(Request(self.read_bucket, [run])):
                self.max_reads -= 1

    def poll(self, due: Sequence[PolledRun], near: Sequence[PolledRun], workspaces: Workspaces) -> None:
        """List or read the runs that are due, the longest waiting first."""
        unknown: defaultdict[str, list[PolledRun]] = defaultdict(list)
        known: defaultdict[str | None, list[PolledRun]] = defaultdict(list)
        also: defaultdict[str | None, list[PolledRun]] = defaultdict(list)
        for run in sorted(due, key=self.intervals_waited, reverse=True):
            if len(due) + len(near) > 1 and not run.unlisted and workspaces.is_unknown(run.workflow_id):
                unknown[run.workflow_id].append(run)
            else:
                known[workspaces.of(run)].append(run)
        for run in near:
            also[workspaces.of(run)].append(run)
        for runs in unknown.values():
            self.add_or_read(Request(WORKFLOW_BUCKET, runs), runs)
        self.read(known.pop(None, ()))
        for workspace_id, runs in known.items():
            listed = sorted([*runs, *also[workspace_id]], key=attrgetter("earliest"))
            if len(listed) == 1:
                self.read(listed)
            if self.planned.isdisjoint(runs):
                self.add_or_read(Request(LOGS_BUCKET, listed, workspace_id or ""), runs)

    def add_or_read(self, request: Request, due: list[PolledRun]) -> None:
        """Add a request, or read runs for which it would come more than half an interval late."""
        if not self.add(request):
            wait = self.limits.delay(request.bucket)
            ready_at = self.now + (wait if wait < inf else 0.0)  # infinite: as soon as another response arrives
            self.read(run for run in due if ready_at - run.due > run.interval / 2)

    def add(self, request: Request) -> bool:
        """Add a request if its rate bucket has room for it; return whether it has."""
        available = self.available.setdefault(request.bucket, self.limits.available(request.bucket))
        if available <= 0:
            return False
        self.available[request.bucket] = available - 1
        self.requests.append(request)
        self.planned.update(request.runs)
        return True

    def intervals_waited(self, run: PolledRun) -> float:
        """Return how long a poll has been due, in intervals of the run: fair to short and long ones."""
        return (self.now - min(run.due, run.read_at)) / run.interval
