"""Where a task writes its run's id down before anything is sent, and finds it again when its worker has died since.

Sim takes each run id once and lets the caller choose it. So the order is: choose an id, write it down, send. Whoever
comes later, a retry, a worker that replaces a dead one, asks Sim for that id first.

Airflow 3.3 and later keep a task's state over its retries; there the id is written into it (:class:`StoredLedger`).
Before, ids follow from the task instance and its try (:class:`DerivedLedger`): a retry can work out what the former try
would have called its run, but not whether that try was meant to be undone, so that it takes up a run only if it still
goes on.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_sim.client.conversations import new_run_id

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

_RESTARTS_IN_A_TRY = 4
"""How many ids of one try are looked for: those that refusals have used up, and the one after them."""


@dataclass(frozen=True, slots=True)
class NotedRun:
    """A run that an earlier try of the task may have started.

    :param job_id: its queue entry, if the server named one.
    :param undone: the task was cleared since: it is to run afresh.
    :param only_if_active: it isn't certain that the try was to be gone on with.
    """

    run_id: str
    job_id: str | None = None
    undone: bool = False
    only_if_active: bool = False


class Ledger(Protocol):
    """What a task needs to know about its runs."""

    def new_run_id(self) -> str:
        """Choose an id and write it down."""

    def note(self, run_id: str, job_id: str | None) -> None:
        """Write down what the server calls a run that has its own id, or its queue entry."""

    def former_runs(self) -> Iterator[NotedRun]:
        """Runs that earlier tries may have started, the latest first."""

    def last_run_id(self) -> str | None:
        """The id under which this try has started its run, in an earlier leg; as far as that can be known."""


def ledger_of(context: Context, *, durable: bool, workflow_id: str, server: str) -> Ledger:
    """The ledger that this Airflow can offer.

    :param durable: False keeps nothing.
    :param server: the base URL; an id means nothing to another server.
    """
    if not durable:
        return NoLedger()
    store = context.get("task_state_store")
    if store is None:
        return DerivedLedger(context["ti"])
    return StoredLedger(store, context, workflow_id=workflow_id, server=server)


class NoLedger:
    """Keeps nothing: each try starts a run of its own."""

    def new_run_id(self) -> str:
        """Choose an id at random."""
        return new_run_id()

    def note(self, run_id: str, job_id: str | None) -> None:
        """Forget it."""

    def former_runs(self) -> Iterator[NotedRun]:
        """None."""
        return iter(())

    def last_run_id(self) -> None:
        """Forgotten."""


class TaskEntry:
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


class StoredLedger:
    """Writes into the task's state.

    :param store: ``context["task_state_store"]``.
    """

    def __init__(self, store: Any, context: Context, *, workflow_id: str, server: str) -> None:
        self._entry = TaskEntry(store, context, STATE_KEY)
        self._ours = {"workflow_id": workflow_id, "server": server}

    def new_run_id(self) -> str:
        """Choose an id at random and write it down."""
        run_id = new_run_id()
        self.note(run_id, None)
        return run_id

    def note(self, run_id: str, job_id: str | None) -> None:
        """Write it down."""
        self._entry.write({"run_id": run_id, "job_id": job_id, **self._ours})

    def former_runs(self) -> Iterator[NotedRun]:
        """The one that is written down, if it is of the same workflow and server."""
        entry, undone = self._entry.read() or ({}, False)
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
        yield NotedRun(entry["run_id"], job_id=entry.get("job_id"), undone=undone)

    def last_run_id(self) -> str | None:
        """What is written down."""
        return next((noted.run_id for noted in self.former_runs()), None)


class DerivedLedger:
    """Works ids out from the task instance and its try; keeps nothing."""

    def __init__(self, ti: Any) -> None:
        self._names = _names_of(ti)
        self._try_number = int(getattr(ti, "try_number", 1) or 1)
        self._chosen = 0

    def new_run_id(self) -> str:
        """The try's next id."""
        self._chosen += 1
        return self._id(self._try_number, self._chosen)

    def note(self, run_id: str, job_id: str | None) -> None:
        """Nothing can be kept; a server that chooses ids itself can't be asked by the next try."""

    def former_runs(self) -> Iterator[NotedRun]:
        """Those that the former tries would have started.

        A try that has gone on with an earlier one's run has none of its own, and ids that were refused leave gaps.
        """
        for try_number in range(self._try_number - 1, 0, -1):
            for number in range(1, _RESTARTS_IN_A_TRY + 1):
                yield NotedRun(self._id(try_number, number), only_if_active=True)

    def last_run_id(self) -> str:
        """The try's first id, which is the one of its run unless that was refused."""
        return self._id(self._try_number, 1)

    def _id(self, try_number: int, number: int) -> str:
        return _derived_id(*self._names, str(try_number), str(number))


class AnswerLedger:
    """Keeps which pause of a run a task is about to answer, over its tries (Airflow 3.3); before, it keeps nothing."""

    def __init__(self, context: Context, *, workflow_id: str, run_id: str, server: str) -> None:
        store = context.get("task_state_store")
        self._entry = None if store is None else TaskEntry(store, context, ANSWER_KEY)
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
        entry, undone = (self._entry and self._entry.read()) or ({}, False)
        if undone or any(entry.get(name) != value for name, value in self._ours.items()):
            return None
        context_id = entry.get("context_id")
        return context_id if isinstance(context_id, str) else None


class BatchLedger(Protocol):
    """What a task needs to know about its batch of runs."""

    def new_batch_id(self) -> str:
        """Choose an id."""

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


def batch_ledger_of(context: Context, *, durable: bool, server: str, digest: str) -> BatchLedger:
    """The ledger of a batch that this Airflow can offer; the arguments are those of :func:`ledger_of`.

    :param digest: of the batch's inputs.
    """
    store = context.get("task_state_store")
    if not durable:
        return NoBatchLedger()
    if store is None:
        return DerivedBatchLedger(context["ti"], digest)
    return StoredBatchLedger(store, context, server=server, digest=digest)


class NoBatchLedger:
    """Keeps nothing: each try starts a batch of its own."""

    def new_batch_id(self) -> str:
        """Choose an id at random."""
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


class StoredBatchLedger(NoBatchLedger):
    """Writes into the task's state: one entry for the batch, and where a server chooses ids itself, one for every so
    many of them.

    :param store: ``context["task_state_store"]``.
    """

    def __init__(self, store: Any, context: Context, *, server: str, digest: str) -> None:
        self._store = store
        self._context = context
        self._ours = {"server": server, "digest": digest}
        self._entry = TaskEntry(store, context, BATCH_KEY)

    def former(self) -> tuple[dict[str, Any], bool] | None:
        """What is written down; other inputs make another batch of it."""
        found = self._entry.read()
        if found is None or found[0].get("server") != self._ours["server"]:
            return None
        entry, undone = found
        return entry, undone or entry.get("digest") != self._ours["digest"]

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
            entry, undone = self._part(part).read() or ({}, True)
            if not undone and entry.get("digest") == self._ours["digest"]:
                found |= {int(number): tuple(name) for number, name in entry.items() if number.isdigit()}
        return found

    def _part(self, part: int) -> TaskEntry:
        return TaskEntry(self._store, self._context, f"{BATCH_KEY}_names_{part}")


class DerivedBatchLedger(NoBatchLedger):
    """Works the batch's id out from the task instance, its inputs, and ``max_tries``, which a clearing raises and a
    retry doesn't; keeps nothing.
    """

    def __init__(self, ti: Any, digest: str) -> None:
        self._names_of_it = [*_names_of(ti), str(getattr(ti, "max_tries", "")), digest]
        self._try_number = int(getattr(ti, "try_number", 1) or 1)

    def new_batch_id(self) -> str:
        """The same in all tries."""
        return _derived_id(*self._names_of_it)

    def former(self) -> tuple[dict[str, Any], bool] | None:
        """The batch of this id, if this isn't the first try."""
        return ({"batch_id": self.new_batch_id()}, False) if self._try_number > 1 else None


def _names_of(ti: Any) -> list[str]:
    return [str(getattr(ti, name, "")) for name in ("dag_id", "run_id", "task_id", "map_index")]


def _derived_id(*names: str) -> str:
    return f"airflow-{uuid.uuid5(uuid.NAMESPACE_URL, chr(10).join(names))}"
