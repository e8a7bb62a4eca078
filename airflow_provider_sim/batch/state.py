"""Which input has which run, and how it stands; no I/O.

A run's id follows from the batch's own and the input's number, ``airflow-<batch>-<number>``; so that one id, written
down before anything is sent, stands for ten thousand. A start that a refusal has used the id up for, and a run that
follows a failed one, are attempts of a higher number, which is appended: ``airflow-<batch>-<number>.2``. What all
inputs have in common takes a few characters: ``c*9998 f c``.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import groupby
from typing import Any

MAX_MESSAGE = 500
"""Characters that are kept of why an input was refused."""

MAX_MESSAGES = 100
"""Different ones."""


class ItemStatus(StrEnum):
    """How an input stands."""

    UNSENT = "u"
    """To be started. Whether it was once sent isn't known; Sim takes an id once, so that it may be sent again."""
    SENT = "s"
    """Its request is under way."""
    ACTIVE = "a"
    """Sim has taken it."""
    COMPLETED = "c"
    FAILED = "f"
    CANCELLED = "x"
    PAUSED = "p"
    """It waits for a person, and isn't waited for."""
    REFUSED = "r"
    """It never ran, or can't be found any more; :meth:`Journal.why` says why."""
    SKIPPED = "k"
    """Its workflow isn't deployed, and the author wants such skipped."""

    @property
    def is_open(self) -> bool:
        """Whether there is still something to be done or to be waited for."""
        return self in (ItemStatus.UNSENT, ItemStatus.SENT, ItemStatus.ACTIVE)

    @property
    def is_bad(self) -> bool:
        """Whether it counts as a failure."""
        return self in (ItemStatus.FAILED, ItemStatus.CANCELLED, ItemStatus.REFUSED)


class BatchState:
    """The state of a batch.

    :param batch_id: ``airflow-`` and a UUID.
    :param total: how many inputs there are.
    """

    def __init__(self, batch_id: str, total: int) -> None:
        self.batch_id = batch_id
        self._standings = [ItemStatus.UNSENT] * total
        self._attempts = [1] * total
        self._counts = Counter({ItemStatus.UNSENT: total})
        self._names: dict[int, tuple[str, str | None]] = {}
        self._why: dict[int, str] = {}
        self._queue: deque[int] = deque(range(total))

    def __len__(self) -> int:
        """How many inputs there are."""
        return len(self._standings)

    def __getitem__(self, index: int) -> ItemStatus:
        """How an input stands."""
        return self._standings[index]

    def count(self, *standings: ItemStatus) -> int:
        """How many inputs stand so."""
        return sum(self._counts[standing] for standing in standings)

    def indices(self, *standings: ItemStatus) -> Iterator[int]:
        """The inputs that stand so, in their order."""
        return (index for index, standing in enumerate(self._standings) if standing in standings)

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be done or to be waited for any more."""
        return not any(self._counts[standing] for standing in ItemStatus if standing.is_open)

    def counts(self) -> dict[str, int]:
        """How many inputs stand how, by a word for it."""
        told = {"total": len(self)}
        return told | {words: count for words, *standings in _WORDS if (count := self.count(*standings))}

    def described(self) -> str:
        """How many inputs have finished, run and wait, for a log line."""
        counts = self.counts()
        total, running = counts.pop("total"), counts.pop("running", 0)
        waiting = self.count(ItemStatus.UNSENT, ItemStatus.SENT)
        finished = f"{total - running - waiting} of {total} finished"
        if counts:
            finished += f" ({', '.join(f'{count} {words}' for words, count in counts.items())})"
        rest = [f"{running} running"] * bool(running) + [f"{waiting} not started"] * bool(waiting)
        return ", ".join([finished, *rest])

    # --- ids -----------------------------------------------------------------------------------------------------

    def attempt(self, index: int) -> int:
        """The number of an input's present attempt, from 1."""
        return self._attempts[index]

    def run_id(self, index: int) -> str:
        """The id of an input's present attempt."""
        return self._names[index][0] if index in self._names else self.own_id(index, self._attempts[index])

    def job_id(self, index: int) -> str | None:
        """Its queue entry, where the server has told one that doesn't follow from the run's id."""
        return self._names[index][1] if index in self._names else None

    def own_id(self, index: int, attempt: int) -> str:
        """The id that we give an attempt."""
        return f"{self.batch_id}-{index}" + (f".{attempt}" if attempt > 1 else "")

    def read_id(self, run_id: str) -> tuple[int, int] | None:
        """The input and the attempt that an id is of; None if it is none of ours."""
        prefix = f"{self.batch_id}-"
        found = _OWN.fullmatch(run_id[len(prefix) :]) if run_id.startswith(prefix) else None
        if found is None or int(found[1]) >= len(self):
            return None
        return int(found[1]), int(found[2] or 1)

    @property
    def names(self) -> Mapping[int, tuple[str, str | None]]:
        """The ids of runs and of their queue entries that a server has chosen itself, by input."""
        return self._names

    # --- what happens --------------------------------------------------------------------------------------------

    def next_unsent(self) -> int | None:
        """The input that is to be started next, if there is one."""
        while self._queue:
            if self._standings[self._queue[0]] is ItemStatus.UNSENT:
                return self._queue[0]
            self._queue.popleft()
        return None

    def stands(self, index: int, standing: ItemStatus, *, why: str | None = None) -> None:
        """Take note of how an input stands now.

        :param why: it was refused.
        """
        before = self._standings[index]
        self._counts[before] -= 1
        self._counts[standing] += 1
        self._standings[index] = standing
        if standing is ItemStatus.UNSENT and before is not ItemStatus.UNSENT:
            self._queue.appendleft(index)
        if why is not None:
            self._why[index] = why[:MAX_MESSAGE]

    def is_called(self, index: int, run_id: str, job_id: str | None) -> None:
        """Take note of the id that the server has chosen itself."""
        self._names[index] = (run_id, job_id)

    def renew(self, index: int, *, least: int = 0) -> None:
        """Go on to an input's next attempt: the present one has used its id up.

        :param least: the attempt's number, if that is higher.
        """
        self._attempts[index] = max(self._attempts[index] + 1, least)
        self._names.pop(index, None)
        self._why.pop(index, None)

    def why(self, index: int) -> str:
        """Why an input was refused."""
        return self._why.get(index, "the log of the task tells why")

    # --- on paper ------------------------------------------------------------------------------------------------

    def written(self) -> dict[str, Any]:
        """The state as JSON, but for :attr:`names`, which are many where there are any.

        What is under way counts as not sent, since whoever reads it has to send it again.
        """
        said = list(dict.fromkeys(self._why.values()))[:MAX_MESSAGES]
        numbers = {message: number for number, message in enumerate(said)}
        return {
            "batch_id": self.batch_id,
            "standings": squeezed(
                ItemStatus.UNSENT if standing is ItemStatus.SENT else standing for standing in self._standings
            ),
            "attempts": squeezed(map(str, self._attempts)),
            **(
                {"why": said, "why_of": {str(i): numbers[why] for i, why in self._why.items() if why in numbers}}
                if said
                else {}
            ),
        }

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> BatchState:
        """Read what :meth:`written` gave.

        :raises ValueError: it isn't that.
        """
        try:
            standings = [ItemStatus(word) for word in unsqueezed(written["standings"])]
            attempts = [int(word) for word in unsqueezed(written["attempts"])]
            if len(standings) != len(attempts):
                raise ValueError("its parts are of different lengths")
            journal = cls(str(written["batch_id"]), len(standings))
            journal._standings, journal._attempts = standings, attempts
            journal._counts = Counter(standings)
            said = written.get("why", [])
            journal._why = {int(i): said[number] for i, number in written.get("why_of", {}).items()}
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise ValueError(f"this is no batch's state: {error}") from error
        return journal


_WORDS = (
    ("completed", ItemStatus.COMPLETED),
    ("failed", ItemStatus.FAILED),
    ("cancelled", ItemStatus.CANCELLED),
    ("refused", ItemStatus.REFUSED),
    ("paused", ItemStatus.PAUSED),
    ("skipped", ItemStatus.SKIPPED),
    ("running", ItemStatus.ACTIVE),
)

_OWN = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.([1-9][0-9]{0,8}))?")


def squeezed(words: Iterable[str]) -> str:
    """Words of which many that stand together are the same, as ``a*3 b``."""
    return " ".join(
        word if count == 1 else f"{word}*{count}"
        for word, count in ((word, sum(1 for _ in group)) for word, group in groupby(words))
    )


def unsqueezed(text: str) -> list[str]:
    """The words that :func:`squeezed` was given.

    :raises ValueError: it wasn't.
    """
    words: list[str] = []
    for part in text.split():
        word, star, count = part.partition("*")
        words += [word] * (int(count) if star else 1)
    return words
