# SPDX-License-Identifier: Apache-2.0
"""Objects: list, get, ``alt=media`` with ranges, delete."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gemini_batch_emulator.replies import base_url, file_reply, parse_range, reply
from gemini_batch_emulator.storage.access import allow
from gemini_batch_emulator.storage.names import glob_pattern
from gemini_batch_emulator.storage.resources import object_resource
from gemini_batch_emulator.storage.store import Conditions, NotModified, StorageError, integer, object_store

if TYPE_CHECKING:
    import re
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState
    from gemini_batch_emulator.storage.store import StoredObject

MAX_PAGE = 1000
BLOCK_BYTES = 1 << 20


@dataclass
class Listing:
    """
    One page of a listing, filled name by name, in order.

    :param after: The last name or folder of the page before.
    :param start: First name, inclusive.
    :param end: Last name, exclusive; empty is none.
    """

    prefix: str
    delimiter: str
    start: str
    end: str
    after: str
    limit: int
    pattern: re.Pattern[str] | None
    items: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    last: str = ""

    @classmethod
    def of(cls, request: Request) -> Listing:
        """
        Read what a call asks for.

        :raises StorageError: 400 for what cannot be read.
        """
        query = request.query_params
        limit = integer(request, "maxResults")
        after = ""
        if query.get("pageToken"):
            try:
                # The last name and no number: objects that are written between two pages move nothing.
                after = base64.urlsafe_b64decode(query["pageToken"]).decode()
            except ValueError:
                raise StorageError(400, "Invalid argument.") from None
        return cls(
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            start=query.get("startOffset", ""),
            end=query.get("endOffset", ""),
            after=after,
            # The service's own default and maximum.
            limit=MAX_PAGE if limit is None or limit <= 0 else min(limit, MAX_PAGE),
            pattern=glob_pattern(query["matchGlob"]) if query.get("matchGlob") else None,
        )

    def fill(self, names: list[str]) -> bool:
        """Take names up to the limit; say whether there are more."""
        for name in names:
            if name < self.start or (self.end and name >= self.end):
                continue
            if self.pattern is not None and not self.pattern.fullmatch(name):
                continue
            # With a delimiter, names that share a folder are one entry, and count as one for the page's size.
            folder = ""
            if self.delimiter and self.delimiter in name[len(self.prefix) :]:
                folder = name[: name.index(self.delimiter, len(self.prefix)) + len(self.delimiter)]
            if (folder or name) <= self.after or (folder and self.prefixes and self.prefixes[-1] == folder):
                continue
            if len(self.items) + len(self.prefixes) >= self.limit:
                return True
            self.last = folder or name
            (self.prefixes if folder else self.items).append(self.last)
        return False


class Objects:
    """Handlers."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """The routes."""
        name = "storage.objects"
        path = "/storage/v1/b/{bucket}/o/{object:path}"
        return [
            Route("/storage/v1/b/{bucket}/o", self.list, methods=["GET"], name=f"{name}.list"),
            Route(path, self.get, methods=["GET"], name=f"{name}.get"),
            Route(path, self.delete, methods=["DELETE"], name=f"{name}.delete"),
            Route("/download" + path, self.get, methods=["GET"], name=f"{name}.get"),
        ]

    async def list(self, request: Request) -> Response:
        """One page of a bucket's objects and folders."""
        store = object_store(self._state)
        bucket = store.bucket(request.path_params["bucket"])
        allow(self._state, request, bucket, "storage.objects.list")
        page = Listing.of(request)
        listing: dict[str, Any] = {"kind": "storage#objects"}
        if page.fill(store.names(bucket.name, page.prefix)):
            listing["nextPageToken"] = base64.urlsafe_b64encode(page.last.encode()).decode()
        if page.prefixes:
            listing["prefixes"] = page.prefixes
        if page.items:
            listing["items"] = [object_resource(bucket.objects[name], base_url(request)) for name in page.items]
        return reply(self._state, request, listing)

    async def get(self, request: Request) -> Response:
        """What is known of an object, or its bytes."""
        store = object_store(self._state)
        bucket = store.bucket(request.path_params["bucket"])
        name = request.path_params["object"]
        allow(self._state, request, bucket, "storage.objects.get")
        stored = store.get(bucket.name, name)
        wanted = integer(request, "generation")
        # No object versioning: an older generation is gone once a newer one is there.
        if wanted is not None and stored.generation != wanted:
            raise StorageError(404, f"No such object: {bucket.name}/{name}")
        try:
            Conditions.of(request).check(stored, reading=True)
        except NotModified:
            return Response(status_code=304)
        if request.query_params.get("alt") != "media":
            return reply(self._state, request, object_resource(stored, base_url(request)))
        return _media(request, stored)

    async def delete(self, request: Request) -> Response:
        """Remove an object."""
        store = object_store(self._state)
        bucket = store.bucket(request.path_params["bucket"])
        name = request.path_params["object"]
        allow(self._state, request, bucket, "storage.objects.delete")
        wanted = integer(request, "generation")
        if wanted is not None and store.get(bucket.name, name).generation != wanted:
            raise StorageError(404, f"No such object: {bucket.name}/{name}")
        store.delete(bucket.name, name, Conditions.of(request))
        return Response(status_code=204)


def _media(request: Request, stored: StoredObject) -> Response:
    headers = {
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Hash": "md5=" + base64.b64encode(stored.md5).decode(),
        "X-Goog-Stored-Content-Length": str(stored.size),
        "X-Goog-Stored-Content-Encoding": stored.content_encoding or "identity",
        "ETag": base64.b64encode(str(stored.generation).encode()).decode(),
    }
    # "Decompressive transcoding": a gzip object is unpacked for a client that does not ask for gzip, and a range of it
    # is then ignored: https://cloud.google.com/storage/docs/transcoding
    unpack = stored.content_encoding == "gzip" and "gzip" not in request.headers.get("accept-encoding", "")
    if stored.content_encoding and not unpack:
        headers["Content-Encoding"] = stored.content_encoding
    if unpack:
        return StreamingResponse(_unpacked(stored), headers=headers, media_type=stored.content_type)
    headers["Accept-Ranges"] = "bytes"
    span = parse_range(request.headers.get("range"), stored.size)
    return file_reply(stored.path, media_type=stored.content_type, headers=headers, byte_range=span)


async def _unpacked(stored: StoredObject) -> AsyncIterator[bytes]:
    inflate = zlib.decompressobj(wbits=31)
    with stored.path.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            yield inflate.decompress(block)
