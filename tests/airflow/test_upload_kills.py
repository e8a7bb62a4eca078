"""Tasks with uploads that are killed at each step, on a real Airflow: one run, and no upload left behind.

All cases run concurrently; the tests check the result of each.
"""

from __future__ import annotations

import base64
import itertools
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_sim.emulator import Match, SimEmulator
from airflow_provider_sim.emulator.files import StoredFile
from airflow_provider_sim.emulator.request_context import RecordedRequest
from scripts.crash_trials import runs_of
from scripts.real_airflow import REPO, RealAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.nightly, pytest.mark.filterwarnings("default")]

DAGS = REPO / "tests" / "airflow" / "dags_uploads"
PATIENCE = 150
AT_ONCE = 8
PLACES = ["waiting", "deferred"]
POINTS = {
    "before the uploads": (r"GET /api/v2/workflows/[^/]+$", 1),
    "after the first upload": (r"POST /api/v2/files$", 1),
    "after the second upload": (r"POST /api/v2/files$", 2),
    "before the start": None,
    "after the start": (r"POST .*/execute$", 1),
    "after the run": (r"GET /api/jobs/", 1),
    "after the first deletion": (r"DELETE /api/v2/files/", 1),
    "after the second deletion": (r"DELETE /api/v2/files/", 2),
}
"""When a worker is killed: before it gets the response to the nth request of this kind."""
ENDS = {"clear": "success", "mark failed": "failed"}
"""What a user does while the run is active, and the task's final state."""


@dataclass(frozen=True)
class Outcome:
    """Result of a case: the task, its runs by status, its uploads, and what is left of them."""

    state: str | None
    output: Any
    runs: list[str]
    uploads: int
    left: int


class Stage:
    """An Airflow and a Sim server that run cases."""

    def __init__(self, airflow: RealAirflow, sim: SimEmulator) -> None:
        self._airflow = airflow
        self._sim = sim

    def crash(self, place: str, point: str) -> Outcome:
        """Kill the task's worker once, and wait until the task has finished."""
        name = f"{place}-{point.replace(' ', '-')}"
        self._deploy(name, threading.Event(), lasts=False)
        killed = threading.Event()
        if request := POINTS[point]:
            self._kill_at(name, *request, killed)
            self._airflow.trigger(place, run_id=name)
        else:
            with self._sim.hold(Match(operation="execute", workflow_id=name)) as hold:
                self._airflow.trigger(place, run_id=name)
                hold.wait_until_held(PATIENCE)
                self._kill(name, killed)
                hold.wait_until_abandoned(PATIENCE)
        self._airflow.wait_until(killed.is_set, PATIENCE, f"{name} to be killed")
        return self._outcome(name)

    def end(self, place: str, event: str) -> Outcome:
        """Clear or mark the task while its run is active."""
        name = f"{place}-{event.replace(' ', '-')}"
        released = threading.Event()
        self._deploy(name, released, lasts=True)
        self._airflow.trigger(place, run_id=name)
        self._airflow.wait_until(lambda: bool(runs_of(self._sim, name)), PATIENCE, f"a run of {name}")
        state = "deferred" if place == "deferred" else "running"
        ti = self._airflow.wait_for(name, "run", state, patience=PATIENCE)
        if place == "deferred":
            self._airflow.wait_until(lambda: bool(self._airflow.waiting_in(name)), PATIENCE, f"{name} in a triggerer")
        self._airflow.clear(ti) if event == "clear" else self._airflow.mark(ti, "failed")

        def is_settled() -> bool:
            runs = runs_of(self._sim, name)
            return runs[0].status == "cancelled" and (event != "clear" or len(runs) == 2)

        self._airflow.wait_until(is_settled, PATIENCE, f"the run of {name} to be cancelled")
        released.set()
        return self._outcome(name)

    def _deploy(self, name: str, released: threading.Event, *, lasts: bool) -> None:
        def duration(given: Any) -> float:
            return float("inf") if lasts and not released.is_set() else 1.0

        @self._sim.workflow(name, inputs={"papers": "file[]"}, duration=duration)
        def read(given: Any) -> list[str]:
            return [base64.b64decode(file.get("base64", "")).decode() for file in given["papers"]]

    def _kill_at(self, name: str, pattern: str, count: int, killed: threading.Event) -> None:
        seen = Counter[bool]()

        def on_request(request: RecordedRequest) -> None:
            line = f"{request.method} {request.path.partition('?')[0]}"
            if re.match(pattern, line) and self._is_of(request, name):
                seen[True] += 1
                if seen[True] == count and not killed.is_set():
                    self._kill(name, killed)

        self._sim.on_request(on_request)

    def _is_of(self, request: RecordedRequest, name: str) -> bool:
        """Whether a request is about a task's workflow, its run or its files."""
        path = request.path.partition("?")[0]
        last = path.rpartition("/")[2].replace("%3A", ":").rpartition(":")[2]
        run = self._sim.state.runs.get(last)
        is_named = f"/{name}" in path or f"{name}-".encode() in request.body
        return is_named or last in [file.file_id for file in self._files(name)] or bool(run and run.workflow_id == name)

    def _files(self, name: str) -> list[StoredFile]:
        """All files that a task has uploaded, also deleted ones."""
        return [file for file in self._sim.state.files.all if f"{name}-" in file.name]

    def _kill(self, name: str, killed: threading.Event) -> None:
        worker = self._airflow.worker(self._airflow.task_instance(name, "run"))
        assert worker is not None
        worker.kill()
        killed.set()

    def _outcome(self, name: str) -> Outcome:
        ti = self._airflow.wait_for(name, "run", "success", "failed", patience=PATIENCE)
        gone = lambda: self._airflow.worker(ti) is None  # noqa: E731
        self._airflow.wait_until(gone, PATIENCE, f"the worker of {name} to be gone")
        uploads = self._files(name)
        left = [file for file in uploads if file.deleted_at is None]
        runs = [run.status for run in runs_of(self._sim, name)]
        return Outcome(ti.state, self._airflow.xcom(ti), runs, len(uploads), len(left))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The outcome of each case, or its error."""
    with SimEmulator() as sim:
        sim.state.limits.per_address = False
        extra = {"workspace_id": sim.workspace_id}
        connection = {"conn_type": "sim", "host": sim.url, "password": sim.api_key, "extra": extra}
        home = tmp_path_factory.mktemp("airflow") / "home"
        settings = {"AIRFLOW__CORE__PARALLELISM": str(2 * AT_ONCE)}
        with (
            RealAirflow(home, DAGS, connections={"sim_default": connection}, settings=settings) as airflow,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            stage = Stage(airflow, sim)
            cases = [(stage.crash, case) for case in itertools.product(PLACES, POINTS)]
            cases += [(stage.end, case) for case in itertools.product(PLACES, ENDS)]
            played = {case: pool.submit(play, *case) for play, case in cases}
            for future in played.values():
                future.exception()
            yield played


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("place", PLACES)
def test_killed_worker_leaves_one_run_and_no_upload(outcomes, place, point):
    outcome = outcomes[place, point].result()
    assert (outcome.state, outcome.output) == ("success", ["0", "1"])
    assert (outcome.runs, outcome.uploads, outcome.left) == (["completed"], 2, 0)


@pytest.mark.parametrize("event", ENDS)
@pytest.mark.parametrize("place", PLACES)
def test_unwanted_task_leaves_no_upload(outcomes, place, event):
    outcome = outcomes[place, event].result()
    assert outcome.state == ENDS[event]
    assert outcome.runs == ["cancelled", *(["completed"] if event == "clear" else [])]
    assert (outcome.uploads, outcome.left) == (2 * len(outcome.runs), 0)
