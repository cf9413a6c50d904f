# SPDX-License-Identifier: Apache-2.0
"""Error replies in Google's form, and mistakes of those who steer the emulator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

R = TypeVar("R")

STATUS_WORDS: dict[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    416: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GoogleError(Exception):
    """
    An error reply in Google's form.

    :param code: HTTP status.
    :param status: The service's word; derived from *code* when empty.
    :param details: ``error.details``.
    :param errors: ``error.errors``, as only Cloud Storage and BigQuery have them.
    """

    def __init__(
        self,
        code: int,
        message: str,
        status: str = "",
        *,
        details: list[dict[str, Any]] | None = None,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or STATUS_WORDS.get(code, "UNKNOWN")
        self.details = details or []
        self.errors = errors
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the reply's JSON."""
        # Here the HTTP status. In the error of a job or a row the member of the same name is the gRPC number.
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        # Two generations of Google's error form: Cloud Storage and BigQuery have the older one.
        if self.errors is not None:
            error["errors"] = self.errors
        else:
            error["status"] = self.status
        if self.details:
            error["details"] = self.details
        return {"error": error}


def error_info(reason: str, domain: str = "googleapis.com", **metadata: str) -> dict[str, Any]:
    """Return the detail of an error by which programs tell its cause, https://google.aip.dev/193."""
    info: dict[str, Any] = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": domain,
    }
    return {**info, "metadata": metadata} if metadata else info


class ControlError(ValueError):
    """A control request that makes no sense; answered with 400 and this text."""


def build(cls: type[R], values: Mapping[str, Any]) -> R:
    """Make one of our dataclasses from JSON, refusing names it does not have."""
    # A name that nobody knows is a mistake of the test, and would change nothing without a word.
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ControlError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    try:
        return cls(**values)
    except ControlError:
        raise
    except (TypeError, ValueError, re.error) as error:
        raise ControlError(f"{cls.__name__}: {error}") from error
