# SPDX-License-Identifier: Apache-2.0
"""What a run needs to know of prices, behind one small interface."""

# An unknown price is None, never zero: with `max_cost` it is an error before the first job (`cost/budget.py`), without
# it the column `cost` is null.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_gemini_batch.cost.ranges import AnswerCost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.api.models import Kind
    from airflow_provider_gemini_batch.cost.estimate import Estimate
    from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
    from airflow_provider_gemini_batch.run.plan import Tier


class Prices(Protocol):
    """Prices of models by date; see the room ``cost``."""

    def of_answer(self, model: str, usage: Mapping[str, Any], *, tier: Tier, when: str | None) -> AnswerCost:
        """
        Return the dollars that one answer cost, and would have cost in a single call.

        :param model: The version that answered.
        :param usage: The service's token counts.
        :param when: RFC 3339 time of the job's end.
        """
        ...

    def of_sums(self, model: str, rows: int, read: int, written: int, cached: int) -> float | None:
        """
        Return what many answers of text would cost in batch today, or None if the price is not known.

        :param rows: Whose prompts are all above the threshold of long ones, or all below.
        :param read: Input tokens, the cached ones among them. *written*: with thoughts.
        """
        ...

    def before(self, kind: Kind, model: str, measure: InputMeasure, *, tier: Tier = "batch") -> Estimate | None:
        """Return what requests will cost; None where nothing is known of prices."""
        ...


class UnknownPrices:
    """Stands for a price list where there is none."""

    def of_answer(self, model: str, usage: Mapping[str, Any], *, tier: Tier, when: str | None) -> AnswerCost:
        """Return nothing that is known."""
        return AnswerCost(None, None)

    def of_sums(self, model: str, rows: int, read: int, written: int, cached: int) -> float | None:
        """Return None."""
        return None

    def before(self, kind: Kind, model: str, measure: InputMeasure, *, tier: Tier = "batch") -> Estimate | None:
        """Return None."""
        return None
