"""How to send a request: retries, run IDs, and what stops it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.exceptions import Outcome, SimError, SimInputError


def new_run_id() -> str:
    """Return a unique run ID."""
    return f"airflow-{uuid.uuid4()}"


RunId = str | Iterator[str]
"""A run ID for all attempts of a start, or an iterator with an ID for each attempt that needs a new one."""


class RunIds:
    """The run IDs of one start.

    :ivar current: the ID of the latest attempt, or of the first.
    :ivar can_renew: whether further attempts may have other IDs.
    """

    def __init__(self, run_id: RunId | None) -> None:
        self.can_renew = not isinstance(run_id, str)
        self._ids = iter([run_id]) if isinstance(run_id, str) else run_id or iter(new_run_id, None)
        self.current = self.renew()

    def renew(self) -> str:
        """Take the next ID.

        :raises SimInputError: there is none.
        """
        run_id = next(self._ids, None)
        if run_id is None:
            raise SimInputError("run_id is an iterator without a further run ID.", outcome=Outcome.NEVER_SENT)
        self.current = run_id
        return run_id


class StartStoppedError(Exception):
    """A start was stopped by its :class:`StopToken`."""


@dataclass(slots=True)
class StopToken:
    """A flag that another thread or a signal handler sets to keep a start from sending further attempts."""

    stopped: bool = False


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How to send a request.

    :param retry: default: the client's policy.
    :param retry_on: further errors to retry on, besides the retryable ones.
    :param run_ids: of a start; without them, no attempt has another run ID.
    :param stop: when set, no attempt is sent.
    :param timeout: seconds for the response; default: the client's.
    :param stream: the response may be a stream.
    :param deadline: seconds since the epoch after which no retry starts.
    """

    retry: RetryPolicy | None = None
    retry_on: tuple[type[SimError], ...] = ()
    run_ids: RunIds | None = None
    stop: StopToken | None = None
    timeout: float | None = None
    stream: bool = False
    deadline: float | None = None


DEFAULT_OPTIONS = RequestOptions()
