# SPDX-License-Identifier: Apache-2.0
"""Where do calls go? The fields that choose backend, servers, location and places."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.connection.form import label_of
from airflow_provider_gemini_batch.connection.members import GOOGLE_CONNECTION_TYPE, looks_like_a_key, shown
from airflow_provider_gemini_batch.connection.settings import BACKENDS, GEMINI, VERTEX_AI
from airflow_provider_gemini_batch.connection.urls import (
    BIGQUERY_BASE_URL,
    STORAGE_BASE_URL,
    is_google,
    is_loopback,
    read_url,
)

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.connection.members import Members

URI_FORM = "gemini-batch://:KEY@/ (a hyphen in the type, a colon before the key; special characters as %XX)"


def read_backend(members: Members, argument: str | None, kind: str, api_key: str) -> str:
    """Read the backend; without a word of it, the one that the other fields fit."""
    asked = argument or members.text("backend")
    name = str(asked).strip().lower()
    if name in BACKENDS:
        return name
    if name:
        source = "the argument backend" if argument else label_of("backend")
        known = " and ".join(BACKENDS)
        members.problems.append(f"{source}: there is no backend {shown(asked)}; there is {known}.")
    # A connection of this type was made for Google Cloud; it has no field for an API key.
    if kind == GOOGLE_CONNECTION_TYPE:
        return VERTEX_AI
    # An empty connection means Vertex AI with the credentials of the machine, which is what a worker on Google Cloud
    # has.
    return GEMINI if api_key else VERTEX_AI


def read_base_url(
    members: Members, kind: str, host: str, schema: str, port: int | str | None, *, allow_http: bool
) -> str:
    """Return the base URL that the connection names; empty if none."""
    scheme = schema.lower()
    if kind == GOOGLE_CONNECTION_TYPE and scheme not in ("http", "https"):
        scheme = ""  # Airflow's own google_cloud_default says "default" there.
    if scheme not in ("", "http", "https"):
        members.problems.append(f"Schema (schema): {shown(schema)} is neither http nor https; empty it.")
        scheme = ""
    if not host:
        return ""
    if looks_like_a_key(host):
        members.bad("host", f"holds what looks like an API key. As a URI write {URI_FORM}.")
        return ""
    # 0 is how a form of Airflow 3.3 sends a port that was left empty.
    port_text = "" if port is None or str(port).strip() == "0" else str(port).strip()
    if port_text and not (port_text.isdigit() and 0 < int(port_text) < 65536):
        members.problems.append(f"Port (port): {shown(port_text)} is not a port; write a number up to 65535, or none.")
        port_text = ""
    return read_url(members, "host", host, allow_http=allow_http, scheme=scheme, port=port_text)


def read_api_version(members: Members) -> str:
    """Read the version of the API; empty if none is given."""
    api_version = members.text("api_version")
    if api_version and not re.fullmatch(r"v[0-9][a-z0-9]*", api_version):
        members.bad("api_version", f"{shown(api_version)} is none; write for example v1 or v1beta, or empty it.")
        return ""
    return api_version


def read_other_servers(members: Members, base_url: str, *, allow_http: bool) -> tuple[str, str, str]:
    """Return the base URLs of Cloud Storage, BigQuery and the service that impersonates accounts (empty: Google's)."""
    server = urlsplit(base_url).hostname or ""
    # A host of one's own means that the user has not agreed to talk to Google: what else is needed is asked there.
    elsewhere = "" if is_google(server) else base_url
    # But a proxy of Vertex AI makes no tokens, and a source token says more than the one it is exchanged for.
    emulator = elsewhere if is_loopback(server) or elsewhere.startswith("http://") else ""
    named = {}
    for name in ("storage_host", "bigquery_host"):
        text = members.text(name)
        named[name] = read_url(members, name, text, allow_http=allow_http) if text else ""
    return (
        named["storage_host"] or elsewhere or STORAGE_BASE_URL,
        named["bigquery_host"] or elsewhere or BIGQUERY_BASE_URL,
        emulator,
    )


def read_location(members: Members) -> str:
    """Read the location; empty if none is given."""
    location = members.text("location").lower()
    if location and not re.fullmatch(r"[a-z][a-z0-9-]*", location):
        members.bad("location", f"{shown(location)} is none; write for example us-central1 or global.")
        return ""
    return location


def read_storage_uri(members: Members) -> str:
    """Read the place in Cloud Storage below which files are put; empty if none is given."""
    uri = members.text("storage_uri")
    if uri and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^*?#\x00-\x1f]*)?", uri):
        members.bad("storage_uri", f"{shown(uri)} is not a place in Cloud Storage; it looks like gs://bucket/prefix.")
    return uri.rstrip("/")
