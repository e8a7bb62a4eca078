"""Operator that runs a workflow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import Rule
from airflow_provider_sim.client import MAX_RUN_TIMEOUT, SYNC_TIMEOUT, check_block_ids
from airflow_provider_sim.exceptions import SimRunTimeoutError
from airflow_provider_sim.links.sim import APPROVAL_URL_KEY, SimApprovalLink, SimRunLink
from airflow_provider_sim.operators.base import DEFERRABLE, SimRunOperatorBase, SimWorkflowOperatorBase
from airflow_provider_sim.task.deadlines import deadline
from airflow_provider_sim.task.input import copy_files, has_files
from airflow_provider_sim.task.pause_report import PauseReport as PauseReport
from airflow_provider_sim.triggers.workerless import can_end_in_trigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import AsyncExecutionResult, SimClient, WorkflowRun
    from airflow_provider_sim.task.results import RunEvent
    from airflow_provider_sim.task.run import TaskRun
    from airflow_provider_sim.task.run_options import RunOptions


class SimExecuteWorkflowOperator(SimRunOperatorBase, SimWorkflowOperatorBase):
    """Run a deployed workflow and return its output.

    By default the connection is held open until the run has finished (sync), which suits runs of up to a minute. With
    ``async_execution`` Sim queues the run, and the worker polls it; with ``deferrable`` the run is async as well, and
    the task waits in the triggerer. With ``stream`` the connection is held open, and the workflow's text is written to
    the task log while it runs.

    A try starts at most one run. The run ID is persisted before the request is sent, so a retry after a crash or a lost
    response re-attaches to an active run, and returns the output of a completed one. A run that fails or is cancelled
    fails the task, and a retry starts another. A non-retryable error (wrong key, workflow unknown or not deployed,
    input rejected by Sim, usage limit reached) fails the task at once.

    XComs: ``return_value``, ``run_id``, ``run_url``, ``approval_url``, ``output_is_display_copy`` (only if it is True),
    ``job_id`` on the legacy API, and ``run_details``: ``workflow_id``, ``run_id``, ``status``, ``trigger``,
    ``started_at`` and ``ended_at`` (ISO 8601 UTC), ``duration_ms``, ``cost_usd`` (US dollars), each None if Sim doesn't
    report it, such as the cost of a sync run.

    :param workflow_id: the workflow: the last part of its address in Sim's editor. (templated)
    :param input: the fields of the workflow's Start block as a dict, or as the JSON text of an object; a number, a
        boolean or a list is sent as the field ``input``. The outputs of mapped tasks become lists. A path object
        (``pathlib.Path``, ``ObjectStoragePath``), bytes, an open file or a
        :class:`~airflow_provider_sim.task.input.SimFile` in a field, or in a field's list, is sent as a file, for
        fields of type ``file[]``. In a sync run, files of up to 7.5 MiB in all are part of the request. In other runs,
        and if they are larger, they are uploaded to the workflow's workspace (v2 API), up to 5 GiB each, and deleted
        when the run has finished. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param async_execution: queue the run in Sim. Implied by ``deferrable=True`` and ``wait_for_completion=False``.
    :param wait_for_completion: False starts an async run and returns its run ID, for
        :class:`~airflow_provider_sim.sensors.sim.SimJobSensor`.
    :param deferrable: wait in the triggerer, without a worker.
    :param poll_interval: seconds or timedelta between polls of an async run; default: a tenth of its age, 1 s to 30 s,
        and longer if the rate limits are nearly used up.
    :param stream: hold the connection open and write text to the task log as it arrives.
    :param selected_outputs: return these block outputs instead of the workflow's output: a string or a list. With
        ``stream``, the outputs to stream, as ``Block name.path`` or ``block ID.path``, keyed by block ID; otherwise
        block IDs, with or without a path, read raw after the run has finished, keyed by the selector. The task fails if
        a selector selects nothing. (templated)
    :param run_timeout: seconds or timedelta after which the server stops an async run, 1 s to 7 days.
    :param timeout: seconds or timedelta to wait for the run, including the last poll; default: one hour for a sync run,
        7 days otherwise. ``execution_timeout``, counted from the try's start, applies as well, also in the triggerer.
    :param on_paused: if the run waits for a person: ``wait``, ``fail``, or ``return`` a
        :class:`~airflow_provider_sim.task.pause_report.PauseReport`. Pauses that end automatically are always waited
        for.
    :param check_input: compare the input with the fields that the workflow's draft declares, before a run starts:
        ``warn`` in the log, ``fail`` the task, or ``off``. Sim drops undeclared fields and fills in missing ones. With
        ``warn`` the check takes one request and is skipped if that fails; with ``fail``, the request is retried, and
        its error fails the task. Servers that don't report fields aren't checked.
    :param retry_args: retry settings for idempotent requests, which override the connection's: ``max_retries``,
        ``initial_delay``, ``max_delay`` (seconds), ``backoff_multiplier``.
    :param keep_uploads: don't delete the input's uploaded files. Required for files with ``wait_for_completion=False``.
    :param durable: False starts a new run in each try.
    :param cancel_on_kill: cancel the run when the task is killed, cleared, marked or timed out.
    :param output_files_dir: a folder, as a path object or a URL for ``ObjectStoragePath``, such as
        ``s3://conn@bucket/folder``: the output's files are saved there, in a folder named by the run ID, and their
        ``path`` replaces their bytes. (templated)
    :param max_output_bytes: maximum size of the output as JSON; default 16 MiB.
    :param large_outputs: for a larger output, or one that Airflow can't store as an XCom (U+0000, keys that Airflow
        reserves): ``fail``, or ``store`` it in ``output_files_dir`` and return ``output_path`` and ``size``.
    :param end_from_trigger: with ``deferrable``, end in the triggerer when the run has completed, without a second
        worker process (Airflow 3.3 and later). After any other outcome a worker ends the task and logs the reason.
    :param multiple_outputs: push each field of the output, or of the report of a pause, as an XCom as well, for
        ``task.output["field"]``; a worker then ends the task. The task fails if the output isn't an object, or if a
        field is named like one of the XComs above.
    :raises SimError: see :mod:`airflow_provider_sim.exceptions`.
    """

    template_fields: Sequence[str] = ("workflow_id", "input", "sim_conn_id", "selected_outputs", "output_files_dir")
    template_fields_renderers: ClassVar[dict[str, str]] = {"input": "json"}
    operator_extra_links = (SimRunLink(), SimApprovalLink())
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        **SimWorkflowOperatorBase.argument_rules,
        "selected_outputs": arguments.optional(arguments.selectors),
    }

    def __init__(
        self,
        *,
        workflow_id: str,
        input: Any = None,
        async_execution: bool | None = None,
        wait_for_completion: bool = True,
        stream: bool = False,
        selected_outputs: str | Sequence[str] | None = None,
        keep_uploads: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id
        self.input = copy_files(input)
        self.async_execution = async_execution
        self.wait_for_completion = wait_for_completion
        self.stream = stream
        self.selected_outputs = selected_outputs
        self.keep_uploads = keep_uploads
        self.end_from_trigger = end_from_trigger
        self._run: TaskRun | None = None
        self._check_constants()

    def execute(self, context: Context) -> Any:
        """Start the run, or re-attach to an earlier try's, wait for it, and return its output."""
        self.check(vars(self))
        if self.deferrable and not self._is_async:
            self.log.info("The connection is held open, so the task keeps its worker; deferrable is ignored.")
        with self.hook as hook:
            client, run = hook.get_conn(), self._new_run(context)
            try:
                started = run.reattach(client) or run.start(client)
                if not self.wait_for_completion:
                    return started.run_id
                finished = self._wait(client, run, started)
                if run.died_with_previous_try(finished):
                    finished = self._wait(client, run, run.start(client))
                run.check_deadline(finished)
            except (AirflowTaskTimeout, SimRunTimeoutError) as error:
                return self._result(run, run.finish_at_timeout(error))
            return self._result(run, finished)

    def _resume(self, context: Context, received: RunEvent) -> Any:
        run = self._new_run(context)
        run.use(received.run_id, received.job_id, received.uploads)
        if received.status == "timeout":
            return self._result(run, run.finish_at_timeout())
        with run.retry_if_not_found():
            return self._result(run, self._run_after(received))

    def execute_timeout(self, context: Context) -> Any:
        """Handle a deferral timeout: poll the run once more, then cancel it."""
        with self.hook:
            run = self._new_run(context)
            run.find_current()
            return self._result(run, run.finish_at_timeout())

    def on_kill(self) -> None:
        """Cancel the run, also if Sim hasn't responded to its start yet.

        If ``execution_timeout`` passes while Airflow 2 resumes a deferred task, it calls no other method.
        """
        from airflow_provider_sim._compat import resumed_context

        if self._run is None and (context := resumed_context()):
            self._new_run(context).find_current()
        if self._run is not None:
            self._run.kill()

    @staticmethod
    def contradiction(given: Mapping[str, Any]) -> str | None:
        stream, waits = given.get("stream"), given.get("wait_for_completion", True)
        if given.get("selected_outputs") and not given.get("stream", True):
            check_block_ids(given["selected_outputs"])
        deferrable = given.get("deferrable") and not DEFERRABLE  # not if it is Airflow's configured default
        given_async = given.get("async_execution", "unknown")
        is_sync = given_async is False or (given_async is None and (stream or not given.get("deferrable", True)))
        keeps = given.get("keep_uploads", True)
        conflicts = {
            "multiple_outputs needs wait_for_completion=True: a run ID has no fields": (
                given.get("multiple_outputs") and not waits
            ),
            "files in the input need keep_uploads=True with wait_for_completion=False: no task deletes the uploads when"
            " the run has finished": not waits and not keeps and has_files(given.get("input")),
            "stream needs wait_for_completion=True: a stream is held open until the run finishes": stream and not waits,
            "stream and async_execution can't be combined: a stream is held open": stream and given_async is True,
            "stream and deferrable can't be combined: a stream is held open": stream and deferrable,
            "async_execution=False contradicts deferrable=True or wait_for_completion=False; omit it": (
                given_async is False and (deferrable or not waits)
            ),
            "run_timeout is for async runs, a sync run has the plan's limit; set async_execution or deferrable, or use"
            " timeout": given.get("run_timeout") is not None and waits and is_sync,
        }
        return next((text for text, applies in conflicts.items() if applies), arguments.missing_output_folder(given))

    @property
    def _is_async(self) -> bool:
        if self.async_execution is None:
            return not self.wait_for_completion or (self.deferrable and not self.stream)
        return self.async_execution

    def _new_options(self, context: Context) -> RunOptions:
        from airflow_provider_sim.task.run_options import RunOptions

        default_timeout = MAX_RUN_TIMEOUT if self._is_async else SYNC_TIMEOUT
        return RunOptions.of(
            self,
            is_async=self._is_async,
            deadline=deadline(context, self.timeout, self.execution_timeout, otherwise=default_timeout),
            end_from_trigger=can_end_in_trigger(self),
        )

    def _new_run(self, context: Context) -> TaskRun:
        from airflow_provider_sim.task.run import TaskRun

        self._run = TaskRun(context, self.hook, self.workflow_id, self._new_options(context), self.input)
        return self._run

    def _wait(self, client: SimClient, run: TaskRun, started: AsyncExecutionResult | WorkflowRun) -> WorkflowRun:
        """Wait for a run that isn't finished yet, here or in the triggerer."""
        from airflow_provider_sim.client import WorkflowRun
        from airflow_provider_sim.polling import RunPollState, wait_for_run

        if isinstance(started, WorkflowRun) and (started.status.is_terminal or started.run_id is None):
            return started
        state = RunPollState(
            self.workflow_id,
            started.run_id or "",
            job_id=getattr(started, "job_id", None),
            poll_interval=self.poll_interval,
            deadline=run.options.deadline,
            on_paused=self.on_paused,
            base_url=client.base_url,
            on_approval=partial(run.context["ti"].xcom_push, APPROVAL_URL_KEY) if self.do_xcom_push else None,
        )
        if isinstance(started, WorkflowRun) and state.on_response(started):
            return started
        if not self.deferrable:
            time.sleep(state.first_delay())  # it was started, or polled, just now
            with run.retry_if_not_found():
                return wait_for_run(client, state)
        return self._defer(state, replace(run.options, uploads=run.deferred_uploads()))

    def _result(self, task_run: TaskRun, run: WorkflowRun) -> Any:
        from airflow_provider_sim.client import RunStatus, selection_lost, selectors_of
        from airflow_provider_sim.task.results import task_result

        self._lineage_run = run
        selectors = selectors_of(self.selected_outputs)
        try:
            if self.stream and selectors and run.status is RunStatus.COMPLETED and not task_run.streamed:
                raise selection_lost(run, selectors)
            return task_result(task_run.context, self, run, task_run.options)
        finally:
            task_run.release_uploads(self.hook.get_conn(), unused=run.status.is_terminal)
