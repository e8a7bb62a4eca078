"""Any order of starts, deaths, retries, clears, kills and faults: never two live runs of a task, never one left behind.

The task is executed for real against an emulator; a worker dies by an exception that nothing handles: before or after
any of its requests, entries and XComs, while a start of it is still on its way (it arrives later, or never), while it
waits, or when it has returned and Airflow doesn't know. What a dead connection does to held-open runs is for ``make
chaos``, which kills processes.

Without a task state store, as before Airflow 3.3, the same holds, but for a cleared task: a run that is then still
active isn't cancelled by the next try.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowTaskTimeout, TaskDeferred
from hypothesis import HealthCheck, assume, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airflow_provider_sim import polling
from airflow_provider_sim.client.api.http import Request
from airflow_provider_sim.client.methods import perform
from airflow_provider_sim.client.sync_client import SimClient, WorkflowStream
from airflow_provider_sim.emulator import BlockError, SimEmulator
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.polling import poll_state
from tests.operators.conftest import TaskInstance, TaskState, fire

MODES: dict[str, dict[str, Any]] = {
    "held open": {},
    "streamed": {"stream": True},
    "asynchronous": {"async_execution": True},
    "deferrable": {"deferrable": True},
    "not waiting": {"wait_for_completion": False},
    "with files, asynchronous": {"async_execution": True, "files": True},
    "with files, deferrable": {"deferrable": True, "files": True},
}
FAULTS: list[tuple[str, dict[str, Any]] | None] = [
    None,
    ("drop_before_accept", {}),
    ("drop_after_accept", {"proxied": True}),
    ("half_answer", {}),
    ("server_error", {"status": 502, "page": True}),
    ("server_error", {"status": 503}),
    ("rate_limit", {"kind": "concurrency"}),
    ("rate_limit", {"kind": "requests"}),
    ("ambiguous_enqueue", {"started": True}),
    ("ambiguous_enqueue", {"started": False}),
]
ENDS = ["it completes", "it fails", "a user cancels it"]
MEANWHILE = [*ENDS, "the worker dies", "the task is killed", "the task's time is up", "the server restarts"]
DEATHS = st.one_of(
    st.none(), st.tuples(st.integers(1, 12), st.sampled_from(["before", "after", "while it is on its way"]))
)
"""When a worker dies: at which of its requests, entries and XComs."""


class Died(BaseException):
    """What SIGKILL is to a worker: no code of it runs afterwards."""


class Tasks(RuleBasedStateMachine):
    """One task instance with its tries and generations, and the runs that it has in Sim."""

    sim: SimEmulator
    patch: pytest.MonkeyPatch
    mode: dict[str, Any]
    stored: bool

    @initialize(api=st.sampled_from(["v2", "legacy"]), queues=st.booleans())
    def begin(self, api: str, queues: bool) -> None:
        api = "v2" if "files" in self.mode else api
        self.sim.reset()
        self.sim.state.queue_delay = 1e6 if queues else 0.0
        self.ended: dict[int, str] = {}
        self.generation_of: dict[str, int] = {}
        self.sim.workflow("w", inputs=None, duration=self.duration, block="Last")(self.body)
        self.sim.on_start("w", lambda run: self.generation_of.setdefault(run.run_id, self.generation))
        self.patch.setenv(
            "AIRFLOW_CONN_SIM_DEFAULT",
            f'{{"conn_type": "sim", "host": "{self.sim.url}", "password": "{self.sim.api_key}",'
            f' "extra": {{"api_version": "{api}", "workspace_id": "{self.sim.workspace_id}"}}}}',
        )
        self.generation = 0
        self.numbers = 0
        self.context: dict[str, Any] = {"ti": TaskInstance(), "dag_run": self.dag_run()}
        if self.stored:
            self.context["task_state_store"] = TaskState()
        self.on_their_way: list[Callable[[], Any]] = []
        self.trigger: Any = None
        self.finished = False
        self.result: Any = None

    # --- the workflow ------------------------------------------------------------------------------------------------

    def duration(self, given: dict[str, Any]) -> float:
        """Sync runs end at once; the others when the test ends them."""
        held_open = not self.mode or self.mode.get("stream")
        return inf if not held_open and given["number"] not in self.ended else 0.0

    def body(self, given: dict[str, Any]) -> Any:
        if self.ended.get(given["number"]) == "it fails":
            raise BlockError("as the rule requires")
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
            if how == "a user cancels it" or run.stuck:
                run.cancel()
            else:
                run.queued_for = 0.0
                self.ended[run.input["number"]] = how

    # --- tries -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.finished and self.trigger is None)
    @rule(
        dies=DEATHS,
        meanwhile=st.sampled_from(MEANWHILE),
        fault=st.sampled_from(FAULTS),
        reported=st.booleans(),
    )
    def a_try(
        self, dies: tuple[int, str] | None, meanwhile: str, fault: tuple[str, dict[str, Any]] | None, reported: bool
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
            result = self.outcome(task, lambda: task.execute(self.context))
        if completed_before:
            assert len(self.runs()) == started_before, "a run that had completed was followed by another"
        self.after(result, reported)

    @precondition(lambda self: self.trigger is not None)
    @rule(
        how=st.sampled_from([*ENDS, "the server restarts"]),
        dies=DEATHS,
        reported=st.booleans(),
    )
    def the_trigger_fires(self, how: str, dies: tuple[int, str] | None, reported: bool) -> None:
        """The run ends, and a worker resumes the task."""
        if how == "the server restarts":
            self.sim.restart()
        self.end_all(how)
        event = fire(self.trigger)
        self.trigger = None
        task = self.operator()
        with self.deaths(dies, "it completes", task):
            result = self.outcome(task, lambda: task.execute_complete(self.context, event))
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
        """Its latest status."""
        assume(self.trigger is None and self.generation < 4)
        self.new_try(cleared=True)

    @precondition(lambda self: self.on_their_way)
    @rule()
    def a_dead_worker_s_start_arrives(self) -> None:
        """Late."""
        self.on_their_way.pop(0)()

    @precondition(lambda self: self.runs("running", "queued"))
    @rule(how=st.sampled_from(ENDS))
    def a_run_ends(self, how: str) -> None:
        """While no worker polls."""
        assume(self.trigger is None)
        self.end_all(how)

    def operator(self) -> SimExecuteWorkflowOperator:
        how = dict(self.mode)
        files = [f"{self.generation}, first".encode(), b"second"] if how.pop("files", False) else []
        given = {"number": self.numbers, "files": files}
        return SimExecuteWorkflowOperator(task_id="t", workflow_id="w", input=given, poll_interval=0.01, **how)

    def outcome(self, task: SimExecuteWorkflowOperator, execute: Callable[[], Any]) -> tuple[str, Any]:
        """Outcome of a worker's part in it."""
        try:
            return "returned", execute()
        except TaskDeferred as deferral:
            return "deferred", deferral.trigger
        except Died:
            return "died", None
        except AirflowTaskTimeout as error:
            try:
                task.on_kill()
            except Died:
                return "died", None
            assert self.runs("running", "queued", generation=self.generation) == [], "left behind when time was up"
            return "failed", error
        except AirflowException as error:
            return "failed", error

    def after(self, result: tuple[str, Any], reported: bool) -> None:
        """What Airflow makes of it."""
        what, value = result
        if what == "deferred":
            self.trigger = value
            return
        if what == "returned":
            self.check_returned(value)
            if reported:
                self.finished = True
                return
        self.new_try(cleared=False)

    def check_returned(self, value: Any) -> None:
        """A task that has ended well has its run's output, or its id."""
        if not self.waits:
            assert value in [run.run_id for run in self.runs(generation=self.generation)]
            return
        outputs = [{"number": run.input["number"]} for run in self.runs("completed", generation=self.generation)]
        assert outputs == [value], "the output is another run's"

    def new_try(self, *, cleared: bool) -> None:
        ti = self.context["ti"]
        self.finished = False
        raised = ti.try_number + 2 if cleared else ti.max_tries
        if cleared:
            self.on_their_way.clear()  # no client knows of these
            self.generation += 1
            self.context["dag_run"] = self.dag_run()
        self.context["ti"] = TaskInstance(ti.try_number + 1, max_tries=raised)

    def dag_run(self) -> SimpleNamespace:
        """The same DAG run, cleared as often as there are generations."""
        return SimpleNamespace(clear_number=self.generation, start_date=datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC))

    @contextlib.contextmanager
    def deaths(self, dies: tuple[int, str] | None, meanwhile: str, task: SimExecuteWorkflowOperator) -> Any:
        """Kill the worker at its nth action, and cause an event while it waits."""
        doings = itertools.count(1)

        def mortal(original: Callable[..., Any]) -> Callable[..., Any]:
            def do(*args: Any, **kwargs: Any) -> Any:
                how = dies[1] if dies and dies[0] == next(doings) else ""
                if how == "while it is on its way" and _is_a_start(args):
                    self.on_their_way.append(lambda: _arrive(original, *args))
                if how in ("before", "while it is on its way"):
                    raise Died
                done = original(*args, **kwargs)
                if how == "after":
                    raise Died
                return done

            return do

        def wait(client: SimClient, run_watch: polling.RunPollState, original: Any = polling.wait_for_run) -> Any:
            ways = iter([meanwhile])

            def sleep(_: float) -> None:
                self.happens(next(ways, "it completes"), task)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(poll_state, "time", SimpleNamespace(time=time.time, sleep=sleep))
                return original(client, run_watch)

        with pytest.MonkeyPatch.context() as patch:
            original, exchange = SimClient._exchange, mortal(lambda *args: perform(original(*args)))

            async def mortal_exchange(*args: Any) -> Any:
                return exchange(*args)

            patch.setattr(SimClient, "_exchange", mortal_exchange)
            patch.setattr(TaskState, "set", mortal(TaskState.set))
            patch.setattr(TaskInstance, "xcom_push", mortal(TaskInstance.xcom_push))
            patch.setattr(polling, "wait_for_run", wait)
            yield

    def happens(self, what: str, task: SimExecuteWorkflowOperator) -> None:
        """Something, while the worker waits."""
        match what:
            case "the worker dies":
                raise Died
            case "the task's time is up":
                raise AirflowTaskTimeout
            case "the task is killed":
                task.on_kill()
                assert self.runs("running", "queued", generation=self.generation) == [], "left behind by a kill"
            case "the server restarts":
                self.sim.restart()
            case _:
                self.end_all(what)

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def at_most_one_live_run_for_each_generation(self) -> None:
        if not self.started:
            return
        live = self.runs("running", "queued", generation=self.generation)
        assert len(live) <= 1, f"two runs at once: {[run.run_id for run in live]}"

    @invariant()
    def nothing_is_run_twice(self) -> None:
        if self.started:
            for generation in range(self.generation + 1):
                completed = self.runs("completed", generation=generation)
                assert len(completed) <= 1, f"completed twice: {[run.run_id for run in completed]}"

    @invariant()
    def nothing_is_left_of_a_task_that_is_over(self) -> None:
        if self.started and self.finished and self.waits:
            assert self.runs("running", "queued", generation=self.generation) == []
            # Without a store, nothing is known of a generation that was cleared after a crash.
            assert self.sim.files == [] or (self.generation and not self.stored)

    @property
    def started(self) -> bool:
        return hasattr(self, "generation")

    @property
    def waits(self) -> bool:
        """Whether the task waits for its run."""
        return bool(self.mode.get("wait_for_completion", True))


def _is_a_start(args: tuple[Any, ...]) -> bool:
    return len(args) > 1 and isinstance(args[1], Request) and args[1].path.endswith("/execute")


def _arrive(exchange: Callable[..., Any], client: SimClient, *question: Any) -> None:
    """Send what a dead worker's start was, and take no notice of the answer."""
    with client, contextlib.suppress(SimError):
        answer = exchange(client, *question)
        if isinstance(answer, WorkflowStream):
            answer.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("default", "ignore::ResourceWarning")  # dead workers close nothing
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "derived"])
@pytest.mark.parametrize("mode", MODES, ids=[mode.replace(" ", "-") for mode in MODES])
def test_no_run_is_lost_doubled_or_left_behind(monkeypatch, mode, stored):
    monkeypatch.setattr(SimClient, "_sleep", staticmethod(lambda _: None))
    monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.001)
    monkeypatch.setattr(poll_state, "NOT_FOUND_GRACE", 0.0)
    thorough = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
    machine = type("Tasks", (Tasks,), {"mode": MODES[mode], "stored": stored})
    with SimEmulator() as sim:
        Tasks.sim, Tasks.patch = sim, monkeypatch
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=200 if thorough else 8,
                stateful_step_count=25 if thorough else 12,
                deadline=None,
                derandomize=not thorough,
                suppress_health_check=list(HealthCheck),
            ),
        )
