"""Files as Sim puts them into an output, the same in both dialects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_sim.client.dialects import fields
from airflow_provider_sim.client.dialects.exchange import Request, Response, error_of
from airflow_provider_sim.exceptions import Outcome, SimInputError, SimResponseError

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
