"""The predefined workflows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_sim.emulator.workflows import BlockError, Pausing, ResponseBlock, Workflow

_DECLARED = {"message": "string", "count": "number", "payload": "object"}


def _plain(value: Any) -> dict[str, Any]:
    return {"result": value, "stdout": ""}


def _greet(given: dict[str, Any]) -> dict[str, Any]:
    return {"content": f"Hello, {given['name']}!", "model": "emulated", "tokens": {"total": 3}}


def _respond(key: str, status: int = 200, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
    return lambda given: ResponseBlock({key: given, **more}, status, headers or {}, _plain(given))


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
    """Yield one workflow for each behavior, named after it."""

    def declared(name: str, body: Any, description: str, **options: Any) -> Workflow:
        return Workflow(name, body, description=description, **{"inputs": _DECLARED, **options})

    yield declared("hello", _greet, "an agent that greets", inputs={"name": "string"}, block="Agent")
    yield declared("echo", _respond("echo", ok=True), "answers with its input", block="Echo")
    yield declared("echo_plain", _plain, "returns its input", block="Echo")
    yield declared(
        "slow",
        lambda given: _plain({"slept": _slow_seconds(given), "message": given["message"]}),
        "takes the input's 'seconds' (20)",
        inputs={**_DECLARED, "seconds": "number"},
        duration=_slow_seconds,
        block="Slow",
    )
    yield declared("failing", _fail, "fails", block="Boom")
    yield declared("paused", _ask, "waits for a person", block="Approve")
    yield declared("waiting", _wait, "waits for a minute and continues", block="Wait")
    yield declared(
        "streaming",
        lambda given: {"content": "".join(_words(given)), "model": "emulated", "tokens": {"total": len(_words(given))}},
        "an agent that streams its text",
        chunks=_words,
        chunk_delay=0.02,
        block="Agent",
    )
    yield declared("undeployed", _plain, "isn't deployed", deployed=False)
    yield declared("status201", _respond("created", 201, {"X-Custom": "hello"}), "answers 201")
    slow_down = ResponseBlock({"error": "author says slow down"}, 429)
    yield declared("status429", lambda _: slow_down, "answers 429")
    yield declared("status500", _respond("oops", 500), "answers 500")
    yield declared("large", _large, "returns 'count' KiB", block="Large")
    yield declared("resp_string", lambda _: ResponseBlock("just a string"), "answers text")
    yield declared("resp_null", lambda _: ResponseBlock(None), "answers null")
    yield declared("string_out", lambda given: _plain(f"hello {given['message']}"), "returns text", block="Text")
    undeclared = "returns whatever it receives"
    yield declared("no_input_format", lambda given: _plain({"input": given}), undeclared, inputs=None, block="All")
    yield declared("file_echo", lambda given: _plain(given["files"]), "returns its files", inputs={"files": "file[]"})
    yield declared("secrets", _secrets, "returns what Sim hides in polled copies", block="Secrets")
