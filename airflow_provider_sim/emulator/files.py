"""Files of the workspaces, whose contents are in a temporary directory."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_sim.emulator.workflows import new_id, new_name

MAX_BASE64_BYTES = 5_898_240
"""The largest file whose content a block sees as ``base64``."""


@dataclass(slots=True, eq=False, kw_only=True)
class StoredFile:
    """A file of a workspace, or an upload that becomes one; its content is in the file ``path``."""

    workspace_id: str
    folder_path: str
    name: str
    content_type: str
    size: int
    path: Path
    uploaded_at: float
    deleted_at: float | None = None
    status: str = "uploading"  # of the upload session: uploading, completed or aborted
    file_id: str = field(default_factory=lambda: f"wf_{new_name(21)}")
    session_id: str = field(default_factory=new_id)
    token: str = field(default_factory=lambda: new_name(43), repr=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        safe = re.sub(r"[^A-Za-z0-9.-]", "_", self.name)
        self.key = f"workspace/{self.workspace_id}/{self.uploaded_at * 1000:.0f}-{new_name(16)}-{safe}"

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def sha256(self) -> str:
        """Hash of the content, for files that are too large to compare."""
        with self.path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


class Files:
    """All files and uploads; a test may change the attributes at any time."""

    def __init__(self) -> None:
        self.folders = {"/"}
        self.storage_limit = 5 * 1024**3  # bytes; a larger total is rejected
        self.upload_url: str | None = None  # where to send large files; None for the server's URL
        self.all: list[StoredFile] = []

    @functools.cached_property
    def _directory(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="sim-emulator-"))
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return path

    @property
    def existing(self) -> list[StoredFile]:
        """The files that are not deleted, in the order of their creation."""
        return [file for file in self.all if file.status == "completed" and file.deleted_at is None]

    @property
    def used(self) -> int:
        return sum(file.size for file in self.existing)

    def add(self, **fields: Any) -> StoredFile:
        file = StoredFile(**fields, path=self._directory / new_id())
        self.all.append(file)
        return file

    def filled(self, given: Mapping[str, Any], fields: Iterable[str], workspace_id: str, at: float) -> dict[str, Any]:
        """Return an input with the content of the files to which some fields refer, as of a time."""

        def with_content(item: Any) -> Any:
            for file in self.all:
                is_known = isinstance(item, dict) and (item.get("key"), workspace_id) == (file.key, file.workspace_id)
                if is_known and file.size <= MAX_BASE64_BYTES and (file.deleted_at is None or file.deleted_at > at):
                    return {**item, "base64": base64.b64encode(file.content).decode()}
            return item

        lists = {name: given[name] for name in fields if isinstance(given.get(name), list)}
        return {**given, **{name: list(map(with_content, items)) for name, items in lists.items()}}
