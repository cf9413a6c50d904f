# SPDX-License-Identifier: Apache-2.0
"""What a sample says of the whole input: what it will cost, how many rows will have no answer."""

# A sample is drawn by digest, so that it stands for all rows. Cost: its mean for each row to come, plus and minus three
# standard errors of their sum. Failures: Wilson's interval at three standard deviations, which says of a sample without
# a failure that the whole may have some. Fewer than 30 rows say what is likely, and no ends.
#
# Example: 50 of 10,000 rows cost 0.01 dollars, each about 0.0002, and 2 have no answer. The whole is likely to cost
# 2.00 dollars and to leave 400 rows without an answer, at least 65 and at most 2,131.

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.estimate import ENOUGH
from airflow_provider_gemini_batch.cost.ranges import Range, money

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ERRORS = 3.0


@dataclass(frozen=True)
class Sampled:
    """
    What came of a sample.

    :param rows: Of the sample.
    :param failed: Rows without a usable answer.
    :param cost: Dollars of all rows; None if the price of one is not known.
    :param variance: Of the rows' costs.
    """

    rows: int
    failed: int
    cost: float | None
    variance: float = 0.0

    @classmethod
    def of_notes(cls, notes: Sequence[Mapping[str, Any]]) -> Sampled:
        """Return what came of jobs, as :meth:`~.answers.AnswerWriter.finish` said."""
        rows = sum(sum(note["counts"].values()) for note in notes)
        succeeded = sum(note["counts"].get("succeeded", 0) for note in notes)
        cost = sum(float(note["cost"]) for note in notes)
        squares = sum(float(note.get("cost_squares") or 0.0) for note in notes)
        variance = max(0.0, (squares - cost * cost / rows) / (rows - 1)) if rows > 1 else 0.0
        is_known = not any(note["cost_unknown"] for note in notes)
        return cls(rows, rows - succeeded, cost if is_known else None, variance)

    def cost_of(self, total: int) -> Range | None:
        """Return the dollars of *total* rows, those of the sample included."""
        if self.cost is None or not self.rows:
            return None
        mean, rest = self.cost / self.rows, total - self.rows
        likely = mean * total
        if self.rows < ENOUGH:
            return Range(self.cost, likely, None if rest else likely)
        error = _ERRORS * math.sqrt(self.variance * rest * (1 + rest / self.rows))
        return Range(max(self.cost, likely - error), likely, likely + error)

    def failed_of(self, total: int) -> Range | None:
        """Return the rows without a usable answer among *total*, those of the sample included."""
        if not self.rows:
            return None
        share = self.failed / self.rows
        if self.rows < ENOUGH:
            return Range(float(self.failed), share * total, None)
        square = _ERRORS**2 / self.rows
        middle = (share + square / 2) / (1 + square)
        half = _ERRORS * math.sqrt(share * (1 - share) / self.rows + square / (4 * self.rows)) / (1 + square)
        rest = total - self.rows
        low, high = (self.failed + rest * max(0.0, middle - half), self.failed + rest * min(1.0, middle + half))
        return Range(low, share * total, high)

    def of(self, total: int) -> dict[str, Any]:
        """Return the projection to *total* rows as plain JSON values."""
        return {"rows": total, "cost": _rounded(self.cost_of(total), 6), "failed": _rounded(self.failed_of(total), 0)}

    def so_far(self, total: int) -> str | None:
        """Return what the first answers of *total* say of the rest, as a line for the log; None if it is nothing."""
        cost = self.cost_of(total)
        if not ENOUGH <= self.rows < total or cost is None or not self.cost:
            return None
        return (
            f"{self.rows:,} of {total:,} rows are collected, for {money(self.cost)}; all of them will cost "
            f"{_told(cost, money)}."
        )

    def line(self, total: int) -> str:
        """Return the projection as a line for the log."""
        cost, failed = self.cost_of(total), self.failed_of(total)
        dollars = "an unknown price" if cost is None else _told(cost, money)
        rows = "" if failed is None else f"; {_told(failed, '{:,.0f}'.format)} rows without an answer"
        return f"As the sample of {self.rows:,} rows shows, all {total:,} rows will cost {dollars}{rows}."


def _told(what: Range, shown: Any) -> str:
    likely = f"about {shown(what.likely)}"
    return f"{likely}, at most {shown(what.high)}" if what.high is not None else likely


def _rounded(what: Range | None, digits: int) -> dict[str, float | None] | None:
    return None if what is None else what.rounded(digits)
