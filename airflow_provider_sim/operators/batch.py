"""Operator that runs a workflow for each of many inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import OnError, Rule
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.links.sim import SimWorkflowLink
from airflow_provider_sim.operators.base import SimWorkflowOperatorBase
from airflow_provider_sim.task.deadlines import deadline, deferral_timeout
from airflow_provider_sim.task.input import FILES_IN_BATCH, copy_files, has_files

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.task.batch import TaskBatch

_CANCEL_TIME = timedelta(seconds=10)  # maximum part of execution_timeout for cancelling the runs before it


class SimExecuteWorkflowBatchOperator(SimWorkflowOperatorBase):
    """Run a deployed workflow for each of many inputs, and return all outputs in the order of the inputs.

    The runs are async. They are started as fast as the account's limits allow: rate-limited starts are retried and
    never fail the task. With ``deferrable`` the worker starts the runs that Sim accepts at once; one trigger starts the
    others and waits for all of them.

    No run is started twice: a retry with the same inputs re-attaches to active runs, returns the outputs of completed
    ones, and starts those that were never started, or with ``on_error="fail"`` have failed.

    XComs: ``return_value``, ``batch_id``, ``batch_counts``, ``workflow_url``, ``display_copies`` (the numbers of inputs
    whose outputs Sim had only as display copies), and ``partial_results`` if the task fails after runs have completed.

    :param inputs: a list with the fields of the workflow's Start block, a dict (or the JSON text of an object) for each
        run; a number, a boolean or a list is sent as the field ``input``. Also an XCom, the outputs of mapped tasks, or
        JSON text. Files aren't uploaded; pass references: ``[file.reference()]`` of a file from
        ``SimHook.upload_file``. (templated)
    :param workflow_id: the workflow of all inputs; without it, each of ``inputs`` is a dict of ``workflow_id`` and
        ``input``. (templated)
    :param max_active_runs: maximum number of concurrent runs; default: as many as Sim accepts.
    :param on_error: ``fail`` the task when all runs have finished, if some have failed; or ``collect``: return for each
        input a dict of ``status``, ``output`` or ``error``, and ``run_id``.
    :param skip_undeployed: skip inputs of workflows that aren't deployed, instead of counting them as failed; their
        output is None, their ``status`` is ``skipped``.
    :param timeout: seconds or timedelta to wait for all runs; default: 7 days. ``execution_timeout``, counted from the
        try's start, applies as well, also in the triggerer. The runs are then cancelled, unless ``cancel_on_kill`` is
        False.
    :param durable: False starts a new batch in each try.
    :param max_output_bytes: maximum size as JSON of each output, and of the whole result; default 16 MiB.
    :param large_outputs: ``fail`` for a larger one, or ``store`` it in ``output_files_dir`` and return ``output_path``;
        the whole result is a file with one line of JSON for each input.
    :param kwargs: ``sim_conn_id``, ``deferrable``, ``poll_interval``, ``run_timeout``, ``on_paused``, ``check_input``,
        ``cancel_on_kill``, ``output_files_dir`` and ``retry_args`` are those of
        :class:`~airflow_provider_sim.operators.sim.SimExecuteWorkflowOperator`.
    :raises SimBatchError: inputs have failed; the message contains the number, the first inputs and the reasons.
    :raises SimError: see :mod:`airflow_provider_sim.exceptions`.
    """

    template_fields: Sequence[str] = ("workflow_id", "inputs", "sim_conn_id", "output_files_dir")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json"}
    operator_extra_links = (SimWorkflowLink(),)
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        **SimWorkflowOperatorBase.argument_rules,
        "workflow_id": arguments.optional(arguments.workflow_id),
        "max_active_runs": arguments.optional(arguments.positive_int),
        "on_error": arguments.one_of(OnError),
    }

    def __init__(
        self,
        *,
        inputs: Any,
        workflow_id: str | None = None,
        max_active_runs: int | None = None,
        on_error: OnError = "fail",
        skip_undeployed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inputs = copy_files(inputs)
        self.workflow_id = workflow_id
        self.max_active_runs = max_active_runs
        self.on_error = on_error
        self.skip_undeployed = skip_undeployed
        self._batch: TaskBatch | None = None
        self._check_constants()

    @staticmethod
    def contradiction(given: Mapping[str, Any]) -> str | None:
        if given.get("multiple_outputs"):
            return "multiple_outputs is for one output, and a batch returns a list; map a task over its output instead"
        return FILES_IN_BATCH if has_files(given.get("inputs")) else arguments.missing_output_folder(given)

    def execute(self, context: Context) -> Any:
        """Start the batch, or resume an earlier try's, wait for it, and return its results."""
        return self._run(context, lambda batch: batch.start(deferrable=self.deferrable))

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Resume after the trigger's event: fetch the results."""
        return self._run(context, lambda batch: batch.restore(event or {}), is_resumed=True)

    def execute_timeout(self, context: Context) -> Any:
        """Handle a deferral timeout: poll once more, then cancel the runs."""
        return self._run(context, lambda batch: batch.recover())

    def _run(self, context: Context, step: Callable[[TaskBatch], None], *, is_resumed: bool = False) -> Any:
        with self.hook, closing(self._new_batch(context)) as batch:
            if not batch.state:
                self.log.info("The batch has no inputs; no runs were started.")
                return []
            try:
                step(batch)
            except SimError as error:
                return batch.finish_after(error)
            if is_resumed or batch.state.is_finished:
                batch.gather(active=is_resumed)
            if not batch.state.is_finished:
                self._defer(batch)
            return batch.result()

    def on_kill(self) -> None:
        """Cancel the runs, also those whose start Sim hasn't responded to yet."""
        if self._batch is not None:
            self._batch.kill()

    def _new_batch(self, context: Context) -> TaskBatch:
        """Check the arguments, and return the batch of this try, which is not started yet."""
        from airflow_provider_sim.batch.items import read_items
        from airflow_provider_sim.client import MAX_RUN_TIMEOUT
        from airflow_provider_sim.task.batch import TaskBatch
        from airflow_provider_sim.task.run_options import RunOptions

        self.check(vars(self))
        items = read_items(self.inputs, self.workflow_id)
        limit = self.execution_timeout
        limit = None if limit is None else limit - min(_CANCEL_TIME, limit / 20)
        options = RunOptions.of(
            self,
            deadline=deadline(context, self.timeout, limit, otherwise=MAX_RUN_TIMEOUT),
            workspace_id=self.hook.workspace_of(items.workflows[0]) if items.inputs else None,
        )
        self._batch = TaskBatch(context, self.hook, options, items)
        return self._batch

    def _defer(self, batch: TaskBatch) -> NoReturn:
        from airflow_provider_sim.triggers.batch import SimBatchTrigger

        trigger = SimBatchTrigger(**batch.trigger_arguments())
        timeout = deferral_timeout(trigger.run_options.deadline)
        self.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)
