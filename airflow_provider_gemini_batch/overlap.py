# SPDX-License-Identifier: Apache-2.0
"""
Files whose way to the disk does not hold up who writes them.

A thread that gives up the interpreter, as a write does, waits up to 5 ms to get it back from one that computes. So work
goes to a thread in large blocks, or not at all: a download that is stored as it comes is read and written in one
thread, while rows that are decoded meanwhile are written behind, many megabytes at a time.
"""

from __future__ import annotations

import io
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

BLOCK_BYTES = 8 * 1024 * 1024
"""Bytes that are handed to the thread at once. At most twice as many wait, and as many are being collected."""

BLOCKS_WAITING = 2
MAX_PIECES = 256
"""Pieces that are written with one call; the system allows a thousand."""

SETTLE_BYTES = 16 * 1024 * 1024
"""After so many bytes the system is told to bring them to the disk, so that little is left to wait for at the end."""


class EarlyOut(io.FileIO):
    """A file whose bytes are on their way to the disk before the end, so that little is left to wait for then."""

    _unsettled = 0

    def write(self, data: Any, /) -> int:
        """Write; now and then, have the system begin to bring to the disk what has come since."""
        count = super().write(data)
        self._settle(count)
        return count

    def write_all(self, pieces: list[bytes]) -> None:
        """Write pieces, in one call as a rule."""
        count = os.writev(self.fileno(), pieces)
        self._settle(count)
        rest = memoryview(b"".join(pieces))[count:] if count < sum(map(len, pieces)) else memoryview(b"")
        while rest:
            rest = rest[self.write(rest) :]

    def _settle(self, count: int) -> None:
        self._unsettled += count
        if self._unsettled >= SETTLE_BYTES and hasattr(os, "posix_fadvise"):
            first = self.tell() - self._unsettled
            # Linux drops what is clean of these bytes, which is none of them, and begins to write the others out.
            with suppress(OSError):  # not every file system can; the end tells
                os.posix_fadvise(self.fileno(), first, self._unsettled, os.POSIX_FADV_DONTNEED)
            self._unsettled = 0


class WriteBehind:
    """
    Writes to a file in a thread of its own.

    :param raw: The file, unbuffered; closed with this object.
    :param digest: Fed with everything that is written, in that thread too.
    """

    def __init__(self, raw: EarlyOut, *, digest: Any = None) -> None:
        self._raw = raw
        self._digest = digest
        self._pieces: list[bytes] = []
        self._size = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gemini-batch-write")
        self._waiting: deque[Future[None]] = deque()

    def write(self, piece: bytes, /) -> int:
        """Take a piece; raises what went wrong with an earlier one."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= BLOCK_BYTES:
            self._hand_over()
        return len(piece)

    def flush(self) -> None:
        """Wait until everything is written, and raise what went wrong."""
        if self._pieces:
            self._hand_over()
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Close the file. What was not flushed is lost, as it is meant to be after a fault."""
        self._thread.shutdown(cancel_futures=True)
        self._raw.close()

    def _hand_over(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        while len(self._waiting) >= BLOCKS_WAITING:
            self._waiting.popleft().result()
        if self._digest is not None or len(pieces) > MAX_PIECES:
            # In one piece, since the thread waits for the interpreter after each.
            pieces = [b"".join(pieces)]
        self._waiting.append(self._thread.submit(self._put, pieces))

    def _put(self, pieces: list[bytes]) -> None:
        if self._digest is not None:
            self._digest.update(pieces[0])
        self._raw.write_all(pieces)
