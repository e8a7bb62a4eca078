"""Run a deployed Sim workflow for each of many inputs, in one task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import conf

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import CheckInput, LargeOutputs, OnError, OnPaused, Rule, UnconvertedFiles
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.links.sim import SimWorkflowLink
from airflow_provider_sim.operators.base import SimBatchOperatorBase
from airflow_provider_sim.task.deadlines import seconds
from airflow_provider_sim.task.input import copy_files

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.batch.items import Items
    from airflow_provider_sim.task.batch import TaskBatch

_BACKSTOP = timedelta(minutes=10)
"""After the trigger's own deadline and its last looks, in case that no triggerer was there to keep it."""


class SimExecuteWorkflowBatchOperator(SimBatchOperatorBase):
    """Run a deployed workflow for each of many inputs, and return all outputs in the order of the inputs.

    The runs are asynchronous. They are started as fast as the account's limits let them: a refusal for too many
    requests or too many runs at once is waited out, never a failure. With ``deferrable`` the worker starts what Sim
    takes at once, and the triggerer starts the others, and waits, in one trigger for all of them.

    No run is started twice. Their ids follow from the batch's, which is written down before anything is sent: a later
    try goes on with runs that go on, takes the outputs of those that have completed, and starts only those that were
    never started, or with ``on_error="fail"`` have failed. That needs the same inputs in each try: other inputs are
    another batch.

    XComs: ``return_value``, ``batch_id``, ``batch_counts``, ``workflow_url``, ``display_copies`` (the numbers of inputs
    whose outputs Sim had only as display copies), and ``partial_results`` where the task fails although runs have
    completed.

    :param inputs: a list with the fields of the workflow's Start block, a dict (or the JSON text of an object) for each
        run; a number, a boolean or a list arrives as the field ``input``. Also an XCom or the outputs of mapped tasks,
        or JSON text. (templated)
    :param check_input: compare the inputs with the fields that the workflow declares, before a run starts: ``warn`` in
        the log, ``fail`` the task, or ``off``. Sim drops undeclared fields and fills in missing ones. The fields are
        those of the workflow's draft, and their defaults aren't known. With ``warn`` the check takes one request for
        each workflow, is skipped where that fails, and never delays a run; with ``fail``, the request is retried, and
        its error fails the task. Servers that don't report fields aren't checked.
    :param unconverted_files: Sim converts files in inputs only for runs that are held open: ``fail`` for an input with
        a file, or ``send`` it all the same, as an object with base64 text.
    :param workflow_id: the workflow of all inputs; without it, each of ``inputs`` is a dict of ``workflow_id`` and
        ``input``. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param max_active_runs: how many runs may go on at once; by default as many as Sim lets.
    :param on_error: ``fail`` the task once all runs are over, if some have failed; or ``collect``: return for each
        input a dict of ``status``, ``output`` or ``error``, and ``run_id``.
    :param skip_undeployed: leave inputs of workflows out that aren't deployed, instead of counting them as failures;
        their output is None, their ``status`` is ``skipped``.
    :param deferrable: wait in the triggerer, without a worker.
    :param poll_interval: seconds or timedelta between looks at the runs.
    :param run_timeout: seconds or timedelta after which the server stops a run, 1 s to 7 days.
    :param timeout: seconds or timedelta to wait for the end of all runs; default: 7 days. ``execution_timeout``,
        counted from the try's start, ends the waiting as well, in the triggerer too. The runs are then cancelled,
        unless ``cancel_on_kill`` is False.
    :param on_paused: when a run waits for a person: ``wait`` with it, count it as failed with ``fail``, or ``return`` a
        report with ``context_id`` and ``approval_url`` as its output. Pauses that end by themselves are always waited
        for.
    :param retry_args: settings that go before the connection's for requests that are safe to repeat: ``max_retries``,
        ``initial_delay``, ``max_delay`` (seconds), ``backoff_multiplier``.
    :param durable: False lets each try start a batch of its own.
    :param cancel_on_kill: cancel the runs when the task is killed, cleared, marked or out of time.
    :param output_files_dir: a folder for ``ObjectStoragePath``, such as ``s3://conn@bucket/folder``, where the outputs'
        files and large results are saved. (templated)
    :param max_output_bytes: how large a single output, and the task's whole result, may be as JSON; default 16 MiB.
    :param large_outputs: what becomes of a larger one: ``fail``, or ``store`` in ``output_files_dir`` and return
        ``output_path``; of the whole result, a file with one line of JSON for each input.
    :raises SimBatchError: inputs have failed; the message says how many, which and why.
    :raises SimError: see :mod:`airflow_provider_sim.exceptions`.
    """

    template_fields: Sequence[str] = ("workflow_id", "inputs", "sim_conn_id", "output_files_dir")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json"}
    operator_extra_links = (SimWorkflowLink(),)
    ui_color = "#ede9fe"
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        **SimBatchOperatorBase.argument_rules,
        "workflow_id": arguments.optional(arguments.workflow_id),
        "max_active_runs": arguments.optional(arguments.positive_int),
        "on_error": arguments.one_of(OnError),
    }
    contradiction = staticmethod(arguments.missing_output_folder)

    def __init__(
        self,
        *,
        inputs: Any,
        workflow_id: str | None = None,
        sim_conn_id: str = SimHook.default_conn_name,
        max_active_runs: int | None = None,
        on_error: OnError = "fail",
        skip_undeployed: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta = 10.0,
        run_timeout: float | timedelta | None = None,
        timeout: float | timedelta | None = None,
        on_paused: OnPaused = "wait",
        retry_args: Mapping[str, Any] | None = None,
        check_input: CheckInput = "warn",
        unconverted_files: UnconvertedFiles = "fail",
        durable: bool = True,
        cancel_on_kill: bool = True,
        output_files_dir: str | PathLike[str] | None = None,
        max_output_bytes: int | None = None,
        large_outputs: LargeOutputs = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inputs = copy_files(inputs)
        self.workflow_id = workflow_id
        self.sim_conn_id = sim_conn_id
        self.max_active_runs = max_active_runs
        self.on_error = on_error
        self.skip_undeployed = skip_undeployed
        self.deferrable = deferrable
        self.poll_interval = seconds(poll_interval)
        self.run_timeout = run_timeout
        self.timeout = timeout
        self.on_paused = on_paused
        self.retry_args = retry_args
        self.check_input = check_input
        self.unconverted_files = unconverted_files
        self.durable = durable
        self.cancel_on_kill = cancel_on_kill
        self.output_files_dir = output_files_dir
        self.max_output_bytes = max_output_bytes
        self.large_outputs = large_outputs
        self._batch: TaskBatch | None = None
        self._check_constants()

    def execute(self, context: Context) -> Any:
        """Start the batch, or find the one that an earlier try has begun, and see it through to its end."""
        from airflow_provider_sim.task.batch import TaskBatch

        items = self._read_items()
        if not items:
            self.log.info("There are no inputs, and so no runs.")
            return []
        with self.hook as hook:
            hook.workspace_of(items.workflows[0])  # tells as well which API the server speaks
            with TaskBatch(context, self, items) as self._batch:
                try:
                    self._batch.begin(defer_state=self.deferrable)
                except SimError as error:
                    return self._batch.end(error)
                if not self._batch.is_over:
                    self._defer(self._batch)
                return self._batch.result()

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Go on when the trigger has fired: gather what the runs have returned."""
        from airflow_provider_sim.task.batch import TaskBatch, read_batch_event

        items = self._read_items()
        told = read_batch_event(event, total=len(items))
        with self.hook, TaskBatch(context, self, items, journal=told.journal) as batch:
            self._batch = batch
            batch.remember(told.leg)
            if told.error is not None:
                return batch.end(told.error)
            if told.status == "gather":
                batch.store_results()
                self._defer(batch)
            return batch.result()

    def execute_out_of_time(self, context: Context) -> Any:
        """Handle a deferral timeout: poll once more, then cancel the runs."""
        from airflow_provider_sim.batch.engine import timeout_error
        from airflow_provider_sim.task.batch import TaskBatch

        with self.hook, TaskBatch(context, self, self._read_items()) as batch:
            self._batch = batch
            batch.recover()
            return batch.end(timeout_error(batch.journal))

    def on_kill(self) -> None:
        """Cancel the runs, also those whose start Sim hasn't answered yet."""
        if self._batch is not None:
            self._batch.kill()

    def _defer(self, batch: TaskBatch) -> NoReturn:
        from airflow_provider_sim.triggers.batch import SimBatchTrigger

        self.defer(
            trigger=SimBatchTrigger(**batch.defer_state()),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, batch.deadline - time.time())) + _BACKSTOP,
        )

    def _read_items(self) -> Items:
        """Refuse what can't work, once templates are rendered.

        :raises SimInputError: says which argument or input, and why.
        """
        from airflow_provider_sim.batch.items import read_items

        self._check_rendered()
        return read_items(self.inputs, self.workflow_id)
