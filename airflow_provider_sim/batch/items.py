"""What a batch is to run: inputs, each with its workflow, checked before anything is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_sim.client.ids import check_workflow_id
from airflow_provider_sim.exceptions import Outcome, SimInputError
from airflow_provider_sim.input import ready_input

_PAIR = {"workflow_id", "input"}


@dataclass(frozen=True, slots=True)
class Items:
    """The inputs of a batch.

    :param workflows: the distinct workflows.
    :param of: by an input's number, its workflow's place in ``workflows``.
    :param inputs: JSON values.
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

    def with_files(self, unconverted_files: str) -> Items:
        """The same inputs, with the files in them read and written as Sim takes them.

        :param unconverted_files: as for :func:`~airflow_provider_sim.input.ready_input`.
        :raises SimInputError: names the first input that can't be sent so by its number.
        """
        inputs = []
        for index, value in enumerate(self.inputs):
            workflow_id = self.workflow_of(index)
            try:
                ready = ready_input(
                    value, workflow_id=workflow_id, asynchronous=True, unconverted_files=unconverted_files
                )
            except SimInputError as error:
                raise _wrong(index, str(error), workflow_id=workflow_id) from error
            inputs.append(ready)
        return replace(self, inputs=tuple(inputs))

    def check(self, check_input: Callable[[str, Any], None]) -> None:
        """Refuse what Sim wouldn't take.

        :param check_input: raises SimInputError for an input that its workflow can't be sent.
        :raises SimInputError: names the first such input by its number.
        """
        for index, value in enumerate(self.inputs):
            try:
                check_input(self.workflow_of(index), value)
            except SimInputError as error:
                raise _wrong(index, str(error), workflow_id=self.workflow_of(index)) from error

    def digest(self) -> str:
        """A short name of exactly these inputs in this order, so that nobody takes the runs of others for theirs.

        To be asked for once they are checked.
        """
        told = hashlib.sha256()
        for index, value in enumerate(self.inputs):
            told.update(json.dumps([self.workflow_of(index), value], sort_keys=True).encode())
        return told.hexdigest()[:32]


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
        return Items((workflow_id,), (0,) * len(values), tuple(values))
    numbers: dict[str, int] = {}
    pairs = [_pair(index, value) for index, value in enumerate(values)]
    of = tuple(numbers.setdefault(workflow, len(numbers)) for workflow, _ in pairs)
    return Items(tuple(numbers), of, tuple(value for _, value in pairs))


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
    return _refused(f"inputs[{index}] can't be run, so that none of them was: {why.removesuffix('.')}", **facts)


def _refused(what: str, **facts: Any) -> SimInputError:
    return SimInputError(f"{what}.", outcome=Outcome.NEVER_SENT, **facts)
