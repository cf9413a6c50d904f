# SPDX-License-Identifier: Apache-2.0
"""Which keys have been seen."""

from __future__ import annotations

from array import array
from operator import lt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SLOTS_AT_LEAST = 1 << 21
_PUT_AT_ONCE = 10_000
_NOT_EMPTY = 1
"""For the hash 0, which says that a slot is empty."""


class KeySet:
    """
    The keys seen so far, as 64-bit hashes in an open table: 16 MB from 160,000 keys to 1.2 million, and beyond them 14
    to 27 bytes a key, half as much again while it grows.

    A set of strings would take over 100 bytes a key. Two different keys of a million share a hash, and one of them is
    then taken for the other, with a chance of 3 in 100 million.

    Keys that ascend, shorter ones first, as numbers do, cannot repeat. As long as all of them do, the table is not
    made, which costs a third of a microsecond a key: hashes are kept for it, 8 bytes each, until it is.
    """

    def __init__(self) -> None:
        self._mask = (1 << 12) - 1
        self._slots = array("q", bytes(8 << 12))
        self._count = 0
        self._kept: array[int] | None = array("q")
        self._last = (0, "")

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: str) -> bool:
        self._make_table()
        # Zero marks an empty slot, so no key may have it as its hash.
        value, slots, mask = hash(key) or _NOT_EMPTY, self._slots, self._mask
        place = value & mask
        while found := slots[place]:
            if found == value:
                return True
            place = (place + 1) & mask
        return False

    def add(self, key: str) -> bool:
        """Take a key in; return False if it was there."""
        return not self.add_all([key])

    def add_all(self, keys: Sequence[str]) -> list[int]:
        """Take keys in; return the places of those that were there, or came before in *keys*."""
        hashes = list(map(hash, keys))
        if 0 in hashes:
            hashes = [value or _NOT_EMPTY for value in hashes]
        if self._kept is not None:
            # Length first: 9 comes before 10 as a number and behind it as a text.
            marks = [self._last, *zip(map(len, keys), keys, strict=True)]
            if all(map(lt, marks, marks[1:])):
                self._last = marks[-1]
                self._kept.extend(hashes)
                self._count += len(keys)
                return []
            self._make_table()
        return self._put(hashes)

    def _make_table(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            self._count = 0
            for first in range(0, len(kept), _PUT_AT_ONCE):
                self._put(kept[first : first + _PUT_AT_ONCE])

    def _put(self, hashes: Sequence[int]) -> list[int]:
        # At most six tenths full: beyond that, chains of taken slots grow long.
        while (self._count + len(hashes)) * 10 > self._mask * 6:
            self._grow()
        slots, mask = self._slots, self._mask
        repeated: list[int] = []
        for number, value in enumerate(hashes):
            place = value & mask
            while found := slots[place]:
                if found == value:
                    repeated.append(number)
                    break
                place = (place + 1) & mask
            else:
                slots[place] = value
        self._count += len(hashes) - len(repeated)
        return repeated

    def _grow(self) -> None:
        old = self._slots
        # All keys are put into their places anew, which a small table can be spared.
        size = len(old) * (2 if len(old) >= _SLOTS_AT_LEAST else 8)
        slots, mask = array("q", [0]) * size, size - 1
        for value in filter(None, old):
            place = value & mask
            while slots[place]:
                place = (place + 1) & mask
            slots[place] = value
        self._slots, self._mask = slots, mask
