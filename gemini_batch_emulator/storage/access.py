# SPDX-License-Identifier: Apache-2.0
"""Who may do what in Cloud Storage, and bodies as its JSON API takes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.storage.store import StorageError
from gemini_batch_emulator.token.desk import bearer, token_desk

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState
    from gemini_batch_emulator.storage.store import Bucket


def allow(state: EmulatorState, request: Request, bucket: Bucket | None, permission: str) -> None:
    """
    Check who asks, and whether they may.

    :raises StorageError: 401 without a token that passes, 403 without the permission.
    """
    token = bearer(request)
    who = token_desk(state).caller(token)
    # Cloud Storage tells a caller without a token from one with a bad one, by text and by reason.
    if who is None and token is None:
        message = f"Anonymous caller does not have {permission} access to the Google Cloud Storage bucket."
        raise StorageError(401, message, "required")
    if who is None:
        raise StorageError(401, "Invalid Credentials")
    if bucket is None:
        return
    denied = state.config.storage_denied.get(bucket.name, ())
    if bucket.name in state.config.forbidden_buckets or permission in denied:
        raise StorageError(
            403,
            f"{who} does not have {permission} access to the Google Cloud Storage bucket. "
            f"Permission '{permission}' denied on resource (or it may not exist).",
        )


async def json_body(request: Request) -> dict[str, Any]:
    """
    Read a body as a JSON object; an empty one is an empty object.

    :raises StorageError: 400 for anything else.
    """
    raw = await request.body()
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise StorageError(400, "Parse Error", "parseError")
    return body
