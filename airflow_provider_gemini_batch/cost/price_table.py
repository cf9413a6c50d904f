# SPDX-License-Identifier: Apache-2.0
"""Prices that ``genai-prices`` lacks, dated and with their source; dollars for a million tokens in batch."""

# Correct it with a source, or let it shrink: an entry goes once the library knows the batch rates of its model.

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Entry:
    """
    One model's batch rates from a day on.

    :param since: First day of these rates, UTC; None for ever before.
    :param source: Where the rates were read, and when.
    """

    model: str
    since: date | None
    input: str
    output: str | None
    cached: str | None
    source: str


_LITELLM = "litellm 1.110.2, read in November 2026"
_GOOGLE = "https://ai.google.dev/gemini-api/docs/pricing, as read by third parties in October 2026"

ENTRIES = (
    Entry("gemini-3.5-flash", None, "0.75", "4.50", "0.075", _LITELLM),
    Entry("gemini-3.7-flash", None, "0.375", "1.875", "0.0375", _LITELLM),
    Entry("gemini-3.7-flash", date(2027, 1, 1), "0.75", "3.75", "0.075", _LITELLM),
    Entry("gemini-embedding-001", None, "0.075", None, None, _GOOGLE),
)
