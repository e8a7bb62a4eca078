"""Outcomes of shared polling in virtual time: ends, pauses, faults, deadlines, callers that leave and join."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import logging
import weakref

import httpx
import pytest

from airflow_provider_sim.client.api.v2 import LOGS_BUCKET, WORKFLOW_BUCKET
from airflow_provider_sim.client.models import RunStatus
from airflow_provider_sim.client.retry import NO_RETRY
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.emulator.profiles import PROFILES
from airflow_provider_sim.exceptions import (
    SimAuthenticationError,
    SimRateLimitError,
    SimRunNotFoundError,
    SimRunTimeoutError,
    SimServerError,
)
from airflow_provider_sim.polling import RunPollState, poller as poller_module
from airflow_provider_sim.polling.poller import KEPT_OPEN, MOST_LENT, poller_for
from tests.polling.conftest import together
from tests.virtual_time import EPOCH, now

FLOW = "flow"
NOTHING_LOGGED = httpx.Response(200, json={"data": [], "nextCursor": None})


def deploy(scene, count=5, **how):
    """Deploy one workflow and start some runs of it."""
    scene.sim.deploy(FLOW)
    return [scene.sim.start(FLOW, f"run-{number}", 45, **how) for number in range(count)]


def statuses(scene):
    """The status or error class that each wait ended with, by run ID."""
    return {
        run_id: getattr(outcome, "status", None) if not isinstance(outcome, Exception) else type(outcome)
        for run_id, outcome in scene.outcomes.items()
    }


@pytest.fixture
def messages(caplog):
    """Return what the watcher has logged; on Airflow 2, httpx logs each request, too."""
    caplog.set_level(logging.INFO, "airflow_provider_sim.polling.poller")
    return lambda: [
        found.getMessage() for found in caplog.records if found.name == "airflow_provider_sim.polling.poller"
    ]


class TestRunEnds:
    def test_each_run_ends_with_its_own_status(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            starts = [
                scene.sim.start(FLOW, "well", 42),
                scene.sim.start(FLOW, "badly", 43, end="failed"),
                scene.sim.start(FLOW, "stopped", 1000),
            ]
            waits = [asyncio.ensure_future(scene.wait(started)) for started in starts]
            await asyncio.sleep(44)
            starts[2].cancel()
            await together(*waits)

        scene = play(script)
        assert statuses(scene) == {
            "well": RunStatus.COMPLETED,
            "badly": RunStatus.FAILED,
            "stopped": RunStatus.CANCELLED,
        }
        assert max(scene.delays.values()) < 10.1

    def test_several_waits_share_one_run(self, play):
        async def script(scene):
            [started] = deploy(scene, 1)

            async def wait(interval):
                watch = RunPollState(FLOW, started.run_id, poll_interval=interval, clock=now)
                return await scene.poller.wait(watch)

            runs = await asyncio.gather(wait(10), wait(10), wait(30))
            assert {run.status for run in runs} == {RunStatus.COMPLETED}
            assert scene.sim.sent() <= 8

        play(script)

    def test_simultaneous_starts_beyond_a_page_are_found(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            scene.sim.crowd([FLOW], 3000, lambda number: 5)
            started = [scene.sim.start(FLOW, f"run-{number}", 65, ago=5) for number in range(3)]
            await together(*(scene.wait(run) for run in started))

        scene = play(script)
        assert max(scene.delays.values()) < 20
        assert scene.sim.sent() < 60

    def test_job_ids_are_polled_as_runs(self, play):
        async def script(scene):
            starts = deploy(scene, 5)
            watches = [
                RunPollState(FLOW, f"workflow-execution:{started.run_id}", poll_interval=10, clock=now)
                for started in starts
            ]
            runs = await asyncio.gather(*(scene.poller.wait(watch) for watch in watches))
            assert [run.run_id for run in runs] == [started.run_id for started in starts]
            assert scene.sim.sent("/runs/") <= 6, "once read, it is found in lists by its own id"

        play(script)


class TestPages:
    @pytest.fixture(autouse=True)
    def _small_pages(self, monkeypatch):
        monkeypatch.setattr(poller_module, "LOGS_PAGE", 3)

    def test_simultaneous_starts_exceed_a_page(self, play):
        async def script(scene):
            await together(*(scene.wait(started, interval=60) for started in deploy(scene, 30)))

        scene = play(script)
        assert (scene.sim.sent("/logs?"), scene.sim.sent("/runs/")) == (10, 1)

    def test_list_ends_if_pages_contain_no_polled_run(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            scene.sim.crowd([FLOW], 60, lambda number: number / 4)
            starts = [scene.sim.start(FLOW, f"run-{number}", 5) for number in range(3)]
            await together(*(scene.wait(started, interval=8) for started in starts))

        scene = play(script)
        assert (scene.sim.sent("/logs?"), scene.sim.sent("/runs/")) == (1, 3)

    def test_list_stops_at_rate_limit_and_continues_later(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            starts = [scene.sim.start(FLOW, f"run-{number}", 300, ago=number) for number in range(60)]
            await together(*(scene.wait(started) for started in starts))

        scene = play(script, plan="free")
        assert scene.sim.refused == 0
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}


class TestQueues:
    def test_queued_runs_are_read_now_and_then(self, play):
        async def script(scene):
            starts = deploy(scene, 20, queued=300)
            await together(*(scene.wait(started) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert max(scene.delays.values()) < 10.1
        assert 20 * 4 <= scene.sim.sent("/runs/") <= 20 * 5, "read now and then, for whoever is cancelled in the queue"

    def test_run_cancelled_in_the_queue_is_reported(self, play):
        async def script(scene):
            starts = deploy(scene, 3, queued=3000)
            waits = [asyncio.ensure_future(scene.wait(started)) for started in starts]
            await asyncio.sleep(200)
            starts[0].cancel()
            await waits[0]
            for wait in waits:
                wait.cancel()

        scene = play(script)
        assert statuses(scene) == {"run-0": RunStatus.CANCELLED}
        assert scene.delays["run-0"] <= 130

    def test_unknown_run_id_does_not_affect_other_runs(self, play):
        """As after a rejected start; the other runs are polled as usual."""

        async def script(scene):
            starts = deploy(scene, 5)
            scene.sim.forget(starts[0])
            await together(*(scene.wait(started) for started in starts))

        scene = play(script)
        assert statuses(scene).pop("run-0") is SimRunNotFoundError
        assert len(scene.delays) == 5


class TestPauses:
    @pytest.mark.parametrize("others", [0, 5])
    @pytest.mark.parametrize("on_paused", ["fail", "return"])
    def test_pause_for_a_person_ends_the_wait(self, play, others, on_paused):
        """Logs report it as pending; only a read shows the pause and its kind."""

        async def script(scene):
            starts = deploy(scene, others)
            paused = scene.sim.start(FLOW, "paused", 15, end="paused") if others else None
            if paused is None:
                scene.sim.deploy(FLOW)
                paused = scene.sim.start(FLOW, "paused", 15, end="paused")
            await together(scene.wait(paused, on_paused=on_paused), *(scene.wait(started) for started in starts))

        scene = play(script)
        run = scene.outcomes["paused"]
        assert (run.status, run.paused.kind) == (RunStatus.PAUSED, "human")

    def test_paused_run_is_polled_until_answered(self, play):
        async def script(scene):
            starts = [*deploy(scene), scene.sim.start(FLOW, "paused", 15, end="paused")]
            waits = asyncio.ensure_future(together(*(scene.wait(started) for started in starts)))
            await asyncio.sleep(600)
            assert "paused" not in scene.outcomes
            read = scene.sim.sent("/runs/paused")
            scene.sim.state.runs["paused"].resume({})
            await waits
            assert read <= 60, "alone by then: read at each interval"

        scene = play(script)
        assert statuses(scene)["paused"] is RunStatus.COMPLETED

    def test_unlisted_run_is_read_once_beside_active_ones(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            starts = [scene.sim.start(FLOW, f"run-{number}", 600) for number in range(5)]
            paused = scene.sim.start(FLOW, "paused", 15, end="paused")
            waits = asyncio.ensure_future(together(*(scene.wait(started) for started in [*starts, paused])))
            await asyncio.sleep(590)
            paused.resume({})
            await waits

        scene = play(script)
        assert statuses(scene)["paused"] is RunStatus.COMPLETED
        assert scene.sim.sent("/runs/paused") == 1

    def test_timed_pause_is_awaited(self, play):
        async def script(scene):
            starts = deploy(scene)
            timed = scene.sim.start(FLOW, "timed", 15, end="paused", pause=100)
            await together(scene.wait(timed, on_paused="fail"), *(scene.wait(started) for started in starts))

        assert statuses(play(script))["timed"] is RunStatus.COMPLETED


class TestFaults:
    def test_list_failures_below_the_limit_are_tolerated(self, play):
        async def script(scene):
            starts = deploy(scene)
            scene.sim.refuse("/logs?", status=500, times=2)
            await together(*(scene.wait(started, max_failed_polls=2) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}

    def test_failed_list_counts_for_each_of_its_runs(self, play):
        async def script(scene):
            starts = deploy(scene)
            scene.sim.refuse("/logs?", status=500, times=1)
            await together(*(scene.wait(started, max_failed_polls=number % 2) for number, started in enumerate(starts)))

        scene = play(script)
        assert statuses(scene) == {
            "run-0": RunStatus.COMPLETED,  # read first, to detect the API version
            "run-1": RunStatus.COMPLETED,
            "run-2": SimServerError,
            "run-3": RunStatus.COMPLETED,
            "run-4": SimServerError,
        }

    def test_failed_poll_counts_only_for_runs_without_a_response(self, play, monkeypatch):
        monkeypatch.setattr(poller_module, "LOGS_PAGE", 3)

        async def script(scene):
            starts = deploy(scene, 3, ago=5) + [scene.sim.start(FLOW, f"late-{number}", 45) for number in range(2)]
            lists = itertools.count(1)

            def fail_on_second_page(request: httpx.Request) -> httpx.Response | None:
                return httpx.Response(500) if "/logs?" in str(request.url) and next(lists) == 2 else None

            scene.sim.fault = fail_on_second_page
            await together(*(scene.wait(started, max_failed_polls=0) for started in starts))

        outcomes = statuses(play(script))
        assert outcomes == {
            "run-0": RunStatus.COMPLETED,
            "run-1": RunStatus.COMPLETED,
            "run-2": RunStatus.COMPLETED,
            "late-0": SimServerError,
            "late-1": SimServerError,
        }

    def test_paused_run_in_a_list_resets_the_failure_count(self, play):
        """A log only reports the run as pending."""

        async def script(scene):
            scene.sim.deploy(FLOW)
            starts = [scene.sim.start(FLOW, f"run-{number}", 15, end="paused") for number in range(3)]
            turns = itertools.cycle([None, httpx.Response(500)])
            waits = asyncio.gather(*(scene.wait(started, max_failed_polls=1) for started in starts))
            await asyncio.sleep(35)
            scene.sim.fault = lambda request: next(turns) if "/logs?" in str(request.url) else None
            await asyncio.sleep(120)
            for started in starts:
                started.resume({})
            await waits

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert sum(status == 500 for _, _, status in scene.sim.requests) > 3
        assert scene.sim.sent("/runs/") <= 5, "failures that aren't consecutive don't close the log"

    def test_runs_are_read_if_their_list_always_fails(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            scene.sim.refuse("/logs?", status=503)
            starts = [scene.sim.start(FLOW, f"run-{number}", 400) for number in range(5)]
            await together(*(scene.wait(started) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert scene.sim.sent("/logs?") <= 15, "tried again each minute"

    def test_list_that_fails_once_is_retried_without_reads(self, play):
        async def script(scene):
            starts = deploy(scene)
            scene.sim.refuse("/logs?", status=500, times=1)
            await together(*(scene.wait(started) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert scene.sim.sent("/runs/", "order=desc") == 1, "only the first request, which detects the API version"

    def test_unreachable_list_is_retried(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            starts = [scene.sim.start(FLOW, f"run-{number}", 100) for number in range(3)]
            left = iter(range(4))

            def unreachable(request: httpx.Request) -> None:
                if "/logs?" in str(request.url) and next(left, None) is not None:
                    raise httpx.ConnectError("name unknown", request=request)

            scene.sim.fault = unreachable
            await together(*(scene.wait(started) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert scene.sim.sent("/logs?") >= 4, "asked again and again until it can"

    def test_runs_are_read_if_the_log_never_contains_them(self, play, messages):
        async def script(scene):
            scene.sim.deploy(FLOW)
            scene.sim.fault = lambda request: NOTHING_LOGGED if "/logs?" in str(request.url) else None
            starts = [scene.sim.start(FLOW, f"run-{number}", 400) for number in range(3)]
            await together(*(scene.wait(started) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert scene.sim.sent("/logs?") <= 5, "each run was missed twice"
        assert sorted(messages()) == [
            f"Run run-{number} is not in the log of its workspace; it is read from now on." for number in range(3)
        ]

    def test_log_that_misses_runs_once_is_still_used(self, play, messages):
        async def script(scene):
            scene.sim.deploy(FLOW)
            turns = itertools.cycle([None, NOTHING_LOGGED])
            scene.sim.fault = lambda request: next(turns) if "/logs?" in str(request.url) else None
            starts = [scene.sim.start(FLOW, f"run-{number}", 400) for number in range(3)]
            await together(*(scene.wait(started) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert scene.sim.sent("/logs?") >= 35
        assert messages() == [], "missed once, and found again"

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            pytest.param({"retry-after": "42"}, 42, id="so long"),
            pytest.param({}, 10, id="an interval, where none is named"),
        ],
    )
    def test_rate_limited_list_waits_for_its_retry_after(self, play, headers, seconds):
        async def script(scene):
            starts = deploy(scene)
            refused: list[float] = []

            def refuse_once(request: httpx.Request) -> httpx.Response | None:
                if refused or "/logs?" not in str(request.url):
                    return None
                refused.append(now())
                return httpx.Response(
                    429, json={"error": {"code": "RATE_LIMITED", "message": "too many"}}, headers=headers
                )

            scene.sim.fault = refuse_once
            await together(*(scene.wait(started) for started in starts))
            following = [when for when, path, status in scene.sim.requests if "/logs?" in path and status == 200]
            assert seconds <= following[0] - refused[0] < seconds + 10.1

        assert set(statuses(play(script)).values()) == {RunStatus.COMPLETED}

    @pytest.mark.parametrize("status", [400, 403, 404])
    def test_runs_are_read_if_their_list_is_rejected(self, play, status):
        async def script(scene):
            starts = deploy(scene)
            scene.sim.refuse("/logs?", "/runs?", status=status)
            await together(*(scene.wait(started, max_failed_polls=0) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert scene.sim.sent("/logs?") == 1

    def test_unreadable_run_does_not_affect_other_runs(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW, "broken")
            starts = [scene.sim.start(FLOW, "run-0", 300), scene.sim.start(FLOW, "run-1", 300)]
            broken = scene.sim.start("broken", "broken", 45)
            scene.sim.refuse("broken", status=500)
            await together(*(scene.wait(started) for started in [*starts, broken]))

        scene = play(script)
        assert statuses(scene)["broken"] is SimServerError, "ten failed polls in a row"
        assert statuses(scene)["run-0"] is RunStatus.COMPLETED

    def test_wrong_key_ends_all_waits(self, play):
        async def script(scene):
            starts = deploy(scene)
            waits = asyncio.ensure_future(together(*(scene.wait(started) for started in starts)))
            await asyncio.sleep(15)
            scene.sim.refuse("/api", status=401)
            await waits
            assert now() - started_at < 21

        async def timed(scene):
            nonlocal started_at
            started_at = now()
            await script(scene)

        started_at = 0.0
        assert set(statuses(play(timed)).values()) == {SimAuthenticationError}

    def test_rate_limits_do_not_count_as_failed_polls(self, play):
        async def script(scene):
            starts = deploy(scene)
            scene.sim.refuse("/api", status=429, times=20)
            await together(*(scene.wait(started, max_failed_polls=0) for started in starts))

        assert set(statuses(play(script)).values()) == {RunStatus.COMPLETED}

    def test_hanging_request_does_not_delay_other_runs(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW, "hangs")
            answer = scene.sim._answer
            hangs = scene.sim.start("hangs", "hangs", 45)

            async def hang(request: httpx.Request) -> httpx.Response:
                if "hangs" in str(request.url):
                    await asyncio.sleep(600)
                return await answer(request)

            scene.poller._client.transport = httpx.MockTransport(hang)
            starts = [scene.sim.start(FLOW, f"run-{number}", 45 + number) for number in range(5)]
            await together(*(scene.wait(started) for started in [*starts, hangs]))

        scene = play(script)
        assert max(delay for run_id, delay in scene.delays.items() if run_id != "hangs") < 20

    def test_polling_continues_after_v2_is_switched_off(self, play):
        async def script(scene):
            starts = deploy(scene)
            waits = asyncio.ensure_future(together(*(scene.wait(started) for started in starts)))
            await asyncio.sleep(15)
            scene.sim.state.profile = PROFILES["v0.8-legacy"]
            await waits

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}

    def test_unexpected_error_in_a_response_handler_is_raised(self, play, monkeypatch, caplog):
        def on_response(self, run):
            raise ZeroDivisionError

        monkeypatch.setattr(RunPollState, "on_response", on_response)

        async def script(scene):
            await together(*(scene.wait(started) for started in deploy(scene)))

        assert set(statuses(play(script)).values()) == {ZeroDivisionError}
        assert "could not be handled" in caplog.text


class TestWorkspaces:
    def test_connection_workspace_saves_a_request(self, play):
        async def script(scene):
            await together(*(scene.wait(started, workspace_id="space") for started in deploy(scene)))

        scene = play(script)
        assert len(scene.delays) == 5
        assert scene.sim.sent("/workflows/flow") == 1, "the first request, which detects the API version"

    @pytest.mark.parametrize("wrong", ["nowhere", "99999999-2222-4333-8444-555555555555"])
    def test_wrong_connection_workspace_is_corrected(self, play, wrong):
        async def script(scene):
            await together(*(scene.wait(started, workspace_id=wrong) for started in deploy(scene)))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert max(scene.delays.values()) < 10.1
        assert scene.sim.sent("workspaceId=space") >= 2

    def test_workspace_without_the_runs_is_corrected_after_first_miss(self, play, messages):
        async def script(scene):
            scene.sim.deploy(FLOW)
            starts = [scene.sim.start(FLOW, f"run-{number}", 300) for number in range(3)]
            elsewhere = "workspaceId=elsewhere"
            scene.sim.fault = lambda request: NOTHING_LOGGED if elsewhere in str(request.url) else None
            await together(*(scene.wait(started, workspace_id="elsewhere") for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert (scene.sim.sent("workspaceId=elsewhere"), scene.sim.sent("/runs/")) == (2, 6)
        assert messages() == [], "each is in the log, once it is the right one"

    def test_runs_are_read_if_their_workspace_is_unavailable(self, play):
        async def script(scene):
            starts = deploy(scene)
            fault = scene.sim.fault

            def no_workflow(request):
                if request.url.path.endswith("/workflows/flow"):
                    return httpx.Response(500)
                return fault(request)

            scene.sim.fault = no_workflow
            await together(*(scene.wait(started) for started in starts))

        scene = play(script)
        assert set(statuses(scene).values()) == {RunStatus.COMPLETED}
        assert scene.sim.sent("/logs?") == 0
        assert scene.sim.sent("/runs/") >= 5 * 4


class TestDeadlines:
    def test_runs_are_polled_at_the_deadline(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            starts = [scene.sim.start(FLOW, f"run-{number}", 50 if number else 29.5) for number in range(3)]
            await together(*(scene.wait(started, interval=20, deadline=now() + 30) for started in starts))

        scene = play(script)
        assert scene.outcomes["run-0"].status is RunStatus.COMPLETED, "it ended after the last regular poll"
        assert isinstance(scene.outcomes["run-1"], SimRunTimeoutError)
        assert "last status: running" in str(scene.outcomes["run-1"])

    def test_queued_run_is_read_at_the_deadline(self, play):
        async def script(scene):
            starts = deploy(scene, 3, queued=3000)
            await together(*(scene.wait(started, deadline=now() + 95) for started in starts))
            assert 95 <= now() - started_at < 97

        async def timed(scene):
            nonlocal started_at
            started_at = now()
            await script(scene)

        started_at = 0.0
        scene = play(timed)
        assert "last status: queued" in str(scene.outcomes["run-0"])

    def test_rate_limited_poll_at_the_deadline_is_late(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            starts = [scene.sim.start(FLOW, f"run-{number}", 1000) for number in range(3)]
            scene.sim.refuse("/api", status=429, times=10)
            await together(*(scene.wait(started, deadline=now() + 30) for started in starts))
            assert scene.sim.refused == 10

        assert set(statuses(play(script)).values()) == {SimRunTimeoutError}


class TestLifecycle:
    def test_cancelled_wait_does_not_affect_other_runs(self, play):
        async def script(scene):
            starts = deploy(scene)
            waits = [asyncio.ensure_future(scene.wait(started)) for started in starts]
            await asyncio.sleep(15)
            waits[0].cancel()
            await together(*waits[1:])

        scene = play(script)
        assert statuses(scene).keys() == {f"run-{number}" for number in range(1, 5)}

    def test_client_stays_open_between_runs_and_closes_when_idle(self, play):
        async def script(scene):
            scene.sim.deploy(FLOW)
            closed = []

            async def close(really_close=scene.poller._client.close):
                closed.append(now())
                await really_close()

            scene.poller._client.close = close
            for number in range(3):
                await scene.wait(scene.sim.start(FLOW, f"run-{number}", 5))
                await asyncio.sleep(KEPT_OPEN - 1)
            assert not closed
            await asyncio.sleep(2)
            assert len(closed) == 1
            await scene.wait(scene.sim.start(FLOW, "another", 5))
            assert scene.outcomes["another"].status is RunStatus.COMPLETED

        play(script)

    def test_client_is_closed_when_the_loop_ends(self, play):
        async def script(scene):
            closing = []

            async def close():
                closing.append(scene)

            scene.poller._client.close = close
            waits = [asyncio.ensure_future(scene.wait(started)) for started in deploy(scene)]
            await asyncio.sleep(15)
            scene.closing = closing
            del waits

        assert play(script).closing

    def test_run_messages_are_logged_in_the_waiting_context(self, play, caplog):
        caplog.set_level(logging.INFO, "airflow_provider_sim")
        task = contextvars.ContextVar("task", default="no caller")
        lines = []

        class Keep(logging.Handler):
            def emit(self, record):
                lines.append((task.get(), record.getMessage()))

        async def script(scene):
            async def one(started):
                task.set(started.run_id)
                await scene.wait(started)

            starts = deploy(scene)
            scene.sim.refuse("/logs?", status=403, times=1)
            await asyncio.gather(*(asyncio.create_task(one(started)) for started in starts))

        handler = Keep()
        logging.getLogger("airflow_provider_sim").addHandler(handler)
        try:
            play(script)
        finally:
            logging.getLogger("airflow_provider_sim").removeHandler(handler)
        for number in range(5):
            own = [line for name, line in lines if name == f"run-{number}"]
            assert own == [
                f"Run run-{number} of workflow flow is running.",
                f"Run run-{number} of workflow flow is completed.",
            ]
        assert [name for name, line in lines if "one by one" in line] == ["no caller"], "a message about all runs"

    def test_one_poller_per_loop_and_settings(self):
        async def main():
            one = poller_for(ClientSettings("key", "http://sim", timeout=5))
            assert poller_for(ClientSettings("key", "http://sim", timeout=5)) is one
            assert poller_for(ClientSettings("another", "http://sim", timeout=5)) is not one
            assert poller_for(ClientSettings("key", "http://another", timeout=5)) is not one
            return one

        assert asyncio.run(main()) is not asyncio.run(main())

    def test_same_key_shares_rate_limits_but_not_settings(self):
        async def main():
            short, long = (poller_for(ClientSettings("key", "http://sim", timeout=seconds)) for seconds in (5, 50))
            other = poller_for(ClientSettings("another", "http://sim"))
            for poller, seconds in ((short, 5), (long, 50)):
                assert (await poller.ask(None, settings_of)).timeout == seconds
            short._limits.bucket("logs.list").pause(60)
            assert [poller._limits.room("logs.list").available for poller in (short, long)] == [0, 0]
            assert other._limits.room("logs.list").available > 0

        asyncio.run(main())

    def test_idle_poller_and_rate_limits_are_freed(self, monkeypatch):
        monkeypatch.setattr(poller_module, "KEPT_OPEN", 0.01)
        key = "sk-sim-of-a-connection-that-was-removed"

        async def main():
            poller = poller_for(ClientSettings(key, "http://sim"))
            await poller.ask(None, settings_of)
            await poller._keeper
            return weakref.ref(poller), weakref.ref(poller._limits)

        references = asyncio.run(main())
        gc.collect()
        assert [reference() for reference in references] == [None, None]


class TestAsk:
    """Requests of callers, which use what the polls leave of the rate limits."""

    def test_requests_respect_the_plan_without_a_429(self, play):
        async def script(scene):
            deploy(scene)
            for _ in range(45):
                page = await scene.poller.ask(LOGS_BUCKET, list_log)
                assert len(page.items) == 5
            scene.seconds = now() - EPOCH

        scene = play(script, plan="free")
        assert (scene.sim.sent("/logs?"), scene.sim.refused) == (45, 0)
        assert 30 < scene.seconds < 120, "thirty a minute, and as many more after a pause"

    @pytest.mark.parametrize(
        ("status", "error", "least", "most"),
        [
            pytest.param(429, SimRateLimitError, 60, 62, id="a limit, for a minute"),
            pytest.param(500, SimServerError, 0, 1, id="any other error, for no time"),
        ],
    )
    def test_rejected_request_closes_the_bucket(self, play, status, error, least, most):
        async def script(scene):
            deploy(scene)
            scene.sim.refuse("/logs?", status=status, times=1)
            with pytest.raises(error):
                await scene.poller.ask(LOGS_BUCKET, list_log)
            await scene.poller.ask(LOGS_BUCKET, list_log)

        first, second = (when for when, _, _ in play(script).sim.requests)
        assert least <= second - first <= most

    def test_rate_limited_requests_do_not_delay_others(self, play):
        """A request waits for its own rate limit only, whether it is known before or by a 429 in between."""

        async def script(scene):
            deploy(scene)
            scene.sim.refuse("/runs/run-0", status=429, times=1000)
            scene.poller._limits.bucket(LOGS_BUCKET).pause(60)
            waiting = [asyncio.create_task(scene.poller.ask(LOGS_BUCKET, list_log)) for _ in range(MOST_LENT)]
            for _ in range(MOST_LENT):
                limited = scene.poller.ask(None, lambda client: client.get_workflow_run("flow", "run-0"))
                waiting.append(asyncio.create_task(limited))
            await asyncio.sleep(1)
            await scene.poller.ask(WORKFLOW_BUCKET, lambda client: client.get_workflow("flow"))
            scene.seconds = now() - EPOCH
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        assert play(script).seconds < 2

    def test_requests_and_waits_for_rate_limits_are_metrics(self, play, stats):
        async def script(scene):
            starts = deploy(scene)
            scene.sim.refuse("/logs?", status=429, times=1)
            with pytest.raises(SimRateLimitError):
                await scene.poller.ask(LOGS_BUCKET, list_log)
            await together(scene.poller.ask(LOGS_BUCKET, list_log), *map(scene.wait, starts))

        scene = play(script)
        assert stats.counters["sim.poll.requests.read"] == scene.sim.sent("/runs/")
        assert stats.timers == {"sim.rate_limit.wait": [60.0]}

    def test_requests_in_flight_are_limited(self, play):
        async def script(scene):
            deploy(scene)
            asked = [scene.poller.ask(None, lambda client: client.get_workflow("flow")) for _ in range(3 * MOST_LENT)]
            await asyncio.gather(*asked)
            scene.seconds = now() - EPOCH

        scene = play(script, latency=10.0)
        assert scene.seconds == pytest.approx(30, abs=1)


def list_log(client):
    return client.with_retry(NO_RETRY).list_logs("space", limit=10)


async def settings_of(client):
    return client.settings
