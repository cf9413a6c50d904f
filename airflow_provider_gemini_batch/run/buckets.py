# SPDX-License-Identifier: Apache-2.0
"""Records of answers as lines, appended to files of consecutive rows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLUSH_BYTES = 64 * 1024
_PENDING_BYTES = 16_000_000


class Buckets:
    """
    Files that lines are appended to, each buffered a little: there may be thousands.

    :param rows: Consecutive rows of a bucket.
    :param first: Number of the first row of the first bucket.
    """

    def __init__(self, folder: str, rows: int, first: int = 0) -> None:
        self.rows = rows
        self._first = first
        self._folder = folder
        self._paths: dict[int, str] = {}
        self._pending: dict[int, list[bytes]] = {}
        self._sizes: dict[int, int] = {}
        self._size = 0

    def add(self, n: int, line: bytes) -> None:
        """Append a line to the bucket of row *n*."""
        bucket = (n - self._first) // self.rows
        self._pending.setdefault(bucket, []).append(line)
        size = self._sizes.get(bucket, 0) + len(line)
        self._sizes[bucket] = size
        self._size += len(line)
        if size >= _FLUSH_BYTES:
            self._flush(bucket)
        if self._size >= _PENDING_BYTES:
            self.flush()

    def _flush(self, bucket: int) -> None:
        path = self._paths.get(bucket)
        if path is None:
            number = self._first + bucket * self.rows
            path = self._paths[bucket] = os.path.join(self._folder, f"bucket-{number:012d}-{self.rows}.jsonl")
        with open(path, "ab") as file:
            file.write(b"".join(self._pending.pop(bucket)))
        self._size -= self._sizes.pop(bucket)

    def flush(self) -> None:
        """Write what is pending."""
        for bucket in list(self._pending):
            self._flush(bucket)

    close = flush

    def take(self, n: int) -> str | None:
        """Return the path of the bucket of row *n*, None if it is empty; nothing is added to it afterwards."""
        return self._paths.pop((n - self._first) // self.rows, None)

    def lines(self, n: int) -> Iterator[bytes]:
        """Yield the lines in the bucket of row *n*."""
        path = self._paths.get((n - self._first) // self.rows)
        if path is not None:
            yield from lines_of(path)


def lines_of(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, with their newlines."""
    with open(path, "rb") as file:
        yield from file


def number_of(line: bytes) -> int:
    """Return the row of a record: its line begins with ``{"n":``."""
    return int(line[5 : line.index(b",")])


def unpacked_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a compressed file, with their newlines."""
    import zstandard

    with open(path, "rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
        rest = b""
        while piece := stream.read(1 << 20):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line + b"\n"
