# SPDX-License-Identifier: Apache-2.0
"""Service accounts, the tokens given out, and whose call a token makes it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.errors import GoogleError, error_info

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState


@dataclass(frozen=True)
class ServiceAccount:
    """An account with one key; the private half is only in the key file that was handed out."""

    email: str
    project: str
    key_id: str
    public_key: str


@dataclass(frozen=True)
class SigningKey:
    """An account's key: both halves as PEM."""

    private: str
    public: str


@dataclass
class Token:
    """A token that was given out."""

    principal: str
    grant: str
    expires: float
    scopes: tuple[str, ...] = ()
    delegates: tuple[str, ...] = ()


class TokenDesk:
    """Service accounts, and the tokens given out."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state
        self.accounts: dict[str, ServiceAccount] = {}
        self.tokens: dict[str, Token] = {}
        self.refused = 0

    @property
    def issued(self) -> int:
        """How many tokens were given out."""
        return len(self.tokens)

    def issue(
        self,
        principal: str,
        grant: str,
        *,
        scopes: tuple[str, ...] = (),
        delegates: tuple[str, ...] = (),
        lifetime: float | None = None,
    ) -> tuple[str, float]:
        """Give out a token; return it and the real seconds that it lasts."""
        seconds = self._state.config.token_lifetime_seconds if lifetime is None else lifetime
        # The prefix that Google's access tokens have.
        text = "ya29." + secrets.token_urlsafe(48)
        self.tokens[text] = Token(principal, grant, self._state.now() + seconds, scopes, delegates)
        # The caller's clock is the real one: with a fast clock here a token has to be renewed all the sooner.
        return text, seconds / (self._state.clock.speed or 1.0)

    def holder(self, token: str) -> str | None:
        """
        Return whom a bearer token stands for, None if it is unknown or expired; counts the refusals.

        A token that an account signed itself passes as it does at Google.
        """
        found = self.tokens.get(token)
        who: str | None
        if found is not None:
            who = found.principal if found.expires > self._state.now() else None
        else:
            accepted = self._state.config.accepted_tokens
            known = token in accepted if accepted is not None else not token.startswith(("bad", "expired"))
            who = "user@example.com" if known else None
            # A self-signed JWT in place of an access token: https://google.aip.dev/auth/4111
            if token.count(".") == 2 and token.startswith("eyJ"):
                try:
                    who = str(self.verify(token, None)["iss"])
                except ValueError:
                    who = None
        if who is None:
            self.refused += 1
        return who

    def caller(self, token: str | None) -> str | None:
        """Return whom a request with this token (None: without one) is from, None if it may not pass."""
        if token is None:
            return "Anonymous caller" if self._state.config.accepted_tokens is None else None
        return self.holder(token)

    def expire_all(self) -> None:
        """Let every token given out so far be expired."""
        for token in self.tokens.values():
            token.expires = float("-inf")

    def verify(self, assertion: str, audiences: list[str] | None) -> dict[str, Any]:
        """
        Check a signed assertion.

        :param audiences: Accepted audiences; None does not look at them.
        :return: Its claims.
        :raises ValueError: With what is wrong.
        """
        from google.auth import exceptions, jwt

        try:
            header = jwt.decode_header(assertion)  # type: ignore[no-untyped-call]
            # Read unverified first, to learn whose key it has to be checked with.
            claims = jwt.decode(assertion, verify=False)  # type: ignore[no-untyped-call]
            account = self.accounts.get(str(claims.get("iss")))
            if account is None:
                raise ValueError("Invalid grant: account not found")
            if header.get("kid") not in (None, account.key_id):
                raise ValueError("Invalid JWT Signature.")
            # A caller must not choose a weaker algorithm, or none.
            if header.get("alg") != "RS256":
                raise ValueError("Invalid JWT: the algorithm must be RS256.")
            verified: dict[str, Any] = dict(
                jwt.decode(assertion, certs=account.public_key, audience=audiences, clock_skew_in_seconds=10)  # type: ignore[no-untyped-call]
            )
        except (exceptions.GoogleAuthError, ValueError, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error
        return verified


def token_desk(state: EmulatorState) -> TokenDesk:
    """Return the desk of *state*; a new, empty one after a reset."""
    return state.room("token", lambda: TokenDesk(state))


def make_signing_key() -> SigningKey:
    """Make a key as Google's key files hold it, which takes a tenth of a second."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return SigningKey(pem.decode(), public.decode())


def create_service_account(
    state: EmulatorState,
    *,
    email: str = "",
    project: str = "emulated-project",
    token_uri: str = "",
    key: SigningKey | None = None,
) -> dict[str, Any]:
    """
    Make a service account with a key.

    :param token_uri: The token endpoint; this emulator's unless given.
    :param key: A key made before; the account's id of it is a new one all the same. None makes a key.
    :return: The key file's content; its only copy.
    """
    email = email or f"batch@{project}.iam.gserviceaccount.com"
    key = key or make_signing_key()
    key_id = secrets.token_hex(20)
    token_desk(state).accounts[email] = ServiceAccount(email, project, key_id, key.public)
    return {
        "type": "service_account",
        "project_id": project,
        "private_key_id": key_id,
        "private_key": key.private,
        "client_email": email,
        "client_id": "100000000000000000000",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": token_uri or f"{state.base_url.rstrip('/')}/token",
        "universe_domain": "googleapis.com",
    }


def bearer(request: Request) -> str | None:
    """Return the bearer token of a request, None without one."""
    # The header, or the query as older clients of Cloud Storage send it.
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.query_params.get("access_token")


def require_caller(state: EmulatorState, request: Request) -> str:
    """
    Return who calls.

    :raises GoogleError: 401 with a token that is unknown or expired, or without one where ``accepted_tokens`` is set.
    """
    token = bearer(request)
    who = token_desk(state).caller(token)
    if who is not None:
        return who
    reason = "CREDENTIALS_MISSING" if token is None else "ACCESS_TOKEN_EXPIRED"
    message = (
        "Request is missing required authentication credential."
        if token is None
        else "Request had invalid authentication credentials."
    )
    raise GoogleError(
        401,
        f"{message} Expected OAuth 2 access token, login cookie or other valid authentication credential. "
        "See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        details=[error_info(reason)],
        headers={"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'},
    )
