"""One stream of the runs that end, for all who listen: what is asked of Sim and when, what is told and written down."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from airflow_provider_sim.client.dialects.v2 import LISTED_STATUSES, LOGS_PAGE, RUNS_PAGE
from airflow_provider_sim.watch import events, run
from airflow_provider_sim.watch.events import LONGEST_PAUSE, MOST_ON_WAY, Listener, RunEvents, run_events_of
from airflow_provider_sim.watch.position import OVERLAP, Position
from tests.virtual_time import EPOCH, now

FLOW, OTHER = "flow", "other"
INTERVAL = 10.0
FRESH = 0.5
"""Seconds that are enough for the requests of one look."""


class Ear:
    """Somebody who listens, and what was written down for him.

    :ivar refusals: errors that writing down ends in, one after the other.
    """

    def __init__(
        self, watcher, *workflow_ids, interval=INTERVAL, workspace_id="space", connection="sim", position=None
    ):
        self.watcher, self.workspace_id = watcher, workspace_id
        self.saved, self.refusals, self.asked = [], [], 0
        self.listener = Listener(
            connection=connection,
            connect=self.connect,
            poll_interval=interval,
            workflow_ids=frozenset(workflow_ids),
            position=position,
            save=self.save,
        )

    async def connect(self):
        self.asked += 1
        if isinstance(self.watcher, Exception):
            raise self.watcher
        return self.watcher, self.workspace_id

    async def save(self, position):
        if self.refusals:
            raise self.refusals.pop()
        self.saved.append(position.as_json())


class Stage:
    """A server, a stream of its ended runs, and what the stream tells and when.

    :ivar told: run ids with the seconds since the beginning at which they came.
    """

    def __init__(self, scene, *, confirms=True):
        self.scene, self.sim = scene, scene.sim
        self.events = RunEvents()
        self.told = {}
        self.confirms = confirms
        self.sim.deploy(FLOW, OTHER)

    def listen(self, *workflow_ids, watcher=None, **how):
        ear = Ear(watcher or self.scene.watcher, *(workflow_ids or (FLOW,)), **how)
        self.events.join(ear.listener)
        return ear

    @contextlib.asynccontextmanager
    async def playing(self):
        """While the stream is read, from when it has looked for the first time."""
        reader = asyncio.create_task(self._read())
        await asyncio.sleep(FRESH)
        yield
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader  # which may have failed before

    async def _read(self):
        async for ended in self.events.ended():
            assert ended.run_id not in self.told, "each run is told once"
            self.told[ended.run_id] = now() - EPOCH
            if self.confirms:
                await self.events.confirm([ended])

    def looks(self, part="/logs?"):
        """When there was an answer to such a request."""
        return [round(when - EPOCH, 1) for when, path, _ in self.sim.requests if part in path]


@pytest.fixture(autouse=True)
def _virtual(monkeypatch):
    """The stream's clock is the event loop's, and an account is its watcher."""
    monkeypatch.setattr(events, "time", SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time()))
    monkeypatch.setattr(events, "watcher_of", lambda watcher: watcher)


@pytest.fixture
def log(caplog):
    """What the stream has logged."""
    caplog.set_level(logging.WARNING, "airflow_provider_sim.watch.events")
    return lambda: [record.getMessage() for record in caplog.records if record.name == events.__name__]


class TestTelling:
    def test_what_ends_from_now_on_and_nothing_before(self, play):
        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "ended", 5, ago=30)
            scene.sim.start(FLOW, "runs", 30, ago=10)
            scene.sim.start(OTHER, "unwanted", 5)
            stage.listen()
            async with stage.playing():
                await asyncio.sleep(5)
                scene.sim.start(FLOW, "later", 1)
                await asyncio.sleep(60)
            assert stage.told.keys() == {"later", "runs"}
            assert 10 <= stage.told["later"] < 11, "by the next look"
            assert 20 <= stage.told["runs"] < 31, "by the watcher, which looks every 10 s"

        play(script)

    @pytest.mark.parametrize("status", ["running", "paused"])
    def test_old_runs_that_go_on_are_found_by_their_status(self, play, status):
        how = {"end": "paused", "pause": 86400.0} if status == "paused" else {}

        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "old", 7250 if status == "running" else 10, ago=7200, **how)
            ear = stage.listen()
            async with stage.playing():
                assert ear.saved[-1]["open"] == {"old": FLOW}

        asked = Counter(
            parse_qs(urlsplit(path).query)["status"][0]
            for _, path, _ in play(script).sim.requests
            if "/runs?" in path and "status=" in path and "limit=100" in path
        )
        assert asked == Counter(list(LISTED_STATUSES)), "once each, and only when somebody comes for the first time"

    def test_in_the_order_of_their_starts_with_all_pages(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(interval=50.0)
            async with stage.playing():
                for number in range(LOGS_PAGE + 5):
                    scene.sim.start(FLOW, f"run-{number:04}", 1)
                    await asyncio.sleep(0.01)
                before = len(stage.looks())
                await asyncio.sleep(60)
            assert list(stage.told) == [f"run-{number:04}" for number in range(LOGS_PAGE + 5)]
            assert len(stage.looks()) - before == 2, "two pages"

        play(script)

    def test_all_pages_of_those_that_go_on(self, play):
        async def script(scene):
            stage = Stage(scene)
            for number in range(RUNS_PAGE + 5):
                scene.sim.start(FLOW, f"run-{number}", 7300 + number, ago=7200)
            ear = stage.listen(interval=50.0)
            async with stage.playing():
                pass
            assert len(ear.saved[-1]["open"]) == RUNS_PAGE + 5

        play(script)

    def test_only_so_many_before_it_is_certain_that_the_first_were_told(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            ear = stage.listen()
            async with stage.playing():
                for number in range(MOST_ON_WAY + 3):
                    scene.sim.start(FLOW, f"run-{number}", 1)
                await asyncio.sleep(60)
                assert len(stage.told) == len(ear.listener.position.on_way) == MOST_ON_WAY
                first = next(iter(stage.told))
                await stage.events.confirm([model(first)])
                await asyncio.sleep(FRESH)
                assert len(stage.told) == MOST_ON_WAY + 1, "one for one"
                await stage.events.confirm(map(model, list(stage.told)))
                await asyncio.sleep(FRESH)
                assert len(stage.told) == MOST_ON_WAY + 3

        play(script)

    def test_to_all_who_want_it_at_once(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            both, one = stage.listen(FLOW, OTHER), stage.listen(OTHER)
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                scene.sim.start(OTHER, "b", 1)
                await asyncio.sleep(15)
                on_way = [ear.listener.position.on_way for ear in (both, one)]
                assert on_way == [{"a", "b"}, {"b"}]
                await stage.events.confirm([model("b")])
                assert on_way == [{"a"}, set()]
            assert stage.told.keys() == {"a", "b"}

        play(script)

    def test_whoever_reads_anew_hears_again_of_what_was_not_confirmed(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            ear = stage.listen()
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(15)
            stage.told.clear()
            stage.events.leave(ear.listener)
            position = Position.of_json(ear.saved[-1])
            assert position.open == {"a": FLOW}
            stage.listen(position=position)
            async with stage.playing():
                pass
            assert stage.told.keys() == {"a"}

        play(script)


class TestLooks:
    def test_as_often_as_the_most_impatient_wants_and_no_longer(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(interval=30.0)
            async with stage.playing():
                await asyncio.sleep(65)
                assert [round(when, -1) for when in stage.looks()] == [0, 0, 30, 60], "the first takes a list more"
                eager = stage.listen(OTHER, interval=5.0)
                await asyncio.sleep(14)
                assert [round(when) for when in stage.looks()[4:]] == [66, 66, 71, 76]
                before = len(stage.looks())
                stage.events.leave(eager.listener)
                await asyncio.sleep(40)
                assert len(stage.looks()) - before == 2, "one that was due, and one after thirty seconds"

        play(script)

    def test_none_where_nobody_listens(self, play):
        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen()
            async with stage.playing():
                stage.events.leave(ear.listener)
                before = len(scene.sim.requests)
                await asyncio.sleep(600)
                assert len(scene.sim.requests) == before
                stage.listen(position=ear.listener.position)
                await asyncio.sleep(FRESH)
                assert len(scene.sim.requests) == before + 1, "at once"

        play(script)

    def test_what_they_ask(self, play):
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

    def test_one_for_all_from_the_earliest_position_on(self, play):
        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "a", 1, ago=500)
            scene.sim.start(FLOW, "b", 1, ago=50)
            late = stage.listen(position=Position(since=now() - 100))
            early = stage.listen(position=Position(since=now() - 1000))
            async with stage.playing():
                pass
            assert len(stage.looks()) == 1
            assert (late.asked, early.asked) == (1, 0), "one connection"
            assert stage.told.keys() == {"a", "b"}

        play(script)

    def test_each_server_and_key_by_itself(self, play):
        async def script(scene):
            stage = Stage(scene)
            another = scene.another_watcher()
            ears = [stage.listen(), stage.listen(watcher=another, connection="another")]
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(15)
            assert [ear.asked for ear in ears] == [2, 2]
            assert len(stage.looks()) == 2 * 3
            assert all("a" in ear.saved[-1]["told"] for ear in ears)

        play(script)


class TestWorkspaces:
    def test_are_asked_for_once_where_the_connection_names_none(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(FLOW, OTHER, workspace_id=None)
            async with stage.playing():
                scene.sim.start(FLOW, "a", 25)
                await asyncio.sleep(60)
            assert stage.told.keys() == {"a"}
            asked = Counter(urlsplit(path).path for _, path, _ in scene.sim.requests if path.endswith((FLOW, OTHER)))
            assert asked == {f"/api/v2/workflows/{FLOW}": 1, f"/api/v2/workflows/{OTHER}": 1}

        play(script)

    def test_are_not_asked_for_where_it_does(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen()
            async with stage.playing():
                await asyncio.sleep(60)

        assert not [path for _, path, _ in play(script).sim.requests if path.endswith(FLOW)]

    def test_a_workflow_that_is_not_there_keeps_nobody_waiting(self, play, log):
        async def script(scene):
            stage = Stage(scene)
            stage.listen("absent", FLOW, workspace_id=None)
            async with stage.playing():
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(12)
                assert stage.told.keys() == {"a"}
                assert len(log()) == 2, "once a look"
                assert all(
                    "absent" in line and line.endswith("Its runs are not told until it is there.") for line in log()
                )
                scene.sim.deploy("absent")
                scene.sim.start("absent", "b", 1)
                await asyncio.sleep(12)
                assert stage.told.keys() == {"a", "b"}

        play(script)


class TestFailures:
    def test_looks_become_rarer_and_go_on_as_before_after_a_good_one(self, play, log):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(position=Position(since=now()))
            scene.sim.refuse("/logs?", status=500, times=8)
            async with stage.playing():
                await asyncio.sleep(20 + 40 + 80 + 160 + 320 + 3 * LONGEST_PAUSE + 2 * INTERVAL + 5)
            looks = stage.looks()
            pauses = [round(later - earlier) for earlier, later in itertools.pairwise(looks)]
            assert pauses == [20, 40, 80, 160, 320, 600, 600, 600, 10, 10]
            assert log()[0].endswith("Looking for ended runs again in 20 s (1 failed in a row).")
            assert log()[-1].endswith("Looking for ended runs again in 600 s (8 failed in a row).")

        play(script)

    def test_are_counted_from_the_last_good_look(self, play, log):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(position=Position(since=now()))
            async with stage.playing():
                for _ in range(2):
                    scene.sim.refuse("/logs?", status=500, times=1)
                    await asyncio.sleep(45)

        play(script)
        assert [line.partition("again in ")[2] for line in log()] == ["20 s (1 failed in a row)."] * 2

    def test_of_impatient_ones_are_a_second_apart_at_least(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(interval=0.1, position=Position(since=now()))
            scene.sim.refuse("/logs?", status=500, times=2)
            async with stage.playing():
                await asyncio.sleep(6.3)
            looks = stage.looks()
            assert [round(later - earlier) for earlier, later in itertools.pairwise(looks)][:2] == [2, 4]

        play(script)

    @pytest.mark.parametrize(("asked", "waits"), [(45, 45), (3, 10)])
    def test_a_limit_is_waited_for_as_long_as_sim_says(self, play, asked, waits):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(position=Position(since=now()))
            busy = {"error": {"code": "RATE_LIMITED", "message": "slowly"}}
            answers = [httpx.Response(429, json=busy, headers={"Retry-After": str(asked)})]
            scene.sim.fault = lambda request: answers.pop() if answers else None
            async with stage.playing():
                await asyncio.sleep(100)
            first, second, *_ = stage.looks()
            assert waits <= second - first < waits + 3

        play(script)

    def test_what_is_no_answer_of_sim_s_is_in_the_log_with_its_trace(self, play, log, caplog):
        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen(watcher=ValueError("no such connection"))
            async with stage.playing():
                assert log() == ["Looking for ended runs again in 20 s (1 failed in a row)."]
                assert "no such connection" in caplog.text
                ear.watcher = scene.watcher
                scene.sim.start(FLOW, "a", 40)
                await asyncio.sleep(60)
            assert stage.told.keys() == {"a"}

        play(script)

    def test_who_comes_is_heard_at_once(self, play):
        async def script(scene):
            stage = Stage(scene)
            stage.listen(position=Position(since=now()))
            scene.sim.refuse("/logs?", status=500, times=3)
            async with stage.playing():
                await asyncio.sleep(100)
                before = len(stage.looks())
                stage.listen(OTHER, position=Position(since=now()))
                await asyncio.sleep(FRESH)
                assert len(stage.looks()) == before + 1

        play(script)

    def test_a_run_that_is_gone_is_given_up(self, play, log, monkeypatch):
        monkeypatch.setattr(run, "NOT_FOUND_GRACE", -1.0)

        async def script(scene):
            stage = Stage(scene)
            gone = scene.sim.start(FLOW, "gone", 10_000)
            ear = stage.listen()
            async with stage.playing():
                assert ear.saved[-1]["open"] == {"gone": FLOW}
                scene.sim.forget(gone)
                await asyncio.sleep(600)
                assert ear.saved[-1]["open"] == {}
                before = scene.sim.sent("/runs/gone")
                await asyncio.sleep(600)
                assert scene.sim.sent("/runs/gone") == before
            assert stage.told == {}

        play(script)
        [line] = log()
        assert "gone" in line
        assert line.endswith("Its end isn't told.")

    def test_a_run_that_cannot_be_looked_at_is_followed_anew(self, play, log):
        async def script(scene):
            stage = Stage(scene)
            scene.sim.start(FLOW, "a", 30, ago=10)
            stage.listen(position=Position(since=now(), open={"a": FLOW}))
            scene.sim.refuse("/runs", status=403, times=3)
            async with stage.playing():
                await asyncio.sleep(60)
            assert stage.told.keys() == {"a"}

        play(script)
        assert log()
        assert all(line.endswith("The next look goes on with it.") for line in log())


class TestWritingDown:
    def test_after_each_look_and_each_confirmation(self, play):
        async def script(scene):
            stage = Stage(scene)
            ear = stage.listen()
            async with stage.playing():
                [first] = ear.saved
                assert first == {"since": pytest.approx(EPOCH - OVERLAP, abs=0.2), "open": {}, "told": {}}
                scene.sim.start(FLOW, "a", 1)
                await asyncio.sleep(INTERVAL)
                looked, confirmed = ear.saved[1:]
                assert (looked["open"], looked["told"]) == ({"a": FLOW}, {})
                assert looked["since"] == pytest.approx(EPOCH + INTERVAL - OVERLAP, abs=0.3)
                assert (confirmed["open"], confirmed["told"]) == ({}, {"a": pytest.approx(EPOCH + FRESH, abs=0.1)})
                await stage.events.confirm([])
                await stage.events.confirm([model("a"), model("unknown")])
                assert len(ear.saved) == 3, "nothing has changed"

        play(script)

    def test_is_tried_again(self, play, log):
        async def script(scene):
            stage = Stage(scene)
            ears = stage.listen(), stage.listen(OTHER)
            ears[0].refusals.append(OSError("the database is away"))
            async with stage.playing():
                assert [len(ear.saved) for ear in ears] == [0, 1]
                await stage.events.confirm([])
                assert [len(ear.saved) for ear in ears] == [1, 1]

        play(script)
        assert log() == ["The position in Sim's runs could not be written down: the database is away"]


class TestTheEnd:
    def test_nobody_waits_any_longer_for_the_runs_that_were_followed(self, play):
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

    def test_what_was_found_before_a_reader_went_is_found_again(self, play):
        async def script(scene):
            stage = Stage(scene, confirms=False)
            ear = stage.listen()
            reader = stage.events.ended()
            for number in range(3):
                scene.sim.start(FLOW, f"run-{number}", 0.1)
            ear.listener.position = Position(since=now())
            await asyncio.sleep(1)
            assert (await anext(reader)).run_id == "run-0"
            await reader.aclose()
            ear.listener.position = Position.of_json(ear.listener.position.as_json())
            async with stage.playing():
                pass
            assert list(stage.told) == ["run-0", "run-1", "run-2"]

        play(script)


class TestSharing:
    def test_one_stream_for_each_account_whatever_the_connection_s_name(self):
        async def main():
            one = run_events_of("a", "account")
            assert run_events_of("a") is run_events_of("b", "account") is run_events_of("b") is one
            another = run_events_of("a", "another account")
            assert another is not one
            assert run_events_of("a") is another
            assert run_events_of("b") is one
            with pytest.raises(KeyError):
                run_events_of("c")
            return one

        assert asyncio.run(main()) is not asyncio.run(main()), "each event loop has its own"

    def test_those_of_a_closed_loop_are_forgotten(self):
        async def main():
            run_events_of("a", "account")
            return asyncio.get_running_loop()

        first = asyncio.run(main())
        asyncio.run(main())
        assert first not in events._streams


def model(run_id):
    """A run as a list tells it, as far as confirming asks for it."""
    return SimpleNamespace(run_id=run_id, began=now())
