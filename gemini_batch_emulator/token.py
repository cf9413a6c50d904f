# SPDX-License-Identifier: Apache-2.0
"""
Access tokens: OAuth token endpoint, IAM Credentials and Security Token Service, as far as google-auth asks them.

==========================================================  ===========================================================
``POST /token``                                             ``jwt-bearer`` (the assertion's RS256 signature, audience
                                                            and times are checked against the account's key) and
                                                            ``refresh_token`` (any that does not start with ``bad``)
``POST /v1/token``                                          token exchange of workload identity federation; any subject
                                                            token that does not start with ``bad``
``POST /v1/projects/-/serviceAccounts/                      impersonation, with ``delegates`` and ``lifetime``; the
{email}:generateAccessToken``                               caller needs a valid token
``POST /_emulator/service_accounts``                        ``{"email", "project"}``, both optional -> a key file whose
                                                            ``token_uri`` is this emulator
``GET /_emulator/tokens``                                   ``{"issued", "refused", "live", "tokens": [{"principal",
                                                            "grant", "delegates", "scopes", "is_live"}]}``; no token is
                                                            shown
``POST /_emulator/tokens/expire``                           every token given out so far is expired from now on
==========================================================  ===========================================================

Knobs of :class:`~.core.Config` used here: ``token_lifetime_seconds`` (emulated; what clients are told is the real
time it will take), ``accepted_tokens`` (which tokens pass that were not given out here; ``[]`` is none; unless it is
set, calls without a token pass too, as client libraries of Cloud Storage send none to an emulator), and in ``extra``:
``impersonation_denied``, a list of accounts that nobody may impersonate (403).

Sources: https://developers.google.com/identity/protocols/oauth2/service-account,
https://cloud.google.com/iam/docs/reference/credentials/rest, https://cloud.google.com/iam/docs/reference/sts/rest.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gemini_batch_emulator.core import GoogleError, read_json, reply, timestamp

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.core import EmulatorState

GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"
"""google-auth names this audience in every assertion, wherever the token endpoint is."""

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass(frozen=True)
class ServiceAccount:
    """An account with one key; the private half is only in the key file that was handed out."""

    email: str
    project: str
    key_id: str
    public_key: str


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
        text = "ya29." + secrets.token_urlsafe(48)
        self.tokens[text] = Token(principal, grant, self._state.now() + seconds, scopes, delegates)
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
            claims = jwt.decode(assertion, verify=False)  # type: ignore[no-untyped-call]
            account = self.accounts.get(str(claims.get("iss")))
            if account is None:
                raise ValueError("Invalid grant: account not found")
            if header.get("kid") not in (None, account.key_id):
                raise ValueError("Invalid JWT Signature.")
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


def create_service_account(
    state: EmulatorState,
    *,
    email: str = "",
    project: str = "emulated-project",
    token_uri: str = "",
) -> dict[str, Any]:
    """
    Make a service account with a key.

    :param token_uri: The token endpoint; this emulator's unless given.
    :return: The key file's content; its only copy.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    email = email or f"batch@{project}.iam.gserviceaccount.com"
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    key_id = secrets.token_hex(20)
    token_desk(state).accounts[email] = ServiceAccount(email, project, key_id, public.decode())
    return {
        "type": "service_account",
        "project_id": project,
        "private_key_id": key_id,
        "private_key": pem,
        "client_email": email,
        "client_id": "100000000000000000000",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": token_uri or f"{state.base_url.rstrip('/')}/token",
        "universe_domain": "googleapis.com",
    }


def bearer(request: Request) -> str | None:
    """Return the bearer token of a request, None without one."""
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
        details=[
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"},
        ],
        headers={"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'},
    )


async def _form(request: Request) -> dict[str, str]:
    raw = await request.body()
    if "json" in request.headers.get("content-type", ""):
        try:
            return {str(name): str(value) for name, value in json.loads(raw).items()}
        except (ValueError, AttributeError):
            return {}
    return dict(parse_qsl(raw.decode("utf-8", "replace")))


def _refusal(error: str, description: str, status: int = 400) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status_code=status)


def routes(state: EmulatorState) -> list[Route]:
    """The token endpoints and their control routes."""

    def granted(text: str, seconds: float, **more: str) -> Response:
        # A client takes the number as whole seconds; less than one would read as "expired on arrival" for ever.
        body = {"access_token": text, "expires_in": max(1, int(seconds)), "token_type": "Bearer", **more}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    async def token(request: Request) -> Response:
        desk = token_desk(state)
        form = await _form(request)
        grant = form.get("grant_type", "")
        scopes = tuple(form.get("scope", "").split())
        if grant == _JWT_BEARER:
            own = str(request.url.replace(query=""))
            try:
                claims = desk.verify(
                    form.get("assertion", ""), [GOOGLE_TOKEN_URI, own, f"{state.base_url.rstrip('/')}/token"]
                )
            except ValueError as error:
                desk.refused += 1
                return _refusal("invalid_grant", str(error))
            scopes = tuple(str(claims.get("scope", "")).split())
            if not scopes and not claims.get("target_audience"):
                desk.refused += 1
                return _refusal("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
            return granted(*desk.issue(str(claims.get("sub") or claims["iss"]), "jwt-bearer", scopes=scopes))
        if grant == "refresh_token":
            if not form.get("refresh_token") or form["refresh_token"].startswith("bad"):
                desk.refused += 1
                return _refusal("invalid_grant", "Token has been expired or revoked.")
            return granted(*desk.issue("user@example.com", "refresh_token", scopes=scopes))
        return _refusal("unsupported_grant_type", f"Invalid grant_type: {grant}")

    async def exchange(request: Request) -> Response:
        desk = token_desk(state)
        form = await _form(request)
        grant = form.get("grant_type") or form.get("grantType")
        subject = form.get("subject_token") or form.get("subjectToken") or ""
        if grant != _EXCHANGE:
            return _refusal("unsupported_grant_type", f"Invalid grant_type: {grant}")
        if not form.get("audience") or not subject or subject.startswith("bad"):
            desk.refused += 1
            return _refusal("invalid_grant", "The audience or the subject token is missing or invalid.")
        scopes = tuple(form.get("scope", "").split())
        text, seconds = desk.issue("principal:" + form["audience"], "token-exchange", scopes=scopes)
        return granted(text, seconds, issued_token_type="urn:ietf:params:oauth:token-type:access_token")

    async def impersonate(request: Request) -> Response:
        who = require_caller(state, request)
        target = request.path_params["email"]
        body = await read_json(request)
        if target in state.config.extra.get("impersonation_denied", ()):
            raise GoogleError(
                403,
                "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
                details=[
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "IAM_PERMISSION_DENIED",
                        "domain": "iam.googleapis.com",
                        "metadata": {"permission": "iam.serviceAccounts.getAccessToken"},
                    }
                ],
            )
        scopes = tuple(body.get("scope") or ())
        if not scopes:
            raise GoogleError(400, "Request contains an invalid argument: scope is required.")
        delegates = tuple(str(name).rpartition("/")[2] for name in body.get("delegates") or ())
        try:
            lifetime = float(str(body.get("lifetime") or "3600s").removesuffix("s"))
        except ValueError:
            raise GoogleError(400, f"Invalid value at 'lifetime': {body['lifetime']}") from None
        lifetime = min(lifetime, state.config.token_lifetime_seconds)
        text, seconds = token_desk(state).issue(
            target, f"impersonated by {who}", scopes=scopes, delegates=delegates, lifetime=lifetime
        )
        return reply(state, request, {"accessToken": text, "expireTime": timestamp(time.time() + max(1, seconds), 0)})

    async def accounts(request: Request) -> Response:
        body = await read_json(request)
        key = create_service_account(
            state,
            email=str(body.get("email") or ""),
            project=str(body.get("project") or "emulated-project"),
            token_uri=f"{str(request.base_url).rstrip('/')}/token",
        )
        return JSONResponse(key)

    async def tokens(request: Request) -> Response:
        desk = token_desk(state)
        now = state.now()
        listing = [
            {
                "principal": token.principal,
                "grant": token.grant,
                "scopes": token.scopes,
                "delegates": token.delegates,
                "is_live": token.expires > now,
            }
            for token in desk.tokens.values()
        ]
        live = sum(1 for entry in listing if entry["is_live"])
        return JSONResponse({"issued": desk.issued, "refused": desk.refused, "live": live, "tokens": listing})

    async def expire(request: Request) -> Response:
        token_desk(state).expire_all()
        return JSONResponse({})

    return [
        Route("/token", token, methods=["POST"]),
        Route("/v1/token", exchange, methods=["POST"]),
        Route("/v1/projects/-/serviceAccounts/{email}:generateAccessToken", impersonate, methods=["POST"]),
        Route("/_emulator/service_accounts", accounts, methods=["POST"]),
        Route("/_emulator/tokens", tokens, methods=["GET"]),
        Route("/_emulator/tokens/expire", expire, methods=["POST"]),
    ]
