"""Batches with the limits of plans and with faults, in virtual time."""

from __future__ import annotations

import asyncio
import itertools

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from airflow_provider_sim.batch.engine import STARTING_ON_WORKER, UNANSWERED_ON_WORKER
from airflow_provider_sim.batch.state import BatchState, ItemStatus
from airflow_provider_sim.exceptions import (
    SimAuthenticationError,
    SimConnectionError,
    SimInputError,
    SimNotFoundError,
    SimRunTimeoutError,
    SimServerError,
    SimUsageLimitError,
    SimWorkflowNotDeployedError,
)
from tests.batch.conftest import BATCH, BatchScene, is_start
from tests.virtual_time import now, run

DOWN = {"error": {"code": "SERVICE_UNAVAILABLE", "message": "down"}}


def start_requests(wanted):
    """Return a filter for requests that start a run, by their number from 1."""
    numbers = itertools.count(1)
    return lambda request: is_start(request) and wanted(next(numbers))


def few_executions():
    """A hundred inputs, and a plan with twenty executions a minute."""
    scene = BatchScene(100, 1.0, plan="enterprise")
    scene.sim.state.limits.async_per_minute = 20
    scene.sim.state.limits.clear()
    return scene


class TestLimits:
    @pytest.mark.parametrize(
        ("plan", "count", "seconds", "ideal"),
        [
            pytest.param("free", 200, 30, 10.0, id="free: ten at once"),
            pytest.param("free", 200, 1, 170 / 30, id="free: thirty requests a minute"),
            pytest.param("pro", 1000, 60, 20.0, id="pro: fifty at once", marks=pytest.mark.slow),
            pytest.param("team", 1500, 60, 1500 / 200, id="team: two hundred at once", marks=pytest.mark.slow),
            pytest.param(
                "enterprise", 1500, 60, 1500 / 240, id="enterprise: the address's requests", marks=pytest.mark.slow
            ),
            pytest.param(None, 1500, 10, 1500 / 240, id="self-hosted: the address's requests", marks=pytest.mark.slow),
        ],
    )
    def test_full_use_of_every_plan_with_few_rejections(self, plan, count, seconds, ideal):
        async def main():
            scene = BatchScene(count, seconds, plan=plan)
            await scene.run()
            scene.assert_each_ran_once()
            assert scene.state.to_dict()["statuses"] == f"c*{count}"
            assert scene.minutes < 1.15 * ideal + 1.0
            assert scene.burnt <= 15
            assert scene.sim.refused == scene.burnt, "no bucket of requests was ever empty"

        run(main())

    @pytest.mark.parametrize(
        ("plan", "count", "ideal"),
        [
            pytest.param("free", 300, 200 / 50, id="free"),
            pytest.param("pro", 1000, 700 / 150, id="pro", marks=pytest.mark.slow),
            pytest.param(None, 2000, 0.5, id="self-hosted", marks=pytest.mark.slow),
        ],
    )
    def test_legacy_limits_come_from_the_usage_report(self, plan, count, ideal):
        async def main():
            scene = BatchScene(count, 1.0, plan=plan, profile="v0.8-legacy")
            await scene.run()
            scene.assert_each_ran_once()
            assert scene.minutes < 1.2 * ideal + 1.5
            refusals = [found.refused for found in scene.sim.state.runs.values() if found.refused]
            assert not [words for words in refusals if words.startswith("Rate limit")]
            assert len(refusals) <= 15

        run(main())

    def test_execution_limit_below_request_limit_is_respected(self, stats):
        async def main():
            scene = few_executions()
            await scene.run()
            scene.assert_each_ran_once()
            assert scene.burnt == 0
            assert scene.minutes < 5.5
            return 60 * scene.minutes

        seconds = run(main())
        assert seconds / 2 < sum(stats.timers["sim.rate_limit.wait"]) < seconds
        assert stats.counters["sim.run.started"] == stats.counters["sim.run.finished.completed"] == 100

    def test_batch_finishes_without_a_usage_report(self):
        async def main():
            scene = few_executions()
            scene.sim.refuse("usage-limits", status=500)
            await scene.run()
            scene.assert_each_ran_once()
            assert 0 < scene.burnt < 40

        run(main())

    def test_max_active_runs_caps_concurrent_runs(self, stats):
        async def main():
            scene = BatchScene(40, 20)
            await scene.run(maximum=7)
            scene.assert_each_ran_once()
            assert scene.most_at_once == 7
            assert not stats.timers
            assert scene.minutes < 40 / 7 * 30 / 60 + 1

        run(main())

    def test_batch_finishes_beside_other_runs_of_the_account(self):
        async def main():
            scene = BatchScene(200, 30, plan="free")
            for number in range(8):
                other = scene.sim.start("other", f"other-{number}", seconds=300)
                scene.sim.state._active[other.run_id] = other
            await scene.run()
            scene.assert_each_ran_once()
            assert scene.minutes < 5 + 200 / 20 + 6
            assert scene.burnt <= 30

        run(main())

    def test_several_batches_share_one_account(self):
        async def main():
            scenes = [BatchScene(60, 10, plan="free")]
            first = scenes[0]
            for number in (1, 2):
                scene = BatchScene(60, 10)
                scene.sim, scene.state = first.sim, BatchState(f"airflow-{number}", scene.workflows)
                scene.new_process()
                scenes.append(scene)
            await asyncio.gather(*(scene.run() for scene in scenes))
            assert sum(found.refused is None for found in first.sim.state.runs.values()) == 180
            assert first.minutes < 180 / 30 + 4

        run(main())

    @pytest.mark.slow
    def test_ten_thousand_inputs_need_few_other_requests(self):
        async def main():
            scene = BatchScene(10_000, 0.0, profile="v0.8")
            await scene.run()
            scene.assert_each_ran_once()
            starts = scene.sim.sent("/execute")
            assert starts == 10_000
            assert scene.sim.sent() - starts < 400, "looks at the runs, in lists of a thousand, and usage reports"

        run(main())

    def test_known_concurrency_limit_avoids_rejections(self):
        async def main():
            scene = BatchScene(40, 30, plan="free")
            await scene.run(known=10)
            assert scene.burnt <= 4

        run(main())


class TestPersistence:
    def test_attempt_is_persisted_before_it_is_sent(self):
        async def main():
            scene = BatchScene(60, 30, plan="free")
            at_start = []

            def look(found):
                index, attempt = scene.state.parse_run_id(found.run_id)
                noted = BatchState.from_dict(scene.persisted[-1]).attempts[index] if scene.persisted else 1
                at_start.append((attempt, noted))

            scene.sim.state.start_listeners.append(look)
            await scene.run()
            assert max(at_start) > (1, 1)
            assert all(attempt == noted for attempt, noted in at_start)

        run(main())


class TestStartAvailable:
    @pytest.mark.slow
    def test_start_available_stops_at_the_concurrency_limit(self):
        async def main():
            scene = BatchScene(100, 600, plan="free")
            engine = scene.engine()
            await engine.start_available()
            assert (scene.state.count(ItemStatus.ACTIVE), scene.state.count(ItemStatus.UNSENT)) == (10, 90)
            assert scene.minutes < 0.1
            assert engine.throttle.known == 10
            await engine.run()
            scene.assert_each_ran_once()

        run(main())

    def test_start_available_starts_all_without_a_limit(self):
        async def main():
            scene = BatchScene(100, 600)
            await scene.engine().start_available()
            assert scene.state.to_dict()["statuses"] == "a*100"

        run(main())

    @pytest.mark.parametrize(
        "plan", ["free", *(pytest.param(plan, marks=pytest.mark.slow) for plan in ("pro", "team", "enterprise")), None]
    )
    def test_start_available_ends_after_a_few_seconds(self, plan):
        async def main():
            earlier = BatchScene(400, 1, plan=plan)
            await earlier.engine(deadline=now() + 30).start_available()
            earlier.state = BatchState("airflow-b2", earlier.workflows)
            began = now()
            await earlier.engine().start_available()
            assert now() - began <= STARTING_ON_WORKER
            assert earlier.state.count(ItemStatus.SENT) == 0

        run(main())

    def test_starts_without_a_response_are_abandoned(self):
        async def main():
            scene = BatchScene(20, 30)
            answer = scene.sim._answer

            async def hang_from_the_fifth(request):
                response = await answer(request)
                if len(scene.runs) > 4:
                    await asyncio.sleep(1e9)
                return response

            scene.client.transport = httpx.MockTransport(hang_from_the_fifth)
            await scene.engine().start_available()
            assert scene.minutes <= (STARTING_ON_WORKER + UNANSWERED_ON_WORKER + 2) / 60
            assert scene.state.count(ItemStatus.SENT) == 0
            scene.new_process()
            await scene.reconcile()
            await scene.run()
            scene.assert_each_ran_once(completed=True)

        run(main())


class TestFaults:
    @pytest.mark.slow
    def test_batch_survives_a_short_outage(self):
        async def main():
            scene = BatchScene(300, 20, plan="pro")
            until = now() + 240
            scene.sim.fault = lambda request: httpx.Response(503, json=DOWN) if 60 < now() - scene.began < 240 else None
            await scene.run()
            assert now() > until
            scene.assert_each_ran_once(completed=True)

        run(main())

    def test_long_outage_fails_the_batch(self):
        async def main():
            scene = BatchScene(300, 20, plan="pro")

            def gone(request):
                if now() - scene.began > 60:
                    raise httpx.ConnectError("gone", request=request)

            scene.sim.fault = gone
            with pytest.raises(SimConnectionError):
                await scene.run()
            assert 5 < scene.minutes < 20
            assert scene.state.count(ItemStatus.ACTIVE, ItemStatus.UNSENT) > 100

        run(main())

    def test_failing_starts_stop_starting(self):
        async def main():
            scene = BatchScene(50, 120)
            scene.sim.fault = lambda request: (
                httpx.Response(503, json=DOWN) if is_start(request) and scene.sim.sent("/execute") > 20 else None
            )
            engine = await scene.run()
            assert isinstance(engine.stopped, SimServerError)
            assert scene.state.count(ItemStatus.COMPLETED) == len(scene.runs)
            assert scene.state.count(ItemStatus.UNSENT) == 50 - len(scene.runs)

        run(main())

    @pytest.mark.parametrize("profile", ["v0.8", "v0.8-legacy"])
    def test_lost_responses_start_no_run_twice(self, profile):
        async def main():
            scene = BatchScene(100, 5, profile=profile)
            scene.lose = start_requests(lambda number: number % 3 == 0)
            await scene.run()
            scene.assert_each_ran_once(completed=True)

        run(main())

    def test_lost_response_fails_the_input_if_server_chooses_ids(self):
        async def main():
            scene = BatchScene(10, 5, profile="v0.6.40")
            scene.lose = start_requests(lambda number: number == 5)
            await scene.run()
            assert scene.state.count(ItemStatus.COMPLETED) == 9
            assert scene.state.count(ItemStatus.REFUSED) == 1

        run(main())

    def test_run_that_is_not_found_fails_its_input(self):
        async def main():
            scene = BatchScene(3, 50)
            engine = scene.engine()
            await engine.start_available()
            scene.sim.forget(scene.runs[1])
            await engine.run()
            assert scene.state.to_dict()["statuses"] == "c r c"
            assert "no such run" in scene.state.reasons.get(1)

        run(main())


class TestNonRetryableErrors:
    def test_invalid_input_fails_alone(self):
        async def main():
            scene = BatchScene(5, 1)
            scene.sim.fault = lambda request: (
                httpx.Response(400, json={"error": {"code": "BAD_REQUEST", "message": "not so"}})
                if is_start(request) and b'"index":2' in request.content
                else None
            )
            engine = await scene.run()
            assert scene.state.to_dict()["statuses"] == "c*2 r c*2"
            assert "not so" in scene.state.reasons.get(2)
            assert isinstance(engine.rejection, SimInputError)

        run(main())

    def test_missing_workflow_fails_its_inputs(self):
        async def main():
            scene = BatchScene(100, 1, workflow_of=lambda index: "nowhere" if index % 2 else "w")
            engine = await scene.run()
            assert scene.state.count(ItemStatus.COMPLETED) == scene.state.count(ItemStatus.REFUSED) == 50
            assert isinstance(engine.rejection, SimNotFoundError)
            assert scene.sim.sent("nowhere/execute") < 10

        run(main())

    @pytest.mark.parametrize("skip", [True, False])
    def test_undeployed_workflow_fails_or_skips_its_inputs(self, skip):
        async def main():
            scene = BatchScene(20, 1, workflow_of=lambda index: "undeployed" if index % 2 else "w")
            engine = await scene.run(skip_undeployed=skip)
            assert scene.state.count(ItemStatus.SKIPPED if skip else ItemStatus.REFUSED) == 10
            assert (engine.rejection is None) if skip else isinstance(engine.rejection, SimWorkflowNotDeployedError)

        run(main())

    def test_usage_limit_stops_starting(self):
        async def main():
            scene = BatchScene(40, 30, plan="pro")
            scene.sim.state.limits.usage_limit = 0.1
            engine = await scene.run()
            assert isinstance(engine.stopped, SimUsageLimitError)
            done = scene.state.count(ItemStatus.COMPLETED)
            assert 15 < done < 30
            assert scene.state.count(ItemStatus.UNSENT) == 40 - done

        run(main())

    def test_invalid_key_is_sent_once(self):
        async def main():
            scene = BatchScene(40, 30)
            scene.client.set_api_key("sk-sim-wrong")
            engine = await scene.run()
            assert isinstance(engine.stopped, SimAuthenticationError)
            assert scene.sim.sent() == 1
            assert scene.runs == []

        run(main())


class TestDeadline:
    def test_deadline_ends_the_batch(self):
        async def main():
            scene = BatchScene(100, 90, plan="free")
            with pytest.raises(SimRunTimeoutError, match="10 of 100 runs were still running, and 70 not started"):
                await scene.run(deadline=now() + 200)
            assert scene.state.to_dict()["statuses"] == "c*20 a*10 u*70"
            assert scene.minutes < 200 / 60 + 1

        run(main())

    def test_last_poll_is_at_the_deadline(self):
        async def main():
            scene = BatchScene(5, 95)
            await scene.run(deadline=now() + 100, poll_interval=60)
            assert scene.state.is_finished

        run(main())

    def test_hanging_requests_are_abandoned_at_the_deadline(self):
        async def main():
            scene = BatchScene(5, 30)

            async def hang(request):
                await asyncio.sleep(1e9 if request.method == "GET" else 0.0)

            answer = scene.sim._answer

            async def slow(request):
                await hang(request)
                return await answer(request)

            for client in (scene.client, scene.poller._client):
                client.transport = httpx.MockTransport(slow)
            with pytest.raises(SimRunTimeoutError):
                await scene.run(deadline=now() + 60)
            assert scene.minutes < 10

        run(main())


class TestPauses:
    @pytest.mark.parametrize("on_paused", ["fail", "return"])
    def test_pause_ends_polling_if_not_awaited(self, on_paused):
        async def main():
            scene = BatchScene(20, 5, how=lambda index: {"end": "paused"} if index % 10 == 3 else {})
            await scene.run(on_paused=on_paused)
            assert [index for index in range(20) if scene.state.statuses[index] is ItemStatus.PAUSED] == [3, 13]
            assert scene.state.count(ItemStatus.COMPLETED) == 18

        run(main())

    def test_pauses_are_awaited_during_other_runs(self):
        async def main():
            scene = BatchScene(60, 5, plan="free", how=lambda index: {"end": "paused"} if index < 10 else {})
            waiting = asyncio.create_task(scene.run())
            await asyncio.sleep(1800)
            assert scene.state.count(ItemStatus.COMPLETED) == 50, "paused runs take no place in the plan for ever"
            for found in scene.runs:
                if found.status == "paused":
                    found.resume({})
            await waiting
            scene.assert_each_ran_once()

        run(main())


class TestCrashes:
    """A process dies at any moment; another continues with the persisted state or only the batch ID."""

    @staticmethod
    async def die_and_go_on(
        scene: BatchScene, moments: list[float], *, knows: str, workspace_id: str | None = "space", rerun: bool = False
    ) -> None:
        for moment in moments:
            task = asyncio.create_task(scene.run())
            await asyncio.sleep(moment)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if knows == "the ID":
                scene.state = BatchState(BATCH, scene.workflows)
            elif knows == "the persisted state":
                persisted = scene.persisted[-1] if scene.persisted else BatchState(BATCH, scene.workflows).to_dict()
                scene.state = BatchState.from_dict(persisted)
            else:
                scene.state = BatchState.from_dict(scene.state.to_dict())
            scene.new_process()
            await scene.reconcile(rerun=rerun, workspace_id=workspace_id)
        await scene.run()

    @pytest.mark.slow
    @given(
        moments=st.lists(st.floats(0.0, 400.0), min_size=1, max_size=4),
        plan=st.sampled_from(["free", "pro", None]),
        profile=st.sampled_from(["v0.8", "v0.8-legacy"]),
        knows=st.sampled_from(["the ID", "the persisted state", "all"]),
        workspace_id=st.sampled_from(["space", None]),
        seconds=st.sampled_from([0.0, 5.0, 60.0]),
        queued=st.sampled_from([0.0, 15.0]),
        lost=st.sampled_from([0, 4]),
    )
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_every_input_runs_once(self, moments, plan, profile, knows, workspace_id, seconds, queued, lost):
        async def main():
            scene = BatchScene(40, seconds, plan=plan, profile=profile)
            scene.sim.state.queue_delay = queued
            scene.lose = start_requests(lambda number: lost > 0 and number % lost == 0)
            await self.die_and_go_on(scene, moments, knows=knows, workspace_id=workspace_id)
            scene.assert_each_ran_once(completed=True)
            assert {scene.state.parse_run_id(found.run_id)[0]: found.run_id for found in scene.runs} == {
                index: scene.state.run_id(index) for index in range(40)
            }

        run(main())

    @pytest.mark.parametrize("knows", ["the ID", "the persisted state", "all"])
    @pytest.mark.parametrize("profile", ["v0.8", "v0.8-legacy"])
    def test_failed_runs_are_rerun_by_the_next_try_only(self, knows, profile):
        async def main(rerun):
            scene = BatchScene(30, 5, profile=profile, how=lambda index: {"end": "failed"} if index in (3, 4) else {})
            await self.die_and_go_on(scene, [500.0], knows=knows, rerun=rerun)
            return scene

        kept = run(main(rerun=False))
        kept.assert_each_ran_once()
        assert kept.state.to_dict()["statuses"] == "c*3 f*2 c*25"
        again = run(main(rerun=True))
        assert again.started[3] == again.started[4] == 2
        assert again.started.total() == 32
        assert again.state.run_id(3) == f"{BATCH}-3.2"

    @pytest.mark.slow
    def test_reconciliation_takes_a_request_per_thousand_runs(self):
        async def main():
            scene = BatchScene(2500, 1.0)
            scene.limits._starts._maximum = scene.limits._starts._rate = 1e9
            await scene.run()
            scene.state = BatchState(BATCH, scene.workflows)
            scene.new_process()
            before = scene.sim.sent()
            await scene.reconcile()
            assert scene.state.to_dict()["statuses"] == "c*2500"
            assert scene.sim.sent() - before == 3

        run(main())

    def test_reconciliation_ends_after_started_runs_without_lists(self):
        async def main():
            scene = BatchScene(1000, 600, profile="v0.8-legacy")
            engine = scene.engine(maximum=100)
            await engine.start_available()
            scene.state = BatchState(BATCH, scene.workflows)
            scene.new_process()
            before = scene.sim.sent()
            await scene.reconcile()
            assert scene.state.to_dict()["statuses"] == "a*100 u*900"
            assert scene.sim.sent() - before < 140

        run(main())
