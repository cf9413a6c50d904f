# SPDX-License-Identifier: Apache-2.0
"""
What proves to Google who calls: an API key, or an access token that google-auth gets and renews.

Tokens are kept for the process, one for all connections with the same settings, and are renewed before they run out.
:meth:`Credentials.fresh_headers` never blocks, so that the async driver needs a thread only for the call in many that
renews.
"""

from __future__ import annotations

import calendar
import json
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from airflow_provider_gemini_batch.connection.form import label_of
from airflow_provider_gemini_batch.errors import AuthError, ConfigurationError, GeminiBatchError, TransportError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials as GoogleCredentials

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings, Secret

RENEW_BEFORE_SECONDS = 225.0
"""How long before its end a token is renewed; google-auth's own threshold. Short tokens: their last quarter."""

_TOKEN_TIMEOUT = 30.0
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

    def fresh_headers(self) -> dict[str, str] | None:
        """Return the headers without blocking, or None if a token has to be got first."""
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
        return {name: value.reveal() for name, value in self._headers.items()}

    def fresh_headers(self) -> dict[str, str] | None:
        return self.headers()

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
    Blot out the API key in a reply that repeats it, so that no error text or excerpt made of it shows the key.

    :param sent: Headers of the request.
    """
    key = sent.get("x-goog-api-key", "")
    return body.replace(key.encode(), b"***") if len(key) >= SHORTEST_KEY else body


@dataclass(frozen=True, repr=False)
class _Token:
    headers: Mapping[str, str]
    renew_at: float
    """Seconds since the epoch."""
    expires_at: float

    @classmethod
    def of(cls, credentials: GoogleCredentials, quota_project: str, now: float) -> _Token:
        headers = {"Authorization": f"Bearer {credentials.token}"}
        project = quota_project or getattr(credentials, "quota_project_id", None)
        if project:
            headers["x-goog-user-project"] = str(project)
        if credentials.expiry is None:
            return cls(headers, float("inf"), float("inf"))
        # google-auth's expiry is UTC without saying so.
        expires_at = calendar.timegm(credentials.expiry.utctimetuple()) + credentials.expiry.microsecond / 1e6
        return cls(headers, expires_at - min(RENEW_BEFORE_SECONDS, (expires_at - now) / 4), expires_at)


class GoogleAuthCredentials:
    """
    Access tokens from google-auth.

    :param settings: Of the connection; with no credential in it, application default credentials.
    :param now: Seconds since the epoch.
    """

    def __init__(self, settings: ConnectionSettings, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now
        # Held while a token is fetched, so that one thread does it; the other, never for long: invalidate() is called
        # on event loops.
        self._renewing = threading.Lock()
        self._swapping = threading.Lock()
        self._source: GoogleCredentials | None = None
        self._source_is_stale = False
        # Replaced as a whole and never changed, so that it can be read without a lock.
        self._token: _Token | None = None

    def headers(self) -> dict[str, str]:
        fresh = self.fresh_headers()
        if fresh is not None:
            return fresh
        with self._renewing:
            token = self._token
            now = self._now()
            if token is not None and now < token.renew_at:
                return dict(token.headers)
            try:
                token = self._renewed()
            except TransportError:
                # Renewed early: the old one is good for a while yet, and the next call tries again.
                if token is None or now >= token.expires_at:
                    raise
            else:
                self._token = token
            return dict(token.headers)

    def fresh_headers(self) -> dict[str, str] | None:
        token = self._token
        return dict(token.headers) if token is not None and self._now() < token.renew_at else None

    def invalidate(self, refused: Mapping[str, str] | None = None) -> None:
        with self._swapping:
            token = self._token
            if token is None or (refused is not None and _authorization(refused) != _authorization(token.headers)):
                return
            self._token = None
            # A key file may have been exchanged, and an impersonated account's source keeps a token of its own.
            self._source_is_stale = True

    def _renewed(self) -> _Token:
        import requests
        from google.auth.transport.requests import Request

        settings = self._settings
        with self._swapping:
            if self._source_is_stale:
                self._source, self._source_is_stale = None, False
        with requests.Session() as session:
            # Without this, requests would replace a source token by an entry of ~/.netrc for the same host.
            session.auth = lambda request: request
            transport = Request(session)
            answered = False

            def send(
                url: str,
                method: str = "GET",
                body: Any = None,
                headers: Mapping[str, str] | None = None,
                timeout: float | None = None,
                **more: Any,
            ) -> Any:
                nonlocal answered
                # A signed assertion or a source token must not follow a redirect to somebody else.
                more.setdefault("allow_redirects", False)
                seconds = min(_TOKEN_TIMEOUT, settings.timeout if timeout is None else timeout)
                reply = transport(url, method=method, body=body, headers=headers, timeout=seconds, **more)
                answered = True
                return reply

            fault: GeminiBatchError | None = None
            try:
                if self._source is None:
                    self._source = _google_credentials(settings, send)
                self._source.refresh(send)  # type: ignore[no-untyped-call]
            except GeminiBatchError as error:
                fault = error.with_traceback(None)
            except Exception as error:
                # A half-renewed chain must not be built upon. The cause is not chained: what google-auth puts into
                # its errors is the reply as it came, and tracebacks are logged, some tools' with the key in them.
                self._source = None
                if answered and isinstance(error, ValueError | TypeError | KeyError | AttributeError):
                    # google-auth stumbled over the reply, not over the key: a proxy's page, or a garbled reply.
                    fault = TransportError(
                        f"{_which(settings)} got no access token for now: the token endpoint's reply cannot be read "
                        f"({type(error).__name__}).",
                        sent=False,
                    )
                else:
                    fault = _read_failure(error, settings)
            if fault is not None:
                raise fault
        assert self._source is not None
        if not self._source.token:
            raise AuthError(f"{_which(settings)} gave an empty access token. {_way_out(settings)}", status=401)
        return _Token.of(self._source, settings.quota_project, self._now())


def credentials_for(settings: ConnectionSettings) -> Credentials:
    """
    Return what authorises requests of a connection; the same object for the same settings.

    Nothing is read or sent before the first headers are asked for.
    """
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
    return GoogleAuthCredentials(settings)


def _authorization(headers: Mapping[str, str]) -> str:
    return next((value for name, value in headers.items() if name.lower() == "authorization"), "")


def _google_credentials(settings: ConnectionSettings, send: Any) -> GoogleCredentials:
    """Build google-auth's object for what the connection names."""
    source = _source_credentials(settings, send)
    if not settings.impersonation_chain:
        return source
    from google.auth import impersonated_credentials

    *delegates, target = settings.impersonation_chain
    endpoint = None
    if settings.iam_base_url:
        account = quote(target, safe="@")
        endpoint = f"{settings.iam_base_url}/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
    # https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken
    names = [f"projects/-/serviceAccounts/{account}" for account in delegates]
    return impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
        source_credentials=source,
        target_principal=target,
        target_scopes=list(settings.scopes),
        delegates=names or None,
        iam_endpoint_override=endpoint,
    )


def _source_credentials(settings: ConnectionSettings, send: Any) -> GoogleCredentials:
    import google.auth
    from google.oauth2 import service_account

    scopes = list(settings.scopes)
    if settings.keyfile_dict is not None or settings.key_path:
        if settings.keyfile_dict is not None:
            key = json.loads(settings.keyfile_dict.reveal())
        else:
            key = _json_file(settings.key_path, "key_path")
        return service_account.Credentials.from_service_account_info(key, scopes=scopes)  # type: ignore[no-any-return, no-untyped-call]
    if settings.credential_config is not None or settings.credential_config_file:
        if settings.credential_config is not None:
            config = json.loads(settings.credential_config.reveal())
        else:
            config = _json_file(settings.credential_config_file, "credential_config_file")
        return _federated(config, scopes)
    credentials, _ = google.auth.default(scopes=scopes, request=send)
    return credentials


def _federated(config: Mapping[str, Any], scopes: list[str]) -> GoogleCredentials:
    """
    Build credentials from a workload identity federation file.

    google-auth's general loader is not used: it looks the project up over the network, and warns that it takes files
    of any kind. The kinds: https://google.aip.dev/auth/4117.
    """
    if config.get("type") != "external_account":
        raise ConfigurationError(
            f"{label_of('credential_config_file')}: is of type {str(config.get('type'))!r}, not external_account; a "
            f"service account's key belongs into {label_of('keyfile_dict')} or {label_of('key_path')}."
        )
    source = config.get("credential_source")
    if config.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        from google.auth import aws

        return aws.Credentials.from_info(config, scopes=scopes)  # type: ignore[no-any-return, no-untyped-call]
    if isinstance(source, Mapping) and source.get("executable") is not None:
        from google.auth import pluggable

        return pluggable.Credentials.from_info(config, scopes=scopes)  # type: ignore[no-any-return, no-untyped-call]
    from google.auth import identity_pool

    return identity_pool.Credentials.from_info(config, scopes=scopes)  # type: ignore[no-any-return, no-untyped-call]


def _json_file(path: str, name: str) -> dict[str, Any]:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise ConfigurationError(
            f"{label_of(name)}: {path} cannot be read here: {reason}. The file must lie on every worker and triggerer."
        ) from error
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{label_of(name)}: {path} is not a JSON object; put the downloaded file there.")
    return found


def _which(settings: ConnectionSettings) -> str:
    """Name the credential in use, for messages."""
    if settings.keyfile_dict is not None:
        email = json.loads(settings.keyfile_dict.reveal()).get("client_email", "unknown")
        name = f"The service account key of {email} ({label_of('keyfile_dict')})"
    elif settings.key_path:
        name = f"The service account key in {settings.key_path} ({label_of('key_path')})"
    elif settings.credential_config is not None or settings.credential_config_file:
        name = f"The workload identity federation of {label_of('credential_config_file')}"
    else:
        name = "The application default credentials of this machine"
    if settings.impersonation_chain:
        name += f", acting as {settings.impersonation_chain[-1]} ({label_of('impersonation_chain')}),"
    return name


def _way_out(settings: ConnectionSettings) -> str:
    if settings.impersonation_chain:
        return (
            "Each account of the chain needs the role Service Account Token Creator on the next one, and the project "
            "needs the IAM Service Account Credentials API (iamcredentials.googleapis.com)."
        )
    if settings.keyfile_dict is not None or settings.key_path:
        return (
            "Check that the account exists, that the key was not deleted, that its token_uri is right and that this "
            "machine's clock is; or make a new key."
        )
    if settings.credential_config is not None or settings.credential_config_file:
        return "Check the pool, its provider, and that the subject token which the file points to is current."
    return (
        f"Run `gcloud auth application-default login`, run on a machine with a service account, or fill in "
        f"{label_of('keyfile_dict')} or {label_of('key_path')} of connection {settings.conn_id!r}."
    )


def _read_failure(error: Exception, settings: ConnectionSettings) -> GeminiBatchError:
    """Say what an error of google-auth means."""
    from google.auth import exceptions

    which, way_out = _which(settings), _way_out(settings)
    detail = _without_secrets(_text_of(error))
    if isinstance(error, exceptions.TransportError) or getattr(error, "retryable", False) or _is_server_trouble(error):
        # Nothing went to the API itself, so the call it was for certainly did not happen.
        return TransportError(f"{which} could not get an access token for now: {detail}", sent=False)
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if isinstance(error, exceptions.DefaultCredentialsError) and not settings.has_credential_fields:
        if named:
            return AuthError(
                f"The application default credentials in {named} (GOOGLE_APPLICATION_CREDENTIALS) cannot be used: "
                f"{detail} Correct the variable where the task runs, or unset it.",
                status=401,
            )
        return AuthError(f"There are no application default credentials on this machine. {way_out}", status=401)
    if isinstance(error, exceptions.RefreshError | exceptions.OAuthError | exceptions.DefaultCredentialsError):
        return AuthError(f"{which} got no access token: {detail} {way_out}", status=401, reason="UNAUTHENTICATED")
    if isinstance(error, ValueError | TypeError | KeyError | OSError | exceptions.GoogleAuthError):
        # Not the text: a parser's message may quote what it could not parse.
        return ConfigurationError(f"{which} cannot be used ({type(error).__name__}). {way_out}")
    return AuthError(f"{which} got no access token: {type(error).__name__}. {way_out}", status=401)


def _is_server_trouble(error: Exception) -> bool:
    """Return whether the reply that google-auth put into its error is of the endpoint's own trouble: 429 or 5xx."""
    for argument in error.args[1:]:
        try:
            reply = json.loads(argument) if isinstance(argument, str) else argument
            code = int(reply["error"]["code"])
        except (ValueError, TypeError, KeyError):
            continue
        return code == 429 or code >= 500
    return False


def _text_of(error: Exception) -> str:
    # Where nobody could be reached, google-auth hands on what its HTTP library says.
    words = [str(argument) for argument in error.args if isinstance(argument, str | OSError)]
    return " ".join(words[:2] or [type(error).__name__])


def _without_secrets(text: str) -> str:
    """Cut what looks like a token, an assertion or a key out of a text, and the text to a readable length."""
    text = re.sub(r"-----BEGIN.*?(-----END[^-]*-----|$)", "***", text, flags=re.DOTALL)
    text = re.sub(r"\b(ya29\.|eyJ)[\w.~+/=-]+", "***", text)
    text = re.sub(r"(?i)((?:assertion|token|secret|password|key)[\"']?\s*[=:]\s*[\"']?)[\w.~+/=-]{12,}", r"\1***", text)
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:400] + "..."
