"""Emulated workflows: declared inputs, the function that makes the output, and deployments."""

from __future__ import annotations

import base64
import binascii
import copy
import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Body = Callable[[dict[str, Any]], Any]
MAX_FILE_BYTES = 20 * 1024 * 1024
_random = random.Random()  # noqa: S311 - the operating system's source takes longer than the rest of a request


def new_id() -> str:
    return str(uuid.UUID(int=_random.getrandbits(128), version=4))


def new_name(digits: int) -> str:
    return f"{_random.getrandbits(4 * digits):0{digits}x}"


class BlockError(Exception):
    """Raised by a workflow's function to fail the block and the run.

    :param message: the block's error message.
    :param status: of the legacy API's response to a sync run; Sim uses 400, 429 and 503 for some errors.
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
    """Returned by a workflow's function to finish in a Response block.

    :param data: ``None`` becomes an error object with status 500, as in Sim; the run still completes.
    :param block_output: the output of the preceding block.
    """

    data: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    block_output: Any = None

    def __post_init__(self) -> None:
        if self.data is None:
            message = "Cannot convert undefined or null to object"
            object.__setattr__(self, "data", {"error": "Response block execution failed", "message": message})
            object.__setattr__(self, "status", 500)
            object.__setattr__(self, "headers", {})

    @property
    def output(self) -> dict[str, Any]:
        """The run's output; the legacy API's response to a sync run is the data alone."""
        headers = {"Content-Type": "application/json", **self.headers}
        return {"data": self.data, "status": self.status, "headers": headers}


@dataclass(frozen=True, slots=True)
class Pausing:
    """Returned by a workflow's function to pause the run.

    :param then: returns the output for the input with which the run is resumed.
    :param seconds: after which the run resumes automatically; None waits for a person.
    :param question: the question for the person.
    """

    then: Callable[[Any], Any]
    seconds: float | None = None
    question: str = ""


@dataclass(slots=True)
class DeploymentAttempt:
    """An attempt to deploy or roll back a workflow; no recording shows the status before it is active or failed."""

    action: str
    version: int
    requested_at: float
    status: str = "activating"
    error: str | None = None


@dataclass(slots=True)
class Workflow:
    """One workflow.

    :param body: returns the output for an input; may return a :class:`ResponseBlock` or a :class:`Pausing`, or raise a
        :class:`BlockError`.
    :param inputs: declared fields and their types (string, number, boolean, object, array, ``file[]``); None declares
        no fields, and the function receives the input as it was sent.
    :param defaults: the Start block's defaults of declared fields; by default ``""``, ``0`` for a number, ``{}`` for an
        object, ``[]`` for an array.
    :param duration: seconds that a run takes, or a function of the input that returns them.
    """

    workflow_id: str
    body: Body
    inputs: Mapping[str, str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    duration: float | Callable[[dict[str, Any]], float] = 0.0
    chunks: Callable[[dict[str, Any]], Sequence[str]] | None = None  # the texts which the agent block streams
    chunk_delay: float = 0.0
    block: str = "Function"  # the name of the block that makes the output
    deployed: bool = True
    name: str = ""
    description: str = ""
    created_at: float = 0.0
    deployed_at: float | None = None
    block_id: str = field(default_factory=new_id)
    version: int = 1
    versions: int = 1
    notes: dict[int, dict[str, Any]] = field(default_factory=dict)  # names and descriptions of versions, by number
    activation: float = 0.0  # seconds until a deployment is active
    activation_error: str = ""  # the error with which deployments fail
    attempt: DeploymentAttempt | None = None

    @property
    def version_id(self) -> str:
        return self.id_of_version(self.version)

    def id_of_version(self, version: int) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.workflow_id}/{version}"))

    def begin_deployment(self, action: str, version: int, now: float) -> None:
        self.attempt = DeploymentAttempt(action, version, now)
        self.settle_deployment(now)

    def settle_deployment(self, now: float) -> None:
        attempt = self.attempt
        if attempt is None or attempt.status != "activating" or now < attempt.requested_at + self.activation:
            return
        if self.activation_error:
            attempt.status, attempt.error = "failed", self.activation_error
            return
        attempt.status, self.version = "active", attempt.version
        self.deployed, self.deployed_at = True, now

    def undeploy(self) -> None:
        self.deployed, self.deployed_at, self.attempt = False, None, None

    def seconds(self, given: dict[str, Any], *, streamed: bool = False) -> float:
        seconds = float(self.duration(given) if callable(self.duration) else self.duration)
        if streamed and self.chunks and self.chunk_delay:
            return max(seconds, len(self.chunks(given)) * self.chunk_delay)
        return seconds

    def store_files(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Replace file objects in top-level ``file[]`` fields by stored files, as Sim does for sync and streamed runs.

        :raises ValueError: a file is not base64, or is larger than 20 MiB.
        """
        files = [name for name, kind in (self.inputs or {}).items() if kind == "file[]" and name in sent]
        lists = {name: sent[name] if isinstance(sent[name], list) else [sent[name]] for name in files}
        return {**sent, **{name: [_store(item) for item in items] for name, items in lists.items()}}

    def read_input(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return the Start block's output: the declared fields, coerced to their types, or all fields if none are."""
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
        """Return the path that a selector names in this workflow's block; None if it names another block."""
        for name in (self.block, self.block_id):
            if selector == name:
                return []
            if selector.startswith((f"{name}.", f"{name}_")):
                return selector[len(name) + 1 :].split(".")
        return None


_DEFAULTS: dict[str, Any] = {"number": 0, "object": {}, "array": []}


def _coerced(value: Any, kind: str) -> Any:
    if kind == "string":
        return "[object Object]" if isinstance(value, dict) else value if isinstance(value, str) else json.dumps(value)
    if kind in ("number", "object", "array") and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def at_path(value: Any, path: Sequence[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _store(item: Any) -> Any:
    if not isinstance(item, dict) or item.get("type") not in ("file", "url"):
        return item
    data = str(item.get("data", ""))
    name = str(item.get("name", "file"))
    mime = str(item.get("mime") or "application/octet-stream")
    content = b""
    if item["type"] == "file":
        head, _, encoded = data.partition(",")
        try:
            content = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError(f"{name} is not base64") from None
        mime = head.removeprefix("data:").removesuffix(";base64") or mime
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{name} exceeds the maximum file size")
    file_id = f"file_{new_name(12)}"
    return {
        "id": file_id,
        "name": name,
        "url": f"/api/files/serve/{file_id}",
        "size": len(content),
        "type": mime,
        "key": f"execution/{file_id}/{name}",
        "context": "execution",
        "base64": base64.b64encode(content).decode(),
    }
