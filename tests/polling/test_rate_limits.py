"""Client-side rate limits."""

from __future__ import annotations

import asyncio
import heapq
from math import inf

import pytest

from airflow_provider_sim.client import ADDRESS_BUCKET, RUN_BUCKET, ClientSettings, RateLimit, RateLimitInfo
from airflow_provider_sim.emulator.clock import Clock as RealClock, iso
from airflow_provider_sim.emulator.limits import Bucket
from airflow_provider_sim.polling import RunPollState, rate_limits
from airflow_provider_sim.polling.rate_limits import (
    GROWTH_PAUSE,
    MAX_STARTING,
    RESPONSE_TIMEOUT,
    RETRY_PAUSE,
    STALE_AFTER,
    AddressLimit,
    RateLimits,
    RequestBucket,
    StartThrottle,
    rate_limits_for,
)

START = 1_800_000_000.0


class Clock(RealClock):
    """A clock that only :meth:`advance` moves."""

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


def response(left: int, *, limit: int = 60, reset: float = 60.0, retry_after: float | None = None) -> RateLimitInfo:
    """Headers of a response; ``reset`` in seconds after the start."""
    return RateLimitInfo(bucket="b", limit=limit, remaining=left, reset=START + reset, retry_after=retry_after)


class TestRequestBucket:
    @pytest.mark.parametrize(
        ("left", "seconds_to_reset", "room", "wait"),
        [
            pytest.param(60, 60, 15, 0, id="full: half of the level above a minute's refill"),
            pytest.param(32, 60, 1, 0, id="one above the line"),
            pytest.param(30, 60, 0, 2.51, id="on the line"),
            pytest.param(18, 30, 0, 2.51, id="half a minute"),
            pytest.param(20, 30, 1, 0, id="above the line"),
            pytest.param(12, 6, 1, 0, id="end of the minute"),
            pytest.param(6, 6, 0, 6.01, id="reserve"),
            pytest.param(3, 6, 0, 6.01, id="below the reserve"),
            pytest.param(0, 20, 0, 20.01, id="empty"),
            pytest.param(-1, 20, 0, 20.01, id="overdrawn"),
        ],
    )
    def test_available_requests_follow_the_bucket_level(self, clock, left, seconds_to_reset, room, wait):
        limit = RequestBucket(clock)
        limit.on_response(response(left, reset=seconds_to_reset))
        assert limit.room().available == room
        assert limit.room().delay == pytest.approx(wait, abs=0.01)

    def test_bucket_without_refills(self, clock):
        limit = RequestBucket(clock)
        limit.on_response(response(0, limit=0, reset=20))
        assert (limit.room().available, limit.room().delay) == (0, pytest.approx(20.01))

    def test_requests_are_available_after_the_delay(self, clock):
        for left in range(60):
            limit = RequestBucket(clock)
            limit.on_response(response(left, reset=clock() - START + 47.3))
            clock.advance(limit.room().delay)
            assert limit.room().available > 0 or limit.room().delay < 3, f"{left} left"

    def test_requests_in_flight_count(self, clock):
        limit = RequestBucket(clock)
        limit.on_response(response(38))
        assert limit.room().available == 4
        limit.on_request()
        limit.on_request()
        assert limit.room().available == 2
        limit.in_flight = 9
        assert (limit.room().available, limit.room().delay) == (0, inf), "a response must arrive first"

    def test_first_request_is_sent_alone(self, clock):
        limit = RequestBucket(clock)
        assert limit.room().available == 1
        limit.on_request()
        assert (limit.room().available, limit.room().delay) == (0, RESPONSE_TIMEOUT)
        clock.advance(RESPONSE_TIMEOUT)
        assert limit.room().available == 1, "the first one counts as lost"

    def test_stale_level_is_refreshed_by_one_request(self, clock):
        limit = RequestBucket(clock)
        limit.on_response(response(60))
        clock.advance(STALE_AFTER + 1)
        assert limit.room().available == 1

    def test_responses_may_arrive_out_of_order(self, clock):
        limit = RequestBucket(clock)
        limit.on_response(response(34))
        limit.on_response(response(50))
        assert limit.room().available == 2, "within a minute the level only falls"
        clock.advance(20)
        limit.on_response(response(50, reset=80))
        assert limit.room().available == 10, "another minute"

    def test_refill_is_assumed_without_a_response(self, clock):
        limit = RequestBucket(clock)
        limit.on_response(response(1, reset=10))
        assert limit.room().available == 0
        clock.advance(10)
        assert limit.room().available == 1, "31 left, of which 30 are this minute's"

    def test_retry_after_overrides_the_bucket_level(self, clock):
        limit = RequestBucket(clock)
        limit.on_response(response(60, retry_after=42))
        assert (limit.room().available, limit.room().delay) == (0, 42)
        clock.advance(42)
        limit.on_response(response(60, reset=102))
        assert limit.room().available == 15

    def test_unmetered_requests_wait_for_retry_after_only(self, clock):
        limit = RequestBucket(clock, metered=False)
        assert limit.room().available > 1000
        limit.on_response(RateLimitInfo(retry_after=5))
        assert (limit.room().available, limit.room().delay) == (0, 5)

    @pytest.mark.parametrize("per_minute", [30, 100, 500, 999_999])
    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_pollers_exhaust_a_bucket_without_a_429(self, clock, per_minute, processes):
        """Several processes that know each other only by the headers, and send as much as possible each second."""
        bucket = Bucket(per_minute, clock)
        limits = [RequestBucket(clock) for _ in range(processes)]
        sent = [0] * processes
        for _ in range(600):
            for number, limit in enumerate(limits):
                for _ in range(min(limit.room().available, 20)):
                    limit.on_request()
                    assert bucket.take(), "refused"
                    sent[number] += 1
                    limit.on_response(
                        RateLimitInfo(limit=bucket.capacity, remaining=bucket.remaining, reset=bucket.reset)
                    )
                    limit.in_flight -= 1
            clock.advance(1)
        if per_minute < 1000:
            assert sum(sent) >= 10 * per_minute * 0.95
            assert max(sent) <= 2.5 * min(sent)


class TestAddressLimit:
    def test_address_limit_has_a_burst_and_a_rate(self, clock):
        address = AddressLimit(clock, 0.5)
        assert address.room().available == 150
        for _ in range(150):
            address.on_request()
        assert (address.room().available, address.room().delay) == (0, pytest.approx(0.41))
        clock.advance(12)
        assert address.room().available == 30

    def test_no_burst_after_a_429(self, clock):
        address = AddressLimit(clock, 0.5)
        address.on_rejected(60)
        address.on_rejected(None)
        assert (address.room().available, address.room().delay) == (0, pytest.approx(60, abs=0.5))
        clock.advance(60)
        assert address.room().available == 0
        clock.advance(12)
        assert address.room().available == 30

    def test_all_v2_buckets_share_the_address_limit(self, clock):
        address = AddressLimit(clock, 0.5)
        limits, others = RateLimits(clock, address), RateLimits(clock, address)
        for _ in range(150):
            with limits.request("a"):
                pass
        assert others.room("b").available == 0
        assert others.room(None).available > 0, "the legacy API has no address limit"

    def test_address_429_closes_all_buckets(self, clock):
        limits = RateLimits(clock, AddressLimit(clock, 0.5))
        limits.on_response(RateLimitInfo(bucket="a", limit=60, remaining=0, reset=START + 30, retry_after=30))
        assert (limits.room("a").available, limits.room("b").available) == (0, 1)
        limits.on_response(
            RateLimitInfo(bucket=ADDRESS_BUCKET, limit=600, remaining=0, reset=START + 60, retry_after=60)
        )
        assert limits.room("b").available == 0


class TestServerClock:
    @pytest.mark.parametrize(
        ("resets", "ahead"),
        [
            pytest.param([60], 0, id="equal"),
            pytest.param([10, 59], 0, id="equal within a minute"),
            pytest.param([-100], 99, id="local clock ahead"),
            pytest.param([-100, -140], 139, id="later refills are more exact"),
            pytest.param([100], -40, id="local clock behind"),
            pytest.param([-1000, 60], 0, id="local clock set"),
        ],
    )
    def test_server_time_is_estimated_from_refills(self, clock, resets, ahead):
        limits = RateLimits(clock)
        for reset in resets:
            limits.on_response(RateLimitInfo(bucket="b", reset=START + reset))
        assert limits.server_now() == pytest.approx(START - ahead)


class TestRateLimitsFor:
    def test_rate_limits_are_shared_by_key_per_loop(self):
        settings = ClientSettings("k", "http://one", timeout=5)

        async def limits():
            first = rate_limits_for(settings)
            assert rate_limits_for(ClientSettings("k", "http://one", timeout=50)) is first
            return first, rate_limits_for(ClientSettings("other", "http://one"))

        first, other = asyncio.run(limits())
        assert first is not other
        assert asyncio.run(limits())[0] is not first

    def test_keys_share_the_address_limit(self):
        async def available():
            first, other, elsewhere = (
                rate_limits_for(ClientSettings(key, f"http://{host}"))
                for key, host in (("a", "x"), ("b", "x"), ("a", "y"))
            )
            for _ in range(150):
                with first.request("logs.list"):
                    pass
            return [limits.room("logs.list").available for limits in (first, other, elsewhere)]

        assert asyncio.run(available()) == [0, 0, 1]

    def test_entries_are_dropped_with_their_last_user(self):
        async def entries():
            limits = rate_limits_for(ClientSettings("secret-key", "http://one"))
            shared = rate_limits._shared[asyncio.get_running_loop()]
            assert "secret-key" not in repr(dict(shared))
            assert len(shared) == 3
            del limits
            return len(shared)

        assert asyncio.run(entries()) == 0


@pytest.fixture
def throttle(clock):
    return StartThrottle(clock, RateLimits(clock), lambda: None)


def start_runs(throttle, count):
    for _ in range(count):
        with throttle.start():
            throttle.on_accepted()


@pytest.fixture
def reached(throttle):
    """A limit of ten active runs, at which Sim has just rejected one more."""
    start_runs(throttle, 10)
    with throttle.start():
        throttle.on_concurrency_limit(5.0)
    return throttle


class TestConcurrentRuns:
    def test_few_concurrent_starts_while_the_limit_is_unknown(self, throttle):
        assert throttle.room() == (1, 0)
        start_runs(throttle, 12)
        assert throttle.room() == (4, 0)
        start_runs(throttle, 100)
        assert throttle.room() == (MAX_STARTING, 0)

    def test_operator_limit_caps_active_runs(self, throttle):
        throttle.maximum = 3
        start_runs(throttle, 3)
        assert throttle.room() == (0, inf)
        assert "3 active" in throttle.reason()
        throttle.active -= 1
        assert throttle.room() == (1, 0)
        assert throttle.reason() is None

    def test_rejection_sets_limit_to_active_runs(self, reached):
        assert (reached.known, reached.room().available) == (10, 0)
        assert "10 active" in reached.reason()
        reached.active -= 1
        assert reached.room() == (1, 0)

    def test_start_accepted_after_a_rejection_raises_the_limit(self, reached):
        with reached.start(), reached.start():
            reached.on_concurrency_limit(5.0)
            reached.on_accepted()
        assert reached.known == 11

    def test_limit_grows_run_by_run_after_a_pause(self, reached, clock):
        assert reached.room() == (0, GROWTH_PAUSE)
        clock.advance(GROWTH_PAUSE - 1)
        assert reached.room().available == 0
        clock.advance(1)
        for _ in range(20):
            assert reached.room() == (1, 0)
            with reached.start():
                assert reached.room() == (0, inf)
                reached.on_accepted()
        assert reached.active == reached.known == 30

    @pytest.mark.parametrize(("retry_after", "delay"), [(None, RETRY_PAUSE), (5.0, RETRY_PAUSE), (90.0, 90)])
    def test_rejection_without_active_runs_delays_the_next_start(self, throttle, clock, retry_after, delay):
        with throttle.start():
            throttle.on_concurrency_limit(retry_after)
        assert (throttle.known, throttle.room()) == (0, (0, delay))
        clock.advance(delay)
        assert throttle.room() == (1, 0)

    def test_known_limit_is_used_at_once(self, throttle):
        throttle.known = 10
        start_runs(throttle, 8)
        with throttle.start():
            assert throttle.room().available == 1


def usage(remaining, per_minute=50, reset=None):
    return RateLimit(
        is_limited=False,
        requests_per_minute=per_minute,
        max_burst=2 * per_minute,
        remaining=remaining,
        reset_at=None if reset is None else iso(reset),
    )


class TestExecutions:
    @pytest.fixture
    def throttle(self, throttle):
        """Many runs are active, so that other limits allow more."""
        start_runs(throttle, 100)
        return throttle

    def test_usage_report_minus_a_reserve_is_available(self, throttle, clock):
        assert throttle.report_is_stale
        throttle.on_report(usage(11, reset=clock() + 40))
        assert throttle.room().available == 6
        start_runs(throttle, 6)
        assert (throttle.room(), throttle.report_is_stale) == ((0, 40), False)
        assert "rate-limited" in throttle.reason()
        clock.advance(40)
        assert throttle.report_is_stale
        assert throttle.room() == (0, inf), "the report must be read first"

    def test_only_a_rejection_delays_starts_without_usage_report(self, throttle):
        throttle.on_report(None)
        assert throttle.room() == (MAX_STARTING, 0)
        throttle.on_execution_limit(None)
        assert throttle.room() == (0, 30.0)
        throttle.on_execution_limit(42.0)
        assert throttle.room() == (0, 42.0)

    @pytest.mark.parametrize("reset", [None, 0.0, 1e10])
    def test_delay_is_at_most_a_minute(self, throttle, reset):
        throttle.on_report(usage(0, reset=reset))
        assert 0 < throttle.room().delay <= 60

    def test_server_without_limits_does_not_delay_starts(self, throttle):
        throttle.on_report(usage(999_999, 999_999))
        assert throttle.room() == (MAX_STARTING, 0)


class TestStartRequests:
    @pytest.fixture
    def throttle(self, clock):
        return StartThrottle(clock, RateLimits(clock), lambda: "workflows.execute")

    def test_first_start_is_sent_alone(self, throttle):
        assert throttle.room() == (1, 0)
        with throttle.start():
            assert (throttle.room().available, throttle.reason()) == (0, None)

    def test_starts_leave_a_reserve_in_the_bucket(self, clock, throttle):
        headers = {"bucket": "workflows.execute", "limit": 60, "reset": clock() + 60}
        with throttle.start():
            throttle.limits.on_response(RateLimitInfo(remaining=31, **headers))
            throttle.on_accepted()
        assert throttle.room() == (1, 0)
        throttle.limits.on_response(RateLimitInfo(remaining=20, **headers))
        assert throttle.room().available == 0
        assert 0 < throttle.room().delay < 60
        assert "rate-limited" in throttle.reason()

    def test_pause_delays_the_next_start(self, throttle):
        throttle.pause(20)
        assert throttle.room() == (0, 20)
        assert "paused" in throttle.reason()


def poll_from_workers(clock, workers, seconds, per_minute=30):
    """Poll adaptively from workers that know of each other only by headers; return the polls of each."""
    bucket, polls = Bucket(per_minute, clock), [0] * workers
    limits = [RateLimits(clock) for _ in range(workers)]
    states = [RunPollState("w", f"r{number}", clock=clock) for number in range(workers)]
    due = [(clock() + 1 + number / 10, number) for number in range(workers)]
    for number, state in enumerate(states):
        state.bucket = limits[number].bucket(RUN_BUCKET)
    end = clock() + seconds
    while due[0][0] < end:
        moment, number = heapq.heappop(due)
        clock.moment = moment
        assert bucket.take(), f"refused after {moment - START:.0f} s"
        polls[number] += 1
        limits[number].on_response(
            RateLimitInfo(bucket=RUN_BUCKET, limit=bucket.capacity, remaining=bucket.remaining, reset=bucket.reset)
        )
        heapq.heappush(due, (moment + states[number].next_delay(), number))
    return polls


class TestReadDelay:
    @pytest.mark.parametrize("workers", [1, 3, 10, 20])
    @pytest.mark.parametrize("seconds", [60, 600])
    def test_workers_share_a_bucket_without_a_429(self, clock, workers, seconds):
        polls = poll_from_workers(clock, workers, seconds)
        assert sum(polls) >= min(20, 30 * seconds / 60 / 2)
        assert max(polls) <= 3 * min(polls)

    def test_single_worker_is_not_slowed_down(self, clock):
        [polls] = poll_from_workers(clock, 1, 60)
        assert polls >= 20

    def test_other_buckets_and_unlimited_servers_cause_no_delay(self, clock):
        limits = RateLimits(clock)
        limits.on_response(response(0))
        assert limits.bucket(RUN_BUCKET).read_delay() == 0.0
        limits.on_response(RateLimitInfo(bucket=RUN_BUCKET, limit=999_999, remaining=999_990, reset=clock() + 60))
        assert limits.bucket(RUN_BUCKET).read_delay() < 0.01

    def test_low_bucket_delays_until_its_reset(self, clock):
        limits = RateLimits(clock)
        limits.on_response(RateLimitInfo(bucket=RUN_BUCKET, limit=60, remaining=5, reset=clock() + 42))
        assert limits.bucket(RUN_BUCKET).read_delay() == 42
