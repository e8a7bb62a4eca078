"""Files in a task's input, against the emulator, which stores them as Sim does."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath

from airflow_provider_sim.exceptions import SimInputError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.task.input import SimFile

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture(autouse=True)
def _reads_files(emulator):
    def describe(given):
        keys = ("name", "type", "size")
        return {"files": [{key: file[key] for key in keys} for file in given["files"]], "note": given["note"]}

    emulator.workflow("reads_files", inputs={"files": "file[]", "note": "string"})(describe)


@pytest.fixture(params=["v2", "legacy"])
def api_version(request, connection):
    connection(extra={"api_version": request.param})


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.pdf"
    path.write_bytes(b"%PDF-1")
    return path


def operator(files, **arguments):
    fields = {"task_id": "t", "workflow_id": "reads_files", "poll_interval": 0.02, "input": {"files": files}}
    return SimExecuteWorkflowOperator(**(fields | arguments))


PDF = {"name": "report.pdf", "type": "application/pdf", "size": 6}


@pytest.mark.usefixtures("api_version")
@pytest.mark.parametrize("stream", [False, True], ids=["held open", "streamed"])
def test_path_is_sent_as_a_file(run_task, report, stream):
    output = run_task(operator(report, input={"files": report, "note": "/etc/passwd"}, stream=stream))
    assert output == {"files": [PDF], "note": "/etc/passwd"}


@pytest.mark.parametrize(
    ("make", "arrives"),
    [
        pytest.param(lambda path: [path, path], [PDF, PDF], id="a list"),
        pytest.param(lambda path: ObjectStoragePath(f"file://{path}"), [PDF], id="an ObjectStoragePath"),
        pytest.param(lambda path: path.open("rb"), [PDF], id="an open file"),
        pytest.param(lambda path: path.open(), [PDF], id="an open text file"),
        pytest.param(
            lambda path: b"abc", [{"name": "file", "type": "application/octet-stream", "size": 3}], id="bytes"
        ),
        pytest.param(
            lambda path: io.BytesIO(b"abc"),
            [{"name": "file", "type": "application/octet-stream", "size": 3}],
            id="an open file without a name",
        ),
        pytest.param(
            lambda path: SimFile(b"a,b", name="t.csv"), [{"name": "t.csv", "type": "text/csv", "size": 3}], id="named"
        ),
        pytest.param(lambda path: SimFile(str(path)), [PDF], id="a SimFile of a path as text"),
        pytest.param(
            lambda path: SimFile(path, name="x", mime="text/x-mine"),
            [{"name": "x", "type": "text/x-mine", "size": 6}],
            id="with a type of the author's",
        ),
    ],
)
def test_every_kind_of_file_is_sent(run_task, report, make, arrives):
    task = operator(None)
    task.input = {"files": make(report)}
    assert run_task(task)["files"] == arrives


def test_files_are_encoded_in_sim_s_format(run_task, emulator):
    run_task(operator(None, workflow_id="no_input_format", input={"f": SimFile(b"hi", name="a.txt")}))
    file = {"type": "file", "data": "data:text/plain;base64,aGk=", "name": "a.txt", "mime": "text/plain"}
    assert emulator.runs[0].input == {"f": [file]}


def test_string_is_never_read_as_a_path(run_task, report, emulator):
    run_task(operator(None, workflow_id="no_input_format", input={"files": str(report)}))
    assert emulator.runs[0].input == {"files": str(report)}


def test_file_as_input_is_sent_as_the_field_input(run_task, report, emulator):
    emulator.workflow("reads_input", inputs={"input": "file[]"})(lambda given: given["input"][0]["name"])
    assert run_task(operator(None, workflow_id="reads_input", input=report)) == "report.pdf"


def test_source_and_name_of_a_file_are_templates():
    with DAG("a_dag", schedule=None) as dag:
        task = operator([SimFile("/in/{{ x }}.pdf", name="{{ x }}")], task_id="rendered")
    task.render_template_fields({"x": "monday", "dag": dag})
    [file] = task.input["files"]
    assert (file.source, file.name) == ("/in/monday.pdf", "monday")


class TestRejections:
    def refused(self, run_task, emulator, task, match):
        with pytest.raises(SimInputError, match=match) as caught:
            run_task(task)
        assert not [request for request in emulator.requests if request.method == "POST"]
        assert caught.value.workflow_id == "reads_files"

    @pytest.mark.parametrize("mode", [{"async_execution": True}, {"deferrable": True}], ids=str)
    def test_asynchronous_run_rejects_files_in_sim_s_format(self, run_task, emulator, mode):
        by_hand = {"type": "url", "data": "https://example.com/a.pdf", "name": "a.pdf"}
        self.refused(run_task, emulator, operator([by_hand], **mode), "at 'files' .*in sync runs only.*URL as text")

    def test_streamed_run_accepts_files(self, run_task, report):
        task = operator(report, input={"files": report, "note": ""}, stream=True)
        assert run_task(task)["files"] == [PDF]

    def test_nested_file_is_rejected(self, run_task, emulator, report):
        task = operator(None, input={"case": {"papers": [report]}})
        self.refused(run_task, emulator, task, r"at case\.papers\[0\] of the input.*only in the Start block's fields")

    @pytest.mark.parametrize("given", [{"name": "papers/a.csv"}, {"mime": "csv"}], ids=str)
    def test_name_with_a_path_and_invalid_mime_type_are_rejected(self, run_task, emulator, given):
        self.refused(run_task, emulator, operator(SimFile(b"a,b", **given)), "can't be the (name|MIME type) of a file")

    @pytest.mark.parametrize(("path", "says"), [("nowhere.pdf", "FileNotFoundError"), (".", "IsADirectoryError")])
    def test_unreadable_file_is_rejected(self, run_task, emulator, tmp_path, path, says):
        self.refused(run_task, emulator, operator(tmp_path / path), says)


def test_storage_error_is_retryable(run_task):
    class Flaky:
        name = "x"

        def read(self, size):
            raise OSError("the bucket sleeps")

    task = operator(None)
    task.input = {"files": Flaky()}
    with pytest.raises(OSError, match="sleeps"):
        run_task(task)


def test_str_of_a_file_contains_no_bytes():
    assert str(SimFile(b"secret", name="a.txt")) == "SimFile('a.txt')"
    assert str(SimFile(Path("/in/b.txt"))) == "SimFile('b.txt')"
    json.dumps(str(SimFile(b"")))
