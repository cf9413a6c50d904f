# SPDX-License-Identifier: Apache-2.0
"""
How long an ordinary reply may take and how large it may be, for both drivers. A download has neither bound: it goes to
disk, and only a stall ends it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ReplyTooLargeError, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

REPLY_TIMEOUTS = 5
"""Timeouts of the connection in which a reply must be complete; one that trickles keeps every single read in time."""

WORKER_REPLY_BYTES = 256 * 1024 * 1024
"""Unpacked. A job with inline answers has them inside twice, should the service not leave them out as it is asked."""

TRIGGERER_REPLY_BYTES = 64 * 1024 * 1024
"""The same for a process that thousands of waits share; a page of a hundred jobs has some 100 KB."""

ACCEPT_ENCODING = "gzip, deflate"
_PACKED = ("gzip", "x-gzip", "deflate")


class Unpacker:
    """
    Undoes a reply's ``Content-Encoding``.

    :param coding: As the reply's head has it.
    :raises TransportError: From every method, for what cannot be unpacked.
    """

    def __init__(self, coding: str) -> None:
        coding = coding.strip().lower()
        self._coding = coding
        self._stream = _new_stream() if coding in _PACKED else None
        self._is_fed = False

    def unpack(self, piece: bytes, most: int = 1 << 20) -> Iterator[bytes]:
        """Yield what a piece holds, at most *most* bytes at a time: a few bytes may hold millions."""
        if self._stream is None:
            if self._coding not in ("", "identity"):
                raise TransportError(
                    f"The service packed its reply as {self._coding[:40]!r}, which it was not asked for."
                )
            yield piece
            return
        self._is_fed = True
        while True:
            try:
                found = self._stream.decompress(piece, most)
            except zlib.error:
                raise TransportError("The service's reply cannot be unpacked.") from None
            if found:
                yield found
            # What is left over because of *most*, or what follows the end of a first packed part.
            piece = self._stream.unconsumed_tail or self._stream.unused_data
            if self._stream.eof:
                if not piece:
                    return
                self._stream = _new_stream()  # packed in several parts
            elif not piece and len(found) < most:
                return

    def check_end(self) -> None:
        """Make sure that what has come is all there was."""
        if self._stream is not None and self._is_fed and not self._stream.eof:
            raise TransportError("The service's reply ended within its packed bytes.")


def _new_stream() -> Any:
    # 32 more than the largest window: zlib tells gzip and deflate apart by itself.
    return zlib.decompressobj(32 + zlib.MAX_WBITS)


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
        self._unpacker = Unpacker(coding)

    def add(self, piece: bytes) -> None:
        """Take what came; look at :attr:`fault` afterwards."""
        try:
            for found in self._unpacker.unpack(piece):
                self._size += len(found)
                self._pieces.append(found)
                # Counted as it is unpacked: a few kilobytes may unpack to gigabytes, and the triggerer is shared by
                # all.
                if self._size > self._limit:
                    raise ReplyTooLargeError(
                        f"The service's reply has more than {self._limit >> 20} MiB and was not read to its end. Where "
                        "it is a job with its answers inside, give the rows as a file (input_path) instead of "
                        "inlined_requests."
                    )
        except TransportError as error:
            self.fault = error.with_traceback(None)

    @property
    def size(self) -> int:
        """Bytes so far, unpacked."""
        return self._size

    def end(self) -> None:
        """Say that nothing more comes; look at :attr:`fault` afterwards."""
        try:
            self._unpacker.check_end()
        except TransportError as error:
            self.fault = self.fault or error.with_traceback(None)

    def content(self) -> bytes:
        """Return the whole body."""
        return b"".join(self._pieces)
