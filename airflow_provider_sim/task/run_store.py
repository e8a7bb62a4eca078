"""Write-ahead store for a task's run ID, used to recover after a worker crash.

The caller chooses the run ID, and Sim accepts each ID once. So a task chooses an ID, records it, and sends the start.
A retry asks Sim for that ID before it starts anything.

Airflow 3.3 and later keep a task's state across retries; the ID is recorded there (:class:`TaskStateRunStore`). Earlier
versions have no such store, so IDs are derived from what all tries of a task instance have in common
(:class:`DerivedRunStore`): a retry computes the IDs that the earlier tries have used.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_sim.client import new_run_id

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

STATE_KEY = "sim_run"
"""In the task's state, for one run."""

ANSWER_KEY = "sim_answer"
"""In the task's state, for the answer to a pause."""

BATCH_KEY = "sim_batch"
"""In the task's state, for a batch of runs."""

NAMES_IN_AN_ENTRY = 256
"""Ids of runs; Airflow advises to keep an entry below 64 KiB."""

_IDS_PER_TRY = 4
"""How many IDs of one try a later try looks for: those that Sim has rejected, and the one after them."""


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """A run that an earlier try of the task may have started.

    :param job_id: its queue entry, if the server named one.
    :param undone: the task was cleared since, so the run must not be used.
    :param derived: the ID is computed, not recorded: the earlier try may have used another one, or none.
    :param resend: if Sim doesn't know the ID, send the next start under it: should the start that an earlier try has
        sent still arrive, Sim rejects one of the two.
    """

    run_id: str
    job_id: str | None = None
    cleared: bool = False
    derived: bool = False
    resend: bool = True


class RunStore(Protocol):
    """What a task needs to know about its runs."""

    def new_run_id(self) -> str:
        """Choose an ID and record it."""

    def note(self, run_id: str, job_id: str | None) -> None:
        """Record the ID that the server has chosen for a run, or its queue entry."""

    def previous_runs(self) -> Iterator[PreviousRun]:
        """Runs that earlier tries may have started, the latest first."""

    def current_runs(self) -> Iterator[PreviousRun]:
        """Runs that this try may have started or re-attached to before it was deferred, the likeliest first."""

    def may_have_sent(self, run_id: str) -> bool:
        """Whether an earlier try of this task instance may have sent a start under this ID."""


def run_store_for(context: Context, *, durable: bool, workflow_id: str, server: str) -> RunStore:
    """The ledger that this Airflow can offer.

    :param durable: False keeps nothing.
    :param server: the base URL; an ID means nothing to another server.
    """
    if not durable:
        return NoRunStore()
    store = context.get("task_state_store")
    if store is not None:
        return TaskStateRunStore(store, context, workflow_id=workflow_id, server=server)
    names = _identity_of(context)
    return DerivedRunStore(names, context["ti"]) if names else NoRunStore()


class NoRunStore:
    """Keeps nothing: each try starts its own run."""

    def new_run_id(self) -> str:
        """Choose an ID at random."""
        return new_run_id()

    def note(self, run_id: str, job_id: str | None) -> None:
        """Do nothing."""

    def previous_runs(self) -> Iterator[PreviousRun]:
        """None."""
        return iter(())

    def current_runs(self) -> Iterator[PreviousRun]:
        """None."""
        return iter(())

    def may_have_sent(self, run_id: str) -> bool:
        """IDs are random: whatever run has one, this task has started it."""
        return True


class StateEntry:
    """An entry in the task's state, which Airflow keeps over retries, and also when a user clears the task.

    Clearing raises the task's ``max_tries`` and the DAG run's ``clear_number``; a retry raises neither. They are
    written down with it, so that a cleared task starts afresh. (Either alone can change without a clearing of this
    task: the DAG's author may change ``retries``, a user may clear another task.)

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

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write it down."""
        self._store.set(self._key, {**facts, **self._generation})

    def read(self) -> tuple[dict[str, Any], bool] | None:
        """What is written down, and whether the task was cleared since."""
        entry = self._store.get(self._key)
        if not isinstance(entry, dict):
            return None
        return entry, all(entry.get(name) != value for name, value in self._generation.items())


class TaskStateRunStore(NoRunStore):
    """Records the run ID in the task's state.

    :param store: ``context["task_state_store"]``.
    """

    def __init__(self, store: Any, context: Context, *, workflow_id: str, server: str) -> None:
        self._entry = StateEntry(store, context, STATE_KEY)
        self._ours = {"workflow_id": workflow_id, "server": server}

    def new_run_id(self) -> str:
        """Choose an ID at random and record it."""
        run_id = new_run_id()
        self.note(run_id, None)
        return run_id

    def note(self, run_id: str, job_id: str | None) -> None:
        """Record it."""
        self._entry.write({"run_id": run_id, "job_id": job_id, **self._ours})

    def previous_runs(self) -> Iterator[PreviousRun]:
        """The recorded run, if it belongs to the same workflow and server."""
        entry, cleared = self._entry.read() or ({}, False)
        if not isinstance(entry.get("run_id"), str):
            return
        if any(entry.get(name) != value for name, value in self._ours.items()):
            log.info(
                "Run %s of an earlier try belongs to workflow %s on %s; the task has been changed since.",
                entry["run_id"],
                entry.get("workflow_id"),
                entry.get("server"),
            )
            return
        yield PreviousRun(entry["run_id"], job_id=entry.get("job_id"), cleared=cleared)

    def current_runs(self) -> Iterator[PreviousRun]:
        """The recorded run."""
        return self.previous_runs()


class DerivedRunStore(NoRunStore):
    """Derives IDs from the task instance, its DAG run's start and the try; keeps nothing.

    :param names: what all tries of the task instance have in common, and no other task instance; :func:`_identity_of`.
    """

    def __init__(self, names: Sequence[str], ti: Any) -> None:
        self._names = names
        self._try_number = _try_number_of(ti)
        self._chosen: list[str] = []

    def new_run_id(self) -> str:
        """The try's next ID."""
        self._chosen.append(self._id(self._try_number, len(self._chosen) + 1))
        return self._chosen[-1]

    def previous_runs(self) -> Iterator[PreviousRun]:
        """Runs that the earlier tries would have started.

        A try that has re-attached to a run of an earlier one has used none of its own IDs, and rejected IDs leave gaps.
        """
        return self._runs_of(range(self._try_number - 1, 0, -1))

    def current_runs(self) -> Iterator[PreviousRun]:
        """The try's own run, or one of an earlier try that it has re-attached to."""
        return self._runs_of(range(self._try_number, 0, -1))

    def may_have_sent(self, run_id: str) -> bool:
        """Not the IDs of this try: Airflow never starts the same try of a scheduled task a second time.

        ``airflow tasks test`` does; it must not return the output of the scheduled task.
        """
        return run_id not in self._chosen

    def _runs_of(self, tries: Iterable[int]) -> Iterator[PreviousRun]:
        for try_number in tries:
            for number in range(1, _IDS_PER_TRY + 1):
                yield PreviousRun(self._id(try_number, number), derived=True, resend=number == 1)

    def _id(self, try_number: int, number: int) -> str:
        return _derived_id(*self._names, str(try_number), str(number))


class PauseAnswerStore:
    """Keeps which pause of a run a task is about to answer, over its tries (Airflow 3.3); before, it keeps nothing."""

    def __init__(self, context: Context, *, workflow_id: str, run_id: str, server: str) -> None:
        store = context.get("task_state_store")
        self._entry = None if store is None else StateEntry(store, context, ANSWER_KEY)
        self._ours = {"workflow_id": workflow_id, "run_id": run_id, "server": server}

    @property
    def keeps(self) -> bool:
        """Whether a later try will know."""
        return self._entry is not None

    def note(self, context_id: str) -> None:
        """Write it down."""
        if self._entry is not None:
            self._entry.write({"context_id": context_id, **self._ours})

    def earlier(self) -> str | None:
        """The pause point that an earlier try was about to answer, unless the task was cleared since."""
        entry, cleared = (self._entry and self._entry.read()) or ({}, False)
        if cleared or any(entry.get(name) != value for name, value in self._ours.items()):
            return None
        context_id = entry.get("context_id")
        return context_id if isinstance(context_id, str) else None


class BatchStore(Protocol):
    """What a task needs to know about its batch of runs."""

    derives_ids: bool
    """Whether a batch ID is computed, so that ``airflow tasks test`` gets the ID of the scheduled task's batch."""

    def new_batch_id(self) -> str:
        """Choose an ID."""

    def former(self) -> tuple[dict[str, Any], bool] | None:
        """What an earlier try has written down of the same batch or another, and whether that was undone since."""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Write the batch down."""

    def note_names(self, index: int, names: Mapping[int, tuple[str, str | None]]) -> None:
        """Write down what a server that chooses run ids itself has called the run of an input.

        :param names: of all inputs so far.
        """

    def names(self, total: int) -> dict[int, tuple[str, str | None]]:
        """All that :meth:`note_names` has written down, of so many inputs."""


def batch_store_for(context: Context, *, durable: bool, server: str, digest: str) -> BatchStore:
    """The ledger of a batch that this Airflow can offer; the arguments are those of :func:`ledger_of`.

    :param digest: of the batch's inputs.
    """
    if not durable:
        return NoBatchStore()
    store = context.get("task_state_store")
    if store is not None:
        return TaskStateBatchStore(store, context, server=server, digest=digest)
    names = _identity_of(context)
    return DerivedBatchStore([*names, digest], context["ti"]) if names else NoBatchStore()


class NoBatchStore:
    """Keeps nothing: each try starts its own batch."""

    derives_ids = False

    def new_batch_id(self) -> str:
        """Choose an ID at random."""
        return new_run_id()

    def former(self) -> tuple[dict[str, Any], bool] | None:
        """None."""
        return None

    def note(self, facts: Mapping[str, Any]) -> None:
        """Forget it."""

    def note_names(self, index: int, names: Mapping[int, tuple[str, str | None]]) -> None:
        """Forget them."""

    def names(self, total: int) -> dict[int, tuple[str, str | None]]:
        """None."""
        return {}


class TaskStateBatchStore(NoBatchStore):
    """Writes into the task's state: one entry for the batch, and where a server chooses ids itself, one for every so
    many of them.

    :param store: ``context["task_state_store"]``.
    """

    def __init__(self, store: Any, context: Context, *, server: str, digest: str) -> None:
        self._store = store
        self._context = context
        self._ours = {"server": server, "digest": digest}
        self._entry = StateEntry(store, context, BATCH_KEY)

    def former(self) -> tuple[dict[str, Any], bool] | None:
        """What is written down; other inputs make another batch of it."""
        found = self._entry.read()
        if found is None or found[0].get("server") != self._ours["server"]:
            return None
        entry, cleared = found
        return entry, cleared or entry.get("digest") != self._ours["digest"]

    def note(self, facts: Mapping[str, Any]) -> None:
        """Write it down."""
        self._entry.write({**facts, **self._ours})

    def note_names(self, index: int, names: Mapping[int, tuple[str, str | None]]) -> None:
        """Write down the part that this one belongs to."""
        part = index // NAMES_IN_AN_ENTRY
        some = range(part * NAMES_IN_AN_ENTRY, (part + 1) * NAMES_IN_AN_ENTRY)
        named = {str(number): list(names[number]) for number in some if number in names}
        self._part(part).write({**named, **self._ours})

    def names(self, total: int) -> dict[int, tuple[str, str | None]]:
        """Read all parts."""
        found: dict[int, tuple[str, str | None]] = {}
        for part in range((total + NAMES_IN_AN_ENTRY - 1) // NAMES_IN_AN_ENTRY):
            entry, cleared = self._part(part).read() or ({}, True)
            if not cleared and entry.get("digest") == self._ours["digest"]:
                found |= {int(number): tuple(name) for number, name in entry.items() if number.isdigit()}
        return found

    def _part(self, part: int) -> StateEntry:
        return StateEntry(self._store, self._context, f"{BATCH_KEY}_names_{part}")


class DerivedBatchStore(NoBatchStore):
    """Derives the batch's ID from the task instance, its DAG run's start and its inputs; keeps nothing.

    :param names: what all tries of the task instance with these inputs have in common.
    """

    derives_ids = True

    def __init__(self, names: Sequence[str], ti: Any) -> None:
        self._names = names
        self._try_number = _try_number_of(ti)

    def new_batch_id(self) -> str:
        """The same in all tries."""
        return _derived_id(*self._names)

    def former(self) -> tuple[dict[str, Any], bool] | None:
        """The batch of this ID, if this isn't the first try."""
        return ({"batch_id": self.new_batch_id()}, False) if self._try_number > 1 else None


def _identity_of(context: Context) -> list[str] | None:
    """What all tries of a task instance have in common, and no other task instance of any Airflow.

    - The DAG run's start, to the microsecond, differs between deployments, and between a DAG run that was deleted and
      one that was created again under the same name. A retry doesn't change it, nor does clearing tasks of a DAG run
      that still runs (Airflow 2.11 to 3.2).
    - ``max_tries`` is increased by clearing the task, and not by a retry.

    :return: None for a DAG run that has no start of its own: ``dag.test()`` and ``airflow tasks test`` leave it empty,
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
