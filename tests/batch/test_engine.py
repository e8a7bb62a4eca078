"""Batches under real limits and real faults, in virtual time."""

from __future__ import annotations

import asyncio
import itertools

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def those_starts(wanted):
    """A choice of requests: those that start a run, if their number, from 1, is ``wanted``."""
    numbers = itertools.count(1)
    return lambda request: is_start(request) and wanted(next(numbers))


def few_executions():
    """A hundred inputs, and a plan that has twenty executions a minute for them."""
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
    def test_each_plan_is_used_to_the_full_and_refuses_next_to_nothing(self, plan, count, seconds, ideal):
        async def main():
            scene = BatchScene(count, seconds, plan=plan)
            await scene.run()
            scene.assert_each_ran_once()
            assert scene.journal.written()["standings"] == f"c*{count}"
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
    def test_the_old_api_s_plans_are_read_in_the_usage_report(self, plan, count, ideal):
        async def main():
            scene = BatchScene(count, 1.0, plan=plan, profile="v0.8-legacy")
            await scene.run()
            scene.assert_each_ran_once()
            assert scene.minutes < 1.2 * ideal + 1.5
            refusals = [found.refused for found in scene.sim.state.runs.values() if found.refused]
            assert not [words for words in refusals if words.startswith("Rate limit")]
            assert len(refusals) <= 15

        run(main())

    def test_a_plan_s_executions_are_minded_where_they_are_fewer_than_its_requests(self):
        async def main():
            scene = few_executions()
            await scene.run()
            scene.assert_each_ran_once()
            assert scene.burnt == 0
            assert scene.minutes < 5.5

        run(main())

    def test_without_a_usage_report_refusals_teach(self):
        async def main():
            scene = few_executions()
            scene.sim.refuse("usage-limits", status=500)
            await scene.run()
            scene.assert_each_ran_once()
            assert 0 < scene.burnt < 40

        run(main())

    def test_the_author_s_limit_is_kept(self):
        async def main():
            scene = BatchScene(40, 20)
            await scene.run(maximum=7)
            scene.assert_each_ran_once()
            assert scene.most_at_once == 7
            assert scene.minutes < 40 / 7 * 30 / 60 + 1

        run(main())

    def test_runs_of_others_make_it_slower_and_their_ends_faster_again(self):
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

    def test_several_batches_on_one_account_settle(self):
        async def main():
            scenes = [BatchScene(60, 10, plan="free")]
            first = scenes[0]
            for number in (1, 2):
                scene = BatchScene(60, 10)
                scene.sim, scene.journal = first.sim, BatchState(f"airflow-{number}", 60)
                scene.new_process()
                scenes.append(scene)
            await asyncio.gather(*(scene.run() for scene in scenes))
            assert sum(found.refused is None for found in first.sim.state.runs.values()) == 180
            assert first.minutes < 180 / 30 + 4

        run(main())

    @pytest.mark.slow
    def test_ten_thousand(self):
        async def main():
            scene = BatchScene(10_000, 0.0, profile="v0.8")
            await scene.run()
            scene.assert_each_ran_once()
            starts = scene.sim.sent("/execute")
            assert starts == 10_000
            assert scene.sim.sent() - starts < 400, "looks at the runs, in lists of a thousand, and usage reports"

        run(main())

    def test_what_was_learnt_saves_the_next_process_from_learning_it(self):
        async def main():
            scene = BatchScene(40, 30, plan="free")
            await scene.run(known=10)
            assert scene.burnt <= 4

        run(main())


class TestWrittenDown:
    def test_an_attempt_is_before_it_is_sent(self):
        async def main():
            scene = BatchScene(60, 30, plan="free")
            at_start = []

            def look(found):
                index, attempt = scene.journal.read_id(found.run_id)
                noted = BatchState.read(scene.written_down[-1]).attempt(index) if scene.written_down else 1
                at_start.append((attempt, noted))

            scene.sim.state.start_listeners.append(look)
            await scene.run()
            assert max(at_start) > (1, 1)
            assert all(attempt == noted for attempt, noted in at_start)

        run(main())


class TestStartingWhatFits:
    @pytest.mark.slow
    def test_as_many_as_sim_takes_at_once_and_waits_for_none(self):
        async def main():
            scene = BatchScene(100, 600, plan="free")
            engine = scene.engine()
            await engine.start_what_fits()
            assert scene.journal.written()["standings"] == "a*10 u*90"
            assert scene.minutes < 0.1
            assert scene.throttle.concurrency.known == 10
            await engine.run()
            scene.assert_each_ran_once()

        run(main())

    def test_all_of_them_where_it_takes_all(self):
        async def main():
            scene = BatchScene(100, 600)
            await scene.engine().start_what_fits()
            assert scene.journal.written()["standings"] == "a*100"

        run(main())

    @pytest.mark.parametrize(
        "plan", ["free", *(pytest.param(plan, marks=pytest.mark.slow) for plan in ("pro", "team", "enterprise")), None]
    )
    def test_the_rest_is_left_after_a_few_seconds(self, plan):
        async def main():
            earlier = BatchScene(400, 1, plan=plan)
            await earlier.engine(deadline=now() + 30).start_what_fits()
            earlier.journal = BatchState("airflow-b2", 400)
            began = now()
            await earlier.engine().start_what_fits()
            assert now() - began <= STARTING_ON_WORKER
            assert earlier.journal.count(ItemStatus.SENT) == 0

        run(main())

    def test_starts_without_a_response_are_left(self):
        async def main():
            scene = BatchScene(20, 30)
            answer = scene.sim._answer

            async def hang_from_the_fifth(request):
                response = await answer(request)
                if len(scene.runs) > 4:
                    await asyncio.sleep(1e9)
                return response

            scene.client.transport = httpx.MockTransport(hang_from_the_fifth)
            await scene.engine().start_what_fits()
            assert scene.minutes <= (STARTING_ON_WORKER + UNANSWERED_ON_WORKER + 2) / 60
            assert scene.journal.count(ItemStatus.SENT) == 0
            scene.new_process()
            await scene.survey()
            await scene.run()
            scene.assert_each_ran_once(completed=True)

        run(main())


class TestFaults:
    @pytest.mark.slow
    def test_an_outage_costs_time(self):
        async def main():
            scene = BatchScene(300, 20, plan="pro")
            until = now() + 240
            scene.sim.fault = lambda request: httpx.Response(503, json=DOWN) if 60 < now() - scene.began < 240 else None
            await scene.run()
            assert now() > until
            scene.assert_each_ran_once(completed=True)

        run(main())

    def test_a_server_that_is_gone_is_given_up_and_the_runs_with_it(self):
        async def main():
            scene = BatchScene(300, 20, plan="pro")

            def gone(request):
                if now() - scene.began > 60:
                    raise httpx.ConnectError("gone", request=request)

            scene.sim.fault = gone
            with pytest.raises(SimConnectionError):
                await scene.run()
            assert 5 < scene.minutes < 20
            assert scene.journal.count(ItemStatus.ACTIVE, ItemStatus.UNSENT) > 100

        run(main())

    def test_starts_that_fail_although_runs_can_be_seen_stop_the_starting(self):
        async def main():
            scene = BatchScene(50, 120)
            scene.sim.fault = lambda request: (
                httpx.Response(503, json=DOWN) if is_start(request) and scene.sim.sent("/execute") > 20 else None
            )
            engine = await scene.run()
            assert isinstance(engine.stopped, SimServerError)
            assert scene.journal.count(ItemStatus.COMPLETED) == len(scene.runs)
            assert scene.journal.count(ItemStatus.UNSENT) == 50 - len(scene.runs)

        run(main())

    @pytest.mark.parametrize("profile", ["v0.8", "v0.8-legacy"])
    def test_lost_answers_start_nothing_twice(self, profile):
        async def main():
            scene = BatchScene(100, 5, profile=profile)
            scene.lose = those_starts(lambda number: number % 3 == 0)
            await scene.run()
            scene.assert_each_ran_once(completed=True)

        run(main())

    def test_where_the_server_chooses_ids_a_lost_answer_is_that_input_s_failure(self):
        async def main():
            scene = BatchScene(10, 5, profile="v0.6.40")
            scene.lose = those_starts(lambda number: number == 5)
            await scene.run()
            assert scene.journal.count(ItemStatus.COMPLETED) == 9
            assert scene.journal.count(ItemStatus.REFUSED) == 1

        run(main())

    def test_a_run_that_sim_has_forgotten_is_lost(self):
        async def main():
            scene = BatchScene(3, 50)
            engine = scene.engine()
            await engine.start_what_fits()
            scene.sim.forget(scene.runs[1])
            await engine.run()
            assert scene.journal.written()["standings"] == "c r c"
            assert "no such run" in scene.journal.why(1)

        run(main())


class TestWhatCanNotBeMended:
    def test_an_input_that_sim_refuses_is_that_input_s_failure(self):
        async def main():
            scene = BatchScene(5, 1)
            scene.sim.fault = lambda request: (
                httpx.Response(400, json={"error": {"code": "BAD_REQUEST", "message": "not so"}})
                if is_start(request) and b'"index":2' in request.content
                else None
            )
            engine = await scene.run()
            assert scene.journal.written()["standings"] == "c*2 r c*2"
            assert "not so" in scene.journal.why(2)
            assert isinstance(engine.refusal, SimInputError)

        run(main())

    def test_a_workflow_that_is_not_there_is_asked_for_once(self):
        async def main():
            scene = BatchScene(100, 1, workflow_of=lambda index: "nowhere" if index % 2 else "w")
            engine = await scene.run()
            assert scene.journal.count(ItemStatus.COMPLETED) == scene.journal.count(ItemStatus.REFUSED) == 50
            assert isinstance(engine.refusal, SimNotFoundError)
            assert scene.sim.sent("nowhere/execute") < 10

        run(main())

    @pytest.mark.parametrize("skip", [True, False])
    def test_one_that_is_not_deployed_may_be_skipped(self, skip):
        async def main():
            scene = BatchScene(20, 1, workflow_of=lambda index: "undeployed" if index % 2 else "w")
            engine = await scene.run(skip_undeployed=skip)
            assert scene.journal.count(ItemStatus.SKIPPED if skip else ItemStatus.REFUSED) == 10
            assert (engine.refusal is None) if skip else isinstance(engine.refusal, SimWorkflowNotDeployedError)

        run(main())

    def test_money_that_runs_out_stops_the_starting_and_not_the_runs(self):
        async def main():
            scene = BatchScene(40, 30, plan="pro")
            scene.sim.state.limits.usage_limit = 0.1
            engine = await scene.run()
            assert isinstance(engine.stopped, SimUsageLimitError)
            done = scene.journal.count(ItemStatus.COMPLETED)
            assert 15 < done < 30
            assert scene.journal.count(ItemStatus.UNSENT) == 40 - done

        run(main())

    def test_a_wrong_key_is_tried_once(self):
        async def main():
            scene = BatchScene(40, 30)
            scene.client.set_api_key("sk-sim-wrong")
            engine = await scene.run()
            assert isinstance(engine.stopped, SimAuthenticationError)
            assert scene.sim.sent() == 1
            assert scene.runs == []

        run(main())


class TestTheDeadline:
    def test_ends_the_waiting_and_the_starting(self):
        async def main():
            scene = BatchScene(100, 90, plan="free")
            with pytest.raises(SimRunTimeoutError, match="10 of 100 runs were still running, and 70 not started"):
                await scene.run(deadline=now() + 200)
            assert scene.journal.written()["standings"] == "c*20 a*10 u*70"
            assert scene.minutes < 200 / 60 + 1

        run(main())

    def test_a_last_look_falls_on_it(self):
        async def main():
            scene = BatchScene(5, 95)
            await scene.run(deadline=now() + 100, poll_interval=60)
            assert scene.journal.is_over

        run(main())

    def test_what_hangs_is_left(self):
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
    def test_end_the_waiting_where_the_author_wants_that(self, on_paused):
        async def main():
            scene = BatchScene(20, 5, how=lambda index: {"end": "paused"} if index % 10 == 3 else {})
            await scene.run(on_paused=on_paused)
            assert [index for index in range(20) if scene.journal[index] is ItemStatus.PAUSED] == [3, 13]
            assert scene.journal.count(ItemStatus.COMPLETED) == 18

        run(main())

    def test_or_are_waited_for_while_others_go_on(self):
        async def main():
            scene = BatchScene(60, 5, plan="free", how=lambda index: {"end": "paused"} if index < 10 else {})
            waiting = asyncio.create_task(scene.run())
            await asyncio.sleep(1800)
            assert scene.journal.count(ItemStatus.COMPLETED) == 50, "paused runs take no place in the plan for ever"
            for found in scene.runs:
                if found.status == "paused":
                    found.resume({})
            await waiting
            scene.assert_each_ran_once()

        run(main())


class TestDeath:
    """A process dies at any moment; another goes on with what was written down, or with the id alone."""

    @staticmethod
    async def die_and_go_on(
        scene: BatchScene, moments: list[float], *, knows: str, workspace_id: str | None = "space", rerun: bool = False
    ) -> None:
        for moment in moments:
            task = asyncio.create_task(scene.run())
            await asyncio.sleep(moment)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if knows == "the id":
                scene.journal = BatchState(BATCH, scene.count)
            elif knows == "what was written down":
                scene.journal = BatchState.read(
                    scene.written_down[-1] if scene.written_down else BatchState(BATCH, scene.count).written()
                )
            else:
                scene.journal = BatchState.read(scene.journal.written())
            scene.new_process()
            await scene.survey(rerun=rerun, workspace_id=workspace_id)
        await scene.run()

    @pytest.mark.slow
    @given(
        moments=st.lists(st.floats(0.0, 400.0), min_size=1, max_size=4),
        plan=st.sampled_from(["free", "pro", None]),
        profile=st.sampled_from(["v0.8", "v0.8-legacy"]),
        knows=st.sampled_from(["the id", "what was written down", "all"]),
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
            scene.lose = those_starts(lambda number: lost > 0 and number % lost == 0)
            await self.die_and_go_on(scene, moments, knows=knows, workspace_id=workspace_id)
            scene.assert_each_ran_once(completed=True)
            assert {scene.journal.read_id(found.run_id)[0]: found.run_id for found in scene.runs} == {
                index: scene.journal.run_id(index) for index in range(40)
            }

        run(main())

    @pytest.mark.parametrize("knows", ["the id", "what was written down", "all"])
    @pytest.mark.parametrize("profile", ["v0.8", "v0.8-legacy"])
    def test_failures_are_run_again_by_the_next_try_and_kept_by_the_same(self, knows, profile):
        async def main(rerun):
            scene = BatchScene(30, 5, profile=profile, how=lambda index: {"end": "failed"} if index in (3, 4) else {})
            await self.die_and_go_on(scene, [500.0], knows=knows, rerun=rerun)
            return scene

        kept = run(main(rerun=False))
        kept.assert_each_ran_once()
        assert kept.journal.written()["standings"] == "c*3 f*2 c*25"
        again = run(main(rerun=True))
        assert again.started[3] == again.started[4] == 2
        assert again.started.total() == 32
        assert again.journal.run_id(3) == f"{BATCH}-3.2"

    @pytest.mark.slow
    def test_a_survey_costs_a_request_for_a_thousand_runs(self):
        async def main():
            scene = BatchScene(2500, 1.0)
            scene.limits._starts._maximum = scene.limits._starts._rate = 1e9
            await scene.run()
            scene.journal = BatchState(BATCH, 2500)
            scene.new_process()
            before = scene.sim.sent()
            await scene.survey()
            assert scene.journal.written()["standings"] == "c*2500"
            assert scene.sim.sent() - before == 3

        run(main())

    def test_without_lists_it_ends_where_nothing_was_started(self):
        async def main():
            scene = BatchScene(1000, 600, profile="v0.8-legacy")
            engine = scene.engine(maximum=100)
            await engine.start_what_fits()
            scene.journal = BatchState(BATCH, 1000)
            scene.new_process()
            before = scene.sim.sent()
            await scene.survey()
            assert scene.journal.written()["standings"] == "a*100 u*900"
            assert scene.sim.sent() - before < 140

        run(main())
