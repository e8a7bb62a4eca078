"""Files of inputs and outputs, as Sim takes and gives them, and how they are got."""

from __future__ import annotations

import pytest

from airflow_provider_sim.client.api.files import (
    OutputFile,
    file_call,
    fits_in_request,
    is_inline_file,
    map_files,
)
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConnectionError,
    SimInputError,
    SimResponseError,
    SimTimeoutError,
)
from tests.canned_server import Answer, canned, held
from tests.client.conftest import KEY

STORED = {"id": "f", "name": "a.txt", "key": "k/a.txt", "context": "execution", "size": 2, "url": "/api/files/a.txt"}


class TestDownloads:
    def test_download_does_not_send_the_api_key(self, connect):
        content = bytes(range(256)) * 1024
        with canned(Answer(200, content)) as server:
            assert b"".join(connect(server.url).pieces(f"{server.url}/files/a.bin?signature=s")) == content
        [got] = server.requests
        assert (got.method, got.path) == ("GET", "/files/a.bin?signature=s")
        assert KEY not in str(got)

    def test_path_is_downloaded_from_the_sim_server(self, connect):
        with canned(Answer(200, b"hi")) as server:
            assert list(connect(server.url).pieces("/api/files/a.txt")) == [b"hi"]
        assert server.requests[0].path == "/api/files/a.txt"

    def test_download_yields_pieces_before_the_response_ends(self, connect):
        """A large file isn't read into memory first."""
        half = bytes(200_000)
        with held(b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n" + half, half) as (url, go_on):
            pieces = connect(url, timeout=2).pieces(f"{url}/a.bin")
            first = len(next(pieces))
            go_on.set()
            assert 0 < first < 400_000
            assert first + sum(map(len, pieces)) == 400_000

    @pytest.mark.parametrize("status", [302, 403, 404])
    def test_expired_file_url_is_an_error(self, connect, status):
        elsewhere = Answer(status, b"no", {"location": "http://127.0.0.1:1/"})
        with canned(elsewhere) as server, pytest.raises(SimResponseError) as caught:
            list(connect(server.url).pieces(f"{server.url}/files/a.txt?signature=secret"))
        host = server.url.removeprefix("http://")
        assert f"Could not download the file at http://{host}/files/a.txt: its URL is invalid or has expired" in str(
            caught.value
        )
        assert "secret" not in str(caught.value)
        assert len(server.requests) == 1

    def test_silent_server_times_out(self, connect):
        with (
            canned(Answer(200, b"late", delay=1.0)) as server,
            pytest.raises(SimTimeoutError, match=r"within 0\.3 s"),
        ):
            list(connect(server.url, timeout=0.3).pieces(f"{server.url}/files/a.txt"))

    def test_broken_connection_is_a_connection_error(self, connect):
        with canned(Answer(200, bytes(1000), cut=500)) as server, pytest.raises(SimConnectionError):
            list(connect(server.url).pieces(f"{server.url}/files/a.txt"))

    @pytest.mark.parametrize("url", ["ftp://host/a", "a.txt", "http:///a", "file:///etc/passwd"])
    def test_invalid_file_url_is_an_input_error(self, url):
        with pytest.raises(SimInputError, match="is not the URL of a file") as caught:
            file_call(url, "http://sim")
        assert caught.value.outcome is Outcome.NEVER_SENT

    def test_file_request_resolves_the_path_and_hides_the_query(self):
        request = file_call("/api/files/a.txt?signature=s", "https://sim").request
        assert (request.method, request.path, request.url) == (
            "GET",
            "/api/files/a.txt",
            "https://sim/api/files/a.txt?signature=s",
        )
        assert request.subject == "download the file at https://sim/api/files/a.txt"


class TestFilesOfRequest:
    @pytest.mark.parametrize(
        ("value", "counts"),
        [
            ({"type": "file", "data": "data:,", "name": "a"}, True),
            ({"type": "url", "data": "https://x/a", "name": "a"}, True),
            ({"type": "other", "data": "data:,", "name": "a"}, False),
            ({"type": "file", "name": "a"}, False),
            ({"type": "file", "data": "", "name": "a"}, False),
            ({"type": "file", "data": "data:,"}, False),
            ({"type": "file", "data": "data:,", "name": 7}, False),
            ("file", False),
        ],
    )
    def test_inline_file_is_a_sim_file_object(self, value, counts):
        assert is_inline_file(value) == counts

    @pytest.mark.parametrize(("sizes", "fit"), [([], True), ([7 * 2**20, 2**19], True), ([7 * 2**20, 2**19, 1], False)])
    def test_files_of_7_5_mib_fit_in_a_request(self, sizes, fit):
        assert fits_in_request(sizes) == fit


class TestFilesOfOutput:
    @pytest.mark.parametrize(("content", "given"), [("aGk=", "aGk="), ("[TRUNCATED]", None), (None, None)])
    def test_map_files_replaces_nested_files(self, content, given):
        value = {**STORED, "base64": content}
        found = []
        changed = map_files({"a": [1, {"b": value}], "c": None}, lambda file: found.append(file) or file.name)
        assert changed == {"a": [1, {"b": "a.txt"}], "c": None}
        assert found == [OutputFile("a.txt", given, "/api/files/a.txt", value)]

    @pytest.mark.parametrize("lacks", ["name", "key", "context", "size"])
    def test_map_files_ignores_incomplete_file_objects(self, lacks):
        value = {name: part for name, part in STORED.items() if name != lacks}
        assert map_files(value, lambda file: pytest.fail("no file")) == value
