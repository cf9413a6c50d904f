# SPDX-License-Identifier: Apache-2.0
"""What stays the same from line to line, around a row's key and its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    import msgspec


@dataclass(frozen=True)
class LineTemplate:
    """
    A line cut at its key and its one text.

    Programs write files whose lines differ in nothing else. Whether a block is of such lines is told by one comparison,
    where a look at each line costs as much as decoding it.
    """

    head: bytes
    middle: bytes
    tail: bytes

    @classmethod
    def cut(cls, line: bytes, key: bytes, text: bytes) -> Self | None:
        """
        Cut a line at the first places where *key* and *text*, two values as JSON, may stand; None if there are none.

        These are not always the places of the values: *key* may be what another member is called. Who cuts a line
        fills in values that are found nowhere else, and reads the line again.
        """
        head, has_key, rest = line.partition(key)
        middle, has_text, tail = rest.partition(text)
        return cls(head, middle, tail) if has_key and has_text else None

    def fill(self, keys: Iterable[bytes], texts: Iterable[bytes | msgspec.Raw]) -> bytes:
        """Return the lines that have these keys and texts, as JSON."""
        return b"".join(
            [
                piece
                for key, text in zip(keys, texts, strict=True)
                for piece in (self.head, key, self.middle, text, self.tail)
            ]
        )
