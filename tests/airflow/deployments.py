"""Airflow as people deploy it, and all example DAGs on it; on some, a triggerer and a worker die in the middle.

The middle is a moment at which everything waits: the emulator's runs don't end before the deaths have been noticed and
others have taken over. So it is known what is hit, and what each of the hit tasks has to do.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.request_context import RecordedRequest
from airflow_provider_sim.emulator.workflows import Workflow
from scripts.demo import DAG_IDS
from scripts.real_airflow import RealAirflow, TaskInstance
from tests.airflow import places
from tests.airflow.expected import name_of
from tests.airflow.places import Place

RUN_ID = "manual__1"
"""Of every DAG's run."""
PATIENCE = 240

DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "standalone": {"database": "sqlite"},
    "local": {"database": "postgresql", "triggerers": 2},
    "celery": {"database": "postgresql", "triggerers": 2, "celery_workers": 2},
}
"""What :class:`RealAirflow` is told. The first is what ``airflow standalone`` makes by default."""
DISTURBED = ["local", "celery"]
RETRIES = {"AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "2", "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1"}
"""For tasks whose workers die, and deferred ones, whose ends Airflow may mistake (see ``docs/durability.md``)."""

ON_WORKERS = {"batch.several", "deploy.trial", "taskflow.outline", "usage.digest"}
"""What waits on a worker in the middle; the first for its runs, the others at their open connections."""
IN_TRIGGERERS = {
    "batch.review",
    "deferrable.summary",
    "mapped.review[0]",
    "mapped.review[1]",
    "mapped.review[2]",
    "sim_bad_ends.waits_in_the_triggerer",
}
MIDDLE = {
    **dict.fromkeys(ON_WORKERS, "running"),
    **dict.fromkeys(IN_TRIGGERERS, "deferred"),
    "approval.decide": "awaiting_input",
}
"""The state of everything that has begun and isn't over, but for the sensor that comes back every ten seconds."""
COMES_BACK = "async_sensor.done"
RUNNING = Counter(
    {
        ("slow", "async"): 3,
        ("echo_plain", "async"): 8 + 3 + 1 + 1,  # of batch.review, mapped.review, batch.several and the notifier
        ("echo_plain", "sync"): 3,
    }
)
"""The runs that go on in the middle."""


@dataclass
class Examples:
    """All example DAGs, and further ones, on one Airflow.

    :param dag_ids: the further ones.
    :param killed: the tasks whose workers were killed in the middle.
    :param moved: how many tasks waited in the triggerer that was killed.
    :param triggers: those that were seen waiting.
    """

    airflow: RealAirflow
    sim: SimEmulator
    dag_ids: list[str]
    killed: dict[str, TaskInstance] = field(default_factory=dict)
    moved: int = 0
    triggers: set[Place] = field(default_factory=set)

    def run(self, *, deaths: bool) -> None:
        """Run them to their ends.

        :param deaths: whether a triggerer and a worker are killed in the middle.
        """
        may_end = threading.Event()
        for workflow_id in ("slow", "echo_plain"):
            workflow = self.sim.state.workflows[workflow_id]
            workflow.duration = _endless_until(may_end, workflow)
        self.sim.on_request(self._look_for_triggers)
        for dag_id in [*DAG_IDS, *self.dag_ids]:
            self.airflow.trigger(dag_id, run_id=RUN_ID)
        self._await(self._is_in_the_middle, "everything to wait")
        if deaths:
            victim = self._kill_a_triggerer()
            self._kill_a_worker()
            self._await(lambda: self._has_recovered(victim), "others to take over")
        may_end.set()
        self._approve()
        self._await(self._are_over, "all DAGs to be over")

    @property
    def states(self) -> dict[str, str | None]:
        """How every task stands, by its name."""
        return {name: ti.state for name, ti in self.tis.items()}

    @property
    def outputs(self) -> dict[str, Any]:
        """What every task has returned, by its name."""
        return {name: self.airflow.xcom(ti) for name, ti in self.tis.items()}

    @property
    def tis(self) -> dict[str, TaskInstance]:
        """Every task by its name."""
        return {name_of(ti): ti for ti in self.airflow.task_instances(RUN_ID)}

    def _look_for_triggers(self, request: RecordedRequest) -> None:
        if request.method == "GET" and "/runs/" in request.path:
            self.triggers.update(places.triggers(self.airflow))

    def _approve(self) -> None:
        """Answer what a task asks a person, as in Airflow's UI."""
        self.airflow.wait_for(RUN_ID, "decide", "awaiting_input", patience=PATIENCE)
        # Airflow 3.3.2 fails a task whose answer comes before its scheduler has heard that the task waits.
        heard = f"task_id='decide', run_id='{RUN_ID}'"
        self._await(lambda: self.airflow.scheduler_has_heard(heard), "the scheduler to hear that the task waits")
        place = f"/dags/example_sim_approval/dagRuns/{RUN_ID}/taskInstances/decide/-1/hitlDetails"
        self.airflow.api("PATCH", place, {"chosen_options": ["Approve"], "params_input": {"comment": "by all means"}})

    def _are_over(self) -> bool:
        rows = self.airflow.query("SELECT state FROM dag_run WHERE run_id = :run_id", run_id=RUN_ID)
        return all(row.state in ("success", "failed") for row in rows)

    def _is_in_the_middle(self) -> bool:
        begun = {name: ti.state for name, ti in self.tis.items() if not ti.is_over and ti.state is not None}
        begun.pop(COMES_BACK, None)
        return begun == MIDDLE and self._waiting() == len(IN_TRIGGERERS) and self._running() == RUNNING

    def _kill_a_triggerer(self) -> str:
        """Kill the one in which more tasks wait; its name."""
        victim, self.moved = max(self.airflow.waiting_in(RUN_ID).items(), key=lambda item: item[1])
        self.airflow.kill_triggerer(victim)
        return victim

    def _kill_a_worker(self) -> None:
        """Kill one of Celery's workers, or those that LocalExecutor has made for two of the tasks."""
        tis = {name: ti for name, ti in self.tis.items() if name in ON_WORKERS}
        if not self.airflow.celery_workers:
            self.killed = {name: tis[name] for name in ("batch.several", "taskflow.outline")}
            for ti in self.killed.values():
                worker = self.airflow.worker(ti)
                assert worker is not None
                worker.kill()
            return
        places = {name: self.airflow.celery_worker(ti) for name, ti in tis.items()}
        [(victim, _)] = Counter(places.values()).most_common(1)
        assert victim is not None
        self.killed = {name: ti for name, ti in tis.items() if places[name] == victim}
        self.airflow.kill_celery_worker(victim)

    def _has_recovered(self, triggerer: str) -> bool:
        now = self.tis
        return (
            triggerer not in self.airflow.waiting_in(RUN_ID)
            and self._waiting() == len(IN_TRIGGERERS)
            and all(
                now[name].state == "running" and now[name].try_number == ti.try_number + 1
                for name, ti in self.killed.items()
            )
            and self._running() == RUNNING
            and self._is_handed_out_again()
        )

    def _is_handed_out_again(self) -> bool:
        """Whether Redis has given a running task to another worker, which it does after ``visibility_timeout``."""
        workers = self.airflow.celery_workers
        return not workers or any("Task already running elsewhere" in self.airflow.printed_by(name) for name in workers)

    def _waiting(self) -> int:
        return sum(self.airflow.waiting_in(RUN_ID).values())

    def _running(self) -> Counter[tuple[str, str]]:
        return Counter((run.workflow_id, run.mode) for run in self.sim.runs if run.status == "running")

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        self.airflow.wait_until(condition, PATIENCE, what, pause=0.5)


def _endless_until(may_end: threading.Event, workflow: Workflow) -> Callable[[dict[str, Any]], float]:
    seconds = workflow.duration

    def duration(given: dict[str, Any]) -> float:
        if not may_end.is_set():
            return float("inf")
        return float(seconds(given) if callable(seconds) else seconds)

    return duration
