# SPDX-License-Identifier: Apache-2.0
"""Uploads to the Files API."""

# A cut connection leaves what had arrived, and a query tells how much that is. Source of the protocol:
# https://developers.google.com/photos/library/guides/resumable-uploads.

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from starlette.responses import Response

from gemini_batch_emulator.answering.requests import member
from gemini_batch_emulator.developer.access import require_key
from gemini_batch_emulator.developer.store import UploadSession, file_resource, file_store
from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.replies import base_url, reply, write_pieces

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState

MAX_DISPLAY_NAME = 512
RECEIPT_BYTES = 2 << 20
"""What has arrived of an upload is handed to a worker thread in pieces of this size."""

SESSION_IS_BUSY_FOR = 5.0
"""Seconds a query waits for an earlier request of the same session to be noticed as dead."""


class _Receipt:
    """Writes and hashes in a worker thread while the server receives on; what has arrived is kept, come what may."""

    def __init__(self, session: UploadSession, file: BinaryIO) -> None:
        self._session = session
        self._file = file
        self._pieces: list[bytes] = []
        self._size = 0
        self._work: asyncio.Future[None] | None = None
        self.arrived = session.received

    async def add(self, piece: bytes) -> None:
        """Take what has just arrived."""
        self._pieces.append(piece)
        self._size += len(piece)
        self.arrived += len(piece)
        # One piece is on its way to the disk while the next one arrives; more would let a fast client fill the memory.
        if self._size >= RECEIPT_BYTES:
            await self._settle()
            pieces, self._pieces, self._size = self._pieces, [], 0
            self._work = asyncio.get_running_loop().run_in_executor(None, self._keep, pieces)

    async def finish(self) -> None:
        """Keep the rest."""
        await self._settle()
        self._keep(self._pieces)

    async def _settle(self) -> None:
        if self._work is not None:
            work, self._work = self._work, None
            await work

    def _keep(self, pieces: list[bytes]) -> None:
        # In one: each call lets go of the interpreter and has to wait until the receiving thread gives it back.
        whole = b"".join(pieces)
        write_pieces(self._file, whole)
        self._session.digest.update(whole)
        self._session.received += len(whole)


def _described(body: bytes) -> dict[str, Any]:
    """Read the JSON that describes a new file."""
    try:
        value = msgspec.json.decode(body) if body.strip() else {}
    except msgspec.DecodeError as error:
        raise GoogleError(400, f"Invalid JSON payload received. {error}") from error
    described = value.get("file", {}) if isinstance(value, dict) else None
    if not isinstance(described, dict):
        raise GoogleError(400, 'Invalid value at "file": must be an object.')
    if len(str(member(described, "displayName") or "")) > MAX_DISPLAY_NAME:
        raise GoogleError(400, f"* CreateFileRequest.file.display_name: at most {MAX_DISPLAY_NAME} characters.")
    return described


class Uploads:
    """Resumable, multipart and raw uploads of one version of the API."""

    def __init__(self, state: EmulatorState, version: str) -> None:
        self._state = state
        self._version = version

    async def handle(self, request: Request) -> Response:
        """Tell the kinds of upload apart."""
        upload_id = request.query_params.get("upload_id")
        # A session's URL needs no key: whoever has it may write, as with the service.
        if upload_id:
            return await self._continued(request, upload_id)
        require_key(self._state, request)
        # Three ways to send a file: in pieces that can be resumed, or in one request with its description (multipart)
        # or without (raw). Batch input comes by the first one; clients of other languages use the second.
        if request.headers.get("x-goog-upload-protocol") == "raw":
            return await self._raw(request)
        if request.headers.get("content-type", "").startswith("multipart/related"):
            return await self._multipart(request)
        commands = _commands(request)
        if "start" not in commands:
            raise GoogleError(400, "Upload must start with X-Goog-Upload-Command: start.")
        return await self._start(request)

    async def _start(self, request: Request) -> Response:
        state = self._state
        described = _described(await request.body())
        announced = request.headers.get("x-goog-upload-header-content-length")
        try:
            # A size that is announced may be checked at once and again at the end; a stream of unknown length has none.
            total = None if announced is None else int(announced)
        except ValueError:
            raise GoogleError(400, "X-Goog-Upload-Header-Content-Length is not a number.") from None
        self._check_size(total or 0)
        described["name"] = file_store(state).check_name(described.get("name"))
        mime_type = (
            request.headers.get("x-goog-upload-header-content-type")
            or member(described, "mimeType")
            or "application/octet-stream"
        )
        # A session URL is a secret, hence not from the seeded ids.
        upload_id = base64.urlsafe_b64encode(hashlib.sha256(str(state.new_path()).encode()).digest()).decode()[:40]
        path = state.new_path(".upload")
        path.touch()
        file_store(state).uploads[upload_id] = UploadSession(described, path, total, mime_type)
        headers = {
            "x-goog-upload-status": "active",
            "x-goog-upload-url": f"{base_url(request)}/upload/{self._version}/files"
            f"?upload_id={upload_id}&upload_protocol=resumable",
        }
        # 8 MiB at Google, as fixtures of two clients show; a knob, so that tests of small files meet the rule, too.
        if state.config.upload_granularity:
            headers["x-goog-upload-chunk-granularity"] = str(state.config.upload_granularity)
        return Response(b"", 200, headers)

    def _check_size(self, size: int) -> None:
        limit = self._state.config.max_file_bytes
        if size > limit:
            raise GoogleError(400, f"File size {size} exceeds the limit of {limit} bytes.")

    async def _continued(self, request: Request, upload_id: str) -> Response:
        session = file_store(self._state).uploads.get(upload_id)
        if session is None:
            raise GoogleError(404, "Upload session not found.", headers={"x-goog-upload-status": "cancelled"})
        try:
            async with asyncio.timeout(SESSION_IS_BUSY_FOR):
                # A client that was cut off asks again while the server still believes in the old connection.
                await session.lock.acquire()
        except TimeoutError:
            raise GoogleError(409, "Another request of this upload is under way.", "ABORTED") from None
        try:
            return await self._command(request, session)
        except GoogleError as error:
            error.headers.setdefault("x-goog-upload-status", "final" if session.outcome else "active")
            error.headers["x-goog-upload-size-received"] = str(session.received)
            raise
        finally:
            session.lock.release()

    async def _command(self, request: Request, session: UploadSession) -> Response:
        commands = _commands(request)
        # Told in the status header and not by an error, as the protocol does.
        if session.is_cancelled:
            return Response(b"", 200, {"x-goog-upload-status": "cancelled"})
        if session.outcome is not None:
            # The answer to finalize may have been lost on its way; who asks again is told again.
            async for _ in request.stream():
                pass
            return self._final(session)
        # What a client asks after a cut: sending the same piece again blindly would be wrong wherever a part of it had
        # arrived.
        if commands == ["query"]:
            headers = {"x-goog-upload-status": "active", "x-goog-upload-size-received": str(session.received)}
            if self._state.config.upload_granularity:
                headers["x-goog-upload-chunk-granularity"] = str(self._state.config.upload_granularity)
            return Response(b"", 200, headers)
        if commands == ["cancel"]:
            session.is_cancelled = True
            session.path.unlink(missing_ok=True)
            return Response(b"", 200, {"x-goog-upload-status": "cancelled"})
        if not commands or set(commands) - {"upload", "finalize"}:
            raise GoogleError(400, f"Unknown upload command {', '.join(commands)!r}.")
        finalize = "finalize" in commands
        # `upload, finalize` in one request is how the last piece is sent; `finalize` alone ends an upload that is
        # complete.
        if "upload" in commands:
            await self._receive(request, session, finalize)
        if not finalize:
            headers = {"x-goog-upload-status": "active", "x-goog-upload-size-received": str(session.received)}
            return Response(b"", 200, headers)
        if session.total is not None and session.received != session.total:
            raise GoogleError(
                400, f"Upload has {session.received} bytes, but {session.total} bytes were announced at its start."
            )
        self._finalize(request, session)
        return self._final(session)

    async def _receive(self, request: Request, session: UploadSession, finalize: bool) -> None:
        try:
            offset = int(request.headers.get("x-goog-upload-offset", ""))
        except ValueError:
            raise GoogleError(400, "X-Goog-Upload-Offset is missing or not a number.") from None
        # Read to its end first: a reply in the middle of a body would be lost with the connection.
        if offset != session.received:
            async for _ in request.stream():
                pass
            raise GoogleError(
                412, f"Upload offset {offset} does not match the {session.received} bytes received so far."
            )
        granularity = self._state.config.upload_granularity
        length = request.headers.get("content-length")
        if granularity and not finalize and length is not None and int(length) % granularity:
            async for _ in request.stream():
                pass
            raise GoogleError(400, f"Chunks but the last must be a multiple of {granularity} bytes, not {length}.")
        with session.path.open("ab") as file:
            # What arrived before a cut counts, to the byte; the query that follows tells it.
            receipt = _Receipt(session, file)
            try:
                async for chunk in request.stream():
                    arrived = receipt.arrived + len(chunk)
                    self._check_size(arrived)
                    if session.total is not None and arrived > session.total:
                        raise GoogleError(
                            400, f"Upload is longer than the {session.total} bytes announced at its start."
                        )
                    await receipt.add(chunk)
            finally:
                await receipt.finish()

    def _finalize(self, request: Request, session: UploadSession) -> None:
        # Reported of the service: an unsupported type is told at the very end, in the body of a reply with HTTP 200
        # (https://github.com/googleapis/python-genai/issues/1590).
        if session.mime_type in self._state.config.reject_mime_types:
            session.outcome = GoogleError(400, f"Unsupported MIME type: {session.mime_type}").body()
            session.path.unlink(missing_ok=True)
            return
        stored = file_store(self._state).add(
            session.path,
            name=session.file["name"],
            display_name=str(member(session.file, "displayName") or ""),
            mime_type=session.mime_type,
            size=session.received,
            sha256=session.digest.hexdigest(),
        )
        session.outcome = {"file": file_resource(self._state, stored, base_url(request), self._version)}

    def _final(self, session: UploadSession) -> Response:
        # Reported of the service: a final answer, HTTP 200, and no file in it.
        body = {} if self._state.config.upload_final_without_file else session.outcome
        answer = reply(self._state, None, body)
        answer.headers["x-goog-upload-status"] = "final"
        answer.headers["x-goog-upload-size-received"] = str(session.received)
        return answer

    async def _whole(self, request: Request, described: dict[str, Any], mime_type: str, path: Path) -> Response:
        """Keep a file that arrived in one request and lies at *path*."""
        if mime_type in self._state.config.reject_mime_types:
            raise GoogleError(400, f"Unsupported MIME type: {mime_type}")
        digest, size = await asyncio.to_thread(_measure, path)
        self._check_size(size)
        store = file_store(self._state)
        stored = store.add(
            path,
            name=store.check_name(described.get("name")),
            display_name=str(member(described, "displayName") or ""),
            mime_type=mime_type,
            size=size,
            sha256=digest,
        )
        resource = file_resource(self._state, stored, base_url(request), self._version)
        return reply(self._state, request, {"file": resource})

    async def _raw(self, request: Request) -> Response:
        path = self._state.new_path(".upload")
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        mime_type = request.headers.get("x-goog-upload-header-content-type") or request.headers.get("content-type")
        described = {"displayName": request.headers.get("x-goog-upload-file-name", "")}
        return await self._whole(request, described, mime_type or "application/octet-stream", path)

    async def _multipart(self, request: Request) -> Response:
        found = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
        if found is None:
            raise GoogleError(400, "multipart/related without a boundary.")
        raw = self._state.new_path(".multipart")
        with raw.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        path = self._state.new_path(".upload")
        try:
            described, mime_type = await asyncio.to_thread(_split_multipart, raw, found.group(1).encode(), path)
        finally:
            raw.unlink(missing_ok=True)
        return await self._whole(request, described, mime_type, path)


def _commands(request: Request) -> list[str]:
    text = request.headers.get("x-goog-upload-command", "")
    return [word.strip() for word in text.lower().split(",") if word.strip()]


def _measure(path: Path) -> tuple[str, int]:
    """Return a file's SHA-256, in hexadecimal, and its size."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _split_multipart(raw: Path, boundary: bytes, target: Path) -> tuple[dict[str, Any], str]:
    """Take a two-part body apart: description, then data, which goes to *target*; return description and MIME type."""
    import mmap

    marker = b"--" + boundary
    with raw.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        # Mapped and searched, never read as a whole: the body may be as large as the file limit.
        first = whole.find(marker)
        second = whole.find(b"\n" + marker, first + 1)
        last = whole.rfind(b"\n" + marker + b"--")
        json_start = _after_headers(whole, first)
        data_start = _after_headers(whole, second + 1)
        if min(first, second) < 0 or last <= second or min(json_start, data_start) < 0:
            raise GoogleError(400, "The multipart/related body must have two parts.")
        described = _described(whole[json_start:second])
        header = whole[second + 1 : data_start].decode("latin-1")
        kind = re.search(r"(?im)^content-type:\s*(\S+)", header)
        # The line break before a boundary belongs to the boundary, not to the file.
        end = last - 1 if whole[last - 1 : last] == b"\r" else last
        with target.open("wb") as out:
            for position in range(data_start, end, 1 << 20):
                out.write(whole[position : min(position + (1 << 20), end)])
    return described, kind.group(1) if kind else "application/octet-stream"


def _after_headers(whole: Any, start: int) -> int:
    ends = [
        position + len(blank)
        for blank in (b"\r\n\r\n", b"\n\n")
        if start >= 0 and (position := whole.find(blank, start)) >= 0
    ]
    return min(ends) if ends else -1
