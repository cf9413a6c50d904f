# SPDX-License-Identifier: Apache-2.0
"""
How to reach a backend, and as whom: the values that a connection is read into (:mod:`.reading`).

Nothing here imports Airflow or talks to anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_gemini_batch.connection.urls import BIGQUERY_BASE_URL, STORAGE_BASE_URL

if TYPE_CHECKING:
    from collections.abc import Iterable

GEMINI = "gemini"
VERTEX_AI = "vertex_ai"
BACKENDS = (GEMINI, VERTEX_AI)

CLOUD_PLATFORM_SCOPE = "https://www.googleapis.com/auth/cloud-platform"

DEFAULT_LOCATION = "global"
DEFAULT_TIMEOUT = 60.0
DEFAULT_MAX_RETRIES = 5


class Secret:
    """
    A string that shows itself to nobody who does not ask.

    It neither prints nor pickles; copies are the same object. A tool that reports an error with everything its frames
    reach finds no plain text either: the string is kept mixed with as many random bytes.
    """

    __slots__ = ("_mixed", "_random")

    def __init__(self, text: str) -> None:
        plain = text.encode("utf-8", "surrogatepass")
        # Not encryption, as both halves lie side by side. It keeps the plain text out of dumps of frames, out of core
        # files' strings, and out of an accidental vars().
        self._random = os.urandom(len(plain))
        self._mixed = _mix(plain, self._random)

    def reveal(self) -> str:
        """Return the string."""
        return _mix(self._mixed, self._random).decode("utf-8", "surrogatepass")

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __format__(self, _format_spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.reveal() == other.reveal()

    def __hash__(self) -> int:
        return hash((Secret, self.reveal()))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials are not pickled: pass the connection's id on and read the connection there.")


def _mix(text: bytes, other: bytes) -> bytes:
    return bytes(one ^ two for one, two in zip(text, other, strict=True))


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
    :param notes: What is odd about the connection and does not hinder: members of its extra that nobody knows.
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
    notes: tuple[str, ...] = field(default=(), compare=False)

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
        A digest of everything but the connection's id and notes: the same for connections that lead to the same place
        as the same caller, another one as soon as a credential or a setting changes.
        """
        return self._digest(member.name for member in fields(self) if member.name not in ("conn_id", "notes"))

    def seen_by(self, job_name: str) -> str:
        """
        Return 16 hex digits of who sees a job: a project of Vertex AI, or a key and all that stands for one.

        With another key a job may be out of sight, and run on. The job's name goes into it, so that a key leaves no two
        jobs the same digits.
        """
        names: tuple[str, ...] = ("backend", "project", "location")
        if self.backend != VERTEX_AI:
            names = ("backend", "base_url", "api_key", "keyfile_dict", "key_path", "credential_config",
                     "credential_config_file", "impersonation_chain")  # fmt: skip
        return hashlib.sha256(f"{job_name}\n{self._digest(names)}".encode()).hexdigest()[:16]

    def _digest(self, names: Iterable[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            value = getattr(self, name)
            # Hashed, so a secret in the identity cannot be read back; and a changed key is another identity, whose
            # token is fetched anew.
            text = value.reveal() if isinstance(value, Secret) else value
            digest.update(json.dumps([name, text]).encode())
        return digest.hexdigest()[:32]
