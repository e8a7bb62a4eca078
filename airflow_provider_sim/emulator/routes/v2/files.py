"""v2's routes for the files of a workspace."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.files import StoredFile
from airflow_provider_sim.emulator.routes.v2 import middleware
from airflow_provider_sim.emulator.routes.v2.middleware import Call, invalid, json_object, limit_of, route
from airflow_provider_sim.emulator.routes.wire import empty_response, json_response, state_of
from airflow_provider_sim.emulator.state import ApiError
from airflow_provider_sim.emulator.workflows import new_name

MAX_INLINE_BYTES = 50 * 1024 * 1024
MAX_UPLOAD_BYTES = 5 * 1024**3
_FIELDS = ("workspaceId", "name", "contentType", "folderPath")


def _workspace_of(call: Call, fields: Any) -> str:
    workspace_id: str | None = fields.get("workspaceId")
    if workspace_id is None:
        raise middleware.missing_workspace()
    if workspace_id != call.key.workspace_id:
        raise ApiError(404, "Workspace not found")
    return workspace_id


def _add_file(call: Call, body: dict[str, Any], size: int) -> StoredFile:
    """Check what both ways to create a file have in common, and add it without its content."""
    name, folder, files = str(body.get("name", "")), str(body.get("folderPath", "/")), call.state.files
    if not name.strip() or name in (".", "..") or not set(name).isdisjoint("/\\"):
        raise invalid("custom", ["name"], "name cannot contain path separators or dot segments")
    if folder != "/" and (folder[:1] != "/" or not {"", ".", ".."}.isdisjoint(folder[1:].split("/"))):
        raise invalid("custom", ["folderPath"], "Path must be a canonical folder path")
    place = {"workspace_id": _workspace_of(call, body), "folder_path": folder, "name": name}
    if folder not in files.folders:
        raise ApiError(404, "Target folder not found")
    _check_name(call, **place)
    if files.used + size > files.storage_limit:
        raise ApiError(413, "Storage limit exceeded")
    kind = body.get("contentType") or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return files.add(**place, content_type=kind, size=size, uploaded_at=call.state.clock.now())


def _check_name(call: Call, workspace_id: str, folder_path: str, name: str) -> None:
    place = (workspace_id, folder_path, name)
    if any((other.workspace_id, other.folder_path, other.name) == place for other in call.state.files.existing):
        raise ApiError(409, "File already exists")


def _show(file: StoredFile) -> dict[str, Any]:
    place = {"key": file.key, "folderPath": file.folder_path, "uploadedByEmail": "dag.author@example.com"}
    times = {"uploadedAt": iso(file.uploaded_at), "updatedAt": iso(file.uploaded_at), "deletedAt": iso(file.deleted_at)}
    return {"id": file.file_id, "name": file.name, "size": file.size, "type": file.content_type, **place, **times}


@route("create_file", "POST", "/files")
async def create_file(call: Call) -> Response:
    if not call.request.headers.get("content-type", "application/json").startswith("application/json"):
        raise ApiError(415, "Request body must be sent as application/json")
    body = await json_object(call.request, maximum=MAX_INLINE_BYTES * 3 // 2)
    middleware.check_known(body, (*_FIELDS, "content", "encoding"))
    try:
        content = str(body.get("content", "")).encode()
        content = base64.b64decode(content, validate=True) if body.get("encoding") == "base64" else content
    except binascii.Error:
        raise invalid("custom", ["content"], "content must be valid base64") from None
    if len(content) > MAX_INLINE_BYTES:
        raise ApiError(413, "Request body is too large")
    file = _add_file(call, body, len(content))
    file.path.write_bytes(content)
    file.status = "completed"
    return json_response(201, {"data": _show(file)})


@route("files", "GET", "/files", "workspaceId folderPath search sortBy sortOrder limit cursor")
async def list_files(call: Call) -> Response:
    """List files in the order of their upload, whatever order is requested."""
    query, limit = call.query, limit_of(call, default=100, maximum=1000, clamp=True)
    workspace_id = _workspace_of(call, query)
    found = [
        _show(file)
        for file in call.state.files.existing
        if file.workspace_id == workspace_id
        and query.get("folderPath", file.folder_path) == file.folder_path
        and query.get("search", "").lower() in file.name.lower()
    ]
    return middleware.page(call, found, limit)


def _file(call: Call) -> StoredFile:
    workspace_id, file_id = _workspace_of(call, call.query), call.request.path_params["id"]
    for file in call.state.files.existing:
        if (file.workspace_id, file.file_id) == (workspace_id, file_id):
            return file
    raise ApiError(404, "File not found")


@route("file", "GET", "/files/{id}/metadata", "workspaceId")
async def get_file(call: Call) -> Response:
    return json_response(200, {"data": {**_show(_file(call)), "share": None}})


@route("download_file", "GET", "/files/{id}", "workspaceId")
async def download_file(call: Call) -> Response:
    file = _file(call)
    headers = {"content-type": file.content_type, "x-request-id": new_name(8)}
    return FileResponse(file.path, headers=headers, filename=file.name)


@route("delete_file", "DELETE", "/files/{id}", "workspaceId")
async def delete_file(call: Call) -> Response:
    file = _file(call)
    file.deleted_at = call.state.clock.now()
    return json_response(200, {"data": {"id": file.file_id, "deleted": True}})


@route("create_upload", "POST", "/files/uploads")
async def create_upload(call: Call) -> Response:
    body = await json_object(call.request)
    middleware.check_known(body, (*_FIELDS, "size"))
    size = body.get("size")
    if type(size) is not int:
        raise middleware.wrong_type(["size"], "number", size)
    if size > MAX_UPLOAD_BYTES:
        message = f"Too big: expected number to be <={MAX_UPLOAD_BYTES}"
        raise middleware.out_of_range(["size"], message, maximum=MAX_UPLOAD_BYTES)
    file = _add_file(call, body, size)
    session = _show_session(file)
    url = f"{call.state.files.upload_url or call.state.base_url}/api/v2/uploads/{file.session_id}"
    headers = {"Content-Type": file.content_type, "upload-token": file.token}
    transfer = {"method": "put", "url": url, "headers": headers, "expiresAt": session["expiresAt"]}
    return json_response(201, {"data": {"session": session, "uploadToken": file.token, "transfer": transfer}})


def _show_session(file: StoredFile) -> dict[str, Any]:
    created = _show(file) if file.status == "completed" else None
    content = {"name": file.name, "contentType": file.content_type, "size": file.size}
    end = {"expiresAt": iso(file.uploaded_at + 24 * 3600), "error": None, "file": created}
    return {"id": file.session_id, "status": file.status, **content, **end}


def _upload(request: Request) -> StoredFile:
    token, session_id = request.headers.get("upload-token"), request.path_params["id"]
    for file in state_of(request).files.all:
        if (file.session_id, file.token) == (session_id, token):
            return file
    raise ApiError(404, "Upload session not found")


async def _transfer(request: Request) -> Response:
    """Receive the content of a large file; requires no API key."""
    try:
        file, received = _upload(request), 0
        partial = file.path.with_suffix(".part")
        with partial.open("wb") as opened:
            async for chunk in request.stream():
                received += opened.write(chunk)
        if received != file.size:
            raise ApiError(400, f"Upload must contain exactly {file.size} bytes")
    except ApiError as error:
        return middleware.error_response(error)
    if file.status == "uploading":
        partial.rename(file.path)
    return empty_response(204, {"x-request-id": new_name(8)})


middleware.ROUTES.append(Route("/api/v2/uploads/{id}", _transfer, methods=["PUT"], name="transfer"))


@route("complete_upload", "POST", "/files/uploads/{id}/complete", "workspaceId")
async def complete_upload(call: Call) -> Response:
    _workspace_of(call, call.query)
    file = _upload(call.request)
    if file.status != "completed":
        if file.status == "aborted" or not file.path.exists():
            raise ApiError(409, "Uploaded object not found")
        _check_name(call, file.workspace_id, file.folder_path, file.name)
        file.status, file.uploaded_at = "completed", call.state.clock.now()
    return json_response(200, {"data": _show_session(file)})


@route("abort_upload", "DELETE", "/files/uploads/{id}", "workspaceId")
async def abort_upload(call: Call) -> Response:
    _workspace_of(call, call.query)
    file = _upload(call.request)
    if file.status == "completed":
        raise ApiError(409, "Upload session is completed")
    file.status = "aborted"
    file.path.unlink(missing_ok=True)
    return json_response(200, {"data": _show_session(file)})
