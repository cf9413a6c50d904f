# SPDX-License-Identifier: Apache-2.0
"""HTTP replies -> errors, the same for every Google API."""

# The body is `{"error": {"code", "message", "status", "details"}}`; rarely a one-element array around it, or a front
# end's HTML. `code` there is the HTTP status. Sources:
# https://ai.google.dev/gemini-api/docs/generate-content/api-errors; https://google.aip.dev/193.

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.models import JobErrorInfo
from airflow_provider_gemini_batch.errors import (
    ApiError,
    AuthError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ReplyFormatError,
    RequestRejectedError,
    ServerError,
)

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import HttpReply

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)s?\s*$")


def expect_success(reply: HttpReply) -> HttpReply:
    """Return *reply* if its status is 2xx, else raise the error it means."""
    if 200 <= reply.status < 300:
        return reply
    raise error_from(reply)


def error_from(reply: HttpReply) -> ApiError:
    """Make the error that a reply with a status outside 2xx means."""
    body = _error_body(reply)
    message = str(body.get("message") or "").strip()
    status_word = str(body.get("status") or "")
    details = tuple(item for item in _list(body.get("details")) if isinstance(item, dict))
    reason = next((str(item["reason"]) for item in details if item.get("reason")), "") or status_word
    facts: dict[str, Any] = {"status": reply.status, "reason": status_word or reason, "details": details}
    text = f"HTTP {reply.status}{' ' + status_word if status_word else ''}: {message or _bare_text(reply)}"
    if reply.status == 429:
        return RateLimitedError(text, retry_after=retry_after(reply, details), quota=_quota(details), **facts)
    # A front end answers 408 when a body took too long to arrive: like a 5xx, another try may do.
    if reply.status == 408 or reply.status >= 500:
        return ServerError(text, retry_after=retry_after(reply, details), **facts)
    # The Developer API answers 400 with this reason for a key that it does not know. By status alone it would look like
    # a bad request, and advice about the key would be missing.
    if reply.status == 401 or reason == "API_KEY_INVALID":
        facts["reason"] = reason or "UNAUTHENTICATED"
        return AuthError(f"{text} - check the API key or credentials of the connection.", **facts)
    if reply.status == 403:
        return PermissionDeniedError(text, **facts)
    if reply.status == 404:
        return NotFoundError(text, **facts)
    if reply.status in (301, 302, 303, 307, 308):
        return RequestRejectedError(
            f"HTTP {reply.status}: the service answered with a redirect, which is not followed because it could carry "
            "the credentials to another host. Check the host of the connection.",
            **facts,
        )
    return RequestRejectedError(text, **facts)


def retry_after(reply: HttpReply, details: tuple[dict[str, Any], ...]) -> float | None:
    """Return the wait in seconds the service asked for (``RetryInfo`` or ``Retry-After``), or None."""
    # RetryInfo comes from the quota itself; the header may be a front end's.
    candidates = [str(item.get("retryDelay", "")) for item in details if item.get("retryDelay")]
    candidates.append(reply.headers.get("retry-after", ""))
    for text in candidates:
        match = _DURATION.match(text)
        if match:
            return float(match[1])
    return None


def error_info(status: Mapping[str, Any] | None) -> JobErrorInfo | None:
    """Read a ``google.rpc.Status``; None and an empty object are no error."""
    if not isinstance(status, Mapping) or not status:
        return None
    code = status.get("code")
    return JobErrorInfo(
        int(code) if isinstance(code, (int, str)) and str(code).lstrip("-").isdigit() else 0,
        str(status.get("message") or ""),
        tuple(_list(status.get("details"))),
    )


def whole_number(value: object) -> int | None:
    """Read a count, which proto JSON sends as a string; None for anything that is none, or not in 64 bits."""
    try:
        number = int(str(value))
    except ValueError:
        return None
    # A count is an int64 on the wire. A longer number is damage, and a database that is handed it would fail.
    return number if abs(number) < 2**63 else None


def model_names(reply: HttpReply, member: str) -> tuple[str, ...]:
    """Read a list of models, *member* of the body; names come without what stands before the last slash."""
    items = expect_success(reply).json_object().get(member)
    names = (str(item.get("name") or "").rpartition("/")[2] for item in _list(items) if isinstance(item, dict))
    return tuple(name for name in names if name)


def text_or_none(value: object) -> str | None:
    """Return a text that is not empty, else None."""
    return value if isinstance(value, str) and value else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _error_body(reply: HttpReply) -> dict[str, Any]:
    try:
        value = reply.json()
    except ReplyFormatError:
        return {}
    if isinstance(value, list) and value:
        value = value[0]
    body = value.get("error") if isinstance(value, dict) else None
    # The shape of OAuth's token endpoint (RFC 6749, 5.2), which a proxy may also send.
    if isinstance(body, str):
        return {"message": body, "status": str(value.get("error_description") or "")}
    return body if isinstance(body, dict) else {}


def _bare_text(reply: HttpReply) -> str:
    """Make an HTML page of a front end readable, and say so when there is nothing."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", reply.excerpt())).strip()
    return text or "no message"


def _quota(details: tuple[dict[str, Any], ...]) -> str:
    for item in details:
        for violation in _list(item.get("violations")):
            if isinstance(violation, dict) and (violation.get("quotaId") or violation.get("quotaMetric")):
                return str(violation.get("quotaId") or violation.get("quotaMetric"))
    return ""
