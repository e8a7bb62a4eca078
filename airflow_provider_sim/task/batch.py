"""The batch of one task instance: start it, resume it after a retry, hand it to the triggerer, cancel it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_sim._compat import names_of
from airflow_provider_sim.batch.chunks import INPUTS_KEY, RESULTS_KEY, chunked, read_chunk
from airflow_provider_sim.batch.engine import BatchEngine, timeout_error
from airflow_provider_sim.batch.reconcile import Reconciler, cancel_all
from airflow_provider_sim.batch.results import Results
from airflow_provider_sim.batch.state import BatchState, ItemStatus
from airflow_provider_sim.client import AsyncSimClient, RetryPolicy, new_run_id, workflow_url
from airflow_provider_sim.exceptions import (
    Outcome,
    SimBatchError,
    SimError,
    SimOutputError,
    SimPermanentError,
    SimRunNotFoundError,
    SimRunTimeoutError,
    SimUsageLimitError,
)
from airflow_provider_sim.links.sim import WORKFLOW_URL_KEY
from airflow_provider_sim.metrics import Metric
from airflow_provider_sim.task.input import check_fields
from airflow_provider_sim.task.run import SHUTDOWN_RETRY, SHUTDOWN_TIMEOUT
from airflow_provider_sim.task.run_store import BatchStore

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.batch.items import Items
    from airflow_provider_sim.hooks.sim import SimHook
    from airflow_provider_sim.task.run_options import RunOptions

log = logging.getLogger(__name__)

BATCH_ID_KEY = "batch_id"
COUNTS_KEY = "batch_counts"
DISPLAY_COPIES_KEY = "display_copies"
PARTIAL_KEY = "partial_results"


@dataclass
class WorkerState:
    """What a task's process leaves to the next one, by way of the trigger."""

    names: dict[str, Any]  # of the task instance, whose XComs contain the inputs
    deadline: float | None  # seconds since the epoch at which the task stops waiting
    known_limit: int | None = None  # how many concurrent runs Sim accepts, as far as known
    firsts: list[int] = field(default_factory=list)  # the first input of each XCom with inputs for the trigger
    result_parts: int = 0  # number of XComs with results so far


class TaskBatch:
    """The batch of one try of a task; ``items`` are its inputs."""

    def __init__(self, context: Context, hook: SimHook, options: RunOptions, items: Items) -> None:
        self._ti: Any = context["ti"]
        self._hook = hook
        self._options = options
        self._items = items
        self._settings = hook.get_settings()
        self._store = BatchStore(context, items, durable=options.durable, server=self._settings.base_url)
        self._worker_state = WorkerState(names_of(self._ti), options.deadline)
        self._engine: BatchEngine | None = None
        self._killed: SimError | None = None
        self._results = Results(BatchState("", items.workflows), options, hook.get_conn())

    def close(self) -> None:
        """Delete the temporary files with the results."""
        self._results.files.cleanup()

    @property
    def state(self) -> BatchState:
        """The state of the batch; its ID is empty before it is started."""
        return self._results.state

    def start(self, *, deferrable: bool) -> None:
        """Start or resume the batch; wait for it, or if ``deferrable``, only start what Sim accepts at once."""
        self._with_client(lambda client: self._start(client, deferrable))

    def _with_client(self, work: Callable[[AsyncSimClient], Awaitable[None]], **settings: Any) -> None:
        async def call() -> None:
            async with AsyncSimClient.from_settings(replace(self._settings, **settings)) as client:
                await work(client)

        asyncio.run(call())

    async def _start(self, client: AsyncSimClient, deferrable: bool) -> None:
        async def input_of(index: int) -> Any:
            return self._items.inputs[index]

        await self._open(client)
        log.info("Batch %s has %d inputs.", self.state.batch_id, len(self.state))
        url = workflow_url(self._settings.base_url, self.state.workflows[0], self._options.workspace_id)
        self._push(BATCH_ID_KEY, self.state.batch_id)
        self._push(WORKFLOW_URL_KEY, url)
        self._store.record(self.state)
        self._engine = engine = BatchEngine(client, self._options, self.state, input_of, store=self._store)
        if self._killed:
            engine.stop(self._killed)
        if deferrable:
            await engine.start_available()
            self._worker_state.known_limit = engine.throttle.known
            can_defer = client.accepts_run_ids and (self._options.do_xcom_push or self.state.next_unsent() is None)
            if can_defer and (engine.stopped is None or self.state.count(ItemStatus.ACTIVE)):
                return
            if engine.stopped is None:
                log.info("The task keeps its worker: do_xcom_push is False, or Sim (before v0.7.32) chooses run IDs.")
        await engine.run()
        while not self.state.is_finished:
            with suppress(SimError):  # what fails is fetched later
                await self._results.gather(client, active=True)
            await engine.run()

    async def _open(self, client: AsyncSimClient) -> None:
        """Find and update the batch of an earlier try, or create another one."""
        previous, is_current = self._store.previous()
        if previous is not None and is_current:
            await self._resume(client, previous)
            return
        self._items.check(self._hook.get_conn().check_input)
        inputs = defaultdict(list)
        for workflow_id, value in zip(self._items.workflows, self._items.inputs, strict=True):
            inputs[workflow_id].append(value)
        for workflow_id, values in inputs.items():
            check_fields(self._hook, workflow_id, values, self._options.check_input)
        if previous is not None and self._options.cancel_on_kill:
            await self._cancel_previous(client, previous)
        batch_id = self._store.new_batch_id()
        if self._store.derives_ids:
            with suppress(SimRunNotFoundError):
                await client.get_workflow_run(self._items.workflows[0], f"{batch_id}-0")
                batch_id = new_run_id()  # no earlier try has started that batch: it is another task's
        self._results.state = BatchState(batch_id, self._items.workflows, since=time.time())

    async def _resume(self, client: AsyncSimClient, state: BatchState) -> None:
        self._results.state = state
        for index, ids in self._store.run_ids().items():
            state.server_ids[index] = ids
            if state.statuses[index] is ItemStatus.UNSENT:
                state.set_status(index, ItemStatus.ACTIVE)
        reconciler = Reconciler(client, state, self._options.workspace_id, rerun=self._options.on_error == "fail")
        reconciler.reopen()
        await reconciler.update()
        log.info("Resuming batch %s of an earlier try: %s.", state.batch_id, state.summary())
        Metric.RUN_REATTACHED.incr(state.count(ItemStatus.ACTIVE, ItemStatus.COMPLETED))

    async def _cancel_previous(self, client: AsyncSimClient, state: BatchState) -> None:
        """Cancel the active runs of a batch that was cleared, or whose inputs have changed."""
        try:
            await Reconciler(client, state, self._options.workspace_id).update()
            if result := await cancel_all(client.with_retry(SHUTDOWN_RETRY), state):
                log.info("Batch %s: the task was cleared or changed. %s", state.batch_id, result)
        except SimError as error:
            log.warning("Batch %s could not be cancelled and may continue: %s", state.batch_id, error)

    def recover(self) -> None:
        """Read the state of the batch that this try has started, after a deferral timeout; raise the timeout error."""
        state, is_current = self._store.previous(self._pull(BATCH_ID_KEY))
        if state is None or not is_current:
            raise SimBatchError("The batch that the task has started can't be found.", outcome=Outcome.RAN)
        self._results.state = state
        raise timeout_error(state)

    def _push(self, key: str, value: Any) -> None:
        if self._options.do_xcom_push:
            self._ti.xcom_push(key=key, value=value)

    def _pull(self, key: str) -> Any:
        return self._ti.xcom_pull(task_ids=self._ti.task_id, key=key, map_indexes=self._ti.map_index)

    def trigger_arguments(self) -> dict[str, Any]:
        """Push the inputs that aren't sent, and the results so far, as XComs; return the trigger's arguments."""
        firsts = self._worker_state.firsts
        if not firsts:  # otherwise the first deferral has pushed them
            unsent = self.state.indices(ItemStatus.UNSENT, ItemStatus.SENT)
            for part, (first, text) in enumerate(chunked((index, self._items.inputs[index]) for index in unsent)):
                firsts.append(first)
                self._ti.xcom_push(key=INPUTS_KEY.format(part), value=text)
        for _, text in chunked(self._results.unstored()):
            self._ti.xcom_push(key=RESULTS_KEY.format(self._worker_state.result_parts), value=text)
            self._worker_state.result_parts += 1
        self._store.record(self.state)
        state, worker_state = self.state.to_dict(), asdict(self._worker_state)
        return {"state": state, "worker_state": worker_state, "options": self._options}

    def restore(self, event: Mapping[str, Any]) -> None:
        """Restore the batch from its trigger's event; raise the error in it, or if the event is another task's."""
        state = BatchState.from_dict(event["state"]) if event.get("state") else None
        if state is None or tuple(state.workflows) != self._items.workflows:
            raise SimError(
                f"The trigger's event doesn't belong to this task's {len(self.state)} inputs: {event!r:.500}. If the"
                " inputs were changed while the task was deferred, clear the task to start over."
            )
        self._results.state = state
        self._worker_state = WorkerState(**event["worker_state"])
        self._options = replace(self._options, deadline=self._worker_state.deadline)
        for part in range(self._worker_state.result_parts):
            self._results.load(read_chunk(self._pull(RESULTS_KEY.format(part))))
        if event["status"] == "timeout":
            raise timeout_error(state)
        if event["status"] == "error":
            error_class = SimPermanentError if event.get("permanent") else SimBatchError
            message = f"Batch {state.batch_id} failed: {event['message']}"
            raise error_class(message, code=event.get("code"), outcome=Outcome.RAN)

    def result(self) -> Any:
        """Return the task's result, after its outputs were fetched; raise if inputs have failed and it has to fail."""
        inputs = [INPUTS_KEY.format(part) for part in range(len(self._worker_state.firsts))]
        for key in inputs + [RESULTS_KEY.format(part) for part in range(self._worker_state.result_parts)]:
            self._ti.xcom_push(key=key, value="")  # frees the space
        self._report()
        bad, total, results = len(self._results.bad), len(self.state), self._results
        rejection = self._engine and self._engine.rejection
        if bad and self._options.on_error == "collect":
            log.warning("%d of %d inputs failed: %s.", bad, total, results.failures())
        elif rejection and bad == total == self.state.count(ItemStatus.REFUSED):
            raise rejection  # the same for all inputs
        elif bad:
            error = (
                f"{bad} of {total} inputs of batch {self.state.batch_id} failed: {results.failures()}. A retry of the"
                " task runs these again and returns the others' outputs; clearing it runs all of them again."
            )
            raise self._failure(SimBatchError(error, outcome=Outcome.RAN))
        return results.deliver("results", only_outputs=self._options.on_error != "collect")

    def finish_after(self, error: SimError) -> Any:
        """Poll once more: return the result if all runs have finished by now, or else fail with the error.

        At the timeout, the runs that have not finished are cancelled.
        """
        if not self.state.batch_id:
            raise error  # nothing was started
        timed_out = isinstance(error, SimRunTimeoutError)
        if timed_out or self.state.count(ItemStatus.ACTIVE, ItemStatus.SENT):
            self._poll()
        cancelled = self.state.count(ItemStatus.CANCELLED)
        if timed_out and not self.state.is_finished:
            error = timeout_error(self.state)
            self._cancel("its timeout has passed", seconds=60.0)
            self._poll()
        try:
            self.gather()
        except SimError as another:
            log.warning("Not all results could be fetched: %s", another)
        else:  # runs may have completed before they could be cancelled
            if self.state.is_finished and self.state.count(ItemStatus.CANCELLED) == cancelled:
                return self.result()
        self._report()
        raise self._failure(error)

    def _poll(self) -> None:
        retry, workspace_id = RetryPolicy(max_delay=2.0, max_elapsed=5.0), self._options.workspace_id
        try:
            self._with_client(lambda client: Reconciler(client, self.state, workspace_id).update(), retry=retry)
        except SimError as error:
            log.warning("Could not get the status of the runs of batch %s: %s", self.state.batch_id, error)

    def gather(self, *, active: bool = False) -> None:
        """Fetch the results of finished runs; with ``active``, also of those that may have finished by now."""
        retry = self._settings.retry.adjusted(max_retries=100, max_elapsed=900.0)
        self._with_client(lambda client: self._results.gather(client, active=active), retry=retry)

    def _report(self) -> None:
        """Persist the state; log and push the numbers of inputs by status."""
        self._store.record(self.state)
        if copies := sorted(self._results.display_copies):
            log.warning("%d outputs are Sim's display copies; the XCom %r lists them.", len(copies), DISPLAY_COPIES_KEY)
            self._push(DISPLAY_COPIES_KEY, copies)
        log.info("Batch %s: %s.", self.state.batch_id, self.state.summary())
        self._push(COUNTS_KEY, {"total": len(self.state), **self.state.counts()})

    def _failure(self, error: SimError) -> SimError:
        """Store the results of completed runs, and return the error with their place.

        If the usage limit is reached mid-batch, the error is a retryable one, so that a retry resumes the batch.
        """
        completed = self.state.count(ItemStatus.COMPLETED)
        if not completed:
            return error
        if error.code == SimUsageLimitError.code:
            message = f"Batch {self.state.batch_id} stopped: {error} A retry of the task resumes it."
            error = SimBatchError(message, outcome=Outcome.RAN)
        place = "Sim, for a day at least"
        try:
            stored = self._results.deliver(PARTIAL_KEY)
            if isinstance(stored, dict):
                place = stored["output_path"]
            elif self._options.do_xcom_push:
                place = f"the XCom {PARTIAL_KEY!r}"
                self._push(PARTIAL_KEY, stored)
        except SimOutputError as too_large:
            log.warning("%s", too_large)
        error.args = (f"{error} The outputs of {completed} completed runs are in {place}.",)
        return error

    def kill(self) -> None:
        """Cancel the runs and start no others; called in a signal handler, at any point of the task."""
        self._killed = SimError("The task was killed before all of its runs were started.", outcome=Outcome.RAN)
        if self._engine is not None:
            self._engine.stop(self._killed)
        self._cancel("the task is killed", seconds=4.5)  # Airflow kills a process 5 s after it has signaled it

    def _cancel(self, reason: str, seconds: float) -> None:
        """Cancel the runs unless ``cancel_on_kill`` is False, and log the result."""
        if not (active := self.state.count(ItemStatus.ACTIVE, ItemStatus.SENT)):
            return
        if not self._options.cancel_on_kill:
            log.info("%d runs continue, although %s: cancel_on_kill is False.", active, reason)
            return
        log.info("Cancelling %d runs of batch %s: %s.", active, self.state.batch_id, reason)

        async def cancel(client: AsyncSimClient) -> None:
            log.info("%s", await cancel_all(client, self.state))

        # In another thread: this one may be running its event loop.
        settings = {"timeout": min(SHUTDOWN_TIMEOUT, self._settings.timeout), "retry": SHUTDOWN_RETRY}
        thread = threading.Thread(target=self._with_client, args=(cancel,), kwargs=settings, daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            log.error("Not all runs of batch %s could be cancelled in time.", self.state.batch_id)
