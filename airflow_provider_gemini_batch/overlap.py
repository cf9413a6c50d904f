# SPDX-License-Identifier: Apache-2.0
"""
Files whose way to the disk does not hold up who writes them.

Downloads are read, decoded and written in one thread: the system's buffers read ahead and write behind by themselves,
and handing every piece to another thread and back costs more than it saves. Only a digest, which the interpreter
computes beside other work, is worth a thread.
"""

from __future__ import annotations

import io
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

BLOCKS = 4
"""Blocks on their way between the two threads at most."""

SETTLE_BYTES = 16 * 1024 * 1024
"""After so many bytes the system is told to bring them to the disk, so that little is left to wait for at the end."""


class EarlyOut(io.FileIO):
    """A file whose bytes are on their way to the disk before the end, so that little is left to wait for then."""

    _unsettled = 0

    def write(self, data: Any, /) -> int:
        """Write; now and then, have the system begin to bring to the disk what has come since."""
        count = super().write(data)
        self._unsettled += count
        if self._unsettled >= SETTLE_BYTES and hasattr(os, "posix_fadvise"):
            first = self.tell() - self._unsettled
            # Linux drops what is clean of these bytes, which is none of them, and begins to write the others out.
            with suppress(OSError):  # not every file system can; the end tells
                os.posix_fadvise(self.fileno(), first, self._unsettled, os.POSIX_FADV_DONTNEED)
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
