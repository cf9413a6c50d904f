# SPDX-License-Identifier: Apache-2.0
"""
The part of the Cloud Storage JSON API that batch jobs need, with objects on disk.

Served: buckets (create, get, list, delete); objects (list, get, ``alt=media`` with ranges, delete; simple, multipart
and resumable upload) below ``/storage/v1``, ``/upload/storage/v1`` and ``/download/storage/v1``. An object of any size
passes through in pieces and is never whole in memory. Not served: versions of an object beyond the live one, rewrite,
compose, ACLs, notifications, and ``crc32c`` (``md5Hash`` is there; without a C library the other costs seconds per
gigabyte).

A bucket exists once somebody created it, over HTTP or with :meth:`ObjectStore.create_bucket`; ``emulator`` is there
from the start.

Resumable uploads follow the service: a chunk that is not the last must have at least 262,144 bytes, and of it whole
multiples of 262,144 are kept, so that the ``Range`` of a 308 may end before what was sent. A connection that breaks
keeps the multiples received until then.

Cut connections come from the core's faults (``cut_upload``, ``cut_response``). Knobs of :class:`~.core.Config` used
here: ``create_missing_buckets``, ``forbidden_buckets``, and in ``extra``:

==============================  ======================================================================================
``storage_denied``              ``{"bucket": ["storage.objects.create", ...]}``: permissions the caller lacks (403).
``storage_keep_bytes``          ``[n, ...]``: of the next data requests of resumable uploads only so many bytes are
                                kept, and 308 is answered; first in, first out.
==============================  ======================================================================================

Sources: https://storage.googleapis.com/$discovery/rest?version=v1,
https://cloud.google.com/storage/docs/performing-resumable-uploads.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gemini_batch_emulator.core import (
    GoogleError,
    file_reply,
    parse_range,
    reply,
    timestamp,
    write_pieces,
)
from gemini_batch_emulator.token import bearer, token_desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from gemini_batch_emulator.core import EmulatorState

GRANULE = 262_144
"""Bytes: what is kept of an unfinished resumable upload is a multiple of this."""

_BLOCK = 1 << 20
_REASONS = {
    400: "invalid",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    409: "conflict",
    410: "gone",
    412: "conditionNotMet",
    416: "requestedRangeNotSatisfiable",
    503: "backendError",
}


class StorageError(GoogleError):
    """An error reply as the JSON API writes it, with ``errors[].reason``."""

    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        detail = {
            "message": message,
            "domain": "global",
            "reason": reason or _REASONS.get(status, "invalid"),
        }
        super().__init__(status, message, errors=[detail])


class NotModified(Exception):
    """The caller has this generation already: 304 without a body."""


@dataclass
class Bucket:
    """A bucket."""

    name: str
    created: float
    project: str = ""
    location: str = "US-CENTRAL1"
    objects: dict[str, StoredObject] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class StoredObject:
    """One generation of an object; its bytes lie in *path*."""

    bucket: str
    name: str
    generation: int
    size: int
    md5: bytes
    created: float
    path: Path
    content_type: str = "application/octet-stream"
    content_encoding: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


class ObjectWriter:
    """Bytes on their way to an object; it exists from :meth:`commit` on."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.path = store.new_path()
        self._file: BinaryIO = self.path.open("wb", buffering=0)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append."""
        write_pieces(self._file, data)
        self._md5.update(data)
        self.size += len(data)

    def commit(
        self,
        bucket: str,
        name: str,
        *,
        content_type: str = "application/octet-stream",
        content_encoding: str = "",
        metadata: dict[str, str] | None = None,
        conditions: Conditions | None = None,
        md5: str = "",
    ) -> StoredObject:
        """
        Make the bytes an object, in place of an older one of the name.

        :param md5: What the caller says the base64 of the bytes' MD5 is; empty says nothing.
        :raises StorageError: 404 without the bucket, 412 if *conditions* do not hold, 400 if the hash differs; the
            bytes are dropped then.
        """
        self._file.close()
        store = self._store
        try:
            own = base64.b64encode(self._md5.digest()).decode()
            if md5 and md5 != own:
                raise StorageError(
                    400, f'Provided MD5 hash "{md5}" doesn\'t match calculated MD5 hash "{own}".', "invalid"
                )
            with store.lock:
                home = store.bucket(bucket)
                old = home.objects.get(name)
                if conditions is not None:
                    conditions.check(old, reading=False)
                stored = StoredObject(
                    bucket=bucket,
                    name=name,
                    generation=store.next_generation(),
                    size=self.size,
                    md5=self._md5.digest(),
                    created=store.now(),
                    path=self.path,
                    content_type=content_type,
                    content_encoding=content_encoding,
                    metadata=metadata or {},
                )
                home.objects[name] = stored
        except StorageError:
            self.abort()
            raise
        if old is not None:
            old.path.unlink(missing_ok=True)
        return stored

    def abort(self) -> None:
        """Drop the bytes."""
        self._file.close()
        self.path.unlink(missing_ok=True)


@dataclass
class UploadSession:
    """A resumable upload between its start and its last byte."""

    id: str
    bucket: str
    name: str
    writer: ObjectWriter
    content_type: str
    content_encoding: str
    metadata: dict[str, str]
    conditions: Conditions
    md5: str = ""
    stored: StoredObject | None = None
    cancelled: bool = False
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a request writes, so that a query after a cut waits until the cut one has been noticed."""


@dataclass(frozen=True)
class Conditions:
    """``ifGenerationMatch`` and its kin."""

    match: int | None = None
    not_match: int | None = None

    @classmethod
    def of(cls, request: Request) -> Conditions:
        """Read them from the query."""
        return cls(
            _integer(request, "ifGenerationMatch"),
            _integer(request, "ifGenerationNotMatch"),
        )

    def check(self, stored: StoredObject | None, *, reading: bool) -> None:
        """Raise StorageError 412, or NotModified for a read of the generation that the caller already has."""
        generation = stored.generation if stored is not None else 0
        message = "At least one of the pre-conditions you specified did not hold."
        if self.match is not None and self.match != generation:
            raise StorageError(412, message)
        if self.not_match is not None and self.not_match == generation:
            raise NotModified if reading else StorageError(412, message)


class ObjectStore:
    """
    Buckets and objects, on disk.

    Safe to use from several threads; a reader of an object that is replaced or deleted meanwhile keeps its file.
    """

    def __init__(self, state: EmulatorState) -> None:
        self._state = state
        self.lock = threading.RLock()
        self.buckets: dict[str, Bucket] = {}
        self.sessions: dict[str, UploadSession] = {}
        self._generation = 0
        self.create_bucket("emulator")

    def close(self) -> None:
        """Close what unfinished uploads hold open."""
        for session in self.sessions.values():
            if session.stored is None:
                session.writer.abort()

    def now(self) -> float:
        """Return the emulated time."""
        return self._state.now()

    def new_path(self) -> Path:
        """Return a path for an object's bytes."""
        return self._state.new_path(".object")

    def create_bucket(self, name: str, *, project: str = "", location: str = "US-CENTRAL1") -> Bucket:
        """Make a bucket; one that exists is returned as it is."""
        with self.lock:
            if name not in self.buckets:
                self.buckets[name] = Bucket(name, self.now(), project, location.upper())
            return self.buckets[name]

    def bucket(self, name: str) -> Bucket:
        """:raises StorageError: 404."""
        found = self.buckets.get(name)
        if found is None and self._state.config.create_missing_buckets:
            found = self.create_bucket(name)
        if found is None:
            raise StorageError(404, "The specified bucket does not exist.")
        return found

    def get(self, bucket: str, name: str) -> StoredObject:
        """:raises StorageError: 404 without the bucket or the object."""
        found = self.bucket(bucket).objects.get(name)
        if found is None:
            raise StorageError(404, f"No such object: {bucket}/{name}")
        return found

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of the objects below *prefix*, in order."""
        with self.lock:
            return sorted(name for name in self.bucket(bucket).objects if name.startswith(prefix))

    def writer(self) -> ObjectWriter:
        """Begin an object; nothing is visible before its ``commit``."""
        return ObjectWriter(self)

    def put(self, bucket: str, name: str, data: bytes | Iterable[bytes], **facts: Any) -> StoredObject:
        """Store an object in one go; *facts* as of :meth:`ObjectWriter.commit`."""
        writer = self.writer()
        for block in [data] if isinstance(data, bytes) else data:
            writer.write(block)
        return writer.commit(bucket, name, **facts)

    def read(self, bucket: str, name: str) -> bytes:
        """The whole object; for tests and small ones."""
        return self.get(bucket, name).path.read_bytes()

    def delete(self, bucket: str, name: str, conditions: Conditions | None = None) -> None:
        """:raises StorageError: 404, or 412 if *conditions* do not hold."""
        with self.lock:
            stored = self.get(bucket, name)
            if conditions is not None:
                conditions.check(stored, reading=False)
            del self.bucket(bucket).objects[name]
        stored.path.unlink(missing_ok=True)

    def next_generation(self) -> int:
        """Microseconds of the clock, never the same number twice."""
        with self.lock:
            self._generation = max(self._generation + 1, int(self.now() * 1_000_000))
            return self._generation


def object_store(state: EmulatorState) -> ObjectStore:
    """Return the store of *state*; a new, empty one after a reset."""
    return state.room("storage", lambda: ObjectStore(state))


def split_uri(uri: str) -> tuple[str, str]:
    """``gs://bucket/name`` -> its two parts; ValueError for anything else."""
    match = re.fullmatch(r"gs://([^/]+)/?(.*)", uri, re.DOTALL)
    if match is None:
        raise ValueError(uri)
    return match[1], match[2]


def glob_pattern(glob: str) -> re.Pattern[str]:
    """``matchGlob`` as a pattern: ``*`` and ``?`` stop at a slash, ``**`` does not, ``{a,b}`` and ``[...]`` work."""
    out = ""
    depth = 0
    rest = glob
    while rest:
        if rest.startswith("**/"):
            piece, out = "**/", out + "(?:.*/)?"
        elif rest.startswith("**"):
            piece, out = "**", out + ".*"
        elif rest[0] == "[" and "]" in rest:
            piece = rest[: rest.index("]") + 1]
            out += piece.replace("[!", "[^")
        elif rest[0] == "\\" and len(rest) > 1:
            piece, out = rest[:2], out + re.escape(rest[1])
        else:
            piece = rest[0]
            if piece == "{":
                depth += 1
            simple = {
                "*": "[^/]*",
                "?": "[^/]",
                "{": "(?:",
                "}": ")" if depth else r"\}",
                ",": "|" if depth else ",",
            }
            if piece == "}" and depth:
                depth -= 1
            out += simple.get(piece) or re.escape(piece)
        rest = rest[len(piece) :]
    return re.compile(out, re.DOTALL)


def object_resource(stored: StoredObject, base_url: str) -> dict[str, Any]:
    """The object as the JSON API shows it."""
    path = f"b/{stored.bucket}/o/{quote(stored.name, safe='')}"
    created = _milliseconds(stored.created)
    resource: dict[str, Any] = {
        "kind": "storage#object",
        "id": f"{stored.bucket}/{stored.name}/{stored.generation}",
        "selfLink": f"{base_url}/storage/v1/{path}",
        "mediaLink": f"{base_url}/download/storage/v1/{path}?generation={stored.generation}&alt=media",
        "name": stored.name,
        "bucket": stored.bucket,
        "generation": str(stored.generation),
        "metageneration": "1",
        "contentType": stored.content_type,
        "storageClass": "STANDARD",
        "size": str(stored.size),
        "md5Hash": base64.b64encode(stored.md5).decode(),
        "etag": base64.b64encode(str(stored.generation).encode()).decode(),
        "timeCreated": created,
        "updated": created,
        "timeStorageClassUpdated": created,
        "timeFinalized": created,
    }
    if stored.content_encoding:
        resource["contentEncoding"] = stored.content_encoding
    if stored.metadata:
        resource["metadata"] = stored.metadata
    return resource


def bucket_resource(bucket: Bucket, base_url: str) -> dict[str, Any]:
    """The bucket as the JSON API shows it."""
    created = _milliseconds(bucket.created)
    return {
        "kind": "storage#bucket",
        "id": bucket.name,
        "selfLink": f"{base_url}/storage/v1/b/{bucket.name}",
        "name": bucket.name,
        "location": bucket.location,
        "locationType": "multi-region" if bucket.location in ("US", "EU", "ASIA") else "region",
        "storageClass": "STANDARD",
        "metageneration": "1",
        "timeCreated": created,
        "updated": created,
    }


def _milliseconds(epoch: float) -> str:
    return timestamp(epoch, digits=3)


def _integer(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise StorageError(400, f"Invalid value for: {name}") from None


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _blocks(path_file: BinaryIO, first: int, count: int) -> Iterable[bytes]:
    path_file.seek(first)
    while count > 0:
        block = path_file.read(min(_BLOCK, count))
        if not block:
            return
        count -= len(block)
        yield block


def _multipart(raw: BinaryIO, size: int, content_type: str) -> tuple[dict[str, Any], str, int, int]:
    """Metadata, media type, and first and last offset of the media in a ``multipart/related`` body."""
    match = re.search(r"boundary=(?:\"([^\"]+)\"|'([^']+)'|([^;\s]+))", content_type)
    if match is None:
        raise StorageError(400, "Missing multipart boundary")
    mark = b"--" + (match[1] or match[2] or match[3]).encode()
    raw.seek(0)
    head = raw.read(_BLOCK)
    raw.seek(max(0, size - 4096))
    tail_at = raw.tell()
    tail = raw.read()

    def part(start: int) -> tuple[dict[str, str], int]:
        begin = head.index(mark, start) + len(mark)
        end = re.compile(rb"\r?\n\r?\n").search(head, begin)
        if end is None:
            raise ValueError
        lines = [line.split(":", 1) for line in head[begin : end.start()].decode().splitlines() if ":" in line]
        return {name.strip().lower(): value.strip() for name, value in lines}, end.end()

    try:
        _, meta_at = part(0)
        meta_end = head.index(mark, meta_at)
        metadata = json.loads(head[meta_at:meta_end] or b"{}")
        headers, media_at = part(meta_end)
        media_end = tail_at + tail.rindex(mark + b"--")
    except ValueError:
        raise StorageError(400, "Malformed multipart body.") from None
    raw.seek(max(0, media_end - 2))
    newline = raw.read(2)
    media_end -= 2 if newline == b"\r\n" else 1 if newline.endswith(b"\n") else 0
    return metadata, headers.get("content-type", ""), media_at, media_end


def routes(state: EmulatorState) -> list[Route]:
    """The routes of the Cloud Storage JSON API."""

    def allow(request: Request, bucket: Bucket | None, permission: str) -> None:
        """Who asks, and may they? StorageError 401 or 403 if not."""
        knobs = state.config.extra
        token = bearer(request)
        who = token_desk(state).caller(token)
        if who is None and token is None:
            message = f"Anonymous caller does not have {permission} access to the Google Cloud Storage bucket."
            raise StorageError(401, message, "required")
        if who is None:
            raise StorageError(401, "Invalid Credentials")
        if bucket is None:
            return
        denied = knobs.get("storage_denied", {}).get(bucket.name, ())
        if bucket.name in state.config.forbidden_buckets or permission in denied:
            raise StorageError(
                403,
                f"{who} does not have {permission} access to the Google Cloud Storage bucket. "
                f"Permission '{permission}' denied on resource (or it may not exist).",
            )

    def shown(request: Request, value: dict[str, Any]) -> Response:
        return reply(state, request, value)

    async def buckets(request: Request) -> Response:
        store = object_store(state)
        project = request.query_params.get("project", "")
        if request.method == "POST":
            allow(request, None, "storage.buckets.create")
            body = await _json_body(request)
            name = body.get("name", "")
            if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", str(name)):
                raise StorageError(400, f"Invalid bucket name: '{name}'")
            if name in store.buckets:
                raise StorageError(
                    409,
                    "Your previous request to create the named bucket succeeded and you already own it.",
                )
            bucket = store.create_bucket(name, project=project, location=str(body.get("location") or "US"))
            return shown(request, bucket_resource(bucket, _base_url(request)))
        allow(request, None, "storage.buckets.list")
        prefix = request.query_params.get("prefix", "")
        found = [bucket for name, bucket in sorted(store.buckets.items()) if name.startswith(prefix)]
        listing: dict[str, Any] = {"kind": "storage#buckets"}
        if found:
            listing["items"] = [bucket_resource(bucket, _base_url(request)) for bucket in found]
        return shown(request, listing)

    async def one_bucket(request: Request) -> Response:
        store = object_store(state)
        bucket = store.bucket(request.path_params["bucket"])
        if request.method == "DELETE":
            allow(request, bucket, "storage.buckets.delete")
            if bucket.objects:
                raise StorageError(409, "The bucket you tried to delete is not empty.")
            del store.buckets[bucket.name]
            return Response(status_code=204)
        allow(request, bucket, "storage.buckets.get")
        return shown(request, bucket_resource(bucket, _base_url(request)))

    async def list_objects(request: Request) -> Response:
        store = object_store(state)
        bucket = store.bucket(request.path_params["bucket"])
        allow(request, bucket, "storage.objects.list")
        query = request.query_params
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "")
        limit = _integer(request, "maxResults")
        limit = 1000 if limit is None or limit <= 0 else min(limit, 1000)
        pattern = glob_pattern(query["matchGlob"]) if query.get("matchGlob") else None
        after = ""
        if query.get("pageToken"):
            try:
                after = base64.urlsafe_b64decode(query["pageToken"]).decode()
            except ValueError:
                raise StorageError(400, "Invalid argument.") from None
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        last = ""
        more = False
        for name in store.names(bucket.name, prefix):
            if name < start or (end and name >= end) or (pattern is not None and not pattern.fullmatch(name)):
                continue
            folder = ""
            if delimiter and delimiter in name[len(prefix) :]:
                folder = name[: name.index(delimiter, len(prefix)) + len(delimiter)]
            if (folder or name) <= after or (folder and prefixes and prefixes[-1] == folder):
                continue
            if len(items) + len(prefixes) >= limit:
                more = True
                break
            last = folder or name
            if folder:
                prefixes.append(folder)
            else:
                items.append(object_resource(bucket.objects[name], _base_url(request)))
        listing: dict[str, Any] = {"kind": "storage#objects"}
        if more:
            listing["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
        if prefixes:
            listing["prefixes"] = prefixes
        if items:
            listing["items"] = items
        return shown(request, listing)

    async def one_object(request: Request) -> Response:
        store = object_store(state)
        bucket = store.bucket(request.path_params["bucket"])
        name = request.path_params["object"]
        conditions = Conditions.of(request)
        if request.method == "DELETE":
            allow(request, bucket, "storage.objects.delete")
            wanted = _integer(request, "generation")
            if wanted is not None and store.get(bucket.name, name).generation != wanted:
                raise StorageError(404, f"No such object: {bucket.name}/{name}")
            store.delete(bucket.name, name, conditions)
            return Response(status_code=204)
        allow(request, bucket, "storage.objects.get")
        stored = store.get(bucket.name, name)
        wanted = _integer(request, "generation")
        if wanted is not None and stored.generation != wanted:
            raise StorageError(404, f"No such object: {bucket.name}/{name}")
        try:
            conditions.check(stored, reading=True)
        except NotModified:
            return Response(status_code=304)
        if request.query_params.get("alt") != "media":
            return shown(request, object_resource(stored, _base_url(request)))
        return media(request, stored)

    def media(request: Request, stored: StoredObject) -> Response:
        headers = {
            "X-Goog-Generation": str(stored.generation),
            "X-Goog-Hash": "md5=" + base64.b64encode(stored.md5).decode(),
            "X-Goog-Stored-Content-Length": str(stored.size),
            "X-Goog-Stored-Content-Encoding": stored.content_encoding or "identity",
            "ETag": base64.b64encode(str(stored.generation).encode()).decode(),
        }
        # "Decompressive transcoding": a gzip object is unpacked for a client that does not ask for gzip, and a range
        # of it is then ignored: https://cloud.google.com/storage/docs/transcoding
        unpack = stored.content_encoding == "gzip" and "gzip" not in request.headers.get("accept-encoding", "")
        if stored.content_encoding and not unpack:
            headers["Content-Encoding"] = stored.content_encoding
        span = None if unpack else parse_range(request.headers.get("range"), stored.size)
        if not unpack:
            headers["Accept-Ranges"] = "bytes"
            return file_reply(
                stored.path,
                media_type=stored.content_type,
                headers=headers,
                byte_range=span,
            )

        async def body() -> AsyncIterator[bytes]:
            inflate = zlib.decompressobj(wbits=31)
            with stored.path.open("rb") as opened:
                for block in _blocks(opened, 0, stored.size):
                    yield inflate.decompress(block)

        return StreamingResponse(body(), headers=headers, media_type=stored.content_type)

    async def upload(request: Request) -> Response:
        store = object_store(state)
        kind = request.query_params.get("uploadType", "")
        bucket = store.bucket(request.path_params["bucket"])
        allow(request, bucket, "storage.objects.create")
        if kind == "resumable":
            return await begin(request, bucket)
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
            facts: dict[str, Any] = {"content_type": request.headers.get("content-type") or "application/octet-stream"}
            facts["content_encoding"] = request.query_params.get("contentEncoding", "")
        elif kind == "multipart":
            try:
                whole, writer = writer, store.writer()
                with whole.path.open("rb") as raw:
                    metadata, media_type, first, end = _multipart(
                        raw, whole.size, request.headers.get("content-type", "")
                    )
                    for block in _blocks(raw, first, end - first):
                        writer.write(block)
            except StorageError:
                writer.abort()
                raise
            finally:
                whole.abort()
            name = str(metadata.get("name") or request.query_params.get("name", ""))
            facts = {
                "content_type": metadata.get("contentType") or media_type or "application/octet-stream",
                "content_encoding": metadata.get("contentEncoding", ""),
                "metadata": metadata.get("metadata"),
                "md5": str(metadata.get("md5Hash") or ""),
            }
        else:
            writer.abort()
            raise StorageError(400, f"Unknown uploadType: '{kind}'")
        if not name:
            writer.abort()
            raise StorageError(400, "Required parameter: name", "required")
        stored = writer.commit(bucket.name, name, conditions=conditions, **facts)
        return shown(request, object_resource(stored, _base_url(request)))

    async def begin(request: Request, bucket: Bucket) -> Response:
        store = object_store(state)
        metadata = await _json_body(request)
        name = str(metadata.get("name") or request.query_params.get("name", ""))
        if not name:
            raise StorageError(400, "Required parameter: name", "required")
        conditions = Conditions.of(request)
        conditions.check(bucket.objects.get(name), reading=False)
        session = UploadSession(
            id=secrets.token_urlsafe(32),
            bucket=bucket.name,
            name=name,
            writer=store.writer(),
            content_type=str(
                metadata.get("contentType")
                or request.headers.get("x-upload-content-type")
                or "application/octet-stream"
            ),
            content_encoding=str(metadata.get("contentEncoding") or ""),
            metadata=metadata.get("metadata") or {},
            conditions=conditions,
            md5=str(metadata.get("md5Hash") or ""),
        )
        store.sessions[session.id] = session
        location = (
            f"{_base_url(request)}/upload/storage/v1/b/{bucket.name}/o"
            f"?uploadType=resumable&name={quote(name, safe='')}&upload_id={session.id}"
        )
        return Response(
            status_code=200,
            headers={"Location": location, "X-GUploader-UploadID": session.id},
        )

    def kept(session: UploadSession) -> Response:
        size = session.writer.size
        headers = {"X-GUploader-UploadID": session.id} | ({"Range": f"bytes=0-{size - 1}"} if size else {})
        return Response(status_code=308, headers=headers)

    async def continued(request: Request) -> Response:
        """A PUT or DELETE on a session URL; the URL itself is the permission."""
        store = object_store(state)
        session = store.sessions.get(request.query_params.get("upload_id", ""))
        if session is None or session.bucket != request.path_params["bucket"]:
            raise StorageError(404, "No such upload session.")
        async with session.busy:
            return await resumed(request, session)

    async def resumed(request: Request, session: UploadSession) -> Response:
        if session.cancelled:
            raise StorageError(410, "The upload session was cancelled.")
        if request.method == "DELETE":
            session.cancelled = True
            if session.stored is None:
                session.writer.abort()
            return Response(status_code=499)
        header = request.headers.get("content-range", "")
        asked = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", header) if header else None
        if header and asked is None:
            raise StorageError(400, f"Invalid Content-Range: {header}")
        if session.stored is not None:
            return shown(request, object_resource(session.stored, _base_url(request)))
        writer = session.writer
        total = int(asked[3]) if asked is not None and asked[3] != "*" else None
        if asked is not None and asked[1] is None:
            # "bytes */N" asks what is kept; with all N bytes there, or none to come, it also ends the upload.
            if total is not None and total == writer.size:
                return finish(request, session)
            return kept(session)
        first = int(asked[1]) if asked is not None else 0
        length = int(asked[2]) + 1 - first if asked is not None else None
        if first > writer.size:
            raise StorageError(
                503,
                f"Invalid request.  According to the Content-Range header, the upload offset is {first} byte(s), "
                f"which exceeds already uploaded size of {writer.size} byte(s).",
            )
        is_last = asked is None or (total is not None and int(asked[2]) + 1 == total)
        if not is_last and length is not None and length < GRANULE:
            raise StorageError(
                400,
                "Invalid request.  The number of bytes uploaded is required to be equal or greater than 262144, except "
                "for the final request (it's recommended to be the exact multiple of 262144).  The received request "
                f"contained {length} bytes, which does not meet this requirement.",
            )
        kept_bytes = state.config.extra.get("storage_keep_bytes")
        budget = int(kept_bytes.pop(0)) if kept_bytes else None
        skip = writer.size - first  # bytes sent again that are already here
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
        if budget is not None and received > budget:
            _flush(writer, pending)
            return kept(session)
        if length is not None and received != length:
            _flush(writer, pending)
            raise StorageError(
                400,
                f"Invalid request.  There were {received} byte(s) in the request body.  There should have been "
                f"{length} byte(s) (starting at offset {first} and ending at offset {first + length - 1}) according to "
                "the Content-Range header.",
            )
        if not is_last:
            _flush(writer, pending)
            return kept(session)
        writer.write(pending)
        return finish(request, session)

    def finish(request: Request, session: UploadSession) -> Response:
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
            session.cancelled = True
            raise
        return shown(request, object_resource(session.stored, _base_url(request)))

    return [
        Route("/storage/v1/b", buckets, methods=["GET", "POST"]),
        Route("/storage/v1/b/{bucket}", one_bucket, methods=["GET", "DELETE"]),
        Route("/storage/v1/b/{bucket}/o", list_objects, methods=["GET"]),
        Route(
            "/storage/v1/b/{bucket}/o/{object:path}",
            one_object,
            methods=["GET", "DELETE"],
        ),
        Route(
            "/download/storage/v1/b/{bucket}/o/{object:path}",
            one_object,
            methods=["GET"],
        ),
        Route("/upload/storage/v1/b/{bucket}/o", upload, methods=["POST"]),
        Route("/upload/storage/v1/b/{bucket}/o", continued, methods=["PUT", "DELETE"]),
    ]


def _flush(writer: ObjectWriter, pending: bytearray) -> None:
    """Keep whole granules; the rest stays in *pending*, and is lost if no more comes."""
    count = len(pending) // GRANULE * GRANULE
    if count:
        with memoryview(pending) as view, view[:count] as piece:
            writer.write(piece)
        del pending[:count]


async def _json_body(request: Request) -> dict[str, Any]:
    raw = await request.body()
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise StorageError(400, "Parse Error", "parseError")
    return body
