# SPDX-License-Identifier: Apache-2.0
"""Below ``requests``: replies that are complete in time."""

# A socket's timeout is one for the next bytes, and `http.client` reads on as long as some come. Here the time that is
# left for the whole reply bounds every read, head and chunk sizes included.

from __future__ import annotations

import io
import math
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

from airflow_provider_gemini_batch.transport.bounds import REPLY_TIMEOUTS
from airflow_provider_gemini_batch.transport.environment import tls_context
from airflow_provider_gemini_batch.transport.faults import SlowReplyError, took_too_long

if TYPE_CHECKING:
    import socket
    import ssl


class _TimedStream(io.RawIOBase):
    def __init__(self, raw: Any, sock: socket.socket) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        # Taken from the socket itself, as requests has set it for this call.
        self._timeout = sock.gettimeout() or math.inf
        self._seconds = self._timeout * REPLY_TIMEOUTS
        self.until = time.monotonic() + self._seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self.until - time.monotonic()
        if left < self._timeout:
            # Never zero: a socket with a timeout of 0 does not block at all, and would raise something else.
            self._sock.settimeout(max(left, 0.001))
        try:
            return self._raw.readinto(buffer)  # type: ignore[no-any-return]
        except TimeoutError as error:
            if left < self._timeout:
                raise SlowReplyError(took_too_long(self._seconds)) from error
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        plain: Any = self.fp
        self._stream = _TimedStream(plain.detach(), sock)
        self.fp = io.BufferedReader(self._stream)

    def may_take_long(self) -> None:
        """Lift the bound on the whole reply; the one on the next bytes stays."""
        self._stream.until = math.inf

    def _read_status(self) -> tuple[str, int, str]:
        # http.client skips 100 alone; any other interim reply it takes for the final one, and that for the next call's.
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            while self.fp.readline(65537).strip():
                pass


def _timed(pool: Any) -> Any:
    """Return a kind of connection pool, a SOCKS proxy's perhaps, whose replies have to be complete in time."""
    # Classes of its own for each kind of pool, as a SOCKS proxy's has connections of another class.
    connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": _TimedResponse})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


def _with_timed_pools(manager: Any) -> Any:
    pools = manager.pool_classes_by_scheme
    if not any(issubclass(pool.ConnectionCls.response_class, _TimedResponse) for pool in pools.values()):
        manager.pool_classes_by_scheme = {scheme: _timed(pool) for scheme, pool in pools.items()}
    return manager


class TimedAdapter(HTTPAdapter):
    """
    Makes connections whose replies are complete within a few times the timeout, or no replies.

    :param context: Decides which certificates are trusted; None for connections without TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """Make the pool of direct connections."""
        super().init_poolmanager(*args, **{**more, **self._tls()})
        _with_timed_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        """Return the pool of connections through a proxy."""
        if proxy.startswith("https:"):
            more["proxy_ssl_context"] = self._context or tls_context()
        return _with_timed_pools(super().proxy_manager_for(proxy, **more, **self._tls()))

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: here ``requests`` would add its own bundle of certificates to those of the context."""

    def _tls(self) -> dict[str, Any]:
        return {} if self._context is None else {"ssl_context": self._context}


def may_take_long(response: Any) -> None:
    """Lift the bound on a whole reply of ``requests`` whose head has come."""
    head = response.raw._original_response  # None once the body is complete
    if head is not None:
        head.may_take_long()
