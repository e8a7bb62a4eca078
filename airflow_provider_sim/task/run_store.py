"""Write-ahead store for a task's run IDs, used to recover after a worker crash.

The caller chooses the run ID, and Sim accepts each ID once. So a task chooses an ID, records it, and sends the start.
A retry asks Sim for that ID before it starts anything.

Airflow 3.3 and later keep a task's state across retries; the ID is recorded there (:class:`TaskStateRunStore`). Earlier
versions have no such store, so IDs are derived from what all tries of a task instance have in common
(:class:`DerivedRunStore`): a retry computes the IDs that the earlier tries have used.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_sim._compat import task_state_store
from airflow_provider_sim.client import new_run_id

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

STATE_KEY = "sim_run"
"""Key in the task's state for one run."""

ANSWER_KEY = "sim_answer"
"""Key in the task's state for the answer to a pause."""

BATCH_KEY = "sim_batch"
"""Key in the task's state for a batch of runs."""

RUN_IDS_PER_ENTRY = 256
"""Airflow advises to keep an entry below 64 KiB."""

_IDS_PER_TRY = 4
"""How many IDs of one try a later try looks for: those that Sim has rejected, and the one after them."""


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """A run that an earlier try of the task may have started.

    :param job_id: its queue entry, if the server named one.
    :param cleared: the task was cleared since, so the run must not be used.
    :param derived: the ID is computed, not recorded: the earlier try may have used another one, or none.
    :param resend: if Sim doesn't know the ID, send the next start under it: should the start that an earlier try has
        sent still arrive, Sim rejects one of the two.
    """

    run_id: str
    job_id: str | None = None
    cleared: bool = False
    derived: bool = False
    resend: bool = True


class StateEntry:
    """An entry in the task's state, which Airflow keeps over retries, and also when a user clears the task.

    Clearing raises the task's ``max_tries`` and the DAG run's ``clear_number``; a retry raises neither. The entry
    contains both, so that a cleared task starts afresh. (Either alone can change without this task being cleared: the
    DAG's author may change ``retries``, a user may clear another task.)

    :param store: ``context["task_state_store"]``.
    """

    def __init__(self, store: Any, context: Context, key: str) -> None:
        self._store = store
        self._key = key
        ti, dag_run = context["ti"], context.get("dag_run")
        self._generation = {
            "max_tries": getattr(ti, "max_tries", None),
            "clear_number": getattr(dag_run, "clear_number", None),
        }

    def write(self, values: Mapping[str, Any]) -> None:
        """Replace the entry."""
        self._store.set(self._key, {**values, **self._generation})

    def read(self) -> tuple[dict[str, Any], bool]:
        """Return the entry, empty if there is none, and whether the task was cleared since."""
        entry = self._store.get(self._key)
        if not isinstance(entry, dict):
            return {}, False
        return entry, all(entry.get(name) != value for name, value in self._generation.items())


# --- one run ---------------------------------------------------------------------------------------------------------


def run_store_for(context: Context, *, durable: bool, workflow_id: str, server: str) -> RunStore:
    """Return the store that this Airflow supports.

    :param durable: False records nothing.
    :param server: the base URL; an ID means nothing to another server.
    """
    if not durable:
        return RunStore()
    store = task_state_store(context)
    if store is not None:
        return TaskStateRunStore(store, context, workflow_id=workflow_id, server=server)
    identity = _identity_of(context)
    return DerivedRunStore(identity, context["ti"]) if identity else RunStore()


class RunStore:
    """Base class, which records nothing: each try starts its own run."""

    def new_run_id(self) -> str:
        """Choose an ID and record it."""
        return new_run_id()

    def record(self, run_id: str, job_id: str | None) -> None:
        """Record the ID that the server has chosen for a run, or its queue entry."""

    def previous_runs(self) -> Iterator[PreviousRun]:
        """Return runs that earlier tries may have started, the latest first."""
        return iter(())

    def current_runs(self) -> Iterator[PreviousRun]:
        """Return runs that this try may have started or re-attached to before it was deferred, the likeliest first."""
        return iter(())

    unsent_ids: Container[str] = ()
    """IDs that no earlier try of this task can have sent, but another caller can; random IDs are unique."""


class TaskStateRunStore(RunStore):
    """Records the run ID in the task's state."""

    def __init__(self, store: Any, context: Context, *, workflow_id: str, server: str) -> None:
        self._entry = StateEntry(store, context, STATE_KEY)
        self._subject = {"workflow_id": workflow_id, "server": server}

    def new_run_id(self) -> str:
        run_id = new_run_id()
        self.record(run_id, None)
        return run_id

    def record(self, run_id: str, job_id: str | None) -> None:
        self._entry.write({"run_id": run_id, "job_id": job_id, **self._subject})

    def previous_runs(self) -> Iterator[PreviousRun]:
        """Return the recorded run, if it belongs to the same workflow and server."""
        entry, cleared = self._entry.read()
        if not isinstance(entry.get("run_id"), str):
            return
        if not _contains(entry, self._subject):
            log.info(
                "Run %s of an earlier try belongs to workflow %s on %s; the task has been changed since.",
                entry["run_id"],
                entry.get("workflow_id"),
                entry.get("server"),
            )
            return
        yield PreviousRun(entry["run_id"], job_id=entry.get("job_id"), cleared=cleared)

    def current_runs(self) -> Iterator[PreviousRun]:
        return self.previous_runs()


class DerivedRunStore(RunStore):
    """Derives IDs from the task instance, its DAG run's start and the try; records nothing."""

    def __init__(self, identity: Sequence[str], ti: Any) -> None:
        self._identity = identity
        self._try_number = _try_number_of(ti)
        # Airflow never starts the same try of a scheduled task a second time. ``airflow tasks test`` does; it must not
        # return the output of the scheduled task.
        self.unsent_ids: list[str] = []

    def new_run_id(self) -> str:
        self.unsent_ids.append(self._id(self._try_number, len(self.unsent_ids) + 1))
        return self.unsent_ids[-1]

    def previous_runs(self) -> Iterator[PreviousRun]:
        """Return runs that the earlier tries would have started.

        A try that has re-attached to a run of an earlier one has used none of its own IDs, and rejected IDs leave gaps.
        """
        return self._runs_of(range(self._try_number - 1, 0, -1))

    def current_runs(self) -> Iterator[PreviousRun]:
        return self._runs_of(range(self._try_number, 0, -1))

    def _runs_of(self, tries: Iterable[int]) -> Iterator[PreviousRun]:
        for try_number in tries:
            for number in range(1, _IDS_PER_TRY + 1):
                yield PreviousRun(self._id(try_number, number), derived=True, resend=number == 1)

    def _id(self, try_number: int, number: int) -> str:
        return _derived_id(*self._identity, str(try_number), str(number))


# --- the answer to a pause -------------------------------------------------------------------------------------------


class PauseAnswerStore:
    """Records which pause of a run a task is about to answer (Airflow 3.3 and later); before, it records nothing."""

    def __init__(self, context: Context, *, workflow_id: str, run_id: str, server: str) -> None:
        store = task_state_store(context)
        self._entry = None if store is None else StateEntry(store, context, ANSWER_KEY)
        self._subject = {"workflow_id": workflow_id, "run_id": run_id, "server": server}

    @property
    def is_durable(self) -> bool:
        """Whether a later try can read it."""
        return self._entry is not None

    def record(self, context_id: str) -> None:
        """Record the pause point."""
        if self._entry is not None:
            self._entry.write({"context_id": context_id, **self._subject})

    def previous(self) -> str | None:
        """Return the pause point that an earlier try was about to answer, unless the task was cleared since."""
        entry, cleared = self._entry.read() if self._entry else ({}, False)
        if cleared or not _contains(entry, self._subject):
            return None
        context_id = entry.get("context_id")
        return context_id if isinstance(context_id, str) else None


# --- a batch of runs -------------------------------------------------------------------------------------------------


def batch_store_for(context: Context, *, durable: bool, server: str, digest: str) -> BatchStore:
    """Return the store for a batch, as :func:`run_store_for`.

    :param digest: of the batch's inputs.
    """
    if not durable:
        return BatchStore()
    store = task_state_store(context)
    if store is not None:
        return TaskStateBatchStore(store, context, server=server, digest=digest)
    identity = _identity_of(context)
    return DerivedBatchStore([*identity, digest], context["ti"]) if identity else BatchStore()


class BatchStore:
    """Base class, which records nothing: each try starts its own batch."""

    derives_ids = False
    """Whether a batch ID is computed, so that ``airflow tasks test`` gets the ID of the scheduled task's batch."""

    def new_batch_id(self) -> str:
        """Choose an ID."""
        return new_run_id()

    def previous(self) -> tuple[dict[str, Any], bool]:
        """Return what an earlier try recorded, and whether the task was cleared or its inputs changed since."""
        return {}, False

    def record(self, batch: Mapping[str, Any]) -> None:
        """Record the batch."""

    def record_run_ids(self, index: int, run_ids: Mapping[int, tuple[str, str | None]]) -> None:
        """Record the run ID and job ID that the server chose for an input.

        :param run_ids: of all inputs so far.
        """

    def run_ids(self, total: int) -> dict[int, tuple[str, str | None]]:
        """Return what :meth:`record_run_ids` recorded for so many inputs."""
        return {}


class TaskStateBatchStore(BatchStore):
    """Records the batch in one entry of the task's state, and IDs that the server chose in further ones."""

    def __init__(self, store: Any, context: Context, *, server: str, digest: str) -> None:
        self._store = store
        self._context = context
        self._subject = {"server": server, "digest": digest}

    def previous(self) -> tuple[dict[str, Any], bool]:
        entry, cleared = self._entry(BATCH_KEY).read()
        if entry.get("server") != self._subject["server"]:
            return {}, False
        return entry, cleared or not _contains(entry, self._subject)

    def record(self, batch: Mapping[str, Any]) -> None:
        self._entry(BATCH_KEY).write({**batch, **self._subject})

    def record_run_ids(self, index: int, run_ids: Mapping[int, tuple[str, str | None]]) -> None:
        part = index // RUN_IDS_PER_ENTRY
        numbers = range(part * RUN_IDS_PER_ENTRY, (part + 1) * RUN_IDS_PER_ENTRY)
        entry = {str(number): list(run_ids[number]) for number in numbers if number in run_ids}
        self._entry(f"{BATCH_KEY}_names_{part}").write({**entry, **self._subject})

    def run_ids(self, total: int) -> dict[int, tuple[str, str | None]]:
        found: dict[int, tuple[str, str | None]] = {}
        for part in range((total + RUN_IDS_PER_ENTRY - 1) // RUN_IDS_PER_ENTRY):
            entry, cleared = self._entry(f"{BATCH_KEY}_names_{part}").read()
            if not cleared and entry.get("digest") == self._subject["digest"]:
                found |= {int(number): tuple(ids) for number, ids in entry.items() if number.isdigit()}
        return found

    def _entry(self, key: str) -> StateEntry:
        return StateEntry(self._store, self._context, key)


class DerivedBatchStore(BatchStore):
    """Derives the batch's ID from the task instance, its DAG run's start and its inputs; records nothing."""

    derives_ids = True

    def __init__(self, identity: Sequence[str], ti: Any) -> None:
        self._identity = identity
        self._try_number = _try_number_of(ti)

    def new_batch_id(self) -> str:
        return _derived_id(*self._identity)

    def previous(self) -> tuple[dict[str, Any], bool]:
        return ({"batch_id": self.new_batch_id()} if self._try_number > 1 else {}), False


# --- both ------------------------------------------------------------------------------------------------------------


def _contains(entry: Mapping[str, Any], subject: Mapping[str, str]) -> bool:
    return all(entry.get(name) == value for name, value in subject.items())


def _identity_of(context: Context) -> list[str] | None:
    """Return what all tries of a task instance have in common, and no other task instance of any Airflow.

    - The DAG run's start, to the microsecond, differs between deployments, and between a DAG run that was deleted and
      one that was created again under the same name. A retry doesn't change it, nor does clearing tasks of a DAG run
      that still runs (Airflow 2.11 to 3.2).
    - ``max_tries`` is increased by clearing the task, and not by a retry.

    :return: None for a DAG run without a distinct start: ``dag.test()`` and ``airflow tasks test`` leave it empty,
        or set it to the logical date or to ``run_after``, which other DAG runs may share.
    """
    ti, dag_run = context["ti"], context.get("dag_run")
    start = getattr(dag_run, "start_date", None)
    if start is None or start in (getattr(dag_run, "logical_date", None), getattr(dag_run, "run_after", None)):
        return None
    names = [str(getattr(ti, name, "")) for name in ("dag_id", "run_id", "task_id", "map_index", "max_tries")]
    return [*names, f"{start.timestamp():.6f}"]


def _try_number_of(ti: Any) -> int:
    return int(getattr(ti, "try_number", 1) or 1)


def _derived_id(*names: str) -> str:
    return f"airflow-{uuid.uuid5(uuid.NAMESPACE_URL, chr(10).join(names))}"
