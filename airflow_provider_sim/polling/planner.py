"""Planning of shared polls, without I/O: the fewest requests that answer for all runs that are due.

All due runs of a workspace share one list of its log, which starts at the oldest of them. A run is read if it is the
only one to poll in its workspace, if no list contains it, or if the rate limits leave no room for a list.
"""

from __future__ import annotations

import contextvars
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from math import inf
from operator import attrgetter
from typing import NamedTuple

from airflow_provider_sim.client import LOGS_BUCKET, RUN_BUCKET, WORKFLOW_BUCKET, RunStatus, WorkflowRun
from airflow_provider_sim.polling.poll_state import RunPollState
from airflow_provider_sim.polling.rate_limits import RateLimits

START_TOLERANCE = 1.0  # seconds; Sim corrects the start by some milliseconds in a run's first moments


@dataclass(slots=True, eq=False, kw_only=True)
class PolledRun:
    """State of a run that is polled for one caller; times are seconds since the epoch."""

    state: RunPollState  # decides what each response means for the caller
    run_id: str  # that lists contain; the caller's may be a job ID
    due: float  # time of the next poll
    interval: float  # seconds between the previous poll and that
    since: float  # earliest possible start on the server
    until: float = inf  # latest possible start, infinite while the start is unknown
    listed_to: float = -inf  # start up to which the current poll has listed runs already
    status: RunStatus | None = None  # last known
    read_at: float = inf  # time at which to read the run, because no list contains it, or not what it waits for
    in_flight: bool = False  # a request that answers for the run was sent
    reads: int = 0  # in a row without progress
    misses: int = 0  # lists in a row that should contain the run and didn't
    context: contextvars.Context = field(default_factory=contextvars.copy_context)  # messages go to the caller's log

    @property
    def earliest(self) -> float:
        """Start of the next list for this run."""
        return max(self.listed_to, self.since)

    def update_start(self, response: WorkflowRun) -> None:
        """Set what a response contains about the run's start."""
        if response.status is not RunStatus.QUEUED and response.start_time is not None:
            self.since, self.until = response.start_time - START_TOLERANCE, response.start_time + START_TOLERANCE


class Request(NamedTuple):
    """A request to send: a read, a list or a request for a workflow's workspace."""

    bucket: str | None  # rate bucket, which identifies the kind of request
    runs: list[PolledRun]  # that it answers for
    workspace_id: str = ""  # whose log to list


@dataclass(slots=True)
class Workspaces:
    """Workspaces of workflows, as far as known."""

    by_workflow: dict[str, str] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)  # workspaces and workflows without a usable log, for some time

    def is_unknown(self, workflow_id: str) -> bool:
        """Return whether to request a workflow's workspace."""
        return workflow_id not in self.by_workflow and workflow_id not in self.closed

    def of(self, run: PolledRun) -> str | None:
        """Return the workspace whose log contains a run; None if it must be read."""
        workspace_id = self.by_workflow.get(run.state.workflow_id) if run.misses <= 1 else None
        return None if workspace_id in self.closed else workspace_id


@dataclass(eq=False, kw_only=True)
class Planner:
    """Collects the requests to send now."""

    workspaces: Workspaces
    limits: RateLimits
    now: float
    v2: bool | None  # whether the server has the v2 API, and with it lists; None before its first response
    max_reads: int  # number of runs that may be read at once
    is_rate_limited: bool = field(default=False, init=False)  # whether a request has to wait for the rate limits
    _requests: list[Request] = field(default_factory=list, init=False)
    _available: dict[str | None, float] = field(default_factory=dict, init=False)

    def plan(self, due: Sequence[PolledRun], near: Sequence[PolledRun]) -> list[Request]:
        """Return the requests for runs that are due; lists include those that are due soon, so that polls coincide."""
        self._read(run for run in due if not self.v2 or run.read_at <= self.now)
        if self.v2:
            planned = {run for request in self._requests for run in request.runs}
            self._list([run for run in due if run.due <= self.now and run not in planned], near)
        return self._requests

    def _list(self, due: Sequence[PolledRun], near: Sequence[PolledRun]) -> None:
        is_single = len(due) + len(near) == 1
        by_workspace: defaultdict[str | None, list[PolledRun]] = defaultdict(list)
        also: defaultdict[str | None, list[PolledRun]] = defaultdict(list)
        unknown: defaultdict[str, list[PolledRun]] = defaultdict(list)  # by workflow
        for run in due:
            if is_single or run.misses > 1 or not self.workspaces.is_unknown(run.state.workflow_id):
                by_workspace[self.workspaces.of(run)].append(run)
            else:
                unknown[run.state.workflow_id].append(run)
        for run in near:
            also[self.workspaces.of(run)].append(run)
        for runs in unknown.values():
            self._add_or_read(Request(WORKFLOW_BUCKET, runs), runs)
        self._read(by_workspace.pop(None, ()))
        for workspace_id, runs in sorted(by_workspace.items(), key=lambda item: min(map(attrgetter("due"), item[1]))):
            if also[workspace_id] or len(runs) > 1 or not self._read(runs):
                self._add_or_read(Request(LOGS_BUCKET, runs + also[workspace_id], workspace_id or ""), runs)

    def _read(self, runs: Iterable[PolledRun]) -> int:
        """Read runs, the longest waiting first, as far as the rate limits allow; return how many."""
        bucket = None if self.v2 is False else RUN_BUCKET
        most = self.max_reads if self.v2 is not None else min(1, self.max_reads)  # the response shows if it has lists
        # Due for the most of its own intervals first: fair to short and long ones.
        urgent = nlargest(most, runs, key=lambda run: (self.now - min(run.due, run.read_at)) / run.interval)
        read = sum(self._add(Request(bucket, [run])) for run in urgent)
        self.max_reads -= read
        return read

    def _add_or_read(self, request: Request, due: list[PolledRun]) -> None:
        """Add a request, or read runs for which it would come more than half an interval late."""
        if not self._add(request):
            wait = self.limits.room(request.bucket).delay
            ready_at = self.now + (wait if wait < inf else 0.0)  # infinite: as soon as another response arrives
            self._read(run for run in due if ready_at - run.due > run.interval / 2)

    def _add(self, request: Request) -> bool:
        """Add a request if its rate bucket has room for it; return whether it has."""
        if request.bucket not in self._available:
            self._available[request.bucket] = self.limits.room(request.bucket).available
        if self._available[request.bucket] <= 0:
            self.is_rate_limited = True
            return False
        self._available[request.bucket] -= 1
        self._requests.append(request)
        return True
