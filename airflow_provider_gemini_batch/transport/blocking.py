# SPDX-License-Identifier: Apache-2.0
"""The driver for workers: carries flows out with ``requests``, and streams downloads."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_gemini_batch.api.replies import error_from, whole_number
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Pause, T
from airflow_provider_gemini_batch.errors import (
    AuthError,
    ConfigurationError,
    GeminiBatchError,
    InputChangedError,
    ReplyFormatError,
    TransportError,
)
from airflow_provider_gemini_batch.transport.bounds import ACCEPT_ENCODING, WORKER_REPLY_BYTES, Body, Unpacker
from airflow_provider_gemini_batch.transport.faults import cause_of, server_of, tell, was_sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import requests

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.transport.credentials import Credentials

READ_BYTES = 256 * 1024
_PIECE_BYTES = 64 * 1024


class BlockingTransport:
    """
    One connection's driver on a worker. Not for several threads at once.

    :param sleep: Replaced in tests that must not wait.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        credentials: Credentials,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import requests

        from airflow_provider_gemini_batch.transport.sockets import TimedAdapter

        self._credentials = credentials
        self._timeout = settings.timeout
        self._max_retries = settings.max_retries
        self._sleep = sleep
        self._session = requests.Session()
        # Without this, requests would replace our credentials by an entry of ~/.netrc for the same host.
        self._session.auth = _keep_headers
        self._sent: dict[str, str] = {}
        self._session.headers["Accept-Encoding"] = ACCEPT_ENCODING
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, TimedAdapter())
        self._session.hooks["response"].append(_forget_redirect)

    def __enter__(self) -> BlockingTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def run(self, flow: Flow[T]) -> T:
        """Carry *flow* out and return its value."""
        try:
            step = next(flow)
            while True:
                answer: HttpReply | None = None
                fault: TransportError | ConfigurationError | InputChangedError | None = None
                if isinstance(step, HttpRequest):
                    try:
                        answer = self._send(step)
                    except (TransportError, ConfigurationError, InputChangedError) as error:
                        fault = error
                elif isinstance(step, Pause):
                    tell(step)
                    self._sleep(step.seconds)
                else:
                    self._credentials.invalidate(self._sent)
                step = flow.throw(fault) if fault is not None else flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    def stream(
        self,
        request_from: Callable[[int], HttpRequest],
        *,
        retry: RetryPolicy | None = None,
    ) -> Iterator[bytes]:
        """
        Download a body in pieces, going on where a cut connection left off.

        :param request_from: Builds the request for the bytes from an offset on. The service may ignore the offset and
            answer 200 with everything; what is already here is then skipped.
        :return: The bytes in order, in pieces of up to READ_BYTES.
        :raises TransportError: If the connection keeps breaking without one new byte in between.
        :raises GeminiBatchError: If the file is replaced meanwhile.
        """
        policy = retry or RetryPolicy(max_attempts=max(8, self._max_retries))
        got = _Got()
        failures = 0
        refreshed = False
        while True:
            before = got.offset
            try:
                with self._open(request_from(got.offset), got) as (pieces, skip):
                    for piece in pieces:
                        if skip >= len(piece):
                            skip -= len(piece)
                            continue
                        fresh = piece[skip:] if skip else piece
                        skip = 0
                        got.offset += len(fresh)
                        yield fresh
                if got.is_whole:
                    return
                raise TransportError(f"The download ended after {got.offset} of {got.size} bytes.")
            except GeminiBatchError as error:
                if got.offset > before:
                    failures, refreshed = 0, False
                if isinstance(error, AuthError) and error.status == 401 and not refreshed:
                    refreshed = True
                    self._credentials.invalidate(self._sent)
                    continue
                failures += 1
                delay = policy.delay_after(error, failures)
                if delay is None:
                    raise
                tell(Pause.before_retry(delay, error))
                self._sleep(delay)

    @contextmanager
    def _open(self, request: HttpRequest, got: _Got) -> Iterator[tuple[Iterator[bytes], int]]:
        """Open a streamed reply: its pieces, and how many of its bytes we have already."""
        from airflow_provider_gemini_batch.transport.sockets import may_take_long

        # Compressed bodies could not be resumed at an offset of the plain bytes.
        response = self._request(request, extra_headers={"Accept-Encoding": "identity"})
        try:
            if not _says_its_end(response):
                raise _broken_head(request)
            if response.status_code == 416 and got.ends_here(response):
                yield iter(()), 0
                return
            if not 200 <= response.status_code < 300:
                raise error_from(self._reply(request, response))
            skip = got.offset - got.first_of(response)
            may_take_long(response)
            yield _pieces(response, self._timeout), skip
        finally:
            response.close()

    def _send(self, request: HttpRequest) -> HttpReply:
        response = self._request(request)
        try:
            return self._reply(request, response)
        finally:
            response.close()

    def _request(self, request: HttpRequest, *, extra_headers: dict[str, str] | None = None) -> requests.Response:
        """Send a request and return the head of its reply; the body is still to be read."""
        response = self._try(request, extra_headers or {})
        if isinstance(response, GeminiBatchError):
            # Raised here, where no frame holds credentials.
            raise response
        return response

    def _try(self, request: HttpRequest, extra_headers: dict[str, str]) -> requests.Response | GeminiBatchError:
        import requests

        headers: dict[str, str] = {**request.headers, **extra_headers}
        if request.authorize:
            self._sent = self._credentials.headers()
            headers.update(self._sent)
        options: dict[str, Any] = {"params": request.params} if request.params else {}
        timeout = request.timeout or self._timeout
        try:
            return self._session.request(
                request.method,
                request.url,
                data=cast("bytes | None", request.body),  # any iterable with a length is sent as it comes
                headers=headers,
                timeout=timeout,
                stream=True,
                allow_redirects=False,
                **options,
            )
        except (ConfigurationError, InputChangedError) as error:  # of the body, while it is read
            return error.with_traceback(None)
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
        ) as error:
            return ConfigurationError(f"The URL of a call cannot be one ({type(error).__name__}).")
        except UnicodeEncodeError as error:  # a page token of a lone surrogate, say
            return ConfigurationError(f"An argument of this call holds what cannot be sent: {error.object!r:.80}.")
        except requests.exceptions.RequestException as error:
            sent = was_sent(error)
            what = "No complete reply from" if sent else "No connection to"
            return TransportError(f"{what} {server_of(request.url)}: {cause_of(error, timeout)}.", sent=sent)

    def _reply(self, request: HttpRequest, response: requests.Response) -> HttpReply:
        """Read an ordinary reply's body."""
        import urllib3

        from airflow_provider_gemini_batch.transport.credentials import without_key

        body = Body(response.headers.get("Content-Encoding", ""), WORKER_REPLY_BYTES)
        fault: TransportError | None = None
        try:
            while body.fault is None and (piece := response.raw.read(_PIECE_BYTES, decode_content=False)):
                body.add(piece)
            body.end()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:  # a chunk of negative size is the latter
            cause = cause_of(error, request.timeout or self._timeout)
            fault = TransportError(f"No complete reply from {server_of(request.url)}: {cause}.")
        fault = fault or body.fault
        if fault is not None:
            raise fault
        content = body.content()
        if response.status_code < 200 or (not content and not _says_its_end(response)):
            raise _broken_head(request)
        sent = {k.lower(): str(v) for k, v in response.request.headers.items()}
        headers = {k.lower(): v for k, v in response.headers.items()}
        return HttpReply(response.status_code, headers, without_key(content, sent))


def _broken_head(request: HttpRequest) -> TransportError:
    return TransportError(f"No complete reply from {server_of(request.url)}: it broke off in its head.")


def _keep_headers(request: Any) -> Any:
    return request


def _forget_redirect(response: requests.Response, **_: Any) -> None:
    """Redirects are not followed; left in, requests would parse the place all the same, and stumble over a bad one."""
    if 300 <= response.status_code < 400:
        response.headers.pop("Location", None)


def _says_its_end(response: requests.Response) -> bool:
    """
    Whether a reply's head says where its body ends.

    ``http.client`` takes a head that breaks off for a complete one, and what follows for an empty body. A body that
    came proves the head; so does the word that it ends with the connection.
    """
    if response.status_code in (204, 304) or response.raw.version != 11:
        return True
    headers = response.headers
    return (
        "Content-Length" in headers
        or headers.get("Transfer-Encoding", "").strip().lower().endswith("chunked")
        or "close" in headers.get("Connection", "").lower()
    )


def _content_length(response: requests.Response) -> int | None:
    length = whole_number(response.headers.get("Content-Length"))
    return length if length is not None and length >= 0 and not response.headers.get("Content-Encoding") else None


_RANGE = re.compile(r"bytes\s+(?:(\d+)-\d+|\*)/(\d+|\*)")


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte of a partial reply and the length of the whole, each None if not told."""
    match = _RANGE.match(response.headers.get("Content-Range", ""))
    if match is None:
        return None, None
    return whole_number(match[1]), whole_number(match[2])


@dataclass
class _Got:
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
        return bool(self.offset) and all(size in (None, self.offset) for size in (total, self.size))

    def _compare(self, size: int | None, names: dict[str, str]) -> None:
        """Make sure that a reply is of the same file: the halves of two of them must not be joined."""
        if self.offset and (
            (size is not None and self.size is not None and size != self.size)
            or (size is not None and size < self.offset)
            or any(self.names.get(name, value) != value for name, value in names.items())
        ):
            raise GeminiBatchError("The file was replaced by another one while it was downloaded. Download it again.")
        # Until a byte was handed out, the newest reply counts.
        self.size = size if size is not None or not self.offset else self.size
        self.names = {**(self.names if self.offset else {}), **names}


def _pieces(response: requests.Response, timeout: float) -> Iterator[bytes]:
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
