# SPDX-License-Identifier: Apache-2.0
"""Uploads to Cloud Storage: simple, multipart and resumable."""

# Resumable uploads follow the service: a chunk that is not the last must have at least 262,144 bytes, and of it whole
# multiples of 262,144 are kept, so that the `Range` of a 308 may end before what was sent. A connection that breaks
# keeps the multiples received until then.
#
# Sources: https://storage.googleapis.com/$discovery/rest?version=v1,
# https://cloud.google.com/storage/docs/performing-resumable-uploads.

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from gemini_batch_emulator.replies import base_url, reply
from gemini_batch_emulator.storage.access import allow, json_body
from gemini_batch_emulator.storage.multipart import parts_of, piecewise
from gemini_batch_emulator.storage.resources import object_resource
from gemini_batch_emulator.storage.store import GRANULE, Conditions, StorageError, UploadSession, object_store

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState
    from gemini_batch_emulator.storage.store import Bucket, ObjectWriter

_BLOCK = 1 << 20
_OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Span:
    """
    The bytes a request says it brings.

    :param first: Offset of the first; None asks what is kept.
    :param length: Number of bytes; None is not said.
    :param total: Size of the whole; None is not known yet.
    """

    first: int | None
    length: int | None
    total: int | None

    @classmethod
    def of(cls, request: Request) -> Span:
        """
        Read ``Content-Range``.

        :raises StorageError: 400 for one that cannot be read.
        """
        header = request.headers.get("content-range", "")
        if not header:
            return cls(0, None, None)
        found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", header)
        if found is None:
            raise StorageError(400, f"Invalid Content-Range: {header}")
        total = int(found[3]) if found[3] != "*" else None
        if found[1] is None:
            # `bytes */N`, a status query:
            # https://cloud.google.com/storage/docs/performing-resumable-uploads#status-check.
            return cls(None, None, total)
        return cls(int(found[1]), int(found[2]) + 1 - int(found[1]), total)

    @property
    def is_last(self) -> bool:
        """Whether the upload ends with these bytes."""
        if self.length is None or self.first is None:
            return True
        return self.total is not None and self.first + self.length == self.total

    def check(self, size: int) -> None:
        """
        Check the bytes against those that are here.

        :raises StorageError: 503 for a gap, 400 for a chunk that is too small.
        """
        # A gap can never be filled. Bytes that are sent again are no trouble: they are skipped.
        if self.first is not None and self.first > size:
            raise StorageError(
                503,
                f"Invalid request.  According to the Content-Range header, the upload offset is {self.first} byte(s), "
                f"which exceeds already uploaded size of {size} byte(s).",
            )
        if not self.is_last and self.length is not None and self.length < GRANULE:
            raise StorageError(
                400,
                "Invalid request.  The number of bytes uploaded is required to be equal or greater than 262144, except "
                "for the final request (it's recommended to be the exact multiple of 262144).  The received request "
                f"contained {self.length} bytes, which does not meet this requirement.",
            )

    def check_received(self, received: int) -> None:
        """
        Check how many bytes came.

        :raises StorageError: 400 if it is another number than was said.
        """
        if self.length is not None and self.first is not None and received != self.length:
            raise StorageError(
                400,
                f"Invalid request.  There were {received} byte(s) in the request body.  There should have been "
                f"{self.length} byte(s) (starting at offset {self.first} and ending at offset "
                f"{self.first + self.length - 1}) according to the Content-Range header.",
            )


class Uploads:
    """Handlers."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """The routes."""
        path = "/upload/storage/v1/b/{bucket}/o"
        return [
            Route(path, self.upload, methods=["POST"], name="storage.objects.upload"),
            Route(path, self.resume, methods=["PUT", "DELETE"], name="storage.objects.upload"),
        ]

    async def upload(self, request: Request) -> Response:
        """Take an object in one request, or begin a resumable upload."""
        store = object_store(self._state)
        bucket = store.bucket(request.path_params["bucket"])
        allow(self._state, request, bucket, "storage.objects.create")
        kind = request.query_params.get("uploadType", "")
        if kind == "resumable":
            return await self._begin(request, bucket)
        conditions = Conditions.of(request)
        writer = store.writer()
        try:
            async for block in request.stream():
                writer.write(block)
        except ClientDisconnect:
            writer.abort()
            raise
        if kind == "media":
            name = request.query_params.get("name", "")
            facts: dict[str, Any] = {
                "content_type": request.headers.get("content-type") or _OCTETS,
                "content_encoding": request.query_params.get("contentEncoding", ""),
            }
        elif kind == "multipart":
            writer, name, facts = self._taken_apart(request, writer)
        else:
            writer.abort()
            raise StorageError(400, f"Unknown uploadType: '{kind}'")
        if not name:
            writer.abort()
            raise StorageError(400, "Required parameter: name", "required")
        stored = writer.commit(bucket.name, name, conditions=conditions, **facts)
        return reply(self._state, request, object_resource(stored, base_url(request)))

    def _taken_apart(self, request: Request, whole: ObjectWriter) -> tuple[ObjectWriter, str, dict[str, Any]]:
        """Return the media of a multipart body, its name, and what its metadata say."""
        writer = object_store(self._state).writer()
        try:
            with whole.path.open("rb") as raw:
                metadata, media_type, first, end = parts_of(raw, whole.size, request.headers.get("content-type", ""))
                for block in piecewise(raw, first, end - first):
                    writer.write(block)
        except StorageError:
            writer.abort()
            raise
        finally:
            whole.abort()
        facts = {
            "content_type": metadata.get("contentType") or media_type or _OCTETS,
            "content_encoding": metadata.get("contentEncoding", ""),
            "metadata": metadata.get("metadata"),
            "md5": str(metadata.get("md5Hash") or ""),
        }
        return writer, str(metadata.get("name") or request.query_params.get("name", "")), facts

    async def _begin(self, request: Request, bucket: Bucket) -> Response:
        store = object_store(self._state)
        metadata = await json_body(request)
        name = str(metadata.get("name") or request.query_params.get("name", ""))
        if not name:
            raise StorageError(400, "Required parameter: name", "required")
        conditions = Conditions.of(request)
        # Checked at the start and again at the end: in between another upload may have made the object.
        conditions.check(bucket.objects.get(name), reading=False)
        announced = request.headers.get("x-upload-content-type")
        session = UploadSession(
            id=secrets.token_urlsafe(32),
            bucket=bucket.name,
            name=name,
            writer=store.writer(),
            content_type=str(metadata.get("contentType") or announced or _OCTETS),
            content_encoding=str(metadata.get("contentEncoding") or ""),
            metadata=metadata.get("metadata") or {},
            conditions=conditions,
            md5=str(metadata.get("md5Hash") or ""),
        )
        store.sessions[session.id] = session
        location = (
            f"{base_url(request)}/upload/storage/v1/b/{bucket.name}/o"
            f"?uploadType=resumable&name={quote(name, safe='')}&upload_id={session.id}"
        )
        return Response(status_code=200, headers={"Location": location, "X-GUploader-UploadID": session.id})

    # A session under way --------------------------------------------------------------------------------------------

    async def resume(self, request: Request) -> Response:
        """A PUT or DELETE on a session URL; the URL itself is the permission."""
        session = object_store(self._state).sessions.get(request.query_params.get("upload_id", ""))
        if session is None or session.bucket != request.path_params["bucket"]:
            raise StorageError(404, "No such upload session.")
        async with session.busy:
            return await self._resumed(request, session)

    async def _resumed(self, request: Request, session: UploadSession) -> Response:
        if session.cancelled:
            raise StorageError(410, "The upload session was cancelled.")
        if request.method == "DELETE":
            session.cancelled = True
            if session.stored is None:
                session.writer.abort()
            # The documented answer to a cancelled session, odd as it is.
            return Response(status_code=499)
        span = Span.of(request)
        if session.stored is not None:
            return reply(self._state, request, object_resource(session.stored, base_url(request)))
        if span.first is None:
            # "bytes */N" asks what is kept; with all N bytes there, or none to come, it also ends the upload.
            if span.total is not None and span.total == session.writer.size:
                return self._finish(request, session)
            return _kept(session)
        span.check(session.writer.size)
        return await self._receive(request, session, span)

    async def _receive(self, request: Request, session: UploadSession, span: Span) -> Response:
        writer = session.writer
        # A knob: the service may keep less than it was sent, and a client has to go on from the `Range` of the 308.
        budgets = self._state.config.storage_keep_bytes
        budget = int(budgets.pop(0)) if budgets else None
        skip = writer.size - (span.first or 0)  # bytes sent again that are already here
        received = 0
        pending = bytearray()
        try:
            async for block in request.stream():
                piece = block if budget is None else block[: max(0, budget - received)]
                received += len(block)
                dropped = min(skip, len(piece))
                skip -= dropped
                pending += piece[dropped:]
                if len(pending) >= _BLOCK:
                    _flush(writer, pending)
        except ClientDisconnect:
            _flush(writer, pending)
            raise
        is_kept_in_part = budget is not None and received > budget
        if is_kept_in_part or not span.is_last or (span.length is not None and received != span.length):
            _flush(writer, pending)
        if is_kept_in_part:
            return _kept(session)
        span.check_received(received)
        if not span.is_last:
            return _kept(session)
        writer.write(pending)
        return self._finish(request, session)

    def _finish(self, request: Request, session: UploadSession) -> Response:
        try:
            session.stored = session.writer.commit(
                session.bucket,
                session.name,
                content_type=session.content_type,
                content_encoding=session.content_encoding,
                metadata=session.metadata,
                conditions=session.conditions,
                md5=session.md5,
            )
        except StorageError:
            # The bytes are dropped, so the session cannot go on: the client has to begin anew.
            session.cancelled = True
            raise
        return reply(self._state, request, object_resource(session.stored, base_url(request)))


def _kept(session: UploadSession) -> Response:
    """Say how many bytes are kept."""
    size = session.writer.size
    headers = {"X-GUploader-UploadID": session.id} | ({"Range": f"bytes=0-{size - 1}"} if size else {})
    return Response(status_code=308, headers=headers)


def _flush(writer: ObjectWriter, pending: bytearray) -> None:
    """Keep whole granules; the rest stays in *pending*, and is lost if no more comes."""
    count = len(pending) // GRANULE * GRANULE
    if count:
        with memoryview(pending) as view, view[:count] as piece:
            writer.write(piece)
        del pending[:count]
