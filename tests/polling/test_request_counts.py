"""Number of requests for polling runs, counted at the emulator in virtual time."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from tests.polling.conftest import together

INTERVALS = {"often": 10, "seldom": 60}
FLOWS = [f"flow-{number}" for number in range(10)]


@pytest.mark.slow
def test_thousand_runs_share_few_requests(play):
    """One poller for each run would send 60,000 requests."""

    async def script(scene):
        scene.sim.deploy(*FLOWS)

        async def one(number):
            await asyncio.sleep(number / 50)
            started = scene.sim.start(FLOWS[number % 10], f"run-{number}", 300)
            await scene.wait(started, interval=5)

        await together(*(one(number) for number in range(1000)))

    scene = play(script)
    assert len(scene.delays) == 1000
    assert max(scene.delays.values()) < 5.1
    assert scene.sim.sent() < 90
    assert scene.sim.sent("/runs/") == 1, "only the first request, which detects the API version"


@pytest.mark.slow
@pytest.mark.parametrize(
    "ago",
    [
        pytest.param(lambda number: 21_600 * number / 20_000, id="spread over six hours"),
        pytest.param(lambda number: 21_590 + number / 1000, id="around the old run's start"),
        pytest.param(lambda number: 300 * number / 20_000, id="in the last five minutes"),
    ],
)
def test_old_run_among_twenty_thousand_others(play, ago):
    """All belong to the same ten workflows, so that no filter excludes them."""

    async def script(scene):
        scene.sim.deploy(*FLOWS)
        scene.sim.crowd(FLOWS, 20_000, ago)
        old = scene.sim.start(FLOWS[0], "old", 6 * 3600 + 60, ago=6 * 3600)

        async def one(number):
            await asyncio.sleep(number / 100)
            await scene.wait(scene.sim.start(FLOWS[number % 10], f"run-{number}", 30), interval=5)

        await together(scene.wait(old, interval=5), *(one(number) for number in range(1000)))

    scene = play(script)
    assert max(scene.delays.values()) < 5.1
    first, *others = scene.ticks
    assert max(others) <= 3
    assert first <= 20, "includes the workspace of each of ten workflows"


@pytest.mark.slow
def test_old_runs_spread_among_twenty_thousand(play):
    """370 other runs have started between any two of them, so that a page contains two or three."""

    async def script(scene):
        scene.sim.deploy("flow")
        scene.sim.crowd(["flow"], 20_000, lambda number: 21_600 * number / 20_000)
        old = [scene.sim.start("flow", f"old-{n}", 21_600 - n * 400 + 60, ago=21_600 - n * 400) for n in range(50)]
        await together(*(scene.wait(started) for started in old))

    scene = play(script)
    assert max(scene.delays.values()) < 10.1
    assert max(scene.ticks) < 30, "fewer than reading each of the 50 runs"


def test_one_run_takes_one_read_per_interval(play):
    async def script(scene):
        scene.sim.deploy("flow")
        await scene.wait(scene.sim.start("flow", "run", 58), interval=10)

    scene = play(script)
    assert scene.ticks == [1] * 6
    assert scene.sim.sent("/flow/runs/run") == 6


def test_different_intervals_share_requests(play):
    """Polls of short intervals answer for the others; no run is polled less often than its interval."""

    async def script(scene):
        scene.sim.deploy("flow")
        intervals = [10, 20, 30, 60, 300] * 20
        starts = [scene.sim.start("flow", f"run-{number}", 295) for number in range(100)]
        await together(*(scene.wait(started, interval=every) for started, every in zip(starts, intervals, strict=True)))

    scene = play(script)
    assert max(scene.delays.values()) < 10.1
    assert scene.sim.sent() <= 2 + 30


def test_intervals_are_kept_without_lists(play):
    async def script(scene):
        scene.sim.deploy("often", "seldom")
        scene.sim.refuse("/logs?")
        await together(
            *(scene.wait(scene.sim.start(name, name, 600), interval=every) for name, every in INTERVALS.items())
        )

    scene = play(script)
    assert scene.sim.sent("/often/runs/often") == 60
    assert scene.sim.sent("/seldom/runs/seldom") == 10


@pytest.mark.parametrize(
    ("plan", "runs"),
    [
        pytest.param("free", 10, id="free"),
        pytest.param("pro", 50, id="pro"),
        pytest.param("team", 200, id="team", marks=pytest.mark.slow),
        pytest.param("enterprise", 1000, id="enterprise", marks=pytest.mark.slow),
        pytest.param(None, 2000, id="self-hosted", marks=pytest.mark.slow),
    ],
)
def test_full_concurrency_of_every_plan_without_429(play, plan, runs):
    """No 429, and each end is seen within two intervals while workers read their runs, too."""

    async def script(scene):
        scene.sim.deploy(*FLOWS)
        worker = scene.sim.client(api_version="v2")

        async def one(number):
            await asyncio.sleep(number * 60 / runs)
            for again in range(2 if runs <= 200 else 1):
                started = scene.sim.start(FLOWS[number % 10], f"run-{number}-{again}", 61 + number % 30)
                if runs <= 200:  # more requests than a server accepts from one address
                    await worker.get_workflow_run(started.workflow_id, started.run_id)
                await scene.wait(started)
                if runs <= 200:
                    await worker.get_workflow_run(started.workflow_id, started.run_id)

        await together(*(one(number) for number in range(runs)))
        await worker.close()

    scene = play(script, plan=plan)
    assert scene.sim.refused == 0
    assert len(scene.delays) == runs * (2 if runs <= 200 else 1)
    assert max(scene.delays.values()) <= 20


def test_restarted_triggerer_finds_its_runs_in_few_lists(play):
    """A thousand runs of unknown age, and a hundred unrelated ones."""

    async def script(scene):
        scene.sim.deploy(*FLOWS)
        starts = [
            scene.sim.start(FLOWS[number % 10], f"run-{number}", 7300 - number, ago=7200 - number)
            for number in range(1000)
        ]
        for number in range(100):
            scene.sim.start(FLOWS[0], f"other-{number}", 1, ago=100 - number)
        await together(*(scene.wait(started) for started in starts))

    scene = play(script)
    assert max(scene.delays.values()) < 10.1
    assert scene.sim.sent("/runs/") <= 5
    assert scene.sim.sent() < 60


@pytest.mark.slow
def test_runs_are_read_with_few_concurrent_requests_without_v2(play):
    async def script(scene):
        scene.sim.deploy(*FLOWS)
        in_flight = most = 0

        def fault(request):
            nonlocal in_flight, most
            in_flight += 1
            most = max(most, in_flight)
            asyncio.get_running_loop().call_soon(done)

        def done():
            nonlocal in_flight
            in_flight -= 1

        scene.sim.fault = fault
        starts = [scene.sim.start(FLOWS[number % 10], f"run-{number}", 25) for number in range(500)]
        await together(*(scene.wait(started) for started in starts))
        assert most <= 24

    scene = play(script, profile="v0.8-legacy")
    assert scene.sim.sent("/api/v2/") <= 1
    assert max(scene.delays.values()) < 12
    assert scene.sim.sent() <= 1 + 500 * 3


@pytest.mark.parametrize("processes", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 3])
def test_several_processes_with_one_key_cause_no_429(play, processes):
    """20 runs without lists, every 10 s, are 120 reads a minute; the plan allows 30."""

    async def script(scene):
        scene.sim.deploy(*FLOWS)
        scene.sim.refuse("/logs?", "/runs?")
        watchers = [scene.another_watcher() for _ in range(processes)]

        async def one(number):
            await asyncio.sleep(number * 0.7)
            started = scene.sim.start(FLOWS[number % 10], f"run-{number}", 600 + number)
            await scene.wait(started, poller=watchers[number % processes])

        await together(*(one(number) for number in range(20)))

    scene = play(script, plan="free")
    assert scene.sim.refused == 0
    assert max(scene.delays.values()) < 60, "20 runs with 30 reads a minute take 40 s"
    assert scene.sim.sent("/runs/") > 300, "all that the plan allows is used"


@pytest.mark.parametrize(
    ("plan", "runs"),
    [
        pytest.param("free", 10, id="free"),
        pytest.param("pro", 50, id="pro"),
        pytest.param(None, 500, id="self-hosted", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("seconds", [5, pytest.param(90, marks=pytest.mark.slow)])
def test_adaptive_intervals_of_many_runs(play, plan, runs, seconds):
    """Each end is seen within a tenth of the run's age, as far as the plan allows, and without a 429."""

    async def script(scene):
        scene.sim.deploy(*FLOWS)

        async def one(number):
            await asyncio.sleep(number * 30 / runs)
            await scene.wait(scene.sim.start(FLOWS[number % 10], f"run-{number}", seconds), interval=None)

        await together(*(one(number) for number in range(runs)))

    scene = play(script, plan=plan)
    assert scene.sim.refused == 0
    assert len(scene.delays) == runs
    assert max(scene.delays.values()) <= 2.5 + seconds / 10
    assert scene.sim.sent() < (110 if seconds == 5 else 180)


@pytest.mark.parametrize(("plan", "median"), [(None, 1.0), ("team", 1.0), ("free", 6.0)])
def test_many_runs_are_polled_more_often_than_each_alone(play, plan, median):
    """A run of three minutes alone is polled every 16 s; 200 share a list every second, or as the plan allows."""

    async def script(scene):
        scene.sim.deploy("flow")
        starts = [scene.sim.start("flow", f"run-{number}", 90 + number * 0.8) for number in range(200)]
        await together(*(scene.wait(started, interval=None) for started in starts))

    scene = play(script, plan=plan)
    assert scene.sim.refused == 0
    assert statistics.median(scene.delays.values()) < median
    assert scene.sim.sent() <= 240, "little more than one for each run"


def test_adaptive_intervals_of_one_run(play):
    async def script(scene):
        scene.sim.deploy("flow")
        await scene.wait(scene.sim.start("flow", "run", 58), interval=None)

    scene = play(script, plan="free")
    assert scene.sim.refused == 0
    assert scene.sim.sent() < 40
    assert scene.delays["run"] < 6.5


def test_runs_of_known_duration_are_not_polled_early(play):
    """After the first run, nothing is requested before the others can be finished."""
    sent = []

    async def script(scene):
        scene.sim.deploy("flow")

        async def one(number):
            started = scene.sim.start("flow", f"run-{number}", 20)
            await scene.wait(started, interval=None, workspace_id="space", base_url="http://known-durations")

        await one(0)
        sent.append(scene.sim.sent())

        async def later(number):
            await asyncio.sleep(number * 0.4)
            await one(number)

        await together(*(later(number) for number in range(1, 11)))

    scene = play(script)
    [first] = sent
    assert first > 10
    assert scene.sim.sent() - first <= 4
    assert max(scene.delays[f"run-{number}"] for number in range(1, 11)) <= 2.5
