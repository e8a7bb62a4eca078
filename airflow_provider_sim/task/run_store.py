"""Write-ahead store for a task's run IDs and uploads, used to recover after a worker crash.

Sim accepts each run ID once. A task chooses an ID, records it, and sends the start; a retry asks Sim for that ID before
it starts anything. Airflow 3.3 and later keep a task's state across retries, which contains the ID. On earlier ones,
IDs are derived from what all tries of a task instance have in common.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_sim.batch.state import BatchState
from airflow_provider_sim.client import MAX_RUN_TIMEOUT, new_run_id
from airflow_provider_sim.task.uploads import Uploads

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.batch.items import Items

log = logging.getLogger(__name__)

# Keys in the task's state
STATE_KEY = "sim_run"
ANSWER_KEY = "sim_answer"  # the answer to a pause
BATCH_KEY = "sim_batch"

RUN_IDS_PER_ENTRY = 256  # Airflow advises to keep an entry below 64 KiB
_IDS_PER_TRY = 4  # that a later try looks for: those that Sim has rejected, and the one after them


class StateEntry:
    """An entry in the task's state, which Airflow keeps over retries, and also when a user clears the task.

    Clearing raises the task's ``max_tries`` and the DAG run's ``clear_number``; a retry raises neither. The entry
    contains both, since either alone can change without this task being cleared: by another value of ``retries``, or
    by clearing another task. An entry about another subject is ignored. Without a store, nothing is recorded.
    """

    def __init__(self, store: Any, context: Context, key: str, **subject: str) -> None:
        self.is_durable = store is not None
        self._store = store
        self._key = key
        self._subject = subject
        ti, dag_run = context["ti"], context.get("dag_run")
        self._generation = {
            "max_tries": getattr(ti, "max_tries", None),
            "clear_number": getattr(dag_run, "clear_number", None),
        }

    def write(self, **values: Any) -> None:
        """Replace the entry."""
        if self.is_durable:
            self._store.set(self._key, {**values, **self._subject, **self._generation})

    def read(self) -> tuple[dict[str, Any], bool]:
        """Return the entry, empty if there is none, and whether the task was cleared since."""
        entry = self._store.get(self._key) if self.is_durable else None
        if not isinstance(entry, dict):
            return {}, False
        of = {name: entry.get(name) for name in self._subject}
        if of != self._subject:
            log.info("What an earlier try has recorded is ignored, since the task has been changed. It is of %s.", of)
            return {}, False
        return entry, all(entry.get(name) != value for name, value in self._generation.items())


class _Store:
    """Base of the stores: the task's state, or else what IDs are derived from, or else neither."""

    def __init__(self, context: Context, durable: bool) -> None:
        self._context = context
        self._state = context.get("task_state_store") if durable else None
        self._identity = _identity_of(context) if durable and self._state is None else None
        self._try_number = int(getattr(context["ti"], "try_number", 1) or 1)

    def _derived_id(self, *names: object) -> str:
        text = "\n".join([*(self._identity or ()), *map(str, names)])
        return f"airflow-{uuid.uuid5(uuid.NAMESPACE_URL, text)}"


def _identity_of(context: Context) -> list[str] | None:
    """Return what all tries of a task instance have in common, and no other task instance of any Airflow.

    The DAG run's start differs between deployments, and between a DAG run that was deleted and one of the same name.
    Clearing the task raises ``max_tries``; a retry changes neither.

    :return: None for a DAG run without a distinct start: ``dag.test()`` and ``airflow tasks test`` leave it empty,
        or set it to the logical date or to ``run_after``, which other DAG runs may share.
    """
    ti, dag_run = context["ti"], context.get("dag_run")
    start = getattr(dag_run, "start_date", None)
    if start is None or start in (getattr(dag_run, "logical_date", None), getattr(dag_run, "run_after", None)):
        return None
    names = [str(getattr(ti, name, "")) for name in ("dag_id", "run_id", "task_id", "map_index", "max_tries")]
    return [*names, f"{start.timestamp():.6f}"]


class PreviousRun(NamedTuple):
    """A run that an earlier try of the task may have started."""

    run_id: str
    job_id: str | None = None  # its queue entry, if the server named one
    cleared: bool = False  # the task was cleared since, so the run must not be used
    derived: bool = False  # the ID is computed, not recorded: the earlier try may have used another one, or none
    # If Sim doesn't know the ID, the next start gets it: Sim rejects one of the two if an earlier start still arrives.
    resend: bool = True


class RunStore(_Store):
    """Store of one run's ID and its uploads; an ID means nothing to another server."""

    def __init__(self, context: Context, *, durable: bool, workflow_id: str, server: str) -> None:
        super().__init__(context, durable)
        self._entry = StateEntry(self._state, context, STATE_KEY, workflow_id=workflow_id, server=server)
        # Derived IDs that this try is the first to send, unless it is ``airflow tasks test``, which must not return the
        # scheduled task's output.
        self.unsent_ids: list[str] = []
        self.uploads: Uploads | None = None  # of the run, as far as known
        self._ids: dict[str, Any] = {}

    @property
    def upload_token(self) -> str:
        """What the names of uploads start with: the same in all tries if it can be derived, else a new one."""
        return self._derived_id("uploads") if self._identity else new_run_id()

    def new_run_id(self) -> str:
        """Choose an ID and record it."""
        if self._identity:
            self.unsent_ids.append(self._derived_id(self._try_number, len(self.unsent_ids) + 1))
            return self.unsent_ids[-1]
        run_id = new_run_id()
        self.record(run_id=run_id, job_id=None)
        return run_id

    def record(self, **values: Any) -> None:
        """Record a run's ``run_id`` and ``job_id``, if given, and the uploads."""
        self._ids |= values
        self._entry.write(**self._ids, **({"uploads": asdict(self.uploads)} if self.uploads else {}))

    def previous_runs(self, workspace_id: str | None, *, of_this_try: bool) -> tuple[list[PreviousRun], bool]:
        """Return runs that earlier tries may have started, the latest first, and whether the task was cleared since.

        With ``of_this_try``, those come first that this try may have started before it was deferred. Sets
        :attr:`uploads` to what may have been uploaded, into the workspace if it is given.
        """
        is_first = self._try_number == 1 and not of_this_try  # Airflow counts a task that is cleared as another try
        entry, cleared = ({}, False) if is_first else self._entry.read()
        runs = []
        if isinstance(entry.get("run_id"), str):
            runs.append(PreviousRun(entry["run_id"], job_id=entry.get("job_id"), cleared=cleared))
        if isinstance(entry.get("uploads"), dict):
            self.uploads = Uploads(**entry["uploads"])
        if not cleared:
            self._ids = {name: entry[name] for name in ("run_id", "job_id") if name in entry}
        tries = range(self._try_number - (not of_this_try), 0, -1) if self._identity else ()
        if tries and workspace_id:
            self.uploads = Uploads(workspace_id, self.upload_token)
        for try_number, number in product(tries, range(1, _IDS_PER_TRY + 1)):
            runs.append(PreviousRun(self._derived_id(try_number, number), derived=True, resend=number == 1))
        return runs, cleared


class BatchStore(_Store):
    """Store of a batch: its state in one entry, and run IDs that the server chose in further ones."""

    def __init__(self, context: Context, items: Items, *, durable: bool, server: str) -> None:
        super().__init__(context, durable)
        self._items = items
        self._server = server
        self.derives_ids = self._identity is not None  # then ``airflow tasks test`` gets the scheduled task's batch ID

    def new_batch_id(self) -> str:
        return self._derived_id(self._items.digest) if self._identity else new_run_id()

    def previous(self, batch_id: str | None = None) -> tuple[BatchState | None, bool]:
        """Return the batch that is recorded, or else this or an earlier try's, and whether it is current."""
        entry, cleared = self._entry(BATCH_KEY).read()
        try:
            if entry:
                return BatchState.from_dict(entry["state"]), not cleared and entry["digest"] == self._items.digest
        except (LookupError, TypeError, ValueError) as error:
            log.warning("The state that an earlier try recorded is invalid: %r", error)
        if self._identity and self._try_number > 1:
            batch_id = batch_id or self.new_batch_id()
        start = getattr(self._context.get("dag_run"), "start_date", None)
        since = start.timestamp() if start is not None else time.time() - MAX_RUN_TIMEOUT
        return BatchState(batch_id, self._items.workflows, since=since) if batch_id else None, True

    def record(self, state: BatchState) -> None:
        self._entry(BATCH_KEY).write(state=state.to_dict(), digest=self._items.digest)

    def record_run_id(self, state: BatchState, index: int) -> None:
        """Record the run ID and job ID that the server chose for an input."""
        first = index - index % RUN_IDS_PER_ENTRY
        known = [other for other in range(first, first + RUN_IDS_PER_ENTRY) if other in state.server_ids]
        self._ids_entry(first).write(**{str(other): list(state.server_ids[other]) for other in known})

    def run_ids(self) -> dict[int, tuple[str, str | None]]:
        """Return the IDs that :meth:`record_run_id` has recorded."""
        found: dict[int, tuple[str, str | None]] = {}
        for first in range(0, len(self._items.inputs), RUN_IDS_PER_ENTRY):
            entry, cleared = self._ids_entry(first).read()
            if not cleared:
                found |= {int(number): tuple(ids) for number, ids in entry.items() if number.isdigit()}
        return found

    def _ids_entry(self, first: int) -> StateEntry:
        return self._entry(f"{BATCH_KEY}_ids_{first}", digest=self._items.digest)

    def _entry(self, key: str, **subject: str) -> StateEntry:
        return StateEntry(self._state, self._context, key, server=self._server, **subject)
