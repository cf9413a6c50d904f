# SPDX-License-Identifier: Apache-2.0
"""Sessions of ``requests`` as this package uses them, for calls of the API and for tokens."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import requests

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.transport.environment import ProxySettings, tls_context
from airflow_provider_gemini_batch.transport.sockets import TimedAdapter

if TYPE_CHECKING:
    from requests.adapters import BaseAdapter


class NetworkSession(requests.Session):
    """
    A session that reads proxies and certificates in our way, and bounds the time of a reply.

    It ignores ``~/.netrc``: an entry there for the same host would replace our credentials.
    """

    def __init__(self) -> None:
        super().__init__()
        # Otherwise requests would read proxies, certificates and ~/.netrc by rules of its own on top of ours.
        self.trust_env = False
        self._network = ProxySettings.read()
        self.mount("http://", TimedAdapter())
        self._has_tls = False

    def get_adapter(self, url: str) -> BaseAdapter:
        """
        Return what sends a request.

        :raises ConfigurationError: If a proxy needs a library that is missing, or no certificates can be loaded.
        """
        if not self._has_tls and url.lower().startswith("https:"):
            # Not earlier: plain HTTP, that of an emulator, needs no certificates.
            self.mount("https://", TimedAdapter(tls_context()))
            self._has_tls = True
        return super().get_adapter(url)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Return how to send a request to *url*."""
        proxy = self._network.proxy_for(str(url))
        if proxy is not None and proxy.startswith("socks") and not _has_socks():
            proxy = None  # no frame of an error holds its password
            raise ConfigurationError(
                "The proxy of the environment is a SOCKS proxy, for which the library PySocks is missing here: "
                "pip install 'airflow-provider-gemini-batch[socks]' where the task and the triggerer run."
            )
        scheme = str(url).partition(":")[0].lower()
        return {"proxies": {scheme: proxy} if proxy else {}, "stream": stream, "verify": True, "cert": None}


def _has_socks() -> bool:
    try:
        importlib.import_module("socks")
    except ImportError:
        return False
    return True
