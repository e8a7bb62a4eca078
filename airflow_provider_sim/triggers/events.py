"""Event trigger that schedules DAGs when runs finish."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider_sim.arguments import Rule, check_arguments, duration
from airflow_provider_sim.client import check_workflow_id
from airflow_provider_sim.task.deadlines import seconds

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

    from airflow_provider_sim.client import ClientSettings, WorkflowRun
    from airflow_provider_sim.polling.finished_runs import Batch, Cursor, FinishedRunStream, Listener

CURSOR_KEY = "sim_cursor"  # in the asset's state store; followed by a hash that separates the triggers of one asset
STATUSES = ("completed", "failed", "cancelled")
_LEAVING = 1.0  # seconds in which a trigger that Airflow has failed leaves the stream

_RULES: Mapping[str, Rule] = {
    "workflow_ids": lambda given: None if given else "it must name deployed Sim workflows",
    "statuses": lambda given: None if given and set(given) <= set(STATUSES) else f"it can hold {', '.join(STATUSES)}",
    "triggers": lambda given: (
        None
        if given is None or (given and all(isinstance(name, str) for name in given))
        else "it must name what starts runs, such as api or schedule, or be None"
    ),
    "poll_interval": duration,
}


class SimRunEventTrigger(BaseEventTrigger):
    """Emits an event when runs of some workflows finish, whatever started them; for ``AssetWatcher``.

    The event's payload is ``{"runs": [...]}`` with the runs that have finished since the last event, 500 at most. Each
    run has ``workflow_id``, ``run_id``, ``status`` (``completed``, ``failed`` or ``cancelled``), ``trigger`` (what
    started the run: ``api``, ``schedule``, ``webhook``, ``manual`` ...), ``started_at`` and ``ended_at`` (ISO 8601
    UTC), ``duration_ms`` and ``cost_usd`` (US dollars); None where Sim reports no value. Events of a trigger are at
    least 15 seconds apart, so that Airflow creates a DAG run for each. Requires a server with the v2 API.

    The first event reports runs that had not finished when the watcher was added. On Airflow 3.3 and later, delivery
    is at least once: the trigger resumes after a restart, and may repeat runs (deduplicate by ``run_id``). On Airflow
    3.0 to 3.2, runs that finish while no triggerer runs are not delivered. Errors of Sim are logged and retried.

    :param workflow_ids: one or several workflow IDs.
    :param statuses: only runs that finish in these states; default: all three.
    :param triggers: only runs that were started by these; default: all.
    :param sim_conn_id: the Airflow connection of type Sim.
    :param poll_interval: seconds or timedelta between polls. On Airflow 3.3 and later, triggers of one connection share
        their polls, and the shortest interval applies.
    :raises SimInputError: an argument is invalid.
    """

    def __init__(
        self,
        workflow_ids: str | Sequence[str],
        statuses: Sequence[str] = STATUSES,
        triggers: Sequence[str] | None = None,
        sim_conn_id: str = "sim_default",
        poll_interval: float | timedelta = 30.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workflow_ids = [workflow_ids] if isinstance(workflow_ids, str) else list(workflow_ids)
        self.statuses = [statuses] if isinstance(statuses, str) else list(statuses)
        self.triggers = [triggers] if isinstance(triggers, str) else None if triggers is None else list(triggers)
        self.sim_conn_id = sim_conn_id
        self.poll_interval = seconds(poll_interval)
        check_arguments(_RULES, vars(self))
        for workflow_id in self.workflow_ids:
            check_workflow_id(workflow_id)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as plain JSON."""
        names = ("workflow_ids", "statuses", "triggers", "sim_conn_id", "poll_interval")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    def shared_stream_key(self) -> tuple[str, str]:
        """Return the key of the stream, which all triggers of one connection share."""
        self._stream = _stream_of(self.sim_conn_id)  # keeps it alive until the trigger ends
        return "airflow_provider_sim.runs", self.sim_conn_id

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return the stream's source, to which Airflow confirms stored events."""
        from airflow.triggers.shared_stream import SharedStreamProducer

        stream = _stream_of(kwargs.get("sim_conn_id", "sim_default"))

        class RunEventProducer(SharedStreamProducer):
            async def open_stream(self) -> AsyncIterator[tuple[Batch, Batch]]:
                async for batch in stream.batches():
                    yield batch, batch

            async def advance(self, batch: Iterable[AdvanceItem]) -> None:
                """Confirm that events are stored, except those of triggers that Airflow has failed."""
                items = list(batch)
                if any(item.outcome.failed for item in items):
                    await asyncio.sleep(_LEAVING)
                for item in items:
                    await stream.confirm(item.broker_payload)

        return RunEventProducer()

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Batch]) -> AsyncIterator[TriggerEvent]:
        """Emit an event for this trigger's part of each batch."""
        stream = _stream_of(self.sim_conn_id)
        stored = [await store.aget(self.cursor_key) for store in self._stores()]
        listener = self._listener(next(filter(None, stored), None))
        stream.join(listener)
        try:
            async for batch in shared_stream:
                if listener in batch:
                    yield _event(batch[listener])
        finally:
            stream.leave(listener)

    @property
    def cursor_key(self) -> str:
        """Key in the asset's state store; triggers with other workflows or filters have others."""
        subject = [self.sim_conn_id, sorted(self.workflow_ids), sorted(self.statuses), sorted(self.triggers or ())]
        return f"{CURSOR_KEY}_{hashlib.sha256(json.dumps(subject).encode()).hexdigest()[:12]}"

    async def _save(self, cursors: dict[str, Cursor]) -> None:
        for store in self._stores():
            await store.aset(self.cursor_key, {name: asdict(cursor) for name, cursor in cursors.items()})

    def _stores(self) -> list[Any]:
        """Return the state stores of the watched assets: several, if their watchers' triggers are equal."""
        stores = getattr(self, "asset_state_store", None)  # Airflow 3.3 and later
        return [] if stores is None else list(stores._by_name.values())

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Emit an event for each batch of runs that finish from now on (before Airflow 3.3)."""
        from airflow_provider_sim.polling.finished_runs import FinishedRunStream

        stream = FinishedRunStream(partial(_connect, self.sim_conn_id))
        stream.join(self._listener(None))
        async for batch in stream.batches():
            for runs in batch.values():
                yield _event(runs)
            await stream.confirm(batch)

    def _listener(self, stored: Any) -> Listener:
        from airflow_provider_sim.polling.finished_runs import Listener, cursors_of

        return Listener(
            poll_interval=self.poll_interval,
            workflow_ids=frozenset(self.workflow_ids),
            wants=self._wants,
            cursors=cursors_of(stored),
            save=self._save,
        )

    def _wants(self, run: WorkflowRun) -> bool:
        return run.status.value in self.statuses and (self.triggers is None or run.trigger in self.triggers)


async def _connect(sim_conn_id: str) -> tuple[ClientSettings, str | None]:
    from airflow_provider_sim.hooks.sim import SimHook

    settings = await SimHook(sim_conn_id).get_async_settings()
    return settings, settings.workspace_id


def _stream_of(sim_conn_id: str) -> FinishedRunStream:
    """Return the stream that the triggers of a connection share on this event loop."""
    from airflow_provider_sim.polling.finished_runs import FinishedRunStream
    from airflow_provider_sim.polling.rate_limits import shared

    return shared((FinishedRunStream, sim_conn_id), lambda: FinishedRunStream(partial(_connect, sim_conn_id)))


def _event(runs: Iterable[WorkflowRun]) -> TriggerEvent:
    return TriggerEvent({"runs": [run.details() for run in runs]})
