# SPDX-License-Identifier: Apache-2.0
"""Dollars: as a range where they are not known yet, of an answer in both ways to ask, and as people read them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple


@dataclass(frozen=True)
class Range:
    """From *low* to *high*, and what is most *likely*; None where there is no upper end, or nothing is likely."""

    low: float
    likely: float | None
    high: float | None

    def rounded(self, digits: int) -> dict[str, float | None]:
        """Return it as plain JSON values."""
        numbers = {"low": self.low, "likely": self.likely, "high": self.high}
        return {name: None if each is None else round(each, digits or None) for name, each in numbers.items()}


class AnswerCost(NamedTuple):
    """Dollars of one answer, None where the price is not known: as it was asked, and in a single call."""

    paid: float | None
    single: float | None


LEAST_SHOWN = 0.0001
"""Dollars below this are told as less than it."""


def money(dollars: float | Decimal) -> str:
    """Write dollars for people: two digits, more for less than a dollar."""
    value = float(dollars)
    if value and abs(value) < LEAST_SHOWN:
        return f"less than {LEAST_SHOWN} USD"
    return f"{value:,.2f} USD" if abs(value) >= 1 else f"{value:.4f} USD"
