"""Base class of the triggers: one event, whatever happens, and what a user does to the task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sim._compat import is_deferred
from airflow_provider_sim.exceptions import SimError, SimPermanentError, SimRunTimeoutError

TELLS_OF_KILLS = hasattr(BaseTrigger, "on_kill")
"""Whether Airflow (3.3 and later) says so when a user has cleared or marked the task."""


class SimTriggerBase(BaseTrigger):
    """A trigger that waits for runs and emits one event.

    Subclasses implement :meth:`_wait`, :meth:`_event` and :meth:`_cancel`. The event's ``status`` is ``timeout`` at the
    deadline and ``error`` for anything else that :meth:`_wait` raises, with ``message``, ``code`` and ``permanent``: an
    exception that left the trigger would fail the task without any method of the operator being called, and the runs
    would go on.

    With ``cancel_on_kill``, the runs are cancelled when a user clears or marks the task, but not when the triggerer
    stops or another triggerer takes the trigger over.
    """

    cancel_on_kill: bool

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and emit one event."""
        not_before = time.monotonic() + self._least_seconds()
        try:
            event = await self._outcome()
            await asyncio.sleep(max(0.0, not_before - time.monotonic()))
        except asyncio.CancelledError:
            await self._on_cancelled()
            raise
        yield event

    async def _outcome(self) -> TriggerEvent:
        try:
            return await self._wait()
        except SimRunTimeoutError as error:
            return self._event("timeout", message=str(error))
        except Exception as error:
            return self._failure(error)

    def _least_seconds(self) -> float:
        """Return the seconds that pass before an event: see ``triggers.sim.FIRST_POLL_AFTER``."""
        raise NotImplementedError

    async def _wait(self) -> TriggerEvent:
        """Return the event to emit.

        :raises SimRunTimeoutError: the deadline has passed.
        """
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
        return self._event("error", message=message, code=SimError.default_code, permanent=False)

    async def on_kill(self) -> None:
        """Cancel the runs: a user has cleared or marked the task (Airflow 3.3 and later).

        Airflow (3.3.2) calls this as well in a triggerer that hung, when it goes on and finds its triggers handed on.
        """
        if self.cancel_on_kill:
            await _to_the_end(self._cancel_if(self._waits_nowhere()))

    async def _on_cancelled(self) -> None:
        """Do the same where Airflow (before 3.3) doesn't say why it ends the waiting."""
        if not TELLS_OF_KILLS and self.cancel_on_kill:
            await _to_the_end(self._cancel_if(self._was_killed()))

    async def _cancel_if(self, unwanted: Coroutine[Any, Any, bool]) -> None:
        if await unwanted:
            await self._cancel()

    async def _was_killed(self) -> bool:
        """Whether a user has ended the waiting, as far as Airflow before 3.3 tells."""
        return self.task_instance is not None and not await is_deferred(self.task_instance)

    async def _waits_nowhere(self) -> bool:
        try:
            return not await is_deferred(self.task_instance)
        except Exception as error:  # whatever Airflow's processes have to say to each other
            self.log.warning("Airflow doesn't say whether the task still waits: %s Taking it for killed.", error)
            return True

    async def _cancel(self) -> None:
        """Cancel the runs, and say what that achieved."""
        raise NotImplementedError


_under_way: set[asyncio.Future[None]] = set()
"""So that nobody takes for garbage what is left to itself."""


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do something to its end, however often the trigger is cancelled meanwhile.

    Airflow (3.3.2) cancels a trigger again about once a second until it is gone, also within ``on_kill``.
    """
    doing = asyncio.ensure_future(work)
    _under_way.add(doing)
    doing.add_done_callback(_under_way.discard)
    while not doing.done():
        try:
            await asyncio.shield(doing)
        except asyncio.CancelledError:
            continue
