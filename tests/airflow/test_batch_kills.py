"""Batches whose worker or triggerer is killed on a real Airflow."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.request_context import RecordedRequest
from airflow_provider_sim.emulator.runs import Run
from scripts.crash_trials import runs_of
from scripts.real_airflow import REPO, RealAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.nightly, pytest.mark.filterwarnings("default")]

DAGS = REPO / "tests" / "airflow" / "dags_batch"
PATIENCE = 400
AT_ONCE = 3
CLEARED_AT = 25


@dataclass(frozen=True)
class Case:
    """A kill or clear, and its moment.

    :param place: ``worker``, ``deferred``, or ``deferred_freely`` without a limit on concurrent runs.
    :param do: kills or clears the task.
    :param at: number of started runs; the last start has no response yet.
    :param fetched: or number of requested outputs.
    :param count: number of inputs.
    """

    place: str
    do: str
    at: int = 0
    fetched: int = 0
    count: int = 60


CASES = {
    "worker killed while it starts runs": Case("worker", "kill", at=25),
    "worker killed before it defers": Case("deferred", "kill", at=5),
    "worker killed while it gathers the outputs": Case("deferred", "kill", fetched=20),
    "cleared while a worker starts runs": Case("worker", "clear", at=CLEARED_AT),
    "cleared while the triggerer starts runs": Case("deferred", "clear", at=CLEARED_AT),
    "triggerer killed while it starts runs": Case("deferred", "kill triggerer", at=25),
    "triggerer killed, 10000 inputs": Case("deferred_freely", "kill triggerer", at=3000, count=10_000),
}
CLEARED = [name for name, case in CASES.items() if case.do == "clear"]
KILLED = [name for name in CASES if name not in CLEARED]


@dataclass(frozen=True)
class Outcome:
    """Result of a case.

    :param runs: by batch ID, in the order of their start.
    :param output: the task's XCom.
    """

    state: str | None
    tries: int
    runs: dict[str, list[Run]]
    output: Any
    keys: set[str]


class Stage:
    """An Airflow and a Sim server that run cases."""

    def __init__(self, airflow: RealAirflow, sim: SimEmulator) -> None:
        self._airflow = airflow
        self._sim = sim

    def play(self, name: str, case: Case) -> Outcome:
        """Run a batch with the case's kill, and return its result."""
        run_id = name.replace(" ", "-").replace(",", "")
        lasts = threading.Event()
        if case.do == "clear":
            lasts.set()
        self._sim.workflow(
            run_id, duration=lambda given: float("inf") if lasts.is_set() and given["number"] >= CLEARED_AT - 5 else 0.5
        )(lambda given: {"double": 2 * given["number"]})
        happened = self._once(run_id, case, lambda: self._do(run_id, case.do))
        self._airflow.trigger(f"batch_{case.place}", {"count": case.count}, run_id=run_id)
        self._airflow.wait_until(happened.is_set, PATIENCE, f"{name} to happen")
        if case.do == "kill triggerer":
            self._airflow.start_triggerer()
        else:
            self._airflow.wait_until(lambda: self._is_on_its_second_try(run_id), PATIENCE, f"{name} to go on")
        if case.do == "clear":
            self._airflow.wait_until(
                lambda: self._has_cancelled(run_id), PATIENCE, f"the runs of {name} to be cancelled"
            )
            lasts.clear()
        ti = self._airflow.wait_for(run_id, "run", "success", "failed", patience=PATIENCE)
        batches: dict[str, list[Run]] = {}
        for run in runs_of(self._sim, run_id):
            batches.setdefault(run.run_id.rpartition("-")[0], []).append(run)
        rows = self._airflow.query("SELECT key, value FROM xcom WHERE run_id = :run_id", run_id=run_id)
        keys = {row.key for row in rows if row.value not in ("", '""')}
        own = {key for key in keys if not key.startswith("_link_")}  # Airflow's
        return Outcome(ti.state, ti.try_number, batches, self._airflow.xcom(ti), own)

    def _once(self, run_id: str, case: Case, do: Callable[[], None]) -> threading.Event:
        """Act in the emulator's thread before the counted request is answered."""
        happened, seen = threading.Event(), Counter[str]()
        batch: list[str] = []

        def started(run: Run) -> None:
            if run.workflow_id == run_id:
                batch[:] = batch or [run.run_id.rpartition("-")[0]]
                count("started", case.at)

        def asked(request: RecordedRequest) -> None:
            if "/api/jobs/" in request.path and batch and batch[0] in request.path:
                count("fetched", case.fetched)

        def count(what: str, enough: int) -> None:
            seen[what] += 1
            if seen[what] == enough:
                do()
                happened.set()

        self._sim.state.start_listeners.append(started)
        self._sim.on_request(asked)
        return happened

    def _has_cancelled(self, run_id: str) -> bool:
        runs = runs_of(self._sim, run_id)
        first = runs[0].run_id.rpartition("-")[0]
        return all(run.is_over for run in runs if run.run_id.startswith(first))

    def _do(self, run_id: str, what: str) -> None:
        if what == "kill triggerer":
            [victim] = self._airflow.triggerers
            self._airflow.kill_triggerer(victim)
            return
        ti = self._airflow.task_instance(run_id, "run")
        if what == "clear":
            threading.Thread(target=self._airflow.clear, args=[ti]).start()  # it is answered after the killing
            return
        worker = self._airflow.worker(ti)
        assert worker is not None
        worker.kill()

    def _is_on_its_second_try(self, run_id: str) -> bool:
        return self._airflow.task_instance(run_id, "run").try_number == 2


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Return the result or error of each case; kills of triggerers are last."""
    with SimEmulator() as sim:
        sim.state.limits.per_address = False  # all cases have the same
        connection = {"conn_type": "sim", "host": sim.url, "password": sim.api_key}
        connections = {"sim_default": connection, "sim_legacy": {**connection, "extra": {"api_version": "legacy"}}}
        home = tmp_path_factory.mktemp("airflow") / "home"
        with RealAirflow(home, DAGS, connections=connections) as airflow, ThreadPoolExecutor(AT_ONCE) as pool:
            stage = Stage(airflow, sim)
            together = [name for name, case in CASES.items() if case.do != "kill triggerer"]
            played = {name: pool.submit(stage.play, name, CASES[name]) for name in together}
            for future in played.values():
                future.exception()
            for name in CASES:
                if name not in played:
                    played[name] = pool.submit(stage.play, name, CASES[name])
                    played[name].exception()
            yield played


def completed(runs: list[Run]) -> Counter[int]:
    """How often each input's run has completed."""
    return Counter(run.input["number"] for run in runs if run.status == "completed")


@pytest.mark.parametrize("name", KILLED)
def test_each_input_has_one_run_after_kills(outcomes, name):
    outcome, case = outcomes[name].result(), CASES[name]
    assert outcome.state == "success"
    [runs] = outcome.runs.values()
    assert len(runs) == case.count
    assert completed(runs) == Counter(range(case.count))
    assert outcome.tries == (1 if case.do == "kill triggerer" else 2)


@pytest.mark.parametrize("name", CLEARED)
def test_cleared_batch_cancels_old_runs_and_starts_new_ones(outcomes, name):
    outcome, case = outcomes[name].result(), CASES[name]
    assert outcome.state == "success"
    first, second = outcome.runs.values()
    assert CLEARED_AT <= len(first) < case.count, "it was cleared in the middle"
    assert {run.status for run in first} == {"completed", "cancelled"}
    assert len(second) == case.count
    assert completed(second) == Counter(range(case.count))


@pytest.mark.parametrize("name", CASES)
def test_results_are_in_the_order_of_the_inputs(outcomes, name):
    outcome, case = outcomes[name].result(), CASES[name]
    assert outcome.output == [{"double": 2 * number} for number in range(case.count)]
    assert outcome.keys == {"return_value", "batch_id", "batch_counts", "workflow_url"}, "no inputs are left behind"
