"""What waits for a run in the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sim.exceptions import SimError, SimRunTimeoutError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.versions import is_deferred
from airflow_provider_sim.watch import DEFAULT_POLL_INTERVAL, MAX_FAILED_LOOKS, OnPaused, RunWatch, await_run

_TELLS_OF_KILLS = hasattr(BaseTrigger, "on_kill")
"""Whether Airflow (3.3 and later) says so when a user has cleared or marked the task."""

FIRST_LOOK_AFTER = 3.0
"""Seconds without an event after the start: the scheduler may not yet have read that the task's first leg is over, and
fails a task that is resumed before."""


class SimRunTrigger(BaseTrigger):
    """Fires when a run is over, or paused where that counts.

    The event holds ids and a status only: ``{"status": ..., "workflow_id": ..., "run_id": ..., "job_id": ...}``, where
    the status is the run's (``completed``, ``failed``, ``cancelled``, ``paused``), or ``timeout``, or ``error`` with a
    ``message``. The task fetches everything else.

    :param workflow_id: the workflow.
    :param run_id: the run.
    :param sim_conn_id: the connection's id; the key itself is never part of a trigger.
    :param job_id: the run's queue entry, if known.
    :param poll_interval: seconds between looks.
    :param deadline: seconds since the epoch at which to give up; absolute, so that it holds when the trigger moves.
    :param on_paused: ``wait``, ``fail`` or ``return``: the last two fire on a pause that waits for a person.
    :param max_failed_looks: how many looks in a row may fail.
    :param cancel_on_kill: cancel the run when a user clears or marks the task. Not when the triggerer stops or hands
        the trigger on.
    """

    def __init__(
        self,
        workflow_id: str,
        run_id: str,
        sim_conn_id: str = "sim_default",
        job_id: str | None = None,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        deadline: float | None = None,
        on_paused: str = "wait",
        max_failed_looks: int = MAX_FAILED_LOOKS,
        cancel_on_kill: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.sim_conn_id = sim_conn_id
        self.job_id = job_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.on_paused = on_paused
        self.max_failed_looks = max_failed_looks
        self.cancel_on_kill = cancel_on_kill

    @classmethod
    def of_watch(cls, watch: RunWatch, sim_conn_id: str, *, cancel_on_kill: bool = False) -> SimRunTrigger:
        """The trigger that goes on with a watch begun on a worker."""
        return cls(
            workflow_id=watch.workflow_id,
            run_id=watch.run_id,
            sim_conn_id=sim_conn_id,
            job_id=watch.job_id,
            poll_interval=watch.poll_interval,
            deadline=watch.deadline,
            on_paused=watch.on_paused.value,
            max_failed_looks=watch.max_failed_looks,
            cancel_on_kill=cancel_on_kill,
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as plain JSON."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "workflow_id": self.workflow_id,
                "run_id": self.run_id,
                "sim_conn_id": self.sim_conn_id,
                "job_id": self.job_id,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "on_paused": self.on_paused,
                "max_failed_looks": self.max_failed_looks,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the run until there is something to tell; one event."""
        watch = RunWatch(
            self.workflow_id,
            self.run_id,
            job_id=self.job_id,
            poll_interval=self.poll_interval,
            deadline=self.deadline,
            on_paused=OnPaused(self.on_paused),
            max_failed_looks=self.max_failed_looks,
        )
        try:
            async with SimHook(self.sim_conn_id).get_async_conn() as client:
                # The worker has looked just before it deferred.
                await asyncio.sleep(watch.first_pause(FIRST_LOOK_AFTER))
                run = await await_run(client, watch)
        except SimRunTimeoutError:
            event = self._event("timeout")
        except SimError as error:
            event = self._event("error", message=str(error))
        except asyncio.CancelledError:
            if not _TELLS_OF_KILLS and self.cancel_on_kill and await self._was_killed():
                await self._cancel()
            raise
        else:
            event = self._event(run.status.value)
        yield event

    async def _was_killed(self) -> bool:
        """Whether a user has ended the waiting, as far as Airflow before 3.3 tells."""
        return self.task_instance is not None and not await is_deferred(self.task_instance)

    async def on_kill(self) -> None:
        """Cancel the run: a user has cleared or marked the task (Airflow 3.3 and later).

        Airflow (3.3.2) calls this as well in a triggerer that hung, when it goes on and finds its triggers handed on.
        """
        if self.cancel_on_kill and not await self._is_waited_for_elsewhere():
            await self._cancel()

    async def _is_waited_for_elsewhere(self) -> bool:
        try:
            return await is_deferred(self.task_instance)
        except Exception as error:  # whatever Airflow's processes have to say to each other
            self.log.warning("Airflow doesn't say whether the task still waits: %s Taking it for killed.", error)
            return False

    async def _cancel(self) -> None:
        from airflow_provider_sim.client.retry import RetryPolicy

        patience = RetryPolicy(max_retries=5, initial_delay=0.5, max_delay=2.0, max_elapsed=10.0)
        try:
            async with SimHook(self.sim_conn_id).get_async_conn() as client:
                achieved = await client.stop_workflow_run(
                    self.workflow_id, self.run_id, job_id=self.job_id, retry=patience
                )
        except SimError as error:
            self.log.error("Run %s could not be cancelled and may go on: %s", self.run_id, error)
        else:
            self.log.info("The task was killed by a user. %s", achieved)

    def _event(self, status: str, **more: str) -> TriggerEvent:
        ids = {"workflow_id": self.workflow_id, "run_id": self.run_id, "job_id": self.job_id}
        return TriggerEvent({"status": status, **ids, **more})
