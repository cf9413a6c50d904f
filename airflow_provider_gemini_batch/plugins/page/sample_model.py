# SPDX-License-Identifier: Apache-2.0
"""The manifest of a sample -> what a person needs who lets the whole run spend money. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_gemini_batch.lifecycle.verdict import allowed_rows
from airflow_provider_gemini_batch.plugins.page.values import count_of, is_number, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class Likely(NamedTuple):
    """
    A projection.

    :param high: None where the sample is too small to tell.
    """

    low: float
    middle: float
    high: float | None


@dataclass(frozen=True)
class SampleView:
    """
    What the sample shows.

    :param rows: Of the sample.
    :param whole: Rows of the input.
    :param cost: Dollars of the whole, the sample included; None where a price is unknown.
    :param paid: Dollars of the sample; None where a price is unknown.
    :param single: Dollars of the whole in single calls, if it costs what is likely; None where the manifest tells none.
    :param failed: Rows of the whole without a usable answer.
    :param tokens: Of a row on average: in, out.
    :param allowed: Rows of the whole that may fail with the sample's ``max_failed_rows``; None where it only warns.
    """

    rows: int
    whole: int
    cost: Likely | None
    paid: float | None
    failed_rows: int
    failed: Likely | None
    tokens: tuple[float, float] | None
    cap: float | None
    single: float | None = None
    allowed: int | None = None

    @property
    def may_fail(self) -> bool:
        """Whether more rows of the whole may fail than are allowed."""
        if self.allowed is None or self.failed is None:
            return False
        return (self.failed.middle if self.failed.high is None else self.failed.high) > self.allowed

    @property
    def scale(self) -> float:
        """Return the dollars at the end of the drawing of cost and cap; 0 where there is nothing to draw."""
        if self.cap is None or self.cost is None or self.cost.high is None:
            return 0.0
        return max(self.cost.high, self.cap) * 1.15

    @property
    def cap_is_low(self) -> bool:
        """Whether the whole may cost more than the cap allows."""
        if self.cap is None or self.cost is None:
            return False
        return (self.cost.middle if self.cost.high is None else self.cost.high) > self.cap

    def share(self, rows: float) -> float:
        """Return rows in per cent of the whole."""
        return 100 * rows / self.whole if self.whole else 0.0


def sample_of(manifest: Mapping[str, Any], progress: Mapping[str, Any]) -> SampleView | None:
    """Return what a sample shows; None if the manifest is none of a sample."""
    projection = manifest.get("projection")
    if not isinstance(projection, dict):
        return None
    rows, cost, tokens = count_of(manifest.get("total")) or 0, manifest.get("cost"), manifest.get("tokens")
    cost = cost if isinstance(cost, dict) else {}
    tokens = tokens if isinstance(tokens, dict) else {}
    read, written, thoughts = (number_of(tokens.get(name)) or 0.0 for name in ("prompt", "output", "thoughts"))
    likely = _likely(projection.get("cost"))
    whole = _first(count_of(projection.get("rows")), count_of(manifest.get("input_rows")), rows)
    most = progress.get("max_failed_rows")
    paid = None if cost.get("rows_of_unknown_cost") else number_of(cost.get("actual"))
    return SampleView(
        rows,
        whole,
        likely,
        paid,
        max(0, rows - (count_of(manifest.get("succeeded")) or 0)),
        _likely(projection.get("failed")),
        (read / rows, (written + thoughts) / rows) if rows and read else None,
        number_of(progress.get("max_cost")),
        _in_single_calls(likely, paid, number_of(cost.get("single_calls"))),
        allowed_rows(most, whole) if most is not None and is_number(most) and most >= 0 else None,
    )


def _in_single_calls(whole: Likely | None, paid: float | None, single: float | None) -> float | None:
    """Return what the whole would cost in single calls: as many times the batch price as the sample's answers."""
    return whole.middle * single / paid if whole is not None and paid and single else None


def _first(*counts: int | None) -> int:
    return next((count for count in counts if count is not None), 0)


def _likely(told: Any) -> Likely | None:
    if not isinstance(told, dict):
        return None
    low, middle = number_of(told.get("low")), number_of(told.get("likely"))
    return None if low is None or middle is None else Likely(low, middle, number_of(told.get("high")))
