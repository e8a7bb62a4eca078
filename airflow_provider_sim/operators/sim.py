"""Run a deployed Sim workflow from a DAG."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, conf

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import CheckInput, LargeOutputs, OnPaused, Rule, UnconvertedFiles
from airflow_provider_sim.client import check_block_ids
from airflow_provider_sim.exceptions import SimRunTimeoutError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.links.sim import SimApprovalLink, SimRunLink, SimWorkflowLink
from airflow_provider_sim.operators.base import SimRunOperatorBase
from airflow_provider_sim.task.deadlines import DEFERRAL_MARGIN, seconds
from airflow_provider_sim.task.input import copy_files
from airflow_provider_sim.task.lineage import OpenLineageMixin
from airflow_provider_sim.triggers.end_from_trigger import log_end_on_worker, trigger_arguments

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import AsyncExecutionResult, SimClient, WorkflowRun
    from airflow_provider_sim.polling import PollState
    from airflow_provider_sim.task.run import TaskRun

DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)
"""Airflow's configured default."""


class SimExecuteWorkflowOperator(OpenLineageMixin, SimRunOperatorBase):
    """Run a deployed workflow and return its output.

    There are three ways to run it. By default the connection is held open until the run's end, which suits runs of up
    to a minute. With ``async_execution`` Sim queues the run and the task looks at it every ``poll_interval`` seconds,
    holding its worker; with ``deferrable`` it frees the worker and waits in the triggerer. With ``stream`` the
    workflow's text appears in the task log while it runs.

    A try starts at most one run. The run's id is written down before anything is sent, so that a try which follows a
    dead worker or a lost answer finds the run: it goes on with a run that still goes on, and takes the output of one
    that has completed. Only a run that failed or was cancelled is followed by another.

    A run that fails or is cancelled fails the task, which Airflow retries as usual with a new run. What no retry can
    mend (wrong key, workflow unknown or not deployed, input that Sim refuses, usage limit) fails it at once. A run that
    is no longer wanted, because the task was killed, cleared, marked or out of time, is cancelled.

    XComs: ``return_value``, ``run_id``, ``run_url``, ``workflow_url``, ``approval_url``, ``output_is_display_copy``,
    ``job_id`` on the legacy API, and ``run_details``: ``workflow_id``, ``run_id``, ``status``, ``trigger``,
    ``started_at`` and ``ended_at`` (ISO 8601 UTC), ``duration_ms``, ``cost_usd`` (US dollars), each None where Sim
    doesn't tell it; the answer of a run that was held open doesn't tell the cost.

    :param workflow_id: the workflow: the last part of its address in Sim's editor. (templated)
    :param input: the fields of the workflow's Start block as a dict, or as the JSON text of an object; a number, a
        boolean or a list arrives as the field ``input``. The outputs of mapped tasks become lists. A path object
        (``pathlib.Path``, ``ObjectStoragePath``), bytes, an open file or a
        :class:`~airflow_provider_sim.task.input.SimFile` in a field, or in a field's list, is sent as a file, for
        fields of type ``file[]``: up to 20 MiB each and 7.5 MiB in all. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param async_execution: let Sim queue the run instead of holding the connection open.
    :param wait_for_completion: False starts an asynchronous run and returns its run id, to be waited for with
        :class:`~airflow_provider_sim.sensors.sim.SimJobSensor`.
    :param deferrable: wait for an asynchronous run in the triggerer, without a worker.
    :param poll_interval: seconds or timedelta between looks at an asynchronous run.
    :param stream: hold the connection open and write text to the task log as it comes.
    :param selected_outputs: return these block outputs instead of the workflow's output: a list, or one as text. With
        ``stream``, the ones to stream, as ``Block name.path`` or ``block id.path``, under their block's id; otherwise
        block ids, with or without a path, read raw after the run's end, each under what selected it. The task fails if
        one of them selects nothing. (templated)
    :param run_timeout: seconds or timedelta after which the server stops an asynchronous run, 1 s to 7 days.
    :param timeout: seconds or timedelta to wait for the run's end, last look included; default: one hour where the
        connection is held open, 7 days otherwise. ``execution_timeout``, counted from the try's start, ends the waiting
        as well, in the triggerer too. The run is then cancelled, unless ``cancel_on_kill`` is False.
    :param on_paused: when the run waits for a person: ``wait`` with it, ``fail``, or ``return`` a report with
        ``context_id`` and ``approval_url``. Pauses that end by themselves are always waited for.
    :param check_input: compare the input with the fields that the workflow declares, before a run starts: ``warn`` in
        the log, ``fail`` the task, or ``off``. Sim drops undeclared fields and fills in missing ones. The fields are
        those of the workflow's draft, and their defaults aren't known. With ``warn`` the check takes one request, is
        skipped where that fails, and never delays a run; with ``fail``, the request is retried, and its error fails the
        task. Servers that don't report fields aren't checked.
    :param check_deployed: ask first whether the workflow is deployed, before an input is sent.
    :param check_usage_before: ask first how much of the account's usage limit is used, and fail before an input is sent
        at this many percent or more. A run that goes on from an earlier try is gone on with all the same.
    :param retry_args: settings that go before the connection's for requests that are safe to repeat: ``max_retries``,
        ``initial_delay``, ``max_delay`` (seconds), ``backoff_multiplier``.
    :param unconverted_files: what becomes of files in the input of an asynchronous run, for which Sim doesn't convert
        them: ``fail`` before anything is sent, or ``send`` them as objects with their bytes as base64 text.
    :param durable: False lets each try start a run of its own, whatever became of the former try's.
    :param cancel_on_kill: cancel the run when the task is killed, cleared, marked or out of time.
    :param output_files_dir: a folder, as a path object or a URL for ``ObjectStoragePath``, such as
        ``s3://conn@bucket/folder``: the output's files are saved there, in a folder of the run's id, and their ``path``
        takes the place of their bytes. (templated)
    :param max_output_bytes: how large the output may be as JSON; default 16 MiB.
    :param large_outputs: what happens to a larger output, or one that Airflow can't store as an XCom (U+0000, keys that
        Airflow reserves): ``fail``, or ``store`` it in ``output_files_dir`` and return ``output_path`` and ``size``.
    :param end_from_trigger: with ``deferrable``, end in the triggerer when the run has completed, without a second
        worker process (Airflow 3.3 and later). A run that fails, is cancelled or is paused still takes one, so that
        the task log says what happened.
    :raises SimError: see :mod:`airflow_provider_sim.exceptions`.
    """

    template_fields: Sequence[str] = ("workflow_id", "input", "sim_conn_id", "selected_outputs", "output_files_dir")
    template_fields_renderers: ClassVar[dict[str, str]] = {"input": "json"}
    operator_extra_links = (SimRunLink(), SimWorkflowLink(), SimApprovalLink())
    ui_color = "#ede9fe"
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        **SimRunOperatorBase.argument_rules,
        "selected_outputs": arguments.optional(arguments.selectors),
        "check_usage_before": arguments.optional(arguments.percentage),
    }

    def __init__(
        self,
        *,
        workflow_id: str,
        input: Any = None,
        sim_conn_id: str = SimHook.default_conn_name,
        async_execution: bool = False,
        wait_for_completion: bool = True,
        deferrable: bool = DEFERRABLE,
        poll_interval: float | timedelta = 10.0,
        stream: bool = False,
        selected_outputs: str | Sequence[str] | None = None,
        run_timeout: float | timedelta | None = None,
        timeout: float | timedelta | None = None,
        on_paused: OnPaused = "wait",
        check_input: CheckInput = "warn",
        check_deployed: bool = False,
        check_usage_before: float | None = None,
        retry_args: Mapping[str, Any] | None = None,
        unconverted_files: UnconvertedFiles = "fail",
        durable: bool = True,
        cancel_on_kill: bool = True,
        output_files_dir: str | PathLike[str] | None = None,
        max_output_bytes: int | None = None,
        large_outputs: LargeOutputs = "fail",
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id
        self.input = copy_files(input)
        self.sim_conn_id = sim_conn_id
        self.async_execution = async_execution
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = seconds(poll_interval)
        self.stream = stream
        self.selected_outputs = selected_outputs
        self.run_timeout = run_timeout
        self.timeout = timeout
        self.on_paused = on_paused
        self.check_input = check_input
        self.check_deployed = check_deployed
        self.check_usage_before = check_usage_before
        self.retry_args = retry_args
        self.unconverted_files = unconverted_files
        self.durable = durable
        self.cancel_on_kill = cancel_on_kill
        self.output_files_dir = output_files_dir
        self.max_output_bytes = max_output_bytes
        self.large_outputs = large_outputs
        self.end_from_trigger = end_from_trigger
        self._run: TaskRun | None = None
        self._check_constants()

    def execute(self, context: Context) -> Any:
        """Start the run, or find the one that an earlier try has started, and see it through to its end."""
        from airflow_provider_sim.task.run import TaskRun

        self._check_rendered()
        if self.stream and self.deferrable:
            self.log.info("A stream holds the connection open, so the task keeps its worker; deferrable is ignored.")
        run = self._run = TaskRun(context, self)
        with self.hook as hook:
            client = hook.get_conn()
            try:
                started = run.reattach(client) or self._start(client, run)
                if not self.wait_for_completion:
                    return started.run_id
                ended = self._see_through(client, run, started)
                if run.died_with_an_earlier_try(ended):
                    ended = self._see_through(client, run, self._start(client, run))
                run.check_time(ended)
            except (AirflowTaskTimeout, SimRunTimeoutError):
                finished = run.finish_at_timeout()
                if finished is None:
                    raise
                ended = finished
            return self._result(context, client, ended)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Resume after the trigger's event: poll the run once and return its output.

        A timeout cancels a run that isn't finished. After any other error of the trigger the run is left alone, so that
        a retry re-attaches to it.
        """
        from airflow_provider_sim.task.results import read_run_event, unreachable_error
        from airflow_provider_sim.task.run import TaskRun

        told = read_run_event(event, workflow_id=self.workflow_id)
        with self.hook as hook:
            client = hook.get_conn()
            run = self._run = TaskRun(context, self, run_id=told.run_id, job_id=told.job_id)
            if told.status == "timeout":
                return self._result_at_timeout(context, client, run)
            with run.to_be_found():
                seen = client.get_workflow_run(self.workflow_id, told.run_id, job_id=told.job_id)
            if told.status == "error" and not seen.status.is_terminal:
                raise unreachable_error(self.workflow_id, told.run_id, told.message)
            log_end_on_worker(self)
            return self._result(context, client, seen)

    def execute_out_of_time(self, context: Context) -> Any:
        """Handle a deferral timeout: poll the run once more, then cancel it."""
        from airflow_provider_sim.task.run import TaskRun

        with self.hook as hook:
            client = hook.get_conn()
            run = self._run = TaskRun.of_this_try(context, self, client)
            return self._result_at_timeout(context, client, run)

    def _result_at_timeout(self, context: Context, client: SimClient, run: TaskRun) -> Any:
        from airflow_provider_sim.polling import timeout_error

        finished = run.finish_at_timeout()
        if finished is None:
            raise timeout_error(self.workflow_id, run.run_id or "unknown")
        return self._result(context, client, finished)

    def on_kill(self) -> None:
        """Cancel the run, also one whose start Sim hasn't answered yet.

        Where Airflow 2 resumes a deferred task after its ``execution_timeout``, it calls nothing but this.
        """
        if self._run is None:
            self._run = self._deferred_run()
        if self._run is not None:
            self._run.kill()

    @staticmethod
    def contradiction(given: Mapping[str, Any]) -> str | None:
        """Return which arguments contradict each other, and what to choose."""
        if given.get("selected_outputs") and not given.get("stream", True):
            check_block_ids(given["selected_outputs"])
        asynchronous = given.get("async_execution", True) or not given.get("wait_for_completion", True)
        if given.get("stream"):
            held_open = "a stream is held open until the run finishes"
            if not given.get("wait_for_completion", True):
                return f"stream needs wait_for_completion=True: {held_open}"
            if given.get("async_execution"):
                return f"stream and async_execution can't be combined: {held_open}"
            if given.get("deferrable") and not DEFERRABLE:
                return f"stream and deferrable can't be combined: {held_open}"
        elif given.get("deferrable", True):
            asynchronous = True
        if given.get("run_timeout") is not None and not asynchronous:
            return (
                "run_timeout is for asynchronous runs, a held-open one has the plan's limit; set async_execution or"
                " deferrable, or use timeout"
            )
        return arguments.missing_output_folder(given)

    def _deferred_run(self) -> TaskRun | None:
        from airflow_provider_sim._compat import resumed_context
        from airflow_provider_sim.task.run import TaskRun

        context = resumed_context()
        return TaskRun.of_this_try(context, self, self.hook.get_conn()) if context else None

    def _start(self, client: SimClient, run: TaskRun) -> AsyncExecutionResult | WorkflowRun:
        """Start a run after the checks that the author wants; a run that was re-attached to needs none."""
        from airflow_provider_sim.task.input import check_fields, input_fields

        if self.check_deployed:
            self._require_deployment(client)
        if self.check_usage_before is not None:
            self._require_room(client)
        fields = input_fields(self.input, workflow_id=self.workflow_id)
        check_fields(self.hook, self.workflow_id, [fields], self.check_input)
        return run.start(client)

    def _require_deployment(self, client: SimClient) -> None:
        from airflow_provider_sim.exceptions import SimWorkflowNotDeployedError

        if not client.get_workflow_status(self.workflow_id).is_deployed:
            raise SimWorkflowNotDeployedError(
                f"Workflow {self.workflow_id!r} has no live deployment. Open it in Sim and press Deploy.",
                workflow_id=self.workflow_id,
            )

    def _require_room(self, client: SimClient) -> None:
        from airflow_provider_sim.task.usage import Usage

        assert self.check_usage_before is not None
        Usage(*client.get_usage()).require_below(float(self.check_usage_before), workflow_id=self.workflow_id)

    def _see_through(self, client: SimClient, run: TaskRun, started: AsyncExecutionResult | WorkflowRun) -> WorkflowRun:
        """Wait for a run that isn't over yet, here or in the triggerer."""
        from airflow_provider_sim.client import WorkflowRun
        from airflow_provider_sim.polling import PollState, wait_for_run

        seen = started if isinstance(started, WorkflowRun) else None
        if seen is not None and (seen.status.is_terminal or seen.run_id is None):
            return seen
        watch = PollState(
            self.workflow_id,
            started.run_id or "",
            job_id=getattr(started, "job_id", None),
            poll_interval=self.poll_interval,
            deadline=run.deadline,
            on_paused=self.on_paused,
            started=time.time(),
            base_url=client.base_url,
        )
        if seen is not None and watch.saw(seen):
            return seen
        with run.to_be_found():
            if not self.deferrable:
                return wait_for_run(client, watch)
            return self._look_once(client, watch) or self._defer(watch)

    def _look_once(self, client: SimClient, watch: PollState) -> WorkflowRun | None:
        """Look before deferring: a request, which saves two starts of a process for runs that are over already."""
        from airflow_provider_sim.client import NO_RETRY
        from airflow_provider_sim.exceptions import SimError

        try:
            run = client.get_workflow_run(watch.workflow_id, watch.run_id, job_id=watch.job_id, retry=NO_RETRY)
        except SimError as error:
            watch.missed(error)
            return None
        return run if watch.saw(run) else None

    def _defer(self, watch: PollState) -> NoReturn:
        from airflow_provider_sim.triggers.sim import SimRunTrigger

        how = {"cancel_on_kill": self.cancel_on_kill, **trigger_arguments(self)}
        trigger = SimRunTrigger.of_watch(watch, self.sim_conn_id, **how)
        left = (
            None
            if watch.deadline is None
            else timedelta(seconds=max(0.0, watch.deadline - time.time())) + DEFERRAL_MARGIN
        )
        self.defer(trigger=trigger, method_name="execute_complete", timeout=left)

    def _result(self, context: Context, client: SimClient, run: WorkflowRun) -> Any:
        from airflow_provider_sim.client import RunStatus, selection_lost, selectors_of
        from airflow_provider_sim.task.results import task_result

        self._tell_lineage(client, run)
        selectors = selectors_of(self.selected_outputs)
        streamed = self._run is not None and self._run.streamed
        if self.stream and selectors and run.status is RunStatus.COMPLETED and not streamed:
            raise selection_lost(run, selectors)
        return task_result(
            context,
            client,
            run,
            on_paused=self.on_paused,
            rules=self.output_rules,
            selected_outputs=None if self.stream else selectors,
            push=self.do_xcom_push,
        )
