"""The batch engine as workers and triggerers set it up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.batch.engine import BatchEngine, wait_by
from airflow_provider_sim.client import AsyncSimClient, ClientSettings, RetryPolicy
from airflow_provider_sim.polling.poller import poller_for
from airflow_provider_sim.rate_limits import StartThrottle, rate_limits_for

if TYPE_CHECKING:
    from airflow_provider_sim.batch.state import BatchState
    from airflow_provider_sim.task.run_options import RunOptions


@asynccontextmanager
async def batch_client(settings: ClientSettings, retry: RetryPolicy | None = None) -> AsyncIterator[AsyncSimClient]:
    """Open a client whose rate limits are shared by all batches of this process.

    :param retry: instead of the connection's.
    """
    async with AsyncSimClient.from_settings(replace(settings, retry=retry or settings.retry)) as client:
        client.on_rate_limit = rate_limits_for(settings).on_response
        yield client


def new_engine(
    client: AsyncSimClient,
    options: RunOptions,
    state: BatchState,
    *,
    workflow_of: Callable[[int], str],
    input_of: Callable[[int], Awaitable[Any]],
    known_limit: int | None,
    **callbacks: Any,
) -> tuple[BatchEngine, StartThrottle]:
    """Return the engine that runs a batch, and its throttle.

    :param workflow_of: returns the workflow of an input.
    :param known_limit: how many concurrent runs Sim accepts, as far as known.
    :param callbacks: of :class:`~airflow_provider_sim.batch.engine.BatchEngine`.
    """
    settings = client.settings
    throttle = StartThrottle(
        rate_limits_for(settings),
        bucket=lambda: client.start_bucket,
        maximum=options.max_active_runs,
        known=known_limit,
    )
    engine = BatchEngine(
        client,
        wait_by(poller_for(settings), workflow_of(0), options.workspace_id),
        options,
        workflow_of=workflow_of,
        input_of=input_of,
        state=state,
        throttle=throttle,
        **callbacks,
    )
    return engine, throttle
