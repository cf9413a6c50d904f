# SPDX-License-Identifier: Apache-2.0
"""
How long an ordinary reply may take and how large it may be, for both drivers. A download has neither bound: it goes to
disk, and only a stall ends it.
"""

from __future__ import annotations

import zlib

from airflow_provider_gemini_batch.errors import ReplyTooLargeError, TransportError

REPLY_TIMEOUTS = 5
"""Timeouts of the connection in which a reply must be complete; one that trickles keeps every single read in time."""

WORKER_REPLY_BYTES = 256 * 1024 * 1024
"""Unpacked. A job with inline answers has them inside twice, should the service not leave them out as it is asked."""

TRIGGERER_REPLY_BYTES = 64 * 1024 * 1024
"""The same for a process that thousands of waits share; a page of a hundred jobs has some 100 KB."""

ACCEPT_ENCODING = "gzip, deflate"
_PACKED = ("gzip", "x-gzip", "deflate")


class Body:
    """
    Collects an ordinary reply's body, unpacked; never holds more than the bound and a piece.

    :param coding: The reply's ``Content-Encoding``.
    :param limit: Bytes at most.
    """

    def __init__(self, coding: str, limit: int) -> None:
        self.fault: TransportError | None = None
        """Why nothing further is worth reading. Not raised here: the caller's frame may hold credentials."""
        self._limit = limit
        self._size = 0
        self._pieces: list[bytes] = []
        coding = coding.strip().lower()
        # 32 more than the largest window: zlib tells gzip and deflate apart by itself.
        self._unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS) if coding in _PACKED else None
        if coding not in (*_PACKED, "", "identity"):
            self.fault = TransportError(f"The service packed its reply as {coding[:40]!r}, which it was not asked for.")

    def add(self, piece: bytes) -> None:
        """Take what came; look at :attr:`fault` afterwards."""
        if self._unpacker is not None:
            try:
                piece = self._unpacker.decompress(piece, self._limit - self._size + 1)
            except zlib.error:
                self.fault = TransportError("The service's reply cannot be unpacked.")
                return
        self._size += len(piece)
        self._pieces.append(piece)
        if self._size > self._limit:
            self.fault = ReplyTooLargeError(
                f"The service's reply has more than {self._limit >> 20} MiB and was not read to its end. Where it is a "
                "job with its answers inside, give the rows as a file (input_path) instead of inlined_requests."
            )

    def content(self) -> bytes:
        """Return the whole body."""
        return b"".join(self._pieces)
