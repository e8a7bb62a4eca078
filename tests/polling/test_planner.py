"""Requests that a poll sends, by the runs that are due, what is known of them, and the rate limits."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from airflow_provider_sim.client.api.v2 import LOGS_BUCKET, RUN_BUCKET, WORKFLOW_BUCKET
from airflow_provider_sim.client.models import RunStatus
from airflow_provider_sim.polling import RunPollState
from airflow_provider_sim.polling.planner import Planner, PolledRun, Request, Workspaces
from airflow_provider_sim.polling.rate_limits import Room

NOW = 1_000_000.0
HOUR = 3600.0


class Limits:
    """Constant rate limits: unlimited unless given by bucket.

    :param delay: seconds until a request of an exhausted bucket may be sent.
    """

    def __init__(self, available: dict[str | None, int] | None = None, delay: float = 30.0) -> None:
        self._available = available or {}
        self._delay = delay

    def room(self, bucket: str | None) -> Room:
        available = self._available.get(bucket, 1000)
        return Room(available, 0.0 if available else self._delay)


def started(ago: float | None, workflow_id: str = "w", **state: Any) -> PolledRun:
    """Return a run that started so many seconds ago, and that is due; None for a run that was never polled."""
    start = {"since": NOW - 20} if ago is None else {"since": NOW - ago - 1, "until": NOW - ago + 1}
    known = {"due": NOW, "interval": 10.0, "status": None if ago is None else RunStatus.RUNNING, **start}
    return PolledRun(state=RunPollState(workflow_id, f"run-{ago}"), run_id=f"run-{ago}", **{**known, **state})


def requests(
    due: list[PolledRun],
    near: Any = (),
    limits: Any = None,
    v2: bool | None = True,
    max_reads: int = 1000,
    **known: Any,
) -> list[str]:
    """Return the planned requests in short form."""
    workspaces = Workspaces(**{"by_workflow": {"w": "space", "v": "space"}, **known})
    planner = Planner(workspaces=workspaces, limits=limits or Limits(), now=NOW, v2=v2, max_reads=max_reads)
    return [short(request) for request in planner.plan(due, near)]


def short(request: Request) -> str:
    first = request.runs[0]
    if request.bucket == LOGS_BUCKET:
        earliest = min(run.earliest for run in request.runs)
        return f"list {len(request.runs)} in {request.workspace_id} from {NOW - earliest:.0f}"
    if request.bucket == WORKFLOW_BUCKET:
        return f"find {first.state.workflow_id} for {len(request.runs)}"
    return f"read {first.run_id}"


class TestListOrRead:
    @pytest.mark.parametrize(
        ("ages", "sent"),
        [
            pytest.param([100], ["read run-100"], id="one run is read"),
            pytest.param([None], ["read run-None"], id="one run that was never polled is read"),
            pytest.param([90, 100], ["list 2 in space from 101"], id="several share a list from the oldest start"),
            pytest.param([None, 100], ["list 2 in space from 101"], id="unknown starts are in the same list"),
            pytest.param([90, 6 * HOUR, 100], ["list 3 in space from 21601"], id="however old"),
        ],
    )
    def test_list_or_read_by_number_of_runs(self, ages, sent):
        assert requests([started(ago) for ago in ages]) == sent

    def test_each_workspace_has_its_own_list(self):
        due = [started(ago, flow) for flow in ("w", "v") for ago in (100, 90)]
        sent = requests(due, by_workflow={"w": "one", "v": "two"})
        assert sent == ["list 2 in one from 101", "list 2 in two from 101"]

    def test_unlisted_runs_are_read(self):
        assert requests([started(100, misses=2), started(90, misses=2)]) == ["read run-100", "read run-90"]

    def test_runs_without_a_usable_workspace_are_read(self):
        due = [started(100), started(90)]
        assert requests(due, closed={"space"}) == ["read run-100", "read run-90"]
        assert requests(due, by_workflow={}, closed={"w"}) == ["read run-100", "read run-90"]

    def test_runs_to_be_read_are_not_listed(self):
        due = [started(100, read_at=NOW), started(90), started(80)]
        assert requests(due) == ["read run-100", "list 2 in space from 91"]

    def test_list_continues_where_the_last_page_ended(self):
        assert requests([started(None, listed_to=NOW - 5), started(None, listed_to=NOW - 5)]) == [
            "list 2 in space from 5"
        ]

    def test_lists_include_runs_that_are_due_soon(self):
        near = [started(200, due=NOW + 4), started(80, due=NOW + 4)]
        assert requests([started(100)], near) == ["list 3 in space from 201"]
        assert requests([started(100)], [started(80, "v", due=NOW + 4)], by_workflow={"w": "one", "v": "two"}) == [
            "read run-100"
        ]


class TestWorkspaces:
    def test_each_unknown_workspace_is_requested_once(self):
        due = [started(100), started(90), started(80, "v")]
        assert requests(due, by_workflow={}) == ["find w for 2", "find v for 1"]

    def test_workspace_is_not_requested_for_a_single_run(self):
        assert requests([started(100)], by_workflow={}) == ["read run-100"]

    def test_workspace_requests_respect_the_rate_limit(self):
        due = [started(100), started(80, "v")]
        limits = Limits({WORKFLOW_BUCKET: 1}, delay=inf)
        assert requests(due, limits=limits, by_workflow={}) == ["find w for 1"]


class TestReads:
    def test_most_overdue_run_by_intervals_is_read_first(self):
        due = [
            started(1, interval=60.0, due=NOW - 30, misses=2),
            started(2, interval=10.0, due=NOW - 10, misses=2),
            started(3, interval=5.0, due=NOW - 1, misses=2),
        ]
        assert requests(due) == ["read run-2", "read run-1", "read run-3"]

    def test_reads_respect_rate_limit_and_max_reads(self):
        due = [started(ago, misses=2) for ago in range(10)]
        assert len(requests(due, limits=Limits({RUN_BUCKET: 3}))) == 3
        assert len(requests(due, max_reads=4)) == 4


class TestRateLimits:
    def test_runs_are_read_if_lists_are_rate_limited(self):
        due = [started(100), started(90)]
        assert requests(due, limits=Limits({LOGS_BUCKET: 0})) == ["read run-100", "read run-90"]

    @pytest.mark.parametrize("wait", [2.0, inf], ids=["soon", "after the response to another request"])
    def test_list_is_awaited_up_to_half_an_interval(self, wait):
        limits = Limits({LOGS_BUCKET: 0}, delay=wait)
        assert requests([started(100), started(90)], limits=limits) == []
        late = [started(100, due=NOW - 6), started(90, interval=60.0, due=NOW - 6)]
        assert requests(late, limits=limits) == ["read run-100"]

    def test_single_run_is_listed_if_reads_are_rate_limited(self):
        assert requests([started(100)], limits=Limits({RUN_BUCKET: 0})) == ["list 1 in space from 101"]


class TestApiVersions:
    def test_one_run_is_read_before_the_first_response(self):
        assert requests([started(100), started(90)], v2=None) == ["read run-100"]

    def test_runs_are_not_listed_without_v2(self):
        limits = Limits({RUN_BUCKET: 0})
        assert requests([started(100), started(90)], v2=False, limits=limits) == ["read run-100", "read run-90"]
