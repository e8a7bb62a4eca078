"""A task returns the exact output of its workflow, or reports that it can't."""

from __future__ import annotations

import base64
import contextlib
import json
import logging

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_sim.client.api.resources import display_marks
from airflow_provider_sim.exceptions import SimInputError, SimOutputError
from airflow_provider_sim.operators.sim import SimExecuteWorkflowOperator
from airflow_provider_sim.sensors.sim import SimJobSensor
from airflow_provider_sim.task.output import unused_name
from airflow_provider_sim.task.results import DISPLAY_COPY_KEY
from tests.canned_server import Answer, canned

pytestmark = pytest.mark.usefixtures("connection")


def nested(depth: int) -> object:
    return {"deeper": nested(depth - 1)} if depth else "the bottom"


VALUES = {
    "a text of 200 kB": {"text": "x" * 200_000},
    "names that Sim hides": {"access_token": "t", "password": "p", "apiKey": "k", "auth": {"bearer": "b"}},
    "bytes": {"base64": base64.b64encode(bytes(range(256))).decode()},
    "unicode": {"ünï": "çödé 漢字 🛫\u2028"},
    "60 levels": nested(60),
    "numbers": {"whole": 2**53 + 1, "half": 0.1, "none": None, "yes": True},
    "a list": [1, [2, [3]], {"a": []}],
    "text alone": "hello",
    "nothing": {},
}


@pytest.fixture
def returns(emulator):
    """Make a workflow ``returns`` that returns a value, after a moment."""

    def deploy(value):
        emulator.workflow("returns", duration=0.05, block="Last")(lambda given: value)

    return deploy


def operator(**arguments):
    return SimExecuteWorkflowOperator(**{"task_id": "t", "workflow_id": "returns", "poll_interval": 0.02} | arguments)


class TestFidelity:
    @pytest.mark.parametrize("api_version", ["v2", "legacy"])
    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
    def test_every_mode_returns_the_exact_output(
        self, run_task, context, connection, returns, api_version, mode, value
    ):
        connection(extra={"api_version": api_version})
        returns(value)
        assert run_task(operator(**mode)) == value
        assert DISPLAY_COPY_KEY not in context["ti"].xcoms

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
    @pytest.mark.parametrize("options", [{"async_execution": True}, {"deferrable": True}], ids=str)
    def test_display_copy_is_marked_in_an_xcom(self, run_task, context, emulator, returns, options, value):
        """After Sim deletes the job, only the display copy of its output is left."""
        returns(value)
        emulator.state.keep_jobs = False
        run_task(operator(**options))
        assert context["ti"].xcoms[DISPLAY_COPY_KEY] is True

    def test_log_names_truncated_and_redacted_places(self, run_task, emulator, returns, caplog):
        returns({"fine": 1, "items": [{"token": "t"}, {"text": "x" * 16_000}], "base64": "QQ=="})
        emulator.state.keep_jobs = False
        run_task(operator(async_execution=True))
        assert "truncated or redacted: output.items[0].token, output.items[1].text, output.base64" in caplog.text

    def test_log_limits_the_number_of_places(self):
        assert len(display_marks([{"token": "[REDACTED]"}] * 1000)) == 10

    def test_sensor_returns_the_exact_output(self, run_task, context, returns):
        returns(VALUES["names that Sim hides"])
        run_id = operator(wait_for_completion=False).execute(context)
        sensor = SimJobSensor(task_id="s", workflow_id="returns", run_id=run_id, poke_interval=0.02, deferrable=True)
        assert run_task(sensor) == VALUES["names that Sim hides"]

    def test_nan_in_the_output_fails_the_task(self, run_task, connection):
        body = b'{"data": {"runId": "r", "workflowId": "w", "status": "completed", "output": {"x": NaN}}}'
        with canned(Answer(200, body, {"content-type": "application/json"})) as server:
            connection(host=server.url)
            with pytest.raises(SimOutputError, match=r"at output\.x, it is nan"):
                run_task(operator())


class TestSelectedOutputs:
    def test_selected_outputs_returns_raw_block_outputs_by_id(self, run_task, emulator, returns, mode):
        if "stream" in mode:
            mode = {"async_execution": True, "wait_for_completion": True}
        returns({"password": "p", "more": {"text": "x" * 20_000}})
        block = emulator.state.workflows["returns"].block_id
        output = run_task(operator(selected_outputs=[f"{block}.password", f"{block}.more.text"], **mode))
        assert output == {f"{block}.password": "p", f"{block}.more.text": "x" * 20_000}

    def test_unknown_block_in_selected_outputs_is_an_error(self, run_task, returns):
        returns({})
        other = "00000000-0000-4000-8000-000000000000"
        with pytest.raises(SimOutputError, match=f"has no block output {other}"):
            run_task(operator(selected_outputs=[other]))

    def test_block_names_in_selected_outputs_are_rejected(self, run_task, emulator, returns):
        returns({})
        with pytest.raises(SimInputError, match="block names select nothing"):
            run_task(operator(selected_outputs=["Last.content"]))
        assert emulator.runs == []


def file(name: str, **more: object) -> dict[str, object]:
    """A file as Sim describes it."""
    facts = {"id": "file_1", "name": name, "size": 5, "type": "text/plain", "key": f"execution/{name}"}
    return {**facts, "context": "execution", "url": f"/api/files/serve/{name}", **more}


HELLO = {"base64": base64.b64encode(b"hello").decode()}


class TestFiles:
    def test_files_are_saved_in_a_folder_per_run(self, run_task, context, returns, mode, tmp_path):
        returns({"report": file("a.txt", **HELLO), "more": [file("b.txt", **HELLO), {"text": "kept"}]})
        output = run_task(operator(output_files_dir=f"file://{tmp_path}", **mode))
        folder = tmp_path / context["ti"].xcoms["run_id"]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.txt": b"hello", "b.txt": b"hello"}
        assert output["report"]["path"] == f"file://{folder}/a.txt"
        assert "base64" not in output["report"]
        assert output["more"][1] == {"text": "kept"}

    def test_files_stay_in_the_output_without_output_files_dir(self, run_task, returns):
        returns({"report": file("a.txt", **HELLO)})
        assert run_task(operator())["report"]["base64"] == HELLO["base64"]

    def test_file_download_sends_no_api_key(self, run_task, returns, tmp_path, emulator):
        with canned(Answer(200, b"by address", {"content-type": "text/plain"})) as storage:
            returns({"report": file("a.txt", url=f"{storage.url}/bucket/a.txt?signature=secret")})
            output = run_task(operator(output_files_dir=str(tmp_path)))
        [got] = storage.requests
        assert "x-api-key" not in got.headers
        assert emulator.api_key not in str(got)
        assert (tmp_path / output["report"]["path"].rpartition("file://")[2]).read_bytes() == b"by address"

    @pytest.mark.parametrize("status", [403, 404, 302])
    def test_failed_file_download_explains_the_fix(self, run_task, returns, tmp_path, status):
        with canned(Answer(status, b"", {"location": "http://127.0.0.1:1/"})) as storage:
            returns({"report": file("a.txt", url=f"{storage.url}/bucket/a.txt?signature=secret")})
            with pytest.raises(SimOutputError, match=r"'a\.txt'.*five minutes.*sync run") as caught:
                run_task(operator(output_files_dir=str(tmp_path)))
        assert isinstance(caught.value, AirflowFailException)
        assert "secret" not in str(caught.value)

    def test_file_without_bytes_on_local_storage_fails(self, run_task, returns, tmp_path):
        returns({"report": file("a.txt")})
        with pytest.raises(SimOutputError, match="for logged-in users only"):
            run_task(operator(output_files_dir=str(tmp_path)))

    @pytest.mark.parametrize("change", [{"url": "", "base64": "[TRUNCATED]"}, {"base64": "no base64!"}], ids=str)
    def test_file_without_valid_bytes_or_url_fails(self, run_task, returns, tmp_path, change):
        returns({"report": file("a.txt", **change)})
        with pytest.raises(SimOutputError, match="Could not save the file"):
            run_task(operator(output_files_dir=str(tmp_path)))

    def test_unwritable_folder_fails_the_task(self, run_task, returns, tmp_path):
        (tmp_path / "taken").write_text("a file")
        returns({"report": file("a.txt", **HELLO)})
        with pytest.raises(SimOutputError, match=r"Could not write 'a\.txt'"):
            run_task(operator(output_files_dir=str(tmp_path / "taken")))

    @pytest.mark.parametrize(
        ("wanted", "name"),
        [
            ("../../etc/passwd", "passwd"),
            ("..\\..\\evil.exe", "evil.exe"),
            ("..", "file"),
            ("", "file"),
            ("/", "file"),
            ("a.txt", "a-2.txt"),
            ("output.json", "output-2.json"),
        ],
    )
    def test_unused_name_drops_folders_and_duplicates(self, wanted, name):
        assert unused_name({"output.json", "a.txt"}, wanted) == name

    def test_objects_without_a_storage_key_are_unchanged(self, run_task, returns, tmp_path):
        value = {"name": "a.txt", "url": "https://example.org/a.txt", "size": 5}
        returns({"link": value})
        assert run_task(operator(output_files_dir=str(tmp_path))) == {"link": value}


class TestLargeOutputs:
    def test_large_outputs_fail_explains_the_fix(self, run_task, returns, mode):
        returns({"text": "x" * 2000})
        with pytest.raises(SimOutputError, match=r"2,011 bytes.*large_outputs='store'") as caught:
            run_task(operator(max_output_bytes=1000, **mode))
        assert isinstance(caught.value, AirflowFailException)

    def test_large_outputs_store_writes_a_file(self, run_task, returns, mode, tmp_path):
        value = {"text": "ü" * 2000}
        returns(value)
        output = run_task(
            operator(max_output_bytes=1000, large_outputs="store", output_files_dir=f"file://{tmp_path}", **mode)
        )
        path = output["output_path"].removeprefix("file://")
        with open(path, "rb") as stored:
            content = stored.read()
        assert json.loads(content) == value
        assert output["size"] == len(content)

    def test_small_output_is_not_stored(self, run_task, returns, tmp_path):
        returns({"a": 1})
        assert run_task(operator(large_outputs="store", output_files_dir=str(tmp_path))) == {"a": 1}
        assert list(tmp_path.iterdir()) == []

    def test_retry_returns_the_same_output_after_a_size_error(self, run_task, context, emulator, returns):
        returns({"text": "x" * 2000})
        with contextlib.suppress(SimOutputError):
            run_task(operator(max_output_bytes=1000))
        context["ti"].try_number += 1
        assert run_task(operator()) == {"text": "x" * 2000}
        assert len(emulator.runs) == 1


class TestMultipleOutputs:
    """Airflow pushes the fields: tests/border/test_multiple_outputs.py."""

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ("text alone", "not an object but a str"),
            ([{"a": 1}], "not an object but a list"),
            (
                {"a": 1, "run_url": "https://elsewhere.example", "job_id": 7},
                "named like XComs of the task: job_id, run_url",
            ),
            ({"return_value": 1}, "return_value"),
            *(
                ({key: 1}, "can't be the key of an XCom")
                for key in ("", ".", "..", "../t", "a?b", "a#b", "%41", "k" * 513)
            ),
        ],
        ids=str,
    )
    def test_output_whose_fields_cannot_be_xcoms_fails_the_task(self, run_task, returns, value, problem):
        returns(value)
        with pytest.raises(SimOutputError, match=problem) as caught:
            run_task(operator(multiple_outputs=True))
        assert isinstance(caught.value, AirflowFailException)
        assert run_task(operator(multiple_outputs=True, do_xcom_push=False, durable=False)) == value

    def test_fields_are_checked_in_every_mode_and_by_the_sensor(self, run_task, context, returns, mode):
        returns([1])
        with pytest.raises(SimOutputError, match="not an object"):
            run_task(operator(multiple_outputs=True, **mode))
        how = {"run_id": context["ti"].xcoms["run_id"], "poke_interval": 0.02, "deferrable": "deferrable" in mode}
        with pytest.raises(SimOutputError, match="not an object"):
            run_task(SimJobSensor(task_id="s", workflow_id="returns", multiple_outputs=True, **how))

    @pytest.mark.parametrize("value", [{}, {"a b": 1, "ünï": None, "a.b": {"c": []}}], ids=str)
    def test_other_fields_are_accepted(self, run_task, returns, mode, value):
        returns(value)
        assert run_task(operator(multiple_outputs=True, **mode)) == value


@pytest.fixture(autouse=True)
def _information(caplog):
    caplog.set_level(logging.INFO)
