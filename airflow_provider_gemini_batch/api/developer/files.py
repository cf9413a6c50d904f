# SPDX-License-Identifier: Apache-2.0
"""The Files API of the Gemini Developer API: uploads, downloads and what is known of a file."""

# Rules that are easy to get wrong:
#
# * `GET` and `DELETE` of a result file (`files/batch-...`) are refused, only its download works; it goes with its job.
# * A file that is missing or has expired answers 403, not 404.
#
# Sources: https://ai.google.dev/api/files; googleapis/python-genai.

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.api.flows import exchange, on_host
from airflow_provider_gemini_batch.api.models import FilePage, RemoteFile
from airflow_provider_gemini_batch.api.replies import error_from, error_info, expect_success, text_or_none, whole_number
from airflow_provider_gemini_batch.api.retry import NO_RETRY, RetryPolicy
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Part, Pause
from airflow_provider_gemini_batch.errors import (
    ApiError,
    ConfigurationError,
    GeminiBatchError,
    NotFoundError,
    ReplyFormatError,
    RequestRejectedError,
    TransportError,
)

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import Digested, UploadSource
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

MAX_RESTARTS = 3
"""How often an upload begins anew after its session was dropped."""

UPLOAD_CHUNK_BYTES = 64 * 1024 * 1024
"""
A multiple of the 8 MiB granularity that the service announces. What a cut connection costs is less, and what the
service's answer to each costs is little against the time that its bytes take.
"""

_FILE_NAME = re.compile(r"files/[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class DeveloperFiles:
    """The part of :class:`~.jobs.DeveloperBackend` that concerns files."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self._host = settings.base_url
        self._version = settings.api_version
        self._base = f"{settings.base_url}/{settings.api_version}"
        self._transfer = RetryPolicy(max_attempts=max(8, settings.max_retries))

    def upload_name(self, source: Digested, mark: str = "") -> str:
        """Leave the name to the service; a file with the same bytes is found by its digest in the list."""
        return ""

    def check_file_name(self, file_name: str) -> str:
        """Return the file name, or raise ConfigurationError if it cannot be one of the Files API."""
        name = str(file_name or "").strip()
        if _FILE_NAME.fullmatch(name):
            return name
        hint = " It lies in Cloud Storage; use a Vertex AI connection." if name.startswith("gs://") else ""
        raise ConfigurationError(f"file_name must look like 'files/...' on the Developer API, not {name!r}.{hint}")

    def get_file(self, file_name: str) -> HttpRequest:
        """Build the read of a file's metadata."""
        name = self.check_file_name(file_name)
        return HttpRequest("GET", f"{self._base}/{name}", about=f"file {name}")

    def list_files(self, page_size: int = 100, page_token: str | None = None, prefix: str = "") -> HttpRequest:
        """Build the call for one page of files; *prefix* is for other backends."""
        params = [("pageSize", str(page_size))]
        if page_token:
            params.append(("pageToken", page_token))
        return HttpRequest("GET", f"{self._base}/files", tuple(params), about="the list of files")

    def delete_file(self, file_name: str) -> HttpRequest:
        """Build the delete call."""
        name = self.check_file_name(file_name)
        return HttpRequest("DELETE", f"{self._base}/{name}", about=f"file {name}")

    def download_file(self, file_name: str, offset: int = 0) -> HttpRequest:
        """Build the call that streams a file's content from *offset* on."""
        # Whether Range is honoured is not documented; the caller copes with a 200 that starts anew.
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        name = self.check_file_name(file_name)
        url = f"{self._host}/download/{self._version}/{name}:download"
        return HttpRequest("GET", url, (("alt", "media"),), headers, about=f"file {name}")

    def read_file(self, reply: HttpReply) -> RemoteFile:
        """Read a file's metadata."""
        body = expect_success(reply).json_object()
        return read_file_resource(body, reply)

    def read_file_page(self, reply: HttpReply) -> FilePage:
        """Read one page of files."""
        body = expect_success(reply).json_object()
        items = body.get("files") or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ReplyFormatError("The list of files is not a list of objects.", excerpt=reply.excerpt())
        return FilePage(tuple(read_file_resource(item, reply) for item in items), body.get("nextPageToken") or None)

    def upload(self, source: UploadSource, *, name: str, display_name: str, mime_type: str) -> Flow[RemoteFile]:
        """
        Upload with the resumable protocol; after a fault ask how much arrived, and go on from there.

        :raises InputChangedError: If *source* becomes shorter meanwhile.

        Source: https://ai.google.dev/api/files; for the query command
        https://developers.google.com/photos/library/guides/resumable-uploads.
        """
        start = HttpRequest(
            "POST",
            f"{self._host}/upload/{self._version}/files",
            (),
            {
                "X-Goog-Upload-Protocol": "resumable",
                "X-Goog-Upload-Command": "start",
                "X-Goog-Upload-Header-Content-Length": str(source.size),
                "X-Goog-Upload-Header-Content-Type": mime_type,
                "Content-Type": "application/json",
            },
            msgspec.json.encode({"file": {"displayName": display_name[:512], "mimeType": mime_type}}),
            about=f"the upload of {display_name}",
        )
        for _restart in range(MAX_RESTARTS):
            # A start that is repeated opens another session, and the one before it is left unused.
            session, granularity = yield from exchange(start, self._read_session, self._transfer)
            chunk = max(granularity, UPLOAD_CHUNK_BYTES // granularity * granularity)
            try:
                return (yield from self._send(source, session, chunk))
            except ApiError as error:
                if error.status not in (404, 410):
                    raise  # else the session is gone, which costs what was sent
        raise TransportError(
            f"The service dropped the upload of {display_name!r} {MAX_RESTARTS} times. Try again later."
        )

    def _send(self, source: UploadSource, session: str, chunk: int) -> Flow[RemoteFile]:
        """Send everything to a session; ApiError 404 or 410 if it is gone."""
        offset = failures = 0
        while True:
            length = min(chunk, source.size - offset)
            is_last = offset + length == source.size
            # An empty body has a length only where it is no stream.
            data = Part(source, offset, length) if length else b""
            headers = {
                "X-Goog-Upload-Offset": str(offset),
                "X-Goog-Upload-Command": "upload, finalize" if is_last else "upload",
            }
            try:
                done = yield from exchange(
                    HttpRequest("POST", session, (), headers, data, about="the upload"),
                    partial(self._read_piece, is_last),
                    NO_RETRY,
                )
            except GeminiBatchError as error:
                failures += 1
                delay = self._delay_after(error, failures)
                if delay is None:
                    raise
                pause = Pause.before_retry(delay, error)
            else:
                if done is not None:
                    return done
                offset += length
                failures = 0
                continue
            yield pause
            # The session's own word decides where to go on; bytes may have been kept in part.
            query = HttpRequest("POST", session, (), {"X-Goog-Upload-Command": "query"}, b"")
            received = yield from exchange(query, partial(self._read_query, source.size), self._transfer)
            if isinstance(received, RemoteFile):
                return received
            # Something was kept, so the connection works: only tries without any progress count against the limit.
            if received > offset:
                failures = 0
            offset = received

    def _delay_after(self, error: GeminiBatchError, failures: int) -> float | None:
        """Say how long to pause before asking how much arrived; None if that cannot help."""
        # Also how the service refuses bytes at an offset that is not its own.
        if isinstance(error, RequestRejectedError) and error.status in (400, 412, 416):
            return 0.5 if failures < (self._transfer.max_attempts or 8) else None
        return self._transfer.delay_after(error, failures)

    def _read_session(self, reply: HttpReply) -> tuple[str, int]:
        expect_success(reply)
        url = reply.headers.get("x-goog-upload-url", "")
        if not url:
            raise ReplyFormatError("The service opened no upload session.", excerpt=reply.excerpt())
        # Every piece but the last has to be a multiple of it. A service that names none takes pieces of any size.
        granularity = whole_number(reply.headers.get("x-goog-upload-chunk-granularity")) or 1
        return on_host(self._host, url), max(1, granularity)

    def _read_piece(self, is_last: bool, reply: HttpReply) -> RemoteFile | None:
        status = _upload_status(reply)
        if status == "final":
            return self._read_uploaded(reply)
        if status == "active" and not is_last:
            return None
        raise ReplyFormatError("The upload's answer has no usable status.", excerpt=reply.excerpt())

    def _read_query(self, size: int, reply: HttpReply) -> int | RemoteFile:
        if _upload_status(reply) == "final":
            return self._read_uploaded(reply)
        received = whole_number(reply.headers.get("x-goog-upload-size-received"))
        if received is None or not 0 <= received <= size:
            raise ReplyFormatError("The service did not say how much of the upload arrived.", excerpt=reply.excerpt())
        return received

    def _read_uploaded(self, reply: HttpReply) -> RemoteFile:
        body = reply.json_object()
        if "error" in body:
            # Seen with HTTP 200: googleapis/python-genai#1590.
            raise error_from(HttpReply(400, reply.headers, reply.body))
        # The finished upload wraps the file once more than every other call that returns one.
        resource = body.get("file")
        if not isinstance(resource, dict) or not resource.get("name"):
            raise ReplyFormatError("The finished upload names no file.", excerpt=reply.excerpt())
        return read_file_resource(resource, reply)


def _upload_status(reply: HttpReply) -> str:
    """Return the session's state; NotFoundError if it is over without a file."""
    expect_success(reply)
    status = reply.headers.get("x-goog-upload-status", "").lower()
    # Like a session that is gone: the caller begins another one.
    if status == "cancelled":
        raise NotFoundError("The service cancelled the upload.", status=410)
    return status


def read_file_resource(item: Mapping[str, Any], reply: HttpReply) -> RemoteFile:
    """Read a File of the Files API."""
    # Without a name nothing can be done with a file; every other member may be missing.
    name = str(item.get("name") or "")
    if not name:
        raise ReplyFormatError("The service's file has no name.", excerpt=reply.excerpt())
    return RemoteFile(
        name=name,
        display_name=str(item.get("displayName") or ""),
        mime_type=str(item.get("mimeType") or ""),
        size=whole_number(item.get("sizeBytes")),
        create_time=text_or_none(item.get("createTime")),
        expiration_time=text_or_none(item.get("expirationTime")),
        sha256=_hex_digest(item.get("sha256Hash")),
        uri=str(item.get("uri") or ""),
        state=str(item.get("state") or "ACTIVE"),
        error=error_info(item.get("error")),
    )


def _hex_digest(text: object) -> str | None:
    """Read ``sha256Hash``: base64 of the hex text as captured, or of the raw bytes as documented."""
    if not isinstance(text, str) or not text:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # 32 bytes are the digest itself, 64 are its hex text. Both were seen; a wrong reading would never find a file again
    # and upload every input anew.
    if len(raw) == 32:
        return raw.hex()
    try:
        return raw.decode("ascii").lower() if len(raw) == 64 else None
    except UnicodeDecodeError:
        return None
