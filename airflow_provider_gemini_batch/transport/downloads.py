# SPDX-License-Identifier: Apache-2.0
"""What a streamed download has of its file, and the bytes of one reply."""

# A download that was cut goes on at the byte it lacks. Say 700 bytes of a file of 2,048 have come: the next request
# asks for `bytes=700-`. The service may answer
#
# * 206 with the rest, from byte 700 on or from an earlier one: what is here already is skipped,
# * 200 with everything: 700 bytes are skipped,
# * 416 with `bytes */700`: nothing lies beyond, the file is complete,
# * with another size, `ETag` or generation: the file was replaced, and its halves must not be joined.

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.replies import whole_number
from airflow_provider_gemini_batch.errors import GeminiBatchError, ReplyFormatError, TransportError
from airflow_provider_gemini_batch.transport.bounds import Unpacker
from airflow_provider_gemini_batch.transport.faults import cause_of

if TYPE_CHECKING:
    import requests

READ_BYTES = 256 * 1024


def _content_length(response: requests.Response) -> int | None:
    length = whole_number(response.headers.get("Content-Length"))
    # A length beside a Content-Encoding counts packed bytes, and ours are counted unpacked.
    return length if length is not None and length >= 0 and not response.headers.get("Content-Encoding") else None


_RANGE = re.compile(r"bytes\s+(?:(\d+)-\d+|\*)/(\d+|\*)")


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte of a partial reply and the length of the whole, each None if not told."""
    match = _RANGE.match(response.headers.get("Content-Range", ""))
    if match is None:
        return None, None
    return whole_number(match[1]), whole_number(match[2])


@dataclass
class Got:
    """
    What a download has of its file, and what it was told about the file.

    :param offset: Bytes handed out.
    :param size: Bytes of the whole file, once a reply has told.
    :param names: What tells versions of a file apart, by the headers that told it.
    """

    offset: int = 0
    size: int | None = None
    names: dict[str, str] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is known to be lacking, now that a reply has ended."""
        return self.size is None or self.offset == self.size

    def first_of(self, response: requests.Response) -> int:
        """
        Return where in the file a reply's first byte belongs.

        :raises GeminiBatchError: If it does not go on from what we have.
        """
        length = _content_length(response)
        names = {name: response.headers[name] for name in ("x-goog-generation", "ETag") if name in response.headers}
        if response.status_code != 206:
            self._compare(length, names)
            return 0
        first, total = _content_range(response)
        self._compare(total, names)
        if first is None and length is not None and length == (self.size or 0) - self.offset:
            first = self.offset  # exactly what is lacking, though it is not said where it belongs
        if first is None or first > self.offset or response.headers.get("Content-Encoding", "identity") != "identity":
            told = "bytes without their place" if first is None else f"those from {first} on"
            raise ReplyFormatError(f"Asked for the bytes from {self.offset} on, the service sent {told}.")
        return first

    def ends_here(self, response: requests.Response) -> bool:
        """Whether a 416 says that nothing lies beyond what we have."""
        total = _content_range(response)[1]
        # Without a byte in hand, a 416 is no end but an answer to a question that nobody asked.
        return bool(self.offset) and all(size in (None, self.offset) for size in (total, self.size))

    def _compare(self, size: int | None, names: dict[str, str]) -> None:
        """Make sure that a reply is of the same file: the halves of two of them must not be joined."""
        # Three signs, any of which is enough, as not every service tells all: another size, a file shorter than what is
        # here, another version.
        if self.offset and (
            (size is not None and self.size is not None and size != self.size)
            or (size is not None and size < self.offset)
            or any(self.names.get(name, value) != value for name, value in names.items())
        ):
            raise GeminiBatchError("The file was replaced by another one while it was downloaded. Download it again.")
        # Until a byte was handed out, the newest reply counts.
        self.size = size if size is not None or not self.offset else self.size
        self.names = {**(self.names if self.offset else {}), **names}


def pieces_of(response: requests.Response, timeout: float) -> Iterator[bytes]:
    """Yield a body as it arrives; what came before a cut is yielded before the cut is told."""
    import urllib3

    expected = _content_length(response)
    unpacker = Unpacker(response.headers.get("Content-Encoding", ""))
    received = 0
    fault: Exception | None = None
    while True:
        try:
            # Not iter_content: it drops the piece in which the connection breaks.
            piece = response.raw.read1(READ_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            fault = error
            break
        if not piece:
            break
        received += len(piece)
        yield from unpacker.unpack(piece, READ_BYTES)
    if fault is not None:
        # Raised here, where nothing is chained: the library's frames hold credentials.
        raise TransportError(f"The connection broke during a download: {cause_of(fault, timeout)}.")
    if expected is not None and received < expected:
        raise TransportError(f"The download ended {expected - received} bytes early.")
    unpacker.check_end()
