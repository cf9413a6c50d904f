# SPDX-License-Identifier: Apache-2.0
"""Knobs of the token endpoints."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TokenKnobs:
    """
    Whose tokens pass, and how long.

    :param accepted_tokens: Bearer tokens that are accepted beside those the token endpoint gave out; None is every
        token that does not start with ``bad`` or ``expired``. While neither this nor *accepted_keys* is set, calls
        without key and token are accepted, too: client libraries of Cloud Storage send none to an emulator.
    :param token_lifetime_seconds: Access tokens of the token endpoint last so many emulated seconds; what clients are
        told is the real time it will take.
    :param impersonation_denied: Accounts that nobody may impersonate (403).
    """

    accepted_tokens: list[str] | None = None
    token_lifetime_seconds: float = 3600.0
    impersonation_denied: list[str] = field(default_factory=list)
