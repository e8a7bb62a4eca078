"""No run is lost, started twice or left running when tries crash, retry, are cleared or killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_sim import polling
from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.exceptions import (
    SimConnectionError,
    SimRunCancelledError,
    SimRunError,
    SimRunTimeoutError,
    SimStreamError,
)
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor
from airflow_provider_sim.task.run_store import STATE_KEY
from tests.canned_server import closed_port
from tests.operators.conftest import WAITING, TaskInstance, fire

pytestmark = pytest.mark.usefixtures("connection")

MODES = WAITING | {"not waiting": {"wait_for_completion": False}}


class Killed(BaseException):
    """Stands for SIGKILL of a worker: no code handles it."""


@pytest.fixture(params=MODES, ids=[mode.replace(" ", "-") for mode in MODES])
def mode(request):
    return MODES[request.param]


@pytest.fixture
def slow(emulator):
    """A workflow that takes until the test says otherwise."""
    duration = SimpleNamespace(seconds=60.0)
    emulator.workflow("slow_one", duration=lambda given: duration.seconds)(lambda given: {"done": True})
    return duration


def operator(**arguments):
    return SimExecuteWorkflowOperator(
        **{"task_id": "t", "workflow_id": "slow_one", "poll_interval": 0.02, "retry_args": {"initial_delay": 0.01}}
        | arguments
    )


def next_try(context, *, cleared=False):
    """The context of the try that follows, by Airflow itself or because a user has cleared the task."""
    ti = context["ti"]
    clear_number = context["dag_run"].clear_number
    if cleared:
        return {
            **context,
            "ti": TaskInstance(ti.try_number + 1, max_tries=ti.try_number + ti.max_tries),
            "dag_run": SimpleNamespace(**vars(context["dag_run"]) | {"clear_number": clear_number + 1}),
        }
    return {**context, "ti": TaskInstance(ti.try_number + 1, max_tries=ti.max_tries)}


def die_waiting(context, monkeypatch, **arguments):
    """One try whose worker dies while it waits for the run that it has started."""
    with monkeypatch.context() as patch:
        patch.setattr(polling, "wait_for_run", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            operator(async_execution=True, **arguments).execute(context)


def die_and_try_again(context, monkeypatch, *, cleared=False):
    """A worker dies while it waits for its run, and Airflow's next try follows."""
    die_waiting(context, monkeypatch)
    context.update(next_try(context, cleared=cleared))


class TestPersistence:
    def test_run_id_is_persisted_before_the_run_starts(self, emulator, context, run_task, mode, slow):
        slow.seconds = 0.05
        at_start = []
        emulator.on_start("slow_one", lambda run: at_start.append(dict(context["task_state_store"][STATE_KEY])))
        run_task(operator(**mode))
        [entry] = at_start
        assert entry["run_id"] == emulator.runs[0].run_id
        assert entry["workflow_id"] == "slow_one"

    def test_new_run_id_after_a_rejection_is_persisted(self, emulator, context, run_task, monkeypatch, slow):
        slow.seconds = 0.0
        emulator.state.limits.concurrent_runs = 0
        at_start = []
        emulator.on_start("slow_one", lambda run: at_start.append(context["task_state_store"][STATE_KEY]["run_id"]))
        emulator.on_request(lambda _: setattr(emulator.state.limits, "concurrent_runs", None))
        no_sleep(monkeypatch)
        run_task(operator())
        assert at_start == [emulator.runs[-1].run_id]

    def test_first_try_reads_no_state(self, context, monkeypatch, run_task, slow, mode):
        slow.seconds = 0.05
        monkeypatch.setattr(type(context["task_state_store"]), "get", lambda *_: pytest.fail("a request to Airflow"))
        run_task(operator(**mode))

    def test_stored_state_contains_no_key(self, emulator, context, run_task, slow):
        slow.seconds = 0.0
        run_task(operator())
        assert emulator.api_key not in json.dumps(context["task_state_store"])


class TestRetry:
    def test_retry_reattaches_to_an_active_run(self, emulator, context, run_task, monkeypatch, slow, mode):
        die_and_try_again(context, monkeypatch)
        emulator.on_request(lambda request: setattr(slow, "seconds", 0.0))
        result = run_task(operator(**mode))
        [run] = emulator.runs
        assert result == (run.run_id if "wait_for_completion" in mode else {"done": True})
        assert context["ti"].xcoms["run_id"] == run.run_id

    def test_retry_returns_the_output_of_a_completed_run(self, emulator, context, run_task, monkeypatch, slow, mode):
        die_waiting(context, monkeypatch)
        slow.seconds = 0.0
        context.update(next_try(context))
        result = run_task(operator(**mode))
        assert result in ({"done": True}, emulator.runs[0].run_id)
        assert len(emulator.runs) == 1

    @pytest.mark.parametrize("end", ["failed", "cancelled"])
    def test_retry_starts_another_run_after_a_failed_one(self, emulator, context, run_task, monkeypatch, slow, end):
        die_waiting(context, monkeypatch)
        emulator.runs[0].cancel() if end == "cancelled" else emulator.runs[0].sweep()
        slow.seconds = 0.0
        context.update(next_try(context))
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert [run.status for run in emulator.runs] == [end, "completed"]

    def test_retry_sends_a_persisted_run_id_unknown_to_sim(self, emulator, context, run_task, slow):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("airflow_provider_sim.client.sync_client.SimClient.start_workflow_run", killed_after_the_id)
            with pytest.raises(Killed):
                operator().execute(context)
        noted = context["task_state_store"][STATE_KEY]["run_id"]
        assert emulator.runs == []
        slow.seconds = 0.0
        context.update(next_try(context))
        assert run_task(operator()) == {"done": True}
        assert [run.run_id for run in emulator.runs] == [noted]

    def test_retry_starts_no_run_if_the_poll_fails(self, emulator, context, monkeypatch, slow, connection):
        die_and_try_again(context, monkeypatch)
        emulator.state.limits.admission_gate = 0  # executions alone pass it
        task = operator(retry_args={"max_retries": 0})
        monkeypatch.setattr(
            "airflow_provider_sim.client.sync_client.SimClient.get_workflow_run",
            lambda *_, **__: (_ for _ in ()).throw(SimRunTimeoutError("no answer")),
        )
        with pytest.raises(SimRunTimeoutError, match="no answer"):
            task.execute(context)
        assert len(emulator.runs) == 1

    def test_retry_with_another_workflow_starts_its_own_run(self, emulator, context, run_task, monkeypatch, slow):
        die_and_try_again(context, monkeypatch)
        run_task(operator(workflow_id="echo_plain"))
        assert [run.workflow_id for run in emulator.runs] == ["slow_one", "echo_plain"]

    def test_durable_false_starts_a_run_in_each_try(self, emulator, context, run_task, monkeypatch, slow):
        die_waiting(context, monkeypatch, durable=False)
        slow.seconds = 0.0
        context.update(next_try(context))
        run_task(operator(durable=False))
        assert len(emulator.runs) == 2
        assert context["task_state_store"] == {}

    def test_retry_restarts_a_sync_run_cancelled_by_the_disconnect(
        self, emulator, context, run_task, monkeypatch, slow, caplog
    ):
        die_and_try_again(context, monkeypatch)

        def notice(request):  # Sim sees only now that the first worker has hung up
            if request.method == "GET":
                emulator.runs[0].cancel()
                slow.seconds = 0.0

        emulator.on_request(notice)
        assert run_task(operator()) == {"done": True}
        assert [run.status for run in emulator.runs] == ["cancelled", "completed"]


def killed_after_the_id(self, *_, run_id, **__):
    next(run_id)
    raise Killed


class TestClearedTask:
    def test_cleared_task_starts_another_run_after_completion(self, emulator, context, run_task, slow, mode):
        slow.seconds = 0.0
        run_task(operator(**mode))
        context.update(next_try(context, cleared=True))
        run_task(operator(**mode))
        assert len(emulator.runs) == 2

    def test_cleared_task_cancels_the_active_run_first(self, emulator, context, run_task, monkeypatch, slow):
        """The triggerer, which would have cancelled it, is dead, too."""
        die_and_try_again(context, monkeypatch, cleared=True)
        emulator.on_start("slow_one", lambda run: setattr(slow, "seconds", 0.0))
        run_task(operator(async_execution=True))
        assert [run.status for run in emulator.runs] == ["cancelled", "completed"]

    @pytest.mark.parametrize("options", [{"cancel_on_kill": False}, {"wait_for_completion": False}], ids=str)
    def test_cleared_task_keeps_the_run_without_cancel_on_kill(self, emulator, context, monkeypatch, slow, options):
        die_and_try_again(context, monkeypatch, cleared=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(polling, "wait_for_run", lambda *_: (_ for _ in ()).throw(Killed))
            with contextlib.suppress(Killed):
                operator(async_execution=True, **options).execute(context)
        assert [run.status for run in emulator.runs] == ["running", "running"]

    @pytest.mark.parametrize("changed", ["max_tries", "clear_number"])
    def test_changed_retries_or_another_cleared_task_keep_the_run(
        self, emulator, context, run_task, monkeypatch, slow, changed
    ):
        die_waiting(context, monkeypatch)
        slow.seconds = 0.0
        context.update(next_try(context))
        if changed == "max_tries":
            context["ti"].max_tries += 5
        else:
            context["dag_run"] = SimpleNamespace(clear_number=1)
        run_task(operator(async_execution=True))
        assert len(emulator.runs) == 1


class TestBeforeAirflow33:
    """No store: IDs are derived from the task instance, its DAG run's start and the try."""

    @pytest.fixture(autouse=True)
    def _no_store(self, context):
        del context["task_state_store"]
        context["dag_run"].start_date = datetime(2026, 1, 1, 0, 0, 3, 141592, tzinfo=UTC)

    def test_retry_reattaches_to_an_active_run(self, emulator, context, run_task, monkeypatch, slow):
        die_and_try_again(context, monkeypatch)
        emulator.on_request(lambda request: setattr(slow, "seconds", 0.0))
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert len(emulator.runs) == 1

    def test_retry_returns_the_output_of_a_completed_run(self, emulator, context, run_task, monkeypatch, slow):
        die_waiting(context, monkeypatch)
        slow.seconds = 0.0
        context.update(next_try(context))
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert len(emulator.runs) == 1

    def test_retry_starts_another_run_after_a_cancelled_one(self, emulator, context, run_task, monkeypatch, slow):
        die_waiting(context, monkeypatch)
        emulator.runs[0].cancel()
        slow.seconds = 0.0
        context.update(next_try(context))
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert [run.status for run in emulator.runs] == ["cancelled", "completed"]

    def test_cleared_task_starts_another_run(self, emulator, context, run_task, slow, mode):
        slow.seconds = 0.0
        run_task(operator(**mode))
        context.update(next_try(context, cleared=True))
        run_task(operator(**mode))
        assert len(emulator.runs) == 2

    def test_third_try_reattaches_to_the_run_of_the_first(self, emulator, context, run_task, monkeypatch, slow):
        for _ in range(2):
            die_and_try_again(context, monkeypatch)
        end_when_found(emulator, slow)
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert len(emulator.runs) == 1, "the second try re-attached and used none of its own IDs"

    def test_retry_sends_the_run_id_of_an_earlier_try(self, emulator, context, run_task, slow):
        """The start request of the earlier try may still arrive."""
        for number in (1, 2):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(SimClient, "start_workflow_run", killed_after_the_id)
                with pytest.raises(Killed):
                    operator().execute(context)
            if number == 1:
                first = context["ti"].xcoms["run_id"]
            context.update(next_try(context))
        slow.seconds = 0.0
        run_task(operator())
        assert [run.run_id for run in emulator.runs] == [first]

    def test_retry_finds_a_start_request_that_arrives_late(self, emulator, context, run_task, slow):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SimClient, "start_workflow_run", killed_after_the_id)
            with pytest.raises(Killed):
                operator().execute(context)
        sent = context["ti"].xcoms["run_id"]
        slow.seconds = 0.0
        context.update(next_try(context))

        def arrive(request):
            if request.method == "GET" and not emulator.runs:
                state = emulator.state
                workflow, key = state.workflows["slow_one"], state.keys.find(emulator.api_key)
                state.start(workflow, {}, mode="async", key=key, run_id=sent, bucket=state.limits.asynchronous)

        emulator.on_request(arrive)
        assert run_task(operator()) == {"done": True}
        assert len(emulator.runs) == 1

    def test_retry_finds_the_run_after_a_503_without_trace(self, emulator, context, run_task, monkeypatch, slow):
        emulator.fault("server_error", status=503, match="execute")
        no_sleep(monkeypatch)
        die_and_try_again(context, monkeypatch)
        end_when_found(emulator, slow)
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert len(emulator.runs) == 1

    @pytest.mark.parametrize("reattached", [False, True])
    def test_deferral_timeout_cancels_the_run_of_this_try(self, emulator, context, monkeypatch, slow, reattached):
        die_waiting(context, monkeypatch)
        if not reattached:
            emulator.runs[0].cancel()
        context.update(next_try(context))
        with pytest.raises(TaskDeferred):
            operator(deferrable=True, do_xcom_push=False).execute(context)
        resume = {"next_method": "__fail__", "next_kwargs": {"error": "Trigger timeout"}, "context": context}
        with pytest.raises(SimRunTimeoutError, match=emulator.runs[-1].run_id):
            operator(deferrable=True, do_xcom_push=False).resume_execution(**resume)
        assert {run.status for run in emulator.runs} == {"cancelled"}
        assert len(emulator.runs) == (1 if reattached else 2)

    def test_retry_skips_rejected_run_ids(self, emulator, context, run_task, monkeypatch, slow):
        emulator.state.limits.concurrent_runs = 0
        lift = emulator.state.request_listeners.append
        lift(lambda request: request.status == 429 and setattr(emulator.state.limits, "concurrent_runs", None))
        no_sleep(monkeypatch)
        die_waiting(context, monkeypatch)
        assert [run.status for run in emulator.runs] == ["failed", "running"]
        context.update(next_try(context))
        end_when_found(emulator, slow)
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert len(emulator.runs) == 2

    def test_mapped_task_instances_have_different_run_ids(self, emulator, context, run_task, slow):
        slow.seconds = 0.0
        for number in range(3):
            context["ti"].map_index = number
            run_task(operator())
        assert len({run.run_id for run in emulator.runs}) == 3

    def test_same_try_executed_again_starts_its_own_run(self, emulator, context, run_task, slow, mode):
        """``airflow tasks test`` on a DAG run of the scheduler."""
        slow.seconds = 0.0
        for _ in range(2):
            run_task(operator(**mode))
        assert len(emulator.runs) == 2

    def test_run_is_found_after_a_lost_response(self, emulator, context, run_task, monkeypatch, slow):
        slow.seconds = 0.0
        no_sleep(monkeypatch)
        emulator.fault("drop_after_accept", match="execute")
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert len(emulator.runs) == 1

    @pytest.mark.parametrize("start", ["another", "none", "logical_date", "run_after"])
    def test_recreated_dag_run_starts_its_own_run(self, emulator, context, run_task, slow, mode, start):
        """On another Airflow, or created again, even with the same start date or none."""
        slow.seconds = 0.0
        run_task(operator(**mode))
        run_task(operator(**mode)) if start != "another" else None
        another = context["dag_run"].start_date + timedelta(microseconds=start == "another")
        context["dag_run"].start_date = None if start == "none" else another
        setattr(context["dag_run"], start, another)
        before = len(emulator.runs)
        context["ti"] = TaskInstance(try_number=2)
        run_task(operator(**mode))
        assert len(emulator.runs) == before + 1


def end_when_found(emulator, slow):
    """End the run after a poll has found it active."""
    run_id = emulator.runs[-1].run_id
    emulator.on_request(lambda request: run_id in request.path and setattr(slow, "seconds", 0.0))


@pytest.mark.sim_emulator(profile="v0.6.40")
class TestServersThatChooseRunIds:
    def test_retry_reattaches_by_the_run_id_of_the_server(self, emulator, context, run_task, monkeypatch, slow, caplog):
        die_and_try_again(context, monkeypatch)
        emulator.on_request(lambda request: setattr(slow, "seconds", 0.0))
        assert run_task(operator(async_execution=True)) == {"done": True}
        assert len(emulator.runs) == 1

    def test_run_id_is_persisted_before_it_is_published(self, emulator, context, run_task, monkeypatch, slow):
        def push(self, key, value):
            if emulator.runs:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(type(context["ti"]), "xcom_push", push)
            with pytest.raises(Killed):
                operator(async_execution=True).execute(context)
        assert context["task_state_store"][STATE_KEY]["run_id"] == emulator.runs[0].run_id

    def test_interrupted_stream_is_retryable(self, emulator, context, slow):
        slow.seconds = 0.0
        emulator.fault("cut_stream", frames=0)
        with pytest.raises((SimStreamError, SimConnectionError)) as caught:
            operator(stream=True).execute(context)
        assert not isinstance(caught.value, AirflowFailException), "the run can't be asked for, but another be started"

    def test_log_warns_about_the_missing_guarantee(self, context, run_task, slow, caplog):
        slow.seconds = 0.0
        run_task(operator(async_execution=True))
        assert "chose the run ID itself" in caplog.text


class TestOnKill:
    def test_kill_of_a_waiting_worker_cancels_its_run(self, emulator, context, slow):
        task = operator(async_execution=True)
        emulator.on_request(lambda request: request.method == "GET" and emulator.runs and kill(task))
        with pytest.raises(SimRunCancelledError):
            task.execute(context)
        assert [run.status for run in emulator.runs] == ["cancelled"]

    @pytest.mark.parametrize("options", [{}, {"stream": True}, {"async_execution": True}], ids=str)
    def test_kill_before_the_response_cancels_the_run(self, emulator, context, slow, options):
        task = operator(**options)
        emulator.on_start("slow_one", lambda run: kill(task))
        with pytest.raises(Exception, match=r"cancel|killed"):
            task.execute(context)
        assert [run.status for run in emulator.runs] == ["cancelled"]

    @pytest.mark.parametrize("options", [{"stream": True}, {"async_execution": True}], ids=str)
    def test_kill_during_the_start_request_cancels_the_run(self, emulator, context, monkeypatch, slow, options):
        """The run doesn't exist yet when on_kill cancels it; Airflow lets the worker continue for some seconds."""
        no_sleep(monkeypatch)
        task = operator(**options)
        in_the_midst(emulator.hold("execute"), task.on_kill)
        with pytest.raises(AirflowException, match="killed while its run was being started"):
            task.execute(context)
        assert [run.status for run in emulator.runs] == ["cancelled"]

    @pytest.mark.parametrize("moment", ["xcom_push", "get_workflow"])
    def test_kill_before_the_start_request_starts_no_run(self, emulator, context, monkeypatch, slow, moment):
        """Airflow calls on_kill between two steps of the task, which then continues."""
        no_sleep(monkeypatch)
        task = operator(async_execution=True)
        place = type(context["ti"]) if moment == "xcom_push" else SimClient
        original = getattr(place, moment)
        monkeypatch.setattr(place, moment, lambda *args, **kwargs: (task.on_kill(), original(*args, **kwargs))[1])
        with pytest.raises(AirflowException, match="killed before its run was started"):
            task.execute(context)
        assert emulator.runs == []

    @pytest.mark.parametrize(
        "fault", [{"name": "drop_before_accept"}, {"name": "server_error", "status": 502}], ids=str
    )
    def test_kill_stops_retries_of_the_start_request(self, emulator, context, monkeypatch, slow, fault):
        task = operator(async_execution=True)
        emulator.fault(match="execute", **fault)
        no_sleep(monkeypatch, task.on_kill)
        with pytest.raises(AirflowException, match="killed before its run was started"):
            task.execute(context)
        assert emulator.runs == []

    def test_kill_stops_retries_to_an_unreachable_server(self, context, monkeypatch, connection):
        task = operator(async_execution=True)
        connection(host=f"http://127.0.0.1:{closed_port()}", extra={"workspace_id": "w"})
        no_sleep(monkeypatch, task.on_kill)
        with pytest.raises(AirflowException, match="killed before its run was started"):
            task.execute(context)

    @pytest.mark.parametrize("moment", ["get", "get_workflow_run"])
    def test_run_of_an_earlier_try_is_cancelled_before_reattachment(self, emulator, context, monkeypatch, slow, moment):
        die_and_try_again(context, monkeypatch)
        task = operator(async_execution=True)
        place = type(context["task_state_store"]) if moment == "get" else SimClient
        original = getattr(place, moment)
        once = iter([task.on_kill])
        monkeypatch.setattr(place, moment, lambda *args, **kwargs: (next(once, int)(), original(*args, **kwargs))[1])
        with pytest.raises((AirflowException, SimRunCancelledError)):
            task.execute(context)
        assert [run.status for run in emulator.runs] == ["cancelled"]

    def test_kill_without_cancel_on_kill_leaves_the_run_running(self, emulator, context, monkeypatch, slow):
        task = operator(async_execution=True, cancel_on_kill=False)
        monkeypatch.setattr(polling, "wait_for_run", lambda *_: task.on_kill() or (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            task.execute(context)
        assert [run.status for run in emulator.runs] == ["running"]

    def test_kill_stops_retries_after_a_concurrency_rejection(self, emulator, context, monkeypatch, slow):
        emulator.state.limits.concurrent_runs = 0
        task = operator(async_execution=True)
        no_sleep(monkeypatch, task.on_kill)
        with pytest.raises(AirflowException, match="killed before its run was started"):
            task.execute(context)
        assert [run.status for run in emulator.runs] == ["failed"], "the refusal's trace"

    def test_result_of_the_cancellation_is_logged(self, emulator, context, slow, caplog):
        caplog.set_level(logging.INFO)
        emulator.state.redis = False
        task = operator(async_execution=True)
        emulator.on_request(lambda request: request.method == "GET" and emulator.runs and kill(task))
        with pytest.raises(SimRunCancelledError):
            task.execute(context)
        assert "is cancelled." in caplog.text

    def test_failed_cancellation_is_logged(self, emulator, context, monkeypatch, slow, caplog):
        emulator.fault("server_error", match="cancel", times=None, status=404, page=True)
        task = operator(async_execution=True)
        monkeypatch.setattr(polling, "wait_for_run", lambda *_: task.on_kill() or (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            task.execute(context)
        assert "could not be cancelled" in caplog.text


_killers: dict[int, tuple[object, threading.Thread]] = {}
"""With what they are about, whose id is another's as soon as it is gone."""


def kill(task):
    """Call ``on_kill`` once, as Airflow does, but from another thread, since the server's couldn't respond."""
    if id(task) not in _killers:
        killer = threading.Thread(target=task.on_kill)
        killer.start()
        _killers[id(task)] = task, killer


@pytest.fixture(autouse=True)
def _killers_done(emulator):
    """Stop what a test has left running."""
    yield
    emulator.state.request_listeners.clear()
    while _killers:
        _killers.popitem()[1][1].join(timeout=30)


def in_the_midst(hold, do):
    """Do something in another thread while a request is held."""

    def wait_and_do():
        with hold:
            hold.wait_until_held()
            do()

    killer = threading.Thread(target=wait_and_do)
    killer.start()
    _killers[id(hold)] = hold, killer


def no_sleep(monkeypatch, do=lambda: None):
    """Skip the delays between attempts; during the first one, call a function."""
    once = iter([do])
    monkeypatch.setattr(SimClient, "_sleep", staticmethod(lambda _: next(once, lambda: None)()))


async def stopped(trigger):
    """Start a trigger, and stop it as a triggerer that shuts down does."""
    waiting = asyncio.ensure_future(anext(trigger.run()))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


class TestTriggerOnKill:
    @pytest.fixture
    def trigger(self, emulator, context, slow):
        with pytest.raises(TaskDeferred) as deferral:
            operator(deferrable=True).execute(context)
        return deferral.value.trigger

    @pytest.mark.parametrize("state", [None, "scheduled", "failed", "success"])
    def test_clearing_or_marking_the_task_cancels_the_run(self, emulator, trigger, monkeypatch, state):
        monkeypatch.setattr("airflow_provider_sim._compat._state_of", lambda ti: state)
        asyncio.run(trigger.on_kill())
        assert [run.status for run in emulator.runs] == ["cancelled"]

    def test_trigger_of_a_deferred_task_leaves_the_run_running(self, emulator, trigger, monkeypatch):
        monkeypatch.setattr("airflow_provider_sim._compat._state_of", lambda ti: "deferred")
        asyncio.run(trigger.on_kill())
        assert [run.status for run in emulator.runs] == ["running"]

    def test_unknown_task_state_cancels_the_run(self, emulator, trigger):
        trigger.task_instance = None
        asyncio.run(trigger.on_kill())
        assert [run.status for run in emulator.runs] == ["cancelled"]

    @pytest.mark.parametrize("has_on_kill", [True, False])
    def test_run_is_cancelled_although_airflow_cancels_repeatedly(
        self, emulator, context, trigger, monkeypatch, has_on_kill
    ):
        """Airflow 3.3.2 cancels the trigger once a second until it is gone, while Sim takes longer."""
        monkeypatch.setattr("airflow_provider_sim.triggers.base.TRIGGERS_GET_ON_KILL", has_on_kill)
        monkeypatch.setattr("airflow_provider_sim._compat._state_of", lambda ti: "failed")
        trigger.task_instance = context["ti"]

        async def impatient():
            ending = asyncio.ensure_future(trigger.on_kill() if has_on_kill else anext(trigger.run()))
            with emulator.hold("cancel") as hold:
                await asyncio.sleep(0.05)
                ending.cancel()
                await asyncio.to_thread(hold.wait_until_held)
                for _ in range(5):
                    ending.cancel()
                    await asyncio.sleep(0.01)
            await asyncio.wait([ending])

        asyncio.run(impatient())
        assert [run.status for run in emulator.runs] == ["cancelled"]

    def test_stopping_triggerer_leaves_the_run_running(self, emulator, trigger):
        asyncio.run(stopped(trigger))
        assert [run.status for run in emulator.runs] == ["running"]

    @pytest.mark.parametrize(("state", "status"), [("deferred", "running"), (None, "cancelled")])
    def test_task_state_decides_before_airflow_3_3(self, emulator, context, trigger, monkeypatch, state, status):
        monkeypatch.setattr("airflow_provider_sim.triggers.base.TRIGGERS_GET_ON_KILL", False)
        monkeypatch.setattr("airflow_provider_sim._compat._state_of", lambda ti: state)
        trigger.task_instance = context["ti"]
        asyncio.run(stopped(trigger))
        assert [run.status for run in emulator.runs] == [status]

    def test_trigger_of_a_sensor_leaves_the_run_running(self, emulator, context, slow):
        run_id = operator(wait_for_completion=False).execute(context)
        with pytest.raises(TaskDeferred) as deferral:
            SimJobSensor(task_id="s", workflow_id="slow_one", run_id=run_id, deferrable=True).execute(context)
        asyncio.run(deferral.value.trigger.on_kill())
        assert [run.status for run in emulator.runs] == ["running"]


class TestLostRuns:
    @pytest.fixture(autouse=True)
    def _no_grace(self, monkeypatch, emulator, slow):
        monkeypatch.setattr("airflow_provider_sim.polling.poll_state.NOT_FOUND_GRACE", 0.0)
        emulator.state.queue_delay = 60.0
        slow.seconds = 0.0
        yield
        emulator.state.queue_delay = 0.0

    @pytest.mark.parametrize("options", [{"async_execution": True}, {"deferrable": True}], ids=str)
    def test_retry_resends_a_queued_run_lost_by_a_restart(self, emulator, context, run_task, monkeypatch, options):
        def forget():
            emulator.restart()
            emulator.state.queue_delay = 0.0

        def a_try():
            try:
                operator(**options).execute(context)
            except TaskDeferred as deferral:
                forget()
                operator(**options).execute_complete(context, fire(deferral.trigger))

        with monkeypatch.context() as patch:
            wait = polling.wait_for_run
            patch.setattr(polling, "wait_for_run", lambda *args: (forget(), wait(*args))[1])
            with pytest.raises(SimRunError, match="Could not get the status of run") as lost:
                a_try()
        assert not isinstance(lost.value, AirflowFailException), "which would use up all retries"
        assert emulator.runs == []
        context.update(next_try(context))
        assert run_task(operator(**options)) == {"done": True}
        assert [run.run_id for run in emulator.runs] == [lost.value.run_id]

    def test_run_lost_between_trigger_and_worker_raises_run_error(self, emulator, context):
        event = {"status": "completed", "workflow_id": "slow_one", "run_id": "gone", "job_id": None}
        with pytest.raises(SimRunError, match="Could not get the status of run 'gone'"):
            operator(deferrable=True).execute_complete(context, event)


class TestTimeouts:
    @pytest.mark.parametrize("options", [{"async_execution": True}, {"deferrable": True}], ids=str)
    @pytest.mark.parametrize("limit", ["timeout", "execution_timeout"])
    def test_run_is_cancelled_at_timeout_and_execution_timeout(self, emulator, run_task, slow, options, limit):
        with pytest.raises(SimRunTimeoutError):
            run_task(operator(**options, **{limit: timedelta(seconds=0.3)}))
        assert [run.status for run in emulator.runs] == ["cancelled"]

    def test_timeout_without_cancel_on_kill_leaves_the_run_running(self, emulator, run_task, slow):
        with pytest.raises(SimRunTimeoutError):
            run_task(operator(async_execution=True, timeout=0.2, cancel_on_kill=False))
        assert [run.status for run in emulator.runs] == ["running"]

    def test_trigger_deadline_counts_from_the_start_of_the_try(self, context, slow):
        context["ti"].start_date -= timedelta(minutes=10)
        with pytest.raises(TaskDeferred) as deferral:
            operator(deferrable=True, execution_timeout=timedelta(minutes=15)).execute(context)
        left = deferral.value.trigger.run_options.deadline - context["ti"].start_date.timestamp()
        assert left == pytest.approx(15 * 60)

    def test_timeout_cancels_a_sync_run(self, emulator, run_task, slow):
        with pytest.raises(SimRunTimeoutError):
            run_task(operator(timeout=1.0))
        assert [run.status for run in emulator.runs] == ["cancelled"]

    @pytest.mark.parametrize("ended", [True, False])
    def test_execution_timeout_polls_once_more(self, emulator, context, monkeypatch, slow, ended):
        def alarm(*_):
            slow.seconds = 0.0 if ended else 60.0
            raise AirflowTaskTimeout("too long")

        monkeypatch.setattr(polling, "wait_for_run", alarm)
        task = operator(async_execution=True)
        if ended:
            assert task.execute(context) == {"done": True}
            return
        with pytest.raises(AirflowTaskTimeout):
            task.execute(context)
        task.on_kill()  # what Airflow does next
        assert [run.status for run in emulator.runs] == ["cancelled"]

    @pytest.mark.parametrize("ended", [True, False])
    def test_deferral_timeout_polls_once_and_cancels_the_run(self, emulator, context, slow, ended):
        task = operator(deferrable=True)
        with pytest.raises(TaskDeferred):
            task.execute(context)
        slow.seconds = 0.0 if ended else 60.0
        resume = {"next_method": "__fail__", "next_kwargs": {"error": "Trigger timeout"}, "context": context}
        if ended:
            assert operator(deferrable=True).resume_execution(**resume) == {"done": True}
            return
        with pytest.raises(SimRunTimeoutError):
            operator(deferrable=True).resume_execution(**resume)
        assert [run.status for run in emulator.runs] == ["cancelled"]

    def test_airflow_timeout_during_cancellation_still_cancels_the_run(self, emulator, context, monkeypatch, slow):
        with pytest.raises(TaskDeferred) as deferral:
            operator(deferrable=True).execute(context)
        ids = deferral.value.trigger.serialize()[1]
        event = {"status": "timeout", **{name: ids[name] for name in ("workflow_id", "run_id", "job_id")}}
        task = operator(deferrable=True)

        def alarm(*_, **__):
            raise AirflowTaskTimeout("too long")

        with monkeypatch.context() as patch:
            patch.setattr(SimClient, "stop_workflow_run", alarm)
            with pytest.raises(AirflowTaskTimeout):
                task.execute_complete(context, event)
        task.on_kill()  # what Airflow does next
        assert [run.status for run in emulator.runs] == ["cancelled"]

    def test_deferral_timeout_without_xcoms_reads_the_task_state(self, emulator, context, slow):
        with pytest.raises(TaskDeferred):
            operator(deferrable=True, do_xcom_push=False).execute(context)
        resume = {"next_method": "__fail__", "next_kwargs": {"error": "Trigger timeout"}, "context": context}
        with pytest.raises(SimRunTimeoutError, match=emulator.runs[0].run_id):
            operator(deferrable=True, do_xcom_push=False).resume_execution(**resume)
        assert [run.status for run in emulator.runs] == ["cancelled"]

    @pytest.mark.parametrize(("options", "status"), [({}, "running"), ({"cancel_on_timeout": True}, "cancelled")])
    @pytest.mark.parametrize("by_airflow", [True, False])
    def test_sensor_cancels_the_run_only_with_cancel_on_timeout(
        self, emulator, context, monkeypatch, slow, options, status, by_airflow
    ):
        run_id = operator(wait_for_completion=False).execute(context)
        sensor = SimJobSensor(
            task_id="s", workflow_id="slow_one", run_id=run_id, deferrable=True, timeout=0.1, **options
        )
        with pytest.raises(TaskDeferred) as deferral:
            sensor.execute(context)
        monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.01)
        resume = {"next_method": "__fail__", "next_kwargs": {"error": "Trigger timeout"}}
        if not by_airflow:
            resume = {"next_method": "execute_complete", "next_kwargs": {"event": fire(deferral.value.trigger)}}
        with pytest.raises(AirflowSensorTimeout, match=run_id):
            sensor.resume_execution(**resume, context=context)
        assert [run.status for run in emulator.runs] == [status]


class TestLogs:
    def test_reattachment_is_logged(self, emulator, context, run_task, monkeypatch, slow, caplog):
        caplog.set_level(logging.INFO)
        die_waiting(context, monkeypatch)
        slow.seconds = 0.0
        context.update(next_try(context))
        run_task(operator(async_execution=True))
        run_id = emulator.runs[0].run_id
        assert f"Run {run_id} of an earlier try is completed; re-attaching" in caplog.text
