# SPDX-License-Identifier: Apache-2.0
"""Rows by their number, in as little memory as their number allows: a run has ten million of them, and 400 MB."""

# A dict of 200,000 digests takes 40 MB, a set of their numbers 16 MB more. Here a digest takes 24 bytes with its
# number, and membership one bit.

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

DIGEST_BYTES = 16


class AskedRows:
    """
    The rows that a job is asked, with the digest of each request.

    :param rows: Number and digest (16 bytes) of each row, ordered by number.
    """

    def __init__(self, rows: Iterable[tuple[int, bytes]] = ()) -> None:
        self._numbers = array("Q")
        self._digests = bytearray()
        for n, digest in rows:
            self._numbers.append(n)
            self._digests += digest

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and digest of each row, in order."""
        for place, n in enumerate(self._numbers):
            yield n, self._digest_at(place)

    def __contains__(self, n: int) -> bool:
        return self.place(n) is not None

    def place(self, n: int) -> int | None:
        """Return how many rows stand before row *n*, or None if that is not asked."""
        numbers = self._numbers
        if not numbers:
            return None
        place = n - numbers[0]
        # Most jobs are asked consecutive rows.
        if 0 <= place < len(numbers) and numbers[place] == n:
            return place
        place = bisect_left(numbers, n)
        return place if place < len(numbers) and numbers[place] == n else None

    def digest(self, n: int) -> bytes | None:
        """Return the digest of row *n*, or None if that is not asked."""
        place = self.place(n)
        return None if place is None else self._digest_at(place)

    def _digest_at(self, place: int) -> bytes:
        return bytes(self._digests[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)])


class RowSet:
    """
    A set of row numbers within known bounds, one bit each.

    :param first, last: Bounds, both included.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._last = last
        self._bits = bytearray((last - first) // 8 + 1 if last >= first else 0)

    @property
    def size(self) -> int:
        """How many numbers there are within the bounds."""
        return self._last - self._first + 1

    def __contains__(self, n: int) -> bool:
        if not self._first <= n <= self._last:
            return False
        bit = n - self._first
        return bool(self._bits[bit >> 3] & (1 << (bit & 7)))

    def add(self, n: int) -> None:
        """Add a row within the bounds."""
        bit = n - self._first
        self._bits[bit >> 3] |= 1 << (bit & 7)

    def discard(self, n: int) -> None:
        """Remove a row within the bounds."""
        bit = n - self._first
        self._bits[bit >> 3] &= ~(1 << (bit & 7)) & 0xFF
