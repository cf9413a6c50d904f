# SPDX-License-Identifier: Apache-2.0
"""Members of messages, in either spelling, and those that a message does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemini_batch_emulator.answering.requests import snake
from gemini_batch_emulator.errors import GoogleError


def unknown_member(values: Mapping[str, Any], known: frozenset[str]) -> str | None:
    """Return the first member that is not in *known* in either spelling."""
    for name in values:
        if name not in known and not any(snake(one) == name for one in known):
            return name
    return None


def refuse_unknown(values: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """
    Refuse members that a message does not have.

    :param where: Path of the message, as the error names it.
    :raises GoogleError: 400 with a field violation.
    """
    name = unknown_member(values, known)
    if name is None:
        return
    place = f" at '{where}'" if where else ""
    message = f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.'
    violation = {"description": message, **({"field": where} if where else {})}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    raise GoogleError(400, message, details=details)
