"""Trigger that starts the rest of a batch and waits for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_sim._compat import read_xcom
from airflow_provider_sim.batch.chunks import deferred_inputs
from airflow_provider_sim.batch.engine import BatchEngine
from airflow_provider_sim.batch.reconcile import Reconciler, cancel_all
from airflow_provider_sim.batch.state import BatchState
from airflow_provider_sim.client import AsyncSimClient
from airflow_provider_sim.triggers.base import SimTriggerBase

if TYPE_CHECKING:
    from airflow_provider_sim.task.run_options import RunOptions


class SimBatchTrigger(SimTriggerBase):
    """Starts the inputs of a batch that aren't started yet, and emits an event when all runs have finished.

    The event is ``{"status": ..., "state": ..., "worker_state": ...}``. The status is ``gather`` (a worker must fetch
    outputs, since the runs that were polled have finished, or before Sim deletes them), ``timeout`` or ``error``.

    :param state: the batch's state when the task was deferred; a trigger that was moved to another triggerer asks Sim
        which runs have been started since.
    :param worker_state: what the task's next worker process needs, which the event returns.
    :param options: the task's :class:`~airflow_provider_sim.task.run_options.RunOptions`, or their dict.
    """

    def __init__(
        self, state: dict[str, Any], worker_state: dict[str, Any], options: RunOptions | Mapping[str, Any]
    ) -> None:
        super().__init__(options)
        self.state = state
        self.worker_state = worker_state
        self._state = BatchState.from_dict(state)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as plain JSON."""
        return self._serialize("state", "worker_state", "options")

    async def _wait(self) -> TriggerEvent:
        state, options = self._state, self.run_options
        async with AsyncSimClient.from_settings(await self._settings()) as client:
            await Reconciler(client, state, options.workspace_id).update(unsent_only=True)
            inputs = deferred_inputs(self.worker_state["firsts"], partial(read_xcom, self.worker_state["names"]))
            engine = BatchEngine(client, options, state, inputs)
            engine.throttle.known = self.worker_state["known_limit"]
            await engine.run()
        return self._event("gather")

    async def _cancel_runs(self, client: AsyncSimClient) -> str | None:
        return await cancel_all(client, self._state)

    def _event(self, status: str, **more: Any) -> TriggerEvent:
        state = self._state.to_dict()
        return TriggerEvent({"status": status, "state": state, "worker_state": self.worker_state, **more})
