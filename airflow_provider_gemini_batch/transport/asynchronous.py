# SPDX-License-Identifier: Apache-2.0
"""The driver for the triggerer: carries flows out with httpx, without ever blocking the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Pause, T
from airflow_provider_gemini_batch.errors import ConfigurationError, TransportError

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

    from airflow_provider_gemini_batch.connection import ConnectionSettings
    from airflow_provider_gemini_batch.transport.credentials import Credentials


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
        sent: dict[str, str] = {}
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
                    await asyncio.sleep(step.seconds)
                else:
                    # Said exactly: another call in this loop may have brought a new token meanwhile.
                    self._credentials.invalidate(sent)
                step = flow.throw(fault) if fault is not None else flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    async def _send(self, request: HttpRequest, sent: dict[str, str]) -> HttpReply:
        """
        Send one request.

        :param sent: Takes the credentials that went along.
        """
        import httpx

        from airflow_provider_gemini_batch.transport.credentials import without_key

        headers = dict(request.headers)
        if request.authorize:
            fresh = self._credentials.fresh_headers()
            sent.update(fresh if fresh is not None else await asyncio.to_thread(self._credentials.headers))
            headers.update(sent)
        options: dict[str, Any] = {} if request.timeout is None else {"timeout": request.timeout}
        if request.params:
            options["params"] = request.params
        content = bytes(request.body) if request.body is not None else None
        try:
            reply = await self._client.request(request.method, request.url, content=content, headers=headers, **options)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigurationError(f"The URL of a call cannot be one ({type(error).__name__}).") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            raise TransportError(f"No connection to the service: {type(error).__name__}.", sent=False) from error
        except httpx.HTTPError as error:
            raise TransportError(f"The connection broke before a complete reply: {type(error).__name__}.") from error
        body = without_key(reply.content, headers)
        return HttpReply(reply.status_code, {k.lower(): v for k, v in reply.headers.items()}, body)


async def _forget_redirect(response: httpx.Response) -> None:
    """Redirects are not followed; left in, httpx would parse the place all the same, and stumble over a bad one."""
    if 300 <= response.status_code < 400 and "location" in response.headers:
        del response.headers["location"]
