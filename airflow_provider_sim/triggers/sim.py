"""What waits for a run in the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from airflow_provider_sim._compat import push_xcoms
from airflow_provider_sim.arguments import OnPaused
from airflow_provider_sim.client import RunStatus, check_run_id, check_workflow_id
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.links.sim import link_xcoms
from airflow_provider_sim.polling import DEFAULT_POLL_INTERVAL, MAX_FAILED_POLLS, PollState
from airflow_provider_sim.polling.poller import poller_for
from airflow_provider_sim.task.deadlines import task_started_at
from airflow_provider_sim.triggers.base import TELLS_OF_KILLS, SimTriggerBase

if TYPE_CHECKING:
    from airflow_provider_sim.client import AsyncSimClient, WorkflowRun

TASKS_END_IN_TRIGGERERS = TELLS_OF_KILLS
"""Whether a trigger of this Airflow (3.3 and later) can push XComs, and so end a task."""

FIRST_POLL_AFTER = 3.0
"""Seconds without an event after the start: the scheduler may not yet have read that the task's first leg is over, and
fails a task that is resumed before."""


class SimRunTrigger(SimTriggerBase):
    """Fires when a run is over, or paused where that counts.

    The event holds ids and a status only: ``{"status": ..., "workflow_id": ..., "run_id": ..., "job_id": ...}``, where
    the status is the run's (``completed``, ``failed``, ``cancelled``, ``paused``), or ``timeout``, or ``error`` with a
    ``message``. The task fetches everything else. With ``end_from_trigger`` a completed run needs no task for that: the
    trigger fetches the output and ends the task. Everything else is for a worker, whose log then says it.

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
    :param timeout: seconds from the task's start, instead of ``deadline``, for tasks that start in the triggerer.
    :param end_from_trigger: end the task here when the run has completed.
    :param selected_outputs: with ``end_from_trigger``, as for ``SimJobSensor``; so are ``output_files_dir``,
        ``max_output_bytes``, ``large_outputs`` and ``do_xcom_push``.
    """

    def __init__(
        self,
        workflow_id: str,
        run_id: str,
        sim_conn_id: str = "sim_default",
        job_id: str | None = None,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        deadline: float | None = None,
        on_paused: OnPaused = "wait",
        max_failed_looks: int = MAX_FAILED_POLLS,
        cancel_on_kill: bool = False,
        timeout: float | None = None,
        end_from_trigger: bool = False,
        selected_outputs: Sequence[str] | None = None,
        output_files_dir: str | None = None,
        max_output_bytes: int | None = None,
        large_outputs: str = "fail",
        do_xcom_push: bool = True,
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
        self.timeout = timeout
        self.end_from_trigger = end_from_trigger
        self.selected_outputs = selected_outputs
        self.output_files_dir = output_files_dir
        self.max_output_bytes = max_output_bytes
        self.large_outputs = large_outputs
        self.do_xcom_push = do_xcom_push

    @classmethod
    def of_watch(cls, watch: PollState, sim_conn_id: str, **how: Any) -> SimRunTrigger:
        """The trigger that goes on with a watch begun on a worker."""
        return cls(
            workflow_id=watch.workflow_id,
            run_id=watch.run_id,
            sim_conn_id=sim_conn_id,
            job_id=watch.job_id,
            poll_interval=watch.poll_interval,
            deadline=watch.deadline,
            on_paused=watch.on_paused,
            max_failed_looks=watch.max_failed_looks,
            **how,
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
                "timeout": self.timeout,
                "end_from_trigger": self.end_from_trigger,
                "selected_outputs": self.selected_outputs,
                "output_files_dir": self.output_files_dir,
                "max_output_bytes": self.max_output_bytes,
                "large_outputs": self.large_outputs,
                "do_xcom_push": self.do_xcom_push,
            },
        )

    async def _wait(self) -> TriggerEvent:
        """Wait for the run; all triggers of this process share the requests."""
        check_workflow_id(self.workflow_id)
        check_run_id(self.run_id)
        watch = PollState(
            self.workflow_id,
            self.run_id,
            job_id=self.job_id,
            poll_interval=self.poll_interval,
            deadline=self._deadline(),
            on_paused=self.on_paused,
            max_failed_looks=self.max_failed_looks,
        )
        hook = SimHook(self.sim_conn_id)
        settings = await hook.get_async_settings()
        watch.base_url = settings.base_url
        if self._starts_here:
            await self._push_links(settings.base_url, hook.workspace_id)
        poller = poller_for(settings)
        run = await poller.wait(
            watch, least=self._least_seconds(), look_soon=self._starts_here, workspace_id=hook.workspace_id
        )
        ending = None
        if self.end_from_trigger and run.status is RunStatus.COMPLETED:
            async with poller.lend() as client:
                ending = await self._ending(client, run)
        return ending or self._event(run.status.value)

    @property
    def _starts_here(self) -> bool:
        """Whether the task started in the triggerer: no worker has polled or pushed links."""
        return self.timeout is not None

    def _least_seconds(self) -> float:
        return 0.0 if self._starts_here else FIRST_POLL_AFTER

    def _deadline(self) -> float | None:
        """Seconds since the epoch; the same in whichever triggerer."""
        if self.timeout is None:
            return self.deadline
        return task_started_at(self.task_instance) + self.timeout

    async def _push_links(self, base_url: str, workspace_id: str | None) -> None:
        """Push what a worker pushes before it defers."""
        if not self.do_xcom_push:
            return
        try:
            await push_xcoms(
                self.task_instance,
                link_xcoms(base_url, workflow_id=self.workflow_id, run_id=self.run_id, workspace_id=workspace_id),
            )
        except Exception as error:
            self.log.warning("The links could not be pushed: %s", error)

    async def _ending(self, client: AsyncSimClient, run: WorkflowRun) -> TriggerEvent | None:
        """Push what a worker would have pushed, and return the event that ends the task; None to leave it to a worker.

        ``dag.test()`` runs triggers without a task instance, and resumes the task after any event.
        """
        if not TASKS_END_IN_TRIGGERERS:
            self.log.info("end_from_trigger needs Airflow 3.3; a worker ends the task.")
            return None
        if self.task_instance is None:
            return None
        if self._starts_here and self._is_mapped_over():
            self.log.info("A worker ends the task, since other tasks are mapped over its output.")
            return None
        try:
            xcoms = await self._xcoms(client, run)
            if self.do_xcom_push:
                await push_xcoms(self.task_instance, xcoms)
        except Exception as error:
            self.log.warning("The task couldn't be ended here, so a worker does it: %s", error)
            return None
        return TaskSuccessEvent()

    def _is_mapped_over(self) -> bool:
        """Whether tasks are mapped over the output; only a worker stores its length."""
        return self.task is not None and next(self.task.iter_mapped_dependants(), None) is not None

    async def _xcoms(self, client: AsyncSimClient, run: WorkflowRun) -> dict[str, Any]:
        from airflow_provider_sim.client import SimClient
        from airflow_provider_sim.task.output import OutputRules
        from airflow_provider_sim.task.results import DETAILS_KEY, DISPLAY_COPY_KEY, delivered

        rules = OutputRules.given(self.output_files_dir, self.max_output_bytes, self.large_outputs)
        output = await client.get_output(run, self.selected_outputs)
        fetch = SimClient.from_settings(client.settings).download_file
        result = await asyncio.to_thread(delivered, run, output, rules, fetch=fetch)
        return {"return_value": result, DETAILS_KEY: run.details(), DISPLAY_COPY_KEY: output.is_display_copy}

    async def _cancel(self) -> None:
        from airflow_provider_sim.client import RetryPolicy

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

    def _event(self, status: str, **more: Any) -> TriggerEvent:
        ids = {"workflow_id": self.workflow_id, "run_id": self.run_id, "job_id": self.job_id}
        return TriggerEvent({"status": status, **ids, **more})
