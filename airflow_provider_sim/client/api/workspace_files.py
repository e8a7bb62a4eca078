"""Requests and responses of v2's files API: the files of a workspace, which a run of any mode takes by reference."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict
from urllib.parse import quote, urlsplit

from airflow_provider_sim.client import models
from airflow_provider_sim.client.api import fields, v2
from airflow_provider_sim.client.api.http import MAX_BODY_BYTES, Call, Request, Response, error_of
from airflow_provider_sim.exceptions import SimInputError, SimServerError

MAX_INLINE_BYTES = MAX_BODY_BYTES // 4 * 3 - 4096
"""The largest file whose base64 text fits into one request; larger ones need an upload session."""

MAX_UPLOAD_BYTES = 5 * 1024**3
"""The largest file of a workspace."""

PARTS_PER_REQUEST = 100
FILES_PAGE = 1000
"""Maximum entries of one request and of one response."""

_FILES = "v2/files"


class NewFile(TypedDict):
    """Fields of a request that creates a file; without ``folderPath`` in the workspace's root folder."""

    workspaceId: str
    name: str
    contentType: str
    folderPath: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Transfer:
    """A PUT request for bytes of an upload; the URL may be another server's, and gives access without a key."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    def request(self, name: str) -> Request:
        """Return the request, for messages."""
        return Request("PUT", urlsplit(self.url).path, f"transfer the content of the file {name!r} to {self.origin}")

    @property
    def origin(self) -> str:
        """The server without path and query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True)
class UploadSession:
    """A session to upload one file.

    :param token: authorizes the session's further requests, besides the API key.
    :param transfer: for all bytes; None if they are sent in parts of ``part_size`` bytes.
    """

    file: NewFile
    session_id: str
    token: str = field(repr=False)
    transfer: Transfer | None
    part_size: int = 0


def new_file(workspace_id: str, name: str, content_type: str | None = None, folder_path: str | None = None) -> NewFile:
    """Return the fields of a file to create; raise SimInputError if Sim would reject them."""
    is_text = isinstance(name, str) and name.strip()
    if not is_text or name in (".", "..") or not set(name).isdisjoint("/\\") or len(name) > 255:
        raise SimInputError(
            f"The file name is {name!r:.300}; it must be a name without a path, of up to 255 characters."
        )
    content_type = content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
    file = NewFile(workspaceId=_id("workspace_id", workspace_id), name=name, contentType=content_type)
    if (folder := check_folder(folder_path)) != "/":
        file["folderPath"] = folder
    return file


def check_folder(path: str | None) -> str:
    """Return a folder's path, ``/`` for None; raise SimInputError if Sim would reject it."""
    if path is None or path == "/":
        return "/"
    parts = path.split("/") if isinstance(path, str) else ()
    if len(parts) < 2 or parts[0] or not {"", ".", ".."}.isdisjoint(parts[1:]):
        raise SimInputError(f"folder_path is {path!r}; it must be a path of a folder in Sim, such as '/reports/2026'.")
    return path


def _id(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise SimInputError(f"{name} is {value!r}; it must be an ID of Sim.")
    return value


def _subject(file: NewFile) -> str:
    return f"upload the file {file['name']!r} to workspace {file['workspaceId']!r}"


def create(file: NewFile, content: bytes) -> Call[models.WorkspaceFile]:
    """Create a file with one request; a second one is rejected, because the name exists."""
    body = {**file, "encoding": "base64", "content": base64.b64encode(content).decode()}
    return v2._call(_read_file, "POST", _FILES, _subject(file), content=body)


def create_session(file: NewFile, size: int) -> Call[UploadSession]:
    """Create a session; one whose response is lost expires without an effect."""

    def read(request: Request, data: Any) -> UploadSession:
        transfer = fields.mapping(data, "transfer")
        in_parts = transfer.get("method") == "multipart"
        return UploadSession(
            file=file,
            session_id=fields.required(fields.text(fields.mapping(data, "session"), "id")),
            token=fields.required(fields.text(data, "uploadToken")),
            transfer=None if in_parts else _read_transfer(transfer),
            part_size=fields.required(fields.whole(transfer, "partSize")) if in_parts else 0,
        )

    return v2._call(read, "POST", f"{_FILES}/uploads", _subject(file), content={**file, "size": size})


def part_urls(session: UploadSession, numbers: Sequence[int]) -> Call[list[Transfer]]:
    """Get where to send some parts, in their order; the first part is 1."""

    def read(request: Request, data: Any) -> list[Transfer]:
        found = {fields.whole(part, "partNumber"): _read_transfer(part) for part in fields.sequence(data, "parts")}
        return [fields.required(found.get(number)) for number in numbers]

    return _session_call(read, "POST", session, "/parts", content={"partNumbers": list(numbers)})


def complete(session: UploadSession) -> Call[models.WorkspaceFile]:
    """Create the file from the transferred bytes; a second request returns the same file."""
    return _session_call(lambda request, data: _read_file(request, data.get("file")), "POST", session, "/complete")


def abort(session: UploadSession) -> Call[None]:
    return _session_call(_nothing, "DELETE", session)


def _session_call(read: Any, method: str, session: UploadSession, action: str = "", **attributes: Any) -> Call[Any]:
    path = f"{_FILES}/uploads/{quote(session.session_id, safe='')}{action}"
    query, headers = {"workspace_id": session.file["workspaceId"]}, {"upload-token": session.token}
    return v2._call(read, method, path, _subject(session.file), query=query, headers=headers, **attributes)


def list_files(
    workspace_id: str, *, folder_path: str | None = None, **filters: Any
) -> Call[models.Page[models.WorkspaceFile]]:
    folder = None if folder_path is None else check_folder(folder_path)
    query = {"workspace_id": _id("workspace_id", workspace_id), "folder_path": folder, **filters}
    subject = f"list the files of workspace {workspace_id!r}"
    return v2._page_call(_read_file, "GET", _FILES, subject, query=query)


def delete(workspace_id: str, file_id: str) -> Call[None]:
    return _file_call("DELETE", "delete", workspace_id, file_id)


def download(workspace_id: str, file_id: str) -> Call[None]:
    """Get a file's content; the call reads only responses that are not the file."""
    return _file_call("GET", "download", workspace_id, file_id)


def _file_call(method: str, verb: str, workspace_id: str, file_id: str) -> Call[None]:
    path, query = f"{_FILES}/{quote(_id('file_id', file_id), safe='')}", {"workspace_id": workspace_id}
    subject = f"{verb} the file {file_id!r} of workspace {_id('workspace_id', workspace_id)!r}"
    return v2._call(_nothing, method, path, subject, query=query)


def _nothing(request: Request, data: Any) -> None:
    return None


def _read_file(request: Request, data: Any) -> models.WorkspaceFile:
    content_type = fields.text(data, "type") or "application/octet-stream"
    file_id = fields.required(fields.text(data, "id"))
    return fields.model(models.WorkspaceFile, data, file_id=file_id, content_type=content_type)


def _read_transfer(data: Any) -> Transfer:
    headers = {name: str(value) for name, value in fields.mapping(data, "headers").items()}
    return Transfer(fields.required(fields.text(data, "url")), headers)


def check_transferred(request: Request, response: Response) -> None:
    """Raise SimServerError unless the bytes were stored; a new session may help, as when the URL has expired."""
    if response.status >= 300:
        is_temporary = response.status >= 500 or response.status in (408, 429)
        what, retries = "the storage rejects it", None if is_temporary else 1
        raise error_of(SimServerError, request, response, what, max_retries=retries)
