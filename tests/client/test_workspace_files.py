"""Workspace files with both clients: contents, requests, lost responses, other origins and errors."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_sim.client import file_flows
from airflow_provider_sim.client.api import workspace_files
from airflow_provider_sim.client.async_client import AsyncSimClient
from airflow_provider_sim.client.retry import NO_RETRY
from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.exceptions import (
    SimAuthenticationError,
    SimConflictError,
    SimError,
    SimInputError,
    SimNotFoundError,
    SimServerError,
    SimUnsupportedError,
    SimUsageLimitError,
)
from airflow_provider_sim.hooks.sim import SimHook
from tests.canned_server import Answer, CannedServer, canned

LARGE = bytes(range(256)) * 4000
INLINE = ["create_file"]
SESSION = ["create_upload", "transfer", "complete_upload"]
PATHS = {
    ("POST", "/api/v2/files"): "create_file",
    ("GET", "/api/v2/files"): "files",
    ("POST", "/api/v2/files/uploads"): "create_upload",
}


@pytest.fixture
def small_limit(monkeypatch):
    """Upload contents of more than 1 KiB in sessions."""
    monkeypatch.setattr(workspace_files, "MAX_INLINE_BYTES", 1024)


@pytest.fixture
def client(connect, emulator):
    return connect(emulator.url, key=emulator.api_key)


def operations(sim: SimEmulator) -> list[str]:
    """The operations of all requests, in the order of their responses."""
    found = []
    for request in sim.requests:
        path = request.path.partition("?")[0]
        others = {
            "PUT": "transfer",
            "POST": "complete_upload",
            "DELETE": "abort_upload" if "uploads" in path else "delete",
        }
        found.append(PATHS.get((request.method, path)) or others[request.method])
    return found


def _path(content: bytes) -> Path:
    path = Path(tempfile.mkdtemp()) / "content"
    path.write_bytes(content)
    return path


def _object_storage_path(content: bytes):
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(f"file://{_path(content)}")


def _middle(content: bytes):
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    return file


CONTENTS = {
    "bytes": bytes,
    "path": _path,
    "object storage path": _object_storage_path,
    "file from its position": _middle,
}


@pytest.mark.parametrize(("content", "requests"), [(b"hello", INLINE), (b"", INLINE), (LARGE, SESSION)])
@pytest.mark.parametrize("kind", CONTENTS)
def test_upload_stores_the_content(client, emulator, small_limit, kind, content, requests):
    given = CONTENTS[kind](content)
    file = client.upload_file(emulator.workspace_id, "a report.txt", given)
    assert operations(emulator) == requests
    [stored] = emulator.files
    assert stored.content == content
    assert (file.file_id, file.name, file.size, file.key) == (stored.file_id, "a report.txt", len(content), stored.key)
    assert (file.content_type, file.folder_path) == ("text/plain", "/")
    assert file.reference("b.txt") == {
        "id": file.file_id,
        "name": "b.txt",
        "url": f"/api/files/serve/{file.key}?context=workspace",
        "size": len(content),
        "type": "text/plain",
        "key": file.key,
    }
    assert not getattr(given, "closed", False)


def test_files_are_found_listed_downloaded_and_deleted(client, emulator):
    workspace = emulator.workspace_id
    emulator.state.files.folders.add("/a")
    first = client.upload_file(workspace, "1.bin", LARGE, folder_path="/a", content_type="application/x-one")
    client.upload_file(workspace, "1.bin", b"other", content_type="application/x-two")
    assert emulator.files[0].content_type == "application/x-one"
    assert client.list_files(workspace, folder_path="/a", search="1.B").items == (first,)
    page = client.list_files(workspace, limit=1)
    rest = client.list_files(workspace, limit=1, cursor=page.next_cursor)
    assert [len(page.items), len(rest.items), rest.next_cursor] == [1, 1, None]
    assert client.download_workspace_file(workspace, first.file_id) == LARGE
    for _ in range(2):
        client.delete_file(workspace, first.file_id)
    assert [file.size for file in emulator.files] == [5]
    with pytest.raises(SimNotFoundError, match="was deleted"):
        client.download_workspace_file(workspace, first.file_id)


def test_hook_uses_the_connection_s_workspace(emulator, monkeypatch):
    connection = emulator.connection(extra={"workspace_id": emulator.workspace_id})
    monkeypatch.setenv("AIRFLOW_CONN_SIM_DEFAULT", connection)
    with SimHook() as hook:
        file = hook.upload_file(None, "a.txt", b"hello")
        assert hook.list_files().items == (file,)
        assert hook.download_workspace_file(None, file.file_id) == b"hello"
        hook.delete_file(None, file.file_id)
    assert [request.method for request in emulator.requests] == ["POST", "GET", "GET", "DELETE"]
    assert emulator.files == []


def test_workspace_of_the_key_is_the_default(client, emulator):
    client.upload_file(None, "a.txt", b"hello")
    assert [file.workspace_id for file in emulator.files] == [emulator.workspace_id]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("api", ["v2", "legacy"])
@pytest.mark.parametrize("deleted", [False, True])
def test_run_reads_the_file_of_a_reference(client, emulator, mode, api, deleted):
    file = client.upload_file(emulator.workspace_id, "a.txt", b"hello")
    if deleted:
        client.delete_file(emulator.workspace_id, file.file_id)
    client.client.settings = replace(client.client.settings, api_version=api)
    given = {"files": [file.reference()]}
    result = client.execute_workflow("file_echo", given, async_execution=mode == "async")
    output = client.get_workflow_result("file_echo", result.run_id).output if mode == "async" else result.output
    assert output["result"] == [file.reference() | ({} if deleted else {"base64": "aGVsbG8="})]
    client.client.settings = replace(client.client.settings, api_version="v2")
    client.delete_file(emulator.workspace_id, file.file_id)  # after its end, which changes nothing
    assert emulator.runs[0].outcome["result"][0].get("base64") == (None if deleted else "aGVsbG8=")


LOST = {
    "before": ("drop_before_accept", {}),
    "after": ("drop_after_accept", {}),
    "half": ("half_answer", {}),
    "502": ("server_error", {"status": 502, "page": True, "when": "done"}),
    "503": ("server_error", {"status": 503}),
}


@pytest.mark.parametrize("operation", INLINE + SESSION)
@pytest.mark.parametrize("lost", LOST)
def test_failed_request_is_retried_and_leaves_one_file(client, emulator, small_limit, operation, lost):
    name, parameters = LOST[lost]
    emulator.fault(name, match=operation, **parameters)
    content = b"hello" if operation == "create_file" else LARGE
    file = client.upload_file(emulator.workspace_id, "a.bin", content)
    assert [(stored.file_id, stored.content) for stored in emulator.files] == [(file.file_id, content)]
    # Of a session whose creation has no response, the client knows nothing: it expires.
    unknown = int(operation == "create_upload" and lost in ("after", "half", "502"))
    assert [upload.status for upload in emulator.state.files.all].count("uploading") == unknown


@pytest.mark.parametrize("operation", INLINE + SESSION)
def test_failed_upload_leaves_nothing(client, emulator, small_limit, operation):
    emulator.fault("drop_before_accept", match=operation)
    content = b"hello" if operation == "create_file" else LARGE
    with pytest.raises(SimError):
        client.with_retry(NO_RETRY).upload_file(emulator.workspace_id, "a.bin", content)
    assert emulator.files == []
    assert "uploading" not in [upload.status for upload in emulator.state.files.all]


def test_file_of_another_upload_is_not_taken_for_a_lost_one(client, emulator):
    client.upload_file(emulator.workspace_id, "a.bin", b"other")
    emulator.files[0].uploaded_at -= 3600
    emulator.fault("drop_before_accept", match="create_file")
    with pytest.raises(SimConflictError) as raised:
        client.upload_file(emulator.workspace_id, "a.bin", b"hello")
    assert raised.value.code == "FILE_EXISTS"


@pytest.mark.parametrize(("status", "content"), [(413, b"hello"), (400, LARGE * 9)])
def test_body_that_a_proxy_rejects_is_uploaded_in_a_session(client, emulator, status, content):
    emulator.fault("server_error", match="create_file", status=status, message="Request body must be valid JSON")
    client.upload_file(emulator.workspace_id, "a.bin", content)
    assert operations(emulator) == [*INLINE, *SESSION]
    assert emulator.files[0].content == content


def test_other_origin_gets_neither_key_nor_cookies(client, emulator, small_limit):
    with canned(Answer(204)) as storage:
        emulator.state.files.upload_url = f"{storage.url}/bucket"
        with pytest.raises(SimConflictError, match="Uploaded object not found"):  # the emulator didn't get it
            client.upload_file(emulator.workspace_id, "a.bin", LARGE)
    [put] = storage.requests
    assert (put.method, put.body) == ("PUT", LARGE)
    sent = emulator.state.files.all[0]
    assert put.headers["upload-token"] == sent.token
    assert put.headers["content-length"] == str(len(LARGE))
    assert "transfer-encoding" not in put.headers
    assert "cookie" not in put.headers
    assert emulator.api_key not in str(put.headers)
    assert sent.status == "aborted"


@pytest.mark.parametrize(("status", "attempts"), [(403, 2), (500, 4)])
def test_each_rejected_transfer_has_its_own_session(client, emulator, small_limit, status, attempts):
    with canned(Answer(status, b"<Error/>")) as storage:
        emulator.state.files.upload_url = storage.url
        with pytest.raises(SimServerError, match="storage rejects") as raised:
            client.upload_file(emulator.workspace_id, "a.bin", LARGE)
    assert raised.value.status == status
    assert len({put.path for put in storage.requests}) == attempts
    assert [upload.status for upload in emulator.state.files.all] == ["aborted"] * attempts


def test_content_is_transferred_in_parts_if_the_server_asks_for_it(connect, small_limit):
    stored = {"id": "wf_1", "name": "a.bin", "size": 2500, "key": "k"}
    parts = 250
    with CannedServer(Answer(200)) as storage:

        def urls(first, last):
            return [
                {"partNumber": n, "url": f"{storage.url}/{n}", "headers": {"x-part": str(n)}}
                for n in range(first, last)
            ]

        transfer = {"method": "multipart", "partSize": 10, "partCount": parts}
        session = {"session": {"id": "u-1"}, "uploadToken": "t", "transfer": transfer}
        pages = [Answer(200, {"data": {"parts": urls(*limits)}}) for limits in ((1, 101), (101, 201), (201, 251))]
        done = Answer(200, {"data": {"file": stored}})
        answers = [
            *(("/parts", page) for page in pages),
            ("/complete", done),
            ("/uploads", Answer(201, {"data": session})),
        ]
        with canned(*answers) as server:
            content = LARGE[:2495]
            file = connect(server.url).upload_file("space", "a.bin", content)
    assert file.file_id == "wf_1"
    assert b"".join(put.body for put in storage.requests) == content
    assert [put.headers["x-part"] for put in storage.requests] == [str(n + 1) for n in range(parts)]
    assert [len(got.json["partNumbers"]) for got in server.requests[1:-1]] == [100, 100, 50]
    assert all(got.headers["upload-token"] == "t" for got in server.requests[1:])


ERRORS = {
    "folder": ({"folder_path": "/a/../b"}, SimInputError, "INVALID_INPUT", "canonical folder path"),
    "name exists": ({"name": "there.txt"}, SimConflictError, "FILE_EXISTS", "Choose another name"),
    "missing folder": ({"folder_path": "/none"}, SimNotFoundError, "NOT_FOUND", "doesn't create it"),
    "foreign workspace": ({"workspace_id": "another"}, SimNotFoundError, "NOT_FOUND", "the key may not access it"),
    "storage full": ({"content": b"x" * 2000}, SimUsageLimitError, "USAGE_LIMIT_EXCEEDED", "storage .* is full"),
}
INVALID = {
    "name with a path": {"name": "a/b.txt"},
    "MIME type": {"content_type": "text"},
    "text": {"content": "text"},
    "text file": {"content": io.StringIO("text")},
    "missing file": {"content": Path("/no/such/file")},
}


@pytest.mark.parametrize("size", [0, 1500])
@pytest.mark.parametrize("case", ERRORS)
def test_rejected_upload_says_what_to_change(client, emulator, small_limit, case, size):
    changes, kind, code, message = ERRORS[case]
    client.upload_file(emulator.workspace_id, "there.txt", b"x" * 500)
    emulator.state.files.storage_limit = 2400
    given = {"workspace_id": emulator.workspace_id, "name": "a.txt", "content": bytes(size), **changes}
    with pytest.raises(kind, match=message) as raised:
        client.upload_file(**given)
    assert raised.value.code == code
    assert len(emulator.files) == 1


@pytest.mark.parametrize("case", INVALID)
def test_invalid_upload_sends_nothing(client, emulator, case):
    given = {"workspace_id": emulator.workspace_id, "name": "a.txt", "content": b"x", **INVALID[case]}
    with pytest.raises(SimInputError):
        client.upload_file(**given)
    assert emulator.requests == []


def test_file_above_the_limit_is_not_sent(client, emulator, tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(file_flows.MAX_UPLOAD_BYTES + 1)
    with pytest.raises(SimInputError, match="5 GiB"):
        client.upload_file(emulator.workspace_id, "a.bin", tmp_path / "sparse")
    assert emulator.requests == []


def test_bad_key(connect, emulator):
    with pytest.raises(SimAuthenticationError):
        connect(emulator.url, key="sk-wrong").upload_file(emulator.workspace_id, "a.txt", b"x")


@pytest.mark.sim_emulator(profile="v0.8-legacy")
def test_server_without_v2(client, emulator):
    for name in ("upload_file", "delete_file"):
        with pytest.raises(SimUnsupportedError, match="v2 API"):
            getattr(client, name)(emulator.workspace_id, "a.txt", *([b"x"] if name == "upload_file" else []))
    with pytest.raises(SimUnsupportedError):
        client.download_workspace_file(emulator.workspace_id, "wf_1")


def test_truncated_content_aborts_the_upload(client, emulator, small_limit, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(LARGE)
    hold = emulator.hold("create_upload", when="done")
    shortened = threading.Thread(
        target=lambda: (hold.wait_until_held(), path.write_bytes(LARGE[:600_000]), hold.release())
    )
    shortened.start()
    with pytest.raises(SimInputError, match="truncated"):
        client.upload_file(emulator.workspace_id, "a.bin", path)
    shortened.join()
    assert emulator.state.files.all[0].status == "aborted"


class Killed(BaseException):
    """As of a signal handler that ends the task."""


class Kills(io.BytesIO):
    """A file that kills its reader after a first read."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 0:
            raise Killed
        return super().read(size)


def test_kill_aborts_the_upload(client, emulator, small_limit):
    with pytest.raises(Killed):
        client.upload_file(emulator.workspace_id, "a.bin", Kills(LARGE))
    assert [upload.status for upload in emulator.state.files.all] == ["aborted"]


@pytest.mark.parametrize("operation", ["transfer", "complete_upload"])
def test_cancelled_task_aborts_the_upload(emulator, small_limit, operation):
    async def cancel() -> None:
        async with AsyncSimClient(emulator.api_key, emulator.url) as client:
            upload = asyncio.create_task(client.upload_file(emulator.workspace_id, "a.bin", LARGE))
            await asyncio.to_thread(hold.wait_until_held)
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload

    with emulator.hold(operation) as hold:
        asyncio.run(cancel())
    assert [upload.status for upload in emulator.state.files.all] == ["aborted"]


MEASURED = """
import asyncio, resource, sys
from airflow_provider_sim.client import AsyncSimClient, SimClient

kind, url, key, workspace, path = sys.argv[1:]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
open_file = open(path, "rb")
if kind == "blocking":
    with SimClient(key, url) as client:
        client.upload_file(workspace, "warm", b"x")
        before = peak()
        client.upload_file(workspace, "large", open_file)
else:
    async def upload():
        late = 0.0
        async def tick():
            nonlocal late
            loop = asyncio.get_running_loop()
            while True:
                due = loop.time() + 0.01
                await asyncio.sleep(0.01)
                late = max(late, loop.time() - due)
        async with AsyncSimClient(key, url) as client:
            await client.upload_file(workspace, "warm", b"x")
            before = peak()
            ticking = asyncio.create_task(tick())
            await client.upload_file(workspace, "large", open_file)
            ticking.cancel()
        return before, late
    before, late = asyncio.run(upload())
    assert late < 2, late
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_memory_stays_flat_for_a_large_file(emulator, tmp_path, kind):
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(300):
            file.write(b"x" * 2**20)
    arguments = [kind, emulator.url, emulator.api_key, emulator.workspace_id, str(path)]
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) < 30  # MiB
    assert emulator.files[1].size == 300 * 2**20
    assert sum(len(request.body) for request in emulator.requests) < 20 * 2**20
