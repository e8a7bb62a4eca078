"""Base classes of the operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from os import PathLike
from pathlib import PosixPath, WindowsPath
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import CheckInput, LargeOutputs, OnError, OnPaused, Rule, UnconvertedFiles
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.task.deadlines import after_deferral
from airflow_provider_sim.task.input import copy_files

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.task.output import OutputRules


class SimOperator(BaseOperator):
    """An operator whose arguments are checked: constants at parse time, templated ones after rendering."""

    sim_conn_id: str
    retry_args: Mapping[str, Any] | None

    argument_rules: ClassVar[Mapping[str, Rule]] = {}

    @staticmethod
    def contradiction(given: Mapping[str, Any]) -> str | None:
        """Return which arguments contradict each other; a name that ``given`` lacks has no known value yet."""
        return None

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Check the constants of a mapped task, which Airflow instantiates at run time only."""
        cls.check(kwargs, templated=cls.template_fields)
        return super().partial(**kwargs)

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Leave path objects as they are: Airflow 3.0 and 3.1 resolve them, which fails if the file is gone."""
        if isinstance(content, PosixPath | WindowsPath):
            return content
        return super().render_template(content, *args, **kwargs)

    @classmethod
    def check(cls, given: Mapping[str, Any], *, templated: Collection[str] = ()) -> None:
        arguments.check_arguments(cls.argument_rules, given, contradiction=cls.contradiction, templated=templated)

    def _check_constants(self) -> None:
        """Check arguments at the end of ``__init__``.

        :raises SimInputError: names the argument and what to choose.
        """
        self.check(vars(self), templated=self.template_fields)

    def _check_rendered(self) -> None:
        """Check arguments before a request is sent; as :meth:`_check_constants`."""
        self.check(vars(self))


class SimWorkflowOperatorBase(SimOperator):
    """An operator that starts runs, waits for them, and returns their outputs."""

    deferrable: bool
    poll_interval: float
    run_timeout: float | timedelta | None
    timeout: float | timedelta | None
    on_paused: OnPaused
    check_input: CheckInput
    unconverted_files: UnconvertedFiles
    durable: bool
    cancel_on_kill: bool
    output_files_dir: str | PathLike[str] | None
    max_output_bytes: int | None
    large_outputs: LargeOutputs

    argument_rules: ClassVar[Mapping[str, Rule]] = {
        "workflow_id": arguments.workflow_id,
        "poll_interval": arguments.duration,
        "timeout": arguments.optional(arguments.duration),
        "run_timeout": arguments.optional(arguments.run_timeout),
        "on_paused": arguments.one_of(OnPaused),
        "check_input": arguments.one_of(CheckInput),
        "unconverted_files": arguments.one_of(UnconvertedFiles),
        "large_outputs": arguments.one_of(LargeOutputs),
        "max_output_bytes": arguments.optional(arguments.positive_int),
        "retry_args": arguments.optional(arguments.retry_args),
    }

    @cached_property
    def hook(self) -> SimHook:
        """The hook of the task's connection."""
        return SimHook(self.sim_conn_id, retry_args=self.retry_args)

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the templates, in files of this task's own."""
        for name in self.template_fields:
            setattr(self, name, copy_files(getattr(self, name, None)))
        super().render_template_fields(context, jinja_env)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral, also where Airflow itself has ended it."""
        return super().resume_execution(*after_deferral(next_method, next_kwargs), context)

    def execute_out_of_time(self, context: Context) -> Any:
        """Handle a deferral timeout: poll once more, then cancel the run."""
        raise NotImplementedError

    @property
    def output_rules(self) -> OutputRules:
        """The rules for files and large values in outputs."""
        from airflow_provider_sim.task.output import OutputRules

        return OutputRules.given(self.output_files_dir, self.max_output_bytes, self.large_outputs)


class SimRunOperatorBase(SimWorkflowOperatorBase):
    """An operator that runs one workflow once."""

    workflow_id: str
    input: Any
    async_execution: bool
    wait_for_completion: bool
    stream: bool
    selected_outputs: str | Sequence[str] | None


class SimBatchOperatorBase(SimWorkflowOperatorBase):
    """An operator that runs a batch of inputs."""

    inputs: Any
    workflow_id: str | None
    max_active_runs: int | None
    on_error: OnError
    skip_undeployed: bool
