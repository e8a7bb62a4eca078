"""Content of an upload: bytes, a path or an open file, read in chunks."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Protocol, cast

from airflow_provider_sim.client.api.workspace_files import MAX_UPLOAD_BYTES
from airflow_provider_sim.exceptions import SimInputError

_CHUNK_BYTES = 256 * 1024


class _Openable(Protocol):
    def open(self, mode: str, /) -> Any: ...


Content = bytes | _Openable | IO[bytes]
"""Content of an upload: bytes, a path object with ``open("rb")``, or an open binary file, read from its position."""


class Source:
    """The content of an upload, as an open file.

    Its methods block.

    :ivar size: bytes.
    :raises SimInputError: the content can't be read, or is larger than Sim accepts.
    """

    def __init__(self, content: Content) -> None:
        self._opened = contextlib.ExitStack()
        try:
            self._file = self._open(content)
            self._start = self._file.tell()
            self.size = self._file.seek(0, io.SEEK_END) - self._start
            if self.size > MAX_UPLOAD_BYTES:
                message = f"The file has {self.size / 2**30:.1f} GiB; Sim accepts up to 5 GiB."
                raise SimInputError(message, code="PAYLOAD_TOO_LARGE")
        except OSError as error:
            self.close()
            raise SimInputError(f"The file to upload can't be read: {error}.") from error
        except BaseException:
            self.close()
            raise

    def _open(self, content: Any) -> IO[bytes]:
        if isinstance(content, bytes | bytearray | memoryview):
            return io.BytesIO(content)
        if hasattr(content, "read"):
            file: Any = content
        elif hasattr(content, "open"):
            file = self._opened.enter_context(content.open("rb"))
        else:
            kind = type(content).__name__
            raise SimInputError(f"The content to upload is a {kind}; it must be bytes, a path object or an open file.")
        if isinstance(file, io.TextIOBase):
            raise SimInputError("The file to upload is open in text mode; open it in binary mode ('rb').")
        if file.seekable():
            return cast(IO[bytes], file)
        copy = self._opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        shutil.copyfileobj(file, copy, _CHUNK_BYTES)
        copy.seek(0)
        return copy

    def read(self) -> bytes:
        """Return the whole content."""
        return b"".join(self.part(0, self.size))

    def part(self, offset: int, size: int) -> Part:
        return Part(self, offset, size)

    def chunks(self, offset: int, size: int) -> Iterator[bytes]:
        """Yield a part of the content.

        :raises SimInputError: it can't be read, or the file is now shorter.
        """
        try:
            self._file.seek(self._start + offset)
            while size > 0:
                chunk = self._file.read(min(size, _CHUNK_BYTES))
                if not chunk:
                    raise SimInputError("The file was truncated during its upload.")
                size -= len(chunk)
                yield chunk
        except OSError as error:
            raise SimInputError(f"The file to upload can't be read: {error}.") from error

    def close(self) -> None:
        """Close the files that were opened here."""
        self._opened.close()


class Part:
    """A part of the content as the body of a request; by its length, ``requests`` sends no chunked encoding."""

    def __init__(self, source: Source, offset: int, size: int) -> None:
        self._source, self._offset, self._size = source, offset, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._source.chunks(self._offset, self._size)
