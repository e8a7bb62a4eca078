"""Files in a workflow's input: Sim stores them before a held-open run, and forgets to for an asynchronous one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from airflow_provider_sim.emulator.ids import new_name
from airflow_provider_sim.emulator.workflows import Workflow

MAX_FILE_BYTES = 20 * 1024 * 1024


class BadFileError(Exception):
    """A file object that can't be stored."""


def with_files_stored(workflow: Workflow, sent: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """Replace the file objects in top-level ``file[]`` fields by stored files, unless the run is asynchronous.

    :raises BadFileError: one of them can't be read, or is over 20 MiB.
    """
    if mode == "async":
        return dict(sent)
    declared = workflow.inputs or {}
    return {name: _stored(value) if declared.get(name) == "file[]" else value for name, value in sent.items()}


def _stored(value: Any) -> Any:
    return [_store(item) for item in (value if isinstance(value, list) else [value])]


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
        except binascii.Error as error:
            raise BadFileError(f"{name} is not base64") from error
        mime = head.removeprefix("data:").removesuffix(";base64") or mime
    if len(content) > MAX_FILE_BYTES:
        raise BadFileError(f"{name} exceeds the maximum file size")
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
