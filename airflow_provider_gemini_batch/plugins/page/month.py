# SPDX-License-Identifier: Apache-2.0
"""What this month has cost so far, what it comes to at this pace, and what it may cost: ``monthly_budget``."""

from __future__ import annotations

import calendar
import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Month:
    """
    A calendar month in UTC, in dollars.

    :param pace: What it comes to if the rest is as the days before; None on its first day, which tells nothing.
    :param budget: None where none is set.
    :param unknown: Rows whose price is not known, which are in no sum.
    """

    name: str
    spent: float
    pace: float | None
    budget: float | None
    days: int
    unknown: float = 0

    @property
    def is_known(self) -> bool:
        """Whether *spent* says anything: a price that is not known is not zero."""
        return bool(self.spent) or not self.unknown

    @property
    def a_day(self) -> float | None:
        """The budget of one day."""
        return None if self.budget is None else self.budget / self.days

    @property
    def left(self) -> float | None:
        """What is left of the budget at the month's end at this pace, or now on its first day; may be negative."""
        return None if self.budget is None else self.budget - (self.spent if self.pace is None else self.pace)


def month_of(parts: Iterable[Mapping[str, Any]], now: datetime, budget: float | None) -> Month:
    """
    Return the month of a moment.

    :param parts: Each with ``day`` as ISO date, ``cost`` and ``unknown``, since the month's first day at least.
    :param now: In UTC.
    """
    days = calendar.monthrange(now.year, now.month)[1]
    found = [part for part in parts if str(part["day"])[:7] == f"{now:%Y-%m}"]
    spent, unknown = (sum(part.get(name, 0) for part in found) for name in ("cost", "unknown"))
    gone = (now - datetime(now.year, now.month, 1, tzinfo=now.tzinfo)).total_seconds() / 86400
    pace = spent * days / gone if gone >= 1 else None
    return Month(calendar.month_name[now.month], spent, pace, budget, days, unknown)


def monthly_budget() -> tuple[float | None, str]:
    """Return ``[gemini_batch] monthly_budget``, and what is wrong with it, if anything is."""
    from airflow_provider_gemini_batch.compat import conf

    text = str(conf.get("gemini_batch", "monthly_budget", fallback="") or "").strip()
    if not text:
        return None, ""
    try:
        dollars = float(text)
    except ValueError:
        dollars = math.nan
    if not 0 < dollars < math.inf:
        return None, f"[gemini_batch] monthly_budget must be a number of dollars above 0, not {text!r}."
    return dollars, ""
