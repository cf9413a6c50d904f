# SPDX-License-Identifier: Apache-2.0
"""Base URLs: which one serves what, and what is accepted as one."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from airflow_provider_gemini_batch.connection.form import label_of

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.connection.members import Members

DEVELOPER_BASE_URL = "https://generativelanguage.googleapis.com"
STORAGE_BASE_URL = "https://storage.googleapis.com"
BIGQUERY_BASE_URL = "https://bigquery.googleapis.com"

_HOST = r"(?!https?$)[A-Za-z0-9._:%-]+"  # https:/host and https//host have the host "https"
_VERSION_AT_END = re.compile(r"/(v[0-9]+(?:(?:alpha|beta)[0-9]*)?)(?:/openai)?$")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this very machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_google(host: str) -> bool:
    """Return whether a host name is Google's; private endpoints (``...p.googleapis.com``) are."""
    return f".{host.rstrip('.').lower()}".endswith(".googleapis.com")


def other_server_hint(base_url: str, name: str) -> str:
    """
    Say how to name another server, after something was not found at one that followed the host; empty for Google's.

    :param name: The connection's field.
    """
    if is_google(urlsplit(base_url).hostname or ""):
        return ""
    return f" This is what {base_url} says; if it is the wrong server, fill in {label_of(name)} in the connection."


def vertex_base_url(location: str) -> str:
    """
    Return the base URL that serves a location.

    Multi-region hosts are those of the ``google-genai`` SDK; a guide of Google's names ``https://us-aiplatform...``
    for them, which a connection can set as its base URL.
    """
    if location == "global":
        return "https://aiplatform.googleapis.com"
    # Multi-regions have hosts of another form; the usual one does not exist for them.
    if location in ("us", "eu"):
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


def split_version(base_url: str, api_version: str) -> tuple[str, str]:
    """
    Take a version off the end of a base URL, as Google's pages show it: ``.../v1beta``, ``.../v1beta/openai``.

    :param api_version: The connection's own; where it is another one, both were said on purpose and stay.
    :return: Base URL and version, which may be empty.
    """
    found = _VERSION_AT_END.search(base_url)
    # The same version said twice is one; two different ones are a person's own idea of a path.
    if found is None or api_version not in ("", found[1]):
        return base_url, api_version
    return base_url[: found.start()], found[1]


def read_url(members: Members, name: str, text: str, *, allow_http: bool, scheme: str = "", port: str = "") -> str:
    """
    Return a base URL without a slash at the end, empty if it cannot be one.

    :param name: The connection's field, for messages.
    :param text: A URL or a host; a host alone means https, and http on this very machine.
    :param scheme: For a host alone.
    :param port: Added where the text has none.
    """
    if "://" not in text:
        if _is_bare_ipv6(text):
            text = f"[{text}]"
        text = f"{scheme or ('http' if _is_loopback_host(text) else 'https')}://{text}"
    parts = _parts(members, name, text)
    if parts is None:
        return ""
    netloc = parts.netloc.lower()
    if port:
        if parts.port is None:
            netloc = f"{netloc.rstrip(':')}:{port}"
        elif parts.port != int(port):
            members.bad(name, f"names port {parts.port}, the port field says {port}; empty one of them.")
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname or ""):
        members.bad(
            name,
            f"plain http:// to {parts.hostname} would show the credentials to everybody on the way; use https://, "
            f"or set {label_of('allow_http')} if that network is trusted.",
        )
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def _is_bare_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_loopback_host(text: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{text}").hostname or "")
    except ValueError:
        return False


def _parts(members: Members, name: str, text: str) -> SplitResult | None:
    way_out = "write it as https://host or https://host:port."
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        members.bad(name, f"is not a URL; {way_out}")
        return None
    # Said without showing it: what stands before the @ is a key as a rule.
    if "@" in parts.netloc:
        members.bad(name, "holds a user name or a password; put the API key into its own field.")
    elif parts.scheme not in ("http", "https"):
        members.bad(name, f"{parts.scheme[:10]}:// is not http:// or https://; {way_out}")
    elif not re.fullmatch(_HOST, parts.hostname or "") or port == 0 or re.search(r"\s", text):
        members.bad(name, f"is not a URL; {way_out}")
    elif parts.query or parts.fragment:
        members.bad(name, f"must end before any ? or #; {way_out}")
    else:
        return parts
    return None
