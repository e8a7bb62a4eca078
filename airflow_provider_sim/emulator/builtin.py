"""The workflows that every emulator has, and those of a file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_provider_sim.emulator.workflows import BlockError, Pausing, ResponseBlock, Workflow

SETTINGS = frozenset(["output", "response", "fail", "stream", "inputs", "duration", "deployed", "description"])
"""What a file may say of a workflow."""
_DECLARED = {"message": "string", "count": "number", "payload": "object"}


def _plain(value: Any) -> dict[str, Any]:
    """The output of a Function block."""
    return {"result": value, "stdout": ""}


def _respond(key: str, *, status: int = 200, **headers: str) -> Any:
    def body(given: dict[str, Any]) -> ResponseBlock:
        data: dict[str, Any] = {key: given, "ok": True} if key == "echo" else {key: given}
        return ResponseBlock(
            data, status, {name.replace("_", "-"): value for name, value in headers.items()}, _plain(given)
        )

    return body


def _fail(given: dict[str, Any]) -> Any:
    message = f"boom: {given.get('message', '')}"
    raise BlockError(f'Line 1: `throw new Error("boom: " + "{given.get("message", "")}")` - {message}', block="Boom")


def _large(given: dict[str, Any]) -> dict[str, Any]:
    return _plain({"blob": "x" * (1024 * int(given.get("count") or 1))})


def _ask(given: dict[str, Any]) -> Pausing:
    def then(answer: Any) -> dict[str, Any]:
        fields = answer if isinstance(answer, dict) else {}
        return _plain({"approved": fields.get("approved", False), "comment": fields.get("comment", "")})

    return Pausing(then, question=f"Approve {given['message']}?")


def _wait(given: dict[str, Any]) -> Pausing:
    return Pausing(lambda _: _plain(given), seconds=60.0)


def _words(given: dict[str, Any]) -> list[str]:
    text = f"You wrote: {given['message']}.\nHere is what I think of it.\nIt could be said in fewer words.\n"
    return re.findall(r"\S+\s*", text)


def _secrets(given: dict[str, Any]) -> dict[str, Any]:
    return _plain({"text": "y" * int(given.get("count") or 20_000), "access_token": "t-1", "password": "p-1"})


def _slow_seconds(given: dict[str, Any]) -> float:
    seconds = given.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) and seconds else 20.0


def builtin_workflows() -> Iterator[Workflow]:
    """A workflow for each kind of behaviour, named after it."""

    def echo(given: dict[str, Any]) -> Any:
        return _plain(given)

    declared: dict[str, Any] = {"inputs": _DECLARED}
    yield Workflow("echo", _respond("echo"), block="Echo", description="answers with its input", **declared)
    yield Workflow("echo_plain", echo, block="Echo", description="returns its input", **declared)
    yield Workflow(
        "slow",
        lambda given: _plain({"slept": _slow_seconds(given), "message": given["message"]}),
        inputs={**_DECLARED, "seconds": "number"},
        duration=_slow_seconds,
        block="Slow",
        description="takes the input's 'seconds' (20)",
    )
    yield Workflow("failing", _fail, block="Boom", description="fails", **declared)
    yield Workflow("paused", _ask, block="Approve", description="waits for a person", **declared)
    yield Workflow("waiting", _wait, block="Wait", description="waits for a minute and goes on", **declared)
    yield Workflow(
        "streaming",
        lambda given: {"content": "".join(_words(given)), "model": "emulated", "tokens": {"total": len(_words(given))}},
        chunks=_words,
        chunk_delay=0.02,
        block="Agent",
        description="an agent that streams its text",
        **declared,
    )
    yield Workflow("undeployed", echo, deployed=False, description="isn't deployed", **declared)
    yield Workflow(
        "status201", _respond("created", status=201, X_Custom="hello"), description="answers 201", **declared
    )
    yield Workflow(
        "status429",
        lambda _: ResponseBlock({"error": "author says slow down"}, 429),
        description="answers 429 by itself",
        **declared,
    )
    yield Workflow("status500", _respond("oops", status=500), description="answers 500 by itself", **declared)
    yield Workflow("large", _large, block="Large", description="returns 'count' KiB", **declared)
    yield Workflow("resp_string", lambda _: ResponseBlock("just a string"), description="answers text", **declared)
    yield Workflow("resp_array", lambda _: ResponseBlock([1, 2, 3]), description="answers a list", **declared)
    yield Workflow("resp_null", lambda _: ResponseBlock(None), description="answers null", **declared)
    yield Workflow(
        "string_out",
        lambda given: _plain(f"hello {given['message']}"),
        block="Text",
        description="returns text",
        **declared,
    )
    yield Workflow(
        "no_input_format", lambda given: _plain({"input": given}), block="All", description="returns whatever arrives"
    )
    yield Workflow(
        "file_echo", lambda given: _plain(given["files"]), inputs={"files": "file[]"}, description="returns its files"
    )
    yield Workflow(
        "secrets", _secrets, block="Secrets", description="returns what Sim hides in polled copies", **declared
    )


def workflows_of_file(path: Path) -> Iterator[Workflow]:
    """Read workflows of one's own from a TOML file; ``docs/emulator.md`` shows one.

    :raises ValueError: the file isn't TOML, or a workflow in it makes no sense.
    """
    for workflow_id, given in tomllib.loads(path.read_text()).items():
        if not isinstance(given, dict):
            raise ValueError(f"{path}: {workflow_id!r} is no table; write [{workflow_id}] and its settings below")
        unknown = given.keys() - SETTINGS
        if unknown:
            raise ValueError(f"{path}: [{workflow_id}] has the unknown settings {', '.join(sorted(unknown))}")
        yield _workflow_of(workflow_id, given)


def _workflow_of(workflow_id: str, given: dict[str, Any]) -> Workflow:
    def body(sent: dict[str, Any]) -> Any:
        if "fail" in given:
            raise BlockError(str(_filled(given["fail"], sent)))
        if "response" in given:
            answer = given["response"]
            return ResponseBlock(_filled(answer.get("data"), sent), answer.get("status", 200))
        return _filled(given.get("output", {"result": "{{input}}"}), sent)

    stream = given.get("stream")
    return Workflow(
        workflow_id,
        body,
        inputs=given.get("inputs"),
        duration=float(given.get("duration", 0.0)),
        chunks=(lambda sent: re.findall(r"\S+\s*", str(_filled(stream, sent)))) if stream else None,
        block="Agent" if stream else "Function",
        deployed=given.get("deployed", True),
        description=given.get("description", ""),
    )


def _filled(template: Any, sent: dict[str, Any]) -> Any:
    """A value with ``{{input}}`` and ``{{input.field}}`` filled in; alone in a text, they keep their type."""
    if isinstance(template, dict):
        return {key: _filled(value, sent) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, sent) for value in template]
    if not isinstance(template, str):
        return template

    def value_of(match: re.Match[str]) -> Any:
        value: Any = sent
        for part in (match[1] or "").split(".")[1:]:
            value = value.get(part, "") if isinstance(value, dict) else ""
        return value

    pattern = re.compile(r"\{\{\s*input((?:\.\w+)*)\s*\}\}")
    alone = pattern.fullmatch(template)
    return value_of(alone) if alone else pattern.sub(lambda match: str(value_of(match)), template)
