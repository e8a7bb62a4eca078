"""What a deployed workflow does with its input."""

from __future__ import annotations

import copy
import functools
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_sim.emulator.ids import new_id

Body = Callable[[dict[str, Any]], Any]


class BlockError(Exception):
    """Raised by a workflow's function: the block fails, and the run with it.

    :param message: what the block says.
    :param status: of the legacy API's held-open answer; Sim has 400, 429 and 503 for some errors of its own blocks.
    """

    def __init__(
        self, message: str, *, block: str = "Function", block_type: str = "function", status: int = 500
    ) -> None:
        super().__init__(message)
        self.message = message
        self.block = block
        self.block_type = block_type
        self.status = status


@dataclass(frozen=True, slots=True)
class ResponseBlock:
    """Returned by a workflow's function: it ends in a Response block.

    :param data: as Sim does, ``None`` becomes an error object and the status 500; the run is completed nevertheless.
    :param block_output: the output of the block before it.
    """

    data: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    block_output: Any = None

    def __post_init__(self) -> None:
        """Replace missing data."""
        if self.data is None:
            message = "Cannot convert undefined or null to object"
            object.__setattr__(self, "data", {"error": "Response block execution failed", "message": message})
            object.__setattr__(self, "status", 500)
            object.__setattr__(self, "headers", {})

    @property
    def output(self) -> dict[str, Any]:
        """The run's output, but for the legacy API's held-open answer, which is the data alone."""
        headers = {"Content-Type": "application/json", **self.headers}
        return {"data": self.data, "status": self.status, "headers": headers}


@dataclass(frozen=True, slots=True)
class Pausing:
    """Returned by a workflow's function: the run pauses.

    :param then: makes the output of the answer, once it is resumed.
    :param seconds: after which it resumes by itself; None waits for a person.
    :param question: what the person is asked.
    """

    then: Callable[[Any], Any]
    seconds: float | None = None
    question: str = ""


@dataclass(slots=True)
class DeploymentAttempt:
    """A deploying or rolling back of a workflow.

    :param status: ``activating``, a word of ours since the recordings show only the end; then ``active`` or ``failed``.
    """

    action: str
    version: int
    requested_at: float
    status: str = "activating"
    error: str | None = None


@dataclass(slots=True)
class Workflow:
    """One workflow.

    :param body: makes the output of the input; may return a :class:`ResponseBlock` or a :class:`Pausing`, or raise a
        :class:`BlockError`.
    :param inputs: declared fields and their types (string, number, boolean, object, array, ``file[]``); None declares
        none, and the input arrives as it was sent.
    :param defaults: the Start block's defaults of declared fields, used where the input has no value for them; by
        default ``""``, ``0`` for a number, ``{}`` for an object, ``[]`` for an array.
    :param duration: seconds that a run takes, or what says so by the input.
    :param chunks: the text that its agent block streams, by the input.
    :param block: the name of the block that makes the output.
    :param notes: name and description of versions, by their numbers.
    :param activation: seconds that it takes to make a deployment live.
    :param activation_error: why that fails, if it is to fail.
    """

    workflow_id: str
    body: Body
    inputs: Mapping[str, str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    duration: float | Callable[[dict[str, Any]], float] = 0.0
    chunks: Callable[[dict[str, Any]], Sequence[str]] | None = None
    chunk_delay: float = 0.0
    block: str = "Function"
    deployed: bool = True
    name: str = ""
    description: str = ""
    created_at: float = 0.0
    deployed_at: float | None = None
    block_id: str = field(default_factory=new_id)
    version: int = 1
    versions: int = 1
    notes: dict[int, dict[str, Any]] = field(default_factory=dict)
    activation: float = 0.0
    activation_error: str = ""
    attempt: DeploymentAttempt | None = None

    @property
    def version_id(self) -> str:
        """The id of the deployed version."""
        return self.id_of_version(self.version)

    def id_of_version(self, version: int) -> str:
        """The id of a version."""
        return _version_id(self.workflow_id, version)

    def begin_deployment(self, action: str, version: int, now: float) -> None:
        """Make a version live, now or when its activation is over."""
        self.attempt = DeploymentAttempt(action, version, now)
        self.settle_deployment(now)

    def settle_deployment(self, now: float) -> None:
        """Make the version live whose activation is over by now."""
        attempt = self.attempt
        if attempt is None or attempt.status != "activating" or now < attempt.requested_at + self.activation:
            return
        if self.activation_error:
            attempt.status, attempt.error = "failed", self.activation_error
            return
        attempt.status, self.version = "active", attempt.version
        self.deployed, self.deployed_at = True, now

    def undeploy(self) -> None:
        """Take the deployed version back."""
        self.deployed, self.deployed_at, self.attempt = False, None, None

    def seconds(self, given: dict[str, Any]) -> float:
        """How long a run with this input takes."""
        return float(self.duration(given) if callable(self.duration) else self.duration)

    def read_input(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """The input as the Start block hands it on: declared fields, coerced; or all of it where none are declared."""
        if self.inputs is None:
            return dict(sent)
        nested = sent.get("input")
        inner = nested if isinstance(nested, Mapping) else {}
        values: dict[str, Any] = {}
        for name, kind in self.inputs.items():
            value = inner[name] if name in inner else sent.get(name)
            if value is None:
                value = self.defaults.get(name, copy.copy(_DEFAULTS.get(kind, "")))
            values[name] = _coerced(value, kind)
        return values

    def selects(self, selector: str) -> list[str] | None:
        """The path inside this workflow's block that a selector names; None if it names another block."""
        for name in (self.block, self.block_id):
            if selector == name:
                return []
            if selector.startswith((f"{name}.", f"{name}_")):
                return selector[len(name) + 1 :].split(".")
        return None


@functools.cache
def _version_id(workflow_id: str, version: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{workflow_id}/{version}"))


_DEFAULTS: dict[str, Any] = {"number": 0, "object": {}, "array": []}


def _coerced(value: Any, kind: str) -> Any:
    if kind == "string":
        return "[object Object]" if isinstance(value, dict) else value if isinstance(value, str) else json.dumps(value)
    if kind == "number" and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    if kind in ("object", "array") and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def at_path(value: Any, path: Sequence[str]) -> Any:
    """The part of a value that a selector's path names; None where there is none."""
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value
