"""The runs that end, of any workflows and whoever started them: one stream for all who want to know.

New runs are found by listing each workspace's log from where the last look ended. Runs that are seen before their end
are waited for by the process's :class:`~.watcher.Watcher`, as any other run is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from airflow_provider_sim.client.dialects.v2 import (
    LISTED_STATUSES,
    LOGS_BUCKET,
    LOGS_PAGE,
    RUNS_BUCKET,
    RUNS_PAGE,
    WORKFLOW_BUCKET,
    named_workflows,
)
from airflow_provider_sim.client.models import RunStatus, WorkflowRun
from airflow_provider_sim.client.retry import NO_RETRY
from airflow_provider_sim.exceptions import SimError, SimNotFoundError, SimRunNotFoundError
from airflow_provider_sim.watch.position import OVERLAP, Position
from airflow_provider_sim.watch.run import RunWatch
from airflow_provider_sim.watch.watcher import Watcher, watcher_of

if TYPE_CHECKING:
    from airflow_provider_sim.client.asyncio import AsyncSimClient
    from airflow_provider_sim.client.models import Page
    from airflow_provider_sim.client.settings import ClientSettings

log = logging.getLogger(__name__)

Connect = Callable[[], Awaitable["tuple[ClientSettings, str | None]"]]

MOST_ON_WAY = 32
"""Runs that are told before it is certain that the earlier ones were: so many may be told twice after a death. It takes
a second or two until it is certain, so that this is how many runs are told in that time, too."""

LONGEST_PAUSE = 600.0
"""Seconds between looks that fail."""


@dataclass(eq=False, kw_only=True)
class Listener:
    """Somebody who is told of ended runs.

    :param connection: the name of the connection, and
    :param connect: gives its settings and its workspace, if known; asked anew at each look.
    :param poll_interval: seconds between looks, or fewer, where somebody else who is told of the same wants them.
    :param workflow_ids: of these workflows.
    :param position: None for who comes for the first time: told of what ends from then on.
    :param save: writes the position down.
    """

    connection: str
    connect: Connect
    poll_interval: float
    workflow_ids: frozenset[str]
    position: Position | None
    save: Callable[[Position], Awaitable[None]]
    changed: bool = field(default=False, init=False)


class RunEvents:
    """Tells listeners of the runs that end."""

    def __init__(self) -> None:
        self._listeners: dict[Listener, None] = {}
        self._ended: dict[str, WorkflowRun] = {}
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._workspaces: dict[str, str | None] = {}
        self._news = asyncio.Event()
        self._look_at = -inf

    # --- listeners -----------------------------------------------------------------------------------------------

    def join(self, listener: Listener) -> None:
        """Tell somebody more, from the next look on, which is at once."""
        self._listeners[listener] = None
        self._look_at = -inf
        self._news.set()

    def leave(self, listener: Listener) -> None:
        """Tell them no longer."""
        self._listeners.pop(listener, None)
        self._news.set()

    @property
    def _poll_interval(self) -> float:
        """Seconds between looks: the fewest that somebody wants."""
        return min((listener.poll_interval for listener in self._listeners), default=LONGEST_PAUSE)

    def _positions(self) -> Iterable[Position]:
        for listener in self._listeners:
            if listener.position is not None:
                yield listener.position

    async def confirm(self, runs: Iterable[WorkflowRun]) -> None:
        """It is certain that runs were told to all who were there."""
        for run in runs:
            for listener in self._listeners:
                position = listener.position
                if position is not None and run.run_id in position.on_way:
                    position.confirm(run.run_id or "", run.began)
                    listener.changed = True
        await self._save()
        self._news.set()

    async def _save(self) -> None:
        for listener in list(self._listeners):
            if listener.changed and listener.position is not None:
                listener.changed = False
                try:
                    await listener.save(listener.position)
                except Exception as error:  # whatever Airflow's processes have to say to each other
                    listener.changed = True
                    log.warning("The position in Sim's runs could not be written down: %s", error)

    # --- the stream ----------------------------------------------------------------------------------------------

    async def ended(self) -> AsyncIterator[WorkflowRun]:
        """The runs that end, each as soon as it is seen, for as long as somebody listens; never fails for Sim's sake.

        Who is to be told of one has it ``on_way`` when it comes.
        """
        self._ended.clear()
        self._look_at, failures = -inf, 0
        try:
            while True:
                if self._listeners and time.monotonic() >= self._look_at:
                    failures = await self._look_patiently(failures)
                while (run := self._next()) is not None:
                    yield run
                await self._rest()
        finally:
            followed, self._followed = self._followed, {}
            for task in followed.values():
                task.cancel()
            await asyncio.gather(*followed.values(), return_exceptions=True)

    def _next(self) -> WorkflowRun | None:
        """The next run that somebody wants to know of; None while the telling of too many isn't certain."""
        while self._ended and max((len(position.on_way) for position in self._positions()), default=0) < MOST_ON_WAY:
            run = self._ended.pop(next(iter(self._ended)))
            wanting = [position for position in self._positions() if position.wants(run)]
            for position in wanting:
                position.on_way.add(run.run_id or "")
            if wanting:
                return run
        return None

    async def _rest(self) -> None:
        """Sleep until the next look, or until there is news."""
        seconds = max(0.0, self._look_at - time.monotonic()) if self._listeners else 60.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, 60.0)):  # wait_for may swallow a cancellation (Python 3.11)
                await self._news.wait()
        self._news.clear()

    async def _look_patiently(self, failures: int) -> int:
        """Look once; return how many looks in a row have failed."""
        self._look_at = inf
        pause = self._poll_interval
        try:
            await self._look()
            failures = 0
        except Exception as error:
            failures += 1
            pause = min(max(pause, 1.0) * 2 ** min(failures, 10), LONGEST_PAUSE)
            if isinstance(error, SimError):
                pause = max(self._poll_interval, error.retry_after or pause)
                log.warning("%s Looking for ended runs again in %.0f s (%d failed in a row).", error, pause, failures)
            else:
                log.exception("Looking for ended runs again in %.0f s (%d failed in a row).", pause, failures)
        if self._look_at == inf:  # nobody has joined meanwhile
            self._look_at = time.monotonic() + pause
        return failures

    # --- looking -------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Find the runs that have started since the last look, and follow those that haven't ended.

        :raises SimError: that can't be done at the moment.
        """
        for watcher, listeners in (await _by_account(self._listeners)).items():
            await self._look_with(watcher, listeners)
        await self._save()

    async def _look_with(self, watcher: Watcher, listeners: Mapping[Listener, str | None]) -> None:
        """Look at one server with one key.

        :param listeners: those who are told what it tells, with their connections' workspaces.
        """
        places = await self._places(watcher, listeners)
        asked_at = watcher.server_now()
        for listener in listeners:
            if listener.position is None:
                await self._begin(watcher, listener, places)
        for place, workflow_ids in places.items():
            since = min(
                position.since
                for listener in listeners
                if listener.workflow_ids & workflow_ids and (position := listener.position) is not None
            )
            async for run in _logged(watcher, place, workflow_ids, since):
                for listener in listeners if run.workflow_id in workflow_ids else ():
                    if run.workflow_id in listener.workflow_ids and listener.position is not None:
                        listener.position.saw(run)
                self._note_end(run)
        for listener, workspace_id in listeners.items():
            if listener.position is not None:
                listener.position.advance(asked_at - OVERLAP)
                listener.changed = True
                self._follow(watcher, listener.position, workspace_id)

    def _note_end(self, run: WorkflowRun) -> None:
        if run.status.is_terminal and any(position.wants(run) for position in self._positions()):
            self._ended.setdefault(run.run_id or "", run)

    async def _places(self, watcher: Watcher, listeners: Mapping[Listener, str | None]) -> dict[str, set[str]]:
        """The workflows that are listened to, by their workspaces."""
        places: dict[str, set[str]] = {}
        for listener, workspace_id in listeners.items():
            for workflow_id in sorted(listener.workflow_ids):
                place = workspace_id or await self._workspace_of(watcher, workflow_id)
                if place is not None:
                    places.setdefault(place, set()).add(workflow_id)
        return places

    async def _workspace_of(self, watcher: Watcher, workflow_id: str) -> str | None:
        if workflow_id not in self._workspaces:
            try:
                workflow = await watcher.ask(
                    WORKFLOW_BUCKET, lambda client: client.get_workflow(workflow_id, retry=NO_RETRY)
                )
            except SimNotFoundError as error:
                log.warning("%s Its runs are not told until it is there.", error)
                return None
            self._workspaces[workflow_id] = workflow.workspace_id
        return self._workspaces[workflow_id]

    async def _begin(self, watcher: Watcher, listener: Listener, places: dict[str, set[str]]) -> None:
        """Find where somebody who comes for the first time stands: what has ended already isn't told."""
        position = Position(since=watcher.server_now() - OVERLAP)
        for workspace_id, workflow_ids in places.items():
            wanted = workflow_ids & listener.workflow_ids
            if not wanted:
                continue
            async for run in _logged(watcher, workspace_id, wanted, position.since):
                if run.workflow_id in wanted:
                    position.saw(run)
                    if run.status.is_terminal:
                        position.confirm(run.run_id or "", run.began)
            for workflow_id in sorted(wanted):
                for status in sorted(LISTED_STATUSES):
                    async for run in _runs_of(watcher, workflow_id, status):
                        position.saw(run)
        listener.position, listener.changed = position, True

    def _follow(self, watcher: Watcher, position: Position, workspace_id: str | None) -> None:
        """Wait for the runs that are known and haven't ended."""
        for run_id, workflow_id in position.open.items():
            if run_id not in self._followed and run_id not in self._ended and run_id not in position.on_way:
                place = workspace_id or self._workspaces.get(workflow_id)
                self._followed[run_id] = asyncio.create_task(self._await(watcher, workflow_id, run_id, place))

    async def _await(self, watcher: Watcher, workflow_id: str, run_id: str, workspace_id: str | None) -> None:
        """See a run to its end."""
        try:
            watch = RunWatch(workflow_id, run_id, poll_interval=self._poll_interval)
            self._note_end(await watcher.wait(watch, look_soon=True, workspace_id=workspace_id))
        except SimRunNotFoundError as error:
            log.warning("%s Its end isn't told.", error)
            for listener in self._listeners:
                if listener.position is not None and run_id in listener.position.open:
                    listener.position.forget(run_id)
                    listener.changed = True
        except SimError as error:
            log.warning("%s The next look goes on with it.", error)
        finally:
            self._followed.pop(run_id, None)
            self._news.set()


async def _by_account(listeners: Iterable[Listener]) -> dict[Watcher, dict[Listener, str | None]]:
    """Who listens to which server with which key, with the workspaces that the connections name.

    That is one and the same for all, unless a connection was changed since its listener came.
    """
    connected: dict[str, tuple[ClientSettings, str | None]] = {}
    accounts: dict[Watcher, dict[Listener, str | None]] = {}
    for listener in list(listeners):
        if listener.connection not in connected:
            connected[listener.connection] = await listener.connect()
        settings, workspace_id = connected[listener.connection]
        accounts.setdefault(watcher_of(settings), {})[listener] = workspace_id
    return accounts


async def _logged(
    watcher: Watcher, workspace_id: str, workflow_ids: set[str], since: float
) -> AsyncIterator[WorkflowRun]:
    """The runs that have started since a moment, in that order."""
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

    async for run in _paged(watcher, LOGS_BUCKET, ask):
        yield run


async def _runs_of(watcher: Watcher, workflow_id: str, status: RunStatus) -> AsyncIterator[WorkflowRun]:
    """A workflow's runs of one status."""

    def ask(client: AsyncSimClient, *, cursor: str | None) -> Awaitable[Page[WorkflowRun]]:
        return client.list_workflow_runs(
            workflow_id, status=status.value, limit=RUNS_PAGE, cursor=cursor, retry=NO_RETRY
        )

    async for run in _paged(watcher, RUNS_BUCKET, ask):
        yield run


async def _paged(
    watcher: Watcher, bucket: str, ask: Callable[..., Awaitable[Page[WorkflowRun]]]
) -> AsyncIterator[WorkflowRun]:
    cursor: str | None = None
    while True:
        page = await watcher.ask(bucket, partial(ask, cursor=cursor))
        for run in page.items:
            yield run
        cursor = page.next_cursor
        if cursor is None:
            return


@dataclass(slots=True)
class _Streams:
    """Those of one event loop."""

    of_accounts: dict[str, RunEvents] = field(default_factory=dict)
    of_connections: dict[str, RunEvents] = field(default_factory=dict)


_streams: dict[asyncio.AbstractEventLoop, _Streams] = {}


def run_events_of(connection: str, account: str | None = None) -> RunEvents:
    """The stream that all on this event loop share who listen to the same server with the same key.

    :param connection: the name of the connection.
    :param account: the server and the key that it stands for; None for those of the last time that they were given.
    """
    for loop in [loop for loop in _streams if loop.is_closed()]:
        del _streams[loop]
    streams = _streams.setdefault(asyncio.get_running_loop(), _Streams())
    if account is not None:
        streams.of_connections[connection] = streams.of_accounts.setdefault(account, RunEvents())
    return streams.of_connections[connection]
