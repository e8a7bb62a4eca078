"""How many requests are left to send, as the clock moves and answers come in."""

from __future__ import annotations

from math import inf

import pytest

from airflow_provider_sim.client.api.http import ADDRESS_BUCKET
from airflow_provider_sim.client.models import RateLimitInfo
from airflow_provider_sim.emulator.clock import Clock as RealClock
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.polling.rate_limits import (
    PROBE_PATIENCE,
    STALE_AFTER,
    AddressBudget,
    Budget,
    Budgets,
    ServerClock,
)

START = 1_800_000_000.0


class Clock(RealClock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.moment = START

    def now(self) -> float:
        return self.moment

    def __call__(self) -> float:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(left: int, *, limit: int = 60, reset: float = 60.0, retry_after: float | None = None) -> RateLimitInfo:
    """What an answer says; ``reset`` in seconds after the start."""
    return RateLimitInfo(bucket="b", limit=limit, remaining=left, reset=START + reset, retry_after=retry_after)


class TestBucket:
    @pytest.mark.parametrize(
        ("left", "seconds_to_reset", "room", "wait"),
        [
            pytest.param(60, 60, 15, 0, id="full: half of what is above a minute's refill"),
            pytest.param(32, 60, 1, 0, id="one above the line"),
            pytest.param(30, 60, 0, 2.51, id="on the line: until it has come down by one"),
            pytest.param(18, 30, 0, 2.51, id="half a minute, half a refill"),
            pytest.param(20, 30, 1, 0, id="a little more"),
            pytest.param(12, 6, 1, 0, id="the minute is nearly over: what it has left may go"),
            pytest.param(6, 6, 0, 6.01, id="the reserve stays"),
            pytest.param(3, 6, 0, 6.01, id="until the refill"),
            pytest.param(0, 20, 0, 20.01, id="empty: until the refill"),
            pytest.param(-1, 20, 0, 20.01, id="overdrawn"),
        ],
    )
    def test_the_line(self, clock, left, seconds_to_reset, room, wait):
        budget = Budget(clock)
        budget.told(told(left, reset=seconds_to_reset))
        assert budget.room() == room
        assert budget.wait() == pytest.approx(wait, abs=0.01)

    def test_a_bucket_that_is_never_filled(self, clock):
        budget = Budget(clock)
        budget.told(told(0, limit=0, reset=20))
        assert (budget.room(), budget.wait()) == (0, pytest.approx(20.01))

    def test_waiting_as_long_as_it_says_makes_room(self, clock):
        for left in range(60):
            budget = Budget(clock)
            budget.told(told(left, reset=clock() - START + 47.3))
            clock.advance(budget.wait())
            assert budget.room() > 0 or budget.wait() < 3, f"{left} left: at most the few seconds after a refill"

    def test_what_is_in_flight_counts(self, clock):
        budget = Budget(clock)
        budget.told(told(38))
        assert budget.room() == 4
        budget.sent()
        budget.sent()
        assert budget.room() == 2
        budget.in_flight = 9
        assert (budget.room(), budget.wait()) == (0, inf), "an answer comes first"

    def test_nothing_is_known_at_first_so_one_goes_ahead(self, clock):
        budget = Budget(clock)
        assert budget.room() == 1
        budget.sent()
        assert (budget.room(), budget.wait()) == (0, PROBE_PATIENCE)
        clock.advance(PROBE_PATIENCE)
        assert budget.room() == 1, "that one hangs"

    def test_what_was_told_long_ago_is_asked_anew_by_one(self, clock):
        budget = Budget(clock)
        budget.told(told(60))
        clock.advance(STALE_AFTER + 1)
        assert budget.room() == 1

    def test_answers_that_overtake_each_other(self, clock):
        budget = Budget(clock)
        budget.told(told(34))
        budget.told(told(50))
        assert budget.room() == 2, "within a minute a bucket only empties"
        clock.advance(20)
        budget.told(told(50, reset=80))
        assert budget.room() == 10, "another minute"

    def test_the_refill_needn_t_be_told(self, clock):
        budget = Budget(clock)
        budget.told(told(1, reset=10))
        assert budget.room() == 0
        clock.advance(10)
        assert budget.room() == 1, "31 left, of which 30 are this minute's"

    def test_retry_after_goes_before_everything(self, clock):
        budget = Budget(clock)
        budget.told(told(60, retry_after=42))
        assert (budget.room(), budget.wait()) == (0, 42)
        clock.advance(42)
        budget.told(told(60, reset=102))
        assert budget.room() == 15

    def test_what_nobody_meters(self, clock):
        budget = Budget(clock, metered=False)
        assert budget.room() > 1000
        budget.told(RateLimitInfo(retry_after=5))
        assert (budget.room(), budget.wait()) == (0, 5)

    @pytest.mark.parametrize("per_minute", [30, 100, 500, 999_999])
    @pytest.mark.parametrize("watchers", [1, 2, 3])
    def test_greedy_watchers_never_overdraw_a_real_bucket_and_use_it(self, clock, per_minute, watchers):
        """They see each other only in what answers say, and send whatever they may, each second."""
        bucket = Bucket(per_minute, clock)
        budgets = [Budget(clock) for _ in range(watchers)]
        sent = [0] * watchers
        for _ in range(600):
            for number, budget in enumerate(budgets):
                for _ in range(min(budget.room(), 20)):
                    budget.sent()
                    assert bucket.take(), "refused"
                    sent[number] += 1
                    budget.told(RateLimitInfo(limit=bucket.capacity, remaining=bucket.remaining, reset=bucket.reset))
                    budget.in_flight -= 1
            clock.advance(1)
        if per_minute < 1000:
            assert sum(sent) >= 10 * per_minute * 0.95
            assert max(sent) <= 2.5 * min(sent)


class TestAddress:
    def test_a_share_at_once_and_then_as_time_passes(self, clock):
        address = AddressBudget(clock)
        assert address.room() == 150
        for _ in range(150):
            address.sent()
        assert (address.room(), address.wait()) == (0, pytest.approx(0.41))
        clock.advance(12)
        assert address.room() == 30

    def test_a_refusal_halves_it_and_time_heals(self, clock):
        address = AddressBudget(clock)
        address.refused(RateLimitInfo(retry_after=60))
        address.refused(RateLimitInfo(retry_after=60))
        assert (address.room(), address.wait()) == (0, pytest.approx(60, abs=0.1))
        clock.advance(60)
        assert 75 <= address.room() <= 90
        clock.advance(600)
        assert address.room() == 150

    def test_it_is_spent_by_every_bucket_s_requests(self, clock):
        address = AddressBudget(clock)
        budgets, others = Budgets(clock, address), Budgets(clock, address)
        for _ in range(150):
            with budgets.sending("a"):
                pass
        assert others.room("b") == 0
        assert others.room(None) > 0, "not by the legacy API's"

    def test_its_refusal_is_told_from_a_bucket_s_own(self, clock):
        budgets = Budgets(clock, AddressBudget(clock))
        budgets.told(RateLimitInfo(bucket="a", limit=60, remaining=0, reset=START + 30, retry_after=30))
        assert (budgets.room("a"), budgets.room("b")) == (0, 1)
        budgets.told(RateLimitInfo(bucket=ADDRESS_BUCKET, limit=600, remaining=0, reset=START + 60, retry_after=60))
        assert budgets.room("b") == 0


class TestServerClock:
    @pytest.mark.parametrize(
        ("resets", "ahead"),
        [
            pytest.param([60], 0, id="as ours"),
            pytest.param([10, 59], 0, id="nothing against ours"),
            pytest.param([-100], 99, id="ours is ahead: a refill is never past"),
            pytest.param([-100, -140], 139, id="as told better"),
            pytest.param([100], -40, id="ours is behind: a refill is never more than a minute away"),
            pytest.param([-1000, 60], 0, id="ours was set right meanwhile"),
        ],
    )
    def test_told_by_refills(self, clock, resets, ahead):
        server = ServerClock(clock)
        for reset in resets:
            server.told(START + reset)
        assert server.now() == pytest.approx(START - ahead)
