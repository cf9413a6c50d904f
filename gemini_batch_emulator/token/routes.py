# SPDX-License-Identifier: Apache-2.0
"""The token endpoints and their control routes."""

#   `POST /token`                          `jwt-bearer` (the assertion's RS256 signature, audience
#                                          and times are checked against the account's key) and
#                                          `refresh_token` (any that does not start with `bad`)
#   `POST /v1/token`                       token exchange of workload identity federation; any subject
#                                          token that does not start with `bad`
#   `POST /v1/projects/-/serviceAccounts/  impersonation, with `delegates` and `lifetime`; the
#   {email}:generateAccessToken`           caller needs a valid token
#
# Sources: https://developers.google.com/identity/protocols/oauth2/service-account,
# https://cloud.google.com/iam/docs/reference/credentials/rest, https://cloud.google.com/iam/docs/reference/sts/rest.

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gemini_batch_emulator.clock import timestamp
from gemini_batch_emulator.errors import GoogleError, error_info
from gemini_batch_emulator.replies import base_url, read_json, reply
from gemini_batch_emulator.token.desk import create_service_account, require_caller, token_desk

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState

GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"
"""google-auth names this audience in every assertion, wherever the token endpoint is."""

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


class Tokens:
    """Handlers."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """The routes."""
        impersonate = "/v1/projects/-/serviceAccounts/{email}:generateAccessToken"
        return [
            Route("/token", self.token, methods=["POST"], name="token.grant"),
            Route("/v1/token", self.exchange, methods=["POST"], name="token.exchange"),
            Route(impersonate, self.impersonate, methods=["POST"], name="token.impersonate"),
            Route("/_emulator/service_accounts", self.accounts, methods=["POST"]),
            Route("/_emulator/tokens", self.tokens, methods=["GET"]),
            Route("/_emulator/tokens/expire", self.expire, methods=["POST"]),
        ]

    async def token(self, request: Request) -> Response:
        """The OAuth token endpoint."""
        desk = token_desk(self._state)
        form = await _form(request)
        grant = form.get("grant_type", "")
        if grant == _JWT_BEARER:
            return self._for_assertion(request, form)
        if grant == "refresh_token":
            if not form.get("refresh_token") or form["refresh_token"].startswith("bad"):
                desk.refused += 1
                return _refusal("invalid_grant", "Token has been expired or revoked.")
            scopes = tuple(form.get("scope", "").split())
            return _granted(*desk.issue("user@example.com", "refresh_token", scopes=scopes))
        return _refusal("unsupported_grant_type", f"Invalid grant_type: {grant}")

    def _for_assertion(self, request: Request, form: dict[str, str]) -> Response:
        desk = token_desk(self._state)
        # google-auth signs for Google's own address unless the key file names another one.
        own = str(request.url.replace(query=""))
        audiences = [GOOGLE_TOKEN_URI, own, f"{self._state.base_url.rstrip('/')}/token"]
        try:
            claims = desk.verify(form.get("assertion", ""), audiences)
        except ValueError as error:
            desk.refused += 1
            return _refusal("invalid_grant", str(error))
        scopes = tuple(str(claims.get("scope", "")).split())
        # Google's endpoint refuses a token for nothing, too.
        if not scopes and not claims.get("target_audience"):
            desk.refused += 1
            return _refusal("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return _granted(*desk.issue(str(claims.get("sub") or claims["iss"]), "jwt-bearer", scopes=scopes))

    async def exchange(self, request: Request) -> Response:
        """The Security Token Service."""
        desk = token_desk(self._state)
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
        return _granted(text, seconds, issued_token_type="urn:ietf:params:oauth:token-type:access_token")

    async def impersonate(self, request: Request) -> Response:
        """``generateAccessToken`` of IAM Credentials."""
        state = self._state
        who = require_caller(state, request)
        target = request.path_params["email"]
        body = await read_json(request)
        if target in state.config.impersonation_denied:
            raise GoogleError(
                403,
                "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
                details=[
                    error_info(
                        "IAM_PERMISSION_DENIED", "iam.googleapis.com", permission="iam.serviceAccounts.getAccessToken"
                    )
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
        grant = f"impersonated by {who}"
        text, seconds = token_desk(state).issue(target, grant, scopes=scopes, delegates=delegates, lifetime=lifetime)
        return reply(state, request, {"accessToken": text, "expireTime": timestamp(time.time() + max(1, seconds), 0)})

    # Control --------------------------------------------------------------------------------------------------------

    async def accounts(self, request: Request) -> Response:
        """Make a service account; answers with its key file."""
        body = await read_json(request)
        key = create_service_account(
            self._state,
            email=str(body.get("email") or ""),
            project=str(body.get("project") or "emulated-project"),
            token_uri=f"{base_url(request)}/token",
        )
        return JSONResponse(key)

    async def tokens(self, request: Request) -> Response:
        """The tokens given out, without the tokens themselves."""
        desk = token_desk(self._state)
        now = self._state.now()
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

    async def expire(self, request: Request) -> Response:
        """Let every token given out so far be expired."""
        token_desk(self._state).expire_all()
        return JSONResponse({})


def _granted(text: str, seconds: float, **more: str) -> Response:
    # A client takes the number as whole seconds; less than one would read as "expired on arrival" for ever.
    body = {"access_token": text, "expires_in": max(1, int(seconds)), "token_type": "Bearer", **more}
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


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
    """The routes."""
    return Tokens(state).routes()
