# SPDX-License-Identifier: Apache-2.0
"""Who may call the Developer API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemini_batch_emulator.errors import GoogleError, error_info
from gemini_batch_emulator.token.desk import bearer, token_desk

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState

VERSIONS = ("v1beta", "v1")


def require_key(state: EmulatorState, request: Request) -> str:
    """
    Check API key or bearer token.

    :return: The key, empty for a caller without one.
    :raises GoogleError: 400 ``API_KEY_INVALID`` for a bad key, 401 for a bad token, 403 without either where
        ``accepted_keys`` or ``accepted_tokens`` is set.
    """
    key = request.headers.get("x-goog-api-key") or request.query_params.get("key")
    # A key wins over a token, as with the service's front end. By default any key passes that does not begin with
    # "bad", so that tests need no setting up.
    if key:
        accepted = state.config.accepted_keys
        if key in accepted if accepted is not None else not key.startswith("bad"):
            return key
        raise GoogleError(
            400,
            "API key not valid. Please pass a valid API key.",
            details=[
                error_info("API_KEY_INVALID", service="generativelanguage.googleapis.com"),
                {
                    "@type": "type.googleapis.com/google.rpc.LocalizedMessage",
                    "locale": "en-US",
                    "message": "API key not valid. Please pass a valid API key.",
                },
            ],
        )
    # OAuth instead of a key: https://ai.google.dev/gemini-api/docs/oauth.
    token = bearer(request)
    who = token_desk(state).caller(token)
    if token is None and (who is None or state.config.accepted_keys is not None):
        raise GoogleError(
            403,
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
            "other form of API consumer identity to call this API.",
        )
    if who is None:
        raise GoogleError(401, "Request had invalid authentication credentials.")
    return ""
