"""A streamed output that is too large for the memory: its texts are held as JSON, and beyond a size in files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any

_PIECE_BYTES = 64 * 1024


class LongText:
    """A text that comes in pieces, as what stands between the quotes of a JSON string.

    :param max_bytes: how much of it is held in memory.
    :param keep: whether to hold more than that, in a temporary file; otherwise a longer text is only counted.
    """

    def __init__(self, *, max_bytes: int, keep: bool) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._keep = keep
        self._file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=max_bytes)  # noqa: SIM115  see close

    @property
    def is_large(self) -> bool:
        """Whether it has outgrown the memory."""
        return self.size > self._max_bytes

    def add(self, text: str) -> None:
        """Take one more piece."""
        piece = _as_json(text)[1:-1]
        self.size += len(piece)
        if self._keep or not self.is_large:
            self._file.write(piece)
        elif not self._file.closed:
            self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """Give it from its begin to its end."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE_BYTES):
            yield piece

    def read(self) -> str:
        """The text as such."""
        text: str = json.loads(b'"' + b"".join(self.pieces()) + b'"')
        return text

    def close(self) -> None:
        """Let it go."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class LargeOutput:
    """An output of which a text is large.

    :param texts: each under its block's id.
    :param rest: what else is in it.
    """

    texts: Mapping[str, LongText]
    rest: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes that it takes as JSON."""
        names = sum(len(_as_json(name)) + len(':"",') for name in self.texts)
        rest = len(_as_json(self.rest)) if self.rest else len("}")
        return names + sum(text.size for text in self.texts.values()) + rest

    def pieces(self) -> Iterator[bytes]:
        """Give it as JSON."""
        between = b"{"
        for name, text in self.texts.items():
            yield between + _as_json(name) + b':"'
            yield from text.pieces()
            yield b'"'
            between = b","
        yield b"," + _as_json(self.rest)[1:] if self.rest else b"}"

    def close(self) -> None:
        """Let it go."""
        for text in self.texts.values():
            text.close()


def _as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
