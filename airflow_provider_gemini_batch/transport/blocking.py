# SPDX-License-Identifier: Apache-2.0
"""The driver for workers: carries flows out in the calling thread, and streams downloads."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.replies import error_from
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Pause, T
from airflow_provider_gemini_batch.errors import (
    AuthError,
    GeminiBatchError,
    TransportError,
)
from airflow_provider_gemini_batch.transport.bounds import WORKER_REPLY_BYTES
from airflow_provider_gemini_batch.transport.downloads import Got, pieces_of
from airflow_provider_gemini_batch.transport.faults import tell
from airflow_provider_gemini_batch.transport.http import (
    CALL_FAULTS,
    HttpClient,
    SentCredentials,
    broken_head,
    says_its_end,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import requests

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.transport.credentials import Credentials


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
        sleep: Callable[[float], None] = lambda seconds: time.sleep(seconds),
    ) -> None:
        self._credentials = credentials
        self._timeout = settings.timeout
        self._max_retries = settings.max_retries
        self._sleep = sleep
        self._client = HttpClient(settings, credentials, WORKER_REPLY_BYTES)
        self._sent = SentCredentials()

    def __enter__(self) -> BlockingTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def run(self, flow: Flow[T]) -> T:
        """Carry *flow* out and return its value."""
        try:
            step = next(flow)
            while True:
                answer: HttpReply | None = None
                fault: GeminiBatchError | None = None
                if isinstance(step, HttpRequest):
                    try:
                        answer = self._send(step)
                    except CALL_FAULTS as error:
                        fault = error
                elif isinstance(step, Pause):
                    tell(step)
                    self._sleep(step.seconds)
                else:
                    self._credentials.invalidate(self._sent.headers())
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
        # A download of hours meets more faults than a call of a second; each new byte starts the count anew.
        policy = retry or RetryPolicy(max_attempts=max(8, self._max_retries))
        got = Got()
        failures = 0
        refreshed = False
        while True:
            before = got.offset
            try:
                with self._open(request_from(got.offset), got) as (pieces, skip):
                    for piece in pieces:
                        # The service ignored the offset, or began before it: what was handed out already passes by.
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
                    self._credentials.invalidate(self._sent.headers())
                    continue
                failures += 1
                delay = policy.delay_after(error, failures)
                if delay is None:
                    raise
                tell(Pause.before_retry(delay, error))
                self._sleep(delay)

    @contextmanager
    def _open(self, request: HttpRequest, got: Got) -> Iterator[tuple[Iterator[bytes], int]]:
        """Open a streamed reply: its pieces, and how many of its bytes we have already."""
        from airflow_provider_gemini_batch.transport.sockets import may_take_long

        # Compressed bodies could not be resumed at an offset of the plain bytes.
        response = self._request(request, extra_headers={"Accept-Encoding": "identity"})
        try:
            # A head without its end cannot tell a cut body from a complete one, and half a result file looks like a
            # whole one.
            if not says_its_end(response):
                raise broken_head(request)
            if response.status_code == 416 and got.ends_here(response):
                yield iter(()), 0
                return
            if not 200 <= response.status_code < 300:
                raise error_from(self._client.read(request, response, self._sent))
            skip = got.offset - got.first_of(response)
            # A file may take hours; only its head has to come within the bound of an ordinary reply.
            may_take_long(response)
            yield pieces_of(response, self._timeout), skip
        finally:
            response.close()

    def _send(self, request: HttpRequest) -> HttpReply:
        response = self._request(request)
        try:
            return self._client.read(request, response, self._sent)
        finally:
            response.close()

    def _request(self, request: HttpRequest, *, extra_headers: dict[str, str] | None = None) -> requests.Response:
        """Send a request and return the head of its reply; the body is still to be read."""
        return self._client.open(request, self._sent, extra_headers)
