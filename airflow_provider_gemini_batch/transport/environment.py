# SPDX-License-Identifier: Apache-2.0
"""What the process environment says about the network: proxies, hosts that need none, and trusted certificates."""

# Workers, the triggerer and token requests all use this one reading. The libraries' own readings differ from each
# other: `requests` knows no IPv6 range in `NO_PROXY` and no `SSL_CERT_FILE`; others know no `REQUESTS_CA_BUNDLE`.
#
#   variable (lower case first, where both are set)  meaning
#   -----------------------------------------------  -------------------------------------------------------------
#   `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`         URL of the proxy, `http://` where no scheme is given;
#                                                    `socks5://` and `socks5h://` need PySocks
#   `NO_PROXY`                                       hosts, domains (with or without a leading dot), addresses and
#                                                    address ranges of IPv4 and IPv6, each with an optional port;
#                                                    `*` for every host
#   `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`           file or folder of trusted certificates, instead of all others
#   `SSL_CERT_FILE`, `SSL_CERT_DIR`                  as OpenSSL reads them; without a file, certifi's bundle
#
# Blanks and line ends around a value count for nothing: a variable filled from a mounted file often ends with one.

from __future__ import annotations

import ipaddress
import os
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from airflow_provider_gemini_batch.connection.settings import Secret
from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
# An entry of NO_PROXY may name a port; a URL mostly leaves its own out.
_PORTS = {"http": 80, "https": 443}
_BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class ProxySettings:
    """
    The proxies of the environment, read once.

    :param by_scheme: Proxy URLs; they may hold passwords.
    :param exceptions: The text of ``NO_PROXY``.
    """

    by_scheme: Mapping[str, Secret] = field(repr=False)
    exceptions: str = ""

    @classmethod
    def read(cls) -> ProxySettings:
        """Read the environment of this process (on macOS and Windows the system's settings too)."""
        found = {scheme: Secret(url.strip()) for scheme, url in getproxies().items()}
        return cls(found, os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "")

    def proxy_for(self, url: str) -> str | None:
        """
        Return the URL of the proxy that a call of *url* goes through, or None for a direct connection.

        :raises ConfigurationError: If what the environment names cannot be a proxy.
        """
        parts = urlsplit(url)
        # The scheme's own variable wins over ALL_PROXY, as curl has it.
        given = [self.by_scheme.get(scheme) for scheme in (parts.scheme, "all")]
        found = next((proxy for proxy in given if proxy is not None and proxy.reveal()), None)
        if found is None or self._is_excepted(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)):
            return None
        if not _may_be_proxy(_whole(found)):
            # Not the URL itself: it may hold a password, and so may no local variable.
            raise ConfigurationError(
                f"The proxy that the environment names for {parts.scheme}:// is no URL of one. Correct "
                f"{parts.scheme.upper()}_PROXY or ALL_PROXY where the task and the triggerer run: it begins with "
                f"http:// or https://, or with socks5h:// (not socks://) for a SOCKS proxy."
            )
        return _whole(found)

    def _is_excepted(self, host: str, port: int) -> bool:
        if not self.exceptions and sys.platform in ("darwin", "win32"):
            return bool(proxy_bypass(host))
        return any(_covers(entry, host, port) for entry in re.split(r"[,\s]+", self.exceptions) if entry)


def _whole(proxy: Secret) -> str:
    """Return a proxy's URL with its scheme."""
    url = proxy.reveal()
    return url if "://" in url else f"http://{url}"


def _may_be_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Reading the port is what checks it.
        return parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


_WITH_PORT = re.compile(r"(?:\[(?P<address>[^\]]+)\]|(?P<name>[^:\[\]]+)):(?P<port>\d+)\Z")


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether one entry of ``NO_PROXY`` means a host and port."""
    if entry == "*":
        return True
    with_port = _WITH_PORT.match(entry)
    if with_port is not None:
        if int(with_port["port"]) != port:
            return False
        entry = with_port["address"] or with_port["name"]
    entry, host = entry.strip("[]").lower(), host.lower().rstrip(".")
    with suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        with suppress(ValueError):
            # An address in a network of the other version is not in it, and no error.
            return address in ipaddress.ip_network(entry, strict=False)
        return False
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


class _Contexts:
    """TLS contexts of this process by what they trust: loading a bundle takes some 20 ms of CPU."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: dict[tuple[object, ...], ssl.SSLContext] = {}


_contexts = _Contexts()


def _start_anew() -> None:
    global _contexts
    _contexts = _Contexts()


# A forked child must not wait for a lock that another thread held at that moment.
os.register_at_fork(after_in_child=_start_anew)


def tls_context() -> ssl.SSLContext:
    """
    Return the TLS client context that trusts what the environment says.

    :raises ConfigurationError: If a variable names a place without certificates; the message names the variable.
    """
    from urllib3.util.ssl_ import create_urllib3_context

    names, file, folder = _trusted()
    # A bundle is exchanged under a running triggerer when a company's certificate is renewed.
    stamp = os.stat(file).st_mtime_ns if file else 0
    key = (file, folder, stamp)
    with _contexts.lock:
        context = _contexts.kept.get(key)
        if context is None:
            context = create_urllib3_context()
            try:
                context.load_verify_locations(file, folder)
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise ConfigurationError(
                    f"{names} names {file or folder}, from which no certificates can be loaded ({why}). A file of PEM "
                    "certificates is needed."
                ) from None
            # One context at a time: another environment replaces it, and old ones are of no more use.
            _contexts.kept.clear()
            _contexts.kept[key] = context
        return context


def _trusted() -> tuple[str, str | None, str | None]:
    """Return the variables that decide, and the file and folder of trusted certificates."""
    for name in _BUNDLE_VARIABLES:
        place = _value(name)
        if place:
            _check(name, place)
            return (name, None, place) if os.path.isdir(place) else (name, place, None)
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    file, folder = _value("SSL_CERT_FILE"), _value("SSL_CERT_DIR")
    if file:
        _check("SSL_CERT_FILE", file)
        # Images set both, and OpenSSL is content with one.
        if not any(os.path.exists(place) for place in folder.split(os.pathsep)):
            folder = ""
    if folder:
        _check("SSL_CERT_DIR", *folder.split(os.pathsep))
    names = " and ".join(name for name, value in (("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folder)) if value)
    return names or "certifi", file or DEFAULT_CA_BUNDLE_PATH, folder or None


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()


def _check(name: str, *places: str) -> None:
    if not any(os.path.exists(place) for place in places):
        raise ConfigurationError(
            f"{name} names {os.pathsep.join(places)}, which does not exist here. Correct the variable where the task "
            "and the triggerer run, or unset it."
        )
