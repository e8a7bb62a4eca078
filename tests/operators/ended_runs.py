"""Runs that end, and what is told of them."""

from __future__ import annotations

import asyncio


def trigger(**arguments):
    """The trigger; on Airflow 2, the error that says what it needs."""
    from airflow_provider_sim.triggers.events import SimRunEventTrigger

    return SimRunEventTrigger(**{"workflow_ids": ["echo_plain"], "poll_interval": 0.1} | arguments)


async def until(condition, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what it asks is set by other threads, too
            await asyncio.sleep(0.02)


def start(client, workflow_id="echo_plain", **given):
    return client.execute_workflow(workflow_id, given, async_execution=True).run_id
