"""What schedules DAGs when runs end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

try:
    from airflow.triggers.base import BaseEventTrigger, TriggerEvent
except ImportError as error:  # Airflow 2
    raise ImportError(
        "SimRunEventTrigger needs Airflow 3.0 or later, which schedules DAGs by asset watchers."
    ) from error

from airflow_provider_sim.arguments import duration
from airflow_provider_sim.deferral import seconds
from airflow_provider_sim.exceptions import Outcome, SimInputError
from airflow_provider_sim.hooks.sim import SimHook

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

    from airflow_provider_sim.client.models import WorkflowRun
    from airflow_provider_sim.client.settings import ClientSettings
    from airflow_provider_sim.watch.events import Connect, Listener, RunEvents
    from airflow_provider_sim.watch.position import Position

POSITION_KEY = "sim_position"
"""In the asset's state, followed by what tells the positions of several triggers of one asset apart."""

STATUSES = ("completed", "failed", "cancelled")
"""How runs end."""

SHARES_STREAMS = hasattr(BaseEventTrigger, "shared_stream_key")
"""Whether Airflow (3.3 and later) says when an event is stored, and keeps a state for assets."""

_UNSUBSCRIBING = 1.0
"""Seconds in which a trigger that Airflow has given up takes its leave."""


class SimRunEventTrigger(BaseEventTrigger):
    """Fires for each run of some workflows that ends, whoever has started it; for ``AssetWatcher``.

    The event says ``workflow_id``, ``run_id``, ``status`` (``completed``, ``failed``, ``cancelled``), ``trigger`` (what
    started the run: ``api``, ``schedule``, ``webhook``, ``manual`` ...), ``started_at`` and ``ended_at`` (ISO 8601
    UTC), ``duration_ms`` and ``cost_usd`` (US dollars); None where Sim doesn't tell. It takes a server with the v2 API.

    It begins with the runs that haven't ended when the watcher comes to be. On Airflow 3.3 and later all such triggers
    of a server and key share one stream of requests, and each keeps its position in its asset's state: what ends while
    no triggerer runs is told when one does. Before, each restart begins anew. Failures to reach Sim are logged, and
    never the end.

    :param workflow_ids: the workflows, one or several.
    :param statuses: only runs that end so; default: all three.
    :param triggers: only runs that were started by these; default: all.
    :param sim_conn_id: the Airflow connection of type Sim.
    :param poll_interval: seconds or timedelta between looks; of triggers that share them, the shortest counts.
    :param airflow_conn_id: a connection to this Airflow's own REST API: host, and login and password, or a token as the
        password alone. After a triggerer was killed, it is asked which events were stored just before. Without it,
        those that were just on their way then are told twice.
    :raises SimInputError: an argument can't be.
    """

    def __init__(
        self,
        workflow_ids: str | Sequence[str],
        statuses: Sequence[str] = STATUSES,
        triggers: Sequence[str] | None = None,
        sim_conn_id: str = "sim_default",
        poll_interval: float | timedelta = 30.0,
        airflow_conn_id: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workflow_ids = [workflow_ids] if isinstance(workflow_ids, str) else list(workflow_ids)
        self.statuses = [statuses] if isinstance(statuses, str) else list(statuses)
        self.triggers = [triggers] if isinstance(triggers, str) else None if triggers is None else list(triggers)
        self.sim_conn_id = sim_conn_id
        self.poll_interval = seconds(poll_interval)
        self.airflow_conn_id = airflow_conn_id
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Refuse what can't work, when the DAG is parsed.

        :raises SimInputError: says which argument, and what to choose.
        """
        wrong = None
        if not self.workflow_ids or not all(isinstance(name, str) and name.strip() for name in self.workflow_ids):
            wrong = f"workflow_ids is {self.workflow_ids!r}; it must name deployed Sim workflows"
        elif not self.statuses or set(self.statuses) - set(STATUSES):
            wrong = f"statuses is {self.statuses!r}; it can hold {', '.join(STATUSES)}"
        elif self.triggers is not None and not (self.triggers and all(isinstance(name, str) for name in self.triggers)):
            wrong = f"triggers is {self.triggers!r}; it must name what starts runs, such as api or schedule, or be None"
        elif expected := duration(self.poll_interval):
            wrong = f"poll_interval is {self.poll_interval!r}; {expected}"
        if wrong:
            raise SimInputError(f"{wrong}.", outcome=Outcome.NEVER_SENT)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as plain JSON."""
        names = ("workflow_ids", "statuses", "triggers", "sim_conn_id", "poll_interval", "airflow_conn_id")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    # --- Airflow 3.3 and later -----------------------------------------------------------------------------------

    def shared_stream_key(self) -> tuple[str, str]:
        """Share the stream with all that ask the same server with the same key."""
        from airflow_provider_sim.watch.events import run_events_of

        try:
            account = SimHook(self.sim_conn_id).get_settings().account
        except Exception as error:  # Airflow's, too, where it lets no trigger read a connection at this point
            self.log.info("Its stream of runs is shared by the name of the connection only: %s", error)
            account = f"connection {self.sim_conn_id}"
        run_events_of(self.sim_conn_id, account)
        return "airflow_provider_sim.runs", account

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Make the stream's source, which is told when the events made of a run are stored."""
        from airflow_provider_sim.watch.events import run_events_of

        return _producer(run_events_of(kwargs.get("sim_conn_id", "sim_default")))

    async def filter_shared_stream(self, shared_stream: AsyncIterator[WorkflowRun]) -> AsyncIterator[TriggerEvent]:
        """Fire for those runs of the shared stream that this trigger is for."""
        from airflow_provider_sim.watch.events import run_events_of

        stream = run_events_of(self.sim_conn_id)
        listener = self._listener(await self._stored_position())
        stream.join(listener)
        try:
            async for run in shared_stream:
                if self._is_mine(listener, run):
                    yield TriggerEvent(run.details())
        finally:
            stream.leave(listener)

    @property
    def position_key(self) -> str:
        """Where the position is kept; another one for whoever is to be told of other runs."""
        told = [self.sim_conn_id, sorted(self.workflow_ids), sorted(self.statuses), sorted(self.triggers or ())]
        return f"{POSITION_KEY}_{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]}"

    async def _stored_position(self) -> Position | None:
        """Where the trigger stood, with what was stored since."""
        from airflow_provider_sim.watch.position import Position

        stored: Any = None
        for store in self._stores():
            stored = stored or await store.aget(self.position_key)
        position = Position.of_json(stored)
        if position is None:
            return None
        self.log.info("%d runs are still to be told, or were being told when the triggerer ended.", len(position.open))
        if self.airflow_conn_id is not None:
            from airflow_provider_sim.triggers.stored_events import runs_told

            told = await runs_told(self.airflow_conn_id, self._asset_names(), since=stored.get("saved_at", 0.0))
            for run_id, began in told.items():
                position.confirm(run_id, began)
        return position

    async def _save(self, position: Position) -> None:
        for store in self._stores():
            await store.aset(self.position_key, {**position.as_json(), "saved_at": time.time()})

    def _stores(self) -> list[Any]:
        """The states of the assets that are watched: several, where their watchers' triggers are the same."""
        stores = self.asset_state_store
        return [] if stores is None else list(stores._by_name.values())

    def _asset_names(self) -> list[str]:
        return [] if self.asset_state_store is None else list(self.asset_state_store._by_name)

    # --- before ---------------------------------------------------------------------------------------------------

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire for each run that ends, from now on."""
        from airflow_provider_sim.watch.events import RunEvents

        stream = RunEvents()
        listener = self._listener(None)
        stream.join(listener)
        async for run in stream.ended():
            if self._is_mine(listener, run):
                yield TriggerEvent(run.details())
            await stream.confirm([run])

    # --- both ----------------------------------------------------------------------------------------------------

    def _listener(self, position: Position | None) -> Listener:
        from airflow_provider_sim.watch.events import Listener

        return Listener(
            connection=self.sim_conn_id,
            connect=_connect(self.sim_conn_id),
            poll_interval=self.poll_interval,
            workflow_ids=frozenset(self.workflow_ids),
            position=position,
            save=self._save if SHARES_STREAMS else _keep_nothing,
        )

    def _is_mine(self, listener: Listener, run: WorkflowRun) -> bool:
        position = listener.position
        return (
            position is not None
            and run.run_id in position.on_way
            and run.status.value in self.statuses
            and (self.triggers is None or run.trigger in self.triggers)
        )


async def _keep_nothing(position: Position) -> None:
    """Before Airflow 3.3 there is no place."""


def _connect(sim_conn_id: str) -> Connect:
    """Read the connection whenever it is asked for, since it may have changed."""

    async def connect() -> tuple[ClientSettings, str | None]:
        hook = SimHook(sim_conn_id)
        return await hook.get_async_settings(), hook.workspace_id

    return connect


def _producer(stream: RunEvents) -> SharedStreamProducer:
    """The source of a shared stream, as Airflow wants it."""
    from airflow.triggers.shared_stream import SharedStreamProducer

    class RunEventProducer(SharedStreamProducer):
        async def open_stream(self) -> AsyncIterator[tuple[WorkflowRun, WorkflowRun]]:
            async for run in stream.ended():
                yield run, run

        async def advance(self, batch: Iterable[AdvanceItem]) -> None:
            """The events of these runs are stored, but for those of triggers that Airflow has given up."""
            items = list(batch)
            if any(item.outcome.failed for item in items):
                await asyncio.sleep(_UNSUBSCRIBING)
            await stream.confirm(item.broker_payload for item in items)

    return RunEventProducer()
