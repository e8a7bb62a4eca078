"""Requests and responses of v2's files API: the files of a workspace, which a run of any mode takes by reference."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlsplit

from airflow_provider_sim.client import models
from airflow_provider_sim.client.api import fields, v2
from airflow_provider_sim.client.api.http import Call, Request, Response, error_of, read_json
from airflow_provider_sim.exceptions import SimInputError, SimResponseError, SimServerError

MAX_INLINE_BYTES = 50 * 1024 * 1024
"""The largest file that Sim accepts in the body of one request; larger ones need an upload session."""

MAX_UPLOAD_BYTES = 5 * 1024**3
"""The largest file of a workspace."""

PARTS_PER_REQUEST = 100
FILES_PAGE = 1000
"""Maximum entries of one request and of one response."""

_FILES = "v2/files"


@dataclass(frozen=True, slots=True)
class NewFile:
    """Where to create a file, and as what.

    :param content_type: default: by the name's extension.
    :param folder_path: default: the workspace's root folder.
    :raises SimInputError: a value is invalid.
    """

    workspace_id: str
    name: str
    content_type: str | None = None
    folder_path: str | None = None

    def __post_init__(self) -> None:
        check_id("workspace_id", self.workspace_id)
        name, content_type = self.name, self.content_type
        if not isinstance(name, str) or not name.strip() or name in (".", "..") or not set(name).isdisjoint("/\\"):
            raise SimInputError(f"The file name is {name!r}; it must be a name without a path.")
        if len(name) > 255:
            raise SimInputError(f"The file name {name[:40]!r}… has {len(name)} characters; Sim accepts up to 255.")
        if content_type is None:
            content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        elif not isinstance(content_type, str) or not 0 < len(content_type.strip()) <= 255:
            raise SimInputError(f"content_type is {content_type!r}; it must be a MIME type such as 'text/csv'.")
        object.__setattr__(self, "content_type", content_type)
        object.__setattr__(self, "folder_path", check_folder(self.folder_path))

    @property
    def subject(self) -> str:
        """What is uploaded, for messages."""
        return f"upload the file {self.name!r} to the folder {self.folder_path!r} of workspace {self.workspace_id!r}"

    def content(self, **more: Any) -> dict[str, Any]:
        """Return the fields of a request that creates it."""
        where = {} if self.folder_path == "/" else {"folderPath": self.folder_path}
        return {"workspaceId": self.workspace_id, "name": self.name, "contentType": self.content_type, **where, **more}


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


def check_id(name: str, value: object) -> str:
    """Return an ID of a workspace or file, or raise SimInputError if it can't be one."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise SimInputError(f"{name} is {value!r}; it must be an ID of Sim.")
    return value


def check_folder(path: str | None) -> str:
    """Return a folder's path, ``/`` for None; raise SimInputError if Sim would reject it."""
    if path in (None, "/"):
        return "/"
    parts = path.split("/") if isinstance(path, str) else ()
    if len(parts) < 2 or parts[0] or not {"", ".", ".."}.isdisjoint(parts[1:]):
        raise SimInputError(f"folder_path is {path!r}; it must be a path of a folder in Sim, such as '/reports/2026'.")
    assert path is not None
    return path


def create(file: NewFile, content: bytes) -> Call[models.WorkspaceFile]:
    """Create a file with one request."""
    call = v2._call(_read_file, "POST", _FILES, file.subject, idempotent=False, bucket="files.create")
    head = json.dumps(file.content(encoding="base64"), ensure_ascii=False).encode()
    body = b'%b,"content":"%b"}' % (head[:-1], base64.b64encode(content))
    return replace(call, request=replace(call.request, headers={"Content-Type": "application/json"}, body=body))


def create_session(file: NewFile, size: int) -> Call[UploadSession]:
    def read(request: Request, data: Any) -> UploadSession:
        transfer = fields.mapping(data, "transfer")
        return UploadSession(
            file,
            fields.required(fields.text(fields.mapping(data, "session"), "id")),
            fields.required(fields.text(data, "uploadToken")),
            None if transfer.get("method") == "multipart" else _read_transfer(transfer),
            fields.required(fields.whole(transfer, "partSize")) if transfer.get("method") == "multipart" else 0,
        )

    content = file.content(size=size)
    # A session whose response is lost expires without an effect.
    return v2._call(read, "POST", f"{_FILES}/uploads", file.subject, content=content, bucket="files.uploads.create")


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
    query, headers = {"workspace_id": session.file.workspace_id}, {"upload-token": session.token}
    bucket = f"files.uploads.{action.removeprefix('/') or 'abort'}"
    subject = session.file.subject
    return v2._call(read, method, path, subject, query=query, headers=headers, bucket=bucket, **attributes)


def list_files(
    workspace_id: str, *, folder_path: str | None = None, **filters: Any
) -> Call[models.Page[models.WorkspaceFile]]:
    folder = None if folder_path is None else check_folder(folder_path)
    query = {"workspace_id": check_id("workspace_id", workspace_id), "folder_path": folder, **filters}
    subject = f"list the files of workspace {workspace_id!r}"
    return v2._page_call(_read_file, "GET", _FILES, subject, query=query, bucket="files.list")


def delete(workspace_id: str, file_id: str) -> Call[None]:
    return _file_call(_nothing, "DELETE", workspace_id, file_id, "delete", bucket="files.delete")


def download(workspace_id: str, file_id: str) -> Call[None]:
    """Get a file's content; the call reads only responses that are not the file."""
    return _file_call(_nothing, "GET", workspace_id, file_id, "download", bucket="files.download")


def _file_call(read: Any, method: str, workspace_id: str, file_id: str, verb: str, **attributes: Any) -> Call[Any]:
    path, query = f"{_FILES}/{quote(check_id('file_id', file_id), safe='')}", {"workspace_id": workspace_id}
    subject = f"{verb} the file {file_id!r} of workspace {check_id('workspace_id', workspace_id)!r}"
    return v2._call(read, method, path, subject, query=query, **attributes)


def _nothing(request: Request, data: Any) -> None:
    return None


def _read_file(request: Request, data: Any) -> models.WorkspaceFile:
    return models.WorkspaceFile(
        file_id=fields.required(fields.text(data, "id")),
        name=fields.required(fields.text(data, "name")),
        size=fields.required(fields.whole(data, "size")),
        content_type=fields.text(data, "type") or "application/octet-stream",
        key=fields.required(fields.text(data, "key")),
        folder_path=fields.text(data, "folderPath") or "/",
        uploaded_at=fields.text(data, "uploadedAt"),
    )


def _read_transfer(data: Any) -> Transfer:
    headers = {name: value for name, value in fields.mapping(data, "headers").items() if isinstance(value, str)}
    transfer = Transfer(fields.required(fields.text(data, "url")), headers)
    if not transfer.origin.startswith(("http://", "https://")):
        raise fields.MissingFieldError
    return transfer


def check_transferred(request: Request, response: Response) -> None:
    """Raise SimServerError unless the bytes were stored; a new session may help, as when the URL has expired."""
    if response.status < 300:
        return
    try:
        message = fields.text(fields.mapping(read_json(request, response), "error"), "message")
    except SimResponseError:
        message = None
    what = "the storage rejects it" + (f". Its message: {message[:2000]!r}" if message else "")
    is_temporary = response.status >= 500 or response.status in (408, 429)
    raise error_of(SimServerError, request, response, what, max_retries=None if is_temporary else 1)
