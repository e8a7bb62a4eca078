"""The batch of one task instance: started once, found again by a later try, handed to the triggerer, cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from airflow_provider_sim._compat import delete_xcom, names_of
from airflow_provider_sim.batch.chunks import in_parts, key_of
from airflow_provider_sim.batch.engine import BatchEngine, Terms, timeout_error, wait_by
from airflow_provider_sim.batch.reconcile import Reconciler, cancel_all, undeployed
from airflow_provider_sim.batch.results import Results
from airflow_provider_sim.batch.state import BatchState, ItemStatus, squeezed, unsqueezed
from airflow_provider_sim.client import (
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
from airflow_provider_sim.polling.poller import poller_for
from airflow_provider_sim.rate_limits import StartThrottle, rate_limits_for
from airflow_provider_sim.task.deadlines import deadline
from airflow_provider_sim.task.input import check_fields
from airflow_provider_sim.task.output import OutputRules, read_file, write_file
from airflow_provider_sim.task.run import (
    LAST_WORDS,
    LAST_WORDS_TIMEOUT,
    SEVEN_DAYS,
    whole_seconds,
)
from airflow_provider_sim.task.run_store import batch_store_for

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.batch.items import Items
    from airflow_provider_sim.operators.base import SimBatchOperatorBase

BATCH_ID_KEY = "batch_id"
COUNTS_KEY = "batch_counts"
DISPLAY_COPIES_KEY = "display_copies"
PARTIAL_KEY = "partial_results"

GATHER_EVERY = 600.0
"""Seconds after which a worker gets the outputs of the runs that have ended meanwhile; Sim keeps them for a day."""

PATIENCE = RetryPolicy(max_retries=100, max_elapsed=900.0)
"""For what has to be asked once all is over."""

_SHORT = RetryPolicy(max_retries=3, initial_delay=0.5, max_delay=2.0, max_elapsed=5.0)
"""For a last poll."""

_RESULTS = "batch_results_{}"
"""Results that a leg has got, for the last one: names of files, or of XComs where there is no ``output_files_dir``."""

_SPARE = timedelta(seconds=10)
"""Of ``execution_timeout``, at most: for cancelling the runs and saying so before Airflow's alarm."""

_GIVING_UP_TAKES = 60.0
_KILLING_TAKES = 4.5
"""Seconds, at most; Airflow kills a worker 5 s after it has told it to end."""


class TaskBatch:
    """The batch that one try of a task is about.

    :param operator: with its templates rendered.
    :param items: what it is to run.
    :param journal: how it stands, where the triggerer has told.
    """

    def __init__(
        self, context: Context, operator: SimBatchOperatorBase, items: Items, *, journal: BatchState | None = None
    ) -> None:
        self._context = context
        self._operator = operator
        self._items = items
        self._log = operator.log
        self._settings = operator.hook.get_settings()
        self._ledger = batch_store_for(
            context, durable=operator.durable, server=self._settings.base_url, digest=items.digest()
        )
        self._workspace_id = operator.hook.workspace_of(items.workflows[0])
        self._engine: BatchEngine | None = None
        self._stopped: SimError | None = None
        self._killed = False
        self._since = time.time()
        self._known: int | None = None
        self._parts: list[int] = []
        self._inputs: dict[int, Any] = {}
        self._result_parts = 0
        limit = _shortened(operator.execution_timeout)
        self.deadline = deadline(context, operator.timeout, limit, otherwise=SEVEN_DAYS)
        self._results: Results
        self._stands_as(journal or BatchState("", len(items)))

    def __enter__(self) -> Self:
        """Give the batch itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Forget its results."""
        self._results.close()

    def _stands_as(self, journal: BatchState) -> None:
        """Go on with a journal, of which no results are known yet."""
        if hasattr(self, "_results"):
            self._results.close()
        operator = self._operator
        self.journal = journal
        self._results = Results(
            journal,
            self._items.workflow_of,
            rules=OutputRules.given(operator.output_files_dir, operator.max_output_bytes, operator.large_outputs),
            on_paused=operator.on_paused,
            client=operator.hook.get_conn(),
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be waited for any more, be it that nothing goes on or that nothing can be started."""
        return self.journal.is_over or (self._stopped is not None and not self.journal.count(ItemStatus.ACTIVE))

    # --- starting and waiting ------------------------------------------------------------------------------------

    def begin(self, *, defer_state: bool) -> None:
        """Start the batch, or find the one of an earlier try, and see it as far as it is to be seen here.

        :param hand_over: start what Sim takes at once, and leave the rest to the triggerer.
        :raises SimError: it can't go on.
        """
        asyncio.run(self._begin(defer_state))

    async def _begin(self, defer_state: bool) -> None:
        async with self._client() as client:
            await self._open(client)
            if self._operator.skip_undeployed:
                await self._skip_undeployed(client)
            throttle = self._new_throttle(client)
            engine = self._engine = self._new_engine(client, throttle)
            if defer_state:
                await engine.start_what_fits()
                defer_state = self._may_be_handed_over(client)
            if not defer_state:
                await self._see_through(client, engine)
            elif self.journal.next_unsent() is None and engine.stopped is None:
                await self._survey(client).look(since=self._since, workspace_id=self._workspace_id)
            self._known, self._stopped = throttle.concurrency.known, engine.stopped

    def _may_be_handed_over(self, client: AsyncSimClient) -> bool:
        """Whether the triggerer can go on: it must know the ids, and get the inputs."""
        if self.journal.is_over:
            return True
        if not client.takes_run_ids:
            self._log.info(
                "This Sim server (before v0.7.32) chooses run ids itself, so that the task keeps its worker."
            )
            return False
        if self.journal.next_unsent() is not None and not self._operator.do_xcom_push:
            self._log.info("Inputs get to the triggerer by XComs; as do_xcom_push is False, the task keeps its worker.")
            return False
        return True

    async def _see_through(self, client: AsyncSimClient, engine: BatchEngine) -> None:
        async def gather_now_and_then() -> None:
            while True:
                await asyncio.sleep(GATHER_EVERY)
                with suppress(SimError):  # at the end it is asked for again
                    await self._results.gather(client)

        gathering = asyncio.create_task(gather_now_and_then())
        try:
            await engine.run()
        finally:
            gathering.cancel()
            await asyncio.gather(gathering, return_exceptions=True)

    def _new_throttle(self, client: AsyncSimClient) -> StartThrottle:
        return StartThrottle(
            rate_limits_for(self._settings),
            bucket=lambda: client.start_bucket,
            maximum=self._operator.max_active_runs,
            known=self._known,
        )

    def _new_engine(self, client: AsyncSimClient, throttle: StartThrottle) -> BatchEngine:
        operator, items = self._operator, self._items

        async def input_of(index: int) -> Any:
            return self._input(index)

        engine = BatchEngine(
            client,
            wait_by(poller_for(self._settings), items.workflows[0], self._workspace_id),
            workflow_of=items.workflow_of,
            input_of=input_of,
            journal=self.journal,
            throttle=throttle,
            terms=Terms(
                poll_interval=operator.poll_interval,
                deadline=self.deadline,
                on_paused=operator.on_paused,
                run_timeout=whole_seconds(operator.run_timeout),
                skip_undeployed=operator.skip_undeployed,
            ),
            write_down=self.note,
            write_name=lambda index: self._ledger.note_names(index, self.journal.names),
            on_end=self._take_output,
        )
        if self._killed:
            engine.stop(_killed())
        return engine

    def _take_output(self, index: int, run: WorkflowRun) -> None:
        """Keep an output that is given once only: by a server that holds every run open."""
        if isinstance(run, WorkflowExecutionResult):
            self._results.take(index, run)

    # --- earlier tries -------------------------------------------------------------------------------------------

    async def _open(self, client: AsyncSimClient) -> None:
        """Go on with the batch of an earlier try, or begin another and write it down before anything is sent."""
        entry, cleared = self._ledger.former() or ({}, False)
        journal = self._journal_of(entry)
        if journal is not None and not cleared and len(journal) == len(self._items):
            await self._take_up(client, journal, entry)
            return
        for index in range(len(self._items)):
            self._input(index)
        for workflow_id, inputs in self._items.by_workflow().items():
            check_fields(self._operator.hook, workflow_id, inputs, self._operator.check_input)
        if journal is not None:
            await self._undo(client, journal, entry)
        self._stands_as(BatchState(self._ledger.new_batch_id(), len(self._items)))
        if self._ledger.derives_ids and await self._is_started(client):
            self._stands_as(BatchState(new_run_id(), len(self._items)))
        self._announce()
        self.note()

    async def _is_started(self, client: AsyncSimClient) -> bool:
        """Whether Sim knows the first run of a batch that no earlier try has started: then it is another task's."""
        try:
            await client.get_workflow_run(self._items.workflow_of(0), self.journal.run_id(0))
        except SimRunNotFoundError:
            return False
        return True

    def _input(self, index: int) -> Any:
        """Return an input as Sim accepts it; its files are read once.

        :raises SimInputError: it can't be sent.
        """
        if index not in self._inputs:
            self._inputs[index] = self._items.ready(
                index,
                unconverted_files=self._operator.unconverted_files,
                check_input=self._operator.hook.get_conn().check_input,
            )
        return self._inputs[index]

    def _journal_of(self, entry: Mapping[str, Any]) -> BatchState | None:
        if "journal" in entry:
            try:
                return BatchState.read(entry["journal"])
            except ValueError as error:
                self._log.warning("What an earlier try has written down can't be read: %s", error)
        elif "batch_id" in entry:  # it is all that is known
            return BatchState(str(entry["batch_id"]), len(self._items))
        return None

    async def _take_up(self, client: AsyncSimClient, journal: BatchState, entry: Mapping[str, Any]) -> None:
        self._stands_as(journal)
        self._since = self._since_of(entry)
        self._announce()
        for index, (run_id, job_id) in self._ledger.names(len(journal)).items():
            journal.is_called(index, run_id, job_id)
            if journal[index] is ItemStatus.UNSENT:
                journal.stands(index, ItemStatus.ACTIVE)
        survey = self._survey(client, rerun=self._operator.on_error == "fail")
        survey.reopen()
        await survey.look(since=self._since, workspace_id=self._workspace_id)
        for index in list(journal.indices(ItemStatus.UNSENT)):
            try:
                self._input(index)
            except SimInputError as error:  # such as a file that is gone: the other inputs have runs already
                journal.stands(index, ItemStatus.REFUSED, why=str(error))
        self._log.info("Resuming batch %s of an earlier try: %s.", journal.batch_id, journal.described())
        self.note()

    def recover(self) -> None:
        """Find out how the batch stands that this try has begun, where no trigger has told.

        :raises SimError: that can't be found out.
        """
        entry, _ = self._ledger.former() or ({}, False)
        ti: Any = self._context["ti"]
        batch_id = ti.xcom_pull(task_ids=ti.task_id, key=BATCH_ID_KEY, map_indexes=ti.map_index)
        journal = self._journal_of(entry) or self._journal_of({"batch_id": batch_id} if batch_id else {})
        if journal is None or len(journal) != len(self._items):
            raise SimBatchError("It can't be found out any more which batch the task has begun.", outcome=Outcome.RAN)
        self._stands_as(journal)
        self._since = self._since_of(entry)
        asyncio.run(self._look())

    async def _look(self, retry: RetryPolicy | None = None) -> None:
        async with self._client(retry) as client:
            await self._survey(client).look(since=self._since, workspace_id=self._workspace_id)

    async def _undo(self, client: AsyncSimClient, journal: BatchState, entry: Mapping[str, Any]) -> None:
        """Cancel what is left of a batch that isn't wanted any more."""
        try:
            workflows = [str(name) for name in entry["workflows"]]
            of = [workflows[int(number)] for number in unsqueezed(entry["of"])]
        except (KeyError, IndexError, TypeError, ValueError):
            return
        if not self._operator.cancel_on_kill or len(of) != len(journal):
            return
        try:
            await Reconciler(client, journal, of.__getitem__).look(
                since=self._since_of(entry), workspace_id=self._workspace_id
            )
            if journal.count(ItemStatus.ACTIVE):
                told = await cancel_all(client, journal, of.__getitem__, retry=LAST_WORDS)
                self._log.info("Batch %s: the task was cleared or changed since. %s", journal.batch_id, told)
        except SimError as error:
            self._log.warning("Batch %s isn't wanted any more, and may go on: %s", journal.batch_id, error)

    def _since_of(self, entry: Mapping[str, Any]) -> float:
        """Seconds since the epoch before which none of the runs was started."""
        since = entry.get("since")
        if isinstance(since, int | float):
            return since
        moment = getattr(self._context.get("dag_run"), "start_date", None)
        return moment.timestamp() if moment is not None else time.time() - SEVEN_DAYS

    def _survey(self, client: AsyncSimClient, *, rerun: bool = False) -> Reconciler:
        return Reconciler(client, self.journal, self._items.workflow_of, rerun=rerun)

    async def _skip_undeployed(self, client: AsyncSimClient) -> None:
        """Leave out the inputs of workflows that aren't deployed."""
        missing = await undeployed(client, self._items.workflows)
        for index in list(self.journal.indices(ItemStatus.UNSENT)):
            if self._items.workflow_of(index) in missing:
                self.journal.stands(index, ItemStatus.SKIPPED)
        if missing:
            count = self.journal.count(ItemStatus.SKIPPED)
            self._log.warning("%d inputs are skipped; not deployed: %s.", count, ", ".join(sorted(missing)))

    def note(self) -> None:
        """Write down how it stands."""
        items = self._items
        self._ledger.note(
            {
                "journal": self.journal.written(),
                "since": self._since,
                "workflows": list(items.workflows),
                "of": squeezed(map(str, items.of)),
            }
        )

    def _announce(self) -> None:
        self._log.info("%d inputs are batch %s.", len(self._items), self.journal.batch_id)
        if self._operator.do_xcom_push:
            url = workflow_url(self._settings.base_url, self._items.workflows[0], self._workspace_id)
            self._context["ti"].xcom_push(key=BATCH_ID_KEY, value=self.journal.batch_id)
            self._context["ti"].xcom_push(key=WORKFLOW_URL_KEY, value=url)

    # --- the triggerer -------------------------------------------------------------------------------------------

    def defer_state(self) -> dict[str, Any]:
        """Give the triggerer the inputs that aren't sent; return what it needs to know besides."""
        operator, items = self._operator, self._items
        unsent = self.journal.indices(ItemStatus.UNSENT, ItemStatus.SENT)
        if not self._parts:  # otherwise an earlier leg has stored them
            for part, (first, text) in enumerate(in_parts((index, self._input(index)) for index in unsent)):
                self._parts.append(first)
                self._context["ti"].xcom_push(key=key_of(part), value=text)
        self.note()
        return {
            "journal": self.journal.written(),
            "workflows": list(items.workflows),
            "of": squeezed(map(str, items.of)),
            "parts": self._parts,
            "task": names_of(self._context["ti"]),
            "leg": self._remembered(),
            "sim_conn_id": operator.sim_conn_id,
            "workspace_id": self._workspace_id,
            "since": time.time(),
            "poll_interval": operator.poll_interval,
            "deadline": self.deadline,
            "on_paused": operator.on_paused,
            "run_timeout": whole_seconds(operator.run_timeout),
            "skip_undeployed": operator.skip_undeployed,
            "max_active_runs": operator.max_active_runs,
            "known": self._known,
            "cancel_on_kill": operator.cancel_on_kill,
        }

    def _remembered(self) -> dict[str, Any]:
        """What the task's next leg has to know, as JSON."""
        return {
            "deadline": self.deadline,
            "since": self._since,
            "known": self._known,
            "firsts": self._parts,
            "result_parts": self._result_parts,
        }

    def remember(self, leg: Mapping[str, Any]) -> None:
        """Go on with what the former leg has known."""
        self.deadline = leg.get("deadline", self.deadline)
        self._since = leg.get("since", self._since)
        self._known = leg.get("known")
        self._parts = list(leg.get("firsts", []))
        self._result_parts = leg.get("result_parts", 0)
        for part in range(self._result_parts):
            self._load_results(part)

    def store_results(self) -> None:
        """Get the results that there are by now, and keep them for the last leg.

        :raises SimError: they can't be got, or kept.
        """
        had = len(self._results)
        self._gather()
        if len(self._results) == had:
            return
        lines = self._results.written(had)
        folder, part = self._operator.output_files_dir, self._result_parts
        if folder:
            write_file(folder, self.journal.batch_id, _RESULTS.format(part), lines)
        else:
            text = b"".join(lines).decode("utf-8", "surrogatepass")
            self._context["ti"].xcom_push(key=_RESULTS.format(part), value=text)
        self._result_parts += 1

    def _load_results(self, part: int) -> None:
        folder, ti = self._operator.output_files_dir, self._context["ti"]
        if folder:
            self._results.read(read_file(folder, self.journal.batch_id, _RESULTS.format(part)))
        else:
            text = ti.xcom_pull(task_ids=ti.task_id, key=_RESULTS.format(part), map_indexes=ti.map_index) or ""
            self._results.read(text.encode("utf-8", "surrogatepass").splitlines())

    def _take_back(self) -> None:
        """Delete what only the triggerer and later legs needed."""
        keys = [*map(key_of, range(len(self._parts))), *map(_RESULTS.format, range(self._result_parts))]
        for key in keys:
            delete_xcom(names_of(self._context["ti"]), key)

    # --- the end -------------------------------------------------------------------------------------------------

    def result(self) -> Any:
        """What the task returns.

        :raises SimError: inputs have no good result, and the author wants that to fail the task; or results are too
            large, or can't be had.
        """
        operator = self._operator
        self._gather()
        self._take_back()
        self.note()
        self._say_counts()
        if self._stopped is not None:
            raise self._with_partial(self._why_stopped(self._stopped))
        bad = self._results.bad
        if bad and operator.on_error == "fail":
            raise self._with_partial(self._failed())
        if bad:
            self._log.warning("%d of %d inputs failed: %s.", len(bad), len(self._items), self._results.failures())
        values = self._results.entries if operator.on_error == "collect" else self._results.outputs
        return self._results.deliver(values, "results")

    def end(self, error: SimError) -> Any:
        """Poll once more: return the result if all runs have finished by now, or else fail.

        At the timeout, the runs that have not finished are cancelled.

        :param error: why the batch was not waited for any longer.
        :raises SimError: that error, with the place of the outputs of the runs that have completed.
        """
        if not self.journal.batch_id:
            raise error  # nothing was started
        timed_out = isinstance(error, SimRunTimeoutError)
        may_run = timed_out or self.journal.count(ItemStatus.ACTIVE, ItemStatus.SENT)
        if may_run and self._poll() and self.journal.is_over:
            return self.result()
        if timed_out:
            cancelled = self.journal.count(ItemStatus.CANCELLED)
            self.give_up("its timeout has passed")
            self._poll()
            if self.journal.is_over and self.journal.count(ItemStatus.CANCELLED) == cancelled:
                return self.result()  # all of them completed before they could be cancelled
        raise self._failed_with(error)

    def _poll(self) -> bool:
        """Update the journal; return whether Sim has responded."""
        try:
            asyncio.run(self._look(_SHORT))
        except SimError as error:
            self._log.warning("Could not get the status of the runs of batch %s: %s", self.journal.batch_id, error)
            return False
        return True

    def _failed_with(self, error: SimError) -> SimError:
        """Keep the results of the runs that have completed, and add to the error where they are."""
        try:
            self._gather()
        except SimError as another:
            self._log.warning("Not all results could be got: %s", another)
        self.note()
        self._say_counts()
        return self._with_partial(self._why_stopped(error))

    def _gather(self) -> None:
        async def gather() -> None:
            patient = replace(
                self._settings,
                retry=self._settings.retry.adjusted(max_retries=PATIENCE.max_retries, max_elapsed=PATIENCE.max_elapsed),
            )
            async with AsyncSimClient.from_settings(patient) as client:
                await self._results.gather(client)

        asyncio.run(gather())

    def _failed(self) -> SimError:
        engine, bad = self._engine, self._results.bad
        if (
            engine is not None
            and engine.refusal is not None
            and len(bad) == len(self._items) == self.journal.count(ItemStatus.REFUSED)
        ):
            return engine.refusal  # all of them for the same reason, and it says best what to do
        return SimBatchError(
            f"{len(bad)} of {len(self._items)} inputs of batch {self.journal.batch_id} failed:"
            f" {self._results.failures()}. A retry of the task runs these again and takes the others' outputs; clearing"
            " it runs all afresh.",
            outcome=Outcome.RAN,
        )

    def _why_stopped(self, error: SimError) -> SimError:
        """Money that runs out underway is no reason to begin from the beginning when there is some again."""
        if error.code != SimUsageLimitError.default_code or not self.journal.count(ItemStatus.COMPLETED):
            return error
        return SimBatchError(
            f"Batch {self.journal.batch_id} stopped: {error} A retry of the task goes on where it stopped.",
            outcome=Outcome.RAN,
        )

    def _with_partial(self, error: SimError) -> SimError:
        """The error, once the results that there are can't be lost any more."""
        good = self.journal.count(ItemStatus.COMPLETED)
        if not good:
            return error
        where = self._keep_partial()
        error.args = (f"{error} The outputs of {good} that completed {where}.",)
        return error

    def _keep_partial(self) -> str:
        try:
            kept = self._results.deliver(self._results.entries, PARTIAL_KEY)
        except SimOutputError as error:
            self._log.warning("%s", error)
            return "are in Sim, for a day at least"
        if isinstance(kept, dict):
            return f"are in {kept['output_path']}"
        if not self._operator.do_xcom_push:
            return "are in Sim, for a day at least"
        self._context["ti"].xcom_push(key=PARTIAL_KEY, value=kept)
        return f"are in the XCom {PARTIAL_KEY!r}"

    def _say_counts(self) -> None:
        copies = self._results.display_copies
        if copies:
            self._log.warning(
                "%d outputs are Sim's display copies, of inputs %s: strings over 15,000 characters are cut, and values"
                " under names such as 'password' or '…token' are replaced. Sim no longer holds the raw outputs.",
                len(copies),
                ", ".join(map(str, copies[:20])) + (" …" if len(copies) > 20 else ""),
            )
        self._log.info("Batch %s: %s.", self.journal.batch_id, self.journal.described())
        if self._operator.do_xcom_push:
            self._context["ti"].xcom_push(key=COUNTS_KEY, value=self.journal.counts())
            if copies:
                self._context["ti"].xcom_push(key=DISPLAY_COPIES_KEY, value=copies)

    # --- when it isn't wanted ------------------------------------------------------------------------------------

    def give_up(self, reason: str) -> None:
        """Cancel what goes on, unless the author wants it left alone, and say what that achieved."""
        self._cancel(reason, _GIVING_UP_TAKES)

    def kill(self) -> None:
        """Cancel what goes on and start nothing any more; called in the middle of whatever the worker was doing."""
        self._killed = True
        if self._engine is not None:
            self._engine.stop(_killed())
        self._cancel("the task is killed", _KILLING_TAKES)

    def _cancel(self, reason: str, seconds: float) -> None:
        going = self.journal.count(ItemStatus.ACTIVE, ItemStatus.SENT)
        if not going:
            return
        if not self._operator.cancel_on_kill:
            self._log.info("%d runs go on, although %s: cancel_on_kill is False.", going, reason)
            return
        self._log.info("Cancelling %d runs of batch %s: %s.", going, self.journal.batch_id, reason)
        # In a thread of its own: the worker's may be in the middle of its event loop.
        thread = threading.Thread(target=asyncio.run, args=(self._cancel_all(),), daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self._log.error("Not all runs of batch %s could be cancelled in time.", self.journal.batch_id)

    async def _cancel_all(self) -> None:
        settings = replace(self._settings, timeout=min(LAST_WORDS_TIMEOUT, self._settings.timeout), retry=LAST_WORDS)
        async with AsyncSimClient.from_settings(settings) as client:
            told = await cancel_all(client, self.journal, self._items.workflow_of, retry=LAST_WORDS)
        self._log.info("%s", told)

    @asynccontextmanager
    async def _client(self, retry: RetryPolicy | None = None) -> AsyncIterator[AsyncSimClient]:
        async with AsyncSimClient.from_settings(replace(self._settings, retry=retry or self._settings.retry)) as client:
            client.on_rate_limit = rate_limits_for(self._settings).on_response
            yield client


class Told(NamedTuple):
    """What a trigger has told.

    :param journal: how the batch stands.
    :param status: the event's.
    :param leg: what the former leg of the task has known.
    :param error: why the batch can't go on.
    """

    journal: BatchState
    status: str
    leg: Mapping[str, Any]
    error: SimError | None = None


def read_batch_event(event: Mapping[str, Any] | None, *, total: int) -> Told:
    """Read a trigger's event.

    :param total: how many inputs the task has.
    :raises SimError: the event is none of our trigger's.
    """
    status, leg = (event or {}).get("status"), (event or {}).get("leg") or {}
    try:
        journal = BatchState.read((event or {}).get("journal") or {})
    except ValueError:
        journal = None
    if event is None or journal is None or len(journal) != total:
        raise SimError(
            f"The trigger's event doesn't belong to this task's {total} inputs: {event!r:.500}. The inputs were changed"
            " while the task was deferred, or this is a fault of the provider; clear the task to start over."
        )
    if status in ("over", "gather"):
        return Told(journal, status, leg)
    if status == "timeout":
        return Told(journal, status, leg, timeout_error(journal))
    if status != "error":
        raise SimError(f"The trigger's event has the unknown status {status!r}.", outcome=Outcome.RAN)
    kind = SimPermanentError if event.get("permanent") else SimBatchError
    message = f"Batch {journal.batch_id} can't go on: {event.get('message')}"
    return Told(journal, status, leg, kind(message, code=event.get("code"), outcome=Outcome.RAN))


def _shortened(limit: timedelta | None) -> timedelta | None:
    return None if limit is None else limit - min(_SPARE, limit / 20)


def _killed() -> SimError:
    return SimError("The task was killed before all of its runs were started.", outcome=Outcome.RAN)
