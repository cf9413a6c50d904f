# SPDX-License-Identifier: Apache-2.0
"""Access tokens from google-auth: fetched once for all threads, renewed in time, never in an error's frames."""

from __future__ import annotations

import calendar
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.connection.settings import Secret
from airflow_provider_gemini_batch.errors import AuthError, ConfigurationError, GeminiBatchError, TransportError
from airflow_provider_gemini_batch.transport.google_sources import (
    credential_name,
    google_credentials,
    read_failure,
    way_out,
)

if TYPE_CHECKING:
    from google.auth.credentials import Credentials as GoogleCredentials

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

RENEW_BEFORE_SECONDS = 225.0
"""How long before its end a token is renewed; google-auth's own threshold. Short tokens: their last quarter."""

# A token endpoint answers in under a second. More patience would only make every call behind the same lock wait.
_TOKEN_TIMEOUT = 30.0


@dataclass(frozen=True, repr=False)
class _Token:
    headers: Mapping[str, Secret]
    renew_at: float
    """Seconds since the epoch."""
    expires_at: float

    @classmethod
    def of(cls, credentials: GoogleCredentials, quota_project: str, now: float) -> _Token:
        headers = {"Authorization": Secret(f"Bearer {credentials.token}")}
        project = quota_project or getattr(credentials, "quota_project_id", None)
        if project:
            headers["x-goog-user-project"] = Secret(str(project))
        if credentials.expiry is None:
            return cls(headers, float("inf"), float("inf"))
        # google-auth's expiry is UTC without saying so.
        expires_at = calendar.timegm(credentials.expiry.utctimetuple()) + credentials.expiry.microsecond / 1e6
        # Short tokens exist: an impersonated account's may live for minutes, and 225 s would be all of it.
        return cls(headers, expires_at - min(RENEW_BEFORE_SECONDS, (expires_at - now) / 4), expires_at)

    def revealed(self) -> dict[str, str]:
        """Return the headers in the open."""
        return {name: value.reveal() for name, value in self.headers.items()}


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
        self._source_is_stale = False
        # Replaced as a whole and never changed, so that it can be read without a lock.
        self._token: _Token | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers; may block to fetch a token. See :meth:`Credentials.headers` for what it raises."""
        # Looked at without the lock first: nearly every call finds a good token, and none of them waits for another.
        token = self._token
        if token is not None and self._now() < token.renew_at:
            return token.revealed()
        with self._renewing:
            token = self._token
            now = self._now()
            if token is not None and now < token.renew_at:
                return token.revealed()
            try:
                token = self._renewed()
            except TransportError:
                # Renewed early: the old one is good for a while yet, and the next call tries again.
                if token is None or now >= token.expires_at:
                    raise
            else:
                self._token = token
            return token.revealed()

    def invalidate(self, refused: Mapping[str, str] | None = None) -> None:
        """Forget the token, unless it was renewed since *refused* was sent; never waits for a renewal."""
        with self._swapping:
            token = self._token
            # Ten calls that were refused with the same old token come here one after the other; only the first may
            # throw it away.
            if token is None or (refused is not None and _authorization(refused) != _authorization(token.revealed())):
                return
            self._token = None
            # A key file may have been exchanged, and an impersonated account's source keeps a token of its own.
            self._source_is_stale = True

    def _renewed(self) -> _Token:
        with self._swapping:
            if self._source_is_stale:
                _sources.pop(self, None)
                self._source_is_stale = False
        token = self._fetched()
        if isinstance(token, GeminiBatchError):
            # Raised here, where no frame holds a key or a token.
            raise token
        return token

    def _fetched(self) -> _Token | GeminiBatchError:
        settings = self._settings
        endpoint = _TokenEndpoint(settings.timeout)
        try:
            source = _sources.get(self)
            if source is None:
                source = google_credentials(settings, endpoint.send)
            source.refresh(endpoint.send)  # type: ignore[no-untyped-call]
        except GeminiBatchError as error:
            return error.with_traceback(None)
        except Exception as error:
            # A half-renewed chain must not be built upon. The cause is not chained: what google-auth puts into its
            # errors is the reply as it came, and tracebacks are logged, some tools' with the key in them.
            _sources.pop(self, None)
            if endpoint.has_answered and isinstance(error, ValueError | TypeError | KeyError | AttributeError):
                # google-auth stumbled over the reply, not over the key: a proxy's page, or a garbled reply.
                text = (
                    f"{credential_name(settings)} got no access token for now: the token endpoint's reply cannot be "
                    f"read ({type(error).__name__})."
                )
                return TransportError(text, sent=False)
            return read_failure(error, settings)
        finally:
            endpoint.close()
        _sources[self] = source
        if not source.token:
            return AuthError(f"{credential_name(settings)} gave an empty access token. {way_out(settings)}", status=401)
        return _Token.of(source, settings.quota_project, self._now())


# Not attributes: google-auth's objects hold keys and tokens in plain sight, and a driver, which holds its credentials,
# is in the frames of many an error.
_sources: weakref.WeakKeyDictionary[GoogleAuthCredentials, GoogleCredentials] = weakref.WeakKeyDictionary()


class _TokenEndpoint:
    """What google-auth sends its requests with."""

    def __init__(self, timeout: float) -> None:
        from google.auth.transport.requests import Request

        from airflow_provider_gemini_batch.transport.sessions import NetworkSession

        self._timeout = min(_TOKEN_TIMEOUT, timeout)
        self._session = NetworkSession()
        self._transport = Request(self._session)
        self.has_answered = False

    def send(
        self,
        url: str,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **more: Any,
    ) -> Any:
        """
        Send a request of google-auth's.

        :raises ConfigurationError: If the credentials name an endpoint that is no URL; google-auth would have it tried
            again.
        """
        if not _is_url(url):
            raise ConfigurationError(
                "The place that these credentials name for access tokens (token_uri, or token_url) is no URL: it has "
                "to begin with https://. Correct it, or paste the file anew."
            )
        # A signed assertion or a source token must not follow a redirect to somebody else.
        more.setdefault("allow_redirects", False)
        seconds = self._timeout if timeout is None else min(_TOKEN_TIMEOUT, timeout)
        reply = self._transport(url, method=method, body=body, headers=headers, timeout=seconds, **more)
        self.has_answered = True
        return reply

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # Reading the port is what checks it.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _authorization(headers: Mapping[str, str]) -> str:
    return next((value for name, value in headers.items() if name.lower() == "authorization"), "")
