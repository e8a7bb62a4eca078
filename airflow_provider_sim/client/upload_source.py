"""Content of an upload: bytes, a path or an open file, read in chunks."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import IO, Any, Protocol

from airflow_provider_sim.client.api.workspace_files import MAX_UPLOAD_BYTES
from airflow_provider_sim.exceptions import SimInputError

_CHUNK_BYTES = 256 * 1024


class _Openable(Protocol):
    def open(self, mode: str, /) -> Any: ...


Content = bytes | _Openable | IO[bytes]
"""Content of an upload: bytes, a path object with ``open("rb")``, or an open file, see :meth:`.upload_file`."""


class Part:
    """A part of a file as the body of a request; by its length, ``requests`` sends no chunked encoding."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file, self._offset, self._size = file, offset, size

    def __len__(self) -> int:
        return self._size

    def part(self, offset: int, size: int) -> Part:
        """Return up to ``size`` bytes of this part."""
        return Part(self._file, self._offset + offset, min(size, self._size - offset))

    def __iter__(self) -> Iterator[bytes]:
        """Yield its bytes in chunks; raise SimInputError if they can't be read."""
        left = self._size
        try:
            self._file.seek(self._offset)
            while left > 0:
                chunk = self._file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise SimInputError("The file was truncated during its upload.")
                left -= len(chunk)
                yield chunk
        except OSError as error:
            raise SimInputError(f"The file to upload can't be read: {error}.") from error


def open_content(content: Any, opened: contextlib.ExitStack) -> Part:
    """Return the whole content of an upload.

    :param opened: gets the files that are opened here.
    :raises SimInputError: the content can't be read, or is larger than Sim accepts.
    """
    try:
        if isinstance(content, bytes | bytearray | memoryview):
            file: Any = io.BytesIO(content)
        elif hasattr(content, "read"):
            file = content
        elif hasattr(content, "open"):
            file = opened.enter_context(content.open("rb"))
        else:
            kind = type(content).__name__
            raise SimInputError(f"The content to upload is a {kind}; it must be bytes, a path object or an open file.")
        if isinstance(file, io.TextIOBase):
            raise SimInputError("The file to upload is open in text mode; open it in binary mode ('rb').")
        start = file.tell()
        size = file.seek(0, io.SEEK_END) - start
    except OSError as error:
        raise SimInputError(f"The file to upload can't be read: {error}.") from error
    if size > MAX_UPLOAD_BYTES:
        message = f"The file has {size / 2**30:.1f} GiB; Sim accepts up to 5 GiB."
        raise SimInputError(message, code="PAYLOAD_TOO_LARGE")
    return Part(file, start, size)
