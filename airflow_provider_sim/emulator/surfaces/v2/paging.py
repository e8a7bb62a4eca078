"""Pages of v2's lists: how many, from when to when, and where the next one begins."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping

from airflow_provider_sim.emulator.clock import iso
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
        raise issue("too_small", ["limit"], "Too small: expected number to be >=1", origin="number", minimum=1)
    if number > most and not clamp:
        raise issue("too_big", ["limit"], f"Too big: expected number to be <={most}", origin="number", maximum=most)
    return min(number, most)


def window_of(query: Mapping[str, str]) -> Callable[[Run], bool]:
    """Whether a run began between the query's dates."""
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
    return lambda run: (
        (first is None or str(iso(run.started_at)) >= first) and (last is None or str(iso(run.started_at)) <= last)
    )


def page_of(call: Call, runs: list[Run], limit: int) -> tuple[list[Run], str | None]:
    """A page of runs and the cursor of the next; a cursor holds for its own filters only."""
    query = dict(call.request.query_params)
    cursor = query.pop("cursor", None)
    query.pop("limit", None)
    scope = json.dumps([call.request.url.path, sorted(query.items())])
    if query.get("order", "desc") == "desc":
        runs.reverse()
    begin = 0
    if cursor is not None:
        try:
            told, last_id = json.loads(base64.b64decode(cursor))
            if told != scope:
                raise ValueError
            begin = next(number for number, run in enumerate(runs) if run.run_id == last_id) + 1
        except (ValueError, TypeError, StopIteration):
            raise Failure(
                400, "cursor is not a valid pagination cursor. Restart pagination without a cursor."
            ) from None
    page = runs[begin : begin + limit]
    more = begin + limit < len(runs)
    return page, base64.b64encode(json.dumps([scope, page[-1].run_id]).encode()).decode() if more else None
