"""What starts the rest of a batch, and waits for all of it, in the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_sim._compat import read_xcom
from airflow_provider_sim.arguments import OnPaused
from airflow_provider_sim.batch.chunks import DeferredInputs
from airflow_provider_sim.batch.engine import BatchEngine, Terms, wait_by
from airflow_provider_sim.batch.reconcile import Reconciler, cancel_all
from airflow_provider_sim.batch.state import BatchState, ItemStatus, unsqueezed
from airflow_provider_sim.client import AsyncSimClient, ClientSettings, RetryPolicy
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.polling import DEFAULT_POLL_INTERVAL
from airflow_provider_sim.polling.poller import poller_for
from airflow_provider_sim.rate_limits import StartThrottle, rate_limits_for
from airflow_provider_sim.triggers import sim as single
from airflow_provider_sim.triggers.base import SimTriggerBase

GATHER_AFTER = 12 * 3600.0
"""Seconds after which a worker gets the outputs of the runs that have ended so far; Sim keeps them for a day."""

KILL_PATIENCE = RetryPolicy(max_retries=5, initial_delay=0.5, max_delay=2.0, max_elapsed=10.0)


class SimBatchTrigger(SimTriggerBase):
    """Fires when all runs of a batch are over; until then, starts those that aren't started yet.

    The event, ``{"status": ..., "journal": ..., "leg": ...}``, says how the batch stands. The status is ``over``,
    ``timeout``, ``gather`` (a worker is to get the outputs so far, before Sim forgets them), or ``error`` with a
    ``message`` and the error's ``code``, and ``permanent`` where no retry can mend it.

    :param journal: how the batch stood when the task was deferred; a trigger that was moved asks Sim what its former
        self has started since.
    :param workflows: the distinct workflows.
    :param of: by an input's number, its workflow's place in ``workflows``; squeezed.
    :param parts: the number of the first input of each of the XComs that hold the inputs.
    :param task: the names of the task instance that these are of.
    :param leg: what the task's next leg has to know; handed on in the event.
    :param sim_conn_id: the connection's id; the key itself is never part of a trigger.
    :param workspace_id: of the workflows, if known.
    :param since: seconds since the epoch, when the task was deferred.
    :param poll_interval: seconds between looks.
    :param deadline: seconds since the epoch at which to give up.
    :param on_paused: ``wait``, ``fail`` or ``return``: the last two end the waiting for a run that waits for a person.
    :param run_timeout: seconds after which the server stops a run.
    :param skip_undeployed: leave inputs of workflows out that aren't deployed.
    :param max_active_runs: how many runs may go on at once.
    :param known: how many Sim lets go on at once, as far as the worker has learnt.
    :param cancel_on_kill: cancel the runs when a user clears or marks the task.
    """

    def __init__(
        self,
        journal: dict[str, Any],
        workflows: Sequence[str],
        of: str,
        parts: Sequence[int],
        task: dict[str, Any],
        leg: dict[str, Any] | None = None,
        sim_conn_id: str = "sim_default",
        workspace_id: str | None = None,
        since: float = 0.0,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        deadline: float = 0.0,
        on_paused: OnPaused = "wait",
        run_timeout: int | None = None,
        skip_undeployed: bool = False,
        max_active_runs: int | None = None,
        known: int | None = None,
        cancel_on_kill: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.journal = journal
        self.workflows = list(workflows)
        self.of = of
        self.parts = list(parts)
        self.names = task
        self.leg = leg
        self.sim_conn_id = sim_conn_id
        self.workspace_id = workspace_id
        self.since = since
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.on_paused = on_paused
        self.run_timeout = run_timeout
        self.skip_undeployed = skip_undeployed
        self.max_active_runs = max_active_runs
        self.known = known
        self.cancel_on_kill = cancel_on_kill
        self._state = BatchState.read(journal)
        self._numbers = [int(number) for number in unsqueezed(of)]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as plain JSON."""
        names = (
            "journal",
            "workflows",
            "of",
            "parts",
            "leg",
            "sim_conn_id",
            "workspace_id",
            "since",
            "poll_interval",
            "deadline",
            "on_paused",
            "run_timeout",
            "skip_undeployed",
            "max_active_runs",
            "known",
            "cancel_on_kill",
        )
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "task": self.names,
            **{name: getattr(self, name) for name in names},
        }

    async def _wait(self) -> TriggerEvent:
        """Start the rest of the batch and wait for all of it."""
        settings = await SimHook(self.sim_conn_id).get_async_settings()
        async with AsyncSimClient.from_settings(settings) as client:
            try:
                async with asyncio.timeout(GATHER_AFTER) as limit:
                    stopped = await self._see_through(client, settings)
            except TimeoutError:
                if not limit.expired():
                    raise
                return self._event("gather")
        return self._event("over") if stopped is None else self._failure(stopped)

    def _least_seconds(self) -> float:
        return single.FIRST_POLL_AFTER

    async def _see_through(self, client: AsyncSimClient, settings: ClientSettings) -> SimError | None:
        limits = rate_limits_for(settings)
        client.on_rate_limit = limits.on_response
        survey = Reconciler(client, self._state, self._workflow_of)
        await survey.look_for_started(since=self.since, workspace_id=self.workspace_id)
        engine = BatchEngine(
            client,
            wait_by(poller_for(settings), self.workflows[0], self.workspace_id),
            workflow_of=self._workflow_of,
            input_of=DeferredInputs(self.parts, lambda key: read_xcom(self.names, key)),
            journal=self._state,
            throttle=StartThrottle(
                limits, bucket=lambda: client.start_bucket, maximum=self.max_active_runs, known=self.known
            ),
            terms=Terms(
                poll_interval=self.poll_interval,
                deadline=self.deadline,
                on_paused=self.on_paused,
                run_timeout=self.run_timeout,
                skip_undeployed=self.skip_undeployed,
            ),
        )
        await engine.run()
        return engine.stopped

    async def _cancel(self) -> None:
        going = self._state.count(ItemStatus.ACTIVE, ItemStatus.SENT)
        if not going:
            return
        try:
            settings = await SimHook(self.sim_conn_id).get_async_settings()
            async with AsyncSimClient.from_settings(replace(settings, retry=KILL_PATIENCE)) as client:
                told = await cancel_all(client, self._state, self._workflow_of, retry=KILL_PATIENCE)
        except SimError as error:
            self.log.error("The runs of batch %s could not be cancelled: %s", self._state.batch_id, error)
        else:
            self.log.info("The task was killed by a user. %s", told)

    def _workflow_of(self, index: int) -> str:
        return self.workflows[self._numbers[index]]

    def _event(self, status: str, **more: Any) -> TriggerEvent:
        return TriggerEvent({"status": status, "journal": self._state.written(), "leg": self.leg, **more})
