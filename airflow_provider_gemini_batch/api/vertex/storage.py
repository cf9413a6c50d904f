# SPDX-License-Identifier: Apache-2.0
"""The part of the Cloud Storage JSON API that batch jobs need: upload, look at, list, download and delete objects."""

# An upload creates and never overwrites (`ifGenerationMatch=0`), so that it may be repeated after any fault: an object
# already there with the same bytes is the upload's result, one with other bytes is an error. A cut upload asks the
# session how much it kept and goes on from there.
#
# A session's URL is a secret (who has it may write), and authorises by itself. It is used on the connection's own host,
# whatever host the service names in it, so that nothing ever leaves for another one.
#
# Sources: https://storage.googleapis.com/$discovery/rest?version=v1;
# https://cloud.google.com/storage/docs/performing-resumable-uploads;
# https://cloud.google.com/storage/docs/resumable-uploads; https://cloud.google.com/storage/docs/transcoding.

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_provider_gemini_batch.api.flows import exchange, on_host, understood
from airflow_provider_gemini_batch.api.models import FilePage, RemoteFile
from airflow_provider_gemini_batch.api.replies import expect_success, whole_number
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Part, Pause, json_request
from airflow_provider_gemini_batch.connection.urls import other_server_hint
from airflow_provider_gemini_batch.errors import (
    ApiError,
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    PermissionDeniedError,
    ReplyFormatError,
    TransportError,
)

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import UploadSource

GRANULE_BYTES = 256 * 1024
"""Every piece of an upload but the last is a multiple of this."""

CHUNK_BYTES = 64 * 1024 * 1024
READ_BYTES = 1024 * 1024
DISPLAY_NAME_KEY = "display-name"
"""Member of an object's own metadata that keeps the name people gave."""

MAX_RESTARTS = 5
_SCHEME = "gs://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_KEPT = re.compile(r"bytes=0-(\d+)$")


def parse_gs_uri(uri: str, *, needs_object: bool = True) -> tuple[str, str]:
    """
    Split ``gs://bucket/object``.

    :param needs_object: Whether a bucket alone is an error.
    :return: Bucket and object name; the name is empty for a bucket alone.
    :raises ConfigurationError: If it is no such place.
    """
    text = str(uri or "").strip()
    bucket, _, name = text.removeprefix(_SCHEME).partition("/")
    if not text.startswith(_SCHEME) or not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(f"Not a place in Cloud Storage: {text!r}. It has to look like gs://bucket/name.")
    if needs_object and not name:
        raise ConfigurationError(f"{text!r} names a bucket, but no object in it. It has to look like gs://bucket/name.")
    return bucket, name


def join_gs_uri(prefix: str, *parts: str) -> str:
    """Return ``gs://bucket/prefix/part/part`` with single slashes between."""
    return "/".join([prefix.rstrip("/"), *(part.strip("/") for part in parts if part.strip("/"))])


class CloudStorage:
    """
    Calls of Cloud Storage.

    :param base_url: E.g. ``https://storage.googleapis.com``.
    :param retry: For the steps of an upload; a step that moved bytes starts counting anew.
    """

    def __init__(self, base_url: str, retry: RetryPolicy | None = None) -> None:
        self._base = base_url.rstrip("/")
        self._retry = retry or RetryPolicy(max_attempts=8)

    # --- requests -----------------------------------------------------------------------------------------------------

    def get_object(self, uri: str) -> HttpRequest:
        """Build the read of an object's metadata."""
        return HttpRequest("GET", self._object_url(uri), about=f"file {uri}")

    def list_objects(self, prefix: str, page_size: int = 1000, page_token: str | None = None) -> HttpRequest:
        """
        Build the call for one page of objects, in the order of their names.

        :param prefix: ``gs://bucket`` or ``gs://bucket/beginning``.
        :param page_size: At most 1000.
        """
        bucket, beginning = parse_gs_uri(prefix, needs_object=False)
        params = [("maxResults", str(page_size))]
        if beginning:
            params.append(("prefix", beginning))
        if page_token:
            params.append(("pageToken", page_token))
        url = f"{self._base}/storage/v1/b/{_encoded(bucket)}/o"
        return HttpRequest("GET", url, tuple(params), about=f"the list of {prefix}")

    def delete_object(self, uri: str, generation: str | None = None) -> HttpRequest:
        """
        Build the delete call.

        :param generation: Delete only this version of the object.
        """
        params = (("generation", generation),) if generation else ()
        return HttpRequest("DELETE", self._object_url(uri), params, about=f"file {uri}")

    def download_object(self, uri: str, offset: int = 0, generation: str | None = None) -> HttpRequest:
        """
        Build the call that streams an object's content.

        :param offset: First byte wanted. The service ignores it for an object stored compressed that it unpacks, and
            answers 200 instead of 206: look at the status before appending.
        :param generation: Pin: 404 instead of another version's bytes, so that pieces of two never mix.
        """
        params = [("alt", "media")]
        if generation:
            params.append(("generation", generation))
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return HttpRequest("GET", self._object_url(uri), tuple(params), headers, about=f"file {uri}")

    def start_upload(
        self, uri: str, *, size: int, display_name: str = "", mime_type: str = "application/octet-stream"
    ) -> HttpRequest:
        """Build the call that opens an upload session for an object that does not exist yet."""
        bucket, name = parse_gs_uri(uri)
        resource: dict[str, Any] = {"name": name, "contentType": mime_type}
        if display_name:
            resource["metadata"] = {DISPLAY_NAME_KEY: display_name}
        request = json_request(
            "POST",
            f"{self._base}/upload/storage/v1/b/{_encoded(bucket)}/o",
            resource,
            # `ifGenerationMatch=0`: create, never overwrite. Two tasks with the same rows share the name, since it is
            # made of their digest; the loser's 412 means that the winner's object is there.
            params=(("uploadType", "resumable"), ("name", name), ("ifGenerationMatch", "0")),
        )
        headers = {**request.headers, "X-Upload-Content-Type": mime_type, "X-Upload-Content-Length": str(size)}
        return replace(request, headers=headers, about=f"the upload to {uri}")

    def send_chunk(self, session: str, data: bytes | Part, offset: int, size: int) -> HttpRequest:
        """Build the call that sends bytes *offset* to ``offset + len(data) - 1`` of *size* to a session."""
        span = f"bytes {offset}-{offset + len(data) - 1}/{size}" if data else f"bytes */{size}"
        return self._to_session(session, span, data)

    def query_upload(self, session: str, size: int) -> HttpRequest:
        """Build the call that asks a session how many bytes it kept."""
        return self._to_session(session, f"bytes */{size}", b"")

    # --- replies ------------------------------------------------------------------------------------------------------

    def read_object(self, reply: HttpReply) -> RemoteFile:
        """Read an object's metadata."""
        return _remote_file(expect_success(reply).json_object(), reply)

    def read_object_page(self, reply: HttpReply) -> FilePage:
        """Read one page of a list."""
        body = expect_success(reply).json_object()
        items = body.get("items") or []
        if not isinstance(items, list):
            raise ReplyFormatError("Cloud Storage listed something that is no list.", excerpt=reply.excerpt())
        return FilePage(tuple(_remote_file(item, reply) for item in items), body.get("nextPageToken") or None)

    def read_session(self, reply: HttpReply) -> str:
        """Return the session's URL, on our own host; it is a secret."""
        expect_success(reply)
        location = reply.headers.get("location", "")
        # The session's id is in the query: without one there is no session to send to.
        if not urlsplit(location).query:
            raise ReplyFormatError("Cloud Storage opened an upload, but did not say where to send it.")
        return on_host(self._base, location)

    # --- the upload ---------------------------------------------------------------------------------------------------

    def upload(
        self, source: UploadSource, uri: str, *, display_name: str = "", mime_type: str = "application/octet-stream"
    ) -> Flow[RemoteFile]:
        """
        Create an object with the resumable protocol, through faults.

        :param source: The bytes; read again from any offset after a fault.
        :return: The object; also one that was there before with the same bytes.
        :raises ConfigurationError: If the place holds other bytes, or the bucket is missing.
        :raises InputChangedError: If *source* becomes shorter meanwhile.
        """
        bucket, _ = parse_gs_uri(uri)
        digest = _RunningDigest()
        for _restart in range(MAX_RESTARTS):
            try:
                start = self.start_upload(uri, size=source.size, display_name=display_name, mime_type=mime_type)
                session = yield from exchange(start, self.read_session, self._retry)
            except NotFoundError as error:
                hint = other_server_hint(self._base, "storage_host")
                raise ConfigurationError(
                    f"The bucket gs://{bucket} does not exist. Create it, or name another one: in the connection's "
                    f"storage_uri, or as the place of this file.{hint}"
                ) from error
            except PermissionDeniedError as error:
                if "storage.objects." not in str(error):
                    raise  # billing, or a perimeter: no role of the bucket's helps
                error.args = (
                    f"{error} - the connection's account may not write to gs://{bucket}: grant it "
                    "roles/storage.objectUser on the bucket, or use another bucket.",
                )
                raise
            except ApiError as error:
                if error.status != 412:
                    raise
                return (yield from self._already_there(source, uri))
            try:
                stored = yield from self._send(source, session, digest)
            except ApiError as error:
                if error.status == 412:
                    # Somebody else created the object while we were sending.
                    return (yield from self._already_there(source, uri))
                if error.status not in (404, 410):
                    raise
                continue  # The session is gone, which costs what was sent; a week after its start that is normal.
            # The generation pins the delete to the very object that was just made: another writer's, made a moment
            # later under the same name, stays.
            if stored.md5 is not None and stored.md5 != digest.hexdigest(source):
                yield from exchange(
                    self.delete_object(uri, stored.metadata.get("generation")), _read_deleted, self._retry
                )
                raise TransportError(f"What arrived at {uri} is not what was sent; it was deleted again. Try again.")
            return stored
        raise TransportError(f"Cloud Storage dropped the upload to {uri} {MAX_RESTARTS} times. Try again later.")

    def _send(self, source: UploadSource, session: str, digest: _RunningDigest) -> Flow[RemoteFile]:
        """Send everything to a session; ApiError 404 or 410 if it is gone."""
        size = source.size
        offset = 0
        furthest = 0
        failures = 0
        is_sure = True  # whether *offset* is the service's own word, or nothing was sent yet
        while True:
            # Bytes are sent only from an offset that the service has confirmed. After a fault in the middle of a piece
            # nobody knows how much of it was kept, so the session is asked first: sent again blindly, bytes would be
            # refused or stand twice.
            if is_sure and (offset < size or size == 0):
                length = min(CHUNK_BYTES, size - offset)
                part = Part(source, offset, length, digest.add) if length else b""
                request = self.send_chunk(session, part, offset, size)
            else:
                request = self.query_upload(session, size)
            try:
                reply = yield request
                assert reply is not None  # the driver's promise
                if reply.status == 308:
                    kept = _kept_bytes(reply, size)
                    is_sure = kept < size
                    # Progress beyond anything before resets the count of failures; to get back what an earlier fault
                    # lost does not.
                    if kept > offset:
                        failures = 0 if kept > furthest else failures
                        offset, furthest = kept, max(kept, furthest)
                        continue
                    # Nothing was kept of it: go on, but not for ever. After a query that is news, not a fault.
                    asked = request.body == b"" and size > 0
                    offset = kept
                    if asked and is_sure:
                        continue
                    raise TransportError("Cloud Storage kept nothing of what was sent.")
                stored = understood(self.read_object, reply)
                # The last piece was accepted, and the object is shorter: something in between cut the body and closed
                # it properly.
                if stored.size not in (None, size):
                    raise ReplyFormatError(f"Cloud Storage has {stored.size} of {size} bytes.", excerpt=reply.excerpt())
                return stored
            except GeminiBatchError as error:
                failures += 1
                delay = self._retry.delay_after(error, failures)
                if delay is None:
                    raise
                # Only a call that certainly did not leave this machine leaves the offset as sure as it was.
                is_sure = isinstance(error, TransportError) and is_sure and not error.sent
                pause = Pause.before_retry(delay, error)
            yield pause

    def _already_there(self, source: UploadSource, uri: str) -> Flow[RemoteFile]:
        """Return the object that is there if it has our bytes."""
        found = yield from exchange(self.get_object(uri), self.read_object, self._retry)
        # MD5 is what the store keeps of an object; composed objects have none, and such a one is not taken for ours.
        if found.size == source.size and found.md5 is not None and found.md5 == md5_of(source):
            return replace(found, was_there=True)
        raise ConfigurationError(
            f"{uri} exists already and holds something else. It is not overwritten: choose another name or delete it."
        )

    def _object_url(self, uri: str) -> str:
        bucket, name = parse_gs_uri(uri)
        return f"{self._base}/storage/v1/b/{_encoded(bucket)}/o/{_encoded(name)}"

    def _to_session(self, session: str, span: str, data: bytes | Part) -> HttpRequest:
        # The query holds the session's secret: it stays in the URL, which no repr shows.
        return HttpRequest("PUT", session, (), {"Content-Range": span}, data, authorize=False)


class _RunningDigest:
    """The MD5 of what was read so far, from the start on; it finds damage, and protects nothing."""

    def __init__(self) -> None:
        self._digest = hashlib.md5(usedforsecurity=False)
        self._position = 0

    def add(self, offset: int, data: bytes) -> None:
        """Take what is new in *data*; pieces sent again after a fault are not."""
        if offset <= self._position < offset + len(data):
            with memoryview(data) as view:
                self._digest.update(view[self._position - offset :])
            self._position = offset + len(data)

    def hexdigest(self, source: UploadSource) -> str:
        """Return it for the whole of *source*, reading what was not seen yet."""
        while self._position < source.size:
            data = source.read(self._position, READ_BYTES)
            if not data:
                break
            self.add(self._position, data)
        return self._digest.hexdigest()


def md5_of(source: UploadSource) -> str:
    """Return the lower-case hex MD5 of *source*, read in pieces."""
    return _RunningDigest().hexdigest(source)


def _encoded(name: str) -> str:
    return quote(name, safe="")


def _kept_bytes(reply: HttpReply, size: int) -> int:
    text = reply.headers.get("range", "").strip()
    if not text:
        return 0
    match = _KEPT.match(text)
    if match is None or int(match[1]) >= size:
        raise ReplyFormatError(f"Cloud Storage says it kept {text!r} of {size} bytes, which cannot be.")
    return int(match[1]) + 1


def _read_deleted(reply: HttpReply) -> None:
    if reply.status != 404:
        expect_success(reply)


def _remote_file(item: Any, reply: HttpReply) -> RemoteFile:
    if not isinstance(item, Mapping) or not item.get("name") or not item.get("bucket"):
        raise ReplyFormatError("Cloud Storage described an object without a name.", excerpt=reply.excerpt())
    own = {str(key): str(value) for key, value in (item.get("metadata") or {}).items()}
    return RemoteFile(
        name=f"{_SCHEME}{item['bucket']}/{item['name']}",
        display_name=own.get(DISPLAY_NAME_KEY, str(item["name"]).rpartition("/")[2]),
        mime_type=str(item.get("contentType") or ""),
        size=whole_number(item.get("size")),
        create_time=item.get("timeCreated") or None,
        md5=_hex_md5(item.get("md5Hash")),
        uri=f"{_SCHEME}{item['bucket']}/{item['name']}",
        metadata={**own, "generation": str(item.get("generation") or "")},
    )


def _hex_md5(text: object) -> str | None:
    """Objects composed of others have no MD5."""
    try:
        return base64.b64decode(str(text), validate=True).hex() if text else None
    except (binascii.Error, ValueError):
        return None
