# SPDX-License-Identifier: Apache-2.0
"""
A connection's fields -> :class:`~.settings.ConnectionSettings`, checked and completed.

Two types of connection are understood: ``gemini_batch`` (fields: :mod:`.form`) and ``google_cloud_platform``, which
means Vertex AI and is read under the names that type uses, with and without the old prefix
``extra__google_cloud_platform__``
(https://airflow.apache.org/docs/apache-airflow-providers-google/stable/connections/gcp.html).

**No secret leaves with an error.** A connection that could not be parsed (``gemini_batch://:KEY@/``, whose scheme may
hold no underscore) has its key in whatever field the parser put it: nothing of such a connection is shown. And whoever
reports errors with the variables of their frames must find none: so the functions here collect problems and return
them, and an error is raised only where the fields are out of reach again (:meth:`Reading.checked`).

Nothing here imports Airflow or talks to anybody; a service account's key file is read for the project it names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.connection.form import CONNECTION_TYPE, label_of
from airflow_provider_gemini_batch.connection.members import (
    GOOGLE_CONNECTION_TYPE,
    Members,
    looks_like_a_key,
    shown,
    without_secrets,
)
from airflow_provider_gemini_batch.connection.settings import (
    BACKENDS,
    CLOUD_PLATFORM_SCOPE,
    DEFAULT_LOCATION,
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT,
    GEMINI,
    VERTEX_AI,
    ConnectionSettings,
    Secret,
)
from airflow_provider_gemini_batch.connection.urls import (
    BIGQUERY_BASE_URL,
    DEVELOPER_BASE_URL,
    STORAGE_BASE_URL,
    is_google,
    is_loopback,
    read_url,
    split_version,
    vertex_base_url,
)
from airflow_provider_gemini_batch.errors import ConfigurationError

_KEY_MEMBERS = ("client_email", "private_key", "token_uri")
# Ways of the Google provider's connection that are not ours: better refused than answered with other credentials.
_UNSUPPORTED = {
    "key_secret_name": "keys kept in Secret Manager are not fetched here",
    "idp_issuer_url": "the client credentials grant is not supported here",
}
_URI_FORM = "gemini-batch://:KEY@/ (a hyphen in the type, a colon before the key; special characters as %XX)"


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
    problem = members.complaint(conn_id, secrets)
    if problem:
        return Reading(None, problem)
    notes = tuple(without_secrets(note, secrets) for note in members.unknown(kind))
    return Reading(replace(settings, conn_id=conn_id, notes=notes))


def _secrets(login: str | None, password: str | None, extra: Any) -> list[str]:
    """Return what no message may show, wherever else it may stand."""
    found = [str(text).strip() for text in (login, password) if text]
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
        f"is shown here, as it may hold a key. As a URI write {_URI_FORM}; as JSON "
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
    api_key = "" if kind == GOOGLE_CONNECTION_TYPE else _api_key(members, password)
    backend = _backend(members, argument, kind, api_key)
    is_vertex = backend == VERTEX_AI
    allow_http = members.flag("allow_http")
    access = _Access.read(members, allow_http, anonymous=members.flag("is_anonymous"))
    for name, reason in _UNSUPPORTED.items():
        if members.raw(name) is not None and not access.is_anonymous and (is_vertex or not api_key):
            members.bad(name, f"{reason}; use {label_of('keyfile_dict')} or {label_of('credential_config_file')}.")
    project, location = _project(members, access), _location(members)
    if is_vertex:
        location = location or DEFAULT_LOCATION
        _require_project(members, project, access.key_path, api_key, kind)
    given = _base_url(members, kind, host.strip(), schema.strip(), port, allow_http=allow_http)
    base_url = given or (vertex_base_url(location) if is_vertex else DEVELOPER_BASE_URL)
    base_url, api_version = split_version(base_url, _api_version(members))
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
    storage_base_url, bigquery_base_url, iam_base_url = _other_servers(members, base_url, allow_http=allow_http)
    return ConnectionSettings(
        backend=backend,
        base_url=base_url,
        api_version=api_version or ("v1" if is_vertex else "v1beta"),
        api_key=Secret(api_key) if api_key and not is_vertex else None,
        project=project,
        location=location,
        storage_uri=_storage_uri(members),
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


# --- who calls --------------------------------------------------------------------------------------------------------


def _api_key(members: Members, password: str) -> str:
    api_key = password.strip()
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        members.bad("password", "holds blanks or characters that no API key has; copy it again.")
        return "?"
    return api_key


@dataclass(frozen=True)
class _Access:
    """How google-auth gets a token; with nothing set, application default credentials."""

    key: dict[str, Any] | None
    key_path: str
    federation: Secret | None
    federation_path: str
    impersonation_chain: tuple[str, ...]
    quota_project: str
    is_anonymous: bool
    names_credential: bool

    @property
    def is_given(self) -> bool:
        """Whether the connection says who calls."""
        return self.names_credential or bool(self.impersonation_chain) or self.is_anonymous

    @classmethod
    def read(cls, members: Members, allow_http: bool, *, anonymous: bool) -> _Access:
        key = _key_file(members, allow_http)
        key_path = members.text("key_path")
        federation, federation_path = _federation(members)
        ways = [name for name in ("keyfile_dict", "key_path", "credential_config_file") if members.raw(name)]
        if len(ways) > 1:
            members.problems.append(f"{', '.join(map(label_of, ways))}: more than one credential; keep one of them.")
        chain = members.words("impersonation_chain")
        for account in chain:
            if not re.fullmatch(r"[^@\s/]+@[^@\s/]+", account):
                members.bad("impersonation_chain", f"{shown(account)} is not a service account's e-mail address.")
        quota_project = members.text("quota_project")
        if quota_project and not _is_project(quota_project):
            members.bad("quota_project", f"{shown(quota_project)} is not a project id.")
        return cls(key, key_path, federation, federation_path, chain, quota_project, anonymous, bool(ways))


def _key_file(members: Members, allow_http: bool) -> dict[str, Any] | None:
    key = members.json_object("keyfile_dict")
    if key is None:
        return None
    missing = [name for name in _KEY_MEMBERS if not isinstance(key.get(name), str) or not key[name]]
    kind = key.get("type")
    if kind not in (None, "service_account"):
        others = f"{label_of('key_path')} and {label_of('credential_config_file')}"
        members.bad("keyfile_dict", f"is of type {shown(kind)}, not a service account's key; see {others}.")
        return None
    if missing:
        members.bad("keyfile_dict", f"lacks {', '.join(missing)}; paste the whole content of the key file.")
        return None
    # The line ends of a key are often doubled on the way through environment variables.
    key["private_key"] = key["private_key"].replace("\\n", "\n")
    read_url(members, "keyfile_dict", key["token_uri"], allow_http=allow_http)
    return key


def _federation(members: Members) -> tuple[Secret | None, str]:
    """Return content and path of the federation file; one of them at most."""
    value = members.raw("credential_config_file")
    if isinstance(value, str) and not value.startswith("{"):
        return None, value
    content = members.json_object("credential_config_file")
    return (None if content is None else Secret(json.dumps(content, sort_keys=True))), ""


# --- where ------------------------------------------------------------------------------------------------------------


def _backend(members: Members, argument: str | None, kind: str, api_key: str) -> str:
    asked = argument or members.text("backend")
    name = str(asked).strip().lower()
    if name in BACKENDS:
        return name
    if name:
        source = "the argument backend" if argument else label_of("backend")
        known = " and ".join(BACKENDS)
        members.problems.append(f"{source}: there is no backend {shown(asked)}; there is {known}.")
    if kind == GOOGLE_CONNECTION_TYPE:
        return VERTEX_AI
    return GEMINI if api_key else VERTEX_AI


def _base_url(members: Members, kind: str, host: str, schema: str, port: int | str | None, *, allow_http: bool) -> str:
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
        members.bad("host", f"holds what looks like an API key. As a URI write {_URI_FORM}.")
        return ""
    # 0 is how a form of Airflow 3.3 sends a port that was left empty.
    port_text = "" if port is None or str(port).strip() == "0" else str(port).strip()
    if port_text and not (port_text.isdigit() and 0 < int(port_text) < 65536):
        members.problems.append(f"Port (port): {shown(port_text)} is not a port; write a number up to 65535, or none.")
        port_text = ""
    return read_url(members, "host", host, allow_http=allow_http, scheme=scheme, port=port_text)


def _api_version(members: Members) -> str:
    api_version = members.text("api_version")
    if api_version and not re.fullmatch(r"v[0-9][a-z0-9]*", api_version):
        members.bad("api_version", f"{shown(api_version)} is none; write for example v1 or v1beta, or empty it.")
        return ""
    return api_version


def _other_servers(members: Members, base_url: str, *, allow_http: bool) -> tuple[str, str, str]:
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


def _location(members: Members) -> str:
    location = members.text("location").lower()
    if location and not re.fullmatch(r"[a-z][a-z0-9-]*", location):
        members.bad("location", f"{shown(location)} is none; write for example us-central1 or global.")
        return ""
    return location


def _storage_uri(members: Members) -> str:
    uri = members.text("storage_uri")
    if uri and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^*?#\x00-\x1f]*)?", uri):
        members.bad("storage_uri", f"{shown(uri)} is not a place in Cloud Storage; it looks like gs://bucket/prefix.")
    return uri.rstrip("/")


def _project(members: Members, access: _Access) -> str:
    project = members.text("project")
    if project and not _is_project(project):
        members.bad("project", f"{shown(project)} is not a project id; it looks like my-project-123.")
    if not project and access.key is not None:
        project = str(access.key.get("project_id") or "")
    if not project and access.key_path:
        project = _project_of_key_file(members, access.key_path)
    if not project and not access.names_credential:
        # The variable that application default credentials look at.
        project = os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    return project


def _project_of_key_file(members: Members, path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        members.bad("key_path", f"{path} cannot be read here: {error.strerror or 'unknown reason'}.")
    except ValueError:
        members.bad("key_path", f"{path} is not JSON; it must be a service account's key file.")
    else:
        return str(found.get("project_id") or "") if isinstance(found, dict) else ""
    return ""


def _require_project(members: Members, project: str, key_path: str, api_key: str, kind: str) -> None:
    if project:
        return
    way_out = "name the Google Cloud project"
    if key_path:
        way_out += f" (no project_id could be read from {key_path})"
    if api_key:
        way_out += f", or set {label_of('backend')} to {GEMINI} to use the API key"
    elif kind == CONNECTION_TYPE:
        way_out += f", or fill in {label_of('password')} to use the Developer API"
    members.bad("project", f"is empty, but the backend is {VERTEX_AI}; {way_out}.")


def _is_project(text: str) -> bool:
    # An id, a number, or one of the old ids with a domain: example.com:project.
    return re.fullmatch(r"[a-z0-9][a-z0-9.:-]*[a-z0-9]", text) is not None
