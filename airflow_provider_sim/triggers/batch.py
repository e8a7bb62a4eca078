"""Trigger that starts the rest of a batch and waits for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_sim._compat import read_xcom
from airflow_provider_sim.batch.chunks import DeferredInputs
from airflow_provider_sim.batch.engine import BatchEngine
from airflow_provider_sim.batch.reconcile import Reconciler, cancel_all
from airflow_provider_sim.batch.state import BatchState, decode_workflows
from airflow_provider_sim.client import AsyncSimClient
from airflow_provider_sim.triggers.base import SimTriggerBase

if TYPE_CHECKING:
    from airflow_provider_sim.task.run_options import RunOptions

GATHER_AFTER = 12 * 3600.0
"""Seconds after which a worker fetches the outputs of the finished runs; Sim keeps them for a day."""


class SimBatchTrigger(SimTriggerBase):
    """Starts the inputs of a batch that aren't started yet, and emits an event when all runs have finished.

    The event is ``{"status": ..., "state": ..., "worker_state": ...}``. The status is ``finished``, ``timeout``,
    ``gather`` (a worker must fetch the outputs so far, before Sim deletes them), ``sampled`` (the runs that were polled
    have finished, and probably the others: a worker fetches all outputs), or ``error`` with a ``message`` and the
    error's ``code``, and ``permanent`` if it is non-retryable.

    :param state: the batch's state when the task was deferred; a trigger that was moved to another triggerer asks Sim
        which runs have been started since.
    :param workflows: ``ids`` of the distinct workflows, and ``of``: the index of each input's workflow, run-length
        encoded.
    :param task: what identifies the task instance, whose XComs contain the inputs.
    :param since: seconds since the epoch at which the task was deferred.
    :param worker_state: what the task's next worker process needs, which is returned in the event.
    :param options: the task's :class:`~airflow_provider_sim.task.run_options.RunOptions`, or their dict.
    """

    def __init__(
        self,
        state: dict[str, Any],
        workflows: dict[str, Any],
        task: dict[str, Any],
        since: float,
        worker_state: dict[str, Any],
        options: RunOptions | Mapping[str, Any],
    ) -> None:
        super().__init__(options)
        self.state = state
        self.workflows = workflows
        self.names = task
        self.since = since
        self.worker_state = worker_state
        self._state = BatchState.from_dict(state, decode_workflows(workflows))

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as plain JSON."""
        path, arguments = self._serialize("state", "workflows", "since", "worker_state", "options")
        return path, {"task": self.names, **arguments}  # "task" is a property of Airflow's triggers

    async def _wait(self) -> TriggerEvent:
        """Start the rest of the batch and wait for all of it."""
        state, options = self._state, self.run_options
        async with AsyncSimClient.from_settings(await self._hook().get_async_settings()) as client:
            reconciler = Reconciler(client, state, since=self.since, workspace_id=options.workspace_id)
            await reconciler.update(unsent_only=True)
            inputs = DeferredInputs(self.worker_state["firsts"], lambda key: read_xcom(self.names, key))
            engine = BatchEngine(client, options, state, inputs)
            engine.throttle.known = self.worker_state["known_limit"]
            try:
                async with asyncio.timeout(GATHER_AFTER) as limit:
                    await engine.run()
            except TimeoutError:
                if not limit.expired():
                    raise
                return self._event("gather")
        if engine.stopped is not None:
            return self._failure(engine.stopped)
        return self._event("finished" if state.is_finished else "sampled")

    async def _cancel_runs(self, client: AsyncSimClient) -> str | None:
        return await cancel_all(client, self._state)

    def _event(self, status: str, **more: Any) -> TriggerEvent:
        return TriggerEvent(
            {"status": status, "state": self._state.to_dict(), "worker_state": self.worker_state, **more}
        )
