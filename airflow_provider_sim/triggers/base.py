"""What the triggers have in common: what they do when a user acts on their task."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from airflow.triggers.base import BaseTrigger

from airflow_provider_sim.versions import is_deferred

TELLS_OF_KILLS = hasattr(BaseTrigger, "on_kill")
"""Whether Airflow (3.3 and later) says so when a user has cleared or marked the task."""


class WaitsForRuns(BaseTrigger):
    """A trigger whose runs are cancelled when a user clears or marks the task, if the author wants that.

    Not when the triggerer stops or hands the trigger on.
    """

    cancel_on_kill: bool

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
