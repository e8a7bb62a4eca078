"""State of a batch: the status and the run ID of each input; no I/O.

Run IDs are derived from the batch ID and the input's index, ``airflow-<uuid>-<index>``, so that persisting the batch ID
before the first request is enough to find all runs. Another attempt of an input, after its run failed or a rejection
used up the ID, has its number appended: ``airflow-<uuid>-<index>.2``. Equal statuses are run-length encoded, as
``c*9998 f c``.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import groupby
from typing import Any

MAX_MESSAGE = 500
"""Characters of a rejection's reason that are kept."""

MAX_MESSAGES = 100
"""Number of different reasons that are kept."""


class ItemStatus(StrEnum):
    """Status of an input."""

    UNSENT = "u"
    """To be started. An earlier process may have sent it; Sim accepts an ID once, so sending it again is safe."""
    SENT = "s"
    """Its request is in flight."""
    ACTIVE = "a"
    """Sim has accepted it."""
    COMPLETED = "c"
    FAILED = "f"
    CANCELLED = "x"
    PAUSED = "p"
    """The run waits for a person, which ends polling."""
    REFUSED = "r"
    """The run was rejected, or Sim no longer has it; see :meth:`BatchState.reason`."""
    SKIPPED = "k"
    """The workflow is not deployed, and ``skip_undeployed`` is set."""

    @property
    def is_open(self) -> bool:
        """Whether the run is to be started or polled."""
        return self in (ItemStatus.UNSENT, ItemStatus.SENT, ItemStatus.ACTIVE)


class BatchState:
    """State of a batch.

    :param batch_id: ``airflow-`` and a UUID.
    :param total: number of inputs.
    """

    def __init__(self, batch_id: str, total: int) -> None:
        self.batch_id = batch_id
        self._statuses = [ItemStatus.UNSENT] * total
        self._attempts = [1] * total
        self._counts = Counter({ItemStatus.UNSENT: total})
        self._server_ids: dict[int, tuple[str, str | None]] = {}
        self._reasons: dict[int, str] = {}
        self._queue: deque[int] = deque(range(total))

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self._statuses)

    def __getitem__(self, index: int) -> ItemStatus:
        """Return the status of an input."""
        return self._statuses[index]

    def __iter__(self) -> Iterator[ItemStatus]:
        """Iterate over the statuses, in the order of the inputs."""
        return iter(self._statuses)

    def count(self, *statuses: ItemStatus) -> int:
        """Return the number of inputs that have one of these statuses."""
        return sum(self._counts[status] for status in statuses)

    def indices(self, *statuses: ItemStatus) -> list[int]:
        """Return the inputs that have one of these statuses, in their order."""
        return [index for index, status in enumerate(self._statuses) if status in statuses]

    @property
    def is_finished(self) -> bool:
        """Whether no run is to be started or polled."""
        return not any(self._counts[status] for status in ItemStatus if status.is_open)

    def counts(self) -> dict[str, int]:
        """Return the number of inputs by status name, and the total."""
        counts = {name: self.count(status) for status, name in STATUS_NAMES.items() if status not in _NOT_STARTED}
        return {"total": len(self), **{name: count for name, count in counts.items() if count}}

    def summary(self) -> str:
        """Return the number of finished, running and not started inputs, for a log line."""
        counts = self.counts()
        total, running = counts.pop("total"), counts.pop("running", 0)
        not_started = self.count(*_NOT_STARTED)
        finished = f"{total - running - not_started} of {total} finished"
        if counts:
            finished += f" ({', '.join(f'{count} {name}' for name, count in counts.items())})"
        rest = [f"{running} running"] * bool(running) + [f"{not_started} not started"] * bool(not_started)
        return ", ".join([finished, *rest])

    # --- IDs -----------------------------------------------------------------------------------------------------

    def attempt(self, index: int) -> int:
        """Return the number of an input's current attempt, from 1."""
        return self._attempts[index]

    def run_id(self, index: int) -> str:
        """Return the run ID of an input's current attempt."""
        if index in self._server_ids:
            return self._server_ids[index][0]
        attempt = self._attempts[index]
        return f"{self.batch_id}-{index}" + (f".{attempt}" if attempt > 1 else "")

    def job_id(self, index: int) -> str | None:
        """Return the job ID, if the server has chosen one."""
        return self._server_ids[index][1] if index in self._server_ids else None

    def parse_run_id(self, run_id: str) -> tuple[int, int] | None:
        """Return the input and the attempt of a run ID; None if it is not one of this batch."""
        prefix = f"{self.batch_id}-"
        found = _SUFFIX.fullmatch(run_id[len(prefix) :]) if run_id.startswith(prefix) else None
        if found is None or int(found[1]) >= len(self):
            return None
        return int(found[1]), int(found[2] or 1)

    @property
    def server_ids(self) -> Mapping[int, tuple[str, str | None]]:
        """Run IDs and job IDs that the server has chosen, by input."""
        return self._server_ids

    # --- changes -------------------------------------------------------------------------------------------------

    def next_unsent(self) -> int | None:
        """Return the next input to start; None if there is none."""
        while self._queue:
            if self._statuses[self._queue[0]] is ItemStatus.UNSENT:
                return self._queue[0]
            self._queue.popleft()
        return None

    def set_status(self, index: int, status: ItemStatus, *, reason: str | None = None) -> None:
        """Set the status of an input.

        :param reason: why it was rejected.
        """
        before = self._statuses[index]
        self._counts[before] -= 1
        self._counts[status] += 1
        self._statuses[index] = status
        if status is ItemStatus.UNSENT and before is not ItemStatus.UNSENT:
            self._queue.appendleft(index)
        if reason is not None:
            self._reasons[index] = reason[:MAX_MESSAGE]

    def set_server_id(self, index: int, run_id: str, job_id: str | None) -> None:
        """Set the IDs that the server has chosen."""
        self._server_ids[index] = (run_id, job_id)

    def next_attempt(self, index: int, *, minimum: int = 0) -> None:
        """Increase an input's attempt, since its run ID is used up.

        :param minimum: lowest number of the new attempt.
        """
        self._attempts[index] = max(self._attempts[index] + 1, minimum)
        self._server_ids.pop(index, None)
        self._reasons.pop(index, None)

    def reason(self, index: int) -> str:
        """Return why an input was rejected."""
        return self._reasons.get(index, "see the task log")

    # --- JSON ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON, without :attr:`server_ids`. Inputs in flight count as not sent."""
        reasons = list(dict.fromkeys(self._reasons.values()))[:MAX_MESSAGES]
        numbers = {reason: number for number, reason in enumerate(reasons)}
        state: dict[str, Any] = {
            "batch_id": self.batch_id,
            "statuses": run_length_encode(
                ItemStatus.UNSENT if status is ItemStatus.SENT else status for status in self._statuses
            ),
            "attempts": run_length_encode(map(str, self._attempts)),
        }
        if reasons:
            state["reasons"] = reasons
            state["reason_of"] = {str(i): numbers[reason] for i, reason in self._reasons.items() if reason in numbers}
        return state

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BatchState:
        """Return the state that :meth:`to_dict` has returned.

        :raises ValueError: the value is not a state.
        """
        try:
            statuses = [ItemStatus(word) for word in run_length_decode(value["statuses"])]
            attempts = [int(word) for word in run_length_decode(value["attempts"])]
            if len(statuses) != len(attempts):
                raise ValueError("statuses and attempts differ in length")
            state = cls(str(value["batch_id"]), len(statuses))
            state._statuses, state._attempts = statuses, attempts
            state._counts = Counter(statuses)
            reasons = value.get("reasons", [])
            state._reasons = {int(i): reasons[number] for i, number in value.get("reason_of", {}).items()}
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise ValueError(f"not the state of a batch: {error}") from error
        return state


STATUS_NAMES = {
    ItemStatus.COMPLETED: "completed",
    ItemStatus.FAILED: "failed",
    ItemStatus.CANCELLED: "cancelled",
    ItemStatus.REFUSED: "refused",
    ItemStatus.PAUSED: "paused",
    ItemStatus.SKIPPED: "skipped",
    ItemStatus.ACTIVE: "running",
    ItemStatus.SENT: "running",
    ItemStatus.UNSENT: "not started",
}
"""Names in results and XComs."""

_NOT_STARTED = (ItemStatus.UNSENT, ItemStatus.SENT)

_SUFFIX = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.([1-9][0-9]{0,8}))?")


def run_length_encode(words: Iterable[str]) -> str:
    """Encode words, as ``a*3 b``."""
    runs = ((word, sum(1 for _ in group)) for word, group in groupby(words))
    return " ".join(word if count == 1 else f"{word}*{count}" for word, count in runs)


def run_length_decode(text: str) -> list[str]:
    """Decode words.

    :raises ValueError: a count is not a number.
    """
    words: list[str] = []
    for part in text.split():
        word, star, count = part.partition("*")
        words += [word] * (int(count) if star else 1)
    return words
