"""What Sim knows of a batch whose earlier worker or triggerer is gone; and how its runs are cancelled.

A list answers for a thousand runs at once. Where there is none, runs are read one by one, in the order in which they
were started, until a few in a row aren't known. To overlook one does no harm: its input is sent again under the same
id, and Sim says that there is a run already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from airflow_provider_sim.batch.state import BatchState, ItemStatus
from airflow_provider_sim.client import (
    LOGS_PAGE,
    STARTED_BY_API,
    AsyncSimClient,
    RetryPolicy,
    RunStatus,
    WorkflowRun,
    is_rejection,
    named_workflows,
)
from airflow_provider_sim.exceptions import (
    SimError,
    SimNotFoundError,
    SimPermissionError,
    SimRunNotFoundError,
    SimUnsupportedError,
)
from airflow_provider_sim.rate_limits import MAX_STARTING

log = logging.getLogger(__name__)

T = TypeVar("T")

AT_ONCE = 16
"""Requests that are under way at once."""

MARGIN = 60.0
"""Seconds by which the server's clock may be behind ours."""

_FEW = 3
"""As many runs are rather read than listed."""


class Reconciler:
    """Brings a journal up to date by what Sim says.

    :param workflow_of: gives an input's workflow.
    :param rerun: runs that have failed or been cancelled are followed by others.
    """

    def __init__(
        self, client: AsyncSimClient, journal: BatchState, workflow_of: Callable[[int], str], *, rerun: bool = False
    ) -> None:
        self._client = client
        self._journal = journal
        self._workflow_of = workflow_of
        self._rerun = rerun

    async def look(self, *, since: float, workspace_id: str | None) -> None:
        """Ask for every run that isn't known to be over.

        :param since: seconds since the epoch before which none of them was started.
        :param workspace_id: of the workflows; None where it isn't known.
        :raises SimError: that can't be found out.
        """
        known = list(self._journal.indices(ItemStatus.ACTIVE))
        unsure = list(self._journal.indices(ItemStatus.UNSENT, ItemStatus.SENT))
        if not await self._are_listed([*known, *unsure], since, workspace_id):
            await self._read_each(known)
            await self._read_in_order(unsure)

    async def look_for_started(self, *, since: float, workspace_id: str | None) -> None:
        """As :meth:`look`, but only for runs that aren't known to have been started."""
        unsure = list(self._journal.indices(ItemStatus.UNSENT, ItemStatus.SENT))
        if not await self._are_listed(unsure, since, workspace_id):
            await self._read_in_order(unsure)

    def reopen(self) -> None:
        """Try again what an earlier try gave up."""
        journal = self._journal
        for index in list(journal.indices(ItemStatus.REFUSED, ItemStatus.SKIPPED)):
            journal.stands(index, ItemStatus.UNSENT)
        for index in list(journal.indices(ItemStatus.PAUSED)):
            journal.stands(index, ItemStatus.ACTIVE)
        if self._rerun:
            for index in list(journal.indices(ItemStatus.FAILED, ItemStatus.CANCELLED)):
                self._run_again(index)

    async def _are_listed(self, indices: Sequence[int], since: float, workspace_id: str | None) -> bool:
        """Learn of runs by the workspace's log; False where that isn't to be had, or reading them costs less."""
        if workspace_id is None or self._client.speaks_v2 is False or len(indices) <= _FEW:
            return False
        try:
            failed = await self._list(workspace_id, {self._workflow_of(index) for index in indices}, since)
        except (SimUnsupportedError, SimPermissionError, SimNotFoundError) as error:
            log.info("%s The runs are read one by one.", error)
            return False
        await self._read_each(failed)
        return True

    async def _list(self, workspace_id: str, workflows: set[str], since: float) -> list[int]:
        """Go through the log; return the inputs whose runs have failed, for reasons that it doesn't tell."""
        seen: dict[int, tuple[int, RunStatus]] = {}
        async for run in self._logged(workspace_id, workflows, since):
            found = self._journal.read_id(run.run_id or "")
            if found is not None:
                index, attempt = found
                seen[index] = max(seen.get(index, (0, run.status)), (attempt, run.status), key=lambda pair: pair[0])
        failed = []
        for index, (attempt, status) in seen.items():
            if attempt < self._journal.attempt(index) or not self._journal[index].is_open:
                continue
            if attempt > self._journal.attempt(index):
                self._journal.renew(index, least=attempt)
            if status is RunStatus.FAILED and not self._rerun:
                failed.append(index)
            else:
                self._takes(index, status)
        return failed

    async def _logged(self, workspace_id: str, workflows: Iterable[str], since: float) -> AsyncIterator[WorkflowRun]:
        cursor: str | None = None
        while True:
            page = await self._client.list_logs(
                workspace_id,
                workflow_ids=named_workflows(workflows),
                triggers=[STARTED_BY_API],
                start_date=since - MARGIN,
                order="asc",
                limit=LOGS_PAGE,
                cursor=cursor,
            )
            for run in page.items:
                yield run
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _read_each(self, indices: Iterable[int]) -> None:
        for some in _in_parts(indices, AT_ONCE):
            await asyncio.gather(*(self._read(index) for index in some))

    async def _read_in_order(self, indices: Iterable[int]) -> None:
        """Read runs in the order of their start, until as many in a row aren't known as may be sent at once."""
        for some in _in_parts(indices, MAX_STARTING):
            if not any(await asyncio.gather(*(self._read(index) for index in some))):
                return

    async def _read(self, index: int) -> bool:
        """Read an input's run, and those that followed it; return whether there is any."""
        there = False
        while True:
            try:
                run = await self._client.get_workflow_run(
                    self._workflow_of(index), self._journal.run_id(index), job_id=self._journal.job_id(index)
                )
            except SimRunNotFoundError:
                return there
            there = True
            bad = run.status in (RunStatus.FAILED, RunStatus.CANCELLED)
            if not is_rejection(run) and not (bad and self._rerun):
                self._takes(index, run.status)
                return True
            self._run_again(index)

    def _run_again(self, index: int) -> None:
        self._journal.renew(index)
        self._journal.stands(index, ItemStatus.UNSENT)

    def _takes(self, index: int, status: RunStatus) -> None:
        journal = self._journal
        match status:
            case RunStatus.COMPLETED:
                journal.stands(index, ItemStatus.COMPLETED)
            case RunStatus.FAILED | RunStatus.CANCELLED if self._rerun:
                self._run_again(index)
            case RunStatus.FAILED:
                journal.stands(index, ItemStatus.FAILED)
            case RunStatus.CANCELLED:
                journal.stands(index, ItemStatus.CANCELLED)
            case _:
                journal.stands(index, ItemStatus.ACTIVE)


async def undeployed(client: AsyncSimClient, workflows: Iterable[str]) -> set[str]:
    """Which of these workflows aren't deployed; the question is free on every server.

    :raises SimError: that can't be found out.
    """
    missing = set()
    for some in _in_parts(workflows, AT_ONCE):
        told = await asyncio.gather(*(client.get_workflow_status(workflow_id) for workflow_id in some))
        missing |= {workflow_id for workflow_id, status in zip(some, told, strict=True) if not status.is_deployed}
    return missing


async def cancel_all(
    client: AsyncSimClient, journal: BatchState, workflow_of: Callable[[int], str], *, retry: RetryPolicy
) -> str:
    """Cancel every run that goes on; return what that achieved, in words.

    :param retry: how patiently each is cancelled.
    """
    open_ones = list(journal.indices(ItemStatus.ACTIVE, ItemStatus.SENT))
    accepted = failed = 0
    last: SimError | None = None

    async def cancel(index: int) -> None:
        nonlocal accepted, failed, last
        try:
            await client.cancel_workflow_run(workflow_of(index), journal.run_id(index), retry=retry)
        except SimRunNotFoundError:
            pass
        except SimError as error:
            failed, last = failed + 1, error
        else:
            accepted += 1

    for some in _in_parts(open_ones, 2 * AT_ONCE):
        await asyncio.gather(*(cancel(index) for index in some))
    told = f"{accepted} of {len(open_ones)} runs that went on were asked to cancel"
    return f"{told}; {failed} could not be and may go on. {last}" if last else f"{told}."


def _in_parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
