"""Reconciliation of a batch's state with Sim after its process has died, and cancellation of its runs.

A page of a workspace's log contains up to 1,000 runs. Without logs, runs are read one by one in the order of their
starts, until several in a row are not found. If a run is overlooked, its input is sent again under the same ID, for
which Sim returns the existing run.
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

MAX_IN_FLIGHT = 16
"""Concurrent requests."""

CLOCK_SKEW = 60.0
"""Seconds by which the server's clock may be behind."""

MIN_LISTED = 4
"""Number of runs from which on a list is cheaper than reading each."""

_FINAL = {
    RunStatus.COMPLETED: ItemStatus.COMPLETED,
    RunStatus.FAILED: ItemStatus.FAILED,
    RunStatus.CANCELLED: ItemStatus.CANCELLED,
}


class Reconciler:
    """Updates a batch's state by what Sim returns.

    :param workflow_of: returns the workflow of an input.
    :param rerun: start failed and cancelled runs again.
    """

    def __init__(
        self, client: AsyncSimClient, state: BatchState, workflow_of: Callable[[int], str], *, rerun: bool = False
    ) -> None:
        self._client = client
        self._state = state
        self._workflow_of = workflow_of
        self._rerun = rerun

    async def update(self, *, since: float, workspace_id: str | None, unsent_only: bool = False) -> None:
        """Update the status of all runs that are not known to be finished.

        :param since: seconds since the epoch; all runs were started later.
        :param workspace_id: the workflows' workspace, if known.
        :param unsent_only: only of inputs that are not known to be started.
        :raises SimError: the runs can't be read.
        """
        active = [] if unsent_only else self._state.indices(ItemStatus.ACTIVE)
        unsent = self._state.indices(ItemStatus.UNSENT, ItemStatus.SENT)
        if not await self._list([*active, *unsent], since, workspace_id):
            await self._read_all(active)
            await self._read_in_order(unsent)

    def reopen(self) -> None:
        """Retry inputs that an earlier try has rejected or skipped, or, with ``rerun``, that have failed."""
        for index in self._state.indices(ItemStatus.REFUSED, ItemStatus.SKIPPED):
            self._state.set_status(index, ItemStatus.UNSENT)
        for index in self._state.indices(ItemStatus.PAUSED):
            self._state.set_status(index, ItemStatus.ACTIVE)
        if self._rerun:
            for index in self._state.indices(ItemStatus.FAILED, ItemStatus.CANCELLED):
                self._retry(index)

    async def _list(self, indices: Sequence[int], since: float, workspace_id: str | None) -> bool:
        """Update runs by the workspace's log; return False if it is unavailable, or reading them costs less."""
        if workspace_id is None or self._client.speaks_v2 is False or len(indices) < MIN_LISTED:
            return False
        latest: dict[int, tuple[int, RunStatus]] = {}
        try:
            async for run in self._logged(workspace_id, {self._workflow_of(index) for index in indices}, since):
                if found := self._state.parse_run_id(run.run_id or ""):
                    index, attempt = found
                    if attempt >= latest.get(index, (0, run.status))[0]:
                        latest[index] = attempt, run.status
        except (SimUnsupportedError, SimPermissionError, SimNotFoundError) as error:
            log.info("%s The runs are read one by one.", error)
            return False
        failed = []
        for index, (attempt, status) in latest.items():
            if attempt < self._state.attempt(index) or not self._state[index].is_open:
                continue
            if attempt > self._state.attempt(index):
                self._state.next_attempt(index, minimum=attempt)
            if status is RunStatus.FAILED and not self._rerun:
                failed.append(index)
            else:
                self._set_status(index, status)
        await self._read_all(failed)  # the log doesn't contain whether the run was rejected
        return True

    async def _logged(self, workspace_id: str, workflows: Iterable[str], since: float) -> AsyncIterator[WorkflowRun]:
        cursor: str | None = None
        while True:
            page = await self._client.list_logs(
                workspace_id,
                workflow_ids=named_workflows(workflows),
                triggers=[STARTED_BY_API],
                start_date=since - CLOCK_SKEW,
                order="asc",
                limit=LOGS_PAGE,
                cursor=cursor,
            )
            for run in page.items:
                yield run
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _read_all(self, indices: Iterable[int]) -> None:
        for group in _grouped(indices, MAX_IN_FLIGHT):
            await asyncio.gather(*map(self._read, group))

    async def _read_in_order(self, indices: Iterable[int]) -> None:
        """Read runs in the order of their starts, until as many in a row are not found as are started at once."""
        for group in _grouped(indices, MAX_STARTING):
            if not any(await asyncio.gather(*map(self._read, group))):
                return

    async def _read(self, index: int) -> bool:
        """Read an input's run, and its later attempts; return whether there is any."""
        exists = False
        while True:
            try:
                run = await self._client.get_workflow_run(
                    self._workflow_of(index), self._state.run_id(index), job_id=self._state.job_id(index)
                )
            except SimRunNotFoundError:
                return exists
            exists = True
            is_bad = run.status in (RunStatus.FAILED, RunStatus.CANCELLED)
            if not is_rejection(run) and not (is_bad and self._rerun):
                self._set_status(index, run.status)
                return True
            self._retry(index)

    def _retry(self, index: int) -> None:
        self._state.next_attempt(index)
        self._state.set_status(index, ItemStatus.UNSENT)

    def _set_status(self, index: int, status: RunStatus) -> None:
        if self._rerun and status in (RunStatus.FAILED, RunStatus.CANCELLED):
            self._retry(index)
        else:
            self._state.set_status(index, _FINAL.get(status, ItemStatus.ACTIVE))


async def undeployed(client: AsyncSimClient, workflows: Iterable[str]) -> set[str]:
    """Return which of these workflows are not deployed; the requests spend no rate limit.

    :raises SimError: their status can't be read.
    """
    missing = set()
    for group in _grouped(workflows, MAX_IN_FLIGHT):
        statuses = await asyncio.gather(*map(client.get_workflow_status, group))
        missing |= {workflow_id for workflow_id, status in zip(group, statuses, strict=True) if not status.is_deployed}
    return missing


async def cancel_all(
    client: AsyncSimClient, state: BatchState, workflow_of: Callable[[int], str], *, retry: RetryPolicy
) -> str:
    """Cancel all active runs; return the result, for a log line.

    :param retry: of each request.
    """
    active = state.indices(ItemStatus.ACTIVE, ItemStatus.SENT)
    accepted = failed = 0
    last: SimError | None = None

    async def cancel(index: int) -> None:
        nonlocal accepted, failed, last
        try:
            await client.cancel_workflow_run(workflow_of(index), state.run_id(index), retry=retry)
        except SimRunNotFoundError:
            pass
        except SimError as error:
            failed, last = failed + 1, error
        else:
            accepted += 1

    for group in _grouped(active, 2 * MAX_IN_FLIGHT):
        await asyncio.gather(*map(cancel, group))
    result = f"Sim accepted the cancellation of {accepted} of {len(active)} active runs"
    return f"{result}; {failed} requests failed, and these runs may continue. {last}" if last else f"{result}."


def _grouped(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while group := list(islice(rest, size)):
        yield group
