# SPDX-License-Identifier: Apache-2.0
"""What proves to Google who calls: an API key, or an access token that google-auth fetches and renews."""

# Tokens are kept for the process, one for all connections with the same settings, and are renewed before they expire.

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings, Secret

# Bounds a process that reads ever new credentials, such as an API server that tests connections; a worker has one or
# two.
_KEPT = 64


class Credentials(Protocol):
    """What a driver asks for headers. Every method may be called from any thread."""

    def headers(self) -> dict[str, str]:
        """
        Return the headers that authorise a request; may block to get a token.

        :raises AuthError: If no token is to be had.
        :raises TransportError: If the token endpoint could not be reached; nothing was sent to the API.
        :raises ConfigurationError: If the connection's credential cannot be read.
        """
        ...

    def invalidate(self, refused: Mapping[str, str] | None = None) -> None:
        """
        Forget the token.

        :param refused: The headers that the service refused; a token that was renewed since then is kept.
        """
        ...


class FixedCredentials:
    """Headers that never change: an API key, or none at all."""

    def __init__(self, secret_headers: Mapping[str, Secret]) -> None:
        self._headers = dict(secret_headers)

    def headers(self) -> dict[str, str]:
        """Return the headers."""
        return {name: value.reveal() for name, value in self._headers.items()}

    def invalidate(self, refused: Mapping[str, str] | None = None) -> None:
        """Do nothing: there is no other key to be had."""


class ApiKeyCredentials(FixedCredentials):
    """
    The Developer API's key, sent as a header so that it never stands in a URL.

    :param api_key: The key.
    """

    def __init__(self, api_key: Secret) -> None:
        super().__init__({"x-goog-api-key": api_key})


SHORTEST_KEY = 20
"""Characters; a real key has 39, and anything short could be a word of an answer."""


def without_key(body: bytes, sent: Mapping[str, str]) -> bytes:
    """
    Blot out the API key or token in a reply that repeats it, so that no error text or excerpt made of it shows it.

    :param sent: Headers of the request, in any case.
    """
    sent = {name.lower(): value for name, value in sent.items()}
    for name in ("x-goog-api-key", "authorization"):
        key = sent.get(name, "").removeprefix("Bearer ")
        if len(key) < SHORTEST_KEY:
            continue
        # A reply may repeat the key as it is, inside JSON, or as part of a URL in both of the usual escapings.
        for written in dict.fromkeys((key, json.dumps(key)[1:-1], quote(key, safe=""), quote(key))):
            body = body.replace(written.encode(), b"***")
    return body


def credentials_for(settings: ConnectionSettings) -> Credentials:
    """
    Return what authorises requests of a connection; the same object for the same settings.

    Nothing is read or sent before the first headers are asked for.
    """
    # Only the object is made under the lock. The token is fetched later and under the object's own lock, so that one
    # slow endpoint holds up one connection.
    with _registry.lock:
        kept = _registry.kept.get(settings.identity)
        if kept is None:
            kept = _registry.kept[settings.identity] = _make(settings)
            while len(_registry.kept) > _KEPT:
                _registry.kept.popitem(last=False)
        _registry.kept.move_to_end(settings.identity)
        return kept


class _Registry:
    """Credentials of this process, the least recently used first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: OrderedDict[str, Credentials] = OrderedDict()


_registry = _Registry()


def _start_anew() -> None:
    global _registry
    _registry = _Registry()


# Executors fork: a lock that another thread held at that moment would never be released in the child.
os.register_at_fork(after_in_child=_start_anew)


def _make(settings: ConnectionSettings) -> Credentials:
    if settings.is_anonymous:
        return FixedCredentials({})
    if settings.api_key is not None:
        return ApiKeyCredentials(settings.api_key)
    from airflow_provider_gemini_batch.transport.google_tokens import GoogleAuthCredentials

    return GoogleAuthCredentials(settings)
