"""What a batch is to run: inputs, each with its workflow, checked before anything is sent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sim.client import check_workflow_id
from airflow_provider_sim.exceptions import Outcome, SimInputError
from airflow_provider_sim.task.input import SimFile, input_fields, is_file, prepare_input

_PAIR = {"workflow_id", "input"}


@dataclass(frozen=True, slots=True)
class Items:
    """The inputs of a batch.

    :param workflows: the distinct workflows.
    :param of: by an input's number, its workflow's place in ``workflows``.
    :param inputs: of each, the fields: a dict of JSON values, which may contain files.
    """

    workflows: tuple[str, ...]
    of: tuple[int, ...]
    inputs: tuple[Any, ...]

    def __len__(self) -> int:
        """How many inputs there are."""
        return len(self.inputs)

    def workflow_of(self, index: int) -> str:
        """An input's workflow."""
        return self.workflows[self.of[index]]

    def ready(self, index: int, *, unconverted_files: str, check_input: Callable[[str, Any], None]) -> Any:
        """Return an input as Sim accepts it, with its files read.

        :param unconverted_files: as for :func:`~airflow_provider_sim.task.input.ready_input`.
        :param check_input: raises SimInputError for an input that its workflow can't be sent.
        :raises SimInputError: the input can't be sent; the message contains its number.
        """
        workflow_id = self.workflow_of(index)
        try:
            value = prepare_input(
                self.inputs[index],
                workflow_id=workflow_id,
                asynchronous=True,
                unconverted_files=unconverted_files,
            )
            check_input(workflow_id, value)
        except SimInputError as error:
            raise _wrong(index, str(error), workflow_id=workflow_id) from error
        return value

    def by_workflow(self) -> dict[str, list[Any]]:
        """The inputs of each workflow."""
        found: dict[str, list[Any]] = {}
        for index, value in enumerate(self.inputs):
            found.setdefault(self.workflow_of(index), []).append(value)
        return found

    def digest(self) -> str:
        """Hash the inputs and their order, so that runs of other inputs are not taken for theirs.

        A file counts by its name, so that a later try or leg of the task needs no file whose run it only waits for.

        :raises SimInputError: an input can't be written as JSON; the message contains its number.
        """
        digest = hashlib.sha256()
        for index, value in enumerate(self.inputs):
            try:
                text = json.dumps([self.workflow_of(index), value], sort_keys=True, default=_file_name)
            except (TypeError, ValueError, RecursionError) as error:
                raise _wrong(index, f"it can't be written as JSON: {error}") from error
            digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32]


def _file_name(value: Any) -> Any:
    """Represent a file in an input by its path, or its content where it has no path.

    :raises TypeError: it is not a file.
    """
    if not is_file(value):
        raise TypeError(f"{type(value).__name__} is not a JSON type")
    if isinstance(value, SimFile):
        return [value.source, value.name, value.mime]
    if isinstance(value, bytes | bytearray | memoryview):
        return hashlib.sha256(value).hexdigest()
    return str(value) if isinstance(value, os.PathLike) else str(getattr(value, "name", type(value).__name__))


def read_items(given: Any, workflow_id: str | None) -> Items:
    """Read what an author has handed in, or a template has become.

    :param given: a list, or anything that can be gone through such as the outputs of mapped tasks, or JSON text of a
        list.
    :param workflow_id: the workflow of all inputs; None where each of them is a ``{"workflow_id": …, "input": …}``.
    :raises SimInputError: says which one is wrong, and why.
    """
    if workflow_id is not None:
        check_workflow_id(workflow_id)
    values = _listed(given)
    if workflow_id is not None:
        pairs = [(workflow_id, value) for value in values]
    else:
        pairs = [_pair(index, value) for index, value in enumerate(values)]
    numbers: dict[str, int] = {} if workflow_id is None else {workflow_id: 0}
    of = tuple(numbers.setdefault(workflow, len(numbers)) for workflow, _ in pairs)
    return Items(tuple(numbers), of, tuple(_fields(index, *pair) for index, pair in enumerate(pairs)))


def _fields(index: int, workflow_id: str, value: Any) -> dict[str, Any]:
    try:
        return input_fields(value, workflow_id=workflow_id)
    except SimInputError as error:
        raise _wrong(index, str(error), workflow_id=workflow_id) from error


def _listed(given: Any) -> list[Any]:
    if isinstance(given, str | bytes):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise _refused(
                f"inputs is text, but not JSON ({error}). Hand in a list, such as the output of another task; in a"
                " template, end with '| tojson'"
            ) from None
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise _refused(f"inputs is a {type(given).__name__}; it must be a list, with one input for each run")
    return list(given)


def _pair(index: int, value: Any) -> tuple[str, Any]:
    if not isinstance(value, Mapping) or "workflow_id" not in value or not _PAIR.issuperset(value):
        raise _wrong(
            index,
            "without workflow_id, each of inputs must be a dict of 'workflow_id' and 'input', and nothing else. To run"
            " all of them with one workflow, name it in the operator's workflow_id.",
        )
    try:
        return check_workflow_id(value["workflow_id"]), value.get("input")
    except SimInputError as error:
        raise _wrong(index, str(error)) from error


def _wrong(index: int, why: str, **facts: Any) -> SimInputError:
    return _refused(f"inputs[{index}] is invalid: {why.removesuffix('.')}", **facts)


def _refused(what: str, **facts: Any) -> SimInputError:
    return SimInputError(f"{what}.", outcome=Outcome.NEVER_SENT, **facts)
