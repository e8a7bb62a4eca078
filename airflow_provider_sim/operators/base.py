"""Base classes of the operators and the sensor."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from os import PathLike
from pathlib import PosixPath, WindowsPath
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_sim import arguments
from airflow_provider_sim._compat import TRIGGERS_REPLACE_WORKERS
from airflow_provider_sim.arguments import CheckInput, LargeOutputs, OnPaused, Rule
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.task.deadlines import after_deferral, deferral_timeout, seconds
from airflow_provider_sim.task.input import copy_files
from airflow_provider_sim.triggers.workerless import log_end_on_worker

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import SimClient, WorkflowRun
    from airflow_provider_sim.hooks.sim import SimHook
    from airflow_provider_sim.polling import RunPollState
    from airflow_provider_sim.task.results import RunEvent
    from airflow_provider_sim.task.run_options import RunOptions

DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)  # Airflow's configured default


class SimOperator(BaseOperator):
    """An operator whose arguments are checked: constants at parse time, templated ones after rendering.

    A subclass calls ``_check_constants`` at the end of its ``__init__``, and ``check`` before it sends anything.

    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param retry_args: retry settings for idempotent requests, which override the connection's.
    """

    template_fields: Sequence[str] = ("sim_conn_id",)
    ui_color = "#ede9fe"
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        "workflow_id": arguments.workflow_id,
        "poll_interval": arguments.optional(arguments.duration),
        "retry_args": arguments.optional(arguments.retry_args),
    }
    contradiction = staticmethod(arguments.missing_output_folder)
    """Returns which arguments contradict each other; an argument that isn't given has no known value yet."""

    def __init__(
        self, *, sim_conn_id: str = "sim_default", retry_args: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.sim_conn_id = sim_conn_id
        self.retry_args = retry_args

    def pre_execute(self, context: Context) -> None:
        """Remove the links from this process's copy of the task.

        At the end of each process, Airflow 3 would get each link and push it again, two requests for each; the task has
        pushed them before it waited.
        """
        super().pre_execute(context)
        self.operator_extra_links = ()

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Check the constants of a mapped task, which Airflow instantiates at run time only."""
        cls.check(kwargs, templated=cls.template_fields)
        return super().partial(**kwargs)

    @classmethod
    def check(cls, given: Mapping[str, Any], *, templated: Collection[str] = ()) -> None:
        """Check arguments, and raise a SimInputError that names the invalid one and what to choose."""
        arguments.check_arguments(cls.argument_rules, given, contradiction=cls.contradiction, templated=templated)

    def _check_constants(self) -> None:
        self.check(vars(self), templated=self.template_fields)

    @cached_property
    def hook(self) -> SimHook:
        from airflow_provider_sim.hooks.sim import SimHook

        return SimHook(self.sim_conn_id, retry_args=self.retry_args)

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Leave path objects as they are: Airflow 3.0 and 3.1 resolve them, which fails if the file is gone."""
        if isinstance(content, PosixPath | WindowsPath):
            return content
        return super().render_template(content, *args, **kwargs)


class SimRunOperatorBase(SimOperator):
    """What operator and sensor share: deferral until a run ends, and OpenLineage's facets of the run."""

    workflow_id: str
    _lineage_run: WorkflowRun | None = None
    _new_options: Callable[[Context], RunOptions]
    _resume: Callable[[Context, RunEvent], Any]  # after an event without an output

    def _defer(self, state: RunPollState, options: RunOptions) -> NoReturn:
        """Wait for the run in the triggerer."""
        from airflow_provider_sim.triggers.sim import SimRunTrigger

        if not TRIGGERS_REPLACE_WORKERS:  # which push it when it is needed
            state.report_approval_url()
        workspace_id = self.hook.workspace_of(self.workflow_id) if self.do_xcom_push else None  # known from the link
        options = replace(options, deadline=state.deadline, started=state.started, workspace_id=workspace_id)
        self.defer(
            trigger=SimRunTrigger(self.workflow_id, state.run_id, state.job_id, options),
            method_name="execute_complete",
            timeout=deferral_timeout(state.deadline),
        )

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Resume after the trigger's event: return the output of a completed run; poll any other once.

        A timeout cancels the run of an operator if it isn't finished. After any other error of the trigger the run is
        left alone, so that a retry re-attaches to it.
        """
        from airflow_provider_sim.task.results import read_run_event, task_result

        received = read_run_event(event, workflow_id=self.workflow_id)
        log_end_on_worker(self)
        if received.completed_run and received.output:
            self._lineage_run = received.completed_run
            options = self._new_options(context)
            return task_result(context, self, received.completed_run, options, received.output)
        with self.hook:
            return self._resume(context, received)

    def _run_after(self, received: RunEvent) -> WorkflowRun:
        """Return the run after an event without an output; raise if it isn't finished, but the trigger has failed."""
        from airflow_provider_sim.polling import unreachable_error

        run_id, job_id = received.run_id, received.job_id
        run: WorkflowRun = received.completed_run or self.hook.get_workflow_run(self.workflow_id, run_id, job_id=job_id)
        if received.status == "error" and not run.status.is_terminal:
            raise unreachable_error(self.workflow_id, run_id, received.message)
        return run

    def get_openlineage_facets_on_start(self) -> Any:
        """Return the facets of the workflow and its run; OpenLineage's provider calls it at the task's end as well."""
        from airflow_provider_sim.client import NO_RETRY
        from airflow_provider_sim.task.lineage_facets import lineage_of

        run = self._lineage_run
        if run and run.run_id and run.cost_usd is None:  # the response of a sync run's start doesn't contain the cost
            with suppress(SimError), self.hook.new_client(timeout=5.0, retry=NO_RETRY) as client:
                run = client.get_workflow_run(self.workflow_id, run.run_id)
        return lineage_of(self.workflow_id, run, self.hook.get_settings().base_url if run else None)


class SimClientOperator(SimOperator):
    """Base of operators that act on a workflow or a run by a client: they implement :meth:`execute_with`."""

    argument_rules: ClassVar[Mapping[str, Rule]] = {
        **SimOperator.argument_rules,
        "run_id": arguments.run_id,
        "timeout": arguments.duration,
    }

    def __init__(
        self,
        *,
        workflow_id: str,
        poll_interval: float | timedelta | None = None,
        timeout: float | timedelta = 300.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id
        self.poll_interval = None if poll_interval is None else seconds(poll_interval)
        self.timeout = timeout

    def execute(self, context: Context) -> Any:
        """Check the rendered arguments, open the client, and return what :meth:`execute_with` returns."""
        self.check(vars(self))
        with self.hook as hook:
            return self.execute_with(hook.get_conn(), context, deadline=time.time() + seconds(self.timeout))

    def execute_with(self, client: SimClient, context: Context, *, deadline: float) -> Any:
        """Return the task's result; ``deadline`` in seconds since the epoch."""
        raise NotImplementedError


class SimWorkflowOperatorBase(SimOperator):
    """An operator that starts runs, waits for them, and returns their outputs; subclasses document the arguments."""

    argument_rules: ClassVar[Mapping[str, Rule]] = {
        **SimOperator.argument_rules,
        "timeout": arguments.optional(arguments.duration),
        "run_timeout": arguments.optional(arguments.run_timeout),
        "on_paused": arguments.one_of(OnPaused),
        "check_input": arguments.one_of(CheckInput),
        "large_outputs": arguments.one_of(LargeOutputs),
        "max_output_bytes": arguments.optional(arguments.positive_int),
    }

    def __init__(
        self,
        *,
        deferrable: bool = DEFERRABLE,
        poll_interval: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        timeout: float | timedelta | None = None,
        on_paused: OnPaused = "wait",
        check_input: CheckInput = "warn",
        durable: bool = True,
        cancel_on_kill: bool = True,
        output_files_dir: str | PathLike[str] | None = None,
        max_output_bytes: int | None = None,
        large_outputs: LargeOutputs = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.poll_interval = None if poll_interval is None else seconds(poll_interval)
        self.run_timeout = run_timeout
        self.timeout = timeout
        self.on_paused = on_paused
        self.check_input = check_input
        self.durable = durable
        self.cancel_on_kill = cancel_on_kill
        self.output_files_dir = output_files_dir
        self.max_output_bytes = max_output_bytes
        self.large_outputs = large_outputs

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the templates, in files of this task's own."""
        for name in self.template_fields:
            setattr(self, name, copy_files(getattr(self, name, None)))
        super().render_template_fields(context, jinja_env)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral; if the deferral itself has timed out, with the subclass's ``execute_timeout``."""
        return super().resume_execution(*after_deferral(next_method, next_kwargs), context)
