# SPDX-License-Identifier: Apache-2.0
"""The values a flow exchanges with its driver."""

# A flow is a generator: it yields what it wants done and is sent what came of it. It holds the whole conversation with
# the service (order, retries, decisions), and no I/O. Two drivers carry flows out: `transport/blocking.py` on workers
# and `transport/asynchronous.py` in the triggerer.
#
#   a flow yields       and the driver
#   ------------------  -------------------------------------------------------------------------
#   `HttpRequest`       sends it; sends the `HttpReply` back in, whatever its status, or throws a
#                       `TransportError` into the flow when no complete reply arrived
#   `Pause`             logs why, if that is said, and sleeps
#   RefreshCredentials  drops the cached access token, so that the next request gets a new one

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from airflow_provider_gemini_batch.errors import GeminiBatchError, InputChangedError, ReplyFormatError

T = TypeVar("T")

EXCERPT_CHARACTERS = 200
PIECE_BYTES = 256 * 1024
"""What memory holds of a :class:`Part`."""


class UploadSource(Protocol):
    """Bytes to upload, readable again from any offset so that a cut upload can resume."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset* on; fewer only at the end."""


class Digested(Protocol):
    """Bytes whose digest may take a while to make: asked for only where it is needed."""

    @property
    def sha256(self) -> str:
        """Lower-case hex digest."""


class Part:
    """
    A part of a source as a request's body: read while it is sent, so that its size costs no memory.

    :param seen: Called with offset and bytes of every piece that is read.
    """

    def __init__(
        self, source: UploadSource, offset: int, length: int, seen: Callable[[int, bytes], None] | None = None
    ) -> None:
        self._source = source
        self._offset = offset
        self._length = length
        self._seen = seen

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        """
        Yield the pieces, anew each time.

        :raises InputChangedError: If the source has become shorter.
        """
        offset, end = self._offset, self._offset + self._length
        while offset < end:
            wanted = min(PIECE_BYTES, end - offset)
            piece = self._source.read(offset, wanted)
            # A file that is still written to may also grow: then its digest differs from what was checked, which the
            # upload finds out at the end.
            if len(piece) != wanted:
                raise InputChangedError("The file became shorter while it was uploaded. Upload it once it is complete.")
            if self._seen is not None:
                self._seen(offset, piece)
            yield piece
            offset += wanted

    def __bytes__(self) -> bytes:
        return b"".join(self)


@dataclass(frozen=True)
class HttpRequest:
    """
    One HTTP request.

    :param url: Absolute, without query. May itself be a secret (upload sessions), hence not in the ``repr``.
    :param params: Query, in order.
    :param headers: Without credentials; the driver adds those.
    :param body: What to send, or None.
    :param timeout: Seconds for this call, or None for the connection's setting.
    :param authorize: Whether the connection's credentials are sent along.
    :param about: What it concerns, for messages, e.g. ``job batches/a``.
    :param at_most: So many bytes of the body are wanted: the driver reads no further, and the reply counts as complete.
    """

    method: str
    url: str = field(repr=False)
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Part | None = field(default=None, repr=False)
    timeout: float | None = None
    authorize: bool = True
    about: str = ""
    at_most: int | None = None


@dataclass(frozen=True)
class HttpReply:
    """
    One HTTP reply with its whole body.

    :param headers: Names in lower case.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    def json(self) -> Any:
        """
        Decode the body.

        :raises ReplyFormatError: If it is not JSON.
        """
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ReplyFormatError(
                f"The service answered HTTP {self.status} with something that is not JSON: {self.excerpt()!r}",
                excerpt=self.excerpt(),
            ) from error

    def json_object(self, *, may_be_empty: bool = True) -> dict[str, Any]:
        """
        Decode the body as a JSON object; an empty body is an empty object.

        :param may_be_empty: Whether the service is known to answer so. No jobs at all are ``{}``: a list without a word
            is a proxy's, and taken for one without jobs it would have a job submitted a second time.
        :raises ReplyFormatError: If it is anything else.
        """
        # Deletes and cancels are answered by `{}` or by nothing at all.
        if may_be_empty and not self.body.strip():
            return {}
        value = self.json()
        if not isinstance(value, dict):
            raise ReplyFormatError(
                f"The service answered HTTP {self.status} with JSON that is not an object: {self.excerpt()!r}",
                excerpt=self.excerpt(),
            )
        return value

    def excerpt(self) -> str:
        """Return the first characters of the body, for messages."""
        return self.body[:EXCERPT_CHARACTERS].decode("utf-8", "replace")


@dataclass(frozen=True)
class Pause:
    """
    Ask the driver to sleep.

    :param seconds: How long.
    :param why: For the log; empty where a pause is nothing to tell of.
    :param cause: The error after which a call is made again.
    """

    seconds: float
    why: str = ""
    cause: GeminiBatchError | None = None

    @classmethod
    def before_retry(cls, seconds: float, error: GeminiBatchError) -> Pause:
        """Return the pause before a call is made again that ended in *error*."""
        return cls(seconds, f"Trying again in {seconds:.1f} s. {error}", error)


@dataclass(frozen=True)
class RefreshCredentials:
    """Ask the driver to forget the access token it has cached; a no-op for an API key."""


Step = HttpRequest | Pause | RefreshCredentials
Flow = Generator[Step, HttpReply | None, T]
Reader = Callable[[HttpReply], T]


def json_request(
    method: str, url: str, payload: Any = None, *, params: tuple[tuple[str, str], ...] = (), about: str = ""
) -> HttpRequest:
    """
    Build a request with a JSON body.

    :param payload: What to encode; None sends no body.
    """
    if payload is None:
        return HttpRequest(method, url, params, about=about)
    headers = {"Content-Type": "application/json"}
    return HttpRequest(method, url, params, headers, msgspec.json.encode(payload), about=about)
