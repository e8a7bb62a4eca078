"""What waits for room in the triggerer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sim.deferral import began_at
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.triggers import sim
from airflow_provider_sim.usage import Usage, UsageWatch
from airflow_provider_sim.watch.watcher import watcher_of


class SimUsageTrigger(BaseTrigger):
    """Fires when less than so much of the account's usage limit is used.

    The event is ``{"status": "room"}``, ``{"status": "timeout"}``, or ``error`` with a ``message``.

    :param below: percent of the limit.
    :param sim_conn_id: the connection's id; the key itself is never part of a trigger.
    :param poll_interval: seconds between looks.
    :param timeout: seconds to wait, from the task's start, so that it holds when the trigger moves; None for no end.
    """

    def __init__(
        self,
        below: float = 100.0,
        sim_conn_id: str = "sim_default",
        poll_interval: float = 300.0,
        timeout: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.below = below
        self.sim_conn_id = sim_conn_id
        self.poll_interval = poll_interval
        self.timeout = timeout

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as plain JSON."""
        arguments = {name: getattr(self, name) for name in ("below", "sim_conn_id", "poll_interval", "timeout")}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look now and then until there is room; one event."""
        watch, deadline = UsageWatch(self.below), self._deadline()
        # The worker has looked just before it deferred, and the scheduler must have read that it did.
        pause = max(self.poll_interval, sim.FIRST_LOOK_AFTER)
        event: dict[str, Any] | None = None
        while event is None:
            left = None if deadline is None else max(0.0, deadline - time.time())
            await asyncio.sleep(pause if left is None else min(pause, max(left, sim.FIRST_LOOK_AFTER)))
            try:
                if await self._has_room(watch):
                    event = {"status": "room"}
                elif deadline is not None and time.time() >= deadline:
                    event = {"status": "timeout"}
            except SimError as error:
                event = {"status": "error", "message": str(error)}
        yield TriggerEvent(event)

    async def _has_room(self, watch: UsageWatch) -> bool:
        """Look once.

        :raises SimError: that can't be done, and looking again is no use.
        """
        settings = await SimHook(self.sim_conn_id).get_async_settings()
        async with watcher_of(settings).lend() as client:
            try:
                return watch.saw(Usage(*await client.get_usage()))
            except SimError as error:
                watch.missed(error)
                return False

    def _deadline(self) -> float | None:
        if self.timeout is None:
            return None
        return began_at(self.task_instance) + self.timeout
