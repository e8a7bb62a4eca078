"""Flows of v2's files API: upload, find, list and delete the files of a workspace."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Protocol

from airflow_provider_sim.client import api, models
from airflow_provider_sim.client.api.http import MAX_BODY_BYTES
from airflow_provider_sim.client.flows import Flows
from airflow_provider_sim.client.retry import NO_RETRY, RequestOptions
from airflow_provider_sim.exceptions import SimConflictError, SimError, SimInputError, SimNotFoundError

if TYPE_CHECKING:
    from airflow_provider_sim.client.api.workspace_files import UploadSession

MAX_UPLOAD_BYTES = 5 * 1024**3  # the largest file of a workspace
TRANSFER_TIMEOUT = 300.0  # seconds for the response to a request with a file's content, or for Sim to register it
_CLOCK_TOLERANCE = 600.0  # seconds by which Sim's clock may be behind this machine's
_CHUNK_BYTES = 256 * 1024


class _Openable(Protocol):
    def open(self, mode: str, /) -> Any: ...


Content = bytes | _Openable | IO[bytes]
"""Content of an upload: bytes, a path object with ``open("rb")``, or an open file, see :meth:`.upload_file`."""


class FileFlows(Flows):
    """The flows of the files API, and those of :class:`Flows`."""

    async def upload_file(
        self,
        workspace_id: str | None,
        name: str,
        content: Content,
        *,
        content_type: str | None = None,
        folder_path: str | None = None,
    ) -> models.WorkspaceFile:
        """Upload a file to a workspace, at most once. Requires the v2 API.

        Up to 50 MiB are sent in one request. Larger files are streamed in an upload session, of which nothing is left
        after an error: three requests, or more if the server's storage takes the file in parts.

        :param workspace_id: ID of the workspace; None: the connection's, else the only one of the key.
        :param name: of the file; no other file of the folder has it.
        :param content: bytes, a path object (``pathlib.Path``, ``ObjectStoragePath``), or an open binary file that can
            seek, which is read from its position and stays open. Up to 5 GiB.
        :param content_type: MIME type; default: by the name's extension.
        :param folder_path: an existing folder, such as ``/reports``; default: the workspace's root folder.
        :raises SimConflictError: the folder has a file of this name; the code is ``FILE_EXISTS``.
        :raises SimInputError: an argument is invalid, or the content can't be read or is too large.
        :raises SimNotFoundError: the folder or the workspace doesn't exist.
        :raises SimUsageLimitError: the storage is full.
        """
        api.files.check_file(name, content_type)
        workspace_id = workspace_id or await self._default_workspace()
        file = api.workspace_files.new_file(workspace_id, name, content_type, folder_path)
        with contextlib.ExitStack() as opened:
            whole = await self._client.in_thread(open_content, content, opened)
            if len(whole) <= api.workspace_files.MAX_INLINE_BYTES:
                try:
                    return await self._upload_inline(file, whole)
                except SimInputError as error:
                    # A proxy's limit is often lower than Sim's, and some truncate the body.
                    is_truncated = error.status == 400 and len(whole) > MAX_BODY_BYTES // 4 * 3
                    if error.status != 413 and not is_truncated:
                        raise
            return await self._upload_in_session(file, whole)

    async def _upload_inline(self, file: Mapping[str, Any], whole: Part) -> models.WorkspaceFile:
        options, since = RequestOptions(timeout=TRANSFER_TIMEOUT), time.time()
        call = await self._client.in_thread(lambda: api.workspace_files.create(file, b"".join(whole)))
        try:
            return await self._only_v2(call, options)
        except SimConflictError as error:
            # An earlier attempt may have created it, and only its response was lost.
            if options.delays and error.code == "FILE_EXISTS":
                name, folder = file["name"], file.get("folderPath")
                page = await self.list_files(file["workspaceId"], folder_path=folder, search=name[:100], limit=1000)
                for found in page.items:
                    is_same = (found.name, found.folder_path, found.size) == (name, folder or "/", len(whole))
                    if is_same and (models.epoch(found.uploaded_at) or 0.0) >= since - _CLOCK_TOLERANCE:
                        return found
            raise

    async def _upload_in_session(self, file: Mapping[str, Any], whole: Part) -> models.WorkspaceFile:
        async def transfer(session: UploadSession) -> None:
            async with self._aborting(session):
                await self._transfer(session, whole)

        # Each attempt creates a session: the URL of the previous transfer may have expired.
        call = api.workspace_files.create_session(file, len(whole))
        session = await self._only_v2(call, RequestOptions(then=transfer))
        async with self._aborting(session):
            return await self._request(api.workspace_files.complete(session), RequestOptions(timeout=TRANSFER_TIMEOUT))

    async def _transfer(self, session: UploadSession, whole: Part) -> None:
        options = RequestOptions(NO_RETRY, timeout=TRANSFER_TIMEOUT)
        if session.transfer is not None:
            await self._client.send(api.workspace_files.put(session.transfer, whole), options)
            return
        offsets = range(0, len(whole), session.part_size)
        for first in range(0, len(offsets), api.workspace_files.PARTS_PER_REQUEST):
            some = offsets[first : first + api.workspace_files.PARTS_PER_REQUEST]
            numbers = range(first + 1, first + 1 + len(some))
            transfers = await self._request(api.workspace_files.part_urls(session, numbers), RequestOptions(NO_RETRY))
            for offset, to in zip(some, transfers, strict=True):
                part = whole.part(offset, session.part_size)
                await self._client.send(api.workspace_files.put(to, part), options)

    @contextlib.asynccontextmanager
    async def _aborting(self, session: UploadSession) -> AsyncIterator[None]:
        """Abort the session if the block raises an exception, also if the task is cancelled or killed."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(SimError):
                await self._request(api.workspace_files.abort(session), RequestOptions(NO_RETRY, timeout=10.0))
            raise

    async def list_files(
        self,
        workspace_id: str | None = None,
        *,
        folder_path: str | None = None,
        search: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> models.Page[models.WorkspaceFile]:
        """List one page of a workspace's files, without deleted ones. Requires the v2 API.

        :param workspace_id: ID of the workspace; None: the connection's, else the only one of the key.
        :param folder_path: only files of this folder, such as ``/reports``.
        :param search: only files whose name contains this text, in upper or lower case.
        :param limit: files per page, 1 to 1000; default: 100.
        :param cursor: ``next_cursor`` of the previous page, with the same filters; default: the first page.
        """
        workspace_id = workspace_id or await self._default_workspace()
        query = {"folder_path": folder_path, "search": search, "limit": limit, "cursor": cursor}
        return await self._only_v2(api.workspace_files.list_files(workspace_id, **query))

    async def delete_file(self, workspace_id: str | None, file_id: str) -> None:
        """Delete a file, unless it is deleted already. Requires the v2 API.

        Runs that have not read the file can't read it afterwards, so delete it when they have finished.

        :param workspace_id: ID of the workspace; None: the connection's, else the only one of the key.
        :param file_id: ID of the file.
        """
        workspace_id = workspace_id or await self._default_workspace()
        try:
            await self._only_v2(api.workspace_files.delete(workspace_id, file_id))
        except SimNotFoundError as error:
            if error.code != "FILE_NOT_FOUND":
                raise

    async def download_workspace_file(self, workspace_id: str | None, file_id: str) -> bytes:
        """Download a file of a workspace, of up to 256 MiB, to memory. Requires the v2 API.

        :param workspace_id: ID of the workspace; None: the connection's, else the only one of the key.
        :param file_id: ID of the file.
        """
        workspace_id = workspace_id or await self._default_workspace()
        return await self._only_v2(api.workspace_files.download(workspace_id, file_id))


class Part:
    """A part of a file as the body of a request; by its length, ``requests`` sends no chunked encoding."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file, self._offset, self._size = file, offset, size

    def __len__(self) -> int:
        return self._size

    def part(self, offset: int, size: int) -> Part:
        """Return up to ``size`` bytes of this part."""
        return Part(self._file, self._offset + offset, min(size, self._size - offset))

    def __iter__(self) -> Iterator[bytes]:
        """Yield its bytes in chunks; raise SimInputError if they can't be read."""
        left = self._size
        try:
            self._file.seek(self._offset)
            while left > 0:
                chunk = self._file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise SimInputError("The file was truncated during its upload.")
                left -= len(chunk)
                yield chunk
        except OSError as error:
            raise SimInputError(f"The file to upload can't be read: {error}.") from error


def open_content(content: Any, opened: contextlib.ExitStack) -> Part:
    """Return the whole content of an upload; raise SimInputError if it can't be read, or is larger than Sim accepts."""
    file: Any = None
    try:
        if isinstance(content, bytes | bytearray | memoryview):
            file = io.BytesIO(content)
        elif hasattr(content, "read"):
            file = content
        elif hasattr(content, "open"):
            file = opened.enter_context(content.open("rb"))
        if file is None or isinstance(file, io.TextIOBase):
            kind = type(content).__name__
            raise SimInputError(f"The content to upload is a {kind}; it must be bytes, a path object or a binary file.")
        start = file.tell()
        size = file.seek(0, io.SEEK_END) - start
    except OSError as error:
        raise SimInputError(f"The file to upload can't be read: {error}.") from error
    if size > MAX_UPLOAD_BYTES:
        message = f"The file has {size / 2**30:.1f} GiB; Sim accepts up to 5 GiB."
        raise SimInputError(message, code="PAYLOAD_TOO_LARGE")
    return Part(file, start, size)
