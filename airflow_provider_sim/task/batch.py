"""The batch of one task instance: start it, resume it after a retry, hand it to the triggerer, cancel it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_sim._compat import delete_xcom, names_of
from airflow_provider_sim.batch.chunks import chunk_key, chunked
from airflow_provider_sim.batch.engine import BatchEngine, timeout_error
from airflow_provider_sim.batch.reconcile import Reconciler, cancel_all, undeployed
from airflow_provider_sim.batch.results import Results
from airflow_provider_sim.batch.state import BatchState, ItemStatus, run_length_decode, run_length_encode
from airflow_provider_sim.client import (
    MAX_RUN_TIMEOUT,
    AsyncSimClient,
    RetryPolicy,
    WorkflowExecutionResult,
    WorkflowRun,
    new_run_id,
    workflow_url,
)
from airflow_provider_sim.exceptions import (
    Outcome,
    SimBatchError,
    SimError,
    SimInputError,
    SimOutputError,
    SimPermanentError,
    SimRunNotFoundError,
    SimRunTimeoutError,
    SimUsageLimitError,
)
from airflow_provider_sim.links.sim import WORKFLOW_URL_KEY
from airflow_provider_sim.task.batch_engine import batch_client, new_engine
from airflow_provider_sim.task.input import check_fields
from airflow_provider_sim.task.output import read_file, write_file
from airflow_provider_sim.task.run import SHUTDOWN_RETRY, SHUTDOWN_TIMEOUT
from airflow_provider_sim.task.run_store import batch_store_for

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.batch.items import Items
    from airflow_provider_sim.hooks.sim import SimHook
    from airflow_provider_sim.rate_limits import StartThrottle
    from airflow_provider_sim.task.run_options import RunOptions
    from airflow_provider_sim.triggers.batch import SimBatchTrigger

log = logging.getLogger(__name__)

BATCH_ID_KEY = "batch_id"
COUNTS_KEY = "batch_counts"
DISPLAY_COPIES_KEY = "display_copies"
PARTIAL_KEY = "partial_results"

GATHER_EVERY = 600.0
"""Seconds after which a worker fetches the outputs of finished runs; Sim keeps them for a day."""

_LAST_POLL_RETRY = RetryPolicy(max_retries=3, initial_delay=0.5, max_delay=2.0, max_elapsed=5.0)
_RESULTS_MAX_RETRIES, _RESULTS_MAX_ELAPSED = 100, 900.0

_RESULTS_NAME = "batch_results_{}"
"""Names of the files, or of the XComs without ``output_files_dir``, with results for the task's last process."""

_TIMEOUT_CANCEL_SECONDS = 60.0
_KILL_CANCEL_SECONDS = 4.5
"""Airflow kills a worker process 5 s after it has signaled it."""


class TaskBatch:
    """The batch of one try of a task.

    :param items: its inputs.
    :param event: the trigger's event, after a deferral.
    """

    def __init__(
        self, context: Context, hook: SimHook, options: RunOptions, items: Items, event: BatchEvent | None = None
    ) -> None:
        self._context = context
        self._hook = hook
        self._options = options
        self._items = items
        self._settings = hook.get_settings()
        self._store = batch_store_for(
            context, durable=options.durable, server=self._settings.base_url, digest=items.digest()
        )
        self._engine: BatchEngine | None = None
        self._stopped: SimError | None = None
        self._killed = False
        self._since = time.time()
        self._known_limit: int | None = None
        self._input_parts: list[int] = []
        self._result_parts = 0
        self._inputs: dict[int, Any] = {}
        self._use(event.state if event else BatchState("", len(items)))
        if event:
            self._restore(event.worker_state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.results.close()

    def _replace(self, state: BatchState) -> None:
        self.results.close()
        self._use(state)

    def _use(self, state: BatchState) -> None:
        """Use a state of which no results are known yet."""
        self.state = state
        self.results = Results(
            state,
            self._items.workflow_of,
            rules=self._options.output_rules,
            on_paused=self._options.on_paused,
            client=self._hook.get_conn(),
        )

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing to wait for: no run is active, and none can be started."""
        return self.state.is_finished or (self._stopped is not None and not self.state.count(ItemStatus.ACTIVE))

    # --- start and wait ------------------------------------------------------------------------------------------

    def start(self, *, deferrable: bool) -> None:
        """Start the batch, or resume the one of an earlier try, and wait for it.

        :param deferrable: start the runs that Sim accepts at once, and leave the rest to the triggerer.
        :raises SimError: the batch can't be started.
        """
        asyncio.run(self._start(deferrable))

    async def _start(self, deferrable: bool) -> None:
        async with batch_client(self._settings) as client:
            await self._open(client)
            if self._options.skip_undeployed:
                await self._skip_undeployed(client)
            engine, throttle = self._new_engine(client)
            if deferrable:
                await engine.start_available()
                deferrable = self._can_defer(client)
            if not deferrable:
                await self._run(client, engine)
            elif self.state.next_unsent() is None and engine.stopped is None:
                await self._reconcile(client)
            self._known_limit, self._stopped = throttle.concurrency.known, engine.stopped

    def _can_defer(self, client: AsyncSimClient) -> bool:
        """Whether the triggerer can know the run IDs and read the inputs."""
        if self.state.is_finished:
            return True
        if not client.accepts_run_ids:
            log.info("This Sim server (before v0.7.32) chooses run IDs itself, so the task keeps its worker.")
            return False
        if self.state.next_unsent() is not None and not self._options.do_xcom_push:
            log.info("The triggerer reads inputs from XComs; do_xcom_push is False, so the task keeps its worker.")
            return False
        return True

    async def _run(self, client: AsyncSimClient, engine: BatchEngine) -> None:
        async def gather_periodically() -> None:
            while True:
                await asyncio.sleep(GATHER_EVERY)
                with suppress(SimError):  # repeated at the end
                    await self.results.gather(client)

        gathering = asyncio.create_task(gather_periodically())
        try:
            await engine.run()
        finally:
            gathering.cancel()
            await asyncio.gather(gathering, return_exceptions=True)

    def _new_engine(self, client: AsyncSimClient) -> tuple[BatchEngine, StartThrottle]:
        async def input_of(index: int) -> Any:
            return self._input(index)

        self._engine, throttle = new_engine(
            client,
            self._options,
            self.state,
            workflow_of=self._items.workflow_of,
            input_of=input_of,
            known_limit=self._known_limit,
            persist=self.record,
            persist_id=lambda index: self._store.record_run_ids(index, self.state.server_ids),
            on_finished=self._add_output,
        )
        if self._killed:
            self._engine.stop(_killed_error())
        return self._engine, throttle

    def _add_output(self, index: int, run: WorkflowRun) -> None:
        """Keep an output that is returned only once, by a server that runs everything sync."""
        if isinstance(run, WorkflowExecutionResult):
            self.results.add(index, run)

    # --- earlier tries -------------------------------------------------------------------------------------------

    async def _open(self, client: AsyncSimClient) -> None:
        """Resume the batch of an earlier try, or persist a new one before anything is sent."""
        entry, cleared = self._store.previous()
        previous = self._state_in(entry)
        if previous is not None and not cleared and len(previous) == len(self._items):
            await self._resume(client, previous, entry)
            return
        for index in range(len(self._items)):
            self._input(index)
        for workflow_id, inputs in self._items.by_workflow().items():
            check_fields(self._hook, workflow_id, inputs, self._options.check_input)
        if previous is not None:
            await self._cancel_previous(client, previous, entry)
        self._replace(BatchState(self._store.new_batch_id(), len(self._items)))
        if self._store.derives_ids and await self._is_started(client):
            self._replace(BatchState(new_run_id(), len(self._items)))
        self._publish()
        self.record()

    async def _is_started(self, client: AsyncSimClient) -> bool:
        """Whether Sim knows the first run of a batch that no earlier try has started: then it is another task's."""
        try:
            await client.get_workflow_run(self._items.workflow_of(0), self.state.run_id(0))
        except SimRunNotFoundError:
            return False
        return True

    def _input(self, index: int) -> Any:
        """Return an input as Sim accepts it; its files are read once.

        :raises SimInputError: it is invalid.
        """
        if index not in self._inputs:
            self._inputs[index] = self._items.ready(
                index,
                unconverted_files=self._options.unconverted_files,
                check_input=self._hook.get_conn().check_input,
            )
        return self._inputs[index]

    def _state_in(self, entry: Mapping[str, Any]) -> BatchState | None:
        if "state" in entry:
            try:
                return BatchState.from_dict(entry["state"])
            except ValueError as error:
                log.warning("The state that an earlier try recorded is invalid: %s", error)
        elif "batch_id" in entry:
            return BatchState(str(entry["batch_id"]), len(self._items))
        return None

    async def _resume(self, client: AsyncSimClient, state: BatchState, entry: Mapping[str, Any]) -> None:
        self._replace(state)
        self._since = self._since_of(entry)
        self._publish()
        for index, (run_id, job_id) in self._store.run_ids(len(state)).items():
            state.set_server_id(index, run_id, job_id)
            if state[index] is ItemStatus.UNSENT:
                state.set_status(index, ItemStatus.ACTIVE)
        await self._reconcile(client, rerun=self._options.on_error == "fail")
        for index in list(state.indices(ItemStatus.UNSENT)):
            try:
                self._input(index)
            except SimInputError as error:  # such as a deleted file: the other inputs have runs already
                state.set_status(index, ItemStatus.REFUSED, reason=str(error))
        log.info("Resuming batch %s of an earlier try: %s.", state.batch_id, state.summary())
        self.record()

    def recover(self) -> None:
        """Get the state of the batch that this try has started, without a trigger's event.

        :raises SimError: that is impossible.
        """
        entry, _ = self._store.previous()
        ti: Any = self._context["ti"]
        batch_id = ti.xcom_pull(task_ids=ti.task_id, key=BATCH_ID_KEY, map_indexes=ti.map_index)
        state = self._state_in(entry) or self._state_in({"batch_id": batch_id} if batch_id else {})
        if state is None or len(state) != len(self._items):
            raise SimBatchError("The batch that the task has started can't be found.", outcome=Outcome.RAN)
        self._replace(state)
        self._since = self._since_of(entry)
        asyncio.run(self._update())

    async def _update(self, retry: RetryPolicy | None = None) -> None:
        async with batch_client(self._settings, retry) as client:
            await self._reconcile(client)

    async def _reconcile(self, client: AsyncSimClient, *, rerun: bool | None = None) -> None:
        """Update the state by what Sim reports.

        :param rerun: reset failed inputs, so that they are run again.
        """
        reconciler = Reconciler(client, self.state, self._items.workflow_of, rerun=bool(rerun))
        if rerun is not None:
            reconciler.reopen()
        await reconciler.update(since=self._since, workspace_id=self._options.workspace_id)

    async def _cancel_previous(self, client: AsyncSimClient, state: BatchState, entry: Mapping[str, Any]) -> None:
        """Cancel the active runs of a batch that was cleared, or whose inputs have changed."""
        try:
            workflows = [str(name) for name in entry["workflows"]["ids"]]
            of = [workflows[int(number)] for number in run_length_decode(entry["workflows"]["of"])]
        except (KeyError, IndexError, TypeError, ValueError):
            return
        if not self._options.cancel_on_kill or len(of) != len(state):
            return
        try:
            reconciler = Reconciler(client, state, of.__getitem__)
            await reconciler.update(since=self._since_of(entry), workspace_id=self._options.workspace_id)
            if state.count(ItemStatus.ACTIVE):
                result = await cancel_all(client, state, of.__getitem__, retry=SHUTDOWN_RETRY)
                log.info("Batch %s: the task was cleared or changed. %s", state.batch_id, result)
        except SimError as error:
            log.warning("Batch %s could not be cancelled and may continue: %s", state.batch_id, error)

    def _since_of(self, entry: Mapping[str, Any]) -> float:
        """Return the seconds since the epoch before which none of the runs was started."""
        since: float | None = entry.get("since")
        if isinstance(since, int | float):
            return since
        start = getattr(self._context.get("dag_run"), "start_date", None)
        return start.timestamp() if start is not None else time.time() - MAX_RUN_TIMEOUT

    async def _skip_undeployed(self, client: AsyncSimClient) -> None:
        missing = await undeployed(client, self._items.workflows)
        for index in list(self.state.indices(ItemStatus.UNSENT)):
            if self._items.workflow_of(index) in missing:
                self.state.set_status(index, ItemStatus.SKIPPED)
        if missing:
            count = self.state.count(ItemStatus.SKIPPED)
            log.warning("%d inputs are skipped; not deployed: %s.", count, ", ".join(sorted(missing)))

    def record(self) -> None:
        """Persist the state."""
        self._store.record({"state": self.state.to_dict(), "since": self._since, "workflows": self._workflows()})

    def _workflows(self) -> dict[str, Any]:
        return {"ids": list(self._items.workflows), "of": run_length_encode(map(str, self._items.of))}

    def _publish(self) -> None:
        log.info("Batch %s has %d inputs.", self.state.batch_id, len(self._items))
        url = workflow_url(self._settings.base_url, self._items.workflows[0], self._options.workspace_id)
        self._push({BATCH_ID_KEY: self.state.batch_id, WORKFLOW_URL_KEY: url})

    def _push(self, xcoms: Mapping[str, Any]) -> None:
        if self._options.do_xcom_push:
            for key, value in xcoms.items():
                self._context["ti"].xcom_push(key=key, value=value)

    # --- deferral ------------------------------------------------------------------------------------------------

    def new_trigger(self) -> SimBatchTrigger:
        """Push the inputs that aren't sent as XComs, and return the trigger that starts them."""
        from airflow_provider_sim.triggers.batch import SimBatchTrigger

        if not self._input_parts:  # otherwise the first deferral has pushed them
            unsent = self.state.indices(ItemStatus.UNSENT, ItemStatus.SENT)
            for part, (first, text) in enumerate(chunked((index, self._input(index)) for index in unsent)):
                self._input_parts.append(first)
                self._context["ti"].xcom_push(key=chunk_key(part), value=text)
        self.record()
        worker_state = {
            "deadline": self.deadline,
            "since": self._since,
            "known_limit": self._known_limit,
            "firsts": self._input_parts,
            "result_parts": self._result_parts,
        }
        return SimBatchTrigger(
            state=self.state.to_dict(),
            workflows=self._workflows(),
            task=names_of(self._context["ti"]),
            since=time.time(),
            worker_state=worker_state,
            options=self._options,
        )

    @property
    def deadline(self) -> float:
        """Seconds since the epoch at which the task stops waiting."""
        assert self._options.deadline is not None
        return self._options.deadline

    def _restore(self, worker_state: Mapping[str, Any]) -> None:
        """Restore what the process that deferred the task knew."""
        self._options = replace(self._options, deadline=worker_state.get("deadline", self.deadline))
        self._since = worker_state.get("since", self._since)
        self._known_limit = worker_state.get("known_limit")
        self._input_parts = list(worker_state.get("firsts", []))
        self._result_parts = worker_state.get("result_parts", 0)
        for part in range(self._result_parts):
            self._load_results(_RESULTS_NAME.format(part))

    def store_results(self) -> None:
        """Fetch the results so far, and store them for the task's last process.

        :raises SimError: they can't be fetched or stored.
        """
        stored = len(self.results)
        self._gather()
        if len(self.results) == stored:
            return
        lines, name = self.results.dump(stored), _RESULTS_NAME.format(self._result_parts)
        if self._options.output_files_dir:
            write_file(self._options.output_files_dir, self.state.batch_id, name, lines)
        else:
            self._context["ti"].xcom_push(key=name, value=b"".join(lines).decode("utf-8", "surrogatepass"))
        self._result_parts += 1

    def _load_results(self, name: str) -> None:
        folder, ti = self._options.output_files_dir, self._context["ti"]
        if folder:
            self.results.load(read_file(folder, self.state.batch_id, name))
        else:
            text = ti.xcom_pull(task_ids=ti.task_id, key=name, map_indexes=ti.map_index) or ""
            self.results.load(text.encode("utf-8", "surrogatepass").splitlines())

    def _delete_temporary_xcoms(self) -> None:
        keys = [*map(chunk_key, range(len(self._input_parts))), *map(_RESULTS_NAME.format, range(self._result_parts))]
        for key in keys:
            delete_xcom(names_of(self._context["ti"]), key)

    # --- result --------------------------------------------------------------------------------------------------

    def result(self) -> Any:
        """Return the task's result.

        :raises SimError: inputs have failed and ``on_error`` is ``fail``, or the results are too large or can't be
            fetched.
        """
        self._gather()
        self._delete_temporary_xcoms()
        self.record()
        self._report()
        if self._stopped is not None:
            raise self._with_partial_results(self._stop_error(self._stopped))
        bad = self.results.bad
        if bad and self._options.on_error == "fail":
            raise self._with_partial_results(self._inputs_failed_error())
        if bad:
            log.warning("%d of %d inputs failed: %s.", len(bad), len(self._items), self.results.failures())
        collect = self._options.on_error == "collect"
        return self.results.deliver(self.results.entries if collect else self.results.outputs, "results")

    def finish_after(self, error: SimError) -> Any:
        """Poll once more: return the result if all runs have finished by now, or else fail.

        At the timeout, the runs that have not finished are cancelled.

        :param error: why the batch was not waited for any longer.
        :raises SimError: that error, with the place of the outputs of the runs that have completed.
        """
        if not self.state.batch_id:
            raise error  # nothing was started
        timed_out = isinstance(error, SimRunTimeoutError)
        may_run = timed_out or self.state.count(ItemStatus.ACTIVE, ItemStatus.SENT)
        if may_run and self._poll() and self.state.is_finished:
            return self.result()
        if timed_out:
            cancelled = self.state.count(ItemStatus.CANCELLED)
            self._cancel("its timeout has passed", _TIMEOUT_CANCEL_SECONDS)
            self._poll()
            if self.state.is_finished and self.state.count(ItemStatus.CANCELLED) == cancelled:
                return self.result()  # all of them completed before they could be cancelled
        try:
            self._gather()
        except SimError as another:
            log.warning("Not all results could be fetched: %s", another)
        self.record()
        self._report()
        raise self._with_partial_results(self._stop_error(error))

    def _poll(self) -> bool:
        """Update the state; return whether Sim has responded."""
        try:
            asyncio.run(self._update(_LAST_POLL_RETRY))
        except SimError as error:
            log.warning("Could not get the status of the runs of batch %s: %s", self.state.batch_id, error)
            return False
        return True

    def _gather(self) -> None:
        retry = self._settings.retry.adjusted(max_retries=_RESULTS_MAX_RETRIES, max_elapsed=_RESULTS_MAX_ELAPSED)

        async def gather() -> None:
            async with AsyncSimClient.from_settings(replace(self._settings, retry=retry)) as client:
                await self.results.gather(client)

        asyncio.run(gather())

    def _inputs_failed_error(self) -> SimError:
        rejection = self._engine.rejection if self._engine is not None else None
        bad, total = len(self.results.bad), len(self._items)
        if rejection is not None and bad == total == self.state.count(ItemStatus.REFUSED):
            return rejection  # the same for all inputs
        return SimBatchError(
            f"{bad} of {total} inputs of batch {self.state.batch_id} failed: {self.results.failures()}. A retry of the"
            " task runs these again and returns the others' outputs; clearing it runs all of them again.",
            outcome=Outcome.RAN,
        )

    def _stop_error(self, error: SimError) -> SimError:
        """If the usage limit is reached mid-batch, return a retryable error so that a retry resumes the batch."""
        if error.code != SimUsageLimitError.default_code or not self.state.count(ItemStatus.COMPLETED):
            return error
        return SimBatchError(
            f"Batch {self.state.batch_id} stopped: {error} A retry of the task resumes it.", outcome=Outcome.RAN
        )

    def _with_partial_results(self, error: SimError) -> SimError:
        """Store the results of completed runs, and add their place to the error."""
        completed = self.state.count(ItemStatus.COMPLETED)
        if not completed:
            return error
        place = "Sim, for a day at least"
        try:
            stored = self.results.deliver(self.results.entries, PARTIAL_KEY)
        except SimOutputError as too_large:
            log.warning("%s", too_large)
        else:
            if isinstance(stored, dict):
                place = stored["output_path"]
            elif self._options.do_xcom_push:
                place = f"the XCom {PARTIAL_KEY!r}"
                self._push({PARTIAL_KEY: stored})
        error.args = (f"{error} The outputs of {completed} completed runs are in {place}.",)
        return error

    def _report(self) -> None:
        """Log and push the numbers of inputs by status."""
        copies = self.results.display_copies
        if copies:
            log.warning(
                "%d outputs are Sim's display copies, of inputs %s: strings over 15,000 characters are truncated, and"
                " values under names such as 'password' or '…token' are redacted. Sim no longer has the raw outputs.",
                len(copies),
                ", ".join(map(str, copies[:20])) + (" …" if len(copies) > 20 else ""),
            )
            self._push({DISPLAY_COPIES_KEY: copies})
        log.info("Batch %s: %s.", self.state.batch_id, self.state.summary())
        self._push({COUNTS_KEY: self.state.counts()})

    # --- cancellation --------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Cancel the runs and start no others; called in a signal handler, at any point of the task."""
        self._killed = True
        if self._engine is not None:
            self._engine.stop(_killed_error())
        self._cancel("the task is killed", _KILL_CANCEL_SECONDS)

    def _cancel(self, reason: str, seconds: float) -> None:
        """Cancel the runs unless ``cancel_on_kill`` is False, and log the result."""
        active = self.state.count(ItemStatus.ACTIVE, ItemStatus.SENT)
        if not active:
            return
        if not self._options.cancel_on_kill:
            log.info("%d runs continue, although %s: cancel_on_kill is False.", active, reason)
            return
        log.info("Cancelling %d runs of batch %s: %s.", active, self.state.batch_id, reason)
        timeout = min(SHUTDOWN_TIMEOUT, self._settings.timeout)

        async def cancel() -> None:
            settings = replace(self._settings, timeout=timeout, retry=SHUTDOWN_RETRY)
            async with AsyncSimClient.from_settings(settings) as client:
                log.info("%s", await cancel_all(client, self.state, self._items.workflow_of, retry=SHUTDOWN_RETRY))

        # In another thread: this one may be running its event loop.
        thread = threading.Thread(target=asyncio.run, args=(cancel(),), daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            log.error("Not all runs of batch %s could be cancelled in time.", self.state.batch_id)


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """The event of a ``SimBatchTrigger``.

    :param status: ``finished``, ``gather``, ``timeout`` or ``error``.
    :param worker_state: what the process that deferred the task knew.
    :param error: of ``timeout`` and ``error``.
    """

    status: str
    state: BatchState
    worker_state: Mapping[str, Any]
    error: SimError | None = None


def read_batch_event(event: Mapping[str, Any] | None, *, total: int) -> BatchEvent:
    """Return a trigger's event, validated.

    :param total: number of the task's inputs.
    :raises SimError: it is not an event of this task's trigger.
    """
    given = event if isinstance(event, dict) else {}
    status, worker_state = given.get("status"), given.get("worker_state") or {}
    try:
        state = BatchState.from_dict(given.get("state") or {})
    except ValueError:
        state = None
    if state is None or len(state) != total:
        raise SimError(
            f"The trigger's event doesn't belong to this task's {total} inputs: {event!r:.500}. The inputs were changed"
            " while the task was deferred, or this is a bug of the provider; clear the task to start over."
        )
    if status not in {"finished", "gather", "timeout", "error"}:
        raise SimError(f"The trigger's event has the unknown status {status!r}.", outcome=Outcome.RAN)
    error: SimError | None = None
    if status == "timeout":
        error = timeout_error(state)
    elif status == "error":
        error_class = SimPermanentError if given.get("permanent") else SimBatchError
        message = f"Batch {state.batch_id} failed: {given.get('message')}"
        error = error_class(message, code=given.get("code"), outcome=Outcome.RAN)
    return BatchEvent(str(status), state, worker_state, error)


def _killed_error() -> SimError:
    return SimError("The task was killed before all of its runs were started.", outcome=Outcome.RAN)
