"""Which requests answer, with the fewest of them, for every run that is due; no I/O.

There are three routes to a run, each with a rate bucket of its own:

- its own resource: one request for one run;
- the log of its workspace: one request for up to a thousand runs that started between two moments, whether we watch
  them or not;
- the list of its workflow's runs of one status: one request for up to a hundred, over any time, but a run that is no
  longer in it has to be read by itself.

What a list costs depends on what else goes on in the workspace. So it is measured, by every page that comes in:
:class:`Crowd` knows how many runs started when, ``Known.others`` how many runs that we don't watch share a status.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import nsmallest
from math import ceil, inf
from operator import attrgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from airflow_provider_sim.client.dialects.v2 import (
    LISTED_STATUSES,
    LOGS_BUCKET,
    LOGS_PAGE,
    RUN_BUCKET,
    RUNS_BUCKET,
    RUNS_PAGE,
    STARTED_BY_API,
    WORKFLOW_BUCKET,
)
from airflow_provider_sim.client.models import RunStatus

MARGIN = 1.0
"""Seconds before and after a run's known start; the start that Sim tells moves by some milliseconds at first."""

YOUNG = 20.0
"""Seconds before a run is first asked for in which it is taken to have started, until it is known better."""

WORTH_SEEKING = 3
"""As many runs missed at once are looked for further back in the log, before each of them is read."""

LISTED_LONG_ENOUGH = 300.0
"""Seconds for which the measured length of a status list holds; then it is worth trying again."""


class Doubt(IntEnum):
    """Why a run is to be read by itself, the most pressing reason first."""

    ENDED = 0
    """It is no longer among those of its status."""
    LAST = 1
    """Its deadline has come, and no list shows it."""
    PAUSED = 2
    """Lists don't tell whether it waits for a person."""
    LOST = 3
    """No list shows it, and nobody knows why."""
    QUEUED = 4
    """It was still queued when last read."""


@dataclass(slots=True, eq=False, kw_only=True)
class Target:
    """One watched run, as far as it takes to find it in lists. Times of its start are the server's.

    :param interval: seconds between looks.
    :param due: when the next look is due, seconds since the epoch.
    :param since: if it isn't known to have started: not before this …
    :param until: … unless before this; None once that is out of the question.
    :param began: when it started, once known.
    :param gone_to: up to when a list has been gone through for the look that is due.
    :param status: as last seen.
    :param trigger: what started it, by which the log is filtered.
    :param read_at: when it is to be read by itself, whatever lists say.
    :param doubt: why.
    :param unlisted: lists that should show it don't.
    :param busy: a request is under way that answers for it.
    """

    workflow_id: str
    run_id: str
    interval: float
    due: float
    since: float
    until: float | None = None
    began: float | None = None
    gone_to: float = -inf
    status: RunStatus | None = None
    trigger: str = STARTED_BY_API
    read_at: float = inf
    doubt: Doubt = Doubt.LOST
    unlisted: bool = False
    busy: bool = False

    @property
    def earliest(self) -> float:
        """Before when a list needn't be asked for it."""
        return max(self.gone_to, self.since if self.began is None else self.began - MARGIN)

    @property
    def latest(self) -> float:
        """After when a list needn't be asked for it."""
        return inf if self.began is None else self.began + MARGIN

    @property
    def urgency(self) -> Doubt:
        """How pressing it is to read it, where it is to be read."""
        return self.doubt if self.read_at < inf else Doubt.LAST

    def overdue(self, now: float) -> float:
        """For how many of its intervals it has waited for a look: fair to short and long ones."""
        return (now - min(self.due, self.read_at)) / self.interval


T = TypeVar("T", bound=Target)


class Read(NamedTuple, Generic[T]):
    """Read one run."""

    target: T


class Scan(NamedTuple, Generic[T]):
    """Go through a list, page by page, skipping what holds none of the targets.

    :param targets: sorted by their earliest start.
    :param end: seconds since the epoch, on the server; None for no end.
    :param workspace_id: whose log to go through, or
    :param listed: the workflow and the status whose list to go through.
    :param into_the_past: from ``end`` backwards, as long as it finds enough.
    """

    targets: list[T]
    end: float | None = None
    workspace_id: str | None = None
    listed: tuple[str, RunStatus] | None = None
    into_the_past: bool = False

    @property
    def bucket(self) -> str:
        """What each of its pages spends."""
        return RUNS_BUCKET if self.workspace_id is None else LOGS_BUCKET


class LookUp(NamedTuple, Generic[T]):
    """Ask for a workflow's workspace."""

    workflow_id: str
    targets: list[T]


Step = Read[T] | Scan[T] | LookUp[T]


class Plan(NamedTuple, Generic[T]):
    """What to send now.

    :param waits_for: buckets that have no room for what would be right.
    """

    steps: list[Step[T]]
    waits_for: set[str]


class Rates(Protocol):
    """How many requests may be sent now, and in how many seconds otherwise."""

    def room(self, bucket: str | None) -> int:
        """See :class:`.budget.Budgets`."""

    def wait(self, bucket: str | None) -> float:
        """See :class:`.budget.Budgets`."""


class _Stretch(NamedTuple):
    start: float
    end: float
    listed: float
    others: float

    def part(self, start: float, end: float) -> _Stretch:
        share = (end - start) / (self.end - self.start)
        return _Stretch(start, end, self.listed * share, self.others * share)


class Crowd:
    """How many runs of a workspace started when, as far as the pages of its log have told."""

    _MOST_STRETCHES = 512

    def __init__(self) -> None:
        self._known: list[_Stretch] = []  # in order, none overlapping another
        self._usual = 0.0  # runs a second that nobody watches, over all that is known

    def learn(self, start: float, end: float, listed: int, others: int) -> None:
        """Take note of a page.

        :param start: seconds since the epoch, as ``end``: the time that the page shows entirely.
        :param listed: how many runs it holds.
        :param others: how many of them nobody watches.
        """
        end = max(end, start + 0.001)
        replaced = self._within(start, end)
        stretches = [_Stretch(start, end, listed, others)]
        for old in self._known[replaced]:
            if old.start < start:
                stretches.insert(0, old.part(old.start, start))
            if old.end > end:
                stretches.append(old.part(end, old.end))
        self._known[replaced] = stretches
        if len(self._known) > self._MOST_STRETCHES:
            self._coarsen()
        self._reckon()

    def between(self, start: float, end: float) -> float:
        """How many runs a list from ``start`` to ``end`` would hold; where that isn't known, as many as elsewhere."""
        if end <= start:
            return 0.0
        stretches = self._known[self._within(start, end)]
        shared = [stretch.part(max(start, stretch.start), min(end, stretch.end)) for stretch in stretches]
        unknown = end - start - sum(stretch.end - stretch.start for stretch in shared)
        return sum(stretch.listed for stretch in shared) + max(0.0, unknown) * self._usual

    def _within(self, start: float, end: float) -> slice:
        first = bisect_right(self._known, start, key=attrgetter("end"))
        return slice(first, max(first, bisect_left(self._known, end, key=attrgetter("start"))))

    def _reckon(self) -> None:
        time = sum(stretch.end - stretch.start for stretch in self._known)
        self._usual = sum(stretch.others for stretch in self._known) / time if time else 0.0

    def _coarsen(self) -> None:
        """Put stretches that touch together, two by two, in the older half."""
        half = len(self._known) // 2
        coarse: list[_Stretch] = []
        for number, stretch in enumerate(self._known[:half]):
            if number % 2 and coarse[-1].end == stretch.start:
                last = coarse.pop()
                coarse.append(
                    _Stretch(last.start, stretch.end, last.listed + stretch.listed, last.others + stretch.others)
                )
            else:
                coarse.append(stretch)
        self._known[:half] = coarse


@dataclass(slots=True)
class Known:
    """What the watcher has found out about a server, for one key.

    :ivar speaks_v2: None before the first answer.
    :ivar workspaces: by workflow.
    :ivar assumed: workflows whose workspace is not the server's word but that of a connection.
    :ivar closed: workspaces and workflows whose lists are no use at present, and until when, by our clock.
    :ivar crowds: by workspace.
    :ivar others: by workflow and status: how many runs that nobody watches are listed, and when that was measured.
    """

    speaks_v2: bool | None = None
    workspaces: dict[str, str] = field(default_factory=dict)
    assumed: set[str] = field(default_factory=set)
    closed: dict[str, float] = field(default_factory=dict)
    crowds: defaultdict[str, Crowd] = field(default_factory=lambda: defaultdict(Crowd))
    others: dict[tuple[str, RunStatus], tuple[int, float]] = field(default_factory=dict)

    def assume(self, workflow_id: str, workspace_id: str | None) -> None:
        """Take a connection's word for a workflow's workspace, where nothing better is known."""
        if workspace_id is not None and workflow_id not in self.workspaces and workflow_id not in self.closed:
            self.workspaces[workflow_id] = workspace_id
            self.assumed.add(workflow_id)

    def distrust(self, workflow_id: str) -> bool:
        """Something is wrong with a workflow's workspace; return whether it was a connection's word, to be checked."""
        if workflow_id not in self.assumed:
            return False
        self.assumed.remove(workflow_id)
        del self.workspaces[workflow_id]
        return True

    def workspace_of(self, target: Target) -> str | None:
        """The workspace in whose log a run is to be found."""
        workspace_id = None if target.unlisted else self.workspaces.get(target.workflow_id)
        return None if workspace_id in self.closed else workspace_id

    def needs_look_up(self, target: Target) -> bool:
        """Whether a run could be found in a log if its workspace were known."""
        known = target.workflow_id in self.workspaces or target.workflow_id in self.closed
        return not known and not target.unlisted


class _Window(NamedTuple, Generic[T]):
    """Targets that one stretch of a workspace's log holds.

    :param pages: how many requests that takes, as far as known.
    :param due: how many of them are due; the others only come along.
    """

    workspace_id: str
    targets: list[T]
    pages: int
    due: list[T]

    @property
    def cost(self) -> int:
        """Requests, by the cheaper of the log and the runs themselves."""
        return min(self.pages, len(self.targets))

    @property
    def goes_by_reads(self) -> bool:
        """Whether the runs themselves are the cheaper way; for a single run they also tell more.

        Those that only come along count: otherwise their turn to be read comes next.
        """
        return len(self.targets) == 1 or len(self.targets) < self.pages


def plan(
    due: Sequence[T],
    near: Sequence[T],
    wanted: Sequence[T],
    known: Known,
    rates: Rates,
    *,
    now: float,
    server_now: float,
    most_reads: int,
) -> Plan[T]:
    """Choose what to send.

    :param due: runs to be looked at.
    :param near: runs that will be due soon, and may come along where that costs nothing.
    :param wanted: runs to be read by themselves.
    :param now: seconds since the epoch; ``server_now`` is the same moment by the server's clock.
    :param most_reads: how many single runs may be read at once.
    """
    if known.speaks_v2 is None:
        most_reads = min(1, most_reads)  # the first answer settles whether there are lists at all
    planner: _Planner[T] = _Planner(known, rates, now, server_now, most_reads)
    if known.speaks_v2 is not True:
        planner.read(list(dict.fromkeys([*wanted, *due])))
        return planner.plan
    planner.read(planner.seek(wanted))
    planner.answer_for([target for target in due if target not in planner.served], near)
    return planner.plan


class _Planner(Generic[T]):
    """One plan in the making.

    :ivar served: targets that a step answers for.
    """

    def __init__(self, known: Known, rates: Rates, now: float, server_now: float, most_reads: int) -> None:
        self.plan: Plan[T] = Plan([], set())
        self.served: set[T] = set()
        self._known = known
        self._rates = rates
        self._now = now
        self._server_now = server_now
        self._most_reads = most_reads
        self._room: dict[str | None, int] = {}

    def read(self, targets: list[T]) -> None:
        """Read runs one by one, the most pressing first, as far as there is room."""
        bucket = RUN_BUCKET if self._known.speaks_v2 is not False else None
        for target in nsmallest(
            self._most_reads, targets, key=lambda target: (target.urgency, -target.overdue(self._now))
        ):
            if not self._take(bucket):
                break
            self._most_reads -= 1
            self.plan.steps.append(Read(target))
            self.served.add(target)

    def seek(self, wanted: Sequence[T]) -> list[T]:
        """Look further back in the log for runs that may have started long ago, where several are missed at once.

        That is so when a triggerer is started anew: a page may find hundreds of them.

        :returns: the runs to be read one by one.
        """
        rest: list[T] = []
        lost: defaultdict[str, list[T]] = defaultdict(list)
        for target in wanted:
            workspace_id = self._known.workspace_of(target)
            if target.doubt is Doubt.LOST and target.until is not None and workspace_id is not None:
                lost[workspace_id].append(target)
            else:
                rest.append(target)
        for workspace_id, targets in lost.items():
            if len(targets) < WORTH_SEEKING or not self._take(LOGS_BUCKET):
                rest += targets
                continue
            end = max(target.until or 0.0 for target in targets)
            self.plan.steps.append(Scan(targets, end=end, workspace_id=workspace_id, into_the_past=True))
            self.served.update(targets)
        return rest

    def answer_for(self, due: list[T], near: Sequence[T]) -> None:
        """Answer for all runs that are due."""
        near = [target for target in near if target not in self.served]
        if len(due) + len(near) > 1:
            self._look_up([target for target in due if self._known.needs_look_up(target)])
        due = [target for target in due if target not in self.served]
        homeless = [target for target in due if self._known.workspace_of(target) is None]
        windows = self._windows(due, near)
        listed = self._worth_listing(windows)
        self._list([*homeless, *(target for window in windows[:listed] for target in window.targets)], set(due))
        for window in sorted(windows[listed:], key=self._waited_for, reverse=True):
            self._go_through(window)

    def _look_up(self, targets: list[T]) -> None:
        workflows: defaultdict[str, list[T]] = defaultdict(list)
        for target in targets:
            workflows[target.workflow_id].append(target)
        for workflow_id, concerned in workflows.items():
            if self._take(WORKFLOW_BUCKET):
                self.plan.steps.append(LookUp(workflow_id, concerned))
            elif not self._is_open(WORKFLOW_BUCKET, _patience(concerned)):
                continue
            self.served.update(concerned)  # if only by waiting for their turn

    def _windows(self, due: list[T], near: Sequence[T]) -> list[_Window[T]]:
        """Part the runs into stretches of the log, the oldest first: between two of them lies at least a page."""
        spaces: defaultdict[str, list[T]] = defaultdict(list)
        needed = set(due)
        for target in (*due, *near):
            workspace_id = self._known.workspace_of(target)
            if workspace_id is not None:
                spaces[workspace_id].append(target)
        windows = []
        for workspace_id, targets in spaces.items():
            targets.sort(key=attrgetter("earliest"))
            crowd = self._known.crowds[workspace_id]
            for members, end in _parted(targets, crowd):
                concerned = [target for target in members if target in needed]
                if concerned:
                    listed = crowd.between(members[0].earliest, min(end, self._server_now))
                    windows.append(
                        _Window(workspace_id, members, _pages(max(listed, len(members)), LOGS_PAGE), concerned)
                    )
        windows.sort(key=lambda window: window.targets[0].earliest)
        return windows

    def _worth_listing(self, windows: list[_Window[T]]) -> int:
        """How many of the oldest windows cost less by lists of their runs' statuses.

        A status list takes no notice of how long ago a run started, or of what has ended since; but each run that has
        left it costs a read, and the shorter it has gone on, the sooner that is to be expected.
        """
        if not windows or not self._is_open(RUNS_BUCKET, min(_patience(window.due) for window in windows)):
            return 0
        best, least = 0, float(sum(window.cost for window in windows))
        total = least
        lists: Counter[tuple[str, RunStatus]] = Counter()
        reads, runs = 0.0, 0
        for number, window in enumerate(windows, 1):
            total -= window.cost
            runs += len(window.targets)
            if total + runs / RUNS_PAGE >= least:
                break
            for target in window.targets:
                if target.status in LISTED_STATUSES and target.status is not None:
                    lists[target.workflow_id, target.status] += 1
                    reads += target.interval / (target.interval + max(0.0, self._server_now - target.earliest))
                else:
                    reads += 1
            cost = total + reads + sum(self._pages_of(pair, count) for pair, count in lists.items())
            if cost < least:
                best, least = number, cost
        return best

    def _list(self, targets: list[T], due: set[T]) -> None:
        """Answer by lists of one workflow and one status, where they hold more than one run; else by reads."""
        lists: defaultdict[tuple[str, RunStatus], list[T]] = defaultdict(list)
        alone: list[T] = []
        for target in targets:
            if target.status in LISTED_STATUSES and target.status is not None and not target.unlisted:
                lists[target.workflow_id, target.status].append(target)
            else:
                alone.append(target)
        for pair, members in lists.items():
            if due.isdisjoint(members):
                continue
            if self._pages_of(pair, len(members)) >= len(members) or not self._take(RUNS_BUCKET):
                alone += members
            else:
                members.sort(key=attrgetter("earliest"))
                self._scan(members, listed=pair)
        self.read([target for target in alone if target in due])

    def _go_through(self, window: _Window[T]) -> None:
        patience = _patience(window.due)
        by_reads = window.goes_by_reads
        if by_reads and not self._is_open(RUN_BUCKET, patience):
            by_reads = False
        elif not by_reads and not self._is_open(LOGS_BUCKET, patience):
            by_reads = True
        if by_reads:
            self.read(window.due)
        elif self._take(LOGS_BUCKET):
            self._scan(window.targets, workspace_id=window.workspace_id)

    def _scan(self, targets: list[T], **source: Any) -> None:
        end = max(target.latest for target in targets)
        self.plan.steps.append(Scan(targets, end=end if end < inf else None, **source))
        self.served.update(targets)

    def _waited_for(self, window: _Window[T]) -> float:
        return max(target.overdue(self._now) for target in window.due)

    def _pages_of(self, pair: tuple[str, RunStatus], count: int) -> int:
        others, measured = self._known.others.get(pair, (0, -inf))
        return _pages(count + (others if self._now - measured < LISTED_LONG_ENOUGH else 0), RUNS_PAGE)

    def _is_open(self, bucket: str | None, patience: float) -> bool:
        """Whether a bucket has room, or will have in half the time: once an answer that is under way has come in."""
        return self._left(bucket) > 0 or not patience / 2 < self._rates.wait(bucket) < inf

    def _take(self, bucket: str | None) -> bool:
        """Count a request, if there is room for it now."""
        if self._left(bucket) <= 0:
            self.plan.waits_for.update([bucket] if bucket else [])
            return False
        self._room[bucket] -= 1
        return True

    def _left(self, bucket: str | None) -> int:
        if bucket not in self._room:
            self._room[bucket] = self._rates.room(bucket)
        return self._room[bucket]


def _patience(targets: Iterable[Target]) -> float:
    return min(target.interval for target in targets)


def _pages(listed: float, page: int) -> int:
    return max(1, ceil(listed / page))


def _parted(targets: list[T], crowd: Crowd) -> Iterable[tuple[list[T], float]]:
    """Part sorted targets where what lies between them would fill a page, and so cost a request by itself."""
    members: list[T] = []
    end = -inf
    for target in targets:
        if members and target.earliest > end and crowd.between(end, target.earliest) >= LOGS_PAGE:
            yield members, end
            members, end = [], -inf
        members.append(target)
        end = max(end, target.latest)
    if members:
        yield members, end
