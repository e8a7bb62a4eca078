"""Which requests a look sends, for runs here and there and whatever else goes on."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from airflow_provider_sim.client.dialects.v2 import LOGS_BUCKET, RUN_BUCKET, RUNS_BUCKET, WORKFLOW_BUCKET
from airflow_provider_sim.client.models import RunStatus
from airflow_provider_sim.watch.plan import Crowd, Doubt, Known, LookUp, Read, Scan, Target, plan

NOW = 1_000_000.0
OLD = 6 * 3600.0


class Rates:
    """Room for any number of requests, but for what is said.

    :param room: by bucket, how many; :param wait: seconds until there is more.
    """

    def __init__(self, wait: float = 30.0, **room: int) -> None:
        self._room = {LOGS_BUCKET: room.get("logs", 1000), RUN_BUCKET: room.get("reads", 1000)}
        self._room |= {RUNS_BUCKET: room.get("lists", 1000), WORKFLOW_BUCKET: room.get("look_ups", 1000)}
        self._wait = wait

    def room(self, bucket: str | None) -> int:
        return 1000 if bucket is None else self._room[bucket]

    def wait(self, bucket: str | None) -> float:
        return 0.0 if self.room(bucket) else self._wait


def target(ago: float | None = 0.0, **facts: Any) -> Target:
    """A run that started so many seconds ago; None for one that nobody has seen."""
    since, began = (NOW - 20, None) if ago is None else (-inf, NOW - ago)
    given = {"workflow_id": "w", "interval": 10.0, "due": NOW, "status": None if began is None else RunStatus.RUNNING}
    return Target(run_id=f"run-{ago}", since=since, began=began, **{**given, **facts})


def known(*, others: list[tuple[float, float, int]] = (), **facts: Any) -> Known:
    """A server whose workspace is known.

    :param others: stretches in which so many runs started: from and to, in seconds ago.
    """
    found = Known(**{"speaks_v2": True, "workspaces": {"w": "space", "v": "space"}, **facts})
    for first, last, count in others:
        found.crowds["space"].learn(NOW - first, NOW - last, count, count)
    return found


def steps(due: list[Target], server: Known, *, near: Any = (), wanted: Any = (), rates: Any = None, most: int = 1000):
    """What is sent, in words."""
    chosen = plan(due, near, wanted, server, rates or Rates(), now=NOW, server_now=NOW, most_reads=most)
    return [_words(step) for step in chosen.steps]


def _words(step: Any) -> str:
    match step:
        case Read(one):
            return f"read {one.run_id}"
        case LookUp(workflow_id, concerned):
            return f"look up {workflow_id} for {len(concerned)}"
        case Scan(into_the_past=True):
            return f"seek {len(step.targets)} before {NOW - step.end:.0f}"
        case Scan():
            place = "log" if step.listed is None else " ".join(step.listed)
            end = "now" if step.end is None else f"{NOW - step.end:.0f}"
            return f"{place} for {len(step.targets)} from {NOW - step.targets[0].earliest:.0f} to {end}"


class TestRoutes:
    @pytest.mark.parametrize(
        ("ages", "others", "sent"),
        [
            pytest.param([100], [], ["read run-100"], id="one run: its own resource"),
            pytest.param([100, 90], [], ["log for 2 from 101 to 89"], id="two: the log"),
            pytest.param([None], [], ["read run-None"], id="one that nobody has seen"),
            pytest.param([None, 100], [], ["log for 2 from 101 to now"], id="with one that nobody has seen"),
            pytest.param(
                [OLD, 100, 90], [], ["log for 3 from 21601 to 89"], id="nothing is known of what lies between"
            ),
            pytest.param(
                [OLD, 100, 90], [(OLD, 0, 900)], ["log for 3 from 21601 to 89"], id="less than a page lies between"
            ),
            pytest.param(
                ["old", 100, 90],
                [(OLD, 0, 20_000)],
                ["read run-21600.0", "log for 2 from 101 to 89"],
                id="more than a page lies between",
            ),
            pytest.param(
                ["old", OLD - 10, 100, 90],
                [(OLD, 0, 20_000)],
                ["log for 2 from 21601 to 21589", "log for 2 from 101 to 89"],
                id="two old ones",
            ),
            pytest.param(
                ["old", OLD - 10, 100, 90],
                [(OLD - 3600, OLD - 7200, 20_000)],
                ["log for 2 from 21601 to 21589", "log for 2 from 101 to 89"],
                id="a burst lies between",
            ),
            pytest.param(
                ["old", 100, 90],
                [(1200, 0, 1000)],
                ["read run-21600.0", "log for 2 from 101 to 89"],
                id="as many as elsewhere are taken to lie where nothing is known",
            ),
            pytest.param([1, 2], [(5, 0, 50_000)], ["read run-1", "read run-2"], id="a crowd all around"),
            pytest.param(
                list(range(1000, 16_000, 1000)),
                [(16_000, 0, 40_000)],
                ["w running for 15 from 15001 to 999"],
                id="one here, one there: by their status",
            ),
            pytest.param(
                [*range(2000, 16_000, 1000), *range(100, 80, -1)],
                [(16_000, 0, 40_000)],
                ["w running for 14 from 15001 to 1999", "log for 20 from 101 to 80"],
                id="the old ones by their status, the young ones by the log",
            ),
        ],
    )
    def test_the_cheapest_is_taken(self, ages, others, sent):
        due = [target(OLD, workflow_id="v") if age == "old" else target(age) for age in ages]
        assert sorted(steps(due, known(others=others))) == sorted(sent)

    def test_lists_by_status_where_the_workspace_isn_t_known(self):
        due = [target(100), target(90), target(80, status=RunStatus.PAUSED), target(None)]
        server = known(workspaces={}, closed={"w": inf})
        assert steps(due, server) == ["w running for 2 from 101 to 89", "read run-None", "read run-80"]

    def test_a_status_that_is_found_to_be_crowded_is_left_alone_for_a_while(self):
        due = [target(age) for age in range(1000, 16_000, 1000)]
        server = known(others=[(16_000, 0, 40_000)])
        server.others["w", RunStatus.RUNNING] = (5000, NOW - 10)
        assert steps(due, server)[0].startswith("read")
        server.others["w", RunStatus.RUNNING] = (5000, NOW - 400)
        assert steps(due, server) == ["w running for 15 from 15001 to 999"]

    def test_runs_that_are_nearly_due_come_along(self):
        near = [target(80, due=NOW + 4), target(8000, due=NOW + 4)]
        server = known(others=[(10_000, 0, 20_000)])
        assert steps([target(100)], server, near=near) == ["log for 2 from 101 to 79"]

    def test_what_is_in_no_list_is_read(self):
        assert steps([target(100, unlisted=True), target(90, unlisted=True)], known()) == [
            "read run-100",
            "read run-90",
        ]

    def test_each_workspace_has_its_own_log(self):
        due = [target(age, workflow_id=flow) for flow in ("w", "v") for age in (100, 90)]
        server = known(workspaces={"w": "one", "v": "two"})
        assert steps(due, server) == ["log for 2 from 101 to 89"] * 2


class TestLookUps:
    def test_once_for_each_workflow_where_lists_may_help(self):
        due = [target(100), target(90), target(80, workflow_id="v")]
        assert steps(due, known(workspaces={})) == ["look up w for 2", "look up v for 1"]

    def test_not_for_a_single_run(self):
        assert steps([target(100)], known(workspaces={})) == ["read run-100"]

    def test_the_rest_waits_for_its_turn(self):
        due = [target(100), target(80, workflow_id="v")]
        assert steps(due, known(workspaces={}), rates=Rates(look_ups=1, wait=inf)) == ["look up w for 1"]


class TestReads:
    def test_the_most_pressing_first(self):
        wanted = [
            target(age, read_at=NOW, doubt=doubt)
            for age, doubt in ((1, Doubt.QUEUED), (2, Doubt.PAUSED), (3, Doubt.ENDED), (4, Doubt.LOST))
        ]
        assert steps([], known(), wanted=wanted) == ["read run-3", "read run-2", "read run-4", "read run-1"]

    def test_fair_to_short_and_long_intervals(self):
        due = [
            target(1, interval=60.0, due=NOW - 30, unlisted=True),
            target(2, interval=10.0, due=NOW - 10, unlisted=True),
            target(3, interval=5.0, due=NOW - 1, unlisted=True),
        ]
        assert steps(due, known()) == ["read run-2", "read run-1", "read run-3"]

    def test_as_many_as_there_is_room_for(self):
        due = [target(age, unlisted=True) for age in range(10)]
        assert len(steps(due, known(), rates=Rates(reads=3))) == 3
        assert len(steps(due, known(), most=4)) == 4

    def test_runs_missed_by_the_dozen_are_looked_for_further_back(self):
        wanted = [target(None, until=NOW - 50, read_at=NOW, doubt=Doubt.LOST) for _ in range(12)]
        assert steps([], known(), wanted=wanted) == ["seek 12 before 50"]
        assert steps([], known(), wanted=wanted[:2]) == ["read run-None"] * 2
        assert steps([], known(), wanted=wanted, rates=Rates(logs=0)) == ["read run-None"] * 12


class TestScarcity:
    def test_another_route_where_one_is_closed_for_long(self):
        due = [target(100), target(90)]
        assert steps(due, known(), rates=Rates(logs=0)) == ["read run-100", "read run-90"]
        assert steps([target(100)], known(), rates=Rates(reads=0)) == ["log for 1 from 101 to 99"]

    @pytest.mark.parametrize("wait", [2.0, inf], ids=["soon", "an answer comes first"])
    def test_a_short_wait_where_it_opens_soon(self, wait):
        chosen = plan(
            [target(100), target(90)],
            [],
            [],
            known(),
            Rates(logs=0, wait=wait),
            now=NOW,
            server_now=NOW,
            most_reads=9,
        )
        assert chosen == ([], {LOGS_BUCKET})


class TestDialects:
    def test_one_read_finds_out(self):
        assert steps([target(100), target(90)], known(speaks_v2=None)) == ["read run-100"]

    def test_without_v2_there_are_no_lists(self):
        assert steps([target(100), target(90)], known(speaks_v2=False)) == ["read run-100", "read run-90"]


class TestCrowd:
    def test_what_was_told(self):
        crowd = Crowd()
        crowd.learn(100, 200, 50, 50)
        assert crowd.between(100, 200) == 50
        assert crowd.between(150, 200) == 25
        assert crowd.between(200, 100) == 0

    def test_elsewhere_as_many_as_are_known_that_nobody_watches(self):
        crowd = Crowd()
        assert crowd.between(0, 1000) == 0
        crowd.learn(100, 200, 50, 10)
        assert crowd.between(0, 200) == 50 + 10
        assert crowd.between(150, 300) == 25 + 10

    def test_news_replace_what_was_known(self):
        crowd = Crowd()
        crowd.learn(0, 100, 100, 100)
        crowd.learn(100, 200, 100, 100)
        crowd.learn(50, 150, 0, 0)
        assert [crowd.between(start, start + 50) for start in (0, 50, 100, 150)] == [50, 0, 0, 50]
        crowd.learn(0, 300, 7, 7)
        assert crowd.between(0, 300) == 7

    def test_it_stays_small(self):
        crowd = Crowd()
        for number in range(5000):
            crowd.learn(number, number + 1, 2 if number < 4900 else 3, 2)
        assert len(crowd._known) <= 512
        assert crowd.between(0, 5000) == pytest.approx(10_100)
        assert crowd.between(4000, 4500) == pytest.approx(1000)
        assert crowd.between(4899, 4901) == pytest.approx(5), "the recent is known best"
