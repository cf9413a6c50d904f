# SPDX-License-Identifier: Apache-2.0
"""Files on their way to the disk, and digests, beside other work."""

# A thread that gives up the interpreter, as a write does, waits up to 5 ms to get it back from one that computes. So
# rows are written where they are made, which costs little: the system brings them to the disk meanwhile. Only a digest,
# which computes for itself, has a thread.

from __future__ import annotations

import io
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

WRITE_BYTES = 256 * 1024
"""Bytes that are written with one call. For more, the system looks for memory in large pieces, which may be dear."""

SETTLE_BYTES = 16 * 1024 * 1024
"""After so many bytes the system is told to bring them to the disk, so that little is left to wait for at the end."""

DIGEST_BYTES = 2 * 1024 * 1024
"""Bytes that are handed to the digest at once."""

DIGEST_BLOCKS = 4
"""One is filled while the others wait. They are used again: new memory costs more than the copy into them."""


class WriteBehindFile(io.FileIO):
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


class BackgroundHash:
    """
    Feeds a digest in a thread of its own.

    :param digest: As of :mod:`hashlib`; complete after :meth:`finish`.
    """

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gemini-batch-digest")
        self._block = bytearray(DIGEST_BYTES)
        self._size = 0
        self._waiting: deque[tuple[Future[None], bytearray]] = deque()

    def update(self, data: bytes) -> None:
        """Take bytes in."""
        # Slices of a view copy nothing, and the one copy into the block lets the caller use its own buffer again.
        rest = memoryview(data)
        while rest:
            count = min(len(rest), DIGEST_BYTES - self._size)
            self._block[self._size : self._size + count] = rest[:count]
            self._size += count
            rest = rest[count:]
            if self._size == DIGEST_BYTES:
                self._hand_over()

    def finish(self) -> None:
        """Wait until the digest knows all bytes."""
        self._hand_over()
        while self._waiting:
            self._waiting.popleft()[0].result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _hand_over(self) -> None:
        work = self._thread.submit(self._digest.update, memoryview(self._block)[: self._size])
        self._waiting.append((work, self._block))
        self._size = 0
        if len(self._waiting) < DIGEST_BLOCKS:
            self._block = bytearray(DIGEST_BYTES)
        else:
            oldest, self._block = self._waiting.popleft()
            # Waiting here bounds the memory: the writer may be faster than the digest.
            oldest.result()
