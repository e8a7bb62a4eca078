"""Connections and servers of ``sim_bad_ends``: wrong keys, lost connections, a response with the key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from airflow_provider_sim.emulator import SimEmulator
from tests.canned_server import Answer, canned, closed_port

KEY = "sk-sim-the-key-that-is-nowhere-to-be-found"
WRONG_KEY = "sk-sim-a-key-that-is-wrong-and-no-less-secret"
STORED_KEY = "sk-sim-a-key-that-airflow-s-database-holds"

STARTED = Answer(202, {"data": {"runId": "r-1", "statusUrl": "unused"}})
RUNNING = Answer(200, {"data": {"runId": "r-1", "workflowId": "echo", "status": "running"}})
HANGS_UP = Answer(silent=True)
MIRROR = Answer(400, {"error": {"code": "BAD_REQUEST", "message": f"Bad header x-api-key: {KEY}"}})

ENDS = {
    "failing_run": "boom: this one fails",
    "wrong_key": "Sim doesn't accept the API key",
    "wrong_key_in_the_database": "Sim doesn't accept the API key",
    "key_with_a_line_break": "has an API key with a line break",
    "key_in_the_address": "has a user name or password in the base URL",
    "nobody_listens": "can't be reached",
    "hangs_up_on_a_worker": "broke before the whole response",
    "hangs_up_on_the_triggerer": "Could not read run 'r-1'",
    "throws_the_key_back": "Bad header x-api-key",
}
"""Failing tasks, and a phrase of their logs."""


@contextmanager
def connections(sim: SimEmulator) -> Iterator[dict[str, dict[str, Any]]]:
    """Start the servers; yield the connections by ID."""
    v2 = {"password": KEY, "extra": {"api_version": "v2", "workspace_id": "w"}}
    with ExitStack() as stack:
        hangs_up = stack.enter_context(canned(HANGS_UP))
        later = stack.enter_context(canned(("/execute", STARTED), ("/runs/", RUNNING), ("/runs/", HANGS_UP)))
        mirror = stack.enter_context(canned(MIRROR))
        fields: dict[str, dict[str, Any]] = {
            "sim_default": {"host": sim.url, "password": KEY},
            "sim_wrong_key": {"host": sim.url, "password": WRONG_KEY},
            "sim_broken_key": {"host": sim.url, "password": f"{KEY}\n{KEY}"},
            "sim_key_in_the_address": {"host": f"http://me:{KEY}@127.0.0.1", "password": KEY},
            "sim_nobody": {"host": f"http://127.0.0.1:{closed_port()}", **v2},
            "sim_hangs_up": {"host": hangs_up.url, **v2},
            "sim_hangs_up_later": {"host": later.url, **v2},
            "sim_mirror": {"host": mirror.url, **v2},
        }
        model = {"pydanticai_default": {"conn_type": "pydanticai", "extra": {"model": "test"}}}  # of the agent
        yield {conn_id: {"conn_type": "sim", **of} for conn_id, of in fields.items()} | model


def stored_connection(sim: SimEmulator) -> dict[str, Any]:
    """A connection for Airflow's REST API."""
    return {"connection_id": "sim_stored", "conn_type": "sim", "host": sim.url, "password": STORED_KEY}
