"""Trigger that waits for a run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from airflow_provider_sim._compat import TRIGGERS_REPLACE_WORKERS, push_xcoms, stores_xcoms_itself
from airflow_provider_sim.client import NO_RETRY, RUN_BUCKET, RunStatus, SimClient, run_url
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.links.sim import APPROVAL_URL_KEY, RUN_URL_KEY
from airflow_provider_sim.metrics import Metric
from airflow_provider_sim.polling import RunPollState
from airflow_provider_sim.task.deadlines import task_started_at
from airflow_provider_sim.task.uploads import Uploads, delete_uploads
from airflow_provider_sim.triggers.base import SimTriggerBase

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import AsyncSimClient, Cancellation, WorkflowRun
    from airflow_provider_sim.task.run_options import RunOptions


MAX_EVENT_OUTPUT = 32 * 1024  # characters of JSON; Airflow stores the event in its database until the task resumes


class SimRunTrigger(SimTriggerBase):
    """Emits an event when a run has finished, or is paused and ``on_paused`` is not ``wait``.

    The event is ``{"status": ..., "workflow_id": ..., "run_id": ..., "job_id": ...}``. The status is the run's
    (``completed``, ``failed``, ``cancelled``, ``paused``), with its times and cost as ``details``, or ``timeout``, or
    ``error`` with a ``message``. A completed run's output of up to 32 KiB is added as JSON text in ``output``, so that
    the worker imports no client and sends no request; not if the deployment stores XComs elsewhere. With
    ``end_from_trigger`` the trigger of a completed run gets the output and ends the task itself.

    :param workflow_id: the workflow.
    :param run_id: the run.
    :param job_id: the run's queue entry on the legacy API, if known.
    :param options: the task's :class:`~airflow_provider_sim.task.run_options.RunOptions`, or their dict.
    """

    def __init__(
        self,
        workflow_id: str,
        run_id: str,
        job_id: str | None = None,
        options: RunOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(options)
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.job_id = job_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as plain JSON."""
        return self._serialize("workflow_id", "run_id", "job_id", "options")

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the arguments of a task that starts in the triggerer (Airflow 3.3 and later).

        Airflow renders only arguments that are named like template fields of the sensor, so not ``options``.
        """
        names = ("workflow_id", "run_id", "options")
        self._do_render_template_fields(self, names, context, jinja_env or self.get_template_env(), set())

    async def _wait(self) -> TriggerEvent:
        """Wait for the run; all triggers of this process share the requests."""
        from airflow_provider_sim.polling.poller import poller_for  # a worker that defers doesn't need it

        options, settings = self.run_options, await self._settings()
        deadline = options.deadline
        if options.timeout_from_start is not None:
            deadline = task_started_at(self.task_instance) + options.timeout_from_start
        pushing: list[asyncio.Task[None]] = []
        state = RunPollState(
            self.workflow_id,
            self.run_id,
            job_id=self.job_id,
            poll_interval=options.poll_interval,
            started=options.started,
            deadline=deadline,
            on_paused=options.on_paused,
            base_url=settings.base_url,
            on_approval=lambda url: pushing.append(asyncio.create_task(self._push_link(APPROVAL_URL_KEY, url))),
        )
        if self._starts_here:  # otherwise a worker has pushed it
            url = run_url(settings.base_url, self.workflow_id, self.run_id, settings.workspace_id)
            await self._push_link(RUN_URL_KEY, url)
        poller = poller_for(settings)
        workspace_id = options.workspace_id or settings.workspace_id
        run = await poller.wait(state, look_soon=self._starts_here, workspace_id=workspace_id)
        await asyncio.gather(*pushing)
        if run.status.is_terminal and run.end_time is not None:
            self._run_ended_at = run.end_time + time.time() - poller.server_now()
        success, output = None, {}
        if run.status is RunStatus.COMPLETED:
            bucket = RUN_BUCKET if options.selected_outputs else None
            if options.end_from_trigger:
                success = await poller.ask(bucket, lambda client: self._end_task(client, run))
            elif not (options.uploads or options.output_files_dir) and stores_xcoms_itself():
                output = await poller.ask(bucket, lambda client: self._small_output(client, run))
        return success or self._event(run.status.value, details=run.details(), **output)

    async def _push_link(self, key: str, url: str) -> None:
        if not (TRIGGERS_REPLACE_WORKERS and self.run_options.do_xcom_push and self.task_instance):
            return
        try:
            await push_xcoms(self.task_instance, {key: url})
        except Exception as error:  # whatever Airflow raises
            self.log.warning("The link %s could not be pushed: %s", key, error)

    async def _small_output(self, client: AsyncSimClient, run: WorkflowRun) -> dict[str, Any]:
        """Return the output for the event; nothing if it is large or can't be fetched, which a worker does then."""
        client = client.with_retry(NO_RETRY)
        client.max_response_bytes = 2 * MAX_EVENT_OUTPUT
        with suppress(SimError, RecursionError):
            output = await client.get_run_output(run, self.run_options.selected_outputs)
            text = json.dumps(output.value)  # as text, Airflow stores any value, such as one with U+0000
            if len(text) <= MAX_EVENT_OUTPUT:
                return {"output": text, "is_display_copy": output.is_display_copy}
        return {}

    async def _end_task(self, client: AsyncSimClient, run: WorkflowRun) -> TriggerEvent | None:
        """Push the XComs that a worker would push, and return the event that ends the task; None to use a worker.

        ``dag.test()`` runs triggers without a task instance, and resumes the task after any event.
        """
        from airflow_provider_sim.task.results import DETAILS_KEY, DISPLAY_COPY_KEY, delivered

        if self.task_instance is None:
            return None
        if self._starts_here and self.task is not None and next(self.task.iter_mapped_dependants(), None) is not None:
            self.log.info("A worker ends the task, because it stores the length of an output for mapped tasks.")
            return None
        try:
            options = self.run_options
            output = await client.get_run_output(run, options.selected_outputs)
            fetch = SimClient.from_settings(client.settings).download_file
            result = await asyncio.to_thread(delivered, run, output, options, fetch=fetch)
            if options.do_xcom_push:
                display_copy = {DISPLAY_COPY_KEY: True} if output.is_display_copy else {}
                xcoms = {"return_value": result, DETAILS_KEY: run.details(), **display_copy}
                await push_xcoms(self.task_instance, xcoms)
        except Exception as error:
            self.log.warning("The trigger could not end the task, so a worker does: %s", error)
            return None
        Metric.RUN_FINISHED.incr(status=run.status.value)
        await self._delete_uploads(client)
        return TaskSuccessEvent()

    async def _cancel_runs(self, client: AsyncSimClient) -> Cancellation:
        cancelled = await client.stop_workflow_run(self.workflow_id, self.run_id, job_id=self.job_id)
        await self._delete_uploads(client)
        return cancelled

    async def _delete_uploads(self, client: AsyncSimClient) -> None:
        if uploads := self.run_options.uploads:
            with SimClient.from_settings(client.settings) as blocking:
                await asyncio.to_thread(delete_uploads, blocking, Uploads(**uploads))

    def _event(self, status: str, **more: Any) -> TriggerEvent:
        ids = {"workflow_id": self.workflow_id, "run_id": self.run_id, "job_id": self.job_id}
        uploads = {"uploads": self.run_options.uploads} if self.run_options.uploads else {}
        return TriggerEvent({"status": status, **ids, **uploads, **more})
