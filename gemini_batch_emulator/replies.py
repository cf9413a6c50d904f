# SPDX-License-Identifier: Apache-2.0
"""Requests read and replies written the way Google's front ends do, for all services."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import msgspec
from starlette.responses import Response

from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.partial_response import FieldSelectionError, select_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.state import EmulatorState

R = TypeVar("R")

MAX_INLINE_BYTES = 20_971_520
WRITE_BYTES = 256 * 1024
CHUNK_BYTES = 1 << 20


async def polled(state: EmulatorState, name: str) -> Job | None:
    """Read a job as :meth:`EmulatorState.read_job` does, in a worker thread when that may take long."""
    job = state.jobs.get(name)
    if job is not None and job.is_heavy:
        return await asyncio.to_thread(state.read_job, name)
    return state.read_job(name)


async def unhurried(state: EmulatorState, call: Callable[..., R], *arguments: Any, **named: Any) -> R:
    """Make a call that looks at many jobs; in a worker thread while one of them may take long to advance."""
    if state.has_heavy_jobs:
        return await asyncio.to_thread(call, *arguments, **named)
    return call(*arguments, **named)


async def read_json(request: Request, *, limit: int = MAX_INLINE_BYTES) -> dict[str, Any]:
    """
    Read a request body as a JSON object; an empty body is an empty object.

    :raises GoogleError: 400 if it is too large or no JSON object.
    """
    body = bytearray()
    too_large = False
    async for chunk in request.stream():
        if not too_large:
            body += chunk
            too_large = len(body) > limit
            if too_large:
                # The rest is read and dropped: an answer before the end would reach the client as a broken pipe.
                body.clear()
    if too_large:
        raise GoogleError(400, f"Request payload size exceeds the limit: {limit} bytes.")
    if not bytes(body).strip():
        return {}
    try:
        value = msgspec.json.decode(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GoogleError(400, f"Invalid JSON payload received. {error}") from error
    if not isinstance(value, dict):
        raise GoogleError(400, 'Invalid JSON payload received. Unknown name "": Root element must be a message.')
    return value


def base_url(request: Request) -> str:
    """Return where the caller reached the emulator, without a slash at the end."""
    return str(request.base_url).rstrip("/")


def reply(state: EmulatorState, request: Request | None, payload: Any, *, status: int = 200) -> Response:
    """Answer with JSON; honours ``fields`` and indents as the knobs say."""
    if request is not None:
        wanted = request.query_params.get("fields") or request.query_params.get("$fields")
        # Partial responses are a feature of Google's front ends, so that they hold for every service here.
        if wanted and state.config.fields != "ignore":
            if state.config.fields == "reject":
                raise GoogleError(400, f"Invalid field selection {wanted}")
            try:
                payload = select_fields(payload, wanted)
            except FieldSelectionError as error:
                raise GoogleError(400, str(error)) from error
    body = msgspec.json.encode(payload)
    # The service indents by default, so that nobody may count on white space.
    if state.config.pretty:
        body = msgspec.json.format(body, indent=2)
    return Response(body, status, media_type="application/json; charset=UTF-8")


def error_reply(error: GoogleError) -> Response:
    """Answer with an error."""
    body = msgspec.json.format(msgspec.json.encode(error.body()), indent=2)
    return Response(body, error.code, dict(error.headers), media_type="application/json; charset=UTF-8")


class FileReply(Response):
    """Sends a part of a file in large pieces; closes the file at once when the connection ends."""

    def __init__(
        self, path: Path, first: int, length: int, status: int, headers: dict[str, str], media_type: str
    ) -> None:
        super().__init__(None, status, {**headers, "Content-Length": str(length)}, media_type)
        self._path = path
        self._first = first
        self._length = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then the bytes."""
        with self._path.open("rb") as file:
            file.seek(self._first)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = self._length
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                # The sending may never have had to wait; others want to be answered, too.
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def file_reply(
    path: Path,
    *,
    media_type: str = "application/octet-stream",
    headers: Mapping[str, str] | None = None,
    byte_range: tuple[int, int] | None = None,
) -> Response:
    """
    Stream a file in large pieces.

    :param byte_range: First and last byte, inclusive, for a 206; None sends everything.
    """
    size = path.stat().st_size
    sent = dict(headers or {})
    if byte_range is None:
        first, length, status = 0, size, 200
    else:
        first, length, status = byte_range[0], byte_range[1] - byte_range[0] + 1, 206
        sent["Content-Range"] = f"bytes {byte_range[0]}-{byte_range[1]}/{size}"
    return FileReply(path, first, length, status, sent, media_type)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """
    Read a ``Range`` header with one range.

    :return: First and last byte, inclusive, or None when there is no (readable) range.
    :raises GoogleError: 416 if nothing of it exists.
    """
    match = re.fullmatch(r"\s*bytes=(\d*)-(\d*)\s*", header or "")
    # RFC 9110: a range that cannot be read is ignored, and the whole is sent; one that does not exist is a 416.
    if match is None or match.group(0).strip() == "bytes=-":
        return None
    first, last = match.groups()
    if first:
        low, high = int(first), min(int(last), size - 1) if last else size - 1
    else:
        low, high = max(0, size - int(last)), size - 1
    if low >= size or high < low:
        raise GoogleError(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return low, high


def write_pieces(file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write bytes to an unbuffered file, or past a file's buffer, in pieces: for large ones memory may be dear."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest[:WRITE_BYTES]) :]
