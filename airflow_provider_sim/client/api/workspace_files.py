"""Requests and responses of v2's files API: the files of a workspace, which a run of any mode takes by reference."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from airflow_provider_sim.client import models
from airflow_provider_sim.client.api import fields, v2
from airflow_provider_sim.client.api.http import Call, Hidden, Request, Response, error_of, read_json
from airflow_provider_sim.exceptions import SimInputError, SimServerError

if TYPE_CHECKING:
    from airflow_provider_sim.client.file_flows import Part

MAX_INLINE_BYTES = 50 * 1024 * 1024  # Sim accepts no larger file in one request; others need an upload session
PARTS_PER_REQUEST = 100
_FILES = "v2/files"


class UploadSession(NamedTuple):
    """A session to upload one file."""

    file: Mapping[str, Any]  # as of new_file
    session_id: str
    token: str  # authorizes the session's further requests, besides the API key
    transfer: Request | None  # for all bytes; None if they are sent in parts
    part_size: int = 0


def new_file(workspace_id: str, name: str, content_type: str | None, folder_path: str | None) -> dict[str, Any]:
    """Return the fields of a request that creates a file."""
    content_type = content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
    folder = {} if folder_path in (None, "/") else {"folderPath": folder_path}
    return {"workspaceId": workspace_id, "name": name, "contentType": content_type, **folder}


def _subject(file: Mapping[str, Any]) -> str:
    return f"upload the file {file['name']!r} to workspace {file['workspaceId']!r}"


def create(file: Mapping[str, Any], content: bytes) -> Call[models.WorkspaceFile]:
    """Create a file with one request; a second one is rejected, because the name exists."""
    call = v2._call(_read_file, "POST", _FILES, _subject(file), content={**file, "encoding": "base64"})
    assert isinstance(call.request.body, bytes)
    # Added afterwards, because the limit of other bodies doesn't apply to it.
    body = b'%b,"content":"%b"}' % (call.request.body[:-1], base64.b64encode(content))
    return call._replace(request=call.request._replace(body=body))


def create_session(file: Mapping[str, Any], size: int) -> Call[UploadSession]:
    """Create a session; one whose response is lost expires without an effect."""

    def read(request: Request, data: Any) -> UploadSession:
        transfer = fields.mapping(data, "transfer")
        in_parts = transfer.get("method") == "multipart"
        return UploadSession(
            file=file,
            session_id=fields.required(fields.text(fields.mapping(data, "session"), "id")),
            token=Hidden(fields.required(fields.text(data, "uploadToken"))),
            transfer=None if in_parts else _read_transfer(file, transfer),
            part_size=fields.required(fields.whole(transfer, "partSize")) if in_parts else 0,
        )

    return v2._call(read, "POST", f"{_FILES}/uploads", _subject(file), content={**file, "size": size})


def part_urls(session: UploadSession, numbers: Sequence[int]) -> Call[list[Request]]:
    """Get where to send some parts, in their order; the first part is 1."""

    def read(request: Request, data: Any) -> list[Request]:
        found = {fields.whole(part, "partNumber"): part for part in fields.sequence(data, "parts")}
        return [_read_transfer(session.file, found.get(number)) for number in numbers]

    return _session_call(read, "POST", session, "/parts", content={"partNumbers": list(numbers)})


def put(transfer: Request, part: Part) -> Call[None]:
    """Send a part of a file's content to the storage, which may be another server."""
    return Call(transfer._replace(body=part), _check_transferred, lambda request, response: None)


def _check_transferred(request: Request, response: Response) -> None:
    """Raise SimServerError unless the bytes were stored; a new session may help, as when the URL has expired."""
    if response.status >= 300:
        is_temporary = response.status >= 500 or response.status in (408, 429)
        what, retries = "the storage rejects it", None if is_temporary else 1
        raise error_of(SimServerError, request, response, what, max_retries=retries)


def complete(session: UploadSession) -> Call[models.WorkspaceFile]:
    """Create the file from the transferred bytes; a second request returns the same file."""
    return _session_call(lambda request, data: _read_file(request, data.get("file")), "POST", session, "/complete")


def abort(session: UploadSession) -> Call[None]:
    return _session_call(_nothing, "DELETE", session)


def _session_call(read: Any, method: str, session: UploadSession, action: str = "", **attributes: Any) -> Call[Any]:
    path = f"{_FILES}/uploads/{quote(session.session_id, safe='')}{action}"
    query, headers = {"workspace_id": session.file["workspaceId"]}, {"upload-token": session.token}
    return v2._call(read, method, path, _subject(session.file), query=query, headers=headers, **attributes)


def list_files(workspace_id: str, **filters: Any) -> Call[models.Page[models.WorkspaceFile]]:
    query, subject = {"workspace_id": workspace_id, **filters}, f"list the files of workspace {workspace_id!r}"
    return v2._page_call(_read_file, "GET", _FILES, subject, query=query)


def delete(workspace_id: str, file_id: str) -> Call[None]:
    return _file_call("DELETE", "delete", workspace_id, file_id)


def download(workspace_id: str, file_id: str) -> Call[bytes]:
    def read(request: Request, response: Response) -> bytes:
        if response.status != 200:
            read_json(request, response)  # raises the error of a redirect
        return response.body

    return _file_call("GET", "download", workspace_id, file_id)._replace(parse=read)


def _file_call(method: str, verb: str, workspace_id: str, file_id: str) -> Call[Any]:
    if not isinstance(file_id, str) or not file_id.strip(". "):
        raise SimInputError(f"file_id is {file_id!r}; it must be the ID of a file in Sim.")
    subject = f"{verb} the file {file_id!r} of workspace {workspace_id!r}"
    path, query = f"{_FILES}/{quote(file_id, safe='')}", {"workspace_id": workspace_id}
    return v2._call(_nothing, method, path, subject, query=query)


def _nothing(request: Request, data: Any) -> None:
    return None


def _read_file(request: Request, data: Any) -> models.WorkspaceFile:
    content_type = fields.text(data, "type") or "application/octet-stream"
    file_id = fields.required(fields.text(data, "id"))
    return fields.model(models.WorkspaceFile, data, file_id=file_id, content_type=content_type)


def _read_transfer(file: Mapping[str, Any], data: Any) -> Request:
    url, headers = fields.required(fields.text(data, "url")), fields.mapping(data, "headers")
    parts = urlsplit(url)
    subject = f"transfer the content of the file {file['name']!r} to {parts.scheme}://{parts.netloc}"
    return Request(
        "PUT", parts.path, subject, {name: Hidden(value) for name, value in headers.items()}, url=Hidden(url)
    )
