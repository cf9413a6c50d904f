# SPDX-License-Identifier: Apache-2.0
"""Rows on disk, to be found by key."""

# Rows are appended to one temporary file. An entry of three 64-bit numbers for each goes to a second one, which is
# mapped into memory: the hash of the key, the row's offset with two flags in the lowest bits, and its length. Then
# `RowIndex.build` makes an open hash table of 4 bytes a slot over the entries. In all 6 to 12 bytes a row are held in
# memory, and 24 more in the mapped file, which the system may write out. SQLite needs two to four times as long.
#
# Two keys may share a hash, so the row itself is compared as well: a line begins with its key.

from __future__ import annotations

import mmap
import os
import tempfile
from array import array
from collections.abc import Iterator

import msgspec

from airflow_provider_gemini_batch.files.paths import BUFFER_BYTES

_USED = 1
_USABLE = 2
_FLUSH_AT = 30_000
"""Numbers that are kept before they are written."""

_HASH = 0xFFFFFFFFFFFFFFFF
_encode = msgspec.json.Encoder().encode


class RowIndex:
    """
    Rows on disk, to be found by key.

    :param workdir: Where they are kept; None for the system's temporary directory.
    """

    def __init__(self, workdir: str | None) -> None:
        self._data = tempfile.TemporaryFile(dir=workdir, prefix="gemini-batch-", buffering=BUFFER_BYTES)  # noqa: SIM115
        self._index = tempfile.TemporaryFile(dir=workdir, prefix="gemini-batch-", buffering=BUFFER_BYTES)  # noqa: SIM115
        self._pending = array("Q")
        self._offset = 0
        self._count = 0
        self._words: memoryview = memoryview(b"").cast("Q")
        self._map: mmap.mmap | None = None
        self._table = array("I")
        self._mask = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: str, line: bytes, usable: bool) -> None:
        """
        Take a row in.

        :param line: Begins with the key; ends with a newline.
        :param usable: Whether it is a success, which wins over a row with the same key that is none.
        """
        self._data.write(line)
        length = len(line)
        self._pending.extend((hash(key) & _HASH, self._offset << 2 | (usable and _USABLE), length))
        self._offset += length
        self._count += 1
        if len(self._pending) >= _FLUSH_AT:
            self._index.write(self._pending)
            self._pending = array("Q")

    def build(self) -> Iterator[bytes]:
        """Make rows findable; yield the lines that lost against another one with their key."""
        self._data.flush()
        self._index.write(self._pending)
        self._pending = array("Q")
        self._index.flush()
        if not self._count:
            return
        self._map = mmap.mmap(self._index.fileno(), self._count * 24)
        words = self._words = memoryview(self._map).cast("Q")
        mask = (1 << max(4, (self._count * 3 // 2).bit_length())) - 1
        self._mask = mask
        table = self._table = array("I", [0]) * (mask + 1)
        for entry in range(self._count):
            value = words[entry * 3]
            slot = value & mask
            while other := table[slot]:
                if words[other * 3 - 3] == value and _head(self._line(other - 1)) == _head(self._line(entry)):
                    loser = entry
                    if words[entry * 3 + 1] & _USABLE and not words[other * 3 - 2] & _USABLE:
                        table[slot] = entry + 1
                        loser = other - 1
                    words[loser * 3 + 1] |= _USED
                    yield self._line(loser)
                    break
                slot = (slot + 1) & mask
            else:
                table[slot] = entry + 1

    def find(self, key: str) -> tuple[bytes, bool, bool] | None:
        """Return the row of *key*, whether it is a success and whether it was taken before, and mark it as taken."""
        if not self._count:
            return None
        value = hash(key) & _HASH
        table, words, mask = self._table, self._words, self._mask
        slot = value & mask
        head = None
        while entry := table[slot]:
            if words[entry * 3 - 3] == value:
                line = self._line(entry - 1)
                head = head or b'{"key":%b,' % _encode(key)
                if line.startswith(head):
                    flags = words[entry * 3 - 2]
                    words[entry * 3 - 2] = flags | _USED
                    return line, bool(flags & _USABLE), bool(flags & _USED)
            slot = (slot + 1) & mask
        return None

    def unused(self) -> Iterator[bytes]:
        """Yield the rows that no key asked for."""
        for entry in range(self._count):
            if not self._words[entry * 3 + 1] & _USED:
                yield self._line(entry)

    def close(self) -> None:
        """Give the disk space back."""
        self._words.release()
        if self._map is not None:
            self._map.close()
        self._data.close()
        self._index.close()

    def _line(self, entry: int) -> bytes:
        offset, length = self._words[entry * 3 + 1] >> 2, self._words[entry * 3 + 2]
        return os.pread(self._data.fileno(), length, offset)


def _head(line: bytes) -> bytes:
    """Return a row's beginning up to its status. JSON escapes quotes, so the key cannot hold this byte sequence."""
    return line[: line.index(b',"status":"')]
