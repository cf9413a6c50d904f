# SPDX-License-Identifier: Apache-2.0
"""
Lines in blocks: what is done to a block at once costs a fraction of what it costs line by line.

Every step that Python takes for each row (a call, a generator's turn, a write) costs as much as decoding the row does.
So rows are decoded, checked and written a block at a time, and one by one only in blocks that hold something uncommon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

BLOCK_BYTES = 256 * 1024
"""A block ends with the line that fills it: it stays in the processor's cache, and a long line is a block alone."""


def in_blocks(lines: Iterable[bytes | T]) -> Iterator[list[bytes] | T]:
    """Yield lines in lists of about BLOCK_BYTES, in order; whatever is no ``bytes`` is passed on alone."""
    block: list[bytes] = []
    room = BLOCK_BYTES
    for line in lines:
        if type(line) is bytes:
            block.append(line)
            room -= len(line)
            if room > 0:
                continue
        if block:
            yield block
            block, room = [], BLOCK_BYTES
        if type(line) is not bytes:
            yield line  # type: ignore[misc]
    if block:
        yield block
