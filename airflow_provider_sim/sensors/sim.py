"""Sensor that waits for a run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_provider_sim import arguments
from airflow_provider_sim._compat import first_reschedule_date
from airflow_provider_sim.arguments import LargeOutputs, OnPaused, Rule
from airflow_provider_sim.exceptions import (
    SimError,
    SimRateLimitError,
    SimRunError,
    SimRunNotFoundError,
    SimRunTimeoutError,
)
from airflow_provider_sim.links.sim import APPROVAL_URL_KEY, SimApprovalLink, SimRunLink, push_run_link
from airflow_provider_sim.operators.base import DEFERRABLE, SimOperator, SimRunOperatorBase
from airflow_provider_sim.task.deadlines import after_deferral, deadline
from airflow_provider_sim.triggers.workerless import can_end_in_trigger, start_trigger_args

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import WorkflowRun
    from airflow_provider_sim.polling import RunPollState
    from airflow_provider_sim.task.results import RunEvent
    from airflow_provider_sim.task.run_options import RunOptions

LONGEST_PAUSE = 60.0  # seconds between polls of a rescheduled sensor that keeps its worker, because a poll has failed
SHORTEST_RESCHEDULE = 10.0  # seconds between the processes of a rescheduled sensor


class SimJobSensor(SimRunOperatorBase, BaseSensorOperator):
    """Wait until a run is finished, and return its output.

    A run that fails or is cancelled fails the sensor without retries, since another poll returns the same; so does a
    run that Sim doesn't have. ``soft_fail`` and ``never_fail`` skip the sensor instead, as for any sensor. Polls that
    fail for other reasons are retried; the sensor fails after more than 10 failures in a row, not counting rate-limited
    polls. A sensor with ``mode="reschedule"`` keeps its worker while polls fail, and polls at least once a minute,
    since failures can't be counted across processes.

    XComs: ``return_value``, ``run_details``, ``run_url``, ``approval_url`` and ``output_is_display_copy``, as for
    ``SimExecuteWorkflowOperator``.

    :param workflow_id: the run's workflow. (templated)
    :param run_id: the run: what ``SimExecuteWorkflowOperator`` returned or pushed as the XCom ``run_id``, or a job ID
        of the legacy API. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param deferrable: wait in the triggerer, without a worker.
    :param poke_interval: seconds or timedelta between polls, in all modes; default: a tenth of the run's age, 1 s to
        30 s, and longer if the rate limits are nearly used up. With ``mode="reschedule"`` at least 10, as the default:
        Airflow notices the end of a process up to 5 seconds late, and fails a task that starts again before.
    :param timeout: seconds or timedelta to wait; after a last poll, the sensor times out, and the run continues.
        ``execution_timeout``, counted from the try's start, applies as well, also in the triggerer; a retry then waits
        again.
    :param on_paused: as for ``SimExecuteWorkflowOperator``: ``wait``, ``fail`` or ``return``.
    :param retry_args: retry settings for idempotent requests, which override the connection's.
    :param cancel_on_timeout: cancel the run when ``timeout`` has passed. The sensor cancels it in no other case.
    :param selected_outputs: return the outputs of these blocks instead: block IDs, with or without a path. (templated)
    :param output_files_dir: where to save the output's files, as for ``SimExecuteWorkflowOperator``. (templated)
    :param max_output_bytes: maximum size of the output as JSON; default 16 MiB.
    :param large_outputs: what to do with a larger one: ``fail``, or ``store`` it in ``output_files_dir``.
    :param start_from_trigger: start in the triggerer, without a worker (Airflow 3.3 and later; before, or if an
        argument pulls XComs that the triggerer can't pull, the sensor warns and defers from a worker). Each such task
        loads the whole serialized DAG into the triggerer.
    :param end_from_trigger: when the run has completed, end in the triggerer, without a worker (Airflow 3.3 and later),
        unless the task has ``outlets``, ``multiple_outputs``, ``on_success_callback``, ``post_execute``, or tasks that
        are mapped over the output.
    :param multiple_outputs: push each field of the output as an XCom as well, as for ``SimExecuteWorkflowOperator``.
    """

    template_fields: Sequence[str] = ("workflow_id", "run_id", "sim_conn_id", "selected_outputs", "output_files_dir")
    operator_extra_links = (SimRunLink(), SimApprovalLink())
    ui_color = "#ddd6fe"
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        "poke_interval": arguments.optional(arguments.duration),
        **SimOperator.argument_rules,
        "workflow_id": arguments.workflow_id,
        "run_id": arguments.run_id,
        "timeout": arguments.duration,
        "on_paused": arguments.one_of(OnPaused),
        "selected_outputs": arguments.optional(arguments.block_selectors),
        "max_output_bytes": arguments.optional(arguments.positive_int),
        "large_outputs": arguments.one_of(LargeOutputs),
    }

    def __init__(
        self,
        *,
        workflow_id: str,
        run_id: str,
        deferrable: bool = DEFERRABLE,
        poke_interval: float | timedelta | None = None,
        on_paused: OnPaused = "wait",
        cancel_on_timeout: bool = False,
        selected_outputs: str | Sequence[str] | None = None,
        output_files_dir: str | PathLike[str] | None = None,
        max_output_bytes: int | None = None,
        large_outputs: LargeOutputs = "fail",
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        every = SHORTEST_RESCHEDULE if poke_interval is None else poke_interval
        super().__init__(poke_interval=every, **kwargs)
        self.poll_interval = None if poke_interval is None else self.poke_interval
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.deferrable = deferrable
        self.on_paused = on_paused
        self.cancel_on_timeout = cancel_on_timeout
        self.selected_outputs = selected_outputs
        self.output_files_dir = output_files_dir
        self.max_output_bytes = max_output_bytes
        self.large_outputs = large_outputs
        self.end_from_trigger = end_from_trigger
        self._first_poll: float | None = None
        self._deadline: float | None = None
        self._check_constants()
        if start_from_trigger:
            self.deferrable = self.start_from_trigger = True
            try:
                self.start_trigger_args = start_trigger_args(self)
            except ValueError as error:
                self.start_from_trigger = False
                message = f"{error}. The sensor {self.task_id!r} starts on a worker and defers from there."
                warnings.warn(message, UserWarning, stacklevel=2)

    def _new_options(self, context: Context) -> RunOptions:
        from airflow_provider_sim.task.run_options import RunOptions

        return RunOptions.of(self, end_from_trigger=can_end_in_trigger(self))

    def execute(self, context: Context) -> Any:
        """Poll until the run is finished: here, in later processes, or in the triggerer."""
        self.check(vars(self))
        if self.reschedule and (moment := first_reschedule_date(context)):
            self._first_poll = moment.timestamp()
        if self.deferrable:
            self._deadline = deadline(context, self.timeout, self.execution_timeout, otherwise=self.timeout)
        else:
            self._deadline = (self._first_poll or time.time()) + self.timeout
        with self.hook as hook:
            if self.do_xcom_push:
                # A rescheduled sensor is here at every poll, which must not cost a second request.
                push_run_link(context, hook, self.workflow_id, self.run_id, read_workspace=not self.reschedule)
                self._state.on_approval = partial(context["ti"].xcom_push, APPROVAL_URL_KEY)
            try:
                return super().execute(context)
            except AirflowTaskTimeout as error:
                return self._result_at_timeout(context, error)
            except AirflowSensorTimeout:
                return self._result_at_timeout(context)
            except AirflowSkipException as skip:
                timeout = skip.__cause__  # None: Airflow's timeout with soft_fail
                if timeout is not None and not isinstance(timeout, AirflowTaskTimeout):
                    raise AirflowSkipException(str(timeout)) from timeout
                try:
                    return self._result_at_timeout(context, timeout)
                except (AirflowException, AirflowTaskTimeout) as error:
                    raise AirflowSkipException(str(error)) from error

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once; defer if the run isn't finished and the sensor is deferrable."""
        run = self._poll()
        if run is None and self.deferrable:
            self._defer(self._state, self._new_options(context))
        return PokeReturnValue(is_done=run is not None, xcom_value=run and self._result(context, run))

    def _poll(self) -> WorkflowRun | None:
        """Return the run if polling ends with it; None to poll again later.

        A rescheduled sensor can't count failed polls across processes, so it stays here until a poll succeeds.
        """
        from airflow_provider_sim.client import NO_RETRY
        from airflow_provider_sim.metrics import Metric

        while True:
            Metric.POLL_REQUESTS.incr(kind="read")
            try:
                client = self.hook.get_conn().with_retry(NO_RETRY)
                run = client.get_workflow_run(self.workflow_id, self.run_id)
                return run if self._state.on_response(run) else None
            except SimError as error:
                self._state.on_error(error)
                may_wait = isinstance(error, SimRateLimitError | SimRunNotFoundError)
                if may_wait or self.deferrable or not self.reschedule:
                    return None
            try:
                time.sleep(min(self._state.next_delay(), LONGEST_PAUSE))
            except SimRunTimeoutError:
                return None

    def _get_next_poke_interval(self, *args: Any) -> float:
        if self.poll_interval is not None or self.exponential_backoff:
            return super()._get_next_poke_interval(*args)
        try:
            delay = self._state.next_delay()
        except SimRunTimeoutError:  # raised by Airflow's loop, after another poll
            delay = 1.0
        return max(delay, SHORTEST_RESCHEDULE) if self.reschedule else delay

    def _resume(self, context: Context, received: RunEvent) -> Any:
        if received.status == "timeout":
            return self.execute_timeout(context)
        return self._result(context, self._run_after(received))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral; unlike Airflow's sensors, skip with the error as the reason."""
        try:
            resume = super(BaseSensorOperator, self).resume_execution  # no skips; Airflow 3.0 has none for never_fail
            return resume(*after_deferral(next_method, next_kwargs), context)
        except AirflowException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise

    def execute_timeout(self, context: Context) -> Any:
        """Handle a timeout while the sensor was deferred: the sensor's, or that of ``execution_timeout``."""
        limit, error = self.execution_timeout, None
        if limit is not None and limit.total_seconds() < self.timeout:
            error = AirflowTaskTimeout(f"Run {self.run_id!r} did not finish within the execution_timeout of {limit}.")
        with self.hook:
            return self._result_at_timeout(context, error)

    def _result_at_timeout(self, context: Context, error: BaseException | None = None) -> Any:
        """Poll once more and return a finished run's output; otherwise raise the error, or the sensor's timeout."""
        from airflow_provider_sim.polling import timeout_error
        from airflow_provider_sim.task.run import TaskRun

        options = replace(self._new_options(context), cancel_on_kill=self.cancel_on_timeout and error is None)
        run = TaskRun(context, self.hook, self.workflow_id, options)
        run.use(self.run_id)
        error = error or AirflowSensorTimeout(str(timeout_error(self.workflow_id, self.run_id)))
        return self._result(context, run.finish_at_timeout(error, must_exist=True))

    def _result(self, context: Context, run: WorkflowRun) -> Any:
        """Return the output of the run, or the report of its pause; fail without retries if it failed."""
        from airflow_provider_sim.task.results import task_result

        self._lineage_run = run
        try:
            return task_result(context, self, run, self._new_options(context))
        except SimRunError as error:
            raise AirflowFailException(str(error)) from error

    @cached_property
    def _state(self) -> RunPollState:
        from airflow_provider_sim.polling.poll_state import RunPollState, share_limit

        client = self.hook.get_conn()
        state = RunPollState(
            self.workflow_id,
            self.run_id,
            poll_interval=self.poll_interval,
            deadline=self._deadline,
            on_paused=self.on_paused,
            started=self._first_poll,
            base_url=client.base_url,
        )
        share_limit(client, state)
        return state
