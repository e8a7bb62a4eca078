"""Pages of v2's lists: how many, from when to when, and where the next one begins."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Mapping

from airflow_provider_sim.emulator.clock import moment
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.emulator.surfaces.v2.gates import (
    Call,
    Failure,
    issue,
)

_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z")


def limit_of(text: str | None, *, default: int, most: int, clamp: bool) -> int:
    if text is None:
        return default
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise issue("too_small", ["limit"], "limit must be at least 1", origin="number", minimum=1, inclusive=True)
    if number > most and not clamp:
        message = f"limit cannot exceed {most}"
        raise issue("too_big", ["limit"], message, origin="number", maximum=most, inclusive=True)
    return min(number, most)


def page_of(call: Call, limit: int, wanted: Callable[[Run], bool]) -> tuple[list[Run], str | None]:
    """A page of the runs that are wanted, and the cursor of the next; a cursor holds for its own filters only."""
    query = dict(call.request.query_params)
    since, until = _window_of(query)
    cursor = query.pop("cursor", None)
    query.pop("limit", None)
    order = query.pop("order", "desc")
    scope = json.dumps([call.request.url.path, sorted(query.items())])
    beyond = None if cursor is None else _last_run(call, cursor, scope, order)
    newest_first = order == "desc"
    runs = call.state.listed(since=since, until=until, newest_first=newest_first, beyond=beyond)
    found = list(itertools.islice(filter(wanted, runs), limit + 1))
    page = found[:limit]
    more = len(found) > limit
    return page, base64.b64encode(json.dumps([scope, order, page[-1].run_id]).encode()).decode() if more else None


def _last_run(call: Call, cursor: str, scope: str, order: str) -> Run:
    """The last run of the previous page."""
    try:
        cursor_scope, cursor_order, last_id = json.loads(base64.b64decode(cursor))
        if cursor_scope != scope:
            raise ValueError
        last = call.state.runs[last_id]
    except (ValueError, TypeError, KeyError):
        raise Failure(400, "cursor is not a valid pagination cursor. Restart pagination without a cursor.") from None
    if cursor_order != order:
        raise Failure(
            400,
            "cursor does not match the requested sortBy/sortOrder. Restart pagination without a cursor after changing"
            " the sort.",
        )
    return last


def _window_of(query: Mapping[str, str]) -> tuple[float | None, float | None]:
    """The moments between which a run has to have begun; the latter is just outside."""
    for name in ("startDate", "endDate"):
        if name in query and not _UTC.fullmatch(query[name]):
            raise issue(
                "invalid_format",
                [name],
                f"{name} must be a UTC ISO 8601 timestamp, e.g. 2026-08-06T00:00:00Z",
                origin="string",
                format="datetime",
                pattern=_UTC.pattern,
            )
    first, last = query.get("startDate"), query.get("endDate")
    since = None if first is None else moment(first)
    return since, None if last is None else moment(last) + 0.001  # Sim compares milliseconds
