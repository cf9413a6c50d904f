# SPDX-License-Identifier: Apache-2.0
"""``multipart/related`` bodies: metadata, then the object's bytes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, BinaryIO

from gemini_batch_emulator.storage.store import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 20


def piecewise(path_file: BinaryIO, first: int, count: int) -> Iterator[bytes]:
    """Yield *count* bytes from *first* on, in pieces."""
    path_file.seek(first)
    while count > 0:
        block = path_file.read(min(_BLOCK, count))
        if not block:
            return
        count -= len(block)
        yield block


def parts_of(raw: BinaryIO, size: int, content_type: str) -> tuple[dict[str, Any], str, int, int]:
    """
    Take a body apart.

    :return: Metadata, media type, and first and last offset of the media.
    :raises StorageError: 400 for a body that has not these two parts.
    """
    match = re.search(r"boundary=(?:\"([^\"]+)\"|'([^']+)'|([^;\s]+))", content_type)
    if match is None:
        raise StorageError(400, "Missing multipart boundary")
    mark = b"--" + (match[1] or match[2] or match[3]).encode()
    raw.seek(0)
    # Description and boundary stand in the first megabyte and the end in the last bytes: the media are never searched.
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
        # From behind: the media may hold anything, also bytes that look like the boundary.
        media_end = tail_at + tail.rindex(mark + b"--")
    except ValueError:
        raise StorageError(400, "Malformed multipart body.") from None
    raw.seek(max(0, media_end - 2))
    newline = raw.read(2)
    media_end -= 2 if newline == b"\r\n" else 1 if newline.endswith(b"\n") else 0
    return metadata, headers.get("content-type", ""), media_at, media_end
