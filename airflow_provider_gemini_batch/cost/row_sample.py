# SPDX-License-Identifier: Apache-2.0
"""
Which rows stand for all, where tokens are counted? A few, evenly spread over the bytes of an input that is read once.

A row is kept wherever *step* bytes have passed since the last one that was kept. Once there are more rows than wanted,
every other one is dropped and the step is doubled, so that neither rows nor length of the input need be known before.
Example: of 1,000 rows of 100 bytes, with 4 wanted: rows 0 to 4 are kept, one too many; 0, 2, 4 stay with a step of 200;
and so on, until three or four rows some 30,000 bytes apart are left.

A large file on disk is not read for it: it is looked into at as many places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_ROWS = 16
MOST_BYTES = 8_000_000
"""Of all rows that are kept: a row may hold images of many megabytes. A longer row is not kept at all."""

_SMALL = 1 << 20
_PIECE = 1 << 16


class RowSample:
    """Keeps some of the rows that pass."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._bytes = 0
        self._seen = 0
        self._next = 0
        self._step = 1

    @property
    def rows(self) -> tuple[bytes, ...]:
        """The rows that are kept, in order."""
        return tuple(self._kept)

    def see(self, lines: bytes) -> None:
        """
        Take one row, or the lines of several.

        :param lines: Whole rows; several end in a newline each.
        """
        begun, end = self._seen, self._seen + len(lines)
        self._seen = end
        while self._next < end:
            after = self._next - begun
            start = 0 if after <= 0 else lines.find(b"\n", after - 1) + 1
            if not lines[start : start + 1] or (after > 0 and not start):
                return  # no row begins in the rest
            stop = lines.find(b"\n", start) + 1 or len(lines)
            self._keep(lines[start:stop], begun + start)
            self._next = begun + start + self._step

    def pass_by(self, size: int, lines: Callable[[], bytes]) -> None:
        """Take the lines of *size* bytes, which are made only if a row of them may be kept."""
        if self._next >= self._seen + size:
            self._seen += size
        else:
            self.see(lines())

    def _keep(self, row: bytes, place: int) -> None:
        if len(row) > MOST_BYTES:
            return
        self._kept.append(row)
        self._bytes += len(row)
        while len(self._kept) > MOST_ROWS or self._bytes > MOST_BYTES:
            self._kept = self._kept[::2]
            self._bytes = sum(map(len, self._kept))
            self._step = max(2 * self._step, place // len(self._kept))


class Source(Protocol):
    """Rows on disk, a line each."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset* on; fewer only at the end."""


def sample_of(source: Source) -> tuple[bytes, ...]:
    """Return some of the rows of *source*, in order: the first one behind each of :data:`MOST_ROWS` places."""
    if source.size <= _SMALL:
        sample = RowSample()
        sample.see(source.read(0, source.size))
        return sample.rows
    found, left = [], MOST_BYTES
    for place in range(MOST_ROWS):
        row, read = _row_behind(source, source.size * place // MOST_ROWS, left)
        left -= read
        if row:
            found.append(row)
    return tuple(found)


def _row_behind(source: Source, offset: int, most: int) -> tuple[bytes, int]:
    """Return the first row that begins behind *offset*, empty if there is none in *most* bytes; and the bytes read."""
    text, begun = b"", offset == 0
    while len(text) < most:
        piece = source.read(offset + len(text), min(_PIECE, most - len(text), source.size - offset - len(text)))
        text += piece
        start = 0 if begun else text.find(b"\n") + 1
        stop = text.find(b"\n", start) + 1 if begun or start else 0
        if stop or not piece:
            return text[start:stop], len(text)
    return b"", len(text)
