"""Files in Sim's inputs and outputs, in the format of both APIs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.http import MAX_BODY_BYTES, Request, Response, error_of
from airflow_provider_sim.exceptions import SimInputError, SimResponseError

MAX_FILE_BYTES = 20 * 1024 * 1024
"""The largest file that Sim stores; a file in an input must also fit into a request."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file in an output.

    :param base64: its content, in raw outputs and for files up to 5.6 MiB; else None.
    :param url: for downloads without a key, for five minutes; a path on servers with local storage, which require a
        login.
    :param value: the file's object in the output.
    """

    name: str
    base64: str | None
    url: str | None
    value: dict[str, Any]


def map_files(value: Any, change: Callable[[OutputFile], Any]) -> Any:
    """Return an output with each of its files changed."""
    if isinstance(value, list):
        return [map_files(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    file = _file(value)
    if file is not None:
        return change(file)
    return {name: map_files(item, change) for name, item in value.items()}


def _file(value: dict[str, Any]) -> OutputFile | None:
    name, key = fields.text(value, "name"), fields.text(value, "key")
    if name is None or key is None or value.get("context") != "execution" or "size" not in value:
        return None
    content = fields.text(value, "base64")
    content = None if content == "[TRUNCATED]" else content  # of a display copy
    return OutputFile(name, content, fields.text(value, "url"), value)


class FilesOfRequest:
    """The files of one request, in the format of a Start block's field of type ``file[]``.

    Sim converts them only in sync runs, and only in top-level fields.

    :ivar fields: names of the fields with files.
    """

    most = MAX_FILE_BYTES

    def __init__(self, workflow_id: str) -> None:
        self.fields: list[str] = []
        self._workflow_id = workflow_id
        self._size = 0

    def add(self, field: str, name: str, mime: str, content: bytes) -> dict[str, Any]:
        """Add a file to a field and return it in Sim's format, unless it is too large."""
        if len(content) > self.most:
            raise self.error(
                f"The file {name!r} in the field {field!r} is larger than {self.most // 2**20} MiB, the limit of"
                " Sim. Put it where the workflow can fetch it and send its URL",
                code="PAYLOAD_TOO_LARGE",
            )
        data = f"data:{mime};base64,{base64.b64encode(content).decode()}"
        self._size += len(data)
        if self._size > MAX_BODY_BYTES:
            raise self.error(
                f"With the file {name!r} in the field {field!r}, the input's files are {self._size / 2**20:.1f} MiB as"
                f" base64; the limit of a request to Sim is {MAX_BODY_BYTES // 2**20} MiB, which is"
                f" {MAX_BODY_BYTES * 3 // 4 / 2**20:.1f} MiB of files. Put them where the workflow can fetch them and"
                " send their URLs",
                code="PAYLOAD_TOO_LARGE",
            )
        file = {"type": "file", "data": data, "name": name, "mime": mime}
        self.record(field, file)
        return file

    def record(self, field: str, value: Any) -> None:
        """Record the field if the value is a file in Sim's format."""
        if fields.text(value, "type") in ("file", "url") and fields.text(value, "data") and fields.text(value, "name"):
            self.fields += [] if field in self.fields else [field]

    def error(self, what: str, *, code: str | None = None) -> SimInputError:
        """Return an error about the request. It was not sent."""
        return SimInputError(f"{what}.", code=code, workflow_id=self._workflow_id)


def file_request(url: str, base_url: str) -> tuple[Request, str]:
    """Return the request for a file, for messages, and its whole URL."""
    address = base_url + url if url.startswith("/") else url
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SimInputError(f"{url[:200]!r} is not the URL of a file.")
    # A signed URL gives access to the file, so messages don't contain its query.
    subject = f"download the file at {parts.scheme}://{parts.netloc}{parts.path}"
    return Request("GET", parts.path, subject), address


def check_file_status(request: Request, status: int) -> None:
    """Raise SimResponseError if a download's status is not 200."""
    if status != 200:
        what = "its URL is invalid or has expired"
        raise error_of(SimResponseError, request, Response(status, {}, b""), what, max_retries=0)
