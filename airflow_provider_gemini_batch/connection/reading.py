# SPDX-License-Identifier: Apache-2.0
"""A connection's fields -> :class:`~.settings.ConnectionSettings`, checked and completed."""

# Two types of connection are understood: `gemini_batch` (fields: `form.py`) and `google_cloud_platform`, which means
# Vertex AI and is read under the names that type uses, with and without the old prefix `extra__google_cloud_platform__`
# (https://airflow.apache.org/docs/apache-airflow-providers-google/stable/connections/gcp.html).
#
# No secret leaves with an error. A connection that could not be parsed (`gemini_batch://:KEY@/`, whose scheme may hold
# no underscore) has its key in whatever field the parser put it: nothing of such a connection is shown. And whoever
# reports errors with the variables of their frames must find none: so the functions here collect problems and return
# them, and an error is raised only where the fields are out of reach again (`Reading.checked`).
#
# Nothing here imports Airflow or talks to anybody; a service account's key file is read for the project it names.

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.connection.access import Access, read_api_key, read_project, require_project
from airflow_provider_gemini_batch.connection.form import CONNECTION_TYPE, label_of
from airflow_provider_gemini_batch.connection.members import GOOGLE_CONNECTION_TYPE, Members, without_secrets
from airflow_provider_gemini_batch.connection.servers import (
    URI_FORM,
    read_api_version,
    read_backend,
    read_base_url,
    read_location,
    read_other_servers,
    read_storage_uri,
)
from airflow_provider_gemini_batch.connection.settings import (
    CLOUD_PLATFORM_SCOPE,
    DEFAULT_LOCATION,
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT,
    GEMINI,
    VERTEX_AI,
    ConnectionSettings,
    Secret,
)
from airflow_provider_gemini_batch.connection.urls import DEVELOPER_BASE_URL, is_google, split_version, vertex_base_url
from airflow_provider_gemini_batch.errors import ConfigurationError

# Ways of the Google provider's connection that are not ours: better refused than answered with other credentials.
_UNSUPPORTED = {
    "key_secret_name": "keys kept in Secret Manager are not fetched here",
    "idp_issuer_url": "the client credentials grant is not supported here",
}


@dataclass(frozen=True)
class Reading:
    """
    What came of reading a connection.

    :param settings: None if it cannot work.
    :param problem: Why, without a secret; empty if it can.
    """

    settings: ConnectionSettings | None
    problem: str = ""

    def checked(self) -> ConnectionSettings:
        """
        Return the settings.

        :raises ConfigurationError: Naming every field that cannot work, and the way out.
        """
        if self.settings is None:
            raise ConfigurationError(self.problem)
        return self.settings


def settings_from_connection(
    *,
    conn_id: str = "",
    conn_type: str = CONNECTION_TYPE,
    host: str | None = None,
    schema: str | None = None,
    login: str | None = None,
    password: str | None = None,
    port: int | str | None = None,
    extra: Mapping[str, Any] | None = None,
    backend: str | None = None,
) -> ConnectionSettings:
    """
    Read a connection's fields.

    :param conn_type: ``gemini_batch`` or ``google_cloud_platform``.
    :param schema: ``http`` or ``https`` for a *host* that does not say it.
    :param login: Not used; taken so that a caller can pass every field of a connection.
    :param port: Added to *host* if that has none; 0 is none.
    :param extra: The connection's extra, decoded; members that are unknown here are left alone and noted.
    :param backend: Wins over the connection's own.
    :raises ConfigurationError: Naming every field that cannot work, and the way out.
    """
    reading = read_fields(conn_id, conn_type, host, schema, login, password, port, extra, backend)
    del host, schema, login, password, port, extra  # the error's frames reach none of them
    return reading.checked()


def read_connection(connection: Any, backend: str | None = None, *, extra: Mapping[str, Any] | None = None) -> Reading:
    """
    Read an Airflow connection.

    :param connection: An ``airflow`` Connection object, already looked up. Let go of it before :meth:`Reading.checked`.
    :param backend: Overrides the connection's backend.
    :param extra: The connection's extra, decoded; given where decoding it here would block (triggers).
    """
    decoded: Any = connection.extra_dejson if extra is None else extra
    if not decoded and str(connection.extra or "").strip() not in ("", "{}", "null"):
        # Airflow decodes an extra that is no JSON to nothing, and only logs it.
        decoded = ""
    # A connection as JSON may leave its type out; one that was parsed from a URI has at least an empty text.
    conn_type = CONNECTION_TYPE if connection.conn_type is None else connection.conn_type
    return read_fields(
        connection.conn_id or "",
        conn_type,
        connection.host,
        connection.schema,
        connection.login,
        connection.password,
        connection.port,
        decoded,
        backend,
    )


def read_fields(
    conn_id: str,
    conn_type: str,
    host: str | None,
    schema: str | None,
    login: str | None,
    password: str | None,
    port: int | str | None,
    extra: Any,
    backend: str | None,
) -> Reading:
    """Read a connection's fields, as for :func:`settings_from_connection`, and raise nothing."""
    # A connection as a URI spells its type with a dash, as a scheme may have no underscore.
    kind = str(conn_type or "").strip().lower().replace("-", "_")
    if kind == "" and not host and not schema:
        kind = CONNECTION_TYPE
    secrets = _secrets(login, password, extra)
    if kind not in (CONNECTION_TYPE, GOOGLE_CONNECTION_TYPE):
        return Reading(None, without_secrets(_wrong_type(conn_id, kind), secrets))
    if extra is not None and not isinstance(extra, Mapping):
        return Reading(None, f"Connection {conn_id!r}: Extra must be a JSON object.")
    members = Members(extra or {})
    settings = _settings(members, kind, host or "", schema or "", login or "", password or "", port, backend)
    notes = tuple(without_secrets(note, secrets) for note in members.unknown(kind))
    problem = members.complaint(conn_id, secrets)
    if problem:
        # What is empty may be there under a misspelt name.
        return Reading(None, "".join([problem, *(f"\n  - {note}" for note in notes)]))
    return Reading(replace(settings, conn_id=conn_id, notes=notes))


def _secrets(login: str | None, password: str | None, extra: Any) -> list[str]:
    """Return what no message may show, wherever else it may stand."""
    found = [str(text).strip() for text in (login, password) if text]
    # It may be an object or the JSON text of one: Airflow's own connection type takes both.
    key = extra.get("keyfile_dict") if isinstance(extra, Mapping) else None
    if isinstance(key, Mapping):
        found += [str(key[name]) for name in ("private_key", "private_key_id") if key.get(name)]
    elif isinstance(key, str):
        found.append(key)
    return found


def _wrong_type(conn_id: str, kind: str) -> str:
    way_out = f"change its type to {CONNECTION_TYPE} (or {GOOGLE_CONNECTION_TYPE} for Vertex AI)."
    # A type of Airflow's is a short word; anything else may be a key in the wrong place.
    if re.fullmatch(r"[a-z_]{1,30}", kind):
        return f"Connection {conn_id!r} is of type {kind!r}; {way_out}"
    return (
        f"Connection {conn_id!r} cannot be read: it has no type that is known, as if it was not parsed. Nothing of it "
        f"is shown here, as it may hold a key. As a URI write {URI_FORM}; as JSON "
        f'{{"conn_type": "{CONNECTION_TYPE}", "password": "KEY"}}; or {way_out}'
    )


def _settings(
    members: Members,
    kind: str,
    host: str,
    schema: str,
    login: str,
    password: str,
    port: int | str | None,
    argument: str | None,
) -> ConnectionSettings:
    """Read everything; what is wrong lands in *members*, and then the settings are of no use."""
    api_key = "" if kind == GOOGLE_CONNECTION_TYPE else read_api_key(members, password)
    backend = read_backend(members, argument, kind, api_key)
    is_vertex = backend == VERTEX_AI
    allow_http = members.flag("allow_http")
    access = Access.read(members, allow_http, anonymous=members.flag("is_anonymous"))
    for name, reason in _UNSUPPORTED.items():
        if members.raw(name) is not None and not access.is_anonymous and (is_vertex or not api_key):
            members.bad(name, f"{reason}; use {label_of('keyfile_dict')} or {label_of('credential_config_file')}.")
    project, location = read_project(members, access), read_location(members)
    if is_vertex:
        location = location or DEFAULT_LOCATION
        require_project(members, project, access.key_path, api_key, kind)
    given = read_base_url(members, kind, host.strip(), schema.strip(), port, allow_http=allow_http)
    base_url = given or (vertex_base_url(location) if is_vertex else DEVELOPER_BASE_URL)
    # People copy addresses from documentation, with the version in them.
    base_url, api_version = split_version(base_url, read_api_version(members))
    server = urlsplit(base_url).hostname or ""
    if access.is_anonymous and is_google(server):
        members.bad("is_anonymous", f"Google refuses calls without credentials; unset it, or set {label_of('host')}.")
    if backend == GEMINI and not api_key and not access.is_given:
        hint = " The user name (login) is not read: a key in a URI comes after a colon." if login else ""
        members.bad(
            "password",
            f"is empty, but the backend is {GEMINI}; put the API key there, or set {label_of('backend')} to "
            f"{VERTEX_AI} with a project.{hint}",
        )
    storage_base_url, bigquery_base_url, iam_base_url = read_other_servers(members, base_url, allow_http=allow_http)
    return ConnectionSettings(
        backend=backend,
        base_url=base_url,
        api_version=api_version or ("v1" if is_vertex else "v1beta"),
        api_key=Secret(api_key) if api_key and not is_vertex else None,
        project=project,
        location=location,
        storage_uri=read_storage_uri(members),
        storage_base_url=storage_base_url,
        bigquery_base_url=bigquery_base_url,
        iam_base_url=iam_base_url,
        timeout=members.number(DEFAULT_TIMEOUT, "timeout", whole=False, least=1e-3),
        # The Google provider counts repeats after the first try, and allows none.
        max_retries=max(1, int(members.number(DEFAULT_MAX_RETRIES, "max_retries", whole=True, least=0))),
        keyfile_dict=None if access.key is None else Secret(json.dumps(access.key, sort_keys=True)),
        key_path=access.key_path,
        credential_config=access.federation,
        credential_config_file=access.federation_path,
        impersonation_chain=access.impersonation_chain,
        quota_project=access.quota_project,
        scopes=members.words("scopes") or (CLOUD_PLATFORM_SCOPE,),
        is_anonymous=access.is_anonymous,
        allow_http=allow_http,
    )
