# SPDX-License-Identifier: Apache-2.0
"""Durations and moments: what users and the service write, read in one way."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from airflow_provider_gemini_batch.errors import ConfigurationError

LONGEST_WAIT = 10 * 365 * 24 * 3600.0

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)")


def seconds(value: float | timedelta | None, name: str) -> float | None:
    """
    Read a duration given in seconds or as a timedelta.

    :param name: The argument, for the message.
    :raises ConfigurationError: If *value* is neither of these nor None; a stored trigger, too, may hold anything.
    """
    if value is None:
        return None
    number: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number <= LONGEST_WAIT:
        raise ConfigurationError(f"{name} must be seconds above 0 (ten years at most) or a timedelta, not {value!r}.")
    return float(number)


def duration(seconds: float) -> str:
    """Write a duration as people do: ``42 s``, ``3 min 20 s``, ``5 h 12 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def epoch(text: str | None) -> float | None:
    """Read an RFC 3339 time with up to nanoseconds as UTC epoch seconds; None for None and for anything else."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def http_date(text: str | None) -> float | None:
    """Read the ``Date`` of an HTTP reply, whole seconds, as UTC epoch seconds; None for None and for anything else."""
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def instant(text: str | None) -> tuple[int, int] | None:
    """Read an RFC 3339 time as seconds and nanoseconds; the service sends as many digits as it likes."""
    if not text:
        return None
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    try:
        whole = datetime.fromisoformat(found[1] + ("+00:00" if found[3] in "Zz" else found[3]))
    except ValueError:
        return None
    return int(whole.timestamp()), int((found[2] or "").ljust(9, "0")[:9])
