"""Which events of an asset Airflow has stored, asked of its REST API: no trigger is told by other means."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import httpx

from airflow_provider_sim.hooks.sim import base_url_of

log = logging.getLogger(__name__)

_PAGE = 100
_TIMEOUT = 30.0
_SLACK = 300.0
"""Seconds by which the clocks of the database's and the triggerer's machines may differ."""


async def runs_told(airflow_conn_id: str, asset_names: Iterable[str], *, since: float) -> dict[str, float | None]:
    """The runs of which assets' events tell that were stored since a moment, with their starts in seconds.

    Empty where Airflow can't be asked, which the log then says.

    :param airflow_conn_id: host, and login and password, or a token as the password alone; without either, Airflow is
        asked for a token as one without login.
    :param since: seconds since the epoch.
    """
    from airflow.providers.common.compat.connection import get_async_connection

    try:
        connection = await get_async_connection(airflow_conn_id)
        async with httpx.AsyncClient(base_url=base_url_of(connection) or "", timeout=_TIMEOUT) as http:
            http.headers["Authorization"] = f"Bearer {await _token(http, connection)}"
            found: dict[str, float | None] = {}
            for name in asset_names:
                found |= await _runs_of(http, name, since - _SLACK)
            return found
    except Exception as error:  # whatever the connection, the network and another program have to say
        log.warning(
            "Airflow's stored events could not be read by %r: %s Some may be told twice.", airflow_conn_id, error
        )
        return {}


async def _token(http: httpx.AsyncClient, connection: Any) -> str:
    if connection.login:
        answer = await http.post("/auth/token", json={"username": connection.login, "password": connection.password})
    elif connection.password:
        return str(connection.password)
    else:
        answer = await http.get("/auth/token")
    return str(answer.raise_for_status().json()["access_token"])


async def _runs_of(http: httpx.AsyncClient, asset_name: str, since: float) -> dict[str, float | None]:
    query: dict[str, Any] = {
        "name_pattern": asset_name,
        "timestamp_gte": datetime.fromtimestamp(since, UTC).isoformat(),
        "order_by": "timestamp",
        "limit": _PAGE,
    }
    found: dict[str, float | None] = {}
    offset = 0
    while True:
        answer = await http.get("/api/v2/assets/events", params={**query, "offset": offset})
        events = answer.raise_for_status().json()["asset_events"]
        for event in events:
            payload = (event.get("extra") or {}).get("payload")
            if event.get("name") == asset_name and isinstance(payload, dict) and payload.get("run_id"):
                found[payload["run_id"]] = _moment(payload.get("started_at"))
        offset += len(events)
        if len(events) < _PAGE:
            return found


def _moment(value: Any) -> float | None:
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        return None
