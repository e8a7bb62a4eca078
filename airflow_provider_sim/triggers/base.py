"""Base class of the triggers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sim._compat import TRIGGERS_GET_ON_KILL, is_deferred
from airflow_provider_sim.client import RetryPolicy
from airflow_provider_sim.exceptions import SimError, SimPermanentError, SimRunTimeoutError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.metrics import Metric
from airflow_provider_sim.task.run_options import RunOptions

if TYPE_CHECKING:
    from airflow_provider_sim.client import AsyncSimClient, Cancellation, ClientSettings

FIRST_POLL_AFTER = 3.0  # seconds without an event: the scheduler may not know of the deferral, and would fail the task
SETTINGS_SHARED_FOR = 10.0  # seconds; Airflow's triggerer spends as much on reading a connection as on all the rest
CANCEL_RETRY = RetryPolicy(max_retries=5, initial_delay=0.5, max_delay=2.0, max_elapsed=10.0)

_reads: MutableMapping[asyncio.AbstractEventLoop, dict[str, asyncio.Task[ClientSettings]]] = WeakKeyDictionary()


class SimTriggerBase(BaseTrigger):
    """A trigger that waits for runs and emits one event.

    The event's ``status`` is ``timeout`` at the deadline, and ``error`` if :meth:`_wait` raises anything else, with
    ``message``, ``code`` and ``permanent``: an exception that left the trigger would fail the task without any method
    of the operator being called, and the runs would continue.

    With ``cancel_on_kill``, the runs are cancelled when a user clears or marks the task, but not when the triggerer
    stops or another triggerer takes over.
    """

    def __init__(self, options: RunOptions | Mapping[str, Any] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.options = options.to_dict() if isinstance(options, RunOptions) else dict(options or {})
        self._run_ended_at: float | None = None  # seconds since the epoch, on the local clock

    @cached_property
    def run_options(self) -> RunOptions:
        """The options, parsed after Airflow has rendered them."""
        return RunOptions.from_dict(self.options)

    @property
    def _starts_here(self) -> bool:
        """Whether the task started in the triggerer: no worker has polled or pushed links."""
        return self.options.get("timeout_from_start") is not None

    def _serialize(self, *names: str) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def _settings(self) -> ClientSettings:
        """Return the connection's settings, which triggers that start within some seconds read once."""
        conn_id, loop = self.run_options.sim_conn_id, asyncio.get_running_loop()
        reads = _reads.setdefault(loop, {})
        if conn_id not in reads:
            reads[conn_id] = loop.create_task(SimHook(conn_id).get_async_settings())
            loop.call_later(SETTINGS_SHARED_FOR, reads.pop, conn_id, None)
        return await asyncio.shield(reads[conn_id])

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and emit one event."""
        earliest = time.monotonic() + (0.0 if self._starts_here else FIRST_POLL_AFTER)
        try:
            try:
                event = await self._wait()
            except SimRunTimeoutError as error:
                event = self._event("timeout", message=str(error))
            except Exception as error:
                event = self._failure(error)
            await asyncio.sleep(max(0.0, earliest - time.monotonic()))
        except asyncio.CancelledError:
            if not TRIGGERS_GET_ON_KILL and self.task_instance is not None:
                await _finish(self._cancel_if_killed(assume_killed=False))
            raise
        if self._run_ended_at is not None:
            Metric.RUN_EVENT_DELAY.timing(time.time() - self._run_ended_at)
        yield event

    async def _wait(self) -> TriggerEvent:
        raise NotImplementedError

    def _event(self, status: str, **more: Any) -> TriggerEvent:
        """Return an event with what identifies the runs; plain JSON."""
        raise NotImplementedError

    def _failure(self, error: Exception) -> TriggerEvent:
        """Return the ``error`` event; an error that isn't Sim's is logged with its traceback."""
        if isinstance(error, SimError):
            permanent = isinstance(error, SimPermanentError)
            return self._event("error", message=str(error), code=error.code, permanent=permanent)
        self.log.error("The trigger failed.", exc_info=error)
        message = f"The trigger failed with {type(error).__name__}: {error}"
        return self._event("error", message=message, code=SimError.code, permanent=False)

    async def on_kill(self) -> None:
        """Cancel the runs: a user has cleared or marked the task (Airflow 3.3 and later), or the triggerer hung."""
        await _finish(self._cancel_if_killed(assume_killed=True))

    async def _cancel_if_killed(self, *, assume_killed: bool) -> None:
        """Cancel the runs unless the task is still deferred; ``assume_killed`` if its state can't be read."""
        if not self.options.get("cancel_on_kill"):
            return
        try:  # Airflow before 3.3 doesn't report why it cancels a trigger
            if await is_deferred(self.task_instance):
                return
        except Exception as error:  # whatever Airflow raises
            if not assume_killed:
                raise
            self.log.warning("Could not read the task's state; assuming that it was killed: %s", error)
        from airflow_provider_sim.client import AsyncSimClient

        try:
            settings = await self._settings()
            async with AsyncSimClient.from_settings(replace(settings, retry=CANCEL_RETRY)) as client:
                result = await self._cancel_runs(client)
        except SimError as error:
            self.log.error("The task was killed, but its runs could not be cancelled and may continue: %s", error)
        else:
            if result:
                self.log.info("The task was killed by a user. %s", result)

    async def _cancel_runs(self, client: AsyncSimClient) -> Cancellation | str | None:
        """Cancel the runs and return the result; None if none is active."""
        raise NotImplementedError


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Finish the work even if Airflow cancels the trigger again, as it does (3.3.2) about once a second."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
