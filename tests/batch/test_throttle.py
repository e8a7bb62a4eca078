"""When the next run may be started."""

from __future__ import annotations

from contextlib import ExitStack
from math import inf

import pytest

from airflow_provider_sim.batch.throttle import (
    MOST_STARTING,
    PROBE_AFTER,
    PROBE_SELDOM,
    ConcurrencySlots,
    ExecutionLimit,
    Throttle,
)
from airflow_provider_sim.client.models import RateLimit, RateLimitInfo
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.polling.rate_limits import Budgets


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


def fill(slots, count):
    for _ in range(count):
        with slots.start():
            slots.began()


def full(clock):
    """Ten runs go on, and Sim has just refused one more."""
    slots = ConcurrencySlots(clock)
    fill(slots, 10)
    with slots.start():
        slots.refused(5.0)
    return slots


class TestSlots:
    def test_few_starts_are_under_way_at_once_as_long_as_the_limit_is_not_known(self, clock):
        slots = ConcurrencySlots(clock)
        assert slots.room() == 1
        fill(slots, 12)
        assert slots.room() == 4
        fill(slots, 100)
        assert slots.room() == MOST_STARTING

    def test_the_author_s_limit_is_kept(self, clock):
        slots = ConcurrencySlots(clock, most=3)
        fill(slots, 3)
        assert (slots.room(), slots.wait()) == (0, inf)
        slots.ended()
        assert slots.room() == 1

    def test_a_refusal_tells_how_many_may_go_on(self, clock):
        slots = full(clock)
        assert slots.known == 10
        assert slots.room() == 0
        slots.ended()
        assert slots.room() == 1, "a run's end makes room at once"

    def test_a_start_that_was_under_way_and_is_taken_corrects_it(self, clock):
        slots = ConcurrencySlots(clock)
        fill(slots, 40)
        with slots.start(), slots.start():
            slots.refused(5.0)
            slots.began()
        assert slots.known == 41

    def test_from_time_to_time_one_more_is_tried_and_less_often_with_each_refusal(self, clock):
        slots = full(clock)
        pauses = []
        for _ in range(10):
            pauses.append(slots.wait())
            clock.time += slots.wait()
            assert slots.room() == 1
            with slots.start():
                assert slots.room() == 0, "one at a time"
                slots.refused(5.0)
        assert pauses[0] == PROBE_AFTER
        assert pauses[1:5] == [10.0, 20.0, 40.0, 80.0]
        assert pauses[-1] == PROBE_SELDOM

    def test_what_others_have_left_is_taken_run_by_run(self, clock):
        slots = full(clock)
        clock.time += 5
        for _ in range(20):
            assert slots.room() == 1
            fill(slots, 1)
        assert slots.active == slots.known == 30

    def test_one_more_that_was_let_in_for_one_that_had_ended_unseen_is_no_larger_limit(self, clock):
        slots = full(clock)
        clock.time += 5
        fill(slots, 1)  # one of the ten has ended meanwhile
        assert slots.known == 11
        slots.ended()
        assert (slots.known, slots.active) == (10, 10)

    def test_where_others_take_all_it_is_tried_after_the_time_that_sim_names(self, clock):
        slots = ConcurrencySlots(clock)
        with slots.start():
            slots.refused(30.0)
        assert (slots.known, slots.room(), slots.wait()) == (0, 0, 30.0)
        clock.time += 30
        assert slots.room() == 1


def usage(remaining, per_minute=50, reset=None):
    return RateLimit(
        is_limited=False, requests_per_minute=per_minute, max_burst=2 * per_minute, remaining=remaining, reset_at=reset
    )


class TestExecutions:
    def test_as_many_as_the_report_says_but_for_a_share_of_others(self, clock):
        executions = ExecutionLimit(clock)
        assert executions.wants_report
        executions.told(usage(20), clock() + 40)
        assert executions.room() == 15
        for _ in range(15):
            executions.sent()
        assert (executions.room(), executions.wait(), executions.wants_report) == (0, 40, False)
        clock.time += 40
        assert executions.wants_report
        assert executions.wait() == inf, "the report comes first"

    def test_without_a_report_only_a_refusal_holds_them_up(self, clock):
        executions = ExecutionLimit(clock)
        executions.told(None, None)
        assert executions.room() == inf
        executions.refused(None)
        assert (executions.room(), executions.wait()) == (0, 30.0)
        executions.refused(42.0)
        assert executions.wait() == 42.0

    @pytest.mark.parametrize("reset", [None, 0.0, 1e12])
    def test_whatever_the_clocks_say_it_waits_for_no_longer_than_a_minute(self, clock, reset):
        executions = ExecutionLimit(clock)
        executions.told(usage(0), reset)
        assert 0 < executions.wait() <= 60

    def test_the_report_of_a_server_without_limits_is_no_limit(self, clock):
        executions = ExecutionLimit(clock)
        executions.told(usage(999_999, 999_999), None)
        assert executions.room() > 500_000


class TestAll:
    @pytest.fixture
    def pace(self, clock):
        return Throttle(Budgets(clock), bucket=lambda: "workflows.execute", clock=clock)

    def test_the_first_start_goes_alone(self, pace):
        assert pace.room() == 1
        with pace.start():
            assert pace.room() == 0

    def test_the_bucket_of_requests_counts_before_it_is_empty(self, pace, clock):
        with pace.start():
            pace.told(RateLimitInfo(bucket="workflows.execute", limit=60, remaining=31, reset=clock() + 60))
            pace.slots.began()
        assert pace.room() == 1
        pace.told(RateLimitInfo(bucket="workflows.execute", limit=60, remaining=20, reset=clock() + 60))
        assert pace.room() == 0
        assert 0 < pace.wait() < 60
        assert pace.reason() == "for the limit of requests"

    def test_a_rest_is_a_rest(self, pace, clock):
        pace.rest(20)
        assert (pace.room(), pace.wait(), pace.reason()) == (0, 20, "for Sim to have time")

    def test_what_it_waits_for_is_said(self, clock):
        pace = Throttle(Budgets(clock), bucket=lambda: None, clock=clock, most=2)
        assert pace.reason() is None
        with ExitStack() as starting:
            starting.enter_context(pace.start())
            pace.slots.began()
        fill(pace.slots, 1)
        assert pace.reason() == "for one of 2 runs to end"
        pace = Throttle(Budgets(clock), bucket=lambda: None, clock=clock, known=0)
        pace.slots.refused(5)
        assert pace.reason() == "for other runs to end"

    def test_what_was_learnt_goes_on(self, clock):
        pace = Throttle(Budgets(clock), bucket=lambda: None, clock=clock, known=10)
        fill(pace.slots, 9)
        assert pace.room() == 1


def test_batches_on_one_loop_share_budgets(monkeypatch):
    import asyncio

    from airflow_provider_sim.batch import throttle

    settings, other = (ClientSettings(key, "http://one") for key in ("k", "other"))

    async def ask():
        assert throttle.budgets_of(settings) is throttle.budgets_of(settings)
        return throttle.budgets_of(settings), throttle.budgets_of(other)

    first, second = asyncio.run(ask())
    assert first is not second
    assert asyncio.run(ask())[0] is not first
