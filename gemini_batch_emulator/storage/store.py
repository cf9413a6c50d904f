# SPDX-License-Identifier: Apache-2.0
"""Buckets and objects of the emulated Cloud Storage, on disk."""

# An object of any size passes through in pieces and is never whole in memory. A bucket exists once somebody created it,
# over HTTP or with `ObjectStore.create_bucket`; `emulator` is there from the start.

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.replies import write_pieces

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState

GRANULE = 262_144
"""Bytes: what is kept of an unfinished resumable upload is a multiple of this."""

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
    """
    One generation of an object; its bytes lie in *path*.

    :param readable: Emulated time from which it can be read and is listed; some results appear late.
    """

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
    readable: float = 0.0


@dataclass(frozen=True)
class Conditions:
    """``ifGenerationMatch`` and its kin."""

    match: int | None = None
    not_match: int | None = None

    @classmethod
    def of(cls, request: Request) -> Conditions:
        """Read them from the query."""
        return cls(
            integer(request, "ifGenerationMatch"),
            integer(request, "ifGenerationNotMatch"),
        )

    def check(self, stored: StoredObject | None, *, reading: bool) -> None:
        """Raise StorageError 412, or NotModified for a read of the generation that the caller already has."""
        generation = stored.generation if stored is not None else 0
        message = "At least one of the pre-conditions you specified did not hold."
        # `ifGenerationMatch=0` means "create only": an object that is not there counts as generation 0. With it a
        # resumable upload is safe to repeat (https://cloud.google.com/storage/docs/request-preconditions).
        if self.match is not None and self.match != generation:
            raise StorageError(412, message)
        if self.not_match is not None and self.not_match == generation:
            raise NotModified if reading else StorageError(412, message)


class ObjectWriter:
    """Bytes on their way to an object; it exists from :meth:`commit` on."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.path = store.new_path()
        self._file: BinaryIO = self.path.open("wb", buffering=0)
        # Hashed as the bytes come, since the object may have gigabytes. The service tells the MD5 as base64 of the raw
        # digest, unlike the Files API, which encodes the hex text.
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
        readable: float = 0.0,
    ) -> StoredObject:
        """
        Make the bytes an object, in place of an older one of the name.

        :param md5: What the caller says the base64 of the bytes' MD5 is; empty says nothing.
        :param readable: Emulated time from which it can be read and is listed.
        :raises StorageError: 404 without the bucket, 412 if *conditions* do not hold, 400 if the hash differs; the
            bytes are dropped then.
        """
        # Everything that can fail comes before the name is taken, so that a reader meets the old object or the new one,
        # never a half.
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
                    readable=readable,
                )
                home.objects[name] = stored
        except StorageError:
            self.abort()
            raise
        # Outside of the lock: who is reading the old generation holds its file open, and reads it to its end.
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
        """
        Return a bucket.

        :raises StorageError: 404.
        """
        # Google's buckets belong to somebody, so that a name that nobody made is missing. A knob makes them on demand,
        # for DAGs that name a bucket of their own.
        found = self.buckets.get(name)
        if found is None and self._state.config.create_missing_buckets:
            found = self.create_bucket(name)
        if found is None:
            raise StorageError(404, "The specified bucket does not exist.")
        return found

    def get(self, bucket: str, name: str) -> StoredObject:
        """
        Return an object.

        :raises StorageError: 404 without the bucket or the object.
        """
        found = self.bucket(bucket).objects.get(name)
        # Not yet readable looks like not there: a result that appears late is a 404 until then.
        if found is None or found.readable > self.now():
            raise StorageError(404, f"No such object: {bucket}/{name}")
        return found

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of the objects below *prefix*, in order."""
        with self.lock:
            now = self.now()
            objects = self.bucket(bucket).objects.items()
            return sorted(name for name, found in objects if name.startswith(prefix) and found.readable <= now)

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
        """
        Remove an object.

        :raises StorageError: 404, or 412 if *conditions* do not hold.
        """
        with self.lock:
            stored = self.get(bucket, name)
            if conditions is not None:
                conditions.check(stored, reading=False)
            del self.bucket(bucket).objects[name]
        stored.path.unlink(missing_ok=True)

    def next_generation(self) -> int:
        """Microseconds of the clock, never the same number twice."""
        with self.lock:
            # The service's generations look like times in microseconds; clients may only compare them.
            self._generation = max(self._generation + 1, int(self.now() * 1_000_000))
            return self._generation


def object_store(state: EmulatorState) -> ObjectStore:
    """Return the store of *state*; a new, empty one after a reset."""
    return state.room("storage", lambda: ObjectStore(state))


def integer(request: Request, name: str) -> int | None:
    """
    Return a number of the query, None without it.

    :raises StorageError: 400 for what is no number.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise StorageError(400, f"Invalid value for: {name}") from None
