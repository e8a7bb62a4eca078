"""Wait for a run that another task, or anyone else, has started."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import LargeOutputs, OnPaused, Rule
from airflow_provider_sim.deferral import BACKSTOP, after_deferral
from airflow_provider_sim.ending import trigger_arguments
from airflow_provider_sim.exceptions import SimError, SimRunError, SimRunTimeoutError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.lineage import RunLineage
from airflow_provider_sim.links.sim import SimApprovalLink, SimRunLink, SimWorkflowLink, push_links
from airflow_provider_sim.operators.base import SimOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client.models import WorkflowRun
    from airflow_provider_sim.output import OutputRules
    from airflow_provider_sim.watch import RunWatch


class SimJobSensor(RunLineage, SimOperator, BaseSensorOperator):
    """Wait until a run is over; its output is the sensor's XCom, beside ``run_details`` as the operator's.

    A run that fails or is cancelled fails the sensor at once, since looking again can't change it; with ``soft_fail``
    the sensor is skipped instead. Single looks that fail don't count, unless too many in a row do.

    :param workflow_id: the run's workflow. (templated)
    :param run_id: what ``SimExecuteWorkflowOperator`` returned or pushed as the XCom ``run_id``; a job id of an old
        server works, too. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param deferrable: wait in the triggerer, without a worker.
    :param poke_interval: seconds or timedelta between looks, in all modes. With ``mode="reschedule"`` not below 10:
        Airflow notices the end of a look's process up to 5 seconds late, and fails a task that is started again before.
    :param timeout: seconds or timedelta to wait; then the sensor times out, and the run may go on.
    :param on_paused: when the run waits for a person: ``wait`` with it, ``fail``, or ``return`` a report with
        ``context_id`` and ``approval_url``. Pauses that end by themselves are always waited for.
    :param retry_args: settings that go before the connection's for requests that are safe to repeat.
    :param cancel_on_timeout: cancel the run when the sensor's ``timeout`` has passed. Nothing else that happens to the
        sensor touches the run, which it hasn't started.
    :param selected_outputs: return the outputs of these blocks instead: block ids, with or without a path. (templated)
    :param output_files_dir: where to save the output's files, as for ``SimExecuteWorkflowOperator``. (templated)
    :param max_output_bytes: how large the output may be as JSON; default 16 MiB.
    :param large_outputs: what becomes of a larger one: ``fail``, or ``store`` in ``output_files_dir``.
    :param start_from_trigger: start in the triggerer, without a worker (Airflow 3.3 and later; before, the sensor
        defers from a worker). Each such task takes the whole serialised DAG into the triggerer: right for narrow DAGs,
        wrong for ones with hundreds of tasks.
    :param end_from_trigger: end in the triggerer when the run has completed, without a worker (Airflow 3.3 and later).
        A run that fails, is cancelled or is paused still takes one, so that the task log says what happened.
    """

    template_fields: Sequence[str] = ("workflow_id", "run_id", "sim_conn_id", "selected_outputs", "output_files_dir")
    operator_extra_links = (SimRunLink(), SimWorkflowLink(), SimApprovalLink())
    ui_color = "#ddd6fe"
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        "workflow_id": arguments.workflow_id,
        "run_id": arguments.run_id,
        "poke_interval": arguments.duration,
        "timeout": arguments.duration,
        "on_paused": arguments.one_of(OnPaused),
        "selected_outputs": arguments.optional(arguments.block_selectors),
        "max_output_bytes": arguments.optional(arguments.positive_int),
        "large_outputs": arguments.one_of(LargeOutputs),
        "retry_args": arguments.optional(arguments.retry_args),
    }
    contradiction = staticmethod(arguments.missing_output_folder)

    def __init__(
        self,
        *,
        workflow_id: str,
        run_id: str,
        sim_conn_id: str = SimHook.default_conn_name,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: float | timedelta = 10.0,
        on_paused: OnPaused = "wait",
        retry_args: Mapping[str, Any] | None = None,
        cancel_on_timeout: bool = False,
        selected_outputs: Sequence[str] | None = None,
        output_files_dir: str | None = None,
        max_output_bytes: int | None = None,
        large_outputs: LargeOutputs = "fail",
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.sim_conn_id = sim_conn_id
        self.deferrable = deferrable
        self.on_paused = on_paused
        self.retry_args = retry_args
        self.cancel_on_timeout = cancel_on_timeout
        self.selected_outputs = selected_outputs
        self.output_files_dir = output_files_dir
        self.max_output_bytes = max_output_bytes
        self.large_outputs = large_outputs
        self.end_from_trigger = end_from_trigger
        self._first_look: float | None = None
        self._goes_on = False
        self._check_constants()
        if start_from_trigger:
            self._start_in_triggerer()

    def _start_in_triggerer(self) -> None:
        """Tell Airflow to start the task in the triggerer; where it can't render templates there, defer instead."""
        from airflow.triggers.base import BaseTrigger, StartTriggerArgs

        self.deferrable = True
        templates = [_template_for_triggerer(value) for value in (self.workflow_id, self.run_id, self.sim_conn_id)]
        why_not = None
        if not hasattr(BaseTrigger, "on_kill"):
            why_not = "start_from_trigger needs Airflow 3.3: the triggerer of earlier versions renders no templates"
        elif None in templates:
            why_not = (
                "start_from_trigger can't pull XComs of mapped tasks, and of others only by templates with"
                " map_indexes=-1, because Airflow's triggerer can't"
            )
        if why_not:
            words = f"{why_not}. The sensor {self.task_id!r} starts on a worker and defers from there."
            warnings.warn(words, UserWarning, stacklevel=3)
            return
        workflow_id, run_id, sim_conn_id = templates
        self.start_from_trigger = True
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls="airflow_provider_sim.triggers.sim.SimRunTrigger",
            trigger_kwargs={
                "workflow_id": workflow_id,
                "run_id": run_id,
                "sim_conn_id": sim_conn_id,
                "poll_interval": self.poke_interval,
                "timeout": self.timeout,
                "on_paused": self.on_paused,
                **trigger_arguments(self),
            },
            next_method="execute_complete",
            timeout=timedelta(seconds=self.timeout) + BACKSTOP,
        )

    @cached_property
    def hook(self) -> SimHook:
        """The hook of the task's connection."""
        return SimHook(self.sim_conn_id, retry_args=self.retry_args)

    def execute(self, context: Context) -> Any:
        """Look until the run is over: here, in later legs, or in the triggerer."""
        self._check_rendered()
        with self.hook as hook:
            if self.do_xcom_push:
                push_links(
                    context,
                    hook.get_conn().base_url,
                    workflow_id=self.workflow_id,
                    run_id=self.run_id,
                    # A rescheduled sensor comes here at every look, which must not cost a second request.
                    workspace_id=hook.workspace_id if self.reschedule else hook.workspace_of(self.workflow_id),
                )
            if not self.deferrable:
                self._first_look = _first_look(context) if self.reschedule else None
                return self._look_until_it_is_over(context)
            done = self.poke(context)
            if done:
                return done.xcom_value
        self._defer()
        return None

    def _look_until_it_is_over(self, context: Context) -> Any:
        """Look now and then, or leave the worker until the next look; Airflow minds the time."""
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            raise self._out_of_time() from error
        except AirflowSkipException as error:  # by soft_fail, also for a run that came to a bad end
            if self._goes_on:
                raise AirflowSkipException(str(self._out_of_time())) from error
            raise

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once; done with the run's output as the XCom."""
        self._goes_on = False  # also where looking or the run's end is an error
        run = self._look()
        self._goes_on = run is None
        if run is None:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._result(context, lambda: run))

    def _look(self) -> WorkflowRun | None:
        """The run, if waiting is over; None where the look failed, too.

        :raises SimError: it failed, and looking again is no use.
        """
        from airflow_provider_sim.client.retry import NO_RETRY

        try:
            run = self.hook.get_conn().get_workflow_run(self.workflow_id, self.run_id, retry=NO_RETRY)
        except SimError as error:
            self._watch.missed(error)
            return None
        return run if self._watch.saw(run) else None

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Go on when the trigger has fired: fetch the run and return its output."""
        from airflow_provider_sim.results import read_event

        try:
            run_id, job_id = read_event(event, workflow_id=self.workflow_id)
        except SimRunTimeoutError as error:
            raise self._out_of_time() from error
        with self.hook as hook:
            client = hook.get_conn()
            return self._result(context, lambda: client.get_workflow_run(self.workflow_id, run_id, job_id=job_id))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, also where Airflow itself has ended it."""
        return super().resume_execution(*after_deferral(next_method, next_kwargs), context)

    def execute_out_of_time(self, context: Context) -> Any:
        """Look a last time, since no trigger did in time."""
        with self.hook:
            done = self.poke(context)
        if done:
            return done.xcom_value
        raise self._out_of_time()

    def _out_of_time(self) -> AirflowSensorTimeout:
        """The error of a run that wasn't over in time; the run is cancelled if the author wants that."""
        from airflow_provider_sim.client.retry import RetryPolicy
        from airflow_provider_sim.watch import not_over_in_time

        if self.cancel_on_timeout:
            patience = RetryPolicy(max_retries=3, initial_delay=1.0)
            try:
                with self.hook.new_client(timeout=30.0, retry=patience) as client:
                    self.log.info("%s", client.stop_workflow_run(self.workflow_id, self.run_id))
            except SimError as error:
                self.log.error("Run %s could not be cancelled and may go on: %s", self.run_id, error)
        return AirflowSensorTimeout(str(not_over_in_time(self.workflow_id, self.run_id)))

    def _result(self, context: Context, run: Callable[[], WorkflowRun]) -> Any:
        """The output of the run, or the report of its pause.

        :raises AirflowFailException: the run came to a bad end; another look, or another try, finds the same.
        """
        from airflow_provider_sim.results import task_result

        try:
            client, seen = self.hook.get_conn(), run()
            self._tell_lineage(client, seen)
            return task_result(
                context,
                client,
                seen,
                on_paused=self._watch.on_paused,
                rules=self._output_rules,
                selected_outputs=self.selected_outputs,
                push=self.do_xcom_push,
            )
        except SimRunError as error:
            raise AirflowFailException(str(error)) from error

    @property
    def _output_rules(self) -> OutputRules:
        from airflow_provider_sim.output import OutputRules

        return OutputRules.given(self.output_files_dir, self.max_output_bytes, self.large_outputs)

    @cached_property
    def _watch(self) -> RunWatch:
        from airflow_provider_sim.watch import RunWatch

        return RunWatch(
            self.workflow_id,
            self.run_id,
            poll_interval=self.poke_interval,
            deadline=time.time() + self.timeout,
            on_paused=self.on_paused,
            started=self._first_look,
            base_url=self.hook.get_conn().base_url,
        )

    def _defer(self) -> None:
        from airflow_provider_sim.triggers.sim import SimRunTrigger

        self.defer(
            trigger=SimRunTrigger.of_watch(self._watch, self.sim_conn_id, **trigger_arguments(self)),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout) + BACKSTOP,
        )


def _template_for_triggerer(value: Any) -> str | None:
    """An argument as text that the triggerer (3.3) can render; None where it can't.

    It can pull the XCom of one task instance, but not the list that a pull without ``map_indexes`` asks for first: the
    trigger would then wait for ever.
    """
    operator = getattr(value, "operator", None)
    if operator is not None and not getattr(operator, "is_mapped", False):
        return f"{{{{ ti.xcom_pull(task_ids={operator.task_id!r}, key={value.key!r}, map_indexes=-1) }}}}"
    if not isinstance(value, str) or ("xcom_pull" in value and "map_indexes" not in value):
        return None
    return value


def _first_look(context: Context) -> float | None:
    """When a rescheduled sensor looked for the first time, in seconds since the epoch; None at that time itself."""
    ti: Any = context["ti"]
    ask = getattr(ti, "get_first_reschedule_date", None)
    # Airflow 2 keeps the first leg's start on the task instance itself.
    moment: datetime | None = ask(context) if ask else getattr(ti, "start_date", None)
    return None if moment is None else moment.timestamp()
