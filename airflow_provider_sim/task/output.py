"""A run's output as the task's result: files are saved, large outputs are stored or rejected."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import PurePosixPath
from typing import Any

from airflow_provider_sim.client import OutputFile, map_files
from airflow_provider_sim.exceptions import Outcome, SimError, SimOutputError
from airflow_provider_sim.json_values import UnstorableValueError, nodes, place_of, storable

log = logging.getLogger(__name__)

DEFAULT_MAX_OUTPUT_BYTES = 16 * 1024 * 1024
"""Of the output as JSON. A metadata database may accept more, but each read of the XCom transfers it."""

_REFERENCE_MARKS = ("__simLargeValueRef", "__simLargeArrayManifest")
"""Keys of the objects that Sim sends instead of values over 8 MiB."""

Fetch = Callable[[str], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class OutputRules:
    """Rules for files and large values in outputs.

    :param folder: for files and large outputs: a path or URL for ``ObjectStoragePath``; None saves no files.
    :param max_bytes: maximum size of an output as JSON.
    :param large: ``fail``, or ``store`` in ``folder``.
    """

    folder: str | None = None
    max_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    large: str = "fail"

    @classmethod
    def given(cls, folder: object, max_bytes: int | None, large: str) -> OutputRules:
        """Return the rules of an operator's arguments.

        :param folder: a string, or a path object such as ``pathlib.Path`` or ``ObjectStoragePath``.
        :param max_bytes: None for the default.
        """
        folder = None if folder is None else str(folder)
        return cls(folder, DEFAULT_MAX_OUTPUT_BYTES if max_bytes is None else max_bytes, large)


def as_json(value: Any) -> bytes:
    """Return a value as it is stored and measured."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def write_file(folder: str | PathLike[str], subfolder: str, name: str, content: Iterable[bytes]) -> str:
    """Write a file into object storage; return its path.

    :param subfolder: the ID of its run or batch.
    :raises Exception: any exception of the storage.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    place = ObjectStoragePath(folder) / subfolder.replace(":", "_")
    place.mkdir(parents=True, exist_ok=True)
    path = place / name
    with path.open("wb") as target:
        for piece in content:
            target.write(piece)
    return str(path)


def read_file(folder: str | PathLike[str], subfolder: str, name: str) -> Iterator[bytes]:
    """Read a file that :func:`write_file` has written, line by line; empty if it doesn't exist."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        with (ObjectStoragePath(folder) / subfolder.replace(":", "_") / name).open("rb") as source:
            while line := source.readline():  # Airflow 2's file objects can't be iterated
                yield line
    except FileNotFoundError:
        return


class OutputDelivery:
    """Turns one run's output into the task's result.

    :param fetch: downloads a file by its URL, without the API key.
    :param level: of log lines about stored files.
    """

    def __init__(
        self, rules: OutputRules, *, workflow_id: str, run_id: str, fetch: Fetch, level: int = logging.INFO
    ) -> None:
        self._rules = rules
        self._workflow_id = workflow_id
        self._run_id = run_id
        self._fetch = fetch
        self._level = level
        self._names = {"output.json"}

    def deliver(self, output: Any) -> Any:
        """Return the output as the task's result.

        :raises SimOutputError: the output is too large or incomplete, Airflow can't store it, or a file can't be saved.
        """
        self._check_complete(output)
        try:
            value = storable(output)
        except UnstorableValueError as error:
            return self._deliver_unstorable(output, error)
        if value is not output:
            log.warning(
                "The output of run %s is changed where Airflow can't store it: integers beyond 64 bits are floats, and"
                " halves of surrogate pairs are U+FFFD.",
                self._run_id,
            )
        if self._rules.folder:
            value = map_files(value, self._save)
        encoded = as_json(value)
        return value if len(encoded) <= self._rules.max_bytes else self._deliver_large(encoded)

    def _check_complete(self, output: Any) -> None:
        """Reject a reference to a value that Sim keeps in its own storage."""
        for value, path, _ in nodes(output):
            if isinstance(value, dict) and any(value.get(mark) is True for mark in _REFERENCE_MARKS):
                size = next((value[key] for key in ("size", "byteSize") if isinstance(value.get(key), int)), 0)
                raise self._error(
                    f"The output of {self._run} is incomplete: at {place_of(path, 'output')}, Sim sent a reference"
                    f" instead of the value ({size:,} bytes). Sim keeps values over 8 MiB in its own storage, which its"
                    " API doesn't serve. Change the workflow to return a smaller value, or to write it to your storage"
                    " and return its URL"
                )

    def _deliver_unstorable(self, output: Any, error: UnstorableValueError) -> dict[str, Any]:
        problem = f"at {place_of(error.path, 'output')}, {error.reason}"
        if self._rules.large == "store":
            with suppress(RecursionError):
                log.log(self._level, "Airflow can't store the output of run %s as an XCom: %s.", self._run_id, problem)
                output = map_files(output, self._save)
                encoded = json.dumps(output).encode()  # ASCII: U+0000 and surrogates are escaped
                return self._deliver_large(encoded)
        raise self._error(
            f"Airflow can't store the output of {self._run} as an XCom: {problem}. Set large_outputs='store' and"
            " output_files_dir to get the path of a file instead, or change the workflow to return another value"
        )

    def _deliver_large(self, encoded: bytes) -> dict[str, Any]:
        size = len(encoded)
        if self._rules.large == "store":
            path = self._write("output.json", [encoded])
            log.log(self._level, "The output of run %s is %s bytes and stored at %s.", self._run_id, f"{size:,}", path)
            return {"output_path": path, "size": size}
        raise self._error(
            f"The output of {self._run} is {size:,} bytes as JSON, more than max_output_bytes"
            f" ({self._rules.max_bytes:,}). Set large_outputs='store' and output_files_dir to get its path instead,"
            " change the workflow to return less, or raise max_output_bytes"
        )

    def _save(self, file: OutputFile) -> dict[str, Any]:
        """Save a file; its path replaces its bytes."""
        name = unused_name(self._names, file.name)
        try:
            path = self._write(name, self._content(file))
        except SimOutputError:
            raise
        except SimError as error:
            raise self._unsaved(file, str(error)) from error
        log.log(self._level, "Saved the file %r of run %s at %s.", file.name, self._run_id, path)
        return {**{key: value for key, value in file.value.items() if key != "base64"}, "path": path}

    def _content(self, file: OutputFile) -> Iterator[bytes]:
        if file.base64 is not None:
            try:
                return iter([base64.b64decode(file.base64, validate=True)])
            except ValueError as error:
                raise self._unsaved(file, f"its base64 text is invalid ({error}).") from error
        if file.url is None:
            raise self._unsaved(file, "Sim returned neither its bytes nor its URL.")
        return self._fetch(file.url)

    def _write(self, name: str, content: Iterable[bytes]) -> str:
        try:
            return write_file(self._rules.folder or "", self._run_id, name, content)
        except SimError:
            raise
        except Exception as error:  # depends on the storage
            raise self._error(
                f"Could not write {name!r} of {self._run} into output_files_dir {self._rules.folder!r}:"
                f" {type(error).__name__}: {error}"
            ) from error

    @property
    def _run(self) -> str:
        return f"run {self._run_id!r} of workflow {self._workflow_id!r}"

    def _unsaved(self, file: OutputFile, why: str) -> SimOutputError:
        return self._error(
            f"Could not save the file {file.name!r} of {self._run}: {why} A file's URL is valid for five minutes,"
            " and on servers with local storage for logged-in users only. Use a sync run (neither async_execution nor"
            " deferrable), whose output contains files, or configure the workflow to write them to your own storage"
        )

    def _error(self, what: str) -> SimOutputError:
        return SimOutputError(
            f"{what}. The run itself completed; clearing the task starts a new run.",
            workflow_id=self._workflow_id,
            run_id=self._run_id,
            outcome=Outcome.RAN,
        )


def unused_name(taken: set[str], wanted: str) -> str:
    """Return a name that no other file in the run's folder has, and add it to ``taken``.

    :param wanted: an untrusted name; a path in it is removed.
    """
    base = PurePosixPath(wanted.replace("\\", "/")).name
    if base in ("", ".", ".."):
        base = "file"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{PurePosixPath(base).stem}-{number}{PurePosixPath(base).suffix}"
    taken.add(name)
    return name
