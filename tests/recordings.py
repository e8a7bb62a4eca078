"""Exchanges recorded with a real Sim server, where they lie beside the repository."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("SIM_RECORDINGS", Path(__file__).resolve().parents[2] / "shared" / "recordings"))
WHERE_MISSING = "no recordings beside the repository; the tables of the other tests cover the same kinds of answers"


@dataclass(frozen=True)
class Recording:
    """One exchange; header names in lower case.

    :param workflow: the name of the workflow that the path's id stood for.
    """

    name: str
    workflow: str | None
    method: str
    path: str
    sent_headers: dict[str, str]
    sent_body: bytes | None
    status: int
    headers: dict[str, str]
    body: Any
    raw: bytes

    @property
    def is_json(self) -> bool:
        return self.headers.get("content-type", "").startswith("application/json")


def _read(path: Path) -> Recording:
    recorded = json.loads(path.read_text())
    request, response = recorded["request"], recorded["response"]
    sent = request.get("body")
    if sent is None and request.get("body_json") is not None:
        sent = json.dumps(request["body_json"])
    elif sent is not None and not isinstance(sent, str):
        sent = json.dumps(sent)
    raw = response["body_raw"] if response.get("body_raw") is not None else json.dumps(response.get("body"))
    return Recording(
        name=recorded["name"],
        workflow=recorded.get("workflow"),
        method=request["method"],
        path=request["path"],
        sent_headers={name.lower(): value for name, value in request["headers"].items()},
        sent_body=None if sent is None else sent.encode(),
        status=response["status"],
        headers={name.lower(): value for name, value in response["headers"].items()},
        body=response.get("body"),
        raw=raw.encode(),
    )


def recordings() -> list[Recording]:
    """All of them; none where the folder is missing."""
    return [_read(path) for path in sorted(FOLDER.glob("*.json"))]


def file_recordings() -> list[Recording]:
    """Those of the files API, from the folder beside."""
    return [_read(path) for path in sorted(FOLDER.with_name("recordings-files").glob("*.json"))]
