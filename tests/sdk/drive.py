"""Drive every public method of whichever official SDK is installed; runs in an environment of its own.

Prints a JSON object: each step's name and what came of it. Imports nothing but the SDK.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import simstudio

slept: list[float] = []
time.sleep = slept.append
told: dict[str, Any] = {}
called: set[str] = set()


class Watched(simstudio.SimStudioClient):
    """The SDK's client; remembers which of its methods were called from outside."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and callable(getattr(simstudio.SimStudioClient, name, None)):
            called.add(name)
        return super().__getattribute__(name)


def step(name: str, do: Callable[[], Any]) -> Any:
    """Record a step's result or error."""
    try:
        result = do()
    except simstudio.SimStudioError as error:
        told[name] = {"error": str(error), "code": error.code, "status": error.status}
        return None
    told[name] = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result
    return result


def main() -> None:
    """Call all methods."""
    url, key = sys.argv[1:]
    client = Watched("sk-wrong", "http://127.0.0.1:1/")
    client.set_base_url(url + "/")
    step("wrong key", lambda: client.execute_workflow("echo_plain", {"message": "hi"}))
    client.set_api_key(key)
    with client:
        step("no rate limit yet", client.get_rate_limit_info)
        step("sync", lambda: client.execute_workflow("echo_plain", {"message": "hi", "count": 3}))
        step("text input", lambda: client.execute_workflow("no_input_format", "text"))
        step("list input", lambda: client.execute_workflow("no_input_format", [1, 2]))
        step("file input", lambda: client.execute_workflow("file_echo", {"files": [io.BytesIO(b"hi")]}))
        step("sync method", lambda: client.execute_workflow_sync("echo_plain", {"message": "hi"}))
        step("failing", lambda: client.execute_workflow("failing", {"message": "x"}))
        step("undeployed", lambda: client.execute_workflow("undeployed"))
        step("unknown", lambda: client.execute_workflow("nowhere"))
        step("client timeout", lambda: client.execute_workflow("slow", {"seconds": 60}, timeout=0.2))
        given = {"message": "hi", "executionId": "sdk-run"}  # the legacy API takes it as the run's ID
        receipt = step("async", lambda: client.execute_workflow("echo_plain", given, async_execution=True))
        if hasattr(client, "get_workflow_run"):
            step("run", lambda: client.get_workflow_run("echo_plain", receipt.run_id, include_output=True))
            step("run unknown", lambda: client.get_workflow_run("echo_plain", "nowhere"))
            step("job", lambda: client.get_job_status(f"workflow-execution:{receipt.run_id}"))
        else:
            step("job", lambda: client.get_job_status("workflow-execution:sdk-run"))
        step("job unknown", lambda: client.get_job_status("workflow-execution:nowhere"))
        step("status", lambda: client.get_workflow_status("echo"))
        step("status unknown", lambda: client.get_workflow_status("nowhere"))
        step("valid", lambda: [client.validate_workflow(name) for name in ("echo", "undeployed", "nowhere")])
        step("usage", client.get_usage_limits)
        step("limited", lambda: client.execute_with_retry("limited", max_retries=2))
        step("rate limit", client.get_rate_limit_info)
    client.close()
    methods = inspect.getmembers(simstudio.SimStudioClient, inspect.isfunction)
    told["not called"] = sorted({name for name, _ in methods if not name.startswith("_")} - called)
    told["slept"] = slept
    print(json.dumps(told))


main()
