"""SimExecuteWorkflowOperator against the emulator, over a real socket and through a real connection."""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_sim._compat import TRIGGERS_REPLACE_WORKERS
from airflow_provider_sim.exceptions import (
    SimAuthenticationError,
    SimConfigurationError,
    SimInputError,
    SimNotFoundError,
    SimOutputError,
    SimRunCancelledError,
    SimRunError,
    SimRunFailedError,
    SimRunPausedError,
    SimRunTimeoutError,
    SimWorkflowNotDeployedError,
)
from airflow_provider_sim.hooks.sim import SimHook
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.triggers.sim import SimRunTrigger
from tests.operators.conftest import WAITING

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture(params=["v2", "legacy"])
def api_version(request, connection):
    connection(extra={"api_version": request.param})
    return request.param


def operator(**arguments):
    return SimExecuteWorkflowOperator(**{"task_id": "t", "poll_interval": 0.02, **arguments})


@pytest.fixture
def adds(emulator):
    """A workflow that takes a moment and adds."""

    @emulator.workflow("adds", duration=0.05)
    def add(input):
        return {"sum": input["a"] + input["b"]}

    return "adds"


class TestOutputs:
    @pytest.mark.usefixtures("api_version")
    def test_every_mode_returns_the_output(self, run_task, adds, mode):
        assert run_task(operator(workflow_id=adds, input={"a": 1, "b": 2}, **mode)) == {"sum": 3}

    @pytest.mark.usefixtures("api_version")
    def test_every_mode_starts_one_run_with_the_pushed_id(self, run_task, adds, mode, emulator, context):
        run_task(operator(workflow_id=adds, input={"a": 1, "b": 2}, **mode))
        assert [run.run_id for run in emulator.runs] == [context["ti"].xcoms["run_id"]]

    @pytest.mark.usefixtures("api_version")
    @pytest.mark.parametrize("options", [{}, {"async_execution": True}], ids=["held-open", "asynchronous"])
    def test_response_block_output_is_equal_in_both_modes(self, run_task, options):
        output = run_task(operator(workflow_id="echo", input={"message": "hi"}, **options))
        assert output["data"]["echo"]["message"] == "hi"
        assert output["status"] == 200

    def test_no_wait_returns_the_run_id_at_once(self, run_task, context, emulator):
        task = operator(workflow_id="slow", input={"seconds": 60}, wait_for_completion=False)
        run_id = run_task(task)
        assert run_id == context["ti"].xcoms["run_id"]
        assert [(run.run_id, run.status) for run in emulator.runs] == [(run_id, "running")]

    @pytest.mark.parametrize(
        ("given", "arrives"),
        [({"a": 1}, {"a": 1}), ([1, 2], {"input": [1, 2]}), ('{"a": 1}', {"a": 1}), (7, {"input": 7}), (None, {})],
    )
    @pytest.mark.usefixtures("api_version")
    def test_input_accepts_any_json_value(self, run_task, emulator, given, arrives):
        run_task(operator(workflow_id="no_input_format", input=given))
        assert emulator.runs[-1].input == arrives

    def test_every_mode_returns_long_outputs_unredacted(self, run_task, mode, emulator):
        secret = {"text": "x" * 200_000, "access_token": "t", "password": "p", "ünï": "çödé"}

        @emulator.workflow("long", duration=0.05)
        def long(input):
            return secret

        assert run_task(operator(workflow_id="long", **mode)) == secret

    def test_display_copy_is_logged(self, run_task, emulator, caplog):
        @emulator.workflow("long", duration=0.05)
        def long(input):
            return {"password": "p"}

        emulator.state.keep_jobs = False
        output = run_task(operator(workflow_id="long", async_execution=True))
        assert output == {"password": "[REDACTED]"}
        assert "display copy" in caplog.text

    def test_streamed_text_is_logged_and_returned(self, run_task, caplog):
        caplog.set_level(logging.INFO)
        output = run_task(
            operator(
                workflow_id="streaming",
                input={"message": "the sea"},
                stream=True,
                selected_outputs=["Agent.content"],
            )
        )
        [text] = [value for value in output.values() if isinstance(value, str)]
        assert text.split()[0] in caplog.text

    def test_stream_ignores_deferrable(self, run_task, monkeypatch, capfd, caplog):
        caplog.set_level(logging.INFO)
        monkeypatch.setattr("airflow_provider_sim.operators.sim.DEFERRABLE", True)
        run_task(operator(workflow_id="streaming", input={"message": "x"}, stream=True, deferrable=True))
        assert "deferrable is ignored" in "".join(capfd.readouterr())


class TestFailures:
    @pytest.mark.usefixtures("api_version")
    def test_failed_run_fails_the_task_with_sim_s_message(self, run_task, mode):
        with pytest.raises(SimRunFailedError, match=r"(?i)boom") as caught:
            run_task(operator(workflow_id="failing", input={"message": "x"}, **mode))
        assert not isinstance(caught.value, AirflowFailException), "a failed run may be run again"

    def test_error_of_a_failed_run_names_the_block(self, run_task):
        with pytest.raises(SimRunFailedError, match="block 'Boom'"):
            run_task(operator(workflow_id="failing"))

    @pytest.mark.parametrize("options", [{"async_execution": True}, {"deferrable": True}], ids=["worker", "triggerer"])
    @pytest.mark.usefixtures("api_version")
    def test_cancelled_run_fails_the_task(self, run_task, emulator, options):
        @emulator.workflow("doomed", duration=60)
        def doomed(input):
            return {}

        emulator.on_start("doomed", lambda run: emulator.cancel(run.run_id))
        with pytest.raises(SimRunCancelledError, match="was cancelled"):
            run_task(operator(workflow_id="doomed", **options))

    @pytest.mark.parametrize("options", [{"async_execution": True}, {"deferrable": True}], ids=["worker", "triggerer"])
    def test_timeout_raises_run_timeout_error(self, run_task, options):
        task = operator(workflow_id="slow", input={"seconds": 60}, timeout=timedelta(seconds=0.2), **options)
        with pytest.raises(SimRunTimeoutError, match="did not finish within the timeout"):
            run_task(task)

    def test_run_timeout_of_the_server_fails_the_task(self, run_task):
        task = operator(workflow_id="slow", input={"seconds": 60}, async_execution=True, run_timeout=1)
        with pytest.raises(SimRunFailedError, match="timed out"):
            run_task(task)


class TestPauses:
    @pytest.mark.usefixtures("api_version")
    def test_on_paused_fail_raises_with_the_approval_url(self, run_task, mode):
        with pytest.raises(SimRunPausedError, match="Answer it at http"):
            run_task(operator(workflow_id="paused", input={"message": "x"}, on_paused="fail", **mode))

    @pytest.mark.usefixtures("api_version")
    def test_on_paused_return_reports_the_approval_url(self, run_task, context, mode, emulator):
        report = run_task(operator(workflow_id="paused", input={"message": "x"}, on_paused="return", **mode))
        [run] = emulator.runs
        assert report["status"] == "paused"
        assert report["run_id"] == run.run_id
        assert report["approval_url"] == f"{emulator.url}/resume/paused/{run.run_id}"
        if "deferrable" not in mode:  # the trigger pushes it on a real Airflow
            assert context["ti"].xcoms["approval_url"] == report["approval_url"]

    def test_run_that_is_not_paused_has_no_approval_link(self, run_task, context, mode):
        run_task(operator(workflow_id="echo_plain", **mode))
        assert ("approval_url" in context["ti"].xcoms) == ("deferrable" in mode and not TRIGGERS_REPLACE_WORKERS)

    @pytest.mark.parametrize("options", WAITING.values(), ids=[mode.replace(" ", "-") for mode in WAITING])
    def test_on_paused_wait_returns_the_output_after_the_answer(self, run_task, emulator, options, monkeypatch, caplog):
        from airflow_provider_sim import polling

        def answer(self, run, on_response=polling.RunPollState.on_response):
            if run.status == "paused":
                emulator.resume(run.run_id, {"approved": True})
            return on_response(self, run)

        monkeypatch.setattr(polling.RunPollState, "on_response", answer)
        output = run_task(operator(workflow_id="paused", input={"message": "x"}, **options))
        assert output["result"]["approved"] is True
        where = f"{emulator.url}/resume/paused/{emulator.runs[0].run_id}"
        assert f"until a person answers it at {where}" in caplog.text


class TestRejections:
    """What no retry can mend fails at once: AirflowFailException, and nothing started."""

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            pytest.param({"workflow_id": ""}, SimInputError, "workflow_id is ''", id="empty workflow id"),
            pytest.param({"workflow_id": "nowhere"}, SimNotFoundError, "another workspace", id="unknown workflow"),
            pytest.param({"workflow_id": "undeployed"}, SimWorkflowNotDeployedError, "press Deploy", id="not deployed"),
            pytest.param({"input": {"day": timedelta(1)}}, SimInputError, "can't be written as JSON", id="no JSON"),
            pytest.param({"input": {"x": "y" * 11_000_000}}, SimInputError, "up to 10 MiB", id="too large"),
            pytest.param({"on_paused": "hope"}, SimInputError, "wait, fail, return", id="unknown on_paused"),
            pytest.param({"poll_interval": 0}, SimInputError, "poll_interval is 0", id="no interval"),
            pytest.param({"run_timeout": 60}, SimInputError, "run_timeout is for async runs", id="run_timeout"),
            pytest.param(
                {"selected_outputs": ["A.b"]}, SimInputError, "block names select nothing", id="selected_outputs"
            ),
            pytest.param(
                {"stream": True, "wait_for_completion": False}, SimInputError, "stream needs", id="stream, no wait"
            ),
            pytest.param({"sim_conn_id": "nowhere"}, SimConfigurationError, "connections add nowhere", id="no conn"),
        ],
    )
    def test_permanent_error_explains_the_fix_and_starts_no_run(self, run_task, emulator, arguments, error, message):
        with pytest.raises(error, match=message) as caught:
            run_task(operator(**{"workflow_id": "echo_plain", **arguments}))
        assert isinstance(caught.value, AirflowFailException)
        assert emulator.runs == []

    def test_wrong_key_fails_without_retries(self, run_task, connection, emulator):
        connection(password="sk-sim-wrong")
        with pytest.raises(SimAuthenticationError, match="doesn't accept the API key") as caught:
            run_task(operator(workflow_id="echo_plain"))
        assert isinstance(caught.value, AirflowFailException)
        assert "sk-sim-wrong" not in str(caught.value)
        assert emulator.runs == []


class TestXComs:
    def test_run_link_contains_workspace_and_run(self, run_task, context, emulator):
        run_task(operator(workflow_id="echo_plain"))
        xcoms, space = context["ti"].xcoms, emulator.workspace_id
        assert xcoms["run_url"] == f"{emulator.url}/workspace/{space}/logs?executionId={xcoms['run_id']}"

    @pytest.mark.parametrize(("workflow_id", "status"), [("echo_plain", "completed"), ("failing", "failed")])
    def test_run_details_contain_status_times_and_cost(self, run_task, context, caplog, workflow_id, status):
        caplog.set_level(logging.INFO)
        with pytest.raises(SimRunFailedError) if status == "failed" else nullcontext():
            run_task(operator(workflow_id=workflow_id, async_execution=True))
        details = context["ti"].xcoms["run_details"]
        assert (details["workflow_id"], details["status"], details["trigger"]) == (workflow_id, status, "api")
        assert details["run_id"] == context["ti"].xcoms["run_id"]
        assert details["started_at"] <= details["ended_at"]
        assert details["cost_usd"] > 0
        assert f"is {status} after " in caplog.text
        assert f"s, for US$ {details['cost_usd']:.4f}." in caplog.text

    def test_workspace_in_the_connection_saves_a_request(self, run_task, context, connection, emulator):
        connection(extra={"workspace_id": "ws-9"})
        run_task(operator(workflow_id="echo_plain", check_input="off"))
        assert "/workspace/ws-9/" in context["ti"].xcoms["run_url"]
        assert [request.method for request in emulator.requests] == ["POST"]

    def test_do_xcom_push_false_pushes_nothing(self, run_task, context):
        run_task(operator(workflow_id="echo_plain", do_xcom_push=False))
        assert context["ti"].xcoms == {}

    @pytest.mark.usefixtures("api_version")
    @pytest.mark.parametrize(
        ("output", "options", "in_event"),
        [
            pytest.param({"text": "\u4e16", "null": None}, {}, True, id="small"),
            pytest.param(None, {}, True, id="null"),
            pytest.param({"text": "a" * 33_000}, {}, False, id="large"),
            pytest.param({"text": "a" * 80_000}, {}, False, id="too large to be read in the triggerer"),
            pytest.param({"text": "a"}, {"output_files_dir": "folder"}, False, id="with a folder for files"),
        ],
    )
    def test_event_contains_a_small_output(self, run_task, context, emulator, output, options, in_event):
        emulator.workflow("answers", duration=0.05)(lambda given: output)
        assert run_task(operator(workflow_id="answers", deferrable=True, **options)) == output
        event, pushed = context["event"], context["ti"].xcoms
        assert ("output" in event) == in_event
        assert event["details"] == pushed["run_details"]
        assert "output_is_display_copy" not in pushed

    def test_event_contains_no_output_that_airflow_would_store_elsewhere(self, run_task, context, monkeypatch):
        monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", "their.EncryptingBackend")
        run_task(operator(workflow_id="slow", input={"seconds": 0.2}, deferrable=True))
        assert "output" not in context["event"]

    def test_unstorable_output_in_the_event_is_rejected_on_the_worker(self, run_task, context, emulator):
        emulator.workflow("answers", duration=0.05)(lambda given: {"text": "a\0b"})
        with pytest.raises(SimOutputError, match=r"can't store the output"):
            run_task(operator(workflow_id="answers", deferrable=True))
        assert "\\u0000" in context["event"]["output"]


class TestDeferral:
    def test_triggers_that_start_together_read_the_connection_once(self, monkeypatch, client):
        reads = []
        read = SimHook.get_async_settings
        monkeypatch.setattr(SimHook, "get_async_settings", lambda hook: reads.append(hook.sim_conn_id) or read(hook))
        monkeypatch.setattr("airflow_provider_sim.triggers.base.SETTINGS_SHARED_FOR", 0.2)

        async def wait_for_a_run() -> str:
            run_id = client.execute_workflow("echo_plain", async_execution=True).run_id
            [event] = [event async for event in SimRunTrigger("echo_plain", run_id).run()]
            return event.payload["status"]

        async def wait_for_runs() -> None:
            assert await asyncio.gather(*[wait_for_a_run() for _ in range(3)]) == ["completed"] * 3
            assert reads == ["sim_default"]
            await asyncio.sleep(0.3)
            await wait_for_a_run()
            assert reads == ["sim_default"] * 2

        monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.01)
        asyncio.run(wait_for_runs())

    def test_trigger_arguments_contain_no_key(self, context, emulator):
        with pytest.raises(TaskDeferred) as deferral:
            operator(workflow_id="slow", input={"seconds": 60}, deferrable=True, timeout=100).execute(context)
        _, arguments = deferral.value.trigger.serialize()
        assert emulator.api_key not in str(arguments)
        assert arguments["run_id"] == context["ti"].xcoms["run_id"]
        assert arguments["options"]["poll_interval"] == 0.02

    @pytest.mark.parametrize(
        "event",
        [
            None,
            {},
            {"status": "completed"},
            {"status": "completed", "workflow_id": "other", "run_id": "r"},
            {"status": "sideways", "workflow_id": "echo_plain", "run_id": "r"},
        ],
        ids=["none", "empty", "no ids", "another workflow", "unknown status"],
    )
    def test_invalid_event_raises_an_error(self, context, event):
        from airflow_provider_sim.exceptions import SimError

        with pytest.raises(SimError, match="event"):
            operator(workflow_id="echo_plain").execute_complete(context, event)

    @pytest.mark.parametrize("state", ["running", "completed", "unknown"])
    def test_error_event_is_followed_by_one_poll(self, context, client, emulator, state, caplog):
        run_id = "r-7"
        if state != "unknown":
            run_id = client.execute_workflow("slow", {"seconds": 60}, async_execution=True).run_id
            emulator.clock.advance(61 if state == "completed" else 0)
        event = {"status": "error", "workflow_id": "slow", "run_id": run_id, "job_id": None, "message": "Sim is down."}
        task = operator(workflow_id="slow")
        if state == "completed":
            assert task.execute_complete(context, event)["result"]["slept"] == 60
        else:
            with pytest.raises(SimRunError, match=f"status of run '{run_id}'.*re-attaches") as caught:
                task.execute_complete(context, event)
            assert not isinstance(caught.value, AirflowFailException)
        assert "Sim is down." in caplog.text
        assert not [seen for seen in emulator.requests if seen.path.endswith("/cancel")]


def test_kill_of_a_deferred_task_logs_failed_cancellation(context, capfd, emulator):
    emulator.fault("server_error", match="cancel", times=None, status=404, page=True)
    with pytest.raises(TaskDeferred) as deferral:
        operator(workflow_id="slow", input={"seconds": 60}, deferrable=True).execute(context)
    trigger = deferral.value.trigger
    trigger.task_instance = None
    asyncio.run(trigger.on_kill())
    assert "could not be cancelled" in "".join(capfd.readouterr())
