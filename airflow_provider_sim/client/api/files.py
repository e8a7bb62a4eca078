"""Files as Sim takes them in an input and puts them into an output, the same in both dialects."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.http import MAX_BODY_BYTES, Request, Response, error_of
from airflow_provider_sim.exceptions import Outcome, SimInputError, SimResponseError

MAX_FILE_BYTES = 20 * 1024 * 1024
"""The largest file that Sim stores; one that is sent must fit into a request, too."""

OUTPUT_FILE_LIFETIME = 300.0
"""Seconds for which Sim opens a file's address after it was made; nothing opens it again."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file.

    :param base64: its bytes, in raw outputs and for files up to 5.6 MiB; None where they were left out.
    :param url: where it can be got without a key, for five minutes; a path on servers with local storage, which open it
        for logged-in people only.
    :param value: Sim's own description of it.
    """

    name: str
    base64: str | None
    url: str | None
    value: dict[str, Any]


_CUT_OUT = "[TRUNCATED]"
"""What a display copy holds in place of the bytes."""


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
    return OutputFile(name, None if content == _CUT_OUT else content, fields.text(value, "url"), value)


class FilesOfRequest:
    """The files that one request is to carry, each as Sim takes it in a Start block's field of type ``file[]``.

    Sim converts them in runs that are held open only, and only in top-level fields.

    :param workflow_id: for messages.
    """

    most = MAX_FILE_BYTES

    def __init__(self, workflow_id: str) -> None:
        self.fields: list[str] = []
        self._workflow_id = workflow_id
        self._size = 0

    def add(self, field: str, name: str, mime: str, content: bytes) -> dict[str, Any]:
        """Give a file as Sim takes it.

        :param field: the input's field that it stands in.
        :raises SimInputError: it is larger than Sim takes, or too large for one request with those before it.
        """
        if len(content) > self.most:
            raise self.error(
                f"The file {name!r} in the field {field!r} is larger than {self.most // 2**20} MiB, the most that Sim"
                " takes. Put it where the workflow can fetch it and send its address",
                code="PAYLOAD_TOO_LARGE",
            )
        data = f"data:{mime};base64,{base64.b64encode(content).decode()}"
        self._size += len(data)
        if self._size > MAX_BODY_BYTES:
            raise self.error(
                f"With the file {name!r} in the field {field!r}, the input's files are {self._size / 2**20:.1f} MiB as"
                f" base64; a request to Sim takes {MAX_BODY_BYTES // 2**20} MiB, which is"
                f" {MAX_BODY_BYTES * 3 // 4 / 2**20:.1f} MiB of files. Put them where the workflow can fetch them and"
                " send their addresses",
                code="PAYLOAD_TOO_LARGE",
            )
        file = {"type": "file", "data": data, "name": name, "mime": mime}
        self.note(field, file)
        return file

    def note(self, field: str, value: Any) -> None:
        """Count a file that stands in the input as Sim takes it."""
        if fields.text(value, "type") in ("file", "url") and fields.text(value, "data") and fields.text(value, "name"):
            self.fields += [] if field in self.fields else [field]

    def error(self, what: str, *, code: str | None = None) -> SimInputError:
        """An error about the request, which isn't sent."""
        return SimInputError(f"{what}.", code=code, workflow_id=self._workflow_id, outcome=Outcome.NEVER_SENT)


def file_request(url: str, base_url: str) -> tuple[Request, str]:
    """The question for a file, for messages, and its whole address.

    :raises SimInputError: the address is of another kind.
    """
    address = base_url + url if url.startswith("/") else url
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SimInputError(f"{url[:200]!r} is no address of a file.", outcome=Outcome.NEVER_SENT)
    # A signed address opens the file to whoever reads it: not for logs.
    return Request("GET", parts.path, subject=f"get the file at {parts.scheme}://{parts.netloc}{parts.path}"), address


def check_file_answer(request: Request, status: int) -> None:
    """Pass a file's answer.

    :raises SimResponseError: it is none.
    """
    if status != 200:
        raise error_of(
            SimResponseError,
            request,
            Response(status, {}, b""),
            "its address is not, or no longer, open",
            worth_repeating=0,
        )
