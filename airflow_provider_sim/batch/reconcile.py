"""Reconciliation of a batch's state with Sim after its process has died, and cancellation of its runs.

A page of a workspace's log contains up to 1,000 runs. Without logs, runs are read in the order of their starts, until
several are not found. An input whose run is overlooked is sent again under the same ID, and Sim returns the run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from airflow_provider_sim.batch.state import OPEN, BatchState, ItemStatus
from airflow_provider_sim.client import (
    LOGS_PAGE,
    STARTED_BY_API,
    AsyncSimClient,
    RunStatus,
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
from airflow_provider_sim.polling.rate_limits import MAX_STARTING

log = logging.getLogger(__name__)

R = TypeVar("R")

CLOCK_SKEW = 60.0  # seconds by which the server's clock may be behind
MIN_LISTED = 4  # number of runs from which on a list is cheaper than reading each


class Reconciler(NamedTuple):
    """Updates a batch's state by what Sim returns."""

    client: AsyncSimClient
    state: BatchState
    workspace_id: str | None  # of the workflows, if known
    rerun: bool = False  # start failed and cancelled runs again

    async def update(self, *, unsent_only: bool = False) -> None:
        """Update the status of all runs that may be active, or only of inputs that are not known to be started."""
        active = self.state.indices(ItemStatus.ACTIVE)
        if unsent_only:  # one response shows which API the server has
            active = active[-1:] if self.client.speaks_v2 is None else []
        unsent = self.state.indices(ItemStatus.UNSENT, ItemStatus.SENT)
        if not await self.list_runs([*active, *unsent]):
            await in_flight(self.read, active)
            for first in range(0, len(unsent), MAX_STARTING):  # in the order of the starts
                if not any(await in_flight(self.read, unsent[first : first + MAX_STARTING])):
                    break

    def reopen(self) -> None:
        """Retry inputs that an earlier try has rejected or skipped, or, with ``rerun``, that have failed."""
        for index, status in enumerate(self.state.statuses):
            if status in (ItemStatus.REFUSED, ItemStatus.SKIPPED):
                self.state.set_status(index, ItemStatus.UNSENT)
            elif status is ItemStatus.PAUSED:
                self.state.set_status(index, ItemStatus.ACTIVE)
            elif self.rerun and status in (ItemStatus.FAILED, ItemStatus.CANCELLED):
                self._retry(index)

    async def list_runs(self, indices: Sequence[int]) -> bool:
        """Update runs by the workspace's log; return False if it is unavailable, or reading them costs less."""
        state, failed = self.state, set[int]()
        if self.workspace_id is None or self.client.speaks_v2 is False or len(indices) < MIN_LISTED:
            return False
        cursor, is_last = None, False
        try:
            while not is_last:
                page = await self.client.list_logs(
                    self.workspace_id,
                    workflow_ids=named_workflows({state.workflows[index] for index in indices}),
                    triggers=[STARTED_BY_API],
                    start_date=state.since - CLOCK_SKEW,
                    order="asc",
                    limit=LOGS_PAGE,
                    cursor=cursor,
                )
                for run in page.items:  # in the order of their starts: an input's last attempt comes last
                    index, attempt = state.parse_run_id(run.run_id or "") or (0, 0)
                    if attempt < state.attempts[index] or state.statuses[index] not in OPEN:
                        continue
                    if attempt > state.attempts[index]:
                        state.next_attempt(index, minimum=attempt)
                    if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
                        failed.add(index)
                    else:
                        failed.discard(index)
                        self._set_status(index, run.status)
                cursor, is_last = page.next_cursor, page.next_cursor is None
        except (SimUnsupportedError, SimPermissionError, SimNotFoundError) as error:
            log.info("%s The runs are read one by one.", error)
            return False
        await in_flight(self.read, failed)  # the log doesn't contain whether the run was rejected
        return True

    async def read(self, index: int) -> bool:
        """Read an input's run, and its later attempts; return whether there is any."""
        state = self.state
        try:
            ids = state.workflows[index], state.run_id(index)
            run = await self.client.get_workflow_run(*ids, job_id=state.job_id(index))
        except SimRunNotFoundError:
            return False
        if (self.rerun and run.status in (RunStatus.FAILED, RunStatus.CANCELLED)) or is_rejection(run):
            self._retry(index)
            await self.read(index)
        else:
            self._set_status(index, run.status)
        return True

    def _retry(self, index: int) -> None:
        self.state.next_attempt(index)
        self.state.set_status(index, ItemStatus.UNSENT)

    def _set_status(self, index: int, status: RunStatus) -> None:
        self.state.set_status(index, ItemStatus[status.name] if status.is_terminal else ItemStatus.ACTIVE)


async def cancel_all(client: AsyncSimClient, state: BatchState) -> str | None:
    """Cancel all active runs; return the result for a log line, None if none is active."""
    active = state.indices(ItemStatus.ACTIVE, ItemStatus.SENT)[::-1]  # the first ones have probably finished
    if not active:
        return None

    async def cancel(index: int) -> SimError | None:
        try:
            await client.cancel_workflow_run(state.workflows[index], state.run_id(index))
        except SimError as error:
            return None if isinstance(error, SimRunNotFoundError) else error
        return None

    errors = [error for error in await in_flight(cancel, active, limit=32) if error]
    failures = f"; {len(errors)} requests failed, and these runs may continue: {errors[-1]}" if errors else ""
    return f"Sim accepted the cancellation of {len(active) - len(errors)} of {len(active)} active runs{failures}."


async def in_flight(function: Callable[[int], Awaitable[R]], indices: Iterable[int], *, limit: int = 16) -> list[R]:
    """Call a function with each input's index, several at a time, until one fails; return the results in order."""
    slots = asyncio.Semaphore(limit)

    async def call(index: int) -> R:
        async with slots:
            return await function(index)

    calls = [asyncio.create_task(call(index)) for index in indices]
    try:
        return await asyncio.gather(*calls)
    finally:
        for task in calls:
            task.cancel()
