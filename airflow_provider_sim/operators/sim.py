"""Run a deployed Sim workflow from a DAG."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.links.sim import SimRunLink, SimWorkflowLink, push_links

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client.blocking import SimClient, WorkflowStream
    from airflow_provider_sim.client.models import AsyncExecutionResult, WorkflowExecutionResult, WorkflowRun
    from airflow_provider_sim.watch import RunWatch

RUN_ID_KEY = "run_id"
JOB_ID_KEY = "job_id"
OUTPUT_KEY = "output"

SEVEN_DAYS = 7 * 24 * 3600.0
"""Seconds; the longest that Sim lets a run take."""


class SimExecuteWorkflowOperator(BaseOperator):
    """Run a deployed workflow and return its output.

    There are three ways to run it. By default the connection is held open until the run's end, which suits runs of up
    to a minute. With ``async_execution`` Sim queues the run and the task looks at it every ``poll_interval`` seconds,
    holding its worker; with ``deferrable`` it frees the worker and waits in the triggerer. With ``stream`` the
    workflow's text appears in the task log while it runs.

    A run that fails or is cancelled fails the task, which Airflow retries as usual with a new run. What no retry can
    mend (wrong key, workflow unknown or not deployed, input that Sim refuses, usage limit) fails it at once.

    XComs: ``return_value``, ``run_id``, ``run_url``, ``workflow_url``, and ``job_id`` on the legacy API.

    :param workflow_id: the workflow: the last part of its address in Sim's editor. (templated)
    :param input: the fields of the workflow's Start block as a dict; any other JSON value arrives as the field
        ``input``. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param async_execution: let Sim queue the run instead of holding the connection open.
    :param wait_for_completion: False starts an asynchronous run and returns its run id, to be waited for with
        :class:`~airflow_provider_sim.sensors.sim.SimJobSensor`.
    :param deferrable: wait for an asynchronous run in the triggerer, without a worker.
    :param poll_interval: seconds between looks at an asynchronous run.
    :param stream: hold the connection open and write text to the task log as it comes.
    :param selected_outputs: with ``stream``, the block outputs to stream, as ``Block name.path``; they are part of the
        output under their block's id. (templated)
    :param run_timeout: seconds or timedelta after which the server stops an asynchronous run, 1 s to 7 days.
    :param timeout: seconds or timedelta to wait for the run's end, last look included; default: one hour where the
        connection is held open, 7 days otherwise. The run itself may go on.
    :param on_paused: when the run waits for a person: ``wait`` with it, ``fail``, or ``return`` a report with
        ``context_id`` and ``approval_url``. Pauses that end by themselves are waited for, if the run is asynchronous.
    :param check_deployed: ask first whether the workflow is deployed, before an input is sent.
    :param retry_args: settings that go before the connection's for requests that are safe to repeat: ``max_retries``,
        ``initial_delay``, ``max_delay`` (seconds), ``backoff_multiplier``.
    :raises SimError: see :mod:`airflow_provider_sim.exceptions`.
    """

    template_fields: Sequence[str] = ("workflow_id", "input", "sim_conn_id", "selected_outputs")
    template_fields_renderers: ClassVar[dict[str, str]] = {"input": "json"}
    operator_extra_links = (SimRunLink(), SimWorkflowLink())
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        workflow_id: str,
        input: Any = None,
        sim_conn_id: str = SimHook.default_conn_name,
        async_execution: bool = False,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 10.0,
        stream: bool = False,
        selected_outputs: Sequence[str] | None = None,
        run_timeout: float | timedelta | None = None,
        timeout: float | timedelta | None = None,
        on_paused: str = "wait",
        check_deployed: bool = False,
        retry_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_id = workflow_id
        self.input = input
        self.sim_conn_id = sim_conn_id
        self.async_execution = async_execution
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.stream = stream
        self.selected_outputs = selected_outputs
        self.run_timeout = run_timeout
        self.timeout = timeout
        self.on_paused = on_paused
        self.check_deployed = check_deployed
        self.retry_args = retry_args
        self._announced: str | None = None

    @cached_property
    def hook(self) -> SimHook:
        """The hook of the task's connection."""
        return SimHook(self.sim_conn_id, retry_args=self.retry_args)

    def execute(self, context: Context) -> Any:
        """Start the run and, unless told otherwise, see it through to its end."""
        from airflow_provider_sim.client.dialects.exchange import check_workflow_id

        check_workflow_id(self.workflow_id)
        self._check_arguments()
        with self.hook as hook:
            client = hook.get_conn()
            if self.check_deployed:
                self._require_deployment(client)
            started = self._read_stream(context, client) if self.stream else self._start(context, client)
            if not self.wait_for_completion:
                return self._leave_running(context, client, started)
            return self._result(client, self._see_through(client, started))

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Go on when the trigger has fired: fetch the run and return its output."""
        from airflow_provider_sim.results import read_event

        run_id, job_id = read_event(event, workflow_id=self.workflow_id)
        with self.hook as hook:
            client = hook.get_conn()
            return self._result(client, client.get_workflow_run(self.workflow_id, run_id, job_id=job_id))

    def _check_arguments(self) -> None:
        """Refuse what contradicts itself, once templates are rendered.

        :raises SimInputError: says which arguments, and what to choose.
        """
        from airflow_provider_sim.exceptions import Outcome, SimInputError
        from airflow_provider_sim.watch import OnPaused

        wrong = None
        if self.on_paused not in list(OnPaused):
            wrong = f"on_paused is {self.on_paused!r}; it can be {', '.join(OnPaused)}"
        elif not self.poll_interval > 0:
            wrong = f"poll_interval is {self.poll_interval!r}; it must be a number of seconds above 0"
        elif self.stream and not self.wait_for_completion:
            wrong = "stream needs wait_for_completion: a stream is held open until the run's end"
        elif self.selected_outputs and not self.stream:
            wrong = "selected_outputs takes effect on streams only; set stream=True or leave it out"
        if wrong:
            raise SimInputError(f"{wrong}.", workflow_id=self.workflow_id, outcome=Outcome.NEVER_SENT)
        if self.stream and self.deferrable:
            self.log.info("stream holds the connection open, so the task keeps its worker; deferrable has no effect.")

    def _require_deployment(self, client: SimClient) -> None:
        from airflow_provider_sim.exceptions import SimWorkflowNotDeployedError

        if not client.get_workflow_status(self.workflow_id).is_deployed:
            raise SimWorkflowNotDeployedError(
                f"Workflow {self.workflow_id!r} has no live deployment. Open it in Sim and press Deploy.",
                workflow_id=self.workflow_id,
            )

    @property
    def _is_asynchronous(self) -> bool:
        return self.async_execution or not self.wait_for_completion or (self.deferrable and not self.stream)

    def _start(self, context: Context, client: SimClient) -> AsyncExecutionResult | WorkflowExecutionResult:
        """Send the execution; a receipt, or the finished run where it was held open."""
        started: Any = client.execute_with_retry(
            self.workflow_id,
            self.input,
            timeout=None if self._is_asynchronous else _seconds(self.timeout),
            async_execution=self._is_asynchronous or None,
            run_id=lambda: self._new_run_id(context, client),
            run_timeout=_whole_seconds(self.run_timeout),
        )
        if started.run_id and started.run_id != self._announced:  # old servers choose the id themselves
            self._announce(context, client, started.run_id)
        job_id = getattr(started, "job_id", None)
        if job_id and self.do_xcom_push:
            context["ti"].xcom_push(key=JOB_ID_KEY, value=job_id)
        return started  # type: ignore[no-any-return]

    def _new_run_id(self, context: Context, client: SimClient) -> str:
        """Choose the run's id and make it known before anything is sent."""
        from airflow_provider_sim.client.conversations import new_run_id

        run_id = new_run_id()
        self._announce(context, client, run_id)
        return run_id

    def _announce(self, context: Context, client: SimClient, run_id: str) -> None:
        self._announced = run_id
        self.log.info("Workflow %s runs as %s.", self.workflow_id, run_id)
        if self.do_xcom_push:
            context["ti"].xcom_push(key=RUN_ID_KEY, value=run_id)
            push_links(
                context,
                client.base_url,
                workflow_id=self.workflow_id,
                run_id=run_id,
                workspace_id=self.hook.workspace_of(self.workflow_id),
            )

    def _leave_running(
        self, context: Context, client: SimClient, started: AsyncExecutionResult | WorkflowExecutionResult
    ) -> str | None:
        """Return the run's id. A server that held the run open all the same has its output now or never."""
        from airflow_provider_sim.client.models import WorkflowExecutionResult

        if isinstance(started, WorkflowExecutionResult):
            self.log.warning(
                "This Sim server (v0.5.0 to v0.5.15) knows no asynchronous runs: it held the connection open until the"
                " run's end, and the run can't be looked up later. Its output is in the XCom %r.",
                OUTPUT_KEY,
            )
            output = self._result(client, started)
            if self.do_xcom_push:
                context["ti"].xcom_push(key=OUTPUT_KEY, value=output)
        return started.run_id

    def _see_through(self, client: SimClient, started: AsyncExecutionResult | WorkflowExecutionResult) -> WorkflowRun:
        """Wait for a run that isn't over yet, here or in the triggerer."""
        from airflow_provider_sim.client.models import WorkflowExecutionResult
        from airflow_provider_sim.watch import RunWatch, wait_for_run

        run = started if isinstance(started, WorkflowExecutionResult) else None
        if run is not None and (run.status.is_terminal or run.run_id is None):
            return run
        now = time.time()
        watch = RunWatch(
            self.workflow_id,
            started.run_id or "",
            job_id=getattr(started, "job_id", None),
            poll_interval=self.poll_interval,
            deadline=now + (_seconds(self.timeout) or SEVEN_DAYS),
            on_paused=self._on_paused,
            started=now,
        )
        if run is not None and watch.saw(run):
            return run
        if not self.deferrable:
            return wait_for_run(client, watch)
        return self._look_once(client, watch) or self._defer(watch)

    def _look_once(self, client: SimClient, watch: RunWatch) -> WorkflowRun | None:
        """Look before deferring: a request, which saves two starts of a process for runs that are over already."""
        from airflow_provider_sim.client.retry import NO_RETRY
        from airflow_provider_sim.exceptions import SimError

        try:
            run = client.get_workflow_run(watch.workflow_id, watch.run_id, job_id=watch.job_id, retry=NO_RETRY)
        except SimError as error:
            watch.missed(error)
            return None
        return run if watch.saw(run) else None

    def _defer(self, watch: RunWatch) -> NoReturn:
        from airflow_provider_sim.triggers.sim import SimRunTrigger

        self.defer(trigger=SimRunTrigger.of_watch(watch, self.sim_conn_id), method_name="execute_complete")

    def _read_stream(self, context: Context, client: SimClient) -> WorkflowExecutionResult:
        """Run the workflow with its text in the task log as it comes."""
        from airflow_provider_sim.operators.stream_log import StreamLog

        stream: Any = client.execute_with_retry(
            self.workflow_id,
            self.input,
            timeout=_seconds(self.timeout),
            stream=True,
            selected_outputs=self.selected_outputs,
            run_id=lambda: self._new_run_id(context, client),
        )
        events: WorkflowStream = stream
        with events:
            return StreamLog(keep_text=bool(self.selected_outputs)).read(events)

    def _result(self, client: SimClient, run: WorkflowRun) -> Any:
        from airflow_provider_sim.results import task_result

        return task_result(client, run, on_paused=self._on_paused)

    @property
    def _on_paused(self) -> Any:
        from airflow_provider_sim.watch import OnPaused

        return OnPaused(self.on_paused)


def _seconds(value: float | timedelta | None) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _whole_seconds(value: float | timedelta | None) -> Any:
    return int(value.total_seconds()) if isinstance(value, timedelta) else value
