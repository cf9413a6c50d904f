# SPDX-License-Identifier: Apache-2.0
"""What went wrong with a call, in plain words, for both drivers."""

# The libraries' own errors are neither shown nor chained: their texts hold URLs, and the frames of their tracebacks the
# request with its credentials, which tools that collect local variables would send on.

from __future__ import annotations

import logging
import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.transport.environment import ProxySettings

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import Pause

log = logging.getLogger(__name__)

_TUNNEL = "Tunnel connection failed"


class SlowReplyError(TimeoutError):
    """A reply came piece by piece, each in time, but was not complete when it had to be."""


def tell(pause: Pause) -> None:
    """Log why somebody has to wait."""
    if pause.why:
        log.warning("%s", pause.why)


def took_too_long(seconds: float) -> str:
    """Say so of a whole reply."""
    return f"the whole reply took longer than {seconds:g} s"


def linked(error: BaseException) -> list[Any]:
    """Return an error of a library and every error inside it, the outermost first."""
    found: list[Any] = [error]
    # The list grows while it is walked: each error's own inner ones are put behind it.
    for each in found:
        inside = (*getattr(each, "args", ()), *getattr(each, "exceptions", ()), getattr(each, "reason", None),
                  getattr(each, "original_error", None), getattr(each, "__cause__", None))  # fmt: skip
        found += [one for one in inside if isinstance(one, BaseException) and one not in found]
    return found


def was_sent(error: BaseException) -> bool:
    """
    Whether a call that failed in ``requests`` may have reached the service; False only where urllib3 says for sure
    that it did not.

    A ``ProxyError`` alone says nothing: urllib3 also calls it so when a proxy hangs up on a request it took.
    """
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    # All of these end a call before the first byte of the request leaves. On this list hangs whether a create is sent
    # again: what is doubtful must not be on it.
    before = (NewConnectionError, ConnectTimeoutError, ssl.SSLCertVerificationError)
    # Only the standard library's words tell these two from trouble later on.
    words = (_TUNNEL, "handshake operation timed out")
    return not any(
        isinstance(each, before) or (isinstance(each, OSError) and any(word in str(each) for word in words))
        for each in linked(error)
    )


def is_of_our_settings(error: BaseException) -> bool:
    """Return whether a call failed for what this host is set to: the certificates it trusts, its proxy's password."""
    return any(
        isinstance(each, ssl.SSLCertVerificationError)
        or (isinstance(each, OSError) and str(each).startswith(f"{_TUNNEL}: 407"))
        or type(each).__name__ == "SOCKS5AuthError"
        for each in linked(error)
    )


def cause_of(error: BaseException, timeout: float) -> str:
    """
    Say in a few plain words why a call failed.

    :param timeout: Seconds that a connection, or the next bytes, were waited for.
    """
    chain = linked(error)
    # The order of the causes is that of how much they explain, not that of the chain.
    for kind, words in _CAUSES:
        for each in chain:
            if isinstance(each, kind):
                return words.format(error=each)
    last = chain[-1]
    if str(last).startswith(_TUNNEL) or type(last).__name__ == "ProxyError":
        return f"the proxy opened no tunnel ({str(last).removeprefix(_TUNNEL).strip(': ')[:80]})"
    if any("Timeout" in type(each).__name__ for each in chain):
        return f"it did not answer within {timeout:g} s"
    for each in chain:
        if isinstance(each, ssl.SSLError) and each.reason:
            return f"TLS failed ({each.reason.replace('_', ' ').lower()})"
        if isinstance(each, OSError) and each.errno:
            return os.strerror(each.errno).lower()
    if type(last).__name__ == "IncompleteRead" or str(last).startswith(("peer closed", "Server disconnected")):
        return "it broke off"
    return f"what came was no HTTP ({type(last).__name__})"


_CAUSES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (SlowReplyError, "{error}"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted ({error.verify_message})"),
    (socket.gaierror, "its name is not known here"),
    (ConnectionRefusedError, "it refused the connection"),
    ((ConnectionResetError, BrokenPipeError), "it closed the connection"),
)


def server_of(url: str) -> str:
    """Name where a call goes, and through which proxy: hosts and ports alone, all else of a URL may be secret."""
    place = _host_and_port(url)
    with suppress(ValueError, ConfigurationError):
        proxy = ProxySettings.read().proxy_for(url)
        if proxy is not None:
            return f"{place} (through the proxy {_host_and_port(proxy)})"
    return place


def _host_and_port(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or "?"
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "?"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
