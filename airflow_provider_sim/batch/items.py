"""What a batch is to run: inputs, each with its workflow, checked before anything is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from airflow_provider_sim.client import check_workflow_id
from airflow_provider_sim.exceptions import SimInputError
from airflow_provider_sim.task.input import FILES_IN_BATCH, has_files, input_fields, input_files


class Items(NamedTuple):
    """The inputs of a batch: the workflow of each, and its fields, a dict of JSON values."""

    workflows: tuple[str, ...]
    inputs: tuple[dict[str, Any], ...]
    digest: str  # hash of both

    def check(self, check_input: Callable[[str, Any], None]) -> None:
        """Raise SimInputError if Sim doesn't accept one of the inputs; ``check_input`` is the client's."""
        for index, workflow_id in enumerate(self.workflows):
            with _numbered(index, workflow_id):
                check_input(workflow_id, self.inputs[index])


def read_items(given: Any, workflow_id: str | None) -> Items:
    """Return the inputs that an author has passed, or a template has rendered.

    :param given: a list or another iterable, such as the outputs of mapped tasks, or JSON text of a list.
    :param workflow_id: the workflow of all inputs; None if each of them is a ``{"workflow_id": …, "input": …}``.
    :raises SimInputError: an input is invalid; the message contains its number.
    """
    if workflow_id is not None:
        check_workflow_id(workflow_id)
    digest, pairs = hashlib.sha256(), []
    for index, value in enumerate(_listed(given)):
        with _numbered(index, workflow_id):
            pairs.append(_pair(value, workflow_id))
            try:
                digest.update(json.dumps(pairs[-1], sort_keys=True).encode("utf-8", "surrogatepass"))
            except (TypeError, ValueError, RecursionError) as error:
                raise SimInputError(f"it can't be written as JSON: {error}") from error
    return Items(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs), digest.hexdigest()[:32])


def _listed(given: Any) -> list[Any]:
    if isinstance(given, str | bytes):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise SimInputError(f"inputs is not JSON ({error}). Pass a list; end a template with '| tojson'.") from None
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise SimInputError(f"inputs is a {type(given).__name__}; it must be a list, with one input for each run.")
    return list(given)


def _pair(value: Any, workflow_id: str | None) -> tuple[str, dict[str, Any]]:
    if workflow_id is None:
        if not isinstance(value, Mapping) or not {"workflow_id"} <= value.keys() <= {"workflow_id", "input"}:
            raise SimInputError(
                "without workflow_id, each of inputs must be a dict of 'workflow_id' and 'input', and nothing else"
            )
        workflow_id, value = check_workflow_id(value["workflow_id"]), value.get("input")
    fields = input_fields(value, workflow_id=workflow_id)
    if has_files(fields):
        raise SimInputError(f"{FILES_IN_BATCH}.")
    input_files(fields, workflow_id, ExitStack(), is_async=True)
    return workflow_id, fields


@contextmanager
def _numbered(index: int, workflow_id: str | None = None) -> Iterator[None]:
    """Add an input's number to an error about it."""
    try:
        yield
    except SimInputError as error:
        message = f"inputs[{index}] is invalid: {str(error).removesuffix('.')}."
        raise SimInputError(message, workflow_id=workflow_id or error.workflow_id) from error
