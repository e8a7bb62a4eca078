"""SimExecuteWorkflowBatchOperator against the emulator, over a real socket, on a worker and through a triggerer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import logging
import re
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_sim.batch import engine
from airflow_provider_sim.batch.chunks import INPUTS_KEY
from airflow_provider_sim.batch.state import BatchState
from airflow_provider_sim.client.server_facts import facts_about
from airflow_provider_sim.emulator.workflows import BlockError, Pausing
from airflow_provider_sim.exceptions import (
    SimAuthenticationError,
    SimBatchError,
    SimError,
    SimInputError,
    SimNotFoundError,
    SimOutputError,
    SimRunTimeoutError,
    SimUsageLimitError,
    SimWorkflowNotDeployedError,
)
from airflow_provider_sim.operators.batch import SimExecuteWorkflowBatchOperator
from airflow_provider_sim.polling import rate_limits
from airflow_provider_sim.task.run_store import BATCH_KEY
from tests.operators.conftest import TaskInstance, fire, rebuilt
from tests.operators.ended_runs import until

pytestmark = pytest.mark.usefixtures("connection", "doubles", "xcoms")

MODES = {"worker": {}, "triggerer": {"deferrable": True}}


class Killed(BaseException):
    """Stands for SIGKILL of a worker: no code handles it."""


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


@pytest.fixture(autouse=True)
def _no_limits_but_those_of_the_test(emulator, monkeypatch):
    """An address has no limit here."""
    monkeypatch.setattr(rate_limits, "ADDRESS_CAPACITY", 1e9)
    emulator.state.limits.per_address = False


@pytest.fixture(autouse=True)
def _no_pause_before_the_first_look(monkeypatch):
    monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.01)


@pytest.fixture
def doubles(emulator):
    """A workflow that doubles, fails for -1, asks a person for -2, and takes until the test says otherwise."""
    duration = SimpleNamespace(seconds=0.05)

    @emulator.workflow("double", duration=lambda given: given.get("seconds", duration.seconds))
    def double(given):
        if given.get("n") == -1:
            raise BlockError("no number", block="Double")
        if given.get("n") == -2:
            return Pausing(lambda answer: answer, question="really?")
        return {"n": 2 * given["n"]}

    return duration


@pytest.fixture
def run_batch(context):
    """Execute a task to its end, through the triggerer as often as it defers; return its result."""

    def run(task):
        context["deferrals"] = []
        try:
            return task.execute(context)
        except TaskDeferred as deferred:
            deferral = deferred
        while True:
            event = fire(deferral.trigger, context["ti"])
            context["deferrals"].append((deferral, event))
            try:
                return getattr(task, deferral.method_name)(context, event=event)
            except TaskDeferred as again:
                deferral = again

    return run


def operator(inputs, **arguments):
    return SimExecuteWorkflowBatchOperator(
        **{
            "task_id": "t",
            "workflow_id": "double",
            "inputs": inputs,
            "poll_interval": 0.1,
            "retry_args": {"initial_delay": 0.01},
            **arguments,
        }
    )


def numbers(count, **more):
    return [{"n": number, **more} for number in range(count)]


def doubled(count):
    return [{"n": 2 * number} for number in range(count)]


def next_try(context, *, cleared=False):
    """The context of the try that follows, by Airflow itself or because a user has cleared the task."""
    ti, clear_number = context["ti"], context["dag_run"].clear_number
    if not cleared:
        return {**context, "ti": TaskInstance(ti.try_number + 1, max_tries=ti.max_tries)}
    another = TaskInstance(ti.try_number + 1, max_tries=ti.try_number + ti.max_tries)
    dag_run = SimpleNamespace(**vars(context["dag_run"]) | {"clear_number": clear_number + 1})
    return {**context, "ti": another, "dag_run": dag_run}


def in_new_process(function):
    """A function that knows of no server's API."""

    def call(*arguments):
        facts_about.cache_clear()
        return function(*arguments)

    return call


def request_kind(request):
    """A request's method, and what it asks for."""
    kinds = {
        r"/execute": "execute",
        r"/api/jobs/.*": "job",
        r".*/(executions|runs)/[^/]+": "run",
        r".*/logs": "logs",
        r".*/workflows/[^/]+": "workflow",
        r".*/usage-limits": "usage",
    }
    path = request.path.partition("?")[0]
    return next(f"{request.method} {kind}" for regex, kind in kinds.items() if re.fullmatch(rf".*{regex}", path))


def started(emulator):
    """How often each number's run was started."""
    return Counter(run.input.get("n") for run in emulator.runs if run.refused is None)


class TestRequests:
    @pytest.mark.parametrize("count", [20, 100])
    def test_batch_sends_two_requests_per_input(self, run_batch, mode, emulator, count):
        began = time.monotonic()
        assert run_batch(operator(numbers(count), poll_interval=1.0, **mode)) == doubled(count)
        polls = 2 + (time.monotonic() - began)  # one a second
        kinds = Counter(request_kind(request) for request in emulator.requests)
        assert 1 <= kinds.pop("GET logs") + kinds.pop("GET run", 0) <= polls, "a run that is polled alone is read"
        assert kinds == {"POST execute": count, "GET job": count, "GET workflow": 1, "GET usage": 1}

    @pytest.mark.sim_emulator(profile="v0.8-legacy")
    def test_legacy_api_polls_a_sample(self, run_batch, mode, emulator):
        assert run_batch(operator(numbers(100), poll_interval=0.5, **mode)) == doubled(100)
        kinds = Counter(request_kind(request) for request in emulator.requests)
        assert 1 <= kinds.pop("GET run") <= 15
        assert kinds == {"POST execute": 100, "GET job": 100, "GET workflow": 2, "GET usage": 1}  # one finds no v2

    @pytest.mark.sim_emulator(profile="v0.8-legacy")
    def test_legacy_api_waits_for_runs_slower_than_the_sample(self, run_batch, mode, emulator, monkeypatch):
        monkeypatch.setattr("airflow_provider_sim.polling.poller.SOON", 0.1)
        inputs = [{"n": n, "seconds": 1.0 if n in (1, 2) else 0.05} for n in range(40)]
        inputs[2]["n"] = -1
        results = run_batch(operator(inputs, on_error="collect", **mode))
        assert [result["status"] for result in results] == ["completed"] * 2 + ["failed"] + ["completed"] * 37
        assert results[1]["output"] == {"n": 2}
        assert max(started(emulator).values()) == 1

    @pytest.mark.sim_emulator(profile="v0.8-legacy")
    def test_legacy_api_keeps_sample_results_until_all_runs_finish(self, run_batch, context, monkeypatch):
        monkeypatch.setattr("airflow_provider_sim.polling.poller.SOON", 0.1)
        monkeypatch.setattr("tests.operators.test_batch.fire", in_new_process(fire))
        inputs = [{"n": n, "seconds": 2.0 if n == 1 else 0.05} for n in range(40)]
        assert run_batch(operator(inputs, deferrable=True)) == doubled(40)
        assert [event["status"] for _, event in context["deferrals"]] == ["gather", "gather"]
        assert not any(value for key, value in context["ti"].xcoms.items() if key.startswith("batch_results"))


class TestOutputs:
    @pytest.mark.parametrize("api_version", ["v2", "legacy"])
    def test_outputs_keep_the_order_of_the_inputs(self, run_batch, mode, emulator, connection, api_version):
        connection(extra={"api_version": api_version})
        inputs = [{"n": number, "seconds": 0.4 if number % 3 == 0 else 0.0} for number in range(20)]
        assert run_batch(operator(inputs, **mode)) == doubled(20)
        assert started(emulator) == Counter(range(20))

    def test_batch_runs_several_workflows(self, run_batch, mode):
        inputs = [
            {"workflow_id": "echo_plain" if number % 2 else "double", "input": {"n": number, "message": f"m{number}"}}
            for number in range(8)
        ]
        outputs = run_batch(operator(inputs, workflow_id=None, **mode))
        assert [output.get("n") for output in outputs[::2]] == [0, 4, 8, 12]
        assert [output["result"]["message"] for output in outputs[1::2]] == ["m1", "m3", "m5", "m7"]

    def test_batch_returns_raw_outputs(self, run_batch, mode, emulator):
        secret = {"text": "x" * 20_000, "access_token": "t", "ünï": "çödé"}
        emulator.workflow("secret", duration=0.05)(lambda given: secret)
        assert run_batch(operator([None] * 3, workflow_id="secret", **mode)) == [secret] * 3

    def test_display_copies_are_reported(self, run_batch, emulator, context, caplog):
        emulator.workflow("secret", duration=0.05)(lambda given: {"password": "p"})
        emulator.state.keep_jobs = False
        assert run_batch(operator([None] * 3, workflow_id="secret")) == [{"password": "[REDACTED]"}] * 3
        assert context["ti"].xcoms["display_copies"] == [0, 1, 2]
        assert caplog.text.count("display copies") <= 1

    def test_empty_inputs_start_no_runs(self, run_batch, emulator, mode):
        assert run_batch(operator([], **mode)) == []
        assert emulator.requests == []

    def test_batch_pushes_id_counts_and_workflow_url(self, run_batch, context, mode, emulator):
        run_batch(operator(numbers(5, seconds=0.3), **mode))
        xcoms = context["ti"].xcoms
        assert set(xcoms) == {"batch_id", "batch_counts", "workflow_url"}
        assert emulator.runs[3].run_id == f"{xcoms['batch_id']}-3"
        assert xcoms["batch_counts"] == {"total": 5, "completed": 5}
        assert xcoms["workflow_url"].endswith("/w/double")

    def test_do_xcom_push_false_starts_runs_on_the_worker(self, run_batch, context, mode, emulator):
        assert run_batch(operator(numbers(8), do_xcom_push=False, max_active_runs=3, **mode)) == doubled(8)
        assert context["ti"].xcoms == {}
        assert context["deferrals"] == []


class TestFailures:
    INPUTS = ({"n": 0}, {"n": -1}, {"n": 2}, {"n": -1}, {"n": 4})

    def test_on_error_fail_stores_partial_results(self, run_batch, mode, context):
        with pytest.raises(SimBatchError, match=r"2 of 5 inputs .* failed") as caught:
            run_batch(operator(self.INPUTS, **mode))
        message, batch_id = str(caught.value), context["ti"].xcoms["batch_id"]
        assert f"inputs[1] (failed, run '{batch_id}-1' of workflow 'double'): " in message
        assert "no number" in message
        assert "inputs[3]" in message
        assert "XCom 'partial_results'" in message
        partial = context["ti"].xcoms["partial_results"]
        assert [entry["status"] for entry in partial] == ["completed", "failed", "completed", "failed", "completed"]
        assert [entry.get("output") for entry in partial] == [{"n": 0}, None, {"n": 4}, None, {"n": 8}]
        assert not isinstance(caught.value, AirflowFailException), "they may be run again"

    def test_on_error_collect_returns_errors(self, run_batch, mode, context):
        results = run_batch(operator(self.INPUTS, on_error="collect", **mode))
        batch_id = context["ti"].xcoms["batch_id"]
        assert [set(entry) for entry in results] == [
            {"status", "output" if entry["status"] == "completed" else "error", "run_id"} for entry in results
        ]
        assert results[0] == {"status": "completed", "output": {"n": 0}, "run_id": f"{batch_id}-0"}
        assert results[1]["status"] == "failed"
        assert "no number" in results[1]["error"]
        assert "partial_results" not in context["ti"].xcoms

    def test_error_lists_the_first_failures(self, run_batch):
        with pytest.raises(SimBatchError, match=r"30 of 30 inputs .*and 20 more\. A retry"):
            run_batch(operator([{"n": -1}] * 30))

    def test_cancelled_run_is_a_failure(self, run_batch, emulator, mode):
        emulator.on_start("double", lambda run: run.input["n"] == 2 and run.cancel())
        results = run_batch(operator(numbers(4, seconds=0.3), on_error="collect", **mode))
        assert [entry["status"] for entry in results] == ["completed", "completed", "cancelled", "completed"]

    def test_retry_runs_only_failed_inputs_again(self, run_batch, emulator, context, mode):
        with pytest.raises(SimBatchError):
            run_batch(operator(self.INPUTS, **mode))
        emulator.workflow("double", duration=0.05)(lambda given: {"n": 2 * abs(given["n"])})
        context.update(next_try(context))
        assert run_batch(operator(self.INPUTS, **mode)) == [{"n": 0}, {"n": 2}, {"n": 4}, {"n": 2}, {"n": 8}]
        assert len(emulator.runs) == 7
        assert {run.run_id[-4:] for run in emulator.runs[5:]} == {"-1.2", "-3.2"} or {
            run.run_id.rpartition("-")[2] for run in emulator.runs[5:]
        } == {"1.2", "3.2"}

    def test_temporary_xcoms_are_emptied(self, run_batch, emulator, context):
        run_batch(operator(numbers(8), deferrable=True, max_active_runs=2))
        assert len(context["deferrals"]) == 1
        assert [value for key, value in context["ti"].xcoms.items() if key.startswith("batch_inputs")] == [""]


class TestRejections:
    @pytest.mark.parametrize(
        ("inputs", "arguments", "message"),
        [
            pytest.param([{"n": 1}, {"day": timedelta(1)}], {}, r"inputs\[1\].*written as JSON", id="no JSON"),
            pytest.param([1], {"workflow_id": None}, r"inputs\[0\].*must be a dict of", id="no pair"),
            pytest.param({"n": 1}, {}, "inputs is a dict", id="no list"),
        ],
    )
    def test_invalid_arguments_start_no_runs(self, run_batch, emulator, inputs, arguments, message):
        with pytest.raises(SimInputError, match=message) as caught:
            run_batch(operator(inputs, **arguments))
        assert isinstance(caught.value, AirflowFailException)
        assert not [request for request in emulator.requests if request.method == "POST"]

    def test_legacy_api_rejects_control_fields(self, run_batch, connection, emulator):
        connection(extra={"api_version": "legacy"})
        with pytest.raises(SimInputError, match=r"inputs\[1\].*control fields"):
            run_batch(operator([{"n": 1}, {"stream": True}]))
        assert emulator.runs == []

    @pytest.mark.parametrize(
        ("workflow_id", "error"), [("nowhere", SimNotFoundError), ("undeployed", SimWorkflowNotDeployedError)]
    )
    def test_rejection_of_all_inputs_is_one_permanent_error(self, run_batch, emulator, mode, workflow_id, error):
        with pytest.raises(error):
            run_batch(operator(numbers(50), workflow_id=workflow_id, **mode))
        assert len([request for request in emulator.requests if request.method == "POST"]) == 1

    def test_wrong_key_raises_one_authentication_error(self, run_batch, connection, mode):
        connection(password="sk-sim-wrong")
        with pytest.raises(SimAuthenticationError):
            run_batch(operator(numbers(5), **mode))

    def test_skip_undeployed_skips_inputs_of_undeployed_workflows(self, run_batch, emulator, mode):
        inputs = [
            {"workflow_id": "undeployed" if number % 2 else "double", "input": {"n": number}} for number in range(6)
        ]
        outputs = run_batch(operator(inputs, workflow_id=None, skip_undeployed=True, **mode))
        assert outputs == [{"n": 0}, None, {"n": 4}, None, {"n": 8}, None]
        collected = run_batch(
            operator(inputs, workflow_id=None, skip_undeployed=True, on_error="collect", durable=False, **mode)
        )
        assert collected[1] == {"status": "skipped", "run_id": None}

    def test_usage_limit_reached_mid_batch_is_retryable(self, run_batch, emulator, context, mode):
        limits = emulator.state.limits
        limits.billing, limits.usage_limit = True, 0.0249
        with pytest.raises(SimBatchError, match=r"stopped: .*Usage limit.*A retry"):
            run_batch(operator(numbers(12), **mode))
        before = started(emulator)
        assert 3 <= before.total() < 12
        limits.usage_limit = 100.0
        context.update(next_try(context))
        assert run_batch(operator(numbers(12), **mode)) == doubled(12)
        assert started(emulator) == Counter(range(12))

    def test_usage_limit_reached_before_is_not_retryable(self, run_batch, emulator, mode):
        emulator.state.limits.usage_limit = -1.0
        with pytest.raises(SimUsageLimitError):
            run_batch(operator(numbers(12), **mode))


class TestTriggerer:
    def test_triggerer_starts_remaining_inputs(self, run_batch, emulator, context):
        assert run_batch(operator(numbers(16, seconds=0.3), deferrable=True, max_active_runs=4)) == doubled(16)
        [(deferral, event)] = context["deferrals"]
        assert deferral.trigger.serialize()[1]["state"]["statuses"] == "a*4 u*12"
        assert event["state"]["statuses"] == "c*16"
        assert started(emulator) == Counter(range(16))

    def test_trigger_arguments_contain_neither_inputs_nor_key(self, context, emulator):
        emulator.state.limits.concurrent_runs = 2
        with pytest.raises(TaskDeferred) as deferral:
            operator([{"n": number, "name": "Erika Mustermann"} for number in range(50)], deferrable=True).execute(
                context
            )
        _, arguments = deferral.value.trigger.serialize()
        persisted = json.dumps([arguments, repr(deferral.value.trigger)])
        assert "Mustermann" not in persisted
        assert emulator.api_key not in persisted
        assert len(persisted) < 3000
        assert "Mustermann" in context["ti"].xcoms[INPUTS_KEY.format(0)]

    def test_triggerer_reads_inputs_in_chunks(self, run_batch, emulator, context, monkeypatch):
        monkeypatch.setattr("airflow_provider_sim.batch.chunks.CHUNK_BYTES", 50)
        assert run_batch(operator(numbers(30), deferrable=True, max_active_runs=5)) == doubled(30)
        assert len(context["deferrals"][0][0].trigger.worker_state["firsts"]) > 5

    def test_trigger_uses_the_concurrency_limit_of_the_worker(self, context, emulator):
        emulator.state.limits.concurrent_runs = 5
        with pytest.raises(TaskDeferred) as deferral:
            operator(numbers(20, seconds=60.0), deferrable=True, max_active_runs=7).execute(context)
        trigger = deferral.value.trigger
        assert (trigger.worker_state["known_limit"], trigger.run_options.max_active_runs) == (5, 7)

    @pytest.mark.parametrize("api_version", ["v2", "legacy"])
    def test_another_triggerer_resumes_a_batch(self, context, emulator, doubles, connection, api_version, monkeypatch):
        connection(extra={"api_version": api_version})
        monkeypatch.setattr("airflow_provider_sim._compat._state_of", lambda ti: "deferred")
        with pytest.raises(TaskDeferred) as deferral:
            operator(numbers(16, seconds=0.3), deferrable=True, max_active_runs=4).execute(context)
        first = rebuilt(deferral.value.trigger, context["ti"])

        async def die():
            running = asyncio.create_task(anext(first.run()))
            await until(lambda: len(emulator.runs) >= 8)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(die())
        event = fire(deferral.value.trigger, context["ti"])
        assert operator(numbers(16, seconds=0.3)).execute_complete(context, event) == doubled(16)
        assert started(emulator) == Counter(range(16))

    def test_two_triggers_start_no_run_twice(self, context, emulator):
        """A triggerer that Airflow considers dead, and the one that took over its triggers."""
        with pytest.raises(TaskDeferred) as deferral:
            operator(numbers(16, seconds=0.3), deferrable=True, max_active_runs=4).execute(context)
        events = []
        threads = [
            threading.Thread(target=lambda: events.append(fire(deferral.value.trigger, context["ti"])))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [event["status"] for event in events] == ["gather", "gather"]
        assert started(emulator) == Counter(range(16))
        for event in events:
            assert operator(numbers(16, seconds=0.3)).execute_complete(context, event) == doubled(16)

    def test_deleted_inputs_are_an_error(self, context, emulator):
        with pytest.raises(TaskDeferred) as deferral:
            operator(numbers(20), deferrable=True, max_active_runs=2).execute(context)
        context["ti"].xcoms.clear()
        event = fire(deferral.value.trigger, context["ti"])
        assert event["status"] == "error"
        with pytest.raises(SimBatchError, match="which was deleted"):
            operator(numbers(20)).execute_complete(context, event)

    def test_worker_fetches_outputs_before_sim_deletes_them(self, run_batch, context, emulator, monkeypatch, tmp_path):
        monkeypatch.setattr(engine, "GATHER_AFTER", 0.5)
        assert run_batch(operator(numbers(24, seconds=0.2), deferrable=True, max_active_runs=4)) == doubled(24)
        assert len(context["deferrals"]) > 1
        assert [event["status"] for _, event in context["deferrals"]][-1] == "gather"
        jobs = Counter(request.path for request in emulator.requests if "/api/jobs/" in request.path)
        assert set(jobs.values()) == {1}, "each output is got once"
        assert started(emulator) == Counter(range(24))
        assert not any(value for key, value in context["ti"].xcoms.items() if key.startswith("batch_results"))

    @pytest.mark.parametrize(
        "event",
        [None, {}, {"status": "gather"}, {"status": "gather", "state": {}}],
        ids=["none", "empty", "no journal", "no journal either"],
    )
    def test_invalid_event_is_an_error(self, context, event):
        with pytest.raises(SimError, match="event doesn't belong"):
            operator(numbers(3)).execute_complete(context, event)

    def test_event_of_other_inputs_is_an_error(self, context, emulator):
        event = {"status": "gather", "state": BatchState("airflow-x", ["double"] * 2).to_dict()}
        with pytest.raises(SimError, match="inputs were changed"):
            operator(numbers(3)).execute_complete(context, event)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # dead workers close nothing
class TestDurability:
    """A retry after a crash continues the batch."""

    def die(self, context, emulator, doubles, after, monkeypatch, **arguments):
        """One try whose worker dies once so many runs were started."""
        doubles.seconds = 60.0
        from airflow_provider_sim.batch.engine import BatchEngine

        with monkeypatch.context() as patch:
            begins = BatchEngine._on_started

            def dies(self, index, started):
                if len(emulator.runs) >= after:
                    raise Killed
                return begins(self, index, started)

            patch.setattr(BatchEngine, "_on_started", dies)
            with pytest.raises(Killed):
                operator(numbers(20), **arguments).execute(context)
        gc.collect()  # closes what it left open now, not during another test
        doubles.seconds = 0.05
        context.update(next_try(context))

    @pytest.mark.parametrize("api_version", ["v2", "legacy"])
    @pytest.mark.parametrize("after", [pytest.param(number, marks=pytest.mark.slow) for number in (1, 2, 20)] + [9])
    def test_every_input_runs_once_after_a_crash(
        self, run_batch, context, emulator, doubles, monkeypatch, mode, api_version, after, connection
    ):
        connection(extra={"api_version": api_version})
        self.die(context, emulator, doubles, after, monkeypatch, **mode)
        assert after <= len(emulator.runs) <= after + rate_limits.MAX_STARTING
        assert run_batch(operator(numbers(20), **mode)) == doubled(20)
        assert started(emulator) == Counter(range(20))

    def test_retry_after_a_crash_before_the_first_start(self, run_batch, context, emulator, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(
                "airflow_provider_sim.client.async_client.AsyncSimClient.start_workflow_run",
                lambda *_, **__: (_ for _ in ()).throw(Killed),
            )
            with pytest.raises(Killed):
                operator(numbers(4)).execute(context)
        noted = context["task_state_store"][BATCH_KEY]["state"]["batch_id"]
        assert emulator.runs == []
        context.update(next_try(context))
        assert run_batch(operator(numbers(4))) == doubled(4)
        assert emulator.runs[0].run_id == f"{noted}-0"

    @pytest.fixture
    def no_store(self, context):
        """Airflow before 3.3: batch IDs are derived from the task instance and its DAG run's start."""
        del context["task_state_store"]
        context["dag_run"].start_date = datetime(2026, 1, 1, 0, 0, 3, 141592, tzinfo=UTC)

    @pytest.mark.usefixtures("no_store")
    def test_retry_without_a_store_derives_run_ids(self, run_batch, context, emulator, doubles, monkeypatch, mode):
        self.die(context, emulator, doubles, 9, monkeypatch, **mode)
        assert run_batch(operator(numbers(20), **mode)) == doubled(20)
        assert started(emulator) == Counter(range(20))

    def test_input_fields_are_checked_once_per_workflow_and_batch(self, context, emulator):
        """A draft that changed between tries doesn't discard the runs of the earlier try."""
        inputs = {"n": "number"}
        names = ["one", "other"]
        for name in names:
            emulator.workflow(name, inputs=inputs)(lambda given: fail_on_the_first_try())
        failed = []

        def fail_on_the_first_try():
            if not failed:
                failed.append(True)
                raise BlockError("no", block="Agent")

        pairs = [{"workflow_id": name, "input": {"n": number}} for name in names for number in range(3)]
        task = operator(pairs, workflow_id=None, check_input="fail")

        def checks():
            paths = [f"/workflows/{name}" for name in names]
            return sorted(request.path[-9:] for request in emulator.requests if request.path.endswith(tuple(paths)))

        with pytest.raises(SimBatchError, match="1 of 6"):
            task.execute(context)
        first = checks()
        for name in names:
            emulator.workflow(name, inputs={"renamed": "number"})(lambda given: {})
        assert len(task.execute(next_try(context))) == 6
        assert len(checks()) - len(first) <= 1, "only the workspace for the link is asked for again"

    @pytest.mark.usefixtures("no_store")
    def test_cleared_task_without_a_store_starts_a_new_batch(self, run_batch, context, emulator):
        run_batch(operator(numbers(3)))
        context.update(next_try(context, cleared=True))
        run_batch(operator(numbers(3)))
        assert started(emulator).total() == 6

    @pytest.mark.usefixtures("no_store")
    def test_same_try_without_a_store_starts_its_own_batch(self, run_batch, emulator, mode):
        for _ in range(2):
            assert run_batch(operator(numbers(3), **mode)) == doubled(3)
        assert started(emulator).total() == 6

    @pytest.mark.usefixtures("no_store")
    @pytest.mark.parametrize("start", ["another", "none"])
    def test_recreated_dag_run_without_a_store_starts_another_batch(self, run_batch, context, emulator, start):
        run_batch(operator(numbers(3)))
        another = context["dag_run"].start_date + timedelta(microseconds=1)
        context["dag_run"].start_date = another if start == "another" else None
        context["ti"] = TaskInstance(try_number=2)
        assert run_batch(operator(numbers(3))) == doubled(3)
        assert started(emulator).total() == 6

    def test_durable_false_starts_a_batch_in_each_try(self, run_batch, context, emulator):
        for _ in range(2):
            run_batch(operator(numbers(3), durable=False))
        assert started(emulator).total() == 6
        assert context["task_state_store"] == {}

    def test_cleared_task_cancels_old_runs_and_starts_again(self, run_batch, context, emulator, doubles, monkeypatch):
        self.die(context, emulator, doubles, 10, monkeypatch)
        doubles.seconds = 60.0
        context.update(next_try(context, cleared=True))
        emulator.on_request(lambda request: "cancel" in request.path and setattr(doubles, "seconds", 0.05))
        before = len(emulator.runs)
        ids = {run.run_id for run in emulator.runs}
        assert run_batch(operator(numbers(20))) == doubled(20)
        assert len(emulator.runs) == before + 20
        assert {run.status for run in emulator.runs if run.run_id in ids} <= {"cancelled", "completed"}
        assert "cancelled" in {run.status for run in emulator.runs if run.run_id in ids}

    def test_changed_inputs_start_another_batch(self, run_batch, context, emulator, doubles, monkeypatch):
        self.die(context, emulator, doubles, 10, monkeypatch)
        inputs = [{"n": number + 100} for number in range(20)]
        assert run_batch(operator(inputs)) == [{"n": 2 * (number + 100)} for number in range(20)]
        assert all(started(emulator)[number + 100] == 1 for number in range(20))

    def test_recorded_state_is_small_and_contains_no_key(self, run_batch, context, emulator):
        run_batch(operator(numbers(20)))
        written = json.dumps(context["task_state_store"])
        assert emulator.api_key not in written
        assert len(written) < 600


@pytest.mark.sim_emulator(profile="v0.6.40")
class TestServersThatChooseRunIds:
    def test_batch_stays_on_the_worker(self, run_batch, context, emulator, mode):
        assert run_batch(operator(numbers(12), **mode)) == doubled(12)
        assert context["deferrals"] == []

    def test_retry_finds_the_runs_by_the_recorded_ids(self, run_batch, context, emulator, doubles, monkeypatch):
        durability = TestDurability()
        durability.die(context, emulator, doubles, 10, monkeypatch)
        assert run_batch(operator(numbers(20))) == doubled(20)
        doubles_started = started(emulator).total() - 20
        assert doubles_started <= rate_limits.MAX_STARTING, "only those whose answers were on their way"


class TestTimeouts:
    def test_timeout_cancels_runs_and_stores_partial_results(self, run_batch, context, emulator, mode):
        inputs = [{"n": number, "seconds": 0.0 if number < 3 else 60.0} for number in range(6)]
        with pytest.raises(SimRunTimeoutError, match=r"3 of 6 runs were still.*3 completed runs"):
            run_batch(operator(inputs, timeout=1.2, **mode))
        assert [run.status for run in emulator.runs] == ["completed"] * 3 + ["cancelled"] * 3
        partial = [entry["status"] for entry in context["ti"].xcoms["partial_results"]]
        assert partial == ["completed"] * 3 + ["cancelled"] * 3

    def test_timeout_without_cancel_on_kill_leaves_runs_running(self, run_batch, emulator, mode):
        with pytest.raises(SimRunTimeoutError):
            run_batch(operator(numbers(3, seconds=60.0), timeout=0.5, cancel_on_kill=False, **mode))
        assert [run.status for run in emulator.runs] == ["running"] * 3

    def test_execution_timeout_cancels_runs(self, run_batch, emulator, mode):
        task = operator(numbers(3, seconds=60.0), execution_timeout=timedelta(seconds=1.0), **mode)
        with pytest.raises(SimRunTimeoutError):
            run_batch(task)
        assert [run.status for run in emulator.runs] == ["cancelled"] * 3

    @pytest.mark.parametrize("status", ["timeout", "error"])
    def test_runs_finished_after_the_event_are_returned(self, context, emulator, doubles, status):
        doubles.seconds = 60.0
        with pytest.raises(TaskDeferred) as deferral:
            operator(numbers(5), deferrable=True).execute(context)
        trigger = deferral.value.trigger
        doubles.seconds = 0.0
        event = {"status": status, "state": trigger.state, "worker_state": trigger.worker_state, "message": "x"}
        assert operator(numbers(5)).execute_complete(context, event) == doubled(5)

    def test_trigger_error_leaves_active_runs_to_the_retry(self, context, emulator, doubles):
        doubles.seconds = 60.0
        with pytest.raises(TaskDeferred) as deferral:
            operator(numbers(5), deferrable=True).execute(context)
        trigger = deferral.value.trigger
        event = {"status": "error", "state": trigger.state, "worker_state": trigger.worker_state, "message": "x"}
        with pytest.raises(SimBatchError) as caught:
            operator(numbers(5)).execute_complete(context, event)
        assert not isinstance(caught.value, AirflowFailException)
        assert [run.status for run in emulator.runs] == ["running"] * 5

    @pytest.mark.parametrize("store", [True, False], ids=["Airflow 3.3", "before"])
    @pytest.mark.parametrize("done", [True, False], ids=["over", "not over"])
    def test_deferral_timeout_polls_once_more(self, context, emulator, doubles, done, store):
        if not store:
            del context["task_state_store"]
        doubles.seconds = 60.0
        task = operator(numbers(5), deferrable=True)
        with pytest.raises(TaskDeferred):
            task.execute(context)
        if done:
            doubles.seconds = 0.0
        resume = {"next_method": "__fail__", "next_kwargs": {"error": "Trigger timeout"}}
        if done:
            assert task.resume_execution(**resume, context=context) == doubled(5)
            return
        with pytest.raises(SimRunTimeoutError):
            task.resume_execution(**resume, context=context)
        assert [run.status for run in emulator.runs] == ["cancelled"] * 5


class TestOnKill:
    def test_kill_of_the_worker_cancels_its_runs(self, context, emulator, doubles):
        doubles.seconds = 60.0
        task = operator(numbers(30))
        emulator.on_start("double", lambda run: len(emulator.runs) == 20 and kill(task))
        with pytest.raises(SimError):
            task.execute(context)
        assert 20 <= len(emulator.runs) <= 20 + rate_limits.MAX_STARTING
        assert {run.status for run in emulator.runs} == {"cancelled"}

    def test_kill_without_cancel_on_kill_cancels_no_runs(self, context, emulator, doubles):
        task = operator(numbers(5), cancel_on_kill=False)
        doubles.seconds = 60.0

        def end(run):
            if len(emulator.runs) == 5:
                task.on_kill()
                doubles.seconds = 0.0

        emulator.on_start("double", end)
        with contextlib.suppress(SimError):
            task.execute(context)
        assert {run.status for run in emulator.runs} == {"completed"}

    @pytest.mark.parametrize("has_on_kill", [True, False], ids=["Airflow 3.3", "before"])
    def test_trigger_cancels_runs_when_killed(self, context, emulator, doubles, monkeypatch, has_on_kill):
        monkeypatch.setattr("airflow_provider_sim.triggers.base.TRIGGERS_GET_ON_KILL", has_on_kill)
        doubles.seconds = 60.0
        with pytest.raises(TaskDeferred) as deferral:
            operator(numbers(10), deferrable=True, max_active_runs=4).execute(context)
        trigger = rebuilt(deferral.value.trigger, context["ti"])

        async def not_deferred(ti):
            return False

        monkeypatch.setattr("airflow_provider_sim.triggers.base.is_deferred", not_deferred)

        async def act():
            before = len(emulator.requests)
            running = asyncio.create_task(anext(trigger.run()))
            await until(lambda: len(emulator.requests) > before)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            if has_on_kill:
                assert {run.status for run in emulator.runs if run.refused is None} == {"running"}
                await trigger.on_kill()

        asyncio.run(act())
        assert {run.status for run in emulator.runs if run.refused is None} == {"cancelled"}

    def test_cancellation_is_not_delayed_by_a_rate_limit(self, context, emulator, doubles):
        doubles.seconds = 60.0
        emulator.state.limits.endpoint_per_minute = 30
        emulator.state.limits.clear()
        task = operator(numbers(50), deferrable=True)
        with pytest.raises(TaskDeferred):
            task.execute(context)
        emulator.state.limits.endpoint("cancel", emulator.api_key)._tokens = 10
        task.on_kill()
        assert {run.status for run in emulator.runs} == {"cancelled"}


def kill(task):
    thread = threading.Thread(target=task.on_kill, daemon=True)
    thread.start()


class TestPauses:
    INPUTS = ({"n": 1}, {"n": -2}, {"n": 3})

    def test_on_paused_fail_fails_the_batch(self, run_batch, mode):
        with pytest.raises(SimBatchError, match=r"1 of 3 inputs .*inputs\[1\] \(paused, .*waits for a person"):
            run_batch(operator(self.INPUTS, on_paused="fail", **mode))

    def test_on_paused_return_reports_the_approval_url(self, run_batch, mode, emulator):
        outputs = run_batch(operator(self.INPUTS, on_paused="return", **mode))
        assert outputs[1]["status"] == "paused"
        assert outputs[1]["approval_url"].endswith(f"/resume/double/{outputs[1]['run_id']}")
        assert outputs[2] == {"n": 6}

    def test_on_paused_wait_returns_the_output_after_the_answer(self, run_batch, mode, emulator):
        def answer(request):
            for run in emulator.runs:
                if run.status == "paused":
                    run.resume({"approved": True})

        emulator.on_request(answer)
        assert run_batch(operator(self.INPUTS, **mode))[1] == {"approved": True}


class TestLargeResults:
    def test_large_outputs_store_writes_a_file(self, run_batch, mode, tmp_path):
        task = operator(
            numbers(25), max_output_bytes=150, large_outputs="store", output_files_dir=tmp_path.as_uri(), **mode
        )
        result = run_batch(task)
        assert set(result) == {"output_path", "count"}
        assert result["count"] == 25
        lines = Path(result["output_path"].removeprefix("file://")).read_text().splitlines()
        assert [json.loads(line) for line in lines] == doubled(25)

    def test_large_outputs_fail_raises_output_error(self, run_batch, context, emulator):
        with pytest.raises(SimOutputError, match=r"larger .* than max_output_bytes.*of 25 fit"):
            run_batch(operator(numbers(25), max_output_bytes=150))

    def test_single_large_output_is_stored_separately(self, run_batch, emulator, tmp_path, mode):
        emulator.workflow("one_large", duration=0.05)(lambda given: {"text": "x" * given["size"]})
        inputs = [{"size": 10}, {"size": 5000}, {"size": 10}]
        task = operator(
            inputs,
            workflow_id="one_large",
            max_output_bytes=2000,
            large_outputs="store",
            output_files_dir=tmp_path.as_uri(),
            **mode,
        )
        outputs = run_batch(task)
        assert outputs[0] == outputs[2] == {"text": "x" * 10}
        assert json.loads(Path(outputs[1]["output_path"].removeprefix("file://")).read_text()) == {"text": "x" * 5000}

    def test_large_partial_results_are_stored(self, run_batch, context, tmp_path):
        inputs = [*numbers(50), {"n": -1}]
        task = operator(inputs, max_output_bytes=300, large_outputs="store", output_files_dir=tmp_path.as_uri())
        with pytest.raises(SimBatchError, match=r"50 completed runs .*partial_results\.jsonl"):
            run_batch(task)
        [path] = tmp_path.glob("airflow-*/partial_results.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line.get("output") for line in lines] == [*doubled(50), None]

    def test_output_files_are_saved(self, run_batch, emulator, tmp_path):
        file = {"key": "k", "context": "execution", "size": 5, "base64": base64.b64encode(b"hello").decode()}
        emulator.workflow("files", duration=0.05)(lambda given: {"file": {**file, "name": given["name"]}})
        inputs = [{"name": "a.txt"}, {"name": "b.txt"}]
        outputs = run_batch(operator(inputs, workflow_id="files", output_files_dir=tmp_path.as_uri()))
        assert [Path(output["file"]["path"].removeprefix("file://")).name for output in outputs] == ["a.txt", "b.txt"]


class TestLogs:
    def test_batch_logs_no_line_per_run(self, run_batch, caplog, mode):
        caplog.set_level(logging.INFO)
        run_batch(operator(numbers(30), **mode))
        lines = [record.message for record in caplog.records if record.name.startswith("airflow_provider_sim")]
        assert any("has 30 inputs" in line for line in lines)
        assert any("30 of 30 finished (30 completed)" in line for line in lines)
        assert len(lines) < 12
