"""What happens to a run in Sim when its task is no longer wanted, or only moves: on a real Airflow, process by process.

All cases run concurrently; the tests check the result of each.
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import Match, SimEmulator
from scripts.crash_trials import runs_of
from scripts.real_airflow import RealAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.nightly, pytest.mark.filterwarnings("default")]

DAGS = Path(__file__).parent / "dags"
PLACES = ["waiting", "held_open", "deferred"]
PATIENCE = 180
AT_ONCE = 6
SETTLED = 4.0
"""Seconds in which a run would be cancelled, if anybody were to."""

UNWANTED = {
    "clear": "success",
    "mark failed": "failed",
    "mark success": "success",
    "task timeout": "failed",
    "run timeout": "failed",
}
"""What can happen to a task whose run is no longer wanted then, and how the task ends."""
MOVED = ["triggerer restarted", "triggerer killed", "triggerer hung"]
"""How a task's triggerer can go away while the task waits; one that hangs comes back when another has taken over."""


@dataclass(frozen=True)
class Outcome:
    """Result of a case.

    :param fates: the status of each run once the task had settled, in the order of their start.
    :param state: the task's in the end.
    """

    fates: list[str]
    state: str | None
    log: str


class Stage:
    """An Airflow and a Sim server that run cases."""

    def __init__(self, airflow: RealAirflow, sim: SimEmulator) -> None:
        self._airflow = airflow
        self._sim = sim

    def play(self, event: str, place: str, cancel: bool) -> Outcome:
        """Start a task, cause the event, and read its runs until the task has ended."""
        ends = threading.Event()
        name = self.begin(event, place, cancel, ends)
        self.do(event, name)
        if event == "end":
            ends.set()
        if event == "clear":
            self._await(lambda: self._is_on_its_second_try(name, place), f"{name} to start anew")
        else:
            self._airflow.wait_for(name, "run", UNWANTED.get(event, "success"), patience=PATIENCE)
        self._await(lambda: not self._has_worker(name) or event == "clear", f"the worker of {name} to be gone")
        if cancel and event != "end":
            self._await(lambda: runs_of(self._sim, name)[0].status != "running", f"the run of {name} to be cancelled")
            runs = 2 if event == "clear" else 1
            self._await(lambda: len(runs_of(self._sim, name)) >= runs, f"{runs} runs of {name}")
        else:
            time.sleep(SETTLED)
        fates = [run.status for run in runs_of(self._sim, name)]
        ends.set()
        ti = self._airflow.wait_for(name, "run", "success", "failed", patience=PATIENCE)
        return Outcome(fates, ti.state, self._airflow.log(ti))

    def begin(self, event: str, place: str, cancel: bool, ends: threading.Event) -> str:
        """Start a task, wait until it waits for its run, and keep the run active until the event is set."""
        limit = f"_{event.replace(' ', '_')}" if event.endswith("timeout") else ""
        name = f"{event.replace(' ', '-')}-{place}-{'cancel' if cancel else 'leave'}"
        self._sim.workflow(name, duration=lambda _: 0.0 if ends.is_set() else float("inf"))(lambda given: {"done": 1})
        if place == "deferred":
            # Airflow cancels a trigger again after a second, while it is still about cancelling its run.
            self._sim.fault("delay", match=Match(operation="cancel", workflow_id=name), seconds=2.5)
        self._airflow.trigger(f"{place}{limit}_{'cancel' if cancel else 'leave'}", run_id=name)
        self._await(lambda: bool(runs_of(self._sim, name)), f"a run of {name}")
        if place == "deferred":
            self._await(lambda: bool(self._airflow.waiting_in(name)), f"{name} to wait in a triggerer")
            self._await_looks(name)
        else:
            self._airflow.wait_for(name, "run", "running", "failed", patience=PATIENCE)
        return name

    def do(self, event: str, name: str) -> None:
        """Act as a user in the UI; timeouts need no action."""
        ti = self._airflow.task_instance(name, "run")
        if event == "clear":
            self._airflow.clear(ti)
        elif event.startswith("mark "):
            self._airflow.mark(ti, event.removeprefix("mark "))

    def move(self) -> dict[bool, dict[str, Outcome]]:
        """Take the triggerer from two deferred tasks in each way, and read their runs each time."""
        ends = threading.Event()
        names = {cancel: self.begin("moved", "deferred", cancel, ends) for cancel in (True, False)}
        fates: dict[str, dict[bool, list[str]]] = {}
        for event in MOVED:
            self._lose_triggerer(event, list(names.values()))
            fates[event] = {cancel: [run.status for run in runs_of(self._sim, name)] for cancel, name in names.items()}
        ends.set()
        ended = {
            cancel: self._airflow.wait_for(name, "run", "success", "failed", patience=PATIENCE)
            for cancel, name in names.items()
        }
        return {
            cancel: {event: Outcome(fates[event][cancel], ti.state, self._airflow.log(ti)) for event in MOVED}
            for cancel, ti in ended.items()
        }

    def _lose_triggerer(self, event: str, names: list[str]) -> None:
        """Stop the triggerer and wait until another one polls the runs."""
        (victim,) = self._airflow.triggerers
        take_away = {
            "triggerer restarted": self._airflow.stop_triggerer,
            "triggerer killed": self._airflow.kill_triggerer,
            "triggerer hung": self._airflow.freeze_triggerer,
        }[event]
        take_away(victim)
        self._airflow.start_triggerer()

        def is_taken_over() -> bool:
            by = [self._airflow.waiting_in(name) for name in names]
            return all(by) and not any(victim in places for places in by)

        self._await(is_taken_over, "another triggerer to take over")
        if event == "triggerer hung":
            self._airflow.thaw_triggerer(victim)
            time.sleep(SETTLED)
        for name in names:
            self._await_looks(name)

    def _await_looks(self, name: str) -> None:
        """Wait until the trigger has polled the run, alone or in a list."""
        seen = len(self._sim.requests)

        def looks() -> list[str]:
            paths = [request.path for request in self._sim.requests[seen:] if request.method == "GET"]
            return [path for path in paths if f"/{name}/runs" in path or ("/logs?" in path and name in path)]

        self._await(lambda: bool(looks()), f"looks at {name}")

    def _is_on_its_second_try(self, name: str, place: str) -> bool:
        ti = self._airflow.task_instance(name, "run")
        return ti.try_number == 2 and ti.state == ("deferred" if place == "deferred" else "running")

    def _has_worker(self, name: str) -> bool:
        return self._airflow.worker(self._airflow.task_instance(name, "run")) is not None

    def _await(self, condition, what: str) -> None:
        self._airflow.wait_until(condition, PATIENCE, what)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with SimEmulator() as sim:
        connections = {"sim_default": {"conn_type": "sim", "host": sim.url, "password": sim.api_key}}
        settings = {"AIRFLOW__CORE__PARALLELISM": str(2 * AT_ONCE)}
        home = tmp_path_factory.mktemp("airflow") / "home"
        with RealAirflow(home, DAGS, connections=connections, settings=settings) as airflow:
            yield Stage(airflow, sim)


@pytest.fixture(scope="module")
def unwanted(stage):
    """The outcome of each case in which the run is no longer wanted, or its error."""
    cases = [*itertools.product(UNWANTED, PLACES, (True, False)), *(("end", place, True) for place in PLACES)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(cases, [pool.submit(stage.play, *case) for case in cases], strict=True))


@pytest.fixture(scope="module")
def moved(stage, unwanted):
    """The outcome of each case in which only the triggerer changes, when all others are over."""
    return stage.move()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("event", UNWANTED)
def test_killed_task_cancels_its_run(unwanted, event, place):
    outcome = unwanted[event, place, True].result()
    assert outcome.fates[0] == "cancelled"
    assert outcome.state == UNWANTED[event]
    assert len(outcome.fates) == (2 if event == "clear" else 1), "a cleared task runs afresh"
    assert "cancelled" in outcome.log, "the log says what cancelling achieved"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("event", UNWANTED)
def test_cancel_on_kill_false_leaves_the_run(unwanted, event, place):
    outcome = unwanted[event, place, False].result()
    assert outcome.state == UNWANTED[event]
    # Sim itself cancels a run whose caller hangs up.
    assert outcome.fates[0] == ("cancelled" if place == "held_open" else "running")
    if event != "clear":
        assert len(outcome.fates) == 1
    elif place == "waiting":
        # Airflow counts the clearing of a running task as one only if its worker ends in time.
        assert len(outcome.fates) in (1, 2)
    else:
        assert len(outcome.fates) == 2, "a cleared task runs afresh"


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("event", MOVED)
def test_killed_sensor_leaves_the_run(moved, event, cancel):
    outcome = moved[cancel][event]
    assert outcome.fates == ["running"]
    assert outcome.state == "success"


@pytest.mark.parametrize("place", PLACES)
def test_finished_task_cancels_nothing(unwanted, place):
    outcome = unwanted["end", place, True].result()
    assert outcome.fates == ["completed"]
    assert outcome.state == "success"
