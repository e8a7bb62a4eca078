"""What the operators that run workflows have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sim.deferral import after_deferral, wrong_duration
from airflow_provider_sim.hooks.sim import SimHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.output import OutputRules
    from airflow_provider_sim.watch import OnPaused


class RunsWorkflows(BaseOperator):
    """An operator that starts runs, waits for them, and returns what they have returned."""

    sim_conn_id: str
    retry_args: Mapping[str, Any] | None
    deferrable: bool
    poll_interval: float
    run_timeout: float | timedelta | None
    timeout: float | timedelta | None
    on_paused: str
    unconverted_files: str
    durable: bool
    cancel_on_kill: bool
    output_files_dir: str | None
    max_output_bytes: int | None
    large_outputs: str

    @cached_property
    def hook(self) -> SimHook:
        """The hook of the task's connection."""
        return SimHook(self.sim_conn_id, retry_args=self.retry_args)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, also where Airflow itself has ended it."""
        return super().resume_execution(*after_deferral(next_method, next_kwargs), context)

    def execute_out_of_time(self, context: Context) -> Any:
        """Look a last time, since no trigger did in time."""
        raise NotImplementedError

    def _wrong_argument(self) -> str | None:
        """Say which of these arguments can't work, if any."""
        from airflow_provider_sim.watch import OnPaused

        if wrong := self.output_rules.wrong():
            return wrong
        if self.on_paused not in list(OnPaused):
            return f"on_paused is {self.on_paused!r}; it can be {', '.join(OnPaused)}"
        return wrong_duration("poll_interval", self.poll_interval) or wrong_duration(
            "timeout", self.timeout, optional=True
        )

    @property
    def output_rules(self) -> OutputRules:
        """What the author wants done with outputs."""
        from airflow_provider_sim.output import OutputRules

        return OutputRules.given(self.output_files_dir, self.max_output_bytes, self.large_outputs)

    @property
    def _on_paused(self) -> OnPaused:
        from airflow_provider_sim.watch import OnPaused

        return OnPaused(self.on_paused)


class RunsOneWorkflow(RunsWorkflows):
    """An operator whose task is about one run."""

    workflow_id: str
    input: Any
    async_execution: bool
    wait_for_completion: bool
    stream: bool
    selected_outputs: Sequence[str] | None


class RunsManyWorkflows(RunsWorkflows):
    """An operator whose task is about a batch of runs."""

    inputs: Any
    workflow_id: str | None
    max_active_runs: int | None
    on_error: str
    skip_undeployed: bool
