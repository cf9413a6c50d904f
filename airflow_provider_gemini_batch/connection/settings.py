# SPDX-License-Identifier: Apache-2.0
"""
What an Airflow connection means: its fields, checked and completed, as :class:`ConnectionSettings`.

Two types of connection are understood: ``gemini_batch`` (fields: :mod:`.connection_form`) and
``google_cloud_platform``, which means Vertex AI and is read under the names that type uses, with and without the old
prefix ``extra__google_cloud_platform__``
(https://airflow.apache.org/docs/apache-airflow-providers-google/stable/connections/gcp.html).

Nothing here imports Airflow or talks to anybody; a service account's key file is read for the project it names.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from airflow_provider_gemini_batch.connection.form import CONNECTION_TYPE, label_of
from airflow_provider_gemini_batch.errors import ConfigurationError

GEMINI = "gemini"
VERTEX_AI = "vertex_ai"
BACKENDS = (GEMINI, VERTEX_AI)

GOOGLE_CONNECTION_TYPE = "google_cloud_platform"
CLOUD_PLATFORM_SCOPE = "https://www.googleapis.com/auth/cloud-platform"

DEVELOPER_BASE_URL = "https://generativelanguage.googleapis.com"
STORAGE_BASE_URL = "https://storage.googleapis.com"
BIGQUERY_BASE_URL = "https://bigquery.googleapis.com"

DEFAULT_LOCATION = "global"
DEFAULT_TIMEOUT = 60.0
DEFAULT_MAX_RETRIES = 5

_LEGACY_PREFIX = f"extra__{GOOGLE_CONNECTION_TYPE}__"
_KEY_MEMBERS = ("client_email", "private_key", "token_uri")
# Ways of the Google provider's connection that are not ours: better refused than answered with other credentials.
_UNSUPPORTED = {
    "key_secret_name": "keys kept in Secret Manager are not fetched here",
    "idp_issuer_url": "the client credentials grant is not supported here",
}


class Secret:
    """
    A string that shows itself to nobody who does not ask.

    It neither prints nor pickles; copies are the same object.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the string."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __format__(self, _format_spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials are not pickled: pass the connection's id on and read the connection there.")


@dataclass(frozen=True)
class ConnectionSettings:
    """
    How to reach a backend, and as whom.

    :param backend: ``gemini`` (Developer API) or ``vertex_ai``.
    :param base_url: Of the backend, without a slash at the end and without the version.
    :param api_version: E.g. ``v1beta``; the first part of every path.
    :param api_key: Of the Developer API, or None.
    :param project: Google Cloud project; empty for the Developer API unless given.
    :param location: Vertex AI location; empty for the Developer API unless given.
    :param storage_uri: ``gs://bucket/prefix`` without a slash at the end, or empty.
    :param iam_base_url: Where accounts are impersonated; empty leaves that to google-auth.
    :param timeout: Seconds for a connection, and for the next bytes of a reply; five times that for a whole reply.
    :param max_retries: Tries for a call that is safe to repeat, at least 1.
    :param keyfile_dict: A service account's key as JSON text, or None.
    :param credential_config: Content of a workload identity federation file as JSON text, or None.
    :param impersonation_chain: The last account is acted as, through those before it.
    :param scopes: OAuth scopes.
    :param is_anonymous: Send no credentials.
    :param conn_id: The connection's id, for messages.
    """

    backend: str
    base_url: str
    api_version: str
    api_key: Secret | None = field(default=None, repr=False)
    project: str = ""
    location: str = ""
    storage_uri: str = ""
    storage_base_url: str = STORAGE_BASE_URL
    bigquery_base_url: str = BIGQUERY_BASE_URL
    iam_base_url: str = ""
    timeout: float = DEFAULT_TIMEOUT
    max_retries: int = DEFAULT_MAX_RETRIES
    keyfile_dict: Secret | None = field(default=None, repr=False)
    key_path: str = ""
    credential_config: Secret | None = field(default=None, repr=False)
    credential_config_file: str = ""
    impersonation_chain: tuple[str, ...] = ()
    quota_project: str = ""
    scopes: tuple[str, ...] = (CLOUD_PLATFORM_SCOPE,)
    is_anonymous: bool = False
    allow_http: bool = False
    conn_id: str = ""

    @property
    def is_vertex(self) -> bool:
        """Whether jobs run on Vertex AI."""
        return self.backend == VERTEX_AI

    @property
    def has_credential_fields(self) -> bool:
        """Whether the connection says how google-auth gets a token, instead of leaving it to the machine."""
        return bool(
            self.keyfile_dict
            or self.key_path
            or self.credential_config
            or self.credential_config_file
            or self.impersonation_chain
        )

    @cached_property
    def identity(self) -> str:
        """
        A digest of everything but the connection's id: the same for connections that lead to the same place as the
        same caller, another one as soon as a credential or a setting changes.
        """
        digest = hashlib.sha256()
        for member in fields(self):
            if member.name == "conn_id":
                continue
            value = getattr(self, member.name)
            text = value.reveal() if isinstance(value, Secret) else value
            digest.update(json.dumps([member.name, text]).encode())
        return digest.hexdigest()[:32]


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
    :param schema: ``http`` or ``https`` for a *host* that does not say it; empty is https.
    :param login: Not used; taken so that a caller can pass every field of a connection.
    :param port: Added to *host* if that has none.
    :param extra: The connection's extra, decoded; members that are unknown here are left alone.
    :param backend: Wins over the connection's own.
    :raises ConfigurationError: Naming every field that cannot work, and the way out.
    """
    del login
    return _Reader(conn_id, conn_type, extra or {}).settings(host, schema, password, port, backend)


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
    if location in ("us", "eu"):
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


class _Reader:
    """One reading of one connection; collects what is wrong."""

    def __init__(self, conn_id: str, conn_type: str, extra: Mapping[str, Any]) -> None:
        self.conn_id = conn_id
        self.conn_type = str(conn_type or "").strip().lower().replace("-", "_")
        self.extra = extra
        self.problems: list[str] = []

    def bad(self, name: str, problem: str) -> None:
        self.problems.append(f"{label_of(name)}: {problem}")

    def raw(self, *names: str) -> Any:
        """Return the first member that is set; its empty forms count as not set."""
        for name in names:
            for spelling in (name, _LEGACY_PREFIX + name, f"extra__{CONNECTION_TYPE}__{name}"):
                value = self.extra.get(spelling)
                if isinstance(value, str):
                    value = value.strip()
                if value is not None and value not in ("", [], {}):
                    return value
        return None

    def text(self, *names: str) -> str:
        value = self.raw(*names)
        if value is None:
            return ""
        if not isinstance(value, str | int) or isinstance(value, bool):
            self.bad(names[0], f"must be text, not {_kind(value)}.")
            return ""
        return str(value)

    def flag(self, name: str) -> bool:
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        word = str(value).lower()
        if word in ("true", "1", "yes", "on", "t", "y"):
            return True
        if word not in ("false", "0", "no", "off", "f", "n"):
            self.bad(name, f"{value!r} is neither true nor false.")
        return False

    def words(self, *names: str) -> tuple[str, ...]:
        """Read a list, or a string with commas or a JSON list in it."""
        value = self.raw(*names)
        if value is None:
            return ()
        if isinstance(value, str):
            if value.startswith("["):
                try:
                    value = json.loads(value)
                except ValueError:
                    self.bad(names[0], "begins like a JSON list but is none.")
                    return ()
            else:
                value = value.split(",")
        if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
            self.bad(names[0], "must be a list of texts, or one text with commas.")
            return ()
        return tuple(word.strip() for word in value if word.strip())

    def number(self, default: float, *names: str, whole: bool, least: float) -> float:
        value = self.raw(*names)
        if value is None:
            return default
        kind = "a whole number" if whole else "a number of seconds"
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            self.bad(names[0], f"must be {kind}, not {_shown(value)}.")
            return default
        if not math.isfinite(number) or number < least or (whole and number != int(number)):
            least_words = "above 0" if least <= 0 or not whole else f"at least {least:g}"
            self.bad(names[0], f"must be {kind} {least_words}, not {_shown(value)}.")
            return default
        return number

    def url(self, name: str, text: str, *, allow_http: bool, scheme: str = "https", port: str = "") -> str:
        """Return a base URL without a slash at the end, empty if it cannot be one."""
        parts = self.url_parts(name, text if "://" in text else f"{scheme}://{text}")
        if parts is None:
            return ""
        netloc = parts.netloc.lower()
        if port:
            if parts.port is None:
                netloc = f"{netloc.rstrip(':')}:{port}"
            elif parts.port != int(port):
                self.bad(name, f"names port {parts.port}, the port field says {port}; empty one of them.")
        if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname or ""):
            self.bad(
                name,
                f"plain http:// to {parts.hostname} would show the credentials to everybody on the way; use https://, "
                f"or set {label_of('allow_http')} if that network is trusted.",
            )
        return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"

    def url_parts(self, name: str, text: str) -> SplitResult | None:
        way_out = "write it as https://host or https://host:port."
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            self.bad(name, f"is not a URL; {way_out}")
            return None
        if "@" in parts.netloc:
            self.bad(name, "holds a user name or a password; put the API key into its own field.")
        elif parts.scheme not in ("http", "https"):
            self.bad(name, f"{parts.scheme}:// is not http:// or https://; {way_out}")
        elif not re.fullmatch(r"[A-Za-z0-9._:%-]+", parts.hostname or "") or port == 0 or re.search(r"\s", text):
            self.bad(name, f"is not a URL; {way_out}")
        elif parts.query or parts.fragment:
            self.bad(name, f"must end before any ? or #; {way_out}")
        else:
            return parts
        return None

    def json_object(self, name: str, value: Any) -> dict[str, Any] | None:
        if isinstance(value, Mapping):
            return dict(value)
        try:
            found = json.loads(value)
            # A key that was pasted into JSON as text is JSON twice.
            found = json.loads(found) if isinstance(found, str) else found
        except (TypeError, ValueError):
            self.bad(name, "is not JSON; paste the whole content of the file.")
            return None
        if not isinstance(found, dict):
            self.bad(name, f"must be a JSON object, not {_kind(found)}.")
            return None
        return found

    def keyfile(self, allow_http: bool) -> dict[str, Any] | None:
        value = self.raw("keyfile_dict")
        key = None if value is None else self.json_object("keyfile_dict", value)
        if key is None:
            return None
        missing = [name for name in _KEY_MEMBERS if not isinstance(key.get(name), str) or not key[name]]
        kind = key.get("type")
        if kind not in (None, "service_account"):
            self.bad(
                "keyfile_dict", f"is of type {kind!r}, not a service account's key; see {label_of('key_path')} and "
                f"{label_of('credential_config_file')}."
            )  # fmt: skip
            return None
        if missing:
            self.bad("keyfile_dict", f"lacks {', '.join(missing)}; paste the whole content of the key file.")
            return None
        # The line ends of a key are often doubled on the way through environment variables.
        key["private_key"] = key["private_key"].replace("\\n", "\n")
        self.url("keyfile_dict", key["token_uri"], allow_http=allow_http)
        return key

    def federation(self) -> tuple[Secret | None, str]:
        """Return content and path of the federation file; one of them at most."""
        value = self.raw("credential_config_file")
        if isinstance(value, str) and not value.startswith("{"):
            return None, value
        content = None if value is None else self.json_object("credential_config_file", value)
        return (None if content is None else Secret(json.dumps(content, sort_keys=True))), ""

    def project_of_key_file(self, path: str) -> str:
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                found = json.load(file)
        except OSError as error:
            self.bad("key_path", f"{path} cannot be read here: {error.strerror or 'unknown reason'}.")
        except ValueError:
            self.bad("key_path", f"{path} is not JSON; it must be a service account's key file.")
        else:
            return str(found.get("project_id") or "") if isinstance(found, dict) else ""
        return ""

    def which_backend(self, argument: str | None, password: str) -> str:
        asked = argument or self.text("backend")
        name = str(asked).strip().lower()
        if name in BACKENDS:
            return name
        if name:
            source = "the argument backend" if argument else label_of("backend")
            self.problems.append(f"{source}: there is no backend {asked!r}; there is {' and '.join(BACKENDS)}.")
        if self.conn_type == GOOGLE_CONNECTION_TYPE:
            return VERTEX_AI
        return GEMINI if password else VERTEX_AI

    def base_url(
        self, host: str, schema: str, port: int | str | None, *, backend: str, location: str, allow_http: bool
    ) -> str:
        own = DEVELOPER_BASE_URL if backend == GEMINI else vertex_base_url(location)
        scheme = schema.lower()
        if self.conn_type == GOOGLE_CONNECTION_TYPE and scheme not in ("http", "https"):
            scheme = ""  # Airflow's own google_cloud_default says "default" there.
        if scheme not in ("", "http", "https"):
            self.problems.append(f"Schema (schema): {schema!r} is neither http nor https; empty it.")
            scheme = ""
        if not host:
            return own
        port_text = "" if port is None else str(port).strip()
        if port_text and not (port_text.isdigit() and 0 < int(port_text) < 65536):
            self.problems.append(f"Port (port): {port_text!r} is not a port; empty it or write a number up to 65535.")
            port_text = ""
        return self.url("host", host, allow_http=allow_http, scheme=scheme or "https", port=port_text) or own

    def settings(
        self,
        host: str | None,
        schema: str | None,
        password: str | None,
        port: int | str | None,
        backend_argument: str | None,
    ) -> ConnectionSettings:
        if self.conn_type not in (CONNECTION_TYPE, GOOGLE_CONNECTION_TYPE):
            raise ConfigurationError(
                f"Connection {self.conn_id!r} is of type {self.conn_type!r}; change its type to {CONNECTION_TYPE} "
                f"(or {GOOGLE_CONNECTION_TYPE} for Vertex AI)."
            )
        if not isinstance(self.extra, Mapping):
            raise ConfigurationError(f"Connection {self.conn_id!r}: Extra must be a JSON object.")
        api_key = (password or "").strip()
        if self.conn_type == GOOGLE_CONNECTION_TYPE:
            api_key = ""
        if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            self.bad("password", "holds blanks or characters that no API key has; copy it again.")
            api_key = "?"
        backend = self.which_backend(backend_argument, api_key)
        allow_http = self.flag("allow_http")
        is_anonymous = self.flag("is_anonymous")

        key = self.keyfile(allow_http)
        key_path = self.text("key_path")
        credential_config, credential_config_file = self.federation()
        ways = [name for name in ("keyfile_dict", "key_path", "credential_config_file") if self.raw(name)]
        if len(ways) > 1:
            self.problems.append(f"{', '.join(map(label_of, ways))}: more than one credential; keep one of them.")
        for name, reason in _UNSUPPORTED.items():
            if self.raw(name) is not None and not is_anonymous and (backend == VERTEX_AI or not api_key):
                self.bad(name, f"{reason}; use {label_of('keyfile_dict')} or {label_of('credential_config_file')}.")

        project = self.project(key, key_path, has_credential=bool(ways))
        location = self.text("location").lower()
        if location and not re.fullmatch(r"[a-z][a-z0-9-]*", location):
            self.bad("location", f"{location!r} is none; write for example us-central1 or global.")
            location = ""
        if backend == VERTEX_AI:
            location = location or DEFAULT_LOCATION
            self.require_project(project, key_path, api_key)

        base_url = self.base_url(
            (host or "").strip(), (schema or "").strip(), port,
            backend=backend, location=location, allow_http=allow_http,
        )  # fmt: skip
        storage_host = self.text("storage_host")
        bigquery_host = self.text("bigquery_host")
        server = urlsplit(base_url).hostname or ""
        # Who names another server has not agreed to send rows and tokens to Google: what else is needed is asked there.
        elsewhere = "" if is_google(server) else base_url
        # But a proxy of Vertex AI makes no tokens, and a source token says more than the one it is exchanged for.
        emulator = elsewhere if is_loopback(server) or elsewhere.startswith("http://") else ""
        storage_base_url = self.url("storage_host", storage_host, allow_http=allow_http) if storage_host else ""
        bigquery_base_url = self.url("bigquery_host", bigquery_host, allow_http=allow_http) if bigquery_host else ""

        impersonation_chain = self.words("impersonation_chain")
        for account in impersonation_chain:
            if not re.fullmatch(r"[^@\s/]+@[^@\s/]+", account):
                self.bad("impersonation_chain", f"{account!r} is not a service account's e-mail address.")
        if is_anonymous and is_google(server):
            self.bad("is_anonymous", f"Google refuses calls without credentials; unset it, or set {label_of('host')}.")
        has_credential = bool(ways or impersonation_chain or is_anonymous)
        if backend == GEMINI and not api_key and not has_credential:
            self.bad(
                "password",
                f"is empty, but the backend is {GEMINI}; put the API key there, or set {label_of('backend')} to "
                f"{VERTEX_AI} with a project.",
            )

        api_version = self.text("api_version")
        if api_version and not re.fullmatch(r"v[0-9][a-z0-9]*", api_version):
            self.bad("api_version", f"{api_version!r} is none; write for example v1 or v1beta, or empty it.")
        storage_uri = self.storage_uri()
        quota_project = self.text("quota_project", "quota_project_id")
        if quota_project and not _is_project(quota_project):
            self.bad("quota_project", f"{quota_project!r} is not a project id.")
        timeout = self.number(DEFAULT_TIMEOUT, "timeout", whole=False, least=1e-3)
        # The Google provider counts repeats after the first try, and allows none.
        names = ("max_retries", "num_retries")
        max_retries = self.number(DEFAULT_MAX_RETRIES, *names, whole=True, least=0)
        scopes = self.words("scopes", "scope") or (CLOUD_PLATFORM_SCOPE,)
        if self.problems:
            listing = "".join(f"\n  - {problem}" for problem in self.problems)
            raise ConfigurationError(f"Connection {self.conn_id!r} cannot work:{listing}")
        return ConnectionSettings(
            backend=backend,
            base_url=base_url,
            api_version=api_version or ("v1beta" if backend == GEMINI else "v1"),
            api_key=Secret(api_key) if api_key and backend == GEMINI else None,
            project=project,
            location=location,
            storage_uri=storage_uri,
            storage_base_url=storage_base_url or elsewhere or STORAGE_BASE_URL,
            bigquery_base_url=bigquery_base_url or elsewhere or BIGQUERY_BASE_URL,
            iam_base_url=emulator,
            timeout=timeout,
            max_retries=max(1, int(max_retries)),
            keyfile_dict=None if key is None else Secret(json.dumps(key, sort_keys=True)),
            key_path=key_path,
            credential_config=credential_config,
            credential_config_file=credential_config_file,
            impersonation_chain=impersonation_chain,
            quota_project=quota_project,
            scopes=scopes,
            is_anonymous=is_anonymous,
            allow_http=allow_http,
            conn_id=self.conn_id,
        )

    def project(self, key: dict[str, Any] | None, key_path: str, *, has_credential: bool) -> str:
        project = self.text("project", "project_id")
        if project and not _is_project(project):
            self.bad("project", f"{project!r} is not a project id; it looks like my-project-123.")
        if not project and key is not None:
            project = str(key.get("project_id") or "")
        if not project and key_path:
            project = self.project_of_key_file(key_path)
        if not project and not has_credential:
            # The variable that application default credentials look at.
            project = os.environ.get("GOOGLE_CLOUD_PROJECT", "")
        return project

    def require_project(self, project: str, key_path: str, api_key: str) -> None:
        if project:
            return
        why = f"is empty, but the backend is {VERTEX_AI}"
        way_out = "name the Google Cloud project"
        if key_path:
            way_out += f" (no project_id could be read from {key_path})"
        if api_key:
            way_out += f", or set {label_of('backend')} to {GEMINI} to use the API key"
        elif self.conn_type == CONNECTION_TYPE:
            way_out += f", or fill in {label_of('password')} to use the Developer API"
        self.bad("project", f"{why}; {way_out}.")

    def storage_uri(self) -> str:
        uri = self.text("storage_uri")
        if uri and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^*?#\x00-\x1f]*)?", uri):
            self.bad("storage_uri", f"{_shown(uri)} is not a place in Cloud Storage; it looks like gs://bucket/prefix.")
        return uri.rstrip("/")


def _is_project(text: str) -> bool:
    # An id, a number, or one of the old ids with a domain: example.com:project.
    return re.fullmatch(r"[a-z0-9][a-z0-9.:-]*[a-z0-9]", text) is not None


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", str: "text", int: "a number", float: "a number"}
    return kinds.get(type(value), "null" if value is None else type(value).__name__)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
