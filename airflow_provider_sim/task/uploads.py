"""Files that a task uploads for its run, and deletes when the run has finished."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.exceptions import SimConflictError, SimError, SimUnsupportedError

if TYPE_CHECKING:
    from airflow_provider_sim.client import SimClient, WorkspaceFile
    from airflow_provider_sim.task.input import InputFile

log = logging.getLogger(__name__)


@dataclass
class Uploads:
    """The uploads of one run; its dict is plain JSON."""

    workspace_id: str
    token: str  # unique to the task instance; the files' names in Sim start with it
    file_ids: list[str] | None = None  # None while unknown, such as after a crash: then Sim is asked for the token

    def __str__(self) -> str:
        which = f"with names that start with {self.token}" if self.file_ids is None else ", ".join(self.file_ids)
        return f"The uploads {which} of workspace {self.workspace_id}"

    def find(self, client: SimClient) -> dict[str, WorkspaceFile]:
        """Return the files that exist in Sim, up to 1,000, by name."""
        page = client.list_files(self.workspace_id, search=self.token, limit=1000)
        return {file.name: file for file in page.items if file.name.startswith(self.token)}


def upload_files(
    client: SimClient, uploads: Uploads, files: Sequence[InputFile], *, resume: bool, check: Callable[[], None]
) -> list[dict[str, Any]]:
    """Upload files and return a reference to each; ``check`` is called before each upload.

    :param resume: an earlier try may have uploaded some: use those, and delete what is not needed.
    """
    known = uploads.find(client) if resume else {}
    uploads.file_ids, uploaded = None, []
    for number, file in enumerate(files):
        check()
        original = file.name.replace("\\", "_")[-100:]  # Sim accepts names of up to 255 characters
        name = f"{uploads.token}-{number}-{original}"
        stored = known.pop(name, None)
        if stored is not None and stored.size != file.size:
            client.delete_file(uploads.workspace_id, stored.file_id)
            stored = None
        uploaded.append(stored or _upload(client, uploads, name, file))
    delete_uploads(client, replace(uploads, file_ids=[unused.file_id for unused in known.values()]))
    uploads.file_ids = [stored.file_id for stored in uploaded]
    return [stored.reference(file.name) for stored, file in zip(uploaded, files, strict=True)]


def _upload(client: SimClient, uploads: Uploads, name: str, file: InputFile) -> WorkspaceFile:
    workspace_id = uploads.workspace_id
    try:
        stored = client.upload_file(workspace_id, name, file.content, content_type=file.mime)
    except SimConflictError:  # an upload of this task, whose response was lost
        if (found := uploads.find(client).get(name)) is None:
            raise
        stored = found
    log.info("Uploaded %r (%d bytes) as file %s of workspace %s.", file.name, file.size, stored.file_id, workspace_id)
    return stored


def delete_uploads(client: SimClient, uploads: Uploads) -> None:
    """Delete uploads; an error is only logged."""
    file_ids = uploads.file_ids
    try:
        file_ids = [file.file_id for file in uploads.find(client).values()] if file_ids is None else file_ids
        for file_id in file_ids:
            client.delete_file(uploads.workspace_id, file_id)
    except SimUnsupportedError:  # a server without uploads
        return
    except SimError as error:
        log.warning("%s could not be deleted; delete them in Sim. %s", uploads, error)
        return
    if file_ids:
        log.info("%s are deleted.", uploads)
