"""A run's output as the task's result: files are saved, large outputs are stored or rejected."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.exceptions import SimError, SimOutputError
from airflow_provider_sim.json_values import UnstorableValueError, nodes, place_of, storable

if TYPE_CHECKING:
    from airflow_provider_sim.client import OutputFile
    from airflow_provider_sim.task.run_options import RunOptions

log = logging.getLogger(__name__)

# Keys of the objects that Sim sends instead of values over 8 MiB
_REFERENCE_MARKS = ("__simLargeValueRef", "__simLargeArrayManifest")

_COMPLETED = "The run itself completed; clearing the task starts a new run."

Fetch = Callable[[str], Iterator[bytes]]


def as_json(value: Any) -> bytes:
    """Return a value as it is stored and measured."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def write_file(folder: str | None, subfolder: str, name: str, content: Iterable[bytes]) -> str:
    """Write a file below a folder named by its run or batch; return its path, or raise if it can't be written."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(folder or "") / subfolder.replace(":", "_") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as target:
            for piece in content:
                target.write(piece)
    except SimError:  # of a download
        raise
    except Exception as error:  # depends on the storage
        raise SimOutputError(
            f"Could not write {name!r} of {subfolder!r} into output_files_dir {folder!r}: {type(error).__name__}:"
            f" {error}. {_COMPLETED}"
        ) from error
    return str(path)


@dataclass(frozen=True, slots=True)
class OutputDelivery:
    """Turns one run's output into the task's result."""

    options: RunOptions
    workflow_id: str
    run_id: str
    fetch: Fetch | None = None  # downloads a file by its URL, without the API key
    _names: set[str] = field(init=False, default_factory=lambda: {"output.json"})

    def deliver(self, output: Any) -> Any:
        self._check_complete(output)
        try:
            value = storable(output)
        except UnstorableValueError as error:
            return self._deliver_unstorable(output, error)
        if value != output:
            changes = "numbers beyond 64-bit integers are text, and halves of surrogate pairs are U+FFFD"
            log.warning("The output of run %s is changed where Airflow can't store it: %s.", self.run_id, changes)
        if self.options.output_files_dir:
            value = self._save_files(value)
        encoded = as_json(value)
        return value if len(encoded) <= self.options.max_output_bytes else self._deliver_large(encoded)

    def _check_complete(self, output: Any) -> None:
        """Reject a reference to a value that Sim keeps in its own storage."""
        for value, path, _ in nodes(output):
            if isinstance(value, dict) and any(value.get(mark) is True for mark in _REFERENCE_MARKS):
                size = next((value[key] for key in ("size", "byteSize") if isinstance(value.get(key), int)), 0)
                raise self._error(
                    f"The output is incomplete: at {place_of(path, 'output')}, Sim sent a reference instead of"
                    f" the value ({size:,} bytes). Sim keeps values over 8 MiB in its own storage, which its"
                    " API doesn't serve. Change the workflow to return a smaller value, or to write it to your storage"
                    " and return its URL"
                )

    def _deliver_unstorable(self, output: Any, error: UnstorableValueError) -> dict[str, Any]:
        problem = f"at {place_of(error.path, 'output')}, {error}"
        if self.options.large_outputs == "store":
            with suppress(RecursionError):
                encoded = json.dumps(self._save_files(output)).encode()  # U+0000 and surrogates are escaped
                return self._deliver_large(encoded)
        raise self._error(
            f"Airflow can't store the output as an XCom: {problem}. Set large_outputs='store' and"
            " output_files_dir to get the path of a file instead, or change the workflow to return another value"
        )

    def _deliver_large(self, encoded: bytes) -> dict[str, Any]:
        size = len(encoded)
        if self.options.large_outputs == "store":
            path = write_file(self.options.output_files_dir, self.run_id, "output.json", [encoded])
            return {"output_path": path, "size": size}
        raise self._error(
            f"The output is {size:,} bytes as JSON, more than max_output_bytes"
            f" ({self.options.max_output_bytes:,}). Set large_outputs='store' and output_files_dir to get its path"
            " instead, change the workflow to return less, or raise max_output_bytes"
        )

    def _save_files(self, value: Any) -> Any:
        from airflow_provider_sim.client import map_files  # most outputs have no files

        return map_files(value, self._save)

    def _save(self, file: OutputFile) -> dict[str, Any]:
        """Save a file; its path replaces its bytes."""
        try:
            name = unused_name(self._names, file.name)
            path = write_file(self.options.output_files_dir, self.run_id, name, self._content(file))
        except SimOutputError:
            raise
        except SimError as error:
            raise self._error(
                f"Could not save the file {file.name!r}: {error} A file's URL is valid for five minutes,"
                " and on servers with local storage for logged-in users only. Use a sync run (neither async_execution"
                " nor deferrable), whose output contains files, or configure the workflow to write them to your own"
                " storage"
            ) from error
        return {**{key: value for key, value in file.value.items() if key != "base64"}, "path": path}

    def _content(self, file: OutputFile) -> Iterable[bytes]:
        if file.base64 is None:
            if file.url is None or self.fetch is None:
                raise SimError("Sim returned neither its bytes nor its URL.")
            return self.fetch(file.url)
        try:
            return [base64.b64decode(file.base64, validate=True)]
        except ValueError as error:
            raise SimError(f"its base64 text is invalid ({error}).") from error

    def _error(self, problem: str) -> SimOutputError:
        return output_error(problem, self.workflow_id, self.run_id)


def output_error(problem: str, workflow_id: str | None, run_id: str | None) -> SimOutputError:
    """Return the error for an output that can't be the task's result."""
    message = f"Run {run_id!r} of workflow {workflow_id!r}: {problem}. {_COMPLETED}"
    return SimOutputError(message, workflow_id=workflow_id, run_id=run_id)


def unused_name(taken: set[str], wanted: str) -> str:
    """Return an untrusted name without its path, and different from the names ``taken``; add it to these."""
    base = PurePosixPath(wanted.replace("\\", "/")).name
    if base in ("", ".", ".."):
        base = "file"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{PurePosixPath(base).stem}-{number}{PurePosixPath(base).suffix}"
    taken.add(name)
    return name
