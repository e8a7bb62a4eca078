"""The stream of finished runs: its requests and their times, its batches, and what it stores."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from dataclasses import asdict
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from airflow_provider_sim.client.api.v2 import LISTED_STATUSES, LOGS_PAGE, RUNS_PAGE
from airflow_provider_sim.polling import finished_runs, poll_state
from airflow_provider_sim.polling.finished_runs import (
    EVENT_GAP,
    MAX_RUNS_PER_EVENT,
    OVERLAP,
    Cursor,
    FinishedRunStream,
    Listener,
    cursors_of,
)
from tests.virtual_time import EPOCH, now

FLOW, OTHER = "flow", "other"
INTERVAL = 10.0
FRESH = 0.5
"""Seconds that are enough for the requests of one poll."""


class Ear:
    """A listener, and what was stored for it.

    :ivar refusals: errors raised instead of storing, one after the other.
    """

    def __init__(self, *workflow_ids, interval=INTERVAL, cursors=None, wants=lambda run: True):
        self.saved, self.refusals = [], []
        self.listener = Listener(
            poll_interval=interval,
            workflow_ids=frozenset(workflow_ids),
            wants=wants,
            cursors=cursors or {},
            save=self.save,
        )

    async def save(self, cursors):
        if self.refusals:
            raise self.refusals.pop()
        self.stored = {workflow_id: asdict(cursor) for workflow_id, cursor in cursors.items()}
        self.saved.append({workflow_id: self.seen(cursor) for workflow_id, cursor in cursors.items()})

    @staticmethod
    def seen(cursor):
        delivered = {run_id: start for run_id, start in cursor.known.items() if start is not None}
        return {"since": cursor.since, "open": sorted(cursor.open), "delivered": delivered}


class Stage:
    """A server, a stream of its finished runs, and the stream's batches.

    :ivar batches: the run IDs of each event, by listener.
    :ivar delivered_at: run IDs with the seconds since the beginning at which they came.
    """

    def __init__(self, scene, *, confirms=True, workspace_id="space"):
        self.scene, self.sim = scene, scene.sim
        self.poller, self.workspace_id = scene.poller, workspace_id
        self.events = FinishedRunStream(self.connect)
        self.delivered_at = {}
        self.batches = {}
        self.times = {}
        self.confirms = confirms
        self.last = None
        self.sim.deploy(FLOW, OTHER)

    async def connect(self):
        if isinstance(self.poller, Exception):
            raise self.poller
        return SimpleNamespace(poller=self.poller), self.workspace_id

    def listen(self, *workflow_ids, **how):
        ear = Ear(*(workflow_ids or (FLOW,)), **how)
        self.events.join(ear.listener)
        return ear

    @contextlib.asynccontextmanager
    async def playing(self):
        """While the stream is read, from when it has polled for the first time."""
        reader = asyncio.create_task(self._read())
        await asyncio.sleep(FRESH)
        yield
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader  # which may have failed before

    async def _read(self):
        async for batch in self.events.batches():
            self.last = batch
            for listener, runs in batch.items():
                delivered_at = [run_id for runs in self.batches.get(listener, []) for run_id in runs]
                assert not {run.run_id for run in runs} & set(delivered_at), "each run is delivered once"
                self.batches.setdefault(listener, []).append([run.run_id for run in runs])
                self.times.setdefault(listener, []).append(now() - EPOCH)
                self.delivered_at |= {run.run_id: now() - EPOCH for run in runs}
            if self.confirms:
                await self.events.confirm(batch)

    def polls(self, part="/logs?"):
        """When there was a response to such a request."""
        return [round(when - EPOCH, 1) for when, path, _ in self.sim.requests if part in path]


def since(seconds, *workflow_ids, known=()):
    """Cursors that begin at a moment, with known open runs."""
    return {workflow_id: Cursor(since=seconds, known=dict.fromkeys(known)) for workflow_id in workflow_ids or (FLOW,)}


@pytest.fixture(autouse=True)
def _virtual(monkeypatch):
    """The stream's clock is the event loop's, and an account is its watcher."""
    monkeypatch.setattr(finished_runs, "time", SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time()))
    monkeypatch.setattr(finished_runs, "poller_for", lambda settings: settings.poller)


@pytest.fixture
def log(caplog):
    """Messages that the stream has logged."""
    caplog.set_level(logging.WARNING, "airflow_provider_sim.polling.finished_runs")
    return lambda: [record.getMessage() for record in caplog.records if record.name == finished_runs.__name__]


class TestDelivery:
    def test_delivers_runs_that_finish_after_the_start(self, play):
        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "ended", 5, ago=30)
            scene.sim.start(FLOW, "runs", 50, ago=10)
            scene.sim.start(OTHER, "unwanted", 5)
            stage.listen()
            async with stage.playing():
                await asyncio.sleep(20)
                scene.sim.start(FLOW, "later", 1)
                await asyncio.sleep(60)
            assert stage.delivered_at.keys() == {"later", "runs"}
            assert 30 <= stage.delivered_at["later"] < 32, "by the next poll"
            assert 40 <= stage.delivered_at["runs"] < 52, "by the watcher, which polls every 10 s"

        play(script)

    @pytest.mark.parametrize("status", ["running", "paused"])
    def test_old_active_runs_are_found_by_status(self, play, status):
        how = {"end": "paused", "pause": 86400.0} if status == "paused" else {}

        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "old", 7250 if status == "running" else 10, ago=7200, **how)
            ear = stage.listen()
            async with stage.playing():
                assert ear.saved[-1][FLOW]["open"] == ["old"]

        asked = Counter(
            parse_qs(urlsplit(path).query)["status"][0]
            for _, path, _ in play(script).sim.requests
            if "/runs?" in path and "status=" in path and "limit=100" in path
        )
        assert asked == Counter(list(LISTED_STATUSES)), "once each, and only for a workflow without a cursor"

    def test_delivers_all_pages_in_start_order(self, play):
        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen(interval=50.0)
            async with stage.playing():
                for number in range(LOGS_PAGE + 5):
                    scene.sim.start(FLOW, f"run-{number:04}", 1)
                    await asyncio.sleep(0.01)
                before = len(stage.polls())
                await asyncio.sleep(60)
                assert len(stage.polls()) - before == 2, "two pages"
                await asyncio.sleep(LOGS_PAGE / MAX_RUNS_PER_EVENT * EVENT_GAP)
            delivered_at = [run_id for runs in stage.batches[ear.listener] for run_id in runs]
            assert delivered_at == [f"run-{number:04}" for number in range(LOGS_PAGE + 5)]

        play(script)

    def test_first_poll_reads_all_pages_of_active_runs(self, play):
        async def script(scene):
            stage = Stage(scene)
            for number in range(RUNS_PAGE + 5):
                scene.sim.start(FLOW, f"run-{number}", 7300 + number, ago=7200)
            ear = stage.listen(interval=50.0)
            async with stage.playing():
                pass
            assert len(ear.saved[-1][FLOW]["open"]) == RUNS_PAGE + 5

        play(script)

    def test_runs_that_finish_together_share_an_event(self, play):
        """Airflow queues a DAG once for all events that are stored before it creates the DAG run."""

        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen(interval=2.0)
            async with stage.playing():
                await asyncio.sleep(EVENT_GAP)
                for number in range(8):
                    scene.sim.start(FLOW, f"run-{number}", 6 - number * 0.1)
                    await asyncio.sleep(0.1)
                await asyncio.sleep(60)
            [runs] = stage.batches[ear.listener]
            assert len(runs) == 8

        play(script)

    def test_events_are_some_time_apart(self, play):
        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen(interval=2.0)
            async with stage.playing():
                for number in range(60):
                    scene.sim.start(FLOW, f"run-{number}", 0.5)
                    await asyncio.sleep(1)
                await asyncio.sleep(30)
            assert len(stage.delivered_at) == 60
            pauses = [later - earlier for earlier, later in itertools.pairwise(stage.times[ear.listener])]
            assert len(pauses) >= 3
            assert all(EVENT_GAP <= pause < EVENT_GAP + 4 for pause in pauses)
            assert stage.times[ear.listener][0] >= EVENT_GAP, "an earlier triggerer may just have stored one"

        play(script)

    def test_event_size_is_limited(self, play):
        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen()
            async with stage.playing():
                for number in range(MAX_RUNS_PER_EVENT + 3):
                    scene.sim.start(FLOW, f"run-{number}", 1)
                await asyncio.sleep(60)
            first, second = stage.batches[ear.listener]
            assert (len(first), len(second)) == (MAX_RUNS_PER_EVENT, 3)

        play(script)

    def test_next_event_waits_until_the_last_is_stored(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            ear = stage.listen()
            async with stage.playing():
                await asyncio.sleep(EVENT_GAP)
                for _ in range(10):
                    scene.sim.start(FLOW, f"run-{now()}", 1)
                    await asyncio.sleep(10)
                assert len(stage.batches[ear.listener]) == 1
                await stage.events.confirm(stage.last)
                await asyncio.sleep(EVENT_GAP + FRESH)
                assert len(stage.batches[ear.listener]) == 2
                assert len(stage.delivered_at) == 10

        play(script)

    def test_each_listener_gets_its_own_runs(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            both, one = stage.listen(FLOW, OTHER), stage.listen(OTHER)
            none = stage.listen(FLOW, wants=lambda run: run.workflow_id == OTHER)
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                scene.sim.start(OTHER, "b", 1)
                await asyncio.sleep(INTERVAL + EVENT_GAP)
                assert stage.batches == {both.listener: [["a", "b"]], one.listener: [["b"]]}
                assert none.saved[-1][FLOW]["open"] == [], "a run that is not wanted is done with"
                await stage.events.confirm(stage.last)
            assert both.saved[-1][OTHER]["open"] == both.saved[-1][FLOW]["open"] == []

        play(script)

    def test_event_is_not_confirmed_for_a_removed_listener(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            stays, leaves = stage.listen(), stage.listen()
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(INTERVAL + EVENT_GAP)
                stage.events.leave(leaves.listener)
                await stage.events.confirm(stage.last)
            assert stays.saved[-1][FLOW]["open"] == []
            assert leaves.saved[-1][FLOW]["open"] == ["a"]

        play(script)

    def test_unconfirmed_run_is_delivered_again_after_restart(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            ear = stage.listen()
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(INTERVAL + EVENT_GAP)
            assert stage.delivered_at.keys() == {"a"}
            stage.delivered_at.clear()
            stage.events.leave(ear.listener)
            stage.listen(cursors=cursors_of(ear.stored))
            async with stage.playing():
                await asyncio.sleep(EVENT_GAP)
            assert stage.delivered_at.keys() == {"a"}

        play(script)


class TestPolls:
    def test_polls_at_the_shortest_listener_interval(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(interval=30.0)
            async with stage.playing():
                await asyncio.sleep(65)
                assert [round(when, -1) for when in stage.polls()] == [0, 0, 30, 60], "the first takes one list more"
                eager = stage.listen(OTHER, interval=5.0)
                await asyncio.sleep(14)
                assert [round(when) for when in stage.polls()[4:]] == [66, 66, 71, 76]
                before = len(stage.polls())
                stage.events.leave(eager.listener)
                await asyncio.sleep(40)
                assert len(stage.polls()) - before == 2, "one that was due, and one after thirty seconds"

        play(script)

    def test_no_requests_without_listeners(self, play):
        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen()
            async with stage.playing():
                stage.events.leave(ear.listener)
                before = len(scene.sim.requests)
                await asyncio.sleep(600)
                assert len(scene.sim.requests) == before
                stage.listen(cursors=ear.listener.cursors)
                await asyncio.sleep(FRESH)
                assert len(scene.sim.requests) == before + 1, "at once"

        play(script)

    def test_poll_queries_the_workspace_log(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(FLOW, OTHER)
            async with stage.playing():
                await asyncio.sleep(INTERVAL + FRESH)

        *_, path = [path for _, path, _ in play(script).sim.requests if "/logs?" in path]
        query = parse_qs(urlsplit(path).query)
        assert query.pop("startDate")[0].startswith("2027-01-15T07:59:0"), "a minute before the look before"
        assert query == {
            "workspaceId": ["space"],
            "workflowIds": [f"{FLOW},{OTHER}"],
            "order": ["asc"],
            "limit": [str(LOGS_PAGE)],
        }

    def test_listeners_share_polls_from_the_earliest_cursor(self, play):
        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "a", 1, ago=500)
            scene.sim.start(FLOW, "b", 1, ago=50)
            late = stage.listen(cursors=since(now() - 100))
            early = stage.listen(cursors=since(now() - 1000))
            async with stage.playing():
                await asyncio.sleep(EVENT_GAP)
            assert len([when for when in stage.polls() if when < INTERVAL]) == 1
            assert stage.batches == {late.listener: [["b"]], early.listener: [["a", "b"]]}

        play(script)


class TestWorkspaces:
    def test_workspace_is_requested_once_per_workflow(self, play):
        async def script(scene):
            stage = Stage(scene, workspace_id=None)
            stage.listen(FLOW, OTHER)
            async with stage.playing():
                scene.sim.start(FLOW, "a", 25)
                await asyncio.sleep(60)
            assert stage.delivered_at.keys() == {"a"}
            asked = Counter(urlsplit(path).path for _, path, _ in scene.sim.requests if path.endswith((FLOW, OTHER)))
            assert asked == {f"/api/v2/workflows/{FLOW}": 1, f"/api/v2/workflows/{OTHER}": 1}

        play(script)

    def test_connection_workspace_is_not_requested(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen()
            async with stage.playing():
                await asyncio.sleep(60)

        assert not [path for _, path, _ in play(script).sim.requests if path.endswith(FLOW)]

    @pytest.mark.parametrize("workspace_id", [None, "space"])
    def test_missing_workflow_does_not_stop_other_workflows(self, play, log, workspace_id):
        async def script(scene):
            stage = Stage(scene, workspace_id=workspace_id)
            stage.listen("absent")
            stage.listen(FLOW)
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(30)
                assert stage.delivered_at.keys() == {"a"}
                [line] = log()
                assert line.startswith("Runs of workflow 'absent' are not delivered until this is resolved: ")
                scene.sim.deploy("absent")
                scene.sim.start("absent", "b", 15)
                await asyncio.sleep(60)
                assert stage.delivered_at.keys() == {"a", "b"}

        play(script)

    @pytest.mark.parametrize("status", [400, 403, 500])
    @pytest.mark.parametrize("part", ["/workflows/bad", "/logs?workspaceId=another"])
    def test_workflow_error_does_not_stop_other_workflows(self, play, log, status, part):
        """Once it is resolved, runs that finished meanwhile are delivered."""

        async def script(scene):
            stage = Stage(scene, workspace_id=None)
            scene.sim.deploy("bad")
            stage.listen("bad", cursors=since(now(), "bad"))
            stage.listen(FLOW)
            if "logs" in part:
                stage.events._workspaces["bad"] = "another"
            broken = True
            body = {"error": {"code": "BAD", "message": "no"}}

            def fault(request):
                return httpx.Response(status, json=body) if broken and part in str(request.url) else None

            scene.sim.fault = fault
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                scene.sim.start("bad", "b", 1)
                await asyncio.sleep(60)
                assert stage.delivered_at.keys() == {"a"}
                assert len(log()) == 1
                if "logs" not in part:
                    broken = False
                    await asyncio.sleep(60)
                    assert stage.delivered_at.keys() == {"a", "b"}

        play(script)


class TestFailures:
    def test_failed_poll_is_logged_once_and_retried(self, play, log):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(cursors=since(now()))
            scene.sim.refuse("/logs?", status=500, times=3)
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(5 * INTERVAL)
            assert [round(later - earlier) for earlier, later in itertools.pairwise(stage.polls())] == [INTERVAL] * 5
            assert stage.delivered_at.keys() == {"a"}

        play(script)
        [line] = log()
        assert line.startswith("Runs of workspace 'space' are not delivered until this is resolved: ")

    @pytest.mark.parametrize(("asked", "waits"), [(45, 45), (3, 10)])
    def test_rate_limit_waits_for_the_retry_after(self, play, asked, waits):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(cursors=since(now()))
            busy = {"error": {"code": "RATE_LIMITED", "message": "slowly"}}
            answers = [httpx.Response(429, json=busy, headers={"Retry-After": str(asked)})]
            scene.sim.fault = lambda request: answers.pop() if answers else None
            async with stage.playing():
                await asyncio.sleep(100)
            first, second, *_ = stage.polls()
            assert waits <= second - first < waits + 3

        play(script)

    def test_unexpected_error_is_logged_with_traceback(self, play, log, caplog):
        async def script(scene):
            stage = Stage(scene)
            stage.poller = ValueError("no such connection")
            stage.listen()
            async with stage.playing():
                [line] = log()
                assert line.startswith("Runs of the connection are not delivered until this is resolved: ")
                assert "no such connection" in caplog.text
                stage.poller = scene.poller
                scene.sim.start(FLOW, "a", 40)
                await asyncio.sleep(60)
            assert stage.delivered_at.keys() == {"a"}

        play(script)

    def test_new_listener_is_polled_for_at_once(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(cursors=since(now()))
            scene.sim.refuse("/logs?", status=500, times=3)
            async with stage.playing():
                await asyncio.sleep(100)
                before = len(stage.polls())
                stage.listen(OTHER, cursors=since(now(), OTHER))
                await asyncio.sleep(FRESH)
                assert len(stage.polls()) == before + 1

        play(script)

    def test_missing_run_is_dropped(self, play, log, monkeypatch):
        monkeypatch.setattr(poll_state, "NOT_FOUND_GRACE", -1.0)

        async def script(scene):
            stage = Stage(scene)
            gone = scene.sim.start(FLOW, "gone", 10_000)
            ear = stage.listen()
            async with stage.playing():
                assert ear.saved[-1][FLOW]["open"] == ["gone"]
                scene.sim.forget(gone)
                await asyncio.sleep(600)
                assert ear.saved[-1][FLOW]["open"] == []
                before = scene.sim.sent("/runs/gone")
                await asyncio.sleep(600)
                assert scene.sim.sent("/runs/gone") == before
            assert stage.delivered_at == {}

        play(script)
        [line] = log()
        assert "gone" in line
        assert line.endswith("Its end is not delivered.")

    def test_run_that_cannot_be_polled_is_retried(self, play, log):
        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "a", 30, ago=10)
            stage.listen(cursors=since(now(), known=["a"]))
            scene.sim.refuse("/runs", status=403, times=3)
            async with stage.playing():
                await asyncio.sleep(60)
            assert stage.delivered_at.keys() == {"a"}

        play(script)
        assert log()
        assert all(line.endswith("The next poll continues with it.") for line in log())


class TestStorage:
    def test_cursor_is_stored_after_each_poll_and_confirmation(self, play):
        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen()
            async with stage.playing():
                [first] = ear.saved
                assert first == {FLOW: {"since": pytest.approx(EPOCH - OVERLAP, abs=0.2), "open": [], "delivered": {}}}
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(EVENT_GAP)
                polled, confirmed = (saved[FLOW] for saved in ear.saved[1:])
                assert (polled["open"], polled["delivered"]) == (["a"], {})
                assert polled["since"] == pytest.approx(EPOCH + INTERVAL - OVERLAP, abs=0.3)
                assert confirmed["open"] == []
                assert confirmed["delivered"] == {"a": pytest.approx(EPOCH + FRESH, abs=0.1)}
                await stage.events.confirm({})
                assert len(ear.saved) == 3, "nothing has changed"

        play(script)

    def test_failed_storage_is_retried_at_the_next_poll(self, play, log):
        async def script(scene):
            stage = Stage(scene)
            ears = stage.listen(), stage.listen(OTHER)
            ears[0].refusals.append(OSError("the database is away"))
            async with stage.playing():
                assert [len(ear.saved) for ear in ears] == [0, 1]
                await asyncio.sleep(15)
                assert [len(ear.saved) for ear in ears] == [1, 2]

        play(script)
        assert log() == ["Could not store which runs were delivered: the database is away"]


class TestShutdown:
    def test_followed_runs_are_dropped_with_the_last_listener(self, play):
        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "a", 10_000)
            stage.listen()
            async with stage.playing():
                others = {task for task in asyncio.all_tasks() if "_await" in repr(task)}
                assert len(others) == 1
            assert all(task.cancelled() for task in others)
            assert stage.events._followed == {}

        play(script)

    def test_new_reader_gets_unconfirmed_runs(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            stage.listen()
            async with stage.playing():
                scene.sim.start(FLOW, "a", 0.1)
                await asyncio.sleep(INTERVAL + EVENT_GAP)
            assert stage.delivered_at.keys() == {"a"}
            stage.batches.clear()
            stage.delivered_at.clear()
            async with stage.playing():
                await asyncio.sleep(EVENT_GAP)
            assert stage.delivered_at.keys() == {"a"}

        play(script)
