"""What becomes of an input on its way to Sim: files in it are read, and become what Sim takes for them."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar


@dataclass
class SimFile:
    """A file for a workflow's input, where a path alone doesn't say enough.

    :param source: a path, also as text or as an URL for ``ObjectStoragePath``; bytes; or an open file, which is then
        closed. (templated)
    :param name: as the workflow sees it; default: that of the path or open file. (templated)
    :param mime: its MIME type; default: by the name. (templated)
    """

    template_fields: ClassVar[Sequence[str]] = ("source", "name", "mime")

    source: Any
    name: str | None = None
    mime: str | None = None

    def __str__(self) -> str:
        """Without bytes, for Airflow's UI."""
        return f"SimFile({self.name or _name_of(self.source)!r})"


def ready_input(value: Any, *, workflow_id: str, asynchronous: bool, unconverted_files: str) -> Any:
    """Return an input with its files read and written as Sim takes them.

    Only what the author has put there as a file is read: a path object, an open file, bytes, or a :class:`SimFile`;
    never a string that looks like a path.

    :param value: the fields as a dict, or anything that arrives as the field ``input``.
    :param asynchronous: Sim is to queue the run, and then doesn't convert files.
    :param unconverted_files: ``send`` them all the same, or ``fail``.
    :raises SimInputError: a file can't be read, is too large, stands where Sim takes none, or isn't converted.
    """
    from airflow_provider_sim.client.dialects.files import FilesOfRequest

    files = FilesOfRequest(workflow_id)
    if is_file(value):
        value = {"input": value}  # else the file's own object would be taken for the fields
    if isinstance(value, Mapping):
        ready: Any = {name: _field(name, item, files) for name, item in value.items()}
    else:
        ready = _field("input", value, files)
    if files.fields and asynchronous and unconverted_files == "fail":
        raise files.error(
            f"The input has files in {', '.join(map(repr, files.fields))}, and Sim converts files in runs that are held"
            " open only: an asynchronous one would get them as base64 text. Hold the connection open (neither"
            " async_execution nor deferrable, and wait_for_completion) or set stream=True; or send an address as text"
            " and let the workflow download it. unconverted_files='send' sends the files as they are"
        )
    return ready


def _field(name: Any, value: Any, files: Any) -> Any:
    """A top-level field, with the file or files in it ready to be sent."""
    if isinstance(value, list | tuple):
        return [_item(name, item, files) for item in value]
    return _item(name, value, files)


def _item(name: Any, value: Any, files: Any) -> Any:
    if is_file(value):
        file = value if isinstance(value, SimFile) else SimFile(value)
        return _sent(name, file, files)
    files.note(name, value)
    nested = _path_of_file(value)
    if nested is not None:
        raise files.error(
            f"There is a file at {name}{nested} of the input. Sim takes files only in the Start block's own fields of"
            " type file[], not inside objects: give it a field of its own"
        )
    return value


def is_file(value: Any) -> bool:
    """Whether a value is meant as a file: bytes, a path object, an open file, or a :class:`SimFile`."""
    if isinstance(value, bytes | bytearray | memoryview | SimFile):
        return True
    return not isinstance(value, type) and (callable(getattr(value, "read", None)) or _is_path(value))


def _is_path(value: Any) -> bool:
    """Whether it is a ``pathlib.Path`` or something like it, such as an ``ObjectStoragePath``."""
    return callable(getattr(value, "open", None)) and isinstance(getattr(value, "name", None), str)


def _path_of_file(value: Any) -> str | None:
    """Where inside a value there is a file; None if there is none."""
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        inner = "" if is_file(item) else _path_of_file(item)
        if inner is not None:
            return f"[{key!r}]{inner}"
    return None


def _sent(field: Any, file: SimFile, files: Any) -> dict[str, Any]:
    source = file.source
    if isinstance(source, str):
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        source = ObjectStoragePath(source)
    name = file.name or _name_of(source)
    mime = file.mime or mimetypes.guess_type(name)[0] or "application/octet-stream"
    sent: dict[str, Any] = files.add(field, name, mime, _content(source, name, files))
    return sent


def _name_of(source: Any) -> str:
    named = source if isinstance(source, str) else getattr(source, "name", None)
    return PurePath(named).name if isinstance(named, str) and PurePath(named).name else "file"


def _content(source: Any, name: str, files: Any) -> bytes:
    """A file's bytes, at most one more than Sim takes."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    try:
        opened = source.open("rb") if _is_path(source) and not hasattr(source, "read") else source
        with closing(opened) if hasattr(opened, "close") else nullcontext():
            content = opened.read(files.most + 1)
    except (FileNotFoundError, IsADirectoryError, PermissionError, ValueError) as error:
        raise files.error(f"The file {name!r} of the input can't be read ({type(error).__name__}: {error})") from error
    return content.encode() if isinstance(content, str) else bytes(content)
