# SPDX-License-Identifier: Apache-2.0
"""Keys of rows: how they travel, and which have been seen."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

KEY_PREFIX = "afgb:"
"""Before every key on Vertex AI: its importer gives number-like strings back as numbers (``"000"`` as ``0``)."""

MAX_KEY_LENGTH = 1000

_SLOTS_AT_LEAST = 1 << 21


class KeySet:
    """
    The keys seen so far, as 64-bit hashes in an open table: 16 MB from 160,000 keys to 1.2 million, and beyond them 14
    to 27 bytes a key, half as much again while it grows.

    A set of strings would take over 100 bytes a key. Two different keys of a million share a hash, and one of them is
    then taken for the other, with a chance of 3 in 100 million.
    """

    def __init__(self) -> None:
        self._mask = (1 << 12) - 1
        self._slots = array("Q", bytes(8 << 12))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: str) -> bool:
        value, slots, mask = hash(key) & 0xFFFFFFFFFFFFFFFF or 1, self._slots, self._mask
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
        while (self._count + len(keys)) * 10 > self._mask * 6:
            self._grow()
        slots, mask = self._slots, self._mask
        repeated: list[int] = []
        for number, key in enumerate(keys):
            value = hash(key) & 0xFFFFFFFFFFFFFFFF or 1
            place = value & mask
            while found := slots[place]:
                if found == value:
                    repeated.append(number)
                    break
                place = (place + 1) & mask
            else:
                slots[place] = value
        self._count += len(keys) - len(repeated)
        return repeated

    def _grow(self) -> None:
        old = self._slots
        # All keys are put into their places anew, which a small table can be spared.
        size = len(old) * (2 if len(old) >= _SLOTS_AT_LEAST else 8)
        slots, mask = array("Q", [0]) * size, size - 1
        for value in old:
            if value:
                place = value & mask
                while slots[place]:
                    place = (place + 1) & mask
                slots[place] = value
        self._slots, self._mask = slots, mask
