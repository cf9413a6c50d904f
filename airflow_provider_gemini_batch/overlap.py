# SPDX-License-Identifier: Apache-2.0
"""
Reading ahead and writing behind: the network, the disk and the decoding of rows take turns in one thread, and need not.

Both hold a few blocks at most, so that memory does not grow where one side is slower. What goes wrong in the other
thread is raised in the caller's, a few blocks later.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")

BLOCKS = 4
"""Blocks on their way between the two threads at most."""

SETTLE_BYTES = 16 * 1024 * 1024
"""After so many bytes the system is told to bring them to the disk, so that little is left to wait for at the end."""

_END: Any = object()


def read_ahead(pieces: Iterator[T]) -> Generator[T, None, None]:
    """
    Yield what *pieces* yields, while the next ones are fetched in a thread of their own.

    :param pieces: Run in that thread alone; closed at the end, if it can be.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="gemini-batch-read") as thread:
        waiting: deque[Future[T]] = deque()
        try:
            for _ in range(BLOCKS):
                waiting.append(thread.submit(next, pieces, _END))
            while (piece := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, pieces, _END))
                yield piece
        finally:
            for future in waiting:
                future.cancel()
            close = getattr(pieces, "close", None)
            if close is not None:
                thread.submit(close).result()


class EarlyOut(io.FileIO):
    """A file whose bytes are on their way to the disk before the end, so that little is left to wait for then."""

    _unsettled = 0

    def write(self, data: Any, /) -> int:
        """Write; now and then, have the system begin to bring to the disk what has come since."""
        count = super().write(data)
        self._unsettled += count
        if self._unsettled >= SETTLE_BYTES and hasattr(os, "posix_fadvise"):
            # Linux drops what is clean of these bytes, which is none of them, and begins to write the others out.
            os.posix_fadvise(self.fileno(), self.tell() - self._unsettled, self._unsettled, os.POSIX_FADV_DONTNEED)
            self._unsettled = 0
        return count


class WriteBehind(io.RawIOBase):
    """
    A file that is written in a thread of its own; meant below an ``io.BufferedWriter``, which makes blocks of lines.

    :param descriptor: Of the open file; closed with this object.
    :param digest: Fed with everything that is written, in that thread too.
    """

    def __init__(self, descriptor: int, *, digest: Any = None) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._digest = digest
        self._unsettled = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gemini-batch-write")
        self._waiting: deque[Future[None]] = deque()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any, /) -> int:
        """Take a block; raises what went wrong with an earlier one."""
        block = bytes(data)  # the caller uses its buffer again
        while len(self._waiting) >= BLOCKS:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._put, block))
        return len(block)

    def settle(self) -> None:
        """Wait until every block is written, and raise what went wrong."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Write what is waiting and close the file."""
        if self.closed:
            return
        try:
            self.settle()
        finally:
            self._thread.shutdown(cancel_futures=True)
            os.close(self._descriptor)
            super().close()

    def _put(self, block: bytes) -> None:
        if self._digest is not None:
            self._digest.update(block)
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._unsettled += len(block)
        if self._unsettled >= SETTLE_BYTES:
            self._unsettled = 0
            with suppress(OSError):  # not every file system can; the end tells
                os.fdatasync(self._descriptor)
