"""State of a batch: the status and the run ID of each input; no I/O.

Run IDs are derived from the batch ID and the input's index, ``airflow-<uuid>-<index>``, so that persisting the batch ID
before the first request is enough to find all runs. Another attempt of an input, after its run failed or a rejection
used up the ID, has its number appended: ``airflow-<uuid>-<index>.2``. Equal statuses are run-length encoded, as
``c*9998 f c``.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import groupby, islice
from typing import Any

from airflow_provider_sim.metrics import Metric

MAX_MESSAGE = 500  # characters of a rejection's reason that are kept
MAX_MESSAGES = 100  # number of different reasons that are kept

_SUFFIX = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.([1-9][0-9]{0,8}))?")


class ItemStatus(StrEnum):
    """Status of an input; those of finished runs are named as Sim's."""

    COMPLETED = "c"
    FAILED = "f"
    CANCELLED = "x"
    REFUSED = "r"  # rejected, or Sim no longer has the run; see BatchState.reasons
    PAUSED = "p"  # the run waits for a person, which ends polling
    SKIPPED = "k"  # the workflow is not deployed, and skip_undeployed is set
    ACTIVE = "a"  # Sim has accepted it
    SENT = "s"  # its request is in flight
    UNSENT = "u"  # to be started, or sent by an earlier process; Sim accepts an ID once, so sending it again is safe

    @property
    def label(self) -> str:
        """The name in results, XComs and logs."""
        names = {ItemStatus.ACTIVE: "running", ItemStatus.SENT: "not started", ItemStatus.UNSENT: "not started"}
        return names.get(self, self.name.lower())


OPEN = (ItemStatus.UNSENT, ItemStatus.SENT, ItemStatus.ACTIVE)  # to be started or polled


class BatchState:
    def __init__(self, batch_id: str, workflows: Sequence[str], *, since: float = 0.0) -> None:
        self.batch_id = batch_id  # "airflow-" and a UUID
        self.workflows = workflows  # of each input
        self.since = since  # seconds since the epoch; all runs were started later
        self.statuses = [ItemStatus.UNSENT] * len(workflows)  # changed by set_status
        self.attempts = [1] * len(workflows)  # number of each input's current attempt, from 1
        self.server_ids: dict[int, tuple[str, str | None]] = {}  # run and job IDs that the server has chosen, by input
        self.reasons: dict[int, str] = {}  # why inputs were rejected
        self._counts = Counter(self.statuses)
        self._queue = deque(range(len(workflows)))

    def __len__(self) -> int:
        return len(self.statuses)

    def count(self, *statuses: ItemStatus) -> int:
        return sum(self._counts[status] for status in statuses)

    def indices(self, *statuses: ItemStatus) -> list[int]:
        """Return the inputs that have one of these statuses, in their order."""
        return [index for index, status in enumerate(self.statuses) if status in statuses]

    @property
    def is_finished(self) -> bool:
        """Whether no run is to be started or polled."""
        return not self.count(*OPEN)

    def counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for status in ItemStatus:
            counts[status.label] += self._counts[status]
        return +counts

    def summary(self) -> str:
        """Return the number of inputs by status, for a log line."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        return f"{len(self) - self.count(*OPEN)} of {len(self)} finished ({counts})"

    def run_id(self, index: int) -> str:
        """Return the run ID of an input's current attempt."""
        if index in self.server_ids:
            return self.server_ids[index][0]
        attempt = self.attempts[index]
        return f"{self.batch_id}-{index}" + (f".{attempt}" if attempt > 1 else "")

    def job_id(self, index: int) -> str | None:
        return self.server_ids[index][1] if index in self.server_ids else None

    def parse_run_id(self, run_id: str) -> tuple[int, int] | None:
        """Return the input and the attempt of a run ID; None if it is not one of this batch."""
        prefix = f"{self.batch_id}-"
        found = _SUFFIX.fullmatch(run_id[len(prefix) :]) if run_id.startswith(prefix) else None
        if found is None or int(found[1]) >= len(self):
            return None
        return int(found[1]), int(found[2] or 1)

    def next_unsent(self) -> int | None:
        while self._queue:
            if self.statuses[self._queue[0]] is ItemStatus.UNSENT:
                return self._queue[0]
            self._queue.popleft()
        return None

    def set_status(self, index: int, status: ItemStatus, *, reason: str | None = None) -> None:
        """Set the status of an input, with the reason why it was rejected."""
        before = self.statuses[index]
        self._counts[before] -= 1
        self._counts[status] += 1
        self.statuses[index] = status
        if status is ItemStatus.UNSENT and before is not ItemStatus.UNSENT:
            self._queue.appendleft(index)
        if status is not before and status in (ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.CANCELLED):
            Metric.RUN_FINISHED.incr(status=status.label)
        if reason is not None:
            self.reasons[index] = reason[:MAX_MESSAGE]

    def next_attempt(self, index: int, *, minimum: int = 0) -> None:
        """Increase an input's attempt, at least to ``minimum``, since its run ID is used up."""
        self.attempts[index] = max(self.attempts[index] + 1, minimum)
        self.server_ids.pop(index, None)
        self.reasons.pop(index, None)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON, without :attr:`server_ids`. Inputs in flight count as not sent."""
        sent = {ItemStatus.SENT: ItemStatus.UNSENT}
        numbers = {workflow_id: str(number) for number, workflow_id in enumerate(dict.fromkeys(self.workflows))}
        inputs_by_reason: dict[str, list[int]] = {}
        for index, reason in self.reasons.items():
            inputs_by_reason.setdefault(reason, []).append(index)
        return {
            "batch_id": self.batch_id,
            "since": self.since,
            "workflow_ids": list(numbers),
            "workflows": run_length_encode(numbers[workflow_id] for workflow_id in self.workflows),
            "statuses": run_length_encode(sent.get(status, status) for status in self.statuses),
            "attempts": run_length_encode(map(str, self.attempts)),
            "reasons": dict(islice(inputs_by_reason.items(), MAX_MESSAGES)),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BatchState:
        workflow_ids = value["workflow_ids"]
        workflows = [workflow_ids[int(number)] for number in run_length_decode(value["workflows"])]
        state = cls(value["batch_id"], workflows, since=float(value["since"]))
        state.statuses = [ItemStatus(word) for word in run_length_decode(value["statuses"])]
        state.attempts = [int(word) for word in run_length_decode(value["attempts"])]
        state.reasons = {index: reason for reason, inputs in value["reasons"].items() for index in inputs}
        state._counts = Counter(state.statuses)
        return state


def run_length_encode(words: Iterable[str]) -> str:
    """Encode words as ``a*3 b``."""
    runs = ((word, sum(1 for _ in group)) for word, group in groupby(words))
    return " ".join(word if count == 1 else f"{word}*{count}" for word, count in runs)


def run_length_decode(text: str) -> list[str]:
    words: list[str] = []
    for part in text.split():
        word, star, count = part.partition("*")
        words += [word] * (int(count) if star else 1)
    return words
