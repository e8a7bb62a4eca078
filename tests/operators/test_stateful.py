"""Any order of starts, deaths, retries, clears, kills and faults: never two live runs of a task, never one left behind.

The task is executed for real against an emulator; a worker dies by an exception that nothing handles, before or after
any of its requests, while it waits, or when it has returned and Airflow doesn't know. What a dead connection does to
held-open runs is for ``make chaos``, which kills processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airflow_provider_sim import watch
from airflow_provider_sim.client.blocking import SimClient
from airflow_provider_sim.emulator import BlockError, SimEmulator
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.triggers import sim as triggers
from tests.operators.conftest import TaskInstance, TaskState, fire

MODES = [{}, {"stream": True}, {"async_execution": True}, {"deferrable": True}]
FAULTS: list[tuple[str, dict[str, Any]] | None] = [
    None,
    ("drop_before_accept", {}),
    ("drop_after_accept", {"proxied": True}),
    ("half_answer", {}),
    ("server_error", {"status": 502, "page": True}),
    ("server_error", {"status": 503}),
    ("rate_limit", {"kind": "concurrency"}),
    ("rate_limit", {"kind": "requests"}),
]
MEANWHILE = ["it completes", "it fails", "somebody cancels it", "the worker dies", "the task is killed"]


class Died(BaseException):
    """What SIGKILL is to a worker: no code of it runs afterwards."""


class Tasks(RuleBasedStateMachine):
    """One task instance with its tries and generations, and the runs that it has in Sim."""

    sim: SimEmulator
    patch: pytest.MonkeyPatch

    @initialize(api=st.sampled_from(["v2", "legacy"]), mode=st.sampled_from(MODES))
    def begin(self, api: str, mode: dict[str, Any]) -> None:
        self.sim.reset()
        self.ended: dict[int, str] = {}
        self.generation_of: dict[str, int] = {}
        self.sim.workflow("w", inputs=None, duration=self.duration, block="Last")(self.body)
        self.sim.on_start("w", lambda run: self.generation_of.setdefault(run.run_id, self.generation))
        self.patch.setenv(
            "AIRFLOW_CONN_SIM_DEFAULT",
            f'{{"conn_type": "sim", "host": "{self.sim.url}", "password": "{self.sim.api_key}",'
            f' "extra": {{"api_version": "{api}", "workspace_id": "ws"}}}}',
        )
        self.mode = mode
        self.generation = 0
        self.numbers = 0
        self.context: dict[str, Any] = {
            "ti": TaskInstance(),
            "dag_run": SimpleNamespace(clear_number=0),
            "task_state_store": TaskState(),
        }
        self.trigger: Any = None
        self.finished = False
        self.result: Any = None

    # --- the workflow ------------------------------------------------------------------------------------------------

    def duration(self, given: dict[str, Any]) -> float:
        """Held-open runs end at once; the others when the test says so."""
        asynchronous = self.mode.get("async_execution") or self.mode.get("deferrable")
        return inf if asynchronous and given["number"] not in self.ended else 0.0

    def body(self, given: dict[str, Any]) -> Any:
        if self.ended.get(given["number"]) == "it fails":
            raise BlockError("as told")
        return {"number": given["number"]}

    def runs(self, *statuses: str, generation: int | None = None) -> list[Any]:
        """The runs that were really started, by status and generation."""
        return [
            run
            for run in self.sim.runs
            if run.refused is None
            and (not statuses or run.status in statuses)
            and (generation is None or self.generation_of.get(run.run_id) == generation)
        ]

    def end_all(self, how: str) -> None:
        for run in self.runs("running", "queued"):
            if how == "somebody cancels it":
                run.cancel()
            else:
                self.ended[run.input["number"]] = how

    # --- tries -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.finished and self.trigger is None)
    @rule(
        dies=st.one_of(st.none(), st.tuples(st.integers(1, 6), st.booleans())),
        meanwhile=st.sampled_from(MEANWHILE),
        fault=st.sampled_from(FAULTS),
        reported=st.booleans(),
    )
    def a_try(
        self, dies: tuple[int, bool] | None, meanwhile: str, fault: tuple[str, dict[str, Any]] | None, reported: bool
    ) -> None:
        """A worker executes the task."""
        self.numbers += 1
        task = self.operator()
        completed_before = self.runs("completed", generation=self.generation)
        started_before = len(self.runs())
        with contextlib.ExitStack() as stack:
            if fault:
                stack.enter_context(self.sim.fault(fault[0], match="execute", **fault[1]))
            stack.enter_context(self.deaths(dies, meanwhile, task))
            result = self.outcome(lambda: task.execute(self.context))
        if completed_before:
            assert len(self.runs()) == started_before, "a run that had completed was followed by another"
        self.after(result, reported)

    @precondition(lambda self: self.trigger is not None)
    @rule(
        how=st.sampled_from(MEANWHILE[:3]),
        dies=st.one_of(st.none(), st.tuples(st.integers(1, 4), st.booleans())),
        reported=st.booleans(),
    )
    def the_trigger_fires(self, how: str, dies: tuple[int, bool] | None, reported: bool) -> None:
        """The run ends, and a worker goes on with the task."""
        self.end_all(how)
        event = fire(self.trigger)
        self.trigger = None
        task = self.operator()
        with self.deaths(dies, "it completes", task):
            result = self.outcome(lambda: task.execute_complete(self.context, event))
        self.after(result, reported)

    @precondition(lambda self: self.trigger is not None)
    @rule(clears=st.booleans())
    def a_user_ends_the_deferral(self, clears: bool) -> None:
        """By clearing the task, or by marking it."""
        asyncio.run(self.trigger.on_kill())
        self.trigger = None
        assert self.runs("running", "queued") == [], "a run was left behind by a kill"
        self.new_try(cleared=clears)
        self.finished = not clears

    @rule()
    def a_user_clears_the_task(self) -> None:
        """Whatever has become of it."""
        assume(self.trigger is None and self.generation < 4)
        self.new_try(cleared=True)

    @precondition(lambda self: self.runs("running"))
    @rule(how=st.sampled_from(MEANWHILE[:3]))
    def a_run_ends(self, how: str) -> None:
        """While no worker looks."""
        assume(self.trigger is None)
        self.end_all(how)

    def operator(self) -> SimExecuteWorkflowOperator:
        return SimExecuteWorkflowOperator(
            task_id="t", workflow_id="w", input={"number": self.numbers}, poll_interval=0.01, **self.mode
        )

    def outcome(self, execute: Any) -> tuple[str, Any]:
        """What becomes of a worker's part in it."""
        try:
            return "returned", execute()
        except TaskDeferred as deferral:
            return "deferred", deferral.trigger
        except Died:
            return "died", None
        except AirflowException as error:
            return "failed", error

    def after(self, result: tuple[str, Any], reported: bool) -> None:
        """What Airflow makes of it."""
        what, value = result
        if what == "deferred":
            self.trigger = value
            return
        if what == "returned":
            [run] = self.runs("completed", generation=self.generation)
            assert value == {"number": run.input["number"]}, "the output is another run's"
            if reported:
                self.finished = True
                return
        self.new_try(cleared=False)

    def new_try(self, *, cleared: bool) -> None:
        ti = self.context["ti"]
        self.finished = False
        raised = ti.try_number + 2 if cleared else ti.max_tries
        if cleared:
            self.generation += 1
            self.context["dag_run"] = SimpleNamespace(clear_number=self.generation)
        self.context["ti"] = TaskInstance(ti.try_number + 1, max_tries=raised)

    @contextlib.contextmanager
    def deaths(self, dies: tuple[int, bool] | None, meanwhile: str, task: SimExecuteWorkflowOperator) -> Any:
        """Let the worker die before or after its nth request, and something happen while it waits."""
        sent = 0

        def exchange(client: SimClient, *args: Any, original: Any = SimClient._exchange) -> Any:
            nonlocal sent
            sent += 1
            mine = dies is not None and dies[0] == sent
            if mine and dies is not None and dies[1]:
                raise Died
            answer = original(client, *args)
            if mine:
                raise Died
            return answer

        def wait(client: SimClient, run_watch: watch.RunWatch, original: Any = watch.wait_for_run) -> Any:
            def sleep(_: float) -> None:
                if meanwhile == "the worker dies":
                    raise Died
                if meanwhile == "the task is killed":
                    task.on_kill()
                    assert self.runs("running", "queued", generation=self.generation) == [], "left behind by a kill"
                else:
                    self.end_all(meanwhile)

            return original(client, run_watch, sleep=sleep)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SimClient, "_exchange", exchange)
            patch.setattr(watch, "wait_for_run", wait)
            yield

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def at_most_one_live_run_for_each_generation(self) -> None:
        live = self.runs("running", "queued", generation=getattr(self, "generation", None)) if self.started else []
        assert len(live) <= 1, f"two runs at once: {[run.run_id for run in live]}"

    @invariant()
    def nothing_is_run_twice(self) -> None:
        if self.started:
            for generation in range(self.generation + 1):
                completed = self.runs("completed", generation=generation)
                assert len(completed) <= 1, f"completed twice: {[run.run_id for run in completed]}"

    @invariant()
    def nothing_is_left_of_a_task_that_is_over(self) -> None:
        if self.started and self.finished:
            assert self.runs("running", "queued", generation=self.generation) == []

    @property
    def started(self) -> bool:
        return hasattr(self, "generation")


@pytest.mark.filterwarnings("default")
def test_no_run_is_lost_doubled_or_left_behind(monkeypatch):
    monkeypatch.setattr(SimClient, "_sleep", staticmethod(lambda _: None))
    monkeypatch.setattr(triggers, "FIRST_LOOK_AFTER", 0.001)
    thorough = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
    with SimEmulator() as sim:
        Tasks.sim, Tasks.patch = sim, monkeypatch
        run_state_machine_as_test(
            Tasks,
            settings=settings(
                max_examples=400 if thorough else 30,
                stateful_step_count=25 if thorough else 12,
                deadline=None,
                derandomize=not thorough,
                suppress_health_check=list(HealthCheck),
            ),
        )
