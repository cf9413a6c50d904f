# SPDX-License-Identifier: Apache-2.0
"""Why a row has no answer: ``{"code", "message"}``, whichever way the service says it."""

# The code is the gRPC number on both backends, 0 where there is none.

from __future__ import annotations

from typing import Any

from airflow_provider_gemini_batch.api.models import grpc_code
from airflow_provider_gemini_batch.rows.answer_types import decode_or_none

NO_MESSAGE = "no message given"


def problem(message: str, said: str | None = None) -> dict[str, Any]:
    """
    Return an error of our own words, which has no code.

    :param said: The service's own words on it.
    """
    return {"code": 0, "message": f"{message} ({said})" if said else message}


def status_error(value: Any) -> dict[str, Any]:
    """Read a ``google.rpc.Status``, or what stands in its place."""
    if not isinstance(value, dict):
        return problem(value if isinstance(value, str) and value else NO_MESSAGE)
    code, message = value.get("code"), value.get("message")
    # True is an int to Python and no code to anybody.
    number = code if isinstance(code, int) and not isinstance(code, bool) else 0
    error: dict[str, Any] = {
        "code": grpc_code(number, value.get("status")),
        "message": message if isinstance(message, str) and message else NO_MESSAGE,
    }
    if value.get("details"):
        error["details"] = value["details"]
    return error


def text_error(value: Any) -> dict[str, Any]:
    """Read Vertex AI's status text, e.g. ``Bad Request: {"error": {"code": 400, "message": "..."}}``."""
    text = str(value)
    # The object stands behind words such as "Bad Request:", in the same string.
    start = text.find("{")
    if start >= 0:
        inner = decode_or_none(text[start:].encode("utf-8", "replace"))
        body = inner.get("error", inner) if isinstance(inner, dict) else None
        if isinstance(body, dict) and ("message" in body or "code" in body):
            return status_error(body)
    return problem(text)
