# SPDX-License-Identifier: Apache-2.0
"""Who calls, and for which project? The fields that say how a token is got."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any

from airflow_provider_gemini_batch.connection.form import CONNECTION_TYPE, label_of
from airflow_provider_gemini_batch.connection.members import Members, shown
from airflow_provider_gemini_batch.connection.settings import GEMINI, VERTEX_AI, Secret
from airflow_provider_gemini_batch.connection.urls import read_url

_KEY_MEMBERS = ("client_email", "private_key", "token_uri")


def read_api_key(members: Members, password: str) -> str:
    """Read the API key; empty if there is none."""
    api_key = password.strip()
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        members.bad("password", "holds blanks or characters that no API key has; copy it again.")
        # Not empty: that would make the backend Vertex AI, and the complaint one about a missing project.
        return "?"
    return api_key


@dataclass(frozen=True)
class Access:
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
    def read(cls, members: Members, allow_http: bool, *, anonymous: bool) -> Access:
        """Read all that says who calls; what is wrong lands in *members*."""
        key = _key_file(members, allow_http)
        key_path = members.text("key_path")
        federation, federation_path = _federation(members)
        # Two credentials in one connection are an accident, and which of them wins would be another one.
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
    # Checked first: a federation file lacks all members of a key, and to list these would mislead.
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
    # A signed assertion is sent there, so it has to be https like every other server.
    url = read_url(members, "keyfile_dict", key["token_uri"], allow_http=allow_http)
    if "://" not in key["token_uri"]:
        key["token_uri"] = url
    return key


def _federation(members: Members) -> tuple[Secret | None, str]:
    """Return content and path of the federation file; one of them at most."""
    value = members.raw("credential_config_file")
    # One field for a path and for the content itself, as Google's provider has it.
    if isinstance(value, str) and not value.startswith("{"):
        return None, value
    content = members.json_object("credential_config_file")
    return (None if content is None else Secret(json.dumps(content, sort_keys=True))), ""


def read_project(members: Members, access: Access) -> str:
    """Read the project: the connection's own, the key file's, or the environment's; empty if none says it."""
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


def require_project(members: Members, project: str, key_path: str, api_key: str, kind: str) -> None:
    """Note that Vertex AI needs a project, and the way out."""
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
