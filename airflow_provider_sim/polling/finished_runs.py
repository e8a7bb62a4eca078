"""Stream of finished runs for event triggers, shared by the triggers of one server and API key.

New runs are found by listing the log of each workspace from where the last poll ended. Runs that are seen before their
end are waited for by the process's :class:`~.poller.RunPoller`, as any other run is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import inf
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from airflow_provider_sim.client import (
    LISTED_STATUSES,
    LOGS_BUCKET,
    LOGS_PAGE,
    NO_RETRY,
    RUNS_BUCKET,
    RUNS_PAGE,
    WORKFLOW_BUCKET,
    RunStatus,
    WorkflowRun,
    named_workflows,
)
from airflow_provider_sim.exceptions import SimError, SimNotFoundError, SimRunNotFoundError
from airflow_provider_sim.polling.cursor import OVERLAP, Cursor
from airflow_provider_sim.polling.poll_state import RunPollState
from airflow_provider_sim.polling.poller import RunPoller, poller_for

if TYPE_CHECKING:
    from airflow_provider_sim.client import AsyncSimClient, ClientSettings, Page

log = logging.getLogger(__name__)

Connect = Callable[[], Awaitable["tuple[ClientSettings, str | None]"]]

EVENT_GAP = 15.0
"""Minimum seconds between two events of a trigger. Airflow queues a DAG once per asset and forgets the entry when it
creates the DAG run; an event that is stored in between waits in Airflow for the next one. The gap is longer than the
scheduler needs to create the DAG run."""

EVENT_DELAY = 1.0
"""Seconds from the first finished run to its event, so that runs that finish together share one."""

MAX_RUNS_PER_EVENT = 500
"""A limit for the size of an event, about 150 KB; further runs wait for the next event."""

LONGEST_PAUSE = 600.0
"""Maximum seconds between polls that fail."""


@dataclass(eq=False, kw_only=True)
class Listener:
    """A trigger's part of the stream.

    :param connection: the connection ID.
    :param connect: returns the connection's settings and workspace; called at each poll.
    :param poll_interval: maximum seconds between polls.
    :param workflow_ids: the workflows.
    :param wants: whether a finished run is to be delivered.
    :param cursors: by workflow ID. A workflow without a cursor starts with the runs that have not finished.
    :param save: stores the cursors.
    :ivar finished: runs to deliver, by run ID; kept until their event is stored.
    :ivar ready_at: monotonic time of the next event; infinite while an event has not been stored.
    """

    connection: str
    connect: Connect
    poll_interval: float
    workflow_ids: frozenset[str]
    wants: Callable[[WorkflowRun], bool]
    cursors: dict[str, Cursor]
    save: Callable[[dict[str, Cursor]], Awaitable[None]]
    finished: dict[str, WorkflowRun] = field(default_factory=dict, init=False)
    ready_at: float = field(default=inf, init=False)
    changed: bool = field(default=False, init=False)

    def saw(self, run: WorkflowRun) -> None:
        """Record a run that was listed, if it is one of this trigger's workflows."""
        cursor = self.cursors.get(run.workflow_id or "")
        if cursor is not None:
            cursor.saw(run)
            self.saw_end(run.workflow_id or "", run)

    def saw_end(self, workflow_id: str, run: WorkflowRun) -> None:
        """Queue a run for delivery if it has finished."""
        cursor, run_id = self.cursors.get(workflow_id), run.run_id or ""
        if cursor is None or run_id not in cursor.open or not run.status.is_terminal:
            return
        if not self.wants(run):
            cursor.deliver(run)
            return
        if not self.finished:
            self.ready_at = max(self.ready_at, time.monotonic() + EVENT_DELAY)
        self.finished[run_id] = run

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
                if run.run_id in cursor.open:
                    cursor.deliver(run)
        self.pause()
        self.changed = True

    def pause(self) -> None:
        """Allow the next event after the gap, since one may just have been stored."""
        self.ready_at = time.monotonic() + EVENT_GAP


Batch = dict[Listener, list[WorkflowRun]]
"""The finished runs of one event for each trigger that has some."""


class FinishedRunStream:
    """Delivers finished runs to listeners, in batches."""

    def __init__(self) -> None:
        self._listeners: dict[Listener, None] = {}
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._workspaces: dict[str, str | None] = {}
        self._skipped: dict[str, type[Exception]] = {}
        self._news = asyncio.Event()
        self._poll_at = -inf

    # --- listeners -----------------------------------------------------------------------------------------------

    def join(self, listener: Listener) -> None:
        """Add a listener, and poll at once."""
        listener.pause()
        self._listeners[listener] = None
        self._poll_at = -inf
        self._news.set()

    def leave(self, listener: Listener) -> None:
        """Remove a listener."""
        self._listeners.pop(listener, None)
        self._news.set()

    @property
    def _poll_interval(self) -> float:
        """The shortest poll interval of all listeners."""
        return min((listener.poll_interval for listener in self._listeners), default=LONGEST_PAUSE)

    async def confirm(self, batch: Batch) -> None:
        """Record that the events of a batch are stored, for those listeners that are still there."""
        for listener, runs in batch.items():
            if listener in self._listeners:
                listener.confirm(runs)
        await self._save()
        self._news.set()

    async def _save(self) -> None:
        for listener in list(self._listeners):
            if listener.changed:
                listener.changed = False
                try:
                    await listener.save(listener.cursors)
                except Exception as error:  # whatever Airflow's supervisor or API raise
                    listener.changed = True
                    log.warning("Could not store which runs were delivered: %s", error)

    # --- the stream ----------------------------------------------------------------------------------------------

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield batches of finished runs until cancelled; errors of Sim are logged and retried.

        A listener gets no other batch before :meth:`confirm` was called with the last one.
        """
        for listener in self._listeners:
            listener.pause()
        self._poll_at, failures = -inf, 0
        try:
            while True:
                if self._listeners and time.monotonic() >= self._poll_at:
                    failures = await self._poll_with_backoff(failures)
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
        due = min((listener.ready_at for listener in self._listeners if listener.finished), default=inf)
        seconds = max(0.0, min(self._poll_at, due) - time.monotonic()) if self._listeners else 60.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, 60.0)):  # wait_for may swallow a cancellation (Python 3.11)
                await self._news.wait()
        self._news.clear()

    async def _poll_with_backoff(self, failures: int) -> int:
        """Poll once; return how many polls in a row have failed."""
        self._poll_at = inf
        pause = self._poll_interval
        try:
            await self._poll()
            failures = 0
        except Exception as error:
            failures += 1
            pause = min(max(pause, 1.0) * 2 ** min(failures, 10), LONGEST_PAUSE)
            if isinstance(error, SimError):
                pause = max(self._poll_interval, error.retry_after or pause)
                log.warning(
                    "%s Polling for finished runs again in %.0f s (failures in a row: %d).", error, pause, failures
                )
            else:
                log.exception("Polling for finished runs again in %.0f s (failures in a row: %d).", pause, failures)
        if self._poll_at == inf:  # no listener has joined meanwhile
            self._poll_at = time.monotonic() + pause
        return failures

    # --- polling -------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Find the runs that have started since the last poll, and wait for those that have not finished.

        An error that concerns one connection, workspace or workflow does not affect the others.

        :raises Exception: nothing could be polled.
        """
        errors: dict[str, Exception] = {}
        polled = False
        for poller, listeners in (await self._by_account(errors)).items():
            for workspace_id, workflow_ids in (await self._by_workspace(poller, listeners, errors)).items():
                try:
                    await self._poll_workspace(poller, workspace_id, workflow_ids, listeners, errors)
                    polled = True
                except SimError as error:
                    errors[f"workspace {workspace_id!r}"] = error
            for listener, of_connection in listeners.items():
                self._follow(poller, listener, of_connection)
        await self._save()
        serious = [error for error in errors.values() if not isinstance(error, SimNotFoundError)]
        if serious and not polled:
            raise serious[0]
        for what, problem in errors.items():
            if self._skipped.get(what) is not type(problem):
                log.warning("Runs of %s are not delivered until this is resolved: %s", what, problem)
        self._skipped = {what: type(problem) for what, problem in errors.items()}

    async def _by_account(self, errors: dict[str, Exception]) -> dict[RunPoller, dict[Listener, str | None]]:
        """Return the listeners by server and API key, with the workspaces of their connections.

        That is one account, unless a connection was changed after its listener had joined. Of connections that differ
        in other settings, such as timeouts, the first one's settings apply.
        """
        connected: dict[str, tuple[ClientSettings, str | None]] = {}
        pollers: dict[str, RunPoller] = {}
        accounts: dict[RunPoller, dict[Listener, str | None]] = {}
        for listener in list(self._listeners):
            what = f"connection {listener.connection!r}"
            if what in errors:
                continue
            try:
                if listener.connection not in connected:
                    connected[listener.connection] = await listener.connect()
                settings, workspace_id = connected[listener.connection]
                if settings.account not in pollers:
                    pollers[settings.account] = poller_for(settings)
                accounts.setdefault(pollers[settings.account], {})[listener] = workspace_id
            except Exception as error:  # Airflow's, too: the connection may be gone
                errors[what] = error
        return accounts

    async def _by_workspace(
        self, poller: RunPoller, listeners: Mapping[Listener, str | None], errors: dict[str, Exception]
    ) -> dict[str, set[str]]:
        """Return the listeners' workflows by workspace."""
        workspaces: dict[str, set[str]] = {}
        for listener, of_connection in listeners.items():
            for workflow_id in sorted(listener.workflow_ids):
                what = f"workflow {workflow_id!r}"
                try:
                    workspace_id = of_connection
                    if workspace_id is None and what not in errors:
                        workspace_id = await self._workspace_of(poller, workflow_id)
                    if workspace_id is not None:
                        workspaces.setdefault(workspace_id, set()).add(workflow_id)
                except SimError as error:
                    errors[what] = error
        return workspaces

    async def _workspace_of(self, poller: RunPoller, workflow_id: str) -> str | None:
        if workflow_id not in self._workspaces:
            workflow = await poller.ask(
                WORKFLOW_BUCKET, lambda client: client.get_workflow(workflow_id, retry=NO_RETRY)
            )
            self._workspaces[workflow_id] = workflow.workspace_id
        return self._workspaces[workflow_id]

    async def _poll_workspace(
        self,
        poller: RunPoller,
        workspace_id: str,
        workflow_ids: set[str],
        listeners: Iterable[Listener],
        errors: dict[str, Exception],
    ) -> None:
        """Poll some workflows of one workspace.

        :raises SimError: the workspace could not be listed.
        """
        polled_at = poller.server_now() - OVERLAP
        for listener in listeners:
            if new := (listener.workflow_ids & workflow_ids) - listener.cursors.keys():
                listener.cursors |= await self._begin(poller, workspace_id, new, polled_at, errors)
        cursors = [
            cursor
            for listener in listeners
            for workflow_id, cursor in listener.cursors.items()
            if workflow_id in workflow_ids
        ]
        if not cursors:
            return
        async for run in _logged(poller, workspace_id, workflow_ids, min(cursor.since for cursor in cursors)):
            for listener in listeners if run.workflow_id in workflow_ids else ():
                listener.saw(run)
        for cursor in cursors:
            cursor.advance(polled_at)
        for listener in listeners:
            listener.changed = True

    async def _begin(
        self,
        poller: RunPoller,
        workspace_id: str,
        workflow_ids: frozenset[str],
        since: float,
        errors: dict[str, Exception],
    ) -> dict[str, Cursor]:
        """Return the first cursors of workflows: runs that have finished already are not delivered."""
        cursors = {workflow_id: Cursor(since) for workflow_id in workflow_ids}
        async for run in _logged(poller, workspace_id, workflow_ids, since):
            if cursor := cursors.get(run.workflow_id or ""):
                cursor.saw(run)
                if run.status.is_terminal:
                    cursor.deliver(run)
        for workflow_id in sorted(workflow_ids):
            try:
                for status in sorted(LISTED_STATUSES):
                    async for run in _runs_of(poller, workflow_id, status):
                        cursors[workflow_id].open.add(run.run_id or "")
            except SimError as error:
                errors[f"workflow {workflow_id!r}"] = error
                del cursors[workflow_id]
        return cursors

    def _follow(self, poller: RunPoller, listener: Listener, workspace_id: str | None) -> None:
        """Wait for a listener's known runs that have not finished."""
        for workflow_id, cursor in listener.cursors.items():
            place = workspace_id or self._workspaces.get(workflow_id)
            for run_id in cursor.open - listener.finished.keys() - self._followed.keys():
                self._followed[run_id] = asyncio.create_task(self._await(poller, workflow_id, run_id, place))

    async def _await(self, poller: RunPoller, workflow_id: str, run_id: str, workspace_id: str | None) -> None:
        """Wait for a run's end."""
        try:
            state = RunPollState(workflow_id, run_id, poll_interval=self._poll_interval)
            run = await poller.wait(state, look_soon=True, workspace_id=workspace_id)
            for listener in self._listeners:
                listener.saw_end(workflow_id, run)
        except SimRunNotFoundError as error:
            log.warning("%s Its end is not delivered.", error)
            for listener in self._listeners:
                if cursor := listener.cursors.get(workflow_id):
                    cursor.open.discard(run_id)
                    listener.changed = True
        except SimError as error:
            log.warning("%s The next poll continues with it.", error)
        finally:
            self._followed.pop(run_id, None)
            self._news.set()


async def _logged(
    poller: RunPoller, workspace_id: str, workflow_ids: Iterable[str], since: float
) -> AsyncIterator[WorkflowRun]:
    """Yield the runs that have started since a moment, in that order."""
    wanted = named_workflows(workflow_ids)

    def ask(client: AsyncSimClient, *, cursor: str | None) -> Awaitable[Page[WorkflowRun]]:
        return client.list_logs(
            workspace_id,
            workflow_ids=wanted,
            start_date=since,
            order="asc",
            limit=LOGS_PAGE,
            cursor=cursor,
            retry=NO_RETRY,
        )

    async for run in _paged(poller, LOGS_BUCKET, ask):
        yield run


async def _runs_of(poller: RunPoller, workflow_id: str, status: RunStatus) -> AsyncIterator[WorkflowRun]:
    """Yield a workflow's runs of one status."""

    def ask(client: AsyncSimClient, *, cursor: str | None) -> Awaitable[Page[WorkflowRun]]:
        return client.list_workflow_runs(
            workflow_id, status=status.value, limit=RUNS_PAGE, cursor=cursor, retry=NO_RETRY
        )

    async for run in _paged(poller, RUNS_BUCKET, ask):
        yield run


async def _paged(
    poller: RunPoller, bucket: str, ask: Callable[..., Awaitable[Page[WorkflowRun]]]
) -> AsyncIterator[WorkflowRun]:
    cursor: str | None = None
    while True:
        page = await poller.ask(bucket, partial(ask, cursor=cursor))
        for run in page.items:
            yield run
        cursor = page.next_cursor
        if cursor is None:
            return


@dataclass(slots=True)
class _Streams:
    """The streams in use on one event loop; an entry is dropped with the last trigger or producer that uses it."""

    of_accounts: WeakValueDictionary[str, FinishedRunStream] = field(default_factory=WeakValueDictionary)
    of_connections: WeakValueDictionary[str, FinishedRunStream] = field(default_factory=WeakValueDictionary)


_streams: WeakKeyDictionary[asyncio.AbstractEventLoop, _Streams] = WeakKeyDictionary()


def finished_runs_for(connection: str, account: str | None = None) -> FinishedRunStream:
    """Return the stream of this event loop for a connection's server and API key.

    :param connection: the connection ID.
    :param account: hash of server and API key; None for the one that was last given for the connection.
    """
    streams = _streams.setdefault(asyncio.get_running_loop(), _Streams())
    if account is None:
        return streams.of_connections[connection]
    stream = streams.of_connections[connection] = streams.of_accounts.setdefault(account, FinishedRunStream())
    return stream
