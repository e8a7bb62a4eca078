"""Trials that kill the worker of a task, and the verdict on its Sim runs.

Each trial is one DAG run with its own workflow of the same name. The emulator runs in this process and reports each
request before its response is sent. At this moment, a worker is killed, or stopped until the response has arrived and
then killed. The verdict follows from the runs that the emulator has recorded.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from airflow_provider_sim.emulator import Hold, Match, SimEmulator
from airflow_provider_sim.emulator.request_context import RecordedRequest
from airflow_provider_sim.emulator.runs import Run
from airflow_provider_sim.triggers.sim import MAX_EVENT_OUTPUT
from scripts.real_airflow import AIRFLOW_3, RealAirflow, TaskInstance, Victim, Worker

PATIENCE = 240.0
"""Seconds for a trial; Airflow needs some to detect each kill."""
_ON_ITS_WAY = 0.5
"""Seconds in which a response arrives at a stopped worker."""


class Point(StrEnum):
    """When a worker is killed."""

    BEFORE = "before POST"
    """The run ID is persisted, and nothing is sent."""
    LATE = "in flight"
    """The POST is sent, and reaches Sim only after the next try has asked for the run."""
    ACCEPTED = "accepted"
    """Sim has started the run, and not answered."""
    ANSWERED = "answered"
    """The answer has arrived, and wasn't read."""
    WAITING = "waiting"
    """The run is polled, or the connection is open."""
    FETCHING = "fetching"
    """The output is requested."""
    FETCHED = "fetched"
    """The output has arrived, and wasn't read."""
    RETURNED = "returned"
    """The task's code has finished, and Airflow doesn't know."""
    ANY = "any time"


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to run a workflow.

    :param dag_id: its DAG.
    :param task_ids: in order; the last one returns the output.
    :param sync: Sim cancels the run when the connection closes.
    :param ours: whether it is this provider's; its trials must all be right.
    :param inputs: how many runs one task starts; more than one for a batch.
    :param polls: whether its worker polls each run: not if it defers, or lists the runs of a batch.
    """

    dag_id: str
    title: str
    task_ids: Sequence[str] = ("run",)
    sync: bool = False
    ours: bool = True
    inputs: int = 1
    polls: bool = True

    def plans(self) -> dict[Point, list[Point]]:
        """The kills for each point; in sync modes, only a retry fetches an output."""
        plans = {point: [point] for point in Point if self.polls or point is not Point.WAITING}
        if self.sync:
            for point in (Point.FETCHING, Point.FETCHED):
                plans[point] = [Point.ANSWERED, point]
                if not self.ours:
                    del plans[point]
        return plans


OURS = [
    Mode("sync", "sync", sync=True),
    Mode("stream", "stream", sync=True),
    Mode("asynchronous", "async, waiting worker"),
    Mode("deferrable", "deferrable", polls=False),
    Mode("fire_and_forget", "no waiting, sensor", ("run", "wait")),
    Mode("batch", "batch", inputs=6, polls=False),
    Mode("deferrable_batch", "deferrable batch", inputs=6, polls=False),
]
OTHERS = [
    Mode("sdk_held_open", "SDK 0.2.1, sync", sync=True, ours=False),
    Mode("sdk_asynchronous", "SDK 0.2.1, async", ours=False),
    Mode("http_held_open", "HttpOperator, sync", sync=True, ours=False),
    Mode("http_asynchronous", "HttpOperator, HttpSensor", ("run", "wait", "fetch"), ours=False),
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on a trial.

    :param runs: how many the emulator saw for the task.
    :param cancelled: how many of them Sim cancelled, as it does when a sync connection closes.
    :param doubled: a run was started although a previous one was active or had completed.
    :param lost: a run completed or is active, and its output isn't the task's.
    :param concurrent: two runs were active at the same time.
    :param orphaned: a run is still active although the task is finished.
    """

    succeeded: bool
    own_output: bool
    runs: int
    cancelled: int
    doubled: bool
    lost: bool
    concurrent: bool
    orphaned: bool

    @property
    def faults(self) -> list[str]:
        """Names of the faults."""
        told = {
            "failed": not self.succeeded,
            "doubled": self.doubled,
            "lost": self.lost,
            "concurrent": self.concurrent,
            "orphaned": self.orphaned,
            "foreign": self.succeeded and not self.own_output,
        }
        return [fault for fault, there in told.items() if there]


def judge(runs: Sequence[Run], *, succeeded: bool, output: Any, now: float) -> Verdict:
    """Judge one task by the runs that were started for it.

    A second run is right only if the first one failed or was cancelled.

    :param output: the task's XCom.
    :param now: emulator time.
    """
    lives = [(run.created_at, run.ended_at if run.is_over else None, run.status) for run in runs]
    fruitless = [status in ("cancelled", "failed") for _, _, status in lives]
    taken = [run for run in runs if run.status == "completed" and run.outcome == output]
    return Verdict(
        succeeded=succeeded,
        own_output=len(taken) == 1,
        runs=len(runs),
        cancelled=sum(status == "cancelled" for _, _, status in lives),
        doubled=not all(fruitless[:-1]),
        lost=any(not barren and run not in taken for run, barren in zip(runs, fruitless, strict=True)),
        concurrent=any(
            next_start < (now if end is None else end) for (_, end, _), (next_start, _, _) in itertools.pairwise(lives)
        ),
        orphaned=any(not run.is_over for run in runs),
    )


def judge_batch(runs: Sequence[Run], inputs: int, *, succeeded: bool, output: Any, now: float) -> Verdict:
    """Judge a task by the runs that were started for each of its inputs."""
    outputs = output if isinstance(output, list) and len(output) == inputs else [None] * inputs
    of_input: list[list[Run]] = [[] for _ in range(inputs)]
    for run in runs:
        of_input[run.input["number"]].append(run)
    parts = [judge(some, succeeded=succeeded, output=own, now=now) for some, own in zip(of_input, outputs, strict=True)]
    return Verdict(
        succeeded=succeeded,
        own_output=all(part.own_output for part in parts),
        runs=len(runs),
        cancelled=sum(part.cancelled for part in parts),
        doubled=any(part.doubled for part in parts),
        lost=any(part.lost for part in parts),
        concurrent=any(part.concurrent for part in parts),
        orphaned=any(part.orphaned for part in parts),
    )


@dataclass(slots=True)
class Trial:
    """One DAG run; ``verdict`` is set when it is finished.

    :param plan: the remaining kills.
    :param victim: which of the worker's processes are killed.
    :param seconds: duration of the workflow.
    :param spared: number of starts before the one at which the worker is killed.
    """

    name: str
    mode: Mode
    point: Point
    plan: list[Point]
    victim: Victim
    seconds: float
    after: float = 0.0
    spared: int = 0
    kills: int = 0
    began: float = field(default_factory=time.monotonic)
    seen_working_at: float | None = None
    late: Hold | None = None
    asked_anew: bool = False
    verdict: Verdict | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def missed(self) -> Point | None:
        """The point that was not reached. A kill at any time may find no worker."""
        left = [point for point in self.plan if point is not Point.ANY or not self.kills]
        return left[0] if left else None


class Executioner:
    """Kills workers at their points, from the emulator's thread."""

    def __init__(self, airflow: RealAirflow, sim: SimEmulator) -> None:
        self._airflow = airflow
        self._sim = sim
        self._trials: dict[str, Trial] = {}
        self._path = re.compile(r"/(?:api/(?:v2/)?workflows/)?(?:returned/)?([\w-]+)")
        sim.on_request(self._on_request)
        sim.state.start_listeners.append(self._on_start)

    def watch(self, trial: Trial) -> None:
        """Deploy a trial's workflow and register the trial."""
        started: list[int] = []
        # A worker doesn't fetch a smaller output if a trigger has passed it; Sim truncates long texts in some outputs.
        is_fetched = not {Point.FETCHING, Point.FETCHED}.isdisjoint(trial.plan)
        padding = ["." * 1024] * (MAX_EVENT_OUTPUT // 1024) if is_fetched else []

        def body(given: dict[str, Any]) -> Any:
            started.append(1)
            known = {"trial": given.get("trial"), "number": given.get("number"), "run": len(started)}
            return {"result": {**known, "padding": padding}}

        self._sim.workflow(trial.name, duration=trial.seconds)(body)
        self._trials[trial.name] = trial
        if trial.plan[0] is Point.LATE:
            sent = Match(operation="execute", workflow_id=trial.name)
            trial.late = self._sim.hold(sent, proxied=True)
            threading.Thread(target=self._kill_once_held, args=[trial, trial.late], daemon=True).start()

    def kill_now(self, trial: Trial) -> bool:
        """Kill the trial's worker, if it has one; return whether it had."""
        with trial.lock:
            worker = self.worker_of(trial)
            if worker is None:
                return False
            worker.kill(trial.victim)
            self._note(trial)
            return True

    def worker_of(self, trial: Trial) -> Worker | None:
        """Return the current worker of a trial; its tasks run one after the other."""
        for ti in self._airflow.task_instances(trial.name):
            if ti.state in ("queued", "running") and (worker := self._airflow.worker(ti)):
                return worker
        return None

    def _note(self, trial: Trial) -> None:
        trial.plan.pop(0)
        trial.kills += 1
        trial.seen_working_at = None

    def _kill_once_answered(self, trial: Trial, is_answered: Callable[[], bool]) -> None:
        """Stop the worker, and kill it when the response has arrived."""
        worker = self.worker_of(trial)
        if worker is None:
            return
        worker.freeze()
        self._note(trial)

        def wait_and_kill() -> None:
            until = time.monotonic() + 60
            while not is_answered() and time.monotonic() < until:
                time.sleep(0.1)
            time.sleep(_ON_ITS_WAY)
            worker.kill(trial.victim)

        threading.Thread(target=wait_and_kill, daemon=True).start()

    def _kill_once_held(self, trial: Trial, hold: Hold) -> None:
        """Kill the worker whose request is in flight; the request arrives after the next try's first request."""
        hold.wait_until_held(PATIENCE)
        with trial.lock:
            self.kill_now(trial)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not trial.asked_anew:
            time.sleep(0.02)
        hold.release()

    def _on_start(self, run: Run) -> None:
        trial = self._trials.get(run.workflow_id)
        if trial is None:
            return
        with trial.lock:
            point = trial.plan[0] if trial.plan else None
            if point in (Point.ACCEPTED, Point.ANSWERED) and trial.spared:
                trial.spared -= 1
            elif point is Point.ACCEPTED:
                self.kill_now(trial)
            elif point is Point.ANSWERED:
                self._kill_once_answered(trial, lambda: not trial.mode.sync or run.is_over)
            elif point is Point.WAITING and trial.mode.sync:
                threading.Timer(trial.seconds * random.uniform(0.2, 0.7), self.kill_now, [trial]).start()

    def _on_request(self, request: RecordedRequest) -> None:
        """Handle a request before its response is sent."""
        trial = self._trial_of(request.path.partition("?")[0])
        if trial is None:
            return
        with trial.lock:
            trial.asked_anew = trial.asked_anew or trial.kills > 0
            if not trial.plan or trial.plan[0] not in self._points_of(request, trial):
                return
            if trial.plan[0] is Point.FETCHED:
                self._kill_once_answered(trial, lambda: True)
            else:
                self.kill_now(trial)

    def _points_of(self, request: RecordedRequest, trial: Trial) -> set[Point]:
        """Return the points that a request marks."""
        path, _, query = request.path.partition("?")
        if path.startswith("/returned/"):
            return {Point.RETURNED}
        if "/jobs/" in path or "includeOutput=true" in query:
            return {Point.FETCHING, Point.FETCHED}
        if request.method == "GET" and path.endswith(f"/workflows/{trial.name}"):
            return {Point.BEFORE}
        run = self._sim.state.runs.get(path.rpartition("/")[2])
        return {Point.WAITING} if run is not None and not run.is_over and not trial.mode.sync else set()

    def _trial_of(self, path: str) -> Trial | None:
        if "/jobs/" in path:
            run = self._sim.state.runs.get(
                path.rpartition("/")[2].replace("%3A", ":").removeprefix("workflow-execution:")
            )
            return None if run is None else self._trials.get(run.workflow_id)
        found = self._path.match(path)
        return self._trials.get(found[1]) if found else None


class Trials:
    """Runs trials concurrently until all have a verdict.

    :param at_once: number of concurrent trials.
    """

    def __init__(self, airflow: RealAirflow, sim: SimEmulator, *, chance: random.Random, at_once: int) -> None:
        self._airflow = airflow
        self._sim = sim
        self._chance = chance
        self._at_once = at_once
        self._executioner = Executioner(airflow, sim)
        self._number = 0

    def run(self, wanted: Sequence[tuple[Mode, Point]]) -> Iterator[Trial]:
        """Yield each trial when it is finished."""
        waiting = list(wanted)
        active: list[Trial] = []
        while waiting or active:
            while waiting and len(active) < self._at_once:
                active.append(self._begin(*waiting.pop(0)))
            for trial in list(active):
                if self._is_over(trial):
                    active.remove(trial)
                    if trial.point is Point.ANY and not trial.kills:
                        waiting.append((trial.mode, trial.point))  # the task finished first
                    else:
                        yield trial
            time.sleep(0.25)

    def _begin(self, mode: Mode, point: Point) -> Trial:
        self._number += 1
        chance = self._chance
        short = mode.sync or point in (Point.FETCHING, Point.FETCHED, Point.RETURNED)
        seconds = chance.uniform(2, 4) if short else chance.choice([chance.uniform(3, 6), chance.uniform(14, 22)])
        victim = chance.choices(list(Victim), [6, 2, 2])[0]
        if not AIRFLOW_3 and victim is Victim.SUPERVISOR and len(mode.plans()[point]) > 1:
            victim = Victim.MACHINE  # in Airflow 2 a task that loses its supervisor ends without a retry to kill
        trial = Trial(
            name=f"{mode.dag_id}-{self._number:03}",
            mode=mode,
            point=point,
            plan=mode.plans()[point] + [Point.ANY] * (chance.random() < 0.2),
            victim=victim,
            seconds=seconds,
            after=chance.uniform(0, seconds + 2.5),
            spared=chance.randrange(mode.inputs),
        )
        self._executioner.watch(trial)
        self._airflow.trigger(mode.dag_id, run_id=trial.name)
        return trial

    def _is_over(self, trial: Trial) -> bool:
        """Kill the trial's worker if it is due, and judge the trial when it is finished."""
        tis = self._airflow.task_instances(trial.name)
        if trial.plan and self._is_due(trial):
            self._executioner.kill_now(trial)
        late = time.monotonic() - trial.began > PATIENCE
        if not late and (not tis or not all(ti.is_over for ti in tis)):
            return False
        trial.verdict = self._judge(trial, tis)
        return True

    def _is_due(self, trial: Trial) -> bool:
        """Return whether a kill at a random time is due, counted from the worker's first detection."""
        if trial.plan[0] is Point.BEFORE and not trial.mode.ours:
            return True  # there is no earlier request: kill as soon as there is a worker
        if trial.plan[0] is not Point.ANY:
            return False
        if trial.seen_working_at is None:
            if self._executioner.worker_of(trial) is None:
                return False
            trial.seen_working_at = time.monotonic()
        return time.monotonic() - trial.seen_working_at >= trial.after

    def _judge(self, trial: Trial, tis: Sequence[TaskInstance]) -> Verdict:
        succeeded = bool(tis) and all(ti.state == "success" for ti in tis)
        last = next((ti for ti in tis if ti.task_id == trial.mode.task_ids[-1]), None)
        output = self._airflow.xcom(last) if last and succeeded else None
        runs = runs_of(self._sim, trial.name)
        until = time.monotonic() + 3
        while not all(run.is_over for run in runs) and time.monotonic() < until:
            time.sleep(0.1)  # Sim needs a moment to detect a closed connection
        facts: dict[str, Any] = {"succeeded": succeeded, "output": output, "now": self._sim.clock.now()}
        inputs = trial.mode.inputs
        return judge(runs, **facts) if inputs == 1 else judge_batch(runs, inputs, **facts)


@dataclass(frozen=True, slots=True)
class HerdReport:
    """Outcome of deferred tasks whose triggerer was killed.

    :param hit: number of tasks in the killed triggerer.
    :param seconds: from the kill until all triggers were taken over.
    """

    title: str
    tasks: int
    hit: int
    seconds: float
    verdicts: Sequence[Verdict]


def kill_triggerer_under(airflow: RealAirflow, sim: SimEmulator, *, tasks: int, one_of_two: bool) -> HerdReport:
    """Defer tasks, kill a triggerer, and finish the runs after another one has taken over.

    :param one_of_two: a second triggerer takes over; otherwise the only one dies, and another is started.
    """
    name = f"deferred_herd-{'two' if one_of_two else 'one'}"
    released = threading.Event()
    body = lambda given: {"result": {"number": given["number"]}}  # noqa: E731
    sim.workflow(name, duration=lambda _: 0.0 if released.is_set() else float("inf"))(body)
    if one_of_two:
        airflow.start_triggerer()
    airflow.trigger("deferred_herd", run_id=name)

    def all_wait() -> bool:
        return sum(airflow.waiting_in(name).values()) == tasks

    try:
        airflow.wait_until(all_wait, PATIENCE * 2, f"{tasks} tasks to be deferred")
        victim, hit = max(airflow.waiting_in(name).items(), key=lambda item: item[1])
        killed_at = time.monotonic()
        airflow.kill_triggerer(victim)
        if not one_of_two:
            airflow.start_triggerer()
        airflow.wait_until(
            lambda: all_wait() and victim not in airflow.waiting_in(name), PATIENCE, "the triggers to be taken over"
        )
        seconds = time.monotonic() - killed_at
        time.sleep(5)  # some polls of active runs
    finally:
        released.set()
    with contextlib.suppress(TimeoutError):
        airflow.wait_until(
            lambda: all(ti.is_over for ti in airflow.task_instances(name)), PATIENCE * 2, "the tasks to finish", pause=1
        )
    verdicts = []
    for ti in airflow.task_instances(name):
        output = airflow.xcom(ti) if ti.state == "success" else None
        runs = [run for run in runs_of(sim, name) if run.input.get("number") == ti.map_index]
        verdicts.append(judge(runs, succeeded=ti.state == "success", output=output, now=sim.clock.now()))
    title = "one of two triggerers" if one_of_two else "the only triggerer, another started"
    return HerdReport(title, tasks, hit, seconds, verdicts)


def runs_of(sim: SimEmulator, workflow_id: str) -> list[Run]:
    """The runs of a workflow, in the order of their start."""
    return [run for run in sim.runs if run.workflow_id == workflow_id]
