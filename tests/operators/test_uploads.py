"""Files that a task uploads for its run: in every mode, at most once, and deleted when the run has finished."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import threading
from datetime import UTC, datetime

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred
from airflow.triggers.base import TaskSuccessEvent

from airflow_provider_sim import polling
from airflow_provider_sim.client.sync_client import SimClient
from airflow_provider_sim.emulator import BlockError
from airflow_provider_sim.exceptions import (
    SimError,
    SimInputError,
    SimNotFoundError,
    SimPermanentError,
    SimRunCancelledError,
    SimRunFailedError,
    SimRunTimeoutError,
)
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.task.input import SimFile
from airflow_provider_sim.triggers import sim as triggers
from tests.operators.conftest import fire
from tests.operators.test_durability import Killed, next_try
from tests.operators.test_without_workers import ends, event_of

UPLOADING = {"asynchronous": {"async_execution": True}, "deferrable": {"deferrable": True}}
LARGE = bytes(8 * 2**20)


@pytest.fixture(autouse=True)
def _connection(connection, emulator):
    connection(extra={"workspace_id": emulator.workspace_id, "max_retries": 0})


@pytest.fixture(params=UPLOADING)
def uploading(request):
    """Each mode in which files are uploaded whatever their size."""
    return UPLOADING[request.param]


@pytest.fixture
def reads(emulator):
    """A workflow that returns what it reads, for a time that a test may change."""
    duration = {"seconds": 0.0}

    @emulator.workflow("reads", inputs={"papers": "file[]"}, duration=lambda given: duration["seconds"])
    def read(given):
        shown = [(file["name"], file["type"], file["size"]) for file in given["papers"]]
        contents = [base64.b64decode(file.get("base64", "")).decode() for file in given["papers"]]
        return {"files": [list(file) for file in shown], "contents": contents}

    return duration


def operator(files=b"abc", **arguments):
    defaults = {"task_id": "t", "workflow_id": "reads", "poll_interval": 0.02, "check_input": "off"}
    return SimExecuteWorkflowOperator(**(defaults | {"input": {"papers": files}} | arguments))


def uploads(emulator):
    """The number of uploads so far."""
    return len([request for request in emulator.requests if request.method == "POST" and "/files" in request.path])


@pytest.fixture(params=["stored", "derived"])
def store(request, context):
    """A task state store, or none, as before Airflow 3.3."""
    if request.param == "derived":
        del context["task_state_store"]
        context["dag_run"].start_date = datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)
    return request.param


@pytest.mark.usefixtures("reads")
class TestModes:
    def test_files_of_async_runs_are_uploaded_and_deleted(self, run_task, emulator, uploading, tmp_path):
        path = tmp_path / "report.pdf"
        path.write_bytes(b"%PDF")
        text = tmp_path / "notes.txt"
        text.write_text("hi")
        stored = []
        emulator.on_start("reads", lambda run: stored.extend(file.name for file in emulator.files))
        task = operator(None, **uploading)
        task.input = {"papers": [path, path, SimFile(b"a,b", name="x.csv"), text.open(), io.BytesIO(b"io")]}
        output = run_task(task)
        assert output == {
            "files": [
                ["report.pdf", "application/pdf", 4],
                ["report.pdf", "application/pdf", 4],
                ["x.csv", "text/csv", 3],
                ["notes.txt", "text/plain", 2],
                ["file", "application/octet-stream", 2],
            ],
            "contents": ["%PDF", "%PDF", "a,b", "hi", "io"],
        }
        assert len(set(stored)) == 5
        assert stored[0].endswith("-0-report.pdf")
        assert emulator.files == []

    @pytest.mark.parametrize("options", [{}, {"stream": True}], ids=str)
    def test_files_too_large_for_a_request_are_uploaded(self, run_task, emulator, options, tmp_path):
        path = tmp_path / "large.bin"
        path.write_bytes(LARGE)
        output = run_task(operator([path, b"small"], **options))
        assert output["files"][0] == ["large.bin", "application/octet-stream", len(LARGE)]
        assert (uploads(emulator), emulator.files) == (2, [])

    def test_files_that_fit_only_without_the_other_fields_are_uploaded(self, run_task, emulator):
        output = run_task(operator(None, input={"papers": bytes(7 * 2**20), "text": "x" * 2**20}))
        assert output["files"] == [["file", "application/octet-stream", 7 * 2**20]]
        assert uploads(emulator) == 1

    def test_references_pass_untouched(self, run_task, emulator, uploading, client):
        file = client.upload_file(emulator.workspace_id, "shared.txt", b"shared")
        output = run_task(operator([file.reference()], **uploading))
        assert output["contents"] == ["shared"]
        assert [stored.name for stored in emulator.files] == ["shared.txt"]

    def test_workspace_is_the_workflows_own_without_one_in_the_connection(self, run_task, emulator, connection):
        connection()
        assert run_task(operator(async_execution=True))["contents"] == ["abc"]

    def test_uploads_are_logged(self, run_task, emulator, uploading, caplog):
        caplog.set_level(logging.INFO)
        stored = []
        emulator.on_start("reads", lambda run: stored.extend(file.file_id for file in emulator.files))
        run_task(operator(**uploading))
        assert caplog.text.count(f"Uploaded 'file' (3 bytes) as file {stored[0]} of workspace") == 1
        assert caplog.text.count(f"The uploads {stored[0]} of workspace {emulator.workspace_id} are deleted.") == 1


class TestRejections:
    def test_no_wait_needs_keep_uploads(self, run_task, emulator, reads):
        task = operator(None, wait_for_completion=False)
        task.input = {"papers": b"abc"}
        with pytest.raises(SimInputError, match="keep_uploads=True"):
            run_task(task)
        assert len(emulator.requests) == 0

    @pytest.mark.parametrize(
        ("prepare", "error", "message"),
        [
            pytest.param(
                lambda emulator, connection: connection(extra={"workspace_id": "other"}),
                SimNotFoundError,
                "other",
                id="foreign workspace",
            ),
            pytest.param(
                lambda emulator, connection: setattr(emulator.state.files, "storage_limit", 1),
                SimPermanentError,
                "torage",
                id="full storage",
            ),
            pytest.param(
                lambda emulator, connection: connection(extra={"api_version": "legacy"}),
                SimInputError,
                "'a.pdf'.*stream=True.*URL as text",
                id="legacy API",
            ),
        ],
    )
    def test_rejected_upload_starts_no_run(
        self, run_task, emulator, connection, uploading, reads, prepare, error, message
    ):
        prepare(emulator, connection)
        with pytest.raises(error, match=message):
            run_task(operator(SimFile(b"abc", name="a.pdf"), **uploading))
        assert (emulator.runs, emulator.files) == ([], [])

    def test_large_files_need_v2(self, run_task, emulator, connection, reads):
        connection(extra={"api_version": "legacy"})
        with pytest.raises(SimInputError, match=r"exceed the size of a request.*7\.5 MiB"):
            run_task(operator(LARGE))
        assert emulator.runs == []

    def test_unreadable_file_is_found_before_any_upload(self, run_task, emulator, uploading, reads, tmp_path):
        with pytest.raises(SimInputError, match="FileNotFoundError"):
            run_task(operator([b"abc", tmp_path / "gone"], **uploading))
        assert len(emulator.requests) == 0

    def test_other_fields_are_checked_before_any_upload(self, run_task, emulator, uploading, reads):
        with pytest.raises(SimInputError, match="written as JSON"):
            run_task(operator(None, input={"papers": b"abc", "n": float("nan")}, **uploading))
        assert len(emulator.requests) == 0

    def test_uploads_before_a_failed_one_are_deleted(self, run_task, emulator, uploading, reads):
        emulator.fault("server_error", match="create_file", after=1, status=403)
        with pytest.raises(SimError):
            run_task(operator([b"a", b"b"], **uploading))
        assert (emulator.runs, emulator.files, uploads(emulator)) == ([], [], 2)

    def test_uploads_of_a_rejected_start_are_deleted(self, run_task, emulator, uploading):
        with pytest.raises(SimError):
            run_task(operator(workflow_id="unknown", **uploading))
        assert (emulator.files, uploads(emulator)) == ([], 1)


class TestCleanUp:
    def test_uploads_of_a_failed_run_are_deleted_and_a_retry_uploads_anew(
        self, run_task, emulator, context, uploading, store
    ):
        failing = [1]

        @emulator.workflow("fails_once", inputs={"papers": "file[]"})
        def fail(given):
            if failing.pop() if failing else 0:
                raise BlockError("no", block="Read")
            return base64.b64decode(given["papers"][0]["base64"]).decode()

        with pytest.raises(SimRunFailedError):
            run_task(operator(workflow_id="fails_once", **uploading))
        assert emulator.files == []
        context.update(next_try(context))
        assert run_task(operator(workflow_id="fails_once", **uploading)) == "abc"
        assert (uploads(emulator), emulator.files) == (2, [])

    def test_uploads_of_a_cancelled_run_are_deleted(self, run_task, emulator, uploading, reads):
        reads["seconds"] = 60.0
        emulator.on_start("reads", lambda run: run.cancel())
        with pytest.raises(SimRunCancelledError):
            run_task(operator(**uploading))
        assert emulator.files == []

    @pytest.mark.parametrize(("cancel", "left"), [(True, 0), (False, 1)])
    def test_timeout_deletes_uploads_only_if_it_cancels_the_run(
        self, run_task, emulator, uploading, reads, cancel, left, caplog
    ):
        caplog.set_level(logging.INFO)
        reads["seconds"] = 60.0
        with pytest.raises(SimRunTimeoutError):
            run_task(operator(timeout=0.5, cancel_on_kill=cancel, **uploading))
        assert len(emulator.files) == left
        assert caplog.text.count("are not deleted, since the run may need them") == left

    @pytest.mark.parametrize("options", [{}, {"stream": True}], ids=str)
    def test_timeout_of_a_held_open_run_deletes_uploads(self, run_task, emulator, reads, options):
        reads["seconds"] = 60.0
        with pytest.raises(SimRunTimeoutError):
            run_task(operator(LARGE, timeout=1.0, **options))
        assert emulator.files == []

    def test_deferral_timeout_deletes_uploads(self, emulator, context, reads, store):
        reads["seconds"] = 60.0
        with pytest.raises(TaskDeferred):
            operator(deferrable=True).execute(context)
        resume = {"next_method": "__fail__", "next_kwargs": {"error": "Trigger timeout"}, "context": context}
        with pytest.raises(SimRunTimeoutError):
            operator(deferrable=True).resume_execution(**resume)
        assert emulator.files == []

    def test_deferral_timeout_without_xcoms_deletes_uploads(self, emulator, context, reads, store):
        reads["seconds"] = 60.0
        with pytest.raises(TaskDeferred):
            operator(deferrable=True, do_xcom_push=False).execute(context)
        resume = {"next_method": "__fail__", "next_kwargs": {"error": "Trigger timeout"}, "context": context}
        with pytest.raises(SimRunTimeoutError):
            operator(deferrable=True, do_xcom_push=False).resume_execution(**resume)
        assert emulator.files == []

    def test_paused_run_that_is_returned_keeps_its_uploads(self, run_task, emulator, caplog):
        caplog.set_level(logging.INFO)
        run_task(operator(workflow_id="paused", on_paused="return", async_execution=True))
        assert len(emulator.files) == 1
        assert "are not deleted, since the run may need them" in caplog.text

    def test_keep_uploads(self, run_task, emulator, uploading, reads):
        run_task(operator(keep_uploads=True, **uploading))
        assert len(emulator.files) == 1

    def test_keep_uploads_without_waiting(self, run_task, emulator, reads):
        run_id = run_task(operator(wait_for_completion=False, keep_uploads=True))
        assert emulator.state.runs[run_id].outcome["contents"] == ["abc"]

    def test_failed_deletion_is_a_warning(self, run_task, emulator, uploading, reads, caplog):
        emulator.fault("server_error", match="delete_file", times=None, status=500)
        assert run_task(operator(**uploading))["contents"] == ["abc"]
        [file] = emulator.files
        assert f"The uploads {file.file_id} of workspace {emulator.workspace_id} could not be deleted" in caplog.text

    @ends
    def test_trigger_that_ends_the_task_deletes_uploads(self, emulator, context, reads, monkeypatch):
        async def push(task_instance, given):
            assert len(emulator.files) == 1

        monkeypatch.setattr("airflow_provider_sim.triggers.base.FIRST_POLL_AFTER", 0.01)
        monkeypatch.setattr(triggers, "push_xcoms", push)
        with pytest.raises(TaskDeferred) as deferral:
            operator(deferrable=True, end_from_trigger=True).execute(context)
        assert isinstance(event_of(deferral.value.trigger), TaskSuccessEvent)
        assert emulator.files == []

    @pytest.mark.parametrize("cancel", [True, False])
    def test_killed_trigger_deletes_uploads_if_it_cancels_the_run(self, emulator, context, reads, monkeypatch, cancel):
        reads["seconds"] = 60.0
        monkeypatch.setattr("airflow_provider_sim._compat._state_of", lambda ti: "failed")
        with pytest.raises(TaskDeferred) as deferral:
            operator(deferrable=True, cancel_on_kill=cancel).execute(context)
        asyncio.run(deferral.value.trigger.on_kill())
        assert len(emulator.files) == (not cancel)


class TestKill:
    def test_kill_while_waiting_deletes_uploads(self, emulator, context, reads, monkeypatch):
        reads["seconds"] = 60.0
        task = operator(async_execution=True)
        monkeypatch.setattr(polling, "wait_for_run", lambda *_: task.on_kill() or (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            task.execute(context)
        assert emulator.files == []

    @pytest.mark.parametrize("at", [0, 1])
    def test_kill_during_an_upload_deletes_it_and_starts_no_run(self, emulator, context, reads, at):
        task = operator([b"a", b"b"], async_execution=True)
        hold = emulator.hold("create_file", after=at)

        def kill():
            with hold:
                hold.wait_until_held()
                task.on_kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(AirflowException, match="was killed"):
            task.execute(context)
        killer.join()
        assert (emulator.runs, emulator.files) == ([], [])


class TestCrash:
    """A worker dies, and Airflow's next try follows."""

    @pytest.fixture(params=["create_file before", "create_file after", "execute before", "execute after", "waiting"])
    def die(self, request, context, monkeypatch):
        """Let a try die at a moment."""

        def crash(**options):
            with monkeypatch.context() as patch:
                operation, _, when = request.param.partition(" ")
                name = {"create_file": "upload_file", "execute": "start_workflow_run"}.get(operation)
                original = getattr(SimClient, name) if name else None

                def dies(*args, **kwargs):
                    if when == "after":
                        original(*args, **kwargs)
                    raise Killed

                patch.setattr(SimClient, name, dies) if name else patch.setattr(polling, "wait_for_run", dies)
                with pytest.raises((Killed, TaskDeferred)):
                    operator(**options).execute(context)

        return crash

    def test_retry_uploads_at_most_once_and_starts_one_run(
        self, emulator, context, run_task, uploading, reads, store, die
    ):
        die(**uploading)
        context.update(next_try(context))
        assert run_task(operator(**uploading))["contents"] == ["abc"]
        assert (uploads(emulator), len(emulator.runs), emulator.files) == (1, 1, [])

    def test_cleared_task_uploads_anew(self, emulator, context, run_task, uploading, reads, die):
        die(**uploading)
        before = uploads(emulator)
        context.update(next_try(context, cleared=True))
        assert run_task(operator(b"new", **uploading))["contents"] == ["new"]
        assert (uploads(emulator) - before, emulator.files) == (1, [])

    def test_retry_with_another_file_uploads_it(self, emulator, context, run_task, uploading, reads, store, die):
        die(**uploading)
        started = len(emulator.runs)
        context.update(next_try(context))
        output = run_task(operator(b"another", **uploading))
        assert output["contents"] == (["abc"] if started else ["another"])
        assert emulator.files == []

    def test_retry_without_files_deletes_those_of_the_crashed_try(
        self, emulator, context, run_task, uploading, reads, die
    ):
        die(**uploading)
        context.update(next_try(context))
        run_task(operator([], **uploading))
        assert emulator.files == []

    def test_retry_in_a_new_generation_of_a_kept_run_leaves_its_uploads(
        self, emulator, context, run_task, reads, monkeypatch
    ):
        reads["seconds"] = 60.0
        with monkeypatch.context() as patch:
            patch.setattr(polling, "wait_for_run", lambda *_: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                operator(async_execution=True, cancel_on_kill=False).execute(context)
        context.update(next_try(context, cleared=True))
        kept = [file.file_id for file in emulator.files]
        reads["seconds"] = 0.0
        emulator.on_start("reads", lambda run: None)
        run_task(operator(b"new", async_execution=True, cancel_on_kill=False))
        assert [file.file_id for file in emulator.files] in (kept, [])


@pytest.mark.usefixtures("reads")
def test_event_names_the_uploads(emulator, context):
    with pytest.raises(TaskDeferred) as deferral:
        operator(deferrable=True).execute(context)
    [file] = emulator.files
    assert fire(deferral.value.trigger)["uploads"]["file_ids"] == [file.file_id]
