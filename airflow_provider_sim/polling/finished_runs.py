"""Stream of finished runs for event triggers, shared by the triggers of one connection.

New runs are found by listing the log of each workspace from where the last poll ended. Runs that are seen before their
end are waited for by the process's :class:`~.poller.RunPoller`, as any other run is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any

from airflow_provider_sim.client import (
    LISTED_STATUSES,
    LOGS_BUCKET,
    LOGS_PAGE,
    NO_RETRY,
    RUNS_BUCKET,
    RUNS_PAGE,
    WORKFLOW_BUCKET,
    AsyncSimClient,
    ClientSettings,
    Page,
    WorkflowRun,
    named_workflows,
)
from airflow_provider_sim.exceptions import SimError, SimRunNotFoundError
from airflow_provider_sim.metrics import Metric
from airflow_provider_sim.polling.poll_state import RunPollState
from airflow_provider_sim.polling.poller import RunPoller, poller_for

log = logging.getLogger(__name__)

# Returns the connection's settings and workspace, which may change between polls.
Connect = Callable[[], Awaitable[tuple[ClientSettings, str | None]]]

# Airflow queues a DAG once per asset and forgets the entry when it creates the DAG run; an event that is stored in
# between waits in Airflow for the next one. The gap is longer than the scheduler needs to create the DAG run.
EVENT_GAP = 15.0  # minimum seconds between two events of a trigger
EVENT_DELAY = 1.0  # seconds from the first finished run to its event, so that runs that finish together share one
MAX_RUNS_PER_EVENT = 500  # about 150 KB; further runs wait for the next event
OVERLAP = 60.0  # seconds by which polls overlap: a run may appear in Sim's log some time after its start
_LONG = 86_400.0  # seconds for which a delivered run without a start is remembered
_MARGIN = 5.0  # seconds by which a run's start may move in its first moments


@dataclass(slots=True)
class Cursor:
    """Which finished runs of a workflow were delivered to a trigger, and which runs are known but not delivered.

    Sim lists runs in the order of their starts, not of their ends, so that a single timestamp is not enough.
    """

    since: float  # seconds since the epoch; each run that started earlier is either open or needs no delivery
    # By run ID: None for an open run, the start of a delivered one while a poll may list it again.
    known: dict[str, float | None] = field(default_factory=dict)

    @property
    def open(self) -> list[str]:
        """IDs of known runs that have not been delivered."""
        return [run_id for run_id, delivered in self.known.items() if delivered is None]

    def is_open(self, run: WorkflowRun) -> bool:
        """Whether a run is known and has not been delivered."""
        return self.known.get(run.run_id or "", 0.0) is None

    def saw(self, run: WorkflowRun) -> None:
        """Record a run that was listed, perhaps for another trigger whose cursor is older."""
        if run.start_time is None or run.start_time >= self.since:
            self.known.setdefault(run.run_id or "", None)

    def deliver(self, run: WorkflowRun) -> None:
        """Record that a run was delivered, or needs no delivery."""
        self.known[run.run_id or ""] = self.since + _LONG if run.start_time is None else run.start_time

    def advance(self, since: float) -> None:
        """Record that all runs that started before a moment are known."""
        self.since = max(self.since, since)
        keep = self.since - _MARGIN
        self.known = {run_id: start for run_id, start in self.known.items() if start is None or start >= keep}


def cursors_of(stored: Any) -> dict[str, Cursor]:
    """Return stored cursors by workflow ID; none if the value isn't valid."""
    try:
        return {name: Cursor(float(cursor["since"]), dict(cursor["known"])) for name, cursor in stored.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


@dataclass(eq=False, kw_only=True)
class Listener:
    """A trigger's part of the stream."""

    poll_interval: float  # maximum seconds between polls
    workflow_ids: frozenset[str]
    wants: Callable[[WorkflowRun], bool]  # whether a finished run is to be delivered
    cursors: dict[str, Cursor]  # by workflow; without one, a workflow starts with the runs that have not finished
    save: Callable[[dict[str, Cursor]], Awaitable[None]]  # stores the cursors
    finished: dict[str, WorkflowRun] = field(default_factory=dict, init=False)  # until their event is stored
    ready_at: float = field(default=inf, init=False)  # monotonic time of the next event; infinite until one is stored

    def saw(self, run: WorkflowRun) -> None:
        if cursor := self.cursors.get(run.workflow_id or ""):
            cursor.saw(run)
            self.saw_end(run.workflow_id or "", run)

    def saw_end(self, workflow_id: str, run: WorkflowRun) -> None:
        """Queue a run for delivery if it has finished."""
        cursor = self.cursors.get(workflow_id)
        if cursor is None or not cursor.is_open(run) or not run.status.is_terminal:
            return
        if self.wants(run):
            if not self.finished:
                self.ready_at = max(self.ready_at, time.monotonic() + EVENT_DELAY)
            self.finished[run.run_id or ""] = run
        else:
            cursor.deliver(run)

    def take(self) -> list[WorkflowRun]:
        """Return the runs of the next event, if there is to be one now."""
        if not self.finished or time.monotonic() < self.ready_at:
            return []
        self.ready_at = inf
        return list(islice(self.finished.values(), MAX_RUNS_PER_EVENT))

    def confirm(self, runs: Iterable[WorkflowRun]) -> None:
        """Record that the event of these runs is stored."""
        for run in runs:
            self.finished.pop(run.run_id or "", None)
            for cursor in self.cursors.values():
                if cursor.is_open(run):
                    cursor.deliver(run)
        self.pause()

    def pause(self) -> None:
        """Allow the next event after the gap, since one may just have been stored."""
        self.ready_at = time.monotonic() + EVENT_GAP


Batch = dict[Listener, list[WorkflowRun]]  # the runs of one event for each trigger that has some


class FinishedRunStream:
    """Delivers finished runs to listeners, in batches."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._listeners: dict[Listener, None] = {}
        self._followed: dict[str, asyncio.Task[None]] = {}  # by run ID
        self._workspaces: dict[str, str | None] = {}  # by workflow ID
        self._errors: dict[str, Exception] = {}  # of the current poll, by what could not be polled
        self._news = asyncio.Event()
        self._poll_at, self._interval = -inf, inf  # the shortest interval of the listeners

    def join(self, listener: Listener) -> None:
        """Add a listener, and poll at once."""
        listener.pause()
        self._listeners[listener] = None
        self._poll_at = -inf
        self._news.set()

    def leave(self, listener: Listener) -> None:
        self._listeners.pop(listener, None)
        self._news.set()

    async def confirm(self, batch: Batch) -> None:
        """Record that the events of a batch are stored, for the listeners that have not left."""
        for listener, runs in batch.items():
            if listener in self._listeners:
                listener.confirm(runs)
        await self._save(batch)
        self._news.set()

    async def _save(self, listeners: Iterable[Listener]) -> None:
        for listener in [listener for listener in listeners if listener in self._listeners]:
            try:
                await listener.save(listener.cursors)
            except Exception as error:  # whatever Airflow's supervisor or API raise; the next poll saves again
                log.warning("Could not store which runs were delivered: %s", error)

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield batches until cancelled, a listener's next after it has confirmed the last; log and retry errors."""
        for listener in self._listeners:
            listener.pause()
        self._poll_at = -inf
        try:
            while True:
                if self._listeners and time.monotonic() >= self._poll_at:
                    await self._poll()
                if batch := {listener: runs for listener in self._listeners if (runs := listener.take())}:
                    yield batch
                await self._rest()
        finally:
            followed, self._followed = self._followed, {}
            for task in followed.values():
                task.cancel()
            await asyncio.gather(*followed.values(), return_exceptions=True)

    async def _rest(self) -> None:
        """Sleep until the next poll or event, or until there is news."""
        next_event = min((listener.ready_at for listener in self._listeners if listener.finished), default=inf)
        wakes_at = min(self._poll_at, next_event) if self._listeners else inf
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(0.0, wakes_at - time.monotonic()), 60.0)):
                await self._news.wait()
        self._news.clear()

    async def _poll(self) -> None:
        """Find the runs that have started since the last poll, and wait for those that have not finished."""
        before, self._errors = self._errors, {}
        self._poll_at, self._interval = inf, min(listener.poll_interval for listener in self._listeners)
        try:
            settings, of_connection = await self._connect()
            poller = poller_for(settings)
            workspaces: defaultdict[str | None, set[str]] = defaultdict(set)
            for workflow_id in sorted({name for listener in self._listeners for name in listener.workflow_ids}):
                workspaces[of_connection or await self._workspace_of(poller, workflow_id)].add(workflow_id)
            for workspace_id, workflow_ids in workspaces.items():
                if workspace_id is not None:
                    await self._poll_workspace(poller, workspace_id, workflow_ids)
                self._follow(poller, workspace_id, workflow_ids)
            await self._save(self._listeners)
        except Exception as error:
            self._errors["the connection"] = error
        for what, problem in self._errors.items():
            if type(before.get(what)) is not type(problem):
                trace = None if isinstance(problem, SimError) else problem
                log.warning("Runs of %s are not delivered until this is resolved: %s", what, problem, exc_info=trace)
        self._poll_at = min(self._poll_at, time.monotonic() + self._interval)  # at once if a listener has joined

    async def _workspace_of(self, poller: RunPoller, workflow_id: str) -> str | None:
        if workflow_id not in self._workspaces:
            Metric.POLL_REQUESTS.incr(kind="workspace")
            try:
                workflow = await poller.ask(
                    WORKFLOW_BUCKET, lambda client: client.with_retry(NO_RETRY).get_workflow(workflow_id)
                )
                self._workspaces[workflow_id] = workflow.workspace_id
            except SimError as error:
                self._errors[f"workflow {workflow_id!r}"] = error
        return self._workspaces.get(workflow_id)

    async def _poll_workspace(self, poller: RunPoller, workspace_id: str, workflow_ids: set[str]) -> None:
        polled_at = poller.server_now() - OVERLAP
        listeners = list(self._listeners)
        for listener in listeners:
            for workflow_id in sorted((listener.workflow_ids & workflow_ids) - listener.cursors.keys()):
                try:
                    listener.cursors[workflow_id] = await _first_cursor(poller, workspace_id, workflow_id, polled_at)
                except SimError as error:
                    self._errors[f"workflow {workflow_id!r}"] = error
        cursors = [listener.cursors[name] for listener in listeners for name in listener.cursors.keys() & workflow_ids]
        if not cursors:
            return
        try:
            async for run in _logged(poller, workspace_id, workflow_ids, min(cursor.since for cursor in cursors)):
                for listener in listeners if run.workflow_id in workflow_ids else ():
                    listener.saw(run)
        except SimError as error:
            self._errors[f"workspace {workspace_id!r}"] = error
        else:
            for cursor in cursors:
                cursor.advance(polled_at)

    def _follow(self, poller: RunPoller, workspace_id: str | None, workflow_ids: set[str]) -> None:
        for listener in self._listeners:
            for workflow_id in listener.cursors.keys() & workflow_ids:
                known = set(listener.cursors[workflow_id].open)
                for run_id in known - listener.finished.keys() - self._followed.keys():
                    self._followed[run_id] = asyncio.create_task(self._await(poller, workflow_id, run_id, workspace_id))

    async def _await(self, poller: RunPoller, workflow_id: str, run_id: str, workspace_id: str | None) -> None:
        try:
            state = RunPollState(workflow_id, run_id, poll_interval=self._interval)
            run = await poller.wait(state, look_soon=True, workspace_id=workspace_id)
            for listener in self._listeners:
                listener.saw_end(workflow_id, run)
        except SimRunNotFoundError as error:
            log.warning("%s Its end is not delivered.", error)
            for listener in self._listeners:
                if cursor := listener.cursors.get(workflow_id):
                    cursor.known.pop(run_id, None)
        except SimError as error:
            log.warning("%s The next poll continues with it.", error)
        finally:
            self._followed.pop(run_id, None)
            self._news.set()


async def _first_cursor(poller: RunPoller, workspace_id: str, workflow_id: str, since: float) -> Cursor:
    """Return the first cursor of a workflow: runs that have finished already are not delivered."""
    cursor = Cursor(since)
    async for run in _logged(poller, workspace_id, [workflow_id], since):
        cursor.saw(run)
        if run.status.is_terminal:
            cursor.deliver(run)
    for status in sorted(LISTED_STATUSES):
        filters = {"status": status.value, "limit": RUNS_PAGE}
        async for run in _runs_of(poller, RUNS_BUCKET, AsyncSimClient.list_workflow_runs, workflow_id, **filters):
            cursor.known[run.run_id or ""] = None
    return cursor


def _logged(
    poller: RunPoller, workspace_id: str, workflow_ids: Iterable[str], since: float
) -> AsyncIterator[WorkflowRun]:
    """Yield the runs that have started since a moment, in that order."""
    filters: dict[str, Any] = {"workflow_ids": named_workflows(workflow_ids), "start_date": since, "order": "asc"}
    return _runs_of(poller, LOGS_BUCKET, AsyncSimClient.list_logs, workspace_id, limit=LOGS_PAGE, **filters)


async def _runs_of(
    poller: RunPoller, bucket: str, method: Callable[..., Awaitable[Page[WorkflowRun]]], subject: str, **filters: Any
) -> AsyncIterator[WorkflowRun]:
    while True:
        Metric.POLL_REQUESTS.incr(kind="list")
        page = await poller.ask(bucket, lambda client: method(client.with_retry(NO_RETRY), subject, **filters))
        for run in page.items:
            yield run
        if page.next_cursor is None:
            return
        filters["cursor"] = page.next_cursor
