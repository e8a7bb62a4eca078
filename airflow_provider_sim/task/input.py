"""Workflow inputs: the fields that are sent, files in them, and the check against the workflow's declared fields."""

from __future__ import annotations

import io
import json
import logging
import mimetypes
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NamedTuple

from airflow_provider_sim.exceptions import SimInputError
from airflow_provider_sim.json_values import MAX_DEPTH, beyond_depth, nodes, place_of

if TYPE_CHECKING:
    from airflow_provider_sim.hooks.sim import SimHook

log = logging.getLogger(__name__)

FILES_IN_BATCH = (
    "files in the inputs of a batch aren't uploaded. Upload each file once, with SimHook.upload_file, and pass"
    " [file.reference()] in the inputs"
)


@dataclass
class SimFile:
    """A file for a workflow's input, with a name and a MIME type.

    :param source: a path object, a path or URL for ``ObjectStoragePath``, bytes, or an open file, which is then closed.
        (templated)
    :param name: the file's name in the workflow; default: the name of the path or open file. (templated)
    :param mime: its MIME type; default: guessed from the name. (templated)
    """

    template_fields: ClassVar[Sequence[str]] = ("source", "name", "mime")

    source: Any
    name: str | None = None
    mime: str | None = None

    def __str__(self) -> str:
        """Without bytes, for Airflow's UI."""
        return f"SimFile({self.name or _name_of(self.source)!r})"


class InputFile(NamedTuple):
    name: str
    mime: str
    content: BinaryIO  # at its start
    size: int  # bytes


def prepare_input(
    given: Mapping[str, Any],
    workflow_id: str,
    *,
    is_async: bool,
    check: Callable[[str, Any], None],
    upload: Callable[[list[InputFile]], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Return an input's fields as Sim accepts them: as JSON, with files inline (in a sync run) or by reference.

    :param check: raises SimInputError for an input that can't be sent, without sending anything.
    :param upload: uploads files that can't be sent inline, and returns references to them.
    :raises SimInputError: the input, or a file in it, can't be sent.
    """
    from airflow_provider_sim.client import fits_in_request, inline_file

    fields = {name: [item] if is_file(item) else item for name, item in given.items()}

    def with_files(values: Iterable[Any]) -> dict[str, Any]:
        rest = iter(values)
        return {
            name: [next(rest) if is_file(part) else part for part in item] if isinstance(item, list) else item
            for name, item in fields.items()
        }

    with ExitStack() as opened:
        files = input_files(fields, workflow_id, opened, is_async=is_async)
        if not files:
            return fields
        if not is_async and fits_in_request(file.size for file in files):
            prepared = with_files(inline_file(file.name, file.mime, file.content.read()) for file in files)
            try:
                check(workflow_id, prepared)
                return prepared
            except SimInputError as error:
                if error.code != "PAYLOAD_TOO_LARGE":
                    raise
                for file in files:
                    file.content.seek(0)
        check(workflow_id, with_files({} for _ in files))
        return with_files(upload(files))


def input_files(fields: Mapping[str, Any], workflow_id: str, opened: ExitStack, *, is_async: bool) -> list[InputFile]:
    """Return the files in an input's fields, which must be readable and where Sim accepts them, and open them."""
    from airflow_provider_sim.client import is_inline_file

    files, problem = [], None
    for field, item in fields.items():
        for part in item if isinstance(item, list) else [item]:
            if is_file(part):
                files.append(_input_file(part, workflow_id, opened))
            elif is_async and is_inline_file(part):
                problem = (
                    f"a file in Sim's format at {field!r} of the input, which Sim converts in sync runs only. Pass a"
                    " path object or bytes, which the task uploads, or a URL as text, for the workflow to download"
                )
            elif nested := next((path for value, path, _ in nodes(part) if is_file(value)), None):
                problem = (
                    f"a file at {place_of(nested, str(field))} of the input. Sim accepts files only in the Start"
                    " block's fields of type file[], not inside objects: pass it in a separate field"
                )
            if problem:
                raise SimInputError(f"There is {problem}.", workflow_id=workflow_id)
    return files


def _input_file(value: Any, workflow_id: str, opened: ExitStack) -> InputFile:
    from airflow_provider_sim.client import check_file

    file = value if isinstance(value, SimFile) else SimFile(value)
    check_file(file.name, file.mime, workflow_id=workflow_id)
    source = file.source
    if isinstance(source, str):
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        source = ObjectStoragePath(source)
    name = file.name or _name_of(source)
    mime = file.mime or mimetypes.guess_type(name)[0] or "application/octet-stream"
    try:
        content = _open(source, opened)
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        return InputFile(name, mime, content, size)
    except (FileNotFoundError, IsADirectoryError, PermissionError, ValueError) as error:
        raise SimInputError(
            f"The file {name!r} of the input can't be read ({type(error).__name__}: {error}).", workflow_id=workflow_id
        ) from error


def _name_of(source: Any) -> str:
    named = source if isinstance(source, str) else getattr(source, "name", None)
    return PurePath(named).name if isinstance(named, str) and PurePath(named).name else "file"


def _open(source: Any, opened: ExitStack) -> BinaryIO:
    """Open a file; what is open already, or isn't seekable, is copied to disk and closed."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    is_open = hasattr(source, "read")
    file: BinaryIO = source if is_open else opened.enter_context(source.open("rb"))
    if not is_open and file.seekable():
        return file
    if hasattr(file, "close"):
        opened.callback(file.close)
    copy = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    while chunk := file.read(256 * 1024):
        copy.write(chunk.encode() if isinstance(chunk, str) else chunk)
    return copy


def has_files(value: Any) -> bool:
    """Whether there is a file anywhere in a value."""
    return any(is_file(item) for item, _, _ in nodes(value))


def is_file(value: Any) -> bool:
    """Whether a value is a file: bytes, a path object, an open file, or a :class:`SimFile`."""
    if isinstance(value, bytes | bytearray | memoryview | SimFile):
        return True
    is_path = callable(getattr(value, "open", None)) and isinstance(getattr(value, "name", None), str)
    return not isinstance(value, type) and (is_path or callable(getattr(value, "read", None)))


def input_fields(value: Any, *, workflow_id: str) -> dict[str, Any]:
    """Return the fields of an input: a dict, the JSON text of an object, or another value as the field ``input``.

    The outputs of mapped tasks, which Airflow passes as lazy sequences, become lists at any depth. Files are kept.
    """
    if value is None:
        return {}
    problem = None
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
        if not isinstance(value, dict):
            problem = (
                "is a string, but not the JSON text of an object. Pass a dict with the fields of the workflow's Start"
                " block, such as {'message': '…'}; in a template, end with '| tojson'"
            )
    if is_file(value) or not isinstance(value, Mapping):
        value = {"input": value}
    if path := beyond_depth(value, MAX_DEPTH):
        problem = f"is nested deeper than {MAX_DEPTH} levels, or contains itself, at {place_of(path, 'input')}"
        value = path = None  # Airflow's log of the error would take minutes to show them
    if problem:
        raise SimInputError(f"The input for workflow {workflow_id!r} {problem}.", workflow_id=workflow_id)
    return {key: _plain(item) for key, item in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str) or is_file(value):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, Sequence) else value


def copy_files(argument: Any) -> Any:
    """Copy each :class:`SimFile` in an argument: Airflow renders templates in place, and tasks may share the object."""
    if beyond_depth(argument, MAX_DEPTH + 5) is not None:  # that of a batch contains inputs at some depth
        del argument  # Airflow couldn't render it, and its log of the error would take minutes to show it
        raise SimInputError(f"The task's input is nested deeper than {MAX_DEPTH} levels, or contains itself.")
    return _with_own_files(argument)


def _with_own_files(value: Any) -> Any:
    if isinstance(value, SimFile):
        return replace(value)
    if type(value) is dict:
        return {key: _with_own_files(item) for key, item in value.items()}
    return type(value)(map(_with_own_files, value)) if type(value) in (list, tuple) else value


def check_fields(hook: SimHook, workflow_id: str, inputs: Sequence[Mapping[str, Any]], how: str) -> None:
    """Compare inputs with the fields that their workflow declares; Sim drops others, and fills in missing ones.

    Sim reports the fields of the workflow's draft, without their defaults. A workflow without any is not checked.
    ``how`` is ``warn`` (in the log; no check if its one request fails), ``fail`` (also then) or ``off``.
    """
    if how == "off":
        return
    workflow = hook.read_workflow(workflow_id, required=how == "fail")
    declared = {field.name: field.type for field in workflow.inputs} if workflow else {}
    problems = Counter(filter(None, (_problem(fields, declared) for fields in inputs))) if declared else {}
    if not problems:
        return
    counted = [f"{problem} ({count} of {len(inputs)} inputs)" for problem, count in problems.items()]
    message = (
        f"The input doesn't match the fields that workflow {workflow_id!r} declares"
        f" ({', '.join(f'{name}: {kind}' for name, kind in declared.items())}):"
        f" {'; '.join(counted[:3] if len(inputs) > 1 else problems)}"
    )
    if how == "fail":
        raise SimInputError(f"{message}. No run was started.", workflow_id=workflow_id)
    log.warning("%s. check_input='fail' rejects such inputs, 'off' skips the check.", message)


def _problem(fields: Mapping[str, Any], declared: Collection[str]) -> str:
    """Return which fields of an input are undeclared or missing; empty if none is."""
    nested, given = fields.get("input"), set(fields)
    if isinstance(nested, Mapping) and "input" not in declared:  # Sim prefers the fields in it
        given = given - {"input"} | set(nested)
    undeclared, missing = sorted(map(str, given.difference(declared))), [name for name in declared if name not in given]
    parts = [f"Sim drops the undeclared {', '.join(map(repr, undeclared))}"] if undeclared else []
    parts += [f"the missing {', '.join(map(repr, missing))} will be empty or have a default"] if missing else []
    return ", and ".join(parts)
