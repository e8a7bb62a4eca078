"""Files in Sim's inputs and outputs, in the format of both APIs."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from airflow_provider_sim.client.api import fields
from airflow_provider_sim.client.api.http import MAX_BODY_BYTES, Call, Hidden, Request, Response, error_of
from airflow_provider_sim.exceptions import SimInputError, SimResponseError


class OutputFile(NamedTuple):
    """A file in an output."""

    name: str
    base64: str | None  # its content, in raw outputs and for files up to 5.6 MiB
    url: str | None  # without a key, for five minutes; on servers with local storage a path that requires a login
    value: dict[str, Any]  # the file's object in the output


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


def fits_in_request(sizes: Iterable[int]) -> bool:
    """Whether files of these sizes, in bytes, fit into an input as base64, apart from its other fields."""
    return sum(sizes) * 4 // 3 <= MAX_BODY_BYTES


def inline_file(name: str, mime: str, content: bytes) -> dict[str, Any]:
    """Return a file for a Start block's field of type ``file[]``; Sim converts it in sync runs only."""
    data = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return {"type": "file", "data": data, "name": name, "mime": mime}


def check_file(name: str | None, mime: str | None, *, workflow_id: str | None = None) -> None:
    """Raise SimInputError if the name is a path, or the MIME type is none."""
    for what, value, pattern in (("name", name, r"[^/\\]+"), ("MIME type", mime, r"[\w.+!#$&^-]+/[\w.+!#$&^-]+(;.+)?")):
        if value and not re.fullmatch(pattern, value):
            message = f"{value!r:.300} can't be the {what} of a file, such as 'report.csv' and 'text/csv'."
            raise SimInputError(message, workflow_id=workflow_id)


def is_inline_file(value: Any) -> bool:
    """Whether a value is a file that Sim converts in sync runs: base64 text or a URL with a name."""
    return fields.text(value, "type") in ("file", "url") and all(fields.text(value, key) for key in ("data", "name"))


def file_call(url: str, base_url: str) -> Call[None]:
    """Get a file's content; the call reads only responses that are not the file."""
    address = base_url + url if url.startswith("/") else url
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SimInputError(f"{url[:200]!r} is not the URL of a file.")
    # A signed URL gives access to the file, so messages don't contain its query.
    subject = f"download the file at {parts.scheme}://{parts.netloc}{parts.path}"
    return Call(Request("GET", parts.path, subject, url=Hidden(address)), _reject, _reject)


def _reject(request: Request, response: Response) -> NoReturn:
    raise error_of(SimResponseError, request, response, "its URL is invalid or has expired", max_retries=0)
