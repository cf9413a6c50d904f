# SPDX-License-Identifier: Apache-2.0
"""The driver for the triggerer: carries flows out without ever blocking the event loop."""

# The flow itself runs in the loop, so that it is closed at once when its task is cancelled. Each of its HTTP calls runs
# in one of a few threads, with the same client as on a worker; a token is fetched there, too.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Pause, T
from airflow_provider_gemini_batch.errors import GeminiBatchError, TransportError
from airflow_provider_gemini_batch.transport.bounds import REPLY_TIMEOUTS, TRIGGERER_REPLY_BYTES
from airflow_provider_gemini_batch.transport.faults import server_of, tell, took_too_long
from airflow_provider_gemini_batch.transport.http import CALL_FAULTS, HttpClient, SentCredentials
from airflow_provider_gemini_batch.transport.threads import NoThreadError, ThreadedCalls

if TYPE_CHECKING:
    from types import TracebackType

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.transport.credentials import Credentials

HANG_SECONDS = 60.0
"""Seconds for what no timeout of a socket bounds: name servers that are silent, and token endpoints."""


class AsyncTransport:
    """
    One connection's asynchronous driver. Use it as an async context manager, in one event loop.

    :param max_connections: TCP connections kept to the service at most, each with a thread of its own.
    """

    def __init__(self, settings: ConnectionSettings, credentials: Credentials, *, max_connections: int = 2) -> None:
        self._credentials = credentials
        self._timeout = settings.timeout
        self._threads = ThreadedCalls(
            lambda: HttpClient(settings, credentials, TRIGGERER_REPLY_BYTES), max_connections, "gemini-batch-http"
        )

    async def __aenter__(self) -> AsyncTransport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; one that is in use, once its call has ended."""
        self._threads.close()

    async def arun(self, flow: Flow[T]) -> T:
        """Carry *flow* out and return its value."""
        sent = SentCredentials()
        try:
            step = next(flow)
            while True:
                answer: HttpReply | None = None
                fault: GeminiBatchError | None = None
                if isinstance(step, HttpRequest):
                    try:
                        answer = await self._send(step, sent)
                    except CALL_FAULTS as error:
                        fault = error
                elif isinstance(step, Pause):
                    tell(step)
                    await asyncio.sleep(step.seconds)
                else:
                    # Said exactly: another call may have brought a new token meanwhile.
                    self._credentials.invalidate(sent.headers())
                step = flow.throw(fault) if fault is not None else flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    async def _send(self, request: HttpRequest, sent: SentCredentials) -> HttpReply:
        # The whole reply, one timeout more for the connection, and what no socket bounds. Only a backstop: the thread's
        # own bounds end nearly every call before.
        seconds = (REPLY_TIMEOUTS + 1) * (request.timeout or self._timeout) + HANG_SECONDS
        try:
            return await self._threads.call(lambda client: client.send(request, sent), seconds)
        except NoThreadError:
            raise TransportError(
                f"No connection to {server_of(request.url)}: earlier calls hang for more than {seconds:g} s.",
                # No thread took the call: nothing of it can have reached the service, so that even a create may be
                # tried again.
                sent=False,
            ) from None
        except TimeoutError:
            raise TransportError(
                f"No complete reply from {server_of(request.url)}: {took_too_long(seconds)}."
            ) from None
