"""One poll for all runs that one process waits for on one server with one key.

A :class:`Watcher` knows the runs that are waited for, asks :mod:`.plan` which requests answer for those that are due,
sends them as far as :mod:`.budget` leaves room, and hands each answer to the :class:`~.run.RunWatch` of its run. All of
it happens on one event loop, in one task and those that it starts for its requests.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_sim.client.asyncio import AsyncSimClient, limited
from airflow_provider_sim.client.dialects.v2 import (
    LOGS_PAGE,
    RUN_BUCKET,
    RUNS_PAGE,
    WORKFLOW_BUCKET,
    can_be_named,
    named_workflows,
)
from airflow_provider_sim.client.ids import check_run_id, check_workflow_id
from airflow_provider_sim.client.models import Page, RunStatus, WorkflowRun
from airflow_provider_sim.client.retry import NO_RETRY
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.exceptions import (
    Outcome,
    SimAuthenticationError,
    SimConfigurationError,
    SimError,
    SimRateLimitError,
    SimRedirectError,
    SimRunTimeoutError,
)
from airflow_provider_sim.watch.budget import Budgets, BudgetsByLoop, address_of, shared_budgets
from airflow_provider_sim.watch.plan import YOUNG, Crowd, Doubt, Known, LookUp, Read, Scan, Step, Target, plan
from airflow_provider_sim.watch.run import RunWatch

T = TypeVar("T")

log = logging.getLogger(__name__)

KEPT_OPEN = 60.0
"""Seconds for which the connections are kept when nobody waits any longer, for whoever comes next."""

MOST_IN_FLIGHT = 24
"""Requests; one httpx client collapses under some hundreds at once."""

MOST_LENT = 16
"""Requests of callers of :meth:`Watcher.lend` and :meth:`Watcher.ask` in flight at once."""

SOON = 1.0
"""Seconds until the first look at a run that nobody has looked at; those that come meanwhile are looked at, too."""

NEAR = 0.5
"""Share of its interval by which a run is looked at too early where that costs nothing, so that intervals align."""

LATE_ROWS = 10.0
"""Seconds by which a run may appear in the log later than the start that is then told for it."""

LAST_LOOK_PATIENCE = 120.0
"""Seconds after its deadline in which a run's last look may come, where rate limits hold it up."""

LONGEST_READ_PAUSE = 120.0
"""Seconds between reads of a run that is queued, or of one whose pause lists don't tell."""

CLOSED_AFTER_FAILURES = 3
"""In a row; a list that fails so often, where the server can be reached, is left alone for a while."""

CLOSED_FOR = 60.0
"""Seconds for which it is, and its runs are read one by one."""

CLOSED_FOR_LONG = 600.0
"""Seconds, where no repetition mends what is wrong with a list."""

_BETWEEN_PASSES = 0.05
"""Seconds."""

_AT_ONCE = 100
"""Runs that are told in one go; then others have their turn on the loop."""

_MANY = 1_000_000

_ABOUT_THE_CONNECTION = (SimAuthenticationError, SimConfigurationError, SimRedirectError)
"""What a list is refused for that a single run would be refused for, too."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Waiting(Target):
    """A run and whoever waits for it.

    :param context: of whoever waits, so that what is logged about the run goes to their log.
    :param not_before: the event loop's time before which they aren't woken.
    :param reads: reads in a row that brought nothing; the pauses between them grow.
    :param misses: times that a list should have shown it and didn't.
    """

    watch: RunWatch
    future: asyncio.Future[WorkflowRun]
    context: contextvars.Context
    not_before: float
    reads: int = 0
    misses: int = 0


class Watcher:
    """Waits for any number of runs with as few requests as possible.

    :param client: sends the requests; closed when no caller has waited for :data:`KEPT_OPEN` seconds.
    :param clock: seconds since the epoch.
    :param on_idle: called when the client is closed.
    """

    def __init__(
        self,
        client: AsyncSimClient,
        *,
        clock: Callable[[], float] = time.time,
        budgets: Budgets | None = None,
        on_idle: Callable[[], object] = lambda: None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._budgets = budgets or Budgets(clock)
        self._on_idle = on_idle
        self._known = Known()
        self._waiting: dict[_Waiting, None] = {}  # in the order of their coming
        self._by_id: dict[str, list[_Waiting]] = {}
        self._list_failures: dict[str, int] = {}
        self._lent = 0
        self._keeper: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._held_back = False
        self._news = False
        self._rests_until = inf
        self._bell: asyncio.Future[None] | None = None
        client.on_rate_limit = self._budgets.told
        self._lent_client = limited(client, MOST_LENT)

    async def wait(
        self, watch: RunWatch, *, least: float = 0.0, look_soon: bool = False, workspace_id: str | None = None
    ) -> WorkflowRun:
        """Wait until a run is over, or paused where that counts.

        :param least: seconds that pass at least before this returns or raises.
        :param look_soon: nobody has looked before; don't wait for an interval first.
        :param workspace_id: the workflow's, if known; otherwise it is looked up once.
        :raises SimInputError: there can't be such a run.
        :raises SimRunTimeoutError: the watch's deadline passed.
        :raises SimError: the run can't be looked at.
        """
        check_workflow_id(watch.workflow_id)
        check_run_id(watch.run_id)
        self._known.assume(watch.workflow_id, workspace_id)
        waiting = self._join(watch, least, look_soon)
        try:
            return await waiting.future
        finally:
            self._leave(waiting)

    # --- who waits -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[AsyncSimClient]:
        """Lend a client for requests of the caller's own; its connections stay open until it is returned."""
        self._keep()
        self._lent += 1
        try:
            yield self._lent_client
        finally:
            self._lent -= 1

    async def ask(self, bucket: str, question: Callable[[AsyncSimClient], Awaitable[T]]) -> T:
        """Send a request of the caller's own as soon as the server's rate limits leave room for it.

        :param bucket: the rate bucket that it spends.
        :raises SimError: as the client.
        """
        async with self.lend() as client:
            while self._budgets.room(bucket) <= 0:  # noqa: ASYNC110 - it is time that brings room
                await asyncio.sleep(min(max(self._budgets.wait(bucket), _BETWEEN_PASSES), SOON))
            try:
                with self._budgets.sending(bucket):
                    return await question(client)
            except SimRateLimitError as error:
                self._refused(bucket, error, CLOSED_FOR)
                raise

    def server_now(self) -> float:
        """Seconds since the epoch, on the server, as far as it can be known."""
        return self._budgets.server.now()

    def _join(self, watch: RunWatch, least: float, look_soon: bool) -> _Waiting:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            workflow_id=watch.workflow_id,
            run_id=watch.run_id,
            interval=max(watch.poll_interval, _BETWEEN_PASSES),
            due=self._clock() + (SOON if look_soon else watch.first_pause(least)),
            since=self._budgets.server.now() - YOUNG,
            unlisted=not can_be_named(watch.workflow_id),
            watch=watch,
            future=loop.create_future(),
            context=contextvars.copy_context(),
            not_before=loop.time() + least,
        )
        self._waiting[waiting] = None
        self._by_id.setdefault(watch.run_id, []).append(waiting)
        self._keep()
        if waiting.due < self._rests_until:
            self._ring()
        return waiting

    def _keep(self) -> None:
        if self._keeper is None:
            # A context of its own: whoever happens to come first shall not find everybody's lines in their log.
            self._keeper = asyncio.create_task(self._keep_looking(), context=contextvars.Context())

    def _leave(self, waiting: _Waiting) -> None:
        if waiting not in self._waiting:
            return
        del self._waiting[waiting]
        for run_id in {waiting.run_id, waiting.watch.run_id}:
            others = [other for other in self._by_id.get(run_id, ()) if other is not waiting]
            if others:
                self._by_id[run_id] = others
            else:
                self._by_id.pop(run_id, None)

    def _tell(self, waiting: _Waiting, outcome: WorkflowRun | Exception) -> None:
        """Wake whoever waits, now or when they may be woken."""
        self._leave(waiting)
        future = waiting.future

        def wake() -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        loop = asyncio.get_running_loop()
        if loop.time() < waiting.not_before:
            loop.call_at(waiting.not_before, wake)
        else:
            wake()

    # --- when to look --------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        try:
            while self._waiting or self._lent or await self._someone_joins():
                await self._rest(self._look())
        except Exception as error:
            log.exception("The watcher of %s has failed.", self._client.base_url)
            for waiting in list(self._waiting):
                self._tell(waiting, error)
        finally:
            self._keeper = None  # whoever joins from now on starts another
            self._on_idle()
            requests, self._requests = self._requests, set()
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
            await self._client.close()

    async def _someone_joins(self) -> bool:
        await self._rest(KEPT_OPEN)
        return bool(self._waiting or self._lent)

    async def _rest(self, seconds: float) -> None:
        """Sleep until there is news, but never so shortly that looking itself becomes the work."""
        seconds = min(seconds, KEPT_OPEN)
        self._rests_until = self._clock() + seconds
        await asyncio.sleep(_BETWEEN_PASSES)
        if not self._news and seconds > _BETWEEN_PASSES:
            loop = asyncio.get_running_loop()
            self._bell = loop.create_future()
            timer = loop.call_later(seconds - _BETWEEN_PASSES, self._ring)
            try:
                await self._bell
            finally:
                timer.cancel()
                self._bell = None
        self._news = False

    def _ring(self) -> None:
        """There is news: look again."""
        self._news = True
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    def _look(self) -> float:
        """Send what is due; return the seconds until more will be."""
        now = self._clock()
        known = self._known
        known.speaks_v2 = self._client.speaks_v2
        known.closed = {name: until for name, until in known.closed.items() if until > now}
        due: list[_Waiting] = []
        wanted: list[_Waiting] = []
        following = inf
        for waiting in self._waiting:
            if waiting.busy:
                continue
            due_at, read_at = waiting.due, waiting.read_at
            if read_at <= now:
                wanted.append(waiting)
            elif read_at < following:
                following = read_at
            if due_at <= now:
                due.append(waiting)
            elif due_at < following:
                following = due_at
        self._held_back = False
        if not due and not wanted:
            return following - now
        if self._give_up(now, {*due, *wanted}):
            return 0.0
        near = [
            waiting
            for waiting in self._waiting
            if now < waiting.due <= now + NEAR * waiting.interval and not waiting.busy
        ]
        chosen = plan(
            due,
            near,
            wanted,
            known,
            self._budgets,
            now=now,
            server_now=self._budgets.server.now(),
            most_reads=max(0, MOST_IN_FLIGHT - len(self._requests)),
        )
        for step in chosen.steps:
            self._send(step)
        waits = [self._budgets.wait(bucket) for bucket in chosen.waits_for]
        self._held_back = not all(waiting.busy for waiting in (*due, *wanted))
        return min([following - now, *waits])

    def _give_up(self, now: float, overdue: Iterable[_Waiting]) -> bool:
        """Wait no longer for last looks that rate limits hold up for too long; return whether there were any."""
        too_late = [waiting for waiting in overdue if now > (waiting.watch.deadline or inf) + LAST_LOOK_PATIENCE]
        for waiting in too_late:
            waiting.read_at = inf
            self._next_look(waiting)  # there is none
        return bool(too_late)

    # --- asking --------------------------------------------------------------------------------------------------

    def _send(self, step: Step[_Waiting]) -> None:
        targets = [step.target] if isinstance(step, Read) else step.targets
        for waiting in targets:
            waiting.busy = True
        request = asyncio.create_task(self._perform(step, targets))
        self._requests.add(request)

        def done(request: asyncio.Task[None]) -> None:
            self._requests.discard(request)
            for waiting in targets:
                waiting.busy = False
            if self._held_back or min(min(waiting.due, waiting.read_at) for waiting in targets) < self._rests_until:
                self._ring()

        request.add_done_callback(done)

    async def _perform(self, step: Step[_Waiting], targets: Sequence[_Waiting]) -> None:
        try:
            if isinstance(step, Read):
                await self._read(step.target)
            elif isinstance(step, LookUp):
                await self._look_up(step.workflow_id)
            elif step.into_the_past:
                await self._seek(step)
            else:
                await self._scan(step)
        except Exception as error:
            log.exception("The watcher of %s couldn't make sense of an answer.", self._client.base_url)
            for waiting in targets:
                if waiting in self._waiting:
                    self._tell(waiting, error)

    async def _read(self, waiting: _Waiting) -> None:
        """Read one run."""
        bucket = None if self._known.speaks_v2 is False else RUN_BUCKET
        watch = waiting.watch
        try:
            with self._budgets.sending(bucket):
                run = await self._client.get_workflow_run(
                    watch.workflow_id, watch.run_id, job_id=watch.job_id, retry=NO_RETRY
                )
        except SimRateLimitError as error:
            self._refused(bucket, error, waiting.interval)
        except SimError as error:
            self._missed(waiting, error)
        else:
            if waiting in self._waiting:
                self._was_read(waiting, run)

    async def _look_up(self, workflow_id: str) -> None:
        """Ask for a workflow's workspace."""
        try:
            with self._budgets.sending(WORKFLOW_BUCKET):
                workflow = await self._client.get_workflow(workflow_id, retry=NO_RETRY)
        except SimRateLimitError as error:
            self._refused(WORKFLOW_BUCKET, error, CLOSED_FOR)
        except SimError as error:
            log.info("%s Without its workspace, its runs are looked for elsewhere.", error)
            self._known.closed[workflow_id] = self._clock() + _for_how_long(error)
        else:
            if workflow.workspace_id is None:
                self._known.closed[workflow_id] = self._clock() + CLOSED_FOR_LONG
            else:
                self._known.workspaces[workflow_id] = workflow.workspace_id

    async def _scan(self, scan: Scan[_Waiting]) -> None:
        """Go through a list in the order of the runs' starts, from one that isn't found yet to the next."""
        missing = list(scan.targets)
        reached, others = -inf, 0
        for number in range(len(scan.targets) + 1):
            if number and self._budgets.room(scan.bucket) <= 0:
                return  # those that are missing stay due
            asked_at = self._budgets.server.now()
            start = missing[0].earliest
            page = await self._page(scan, missing, start_date=start, end_date=scan.end, order="asc")
            if page is None:
                return
            found = await self._tell_all(page.items)
            whole = page.next_cursor is None
            before, reached = reached, _end_of(page, asked_at if scan.end is None else min(scan.end, asked_at))
            others += len(page.items) - len(found)
            if scan.listed is not None:
                self._known.others[scan.listed] = (others, asked_at)
            else:
                self._crowd(scan).learn(start, reached, len(page.items), len(page.items) - len(found))
            still_missing = []
            for waiting in missing:
                if waiting in found or waiting not in self._waiting:
                    continue
                if whole or waiting.latest <= reached:
                    self._is_absent(waiting, scan, asked_at)
                else:
                    waiting.gone_to = reached  # should there be no room for the next page
                    still_missing.append(waiting)
            if not still_missing:
                return
            missing = still_missing
            if reached <= before:
                break
        # More runs began at once than a page holds, or the list costs more than reading each.
        for waiting in missing:
            self._want_read(waiting, Doubt.LOST)
            self._next_look(waiting)

    async def _seek(self, scan: Scan[_Waiting]) -> None:
        """Go through a log backwards, as long as that finds more runs than reading them would."""
        missing = set(scan.targets)
        fruitless = 0
        end = scan.end
        while len(missing) > 1 and 10 * fruitless <= len(missing) and self._budgets.room(scan.bucket) > 0:
            page = await self._page(scan, list(missing), end_date=end, order="desc")
            if page is None:
                return
            found = await self._tell_all(page.items)
            fruitless += len(found & missing) < 2
            missing = {waiting for waiting in missing - found if waiting in self._waiting}
            start = _end_of(page, 0.0)
            if page.next_cursor is None or start == end:
                break
            self._crowd(scan).learn(start, end or start, len(page.items), len(page.items) - len(found))
            end = start
        for waiting in missing:
            waiting.until = None
            self._want_read(waiting, Doubt.LOST)

    async def _page(
        self, scan: Scan[_Waiting], concerned: Sequence[_Waiting], **window: str | float | None
    ) -> Page[WorkflowRun] | None:
        """Ask for one page of a list; None if that failed."""
        triggers = sorted({waiting.trigger for waiting in scan.targets})
        try:
            with self._budgets.sending(scan.bucket):
                if scan.listed is not None:
                    workflow_id, status = scan.listed
                    page = await self._client.list_workflow_runs(
                        workflow_id,
                        status=status.value,
                        trigger=triggers[0] if len(triggers) == 1 else None,
                        limit=RUNS_PAGE,
                        retry=NO_RETRY,
                        **window,
                    )
                else:
                    page = await self._client.list_logs(
                        scan.workspace_id or "",
                        workflow_ids=named_workflows(waiting.workflow_id for waiting in scan.targets),
                        triggers=triggers,
                        limit=LOGS_PAGE,
                        retry=NO_RETRY,
                        **window,
                    )
        except SimRateLimitError as error:
            self._refused(scan.bucket, error, min(waiting.interval for waiting in concerned))
            return None
        except SimError as error:
            await self._list_failed(scan, concerned, error)
            return None
        self._list_failures.pop(_name_of(scan), None)
        return page

    def _crowd(self, scan: Scan[_Waiting]) -> Crowd:
        return self._known.crowds[scan.workspace_id or ""]

    # --- what answers mean ---------------------------------------------------------------------------------------

    async def _tell_all(self, runs: Iterable[WorkflowRun]) -> set[_Waiting]:
        """Hand a page's runs to those who wait for them, the finished ones first; return whom it was about."""
        found: set[_Waiting] = set()
        for number, run in enumerate(sorted(runs, key=lambda run: not run.status.is_terminal), 1):
            for waiting in list(self._by_id.get(run.run_id or "", ())):
                if run.workflow_id in (None, waiting.workflow_id):
                    found.add(waiting)
                    self._was_listed(waiting, run)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    def _was_read(self, waiting: _Waiting, run: WorkflowRun) -> None:
        """A run's own resource says how it is."""
        doubt, waiting.read_at = waiting.urgency, inf
        if run.run_id is not None and run.run_id != waiting.run_id:  # it was asked for by a job's id
            waiting.run_id = run.run_id
            self._by_id.setdefault(run.run_id, []).append(waiting)
        if doubt is Doubt.ENDED and run.status is waiting.status:
            self._is_missed(waiting)
        self._note_start(waiting, run)
        if self._saw(waiting, run) or self._known.speaks_v2 is False:
            return
        waiting.reads += 1
        pause = min(waiting.interval * 2**waiting.reads, max(waiting.interval, LONGEST_READ_PAUSE))
        only_reads_tell = waiting.watch.on_paused != "wait"
        if run.status is RunStatus.QUEUED and waiting.began is None:
            waiting.since, waiting.until = self._budgets.server.now() - LATE_ROWS, None
            self._want_read(waiting, Doubt.QUEUED, pause)
        elif run.status is RunStatus.PAUSED and only_reads_tell:
            self._want_read(waiting, Doubt.PAUSED, min(pause, max(waiting.interval, self._seconds_to_resume(run))))
        elif run.status is RunStatus.PENDING and only_reads_tell:
            self._want_read(waiting, Doubt.PAUSED, waiting.interval)
        elif run.status is RunStatus.RUNNING:
            waiting.reads = 0

    def _was_listed(self, waiting: _Waiting, run: WorkflowRun) -> None:
        """A list says how a run is."""
        waiting.misses = 0
        if waiting.doubt is not Doubt.PAUSED:
            waiting.read_at = inf
        self._note_start(waiting, run)
        if run.status not in (RunStatus.PENDING, RunStatus.PAUSED):
            waiting.reads, waiting.read_at = 0, inf
            self._saw(waiting, run)
            return
        # Which of the two a list says depends on the list, and what it waits for stands in none.
        unread = waiting.status not in (RunStatus.PENDING, RunStatus.PAUSED)
        waiting.status = waiting.status if waiting.status is RunStatus.PAUSED else RunStatus.PENDING
        waiting.watch.looked()
        self._next_look(waiting)
        if unread:
            waiting.reads = 0
            self._want_read(waiting, Doubt.PAUSED)

    def _note_start(self, waiting: _Waiting, run: WorkflowRun) -> None:
        if run.status is not RunStatus.QUEUED and run.began is not None:
            waiting.began, waiting.until = run.began, None
        waiting.trigger = run.trigger or waiting.trigger

    def _is_absent(self, waiting: _Waiting, scan: Scan[_Waiting], asked_at: float) -> None:
        """A list that would show a run, were it as we think, doesn't."""
        if scan.listed is not None:
            self._want_read(waiting, Doubt.ENDED)
        elif waiting.began is not None:
            self._is_missed(waiting)
            self._want_read(waiting, Doubt.LOST)
        else:
            if waiting.status is None and waiting.until is None and waiting.read_at == inf:
                waiting.until = waiting.since
                self._want_read(waiting, Doubt.LOST)
            waiting.since = max(waiting.since, asked_at - LATE_ROWS)
        self._next_look(waiting)

    def _is_missed(self, waiting: _Waiting) -> None:
        """A list that should show a run didn't; after a second time, it isn't asked for it any more."""
        waiting.misses += 1
        if not self._known.distrust(waiting.workflow_id) and waiting.misses > 1:
            waiting.unlisted = True
            log.info("Run %s is in no list; it is read by itself.", waiting.run_id)

    def _saw(self, waiting: _Waiting, run: WorkflowRun) -> bool:
        """Hand a look to the run's watch; return whether the waiting is over."""
        waiting.status = run.status
        if waiting.context.run(waiting.watch.saw, run):
            self._tell(waiting, run)
            return True
        self._next_look(waiting)
        return False

    def _missed(self, waiting: _Waiting, error: SimError) -> None:
        """Hand a look that failed to the run's watch."""
        if waiting not in self._waiting:
            return
        try:
            waiting.context.run(waiting.watch.missed, error)
        except SimError as final:
            self._tell(waiting, final)
            return
        wanted, waiting.read_at = waiting.read_at < inf, inf
        self._next_look(waiting)
        if wanted:
            waiting.read_at = waiting.due

    def _next_look(self, waiting: _Waiting) -> None:
        """Set the time of the next look; after the last one, give up."""
        now, waiting.gone_to = self._clock(), -inf
        try:
            waiting.due = now + waiting.watch.pause(jitter=0.0)
        except SimRunTimeoutError as error:
            if waiting.read_at == inf:
                self._tell(waiting, error)
                return
            # The list has told nothing; the last look is the run's own resource.
            waiting.due = now + waiting.interval
            self._want_read(waiting, min(waiting.doubt, Doubt.LAST))

    def _want_read(self, waiting: _Waiting, doubt: Doubt, pause: float = 0.0) -> None:
        """Have a run read by itself, after so many seconds."""
        waiting.doubt = doubt
        waiting.read_at = self._clock() + pause
        if waiting.read_at < self._rests_until:
            self._ring()

    def _seconds_to_resume(self, run: WorkflowRun) -> float:
        try:
            moment = datetime.fromisoformat((run.paused and run.paused.resume_at) or "")
        except ValueError:
            return 0.0
        return moment.timestamp() - self._budgets.server.now()

    def _refused(self, bucket: str | None, error: SimRateLimitError, otherwise: float) -> None:
        """Take note of a refusal for too many requests; whatever wasn't answered stays due."""
        wait = otherwise if error.retry_after is None else error.retry_after
        log.info("%s The next such request goes out in %.0f s.", error, wait)
        self._budgets.refused(bucket, wait)

    async def _list_failed(self, scan: Scan[_Waiting], concerned: Sequence[_Waiting], error: SimError) -> None:
        """A list can't be had: that is one failed look for each run concerned, or a reason to read them instead."""
        name = _name_of(scan)
        if error.outcome is not Outcome.NEVER_SENT:
            self._list_failures[name] = self._list_failures.get(name, 0) + 1
        if _is_about_the_list(error) or self._list_failures.get(name, 0) >= CLOSED_AFTER_FAILURES:
            log.warning("%s For %.0f min, its runs are looked for elsewhere.", error, _for_how_long(error) / 60)
            self._list_failures.pop(name, None)
            self._close(scan, _for_how_long(error))
        if _is_about_the_list(error):
            return
        for number, waiting in enumerate(concerned, 1):
            self._missed(waiting, error)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _close(self, scan: Scan[_Waiting], seconds: float) -> None:
        if scan.listed is not None:
            self._known.others[scan.listed] = (_MANY, self._budgets.server.now())
            return
        for waiting in scan.targets:
            self._known.distrust(waiting.workflow_id)
        self._known.closed[scan.workspace_id or ""] = self._clock() + seconds


def _is_about_the_list(error: SimError) -> bool:
    """Whether asking for the list again is no use, while its runs may well be read."""
    return error.worth_repeating == 0 and not isinstance(error, _ABOUT_THE_CONNECTION)


def _for_how_long(error: SimError) -> float:
    return CLOSED_FOR_LONG if error.worth_repeating == 0 else CLOSED_FOR


def _end_of(page: Page[WorkflowRun], otherwise: float) -> float:
    """The start of a page's last run, up to which it shows everything; all there is, if it is the last page."""
    last = page.items[-1].began if page.items and page.next_cursor is not None else None
    return otherwise if last is None else last


def _name_of(scan: Scan[_Waiting]) -> str:
    return scan.workspace_id or f"{scan.listed}"


_watchers: dict[asyncio.AbstractEventLoop, dict[ClientSettings, Watcher]] = {}
_budgets: BudgetsByLoop = WeakKeyDictionary()


def watcher_of(settings: ClientSettings) -> Watcher:
    """Return the watcher that all callers on this event loop with the same settings share.

    Watchers of the same server and key share the rate limits, even if their timeouts or other settings differ. An idle
    watcher is dropped, and with it the key.
    """
    for loop in [loop for loop in _watchers if loop.is_closed()]:
        del _watchers[loop]
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    if settings not in watchers:
        budgets = shared_budgets(
            _budgets, settings, lambda: Budgets(time.time, address_of(settings.base_url, time.time))
        )
        watchers[settings] = Watcher(
            AsyncSimClient.from_settings(settings), budgets=budgets, on_idle=lambda: watchers.pop(settings, None)
        )
    return watchers[settings]
