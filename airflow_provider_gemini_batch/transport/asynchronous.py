# SPDX-License-Identifier: Apache-2.0
"""The driver for the triggerer: carries flows out with httpx, without ever blocking the event loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Pause, T
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError, TransportError
from airflow_provider_gemini_batch.transport.bounds import (
    ACCEPT_ENCODING,
    REPLY_TIMEOUTS,
    TRIGGERER_REPLY_BYTES,
    Body,
)
from airflow_provider_gemini_batch.transport.faults import cause_of, server_of, tell, took_too_long

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.transport.credentials import Credentials


@dataclass
class _Sent:
    """The credentials that went along with a call, where no tool that shows local variables shows them."""

    headers: dict[str, str] = field(default_factory=dict, repr=False)


class AsyncTransport:
    """
    One connection's asynchronous driver. Use it as an async context manager, in one event loop.

    :param max_connections: TCP connections kept to the service at most.
    """

    def __init__(self, settings: ConnectionSettings, credentials: Credentials, *, max_connections: int = 2) -> None:
        import httpx

        self._credentials = credentials
        self._timeout = settings.timeout
        self._client: httpx.AsyncClient = httpx.AsyncClient(
            timeout=httpx.Timeout(settings.timeout, pool=None),
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            headers={"Accept-Encoding": ACCEPT_ENCODING},
            follow_redirects=False,
            event_hooks={"response": [_forget_redirect]},
        )

    async def __aenter__(self) -> AsyncTransport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def arun(self, flow: Flow[T]) -> T:
        """Carry *flow* out and return its value."""
        sent = _Sent()
        try:
            step = next(flow)
            while True:
                answer: HttpReply | None = None
                fault: TransportError | None = None
                if isinstance(step, HttpRequest):
                    try:
                        answer = await self._send(step, sent)
                    except TransportError as error:
                        fault = error
                elif isinstance(step, Pause):
                    tell(step)
                    await asyncio.sleep(step.seconds)
                else:
                    # Said exactly: another call in this loop may have brought a new token meanwhile.
                    self._credentials.invalidate(sent.headers)
                step = flow.throw(fault) if fault is not None else flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    async def _send(self, request: HttpRequest, sent: _Sent) -> HttpReply:
        """
        Send one request.

        :param sent: Takes the credentials that went along.
        """
        reply = await self._try(request, sent)
        if isinstance(reply, GeminiBatchError):
            # Raised here, where no frame holds credentials.
            raise reply
        return reply

    async def _try(self, request: HttpRequest, sent: _Sent) -> HttpReply | GeminiBatchError:
        import httpx

        from airflow_provider_gemini_batch.transport.credentials import without_key

        headers = dict(request.headers)
        if request.authorize:
            fresh = self._credentials.fresh_headers()
            sent.headers = fresh if fresh is not None else await asyncio.to_thread(self._credentials.headers)
            headers.update(sent.headers)
        timeout = request.timeout or self._timeout
        options: dict[str, Any] = {} if request.timeout is None else {"timeout": request.timeout}
        if request.params:
            options["params"] = request.params
        content = bytes(request.body) if request.body is not None else None
        limit = REPLY_TIMEOUTS * timeout
        try:
            async with (
                asyncio.timeout(limit),
                self._client.stream(request.method, request.url, content=content, headers=headers, **options) as reply,
            ):
                body = Body(reply.headers.get("Content-Encoding", ""), TRIGGERER_REPLY_BYTES)
                async for piece in reply.aiter_raw():
                    body.add(piece)
                    if body.fault is not None:
                        break
                body.end()
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            return ConfigurationError(f"The URL of a call cannot be one ({type(error).__name__}).")
        except TimeoutError:
            return TransportError(f"No complete reply from {server_of(request.url)}: {took_too_long(limit)}.")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            return TransportError(f"No connection to {server_of(request.url)}: {cause_of(error, timeout)}.", sent=False)
        except httpx.HTTPError as error:
            return TransportError(f"No complete reply from {server_of(request.url)}: {cause_of(error, timeout)}.")
        if body.fault is not None:
            return body.fault
        if reply.status_code < 200:
            return TransportError(f"No complete reply from {server_of(request.url)}: it broke off in its head.")
        answer = without_key(body.content(), headers)
        return HttpReply(reply.status_code, {k.lower(): v for k, v in reply.headers.items()}, answer)


async def _forget_redirect(response: httpx.Response) -> None:
    """Redirects are not followed; left in, httpx would parse the place all the same, and stumble over a bad one."""
    if 300 <= response.status_code < 400 and "location" in response.headers:
        del response.headers["location"]
