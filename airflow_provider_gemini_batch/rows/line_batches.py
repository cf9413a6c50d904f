# SPDX-License-Identifier: Apache-2.0
"""Lines in blocks: what is done to a block at once costs a fraction of what it costs line by line."""

# Every step that Python takes for each row (a call, a generator's turn, a write) costs as much as decoding the row
# does. So rows are decoded, checked and written a block at a time, and one by one only in blocks that hold something
# uncommon.

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

R = TypeVar("R")

BLOCK_BYTES = 256 * 1024
"""About what a block has, so that it stays in the processor's cache; more only where a line has more."""


MAX_LINE_BYTES = 128 * 1024 * 1024
"""A longer line is refused while it is read: a file without line ends would otherwise be read into memory whole."""


class LineTooLongError(ConfigurationError):
    """A line is longer than :data:`MAX_LINE_BYTES`."""


# A type of its own, as a user's row that is a list has to be refused and not taken for several lines.
class Lines(list[bytes]):
    """Several lines in place of one; a plain list among rows is a row that cannot be."""


def read_in_blocks(
    rows: Iterable[Any], read: Callable[[list[bytes]], R | None]
) -> Iterator[tuple[list[Any], R | None]]:
    """
    Yield rows with what *read* makes of them: in blocks, and one by one where it returns None for a block.

    :param rows: Lines, several at once as :class:`Lines`, and other rows; or a file of lines.
    :param read: Reads lines that are all common, or returns None. Asked for ``bytes`` only.
    :return: Pairs of rows, in order, and what was made of them; with None the row is alone.
    """
    for block in _blocks(rows):
        found = read(block) if type(block[0]) is bytes else None
        if found is not None or len(block) == 1:
            yield block, found
        else:
            for row in block:
                # One row that is not common costs its block the fast path, and not its neighbours theirs: each is tried
                # alone again.
                yield [row], read([row])


def line_blocks(chunks: Iterable[bytes]) -> Iterator[Lines]:
    """
    Yield the lines of a stream, newlines included, in lists of those that end in the same chunk.

    :raises LineTooLongError: Once a line has more than :data:`MAX_LINE_BYTES`, whose end is then never read.
    """
    rest: list[bytes] = []
    size = number = 0
    for chunk in chunks:
        # Unlike bytes.split, this finds the ends of lines with the C library's search.
        lines = Lines(io.BytesIO(chunk))
        unended = lines.pop() if lines and lines[-1][-1:] != b"\n" else b""
        if lines:
            if rest:
                lines[0] = b"".join((*rest, lines[0]))
                rest, size = [], 0
            number += len(lines)
            yield lines
        if unended:
            rest.append(unended)
            # The length is watched while the line grows: afterwards it would be in memory already.
            size += len(unended)
            if size > MAX_LINE_BYTES:
                raise LineTooLongError(
                    f"line {number + 1}: it is longer than {MAX_LINE_BYTES:,} bytes (128 MiB), which is more than one "
                    "row may have. Is the file one JSON object a line?"
                )
    if rest:
        yield Lines([b"".join(rest)])


def file_blocks(file: Any) -> Iterator[Lines]:
    """Yield the lines of a binary file from where it stands, as :func:`line_blocks` does."""
    return line_blocks(iter(partial(file.read, BLOCK_BYTES), b""))


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream, as :func:`lines_of` does."""
    for block in line_blocks(chunks):
        yield from lines_of(block)


def lines_of(block: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their newlines; blank ones are left out."""
    for line in block:
        if not line.isspace():
            yield line.removesuffix(b"\n")


def _blocks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lines in lists of about BLOCK_BYTES, and whatever is no ``bytes`` in lists of one."""
    # A file's own lines take twice the time. What a file is of is seen from what it reads: not all text files say it.
    # A list of lines is not read through; a file is, as its own iterator hands out one line at a time.
    if isinstance(rows, io.IOBase) and hasattr(rows, "read") and rows.read(0) == b"":
        yield from file_blocks(rows)
        return
    block: list[bytes] = []
    room = BLOCK_BYTES
    for row in rows:
        if type(row) is bytes:
            block.append(row)
            room -= len(row)
            if room > 0:
                continue
        if block:
            yield block
            block, room = [], BLOCK_BYTES
        if isinstance(row, Lines):
            yield row
        elif type(row) is not bytes:
            yield [row]
    if block:
        yield block
