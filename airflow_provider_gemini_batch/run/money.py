# SPDX-License-Identifier: Apache-2.0
"""
What a run needs to know of prices, behind one small interface.

An unknown price is None, never zero: with ``max_cost`` it is an error before the first job, without it the column
``cost`` is null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.api.models import Kind
    from airflow_provider_gemini_batch.run.plan import Tier


class CostLimitError(GeminiBatchError):
    """What is next might cost more than ``max_cost`` leaves; nothing more is submitted."""


class Prices(Protocol):
    """Prices of models by date; see the room ``cost``."""

    def of_answer(self, model: str, usage: Mapping[str, Any], *, tier: Tier, when: str | None) -> float | None:
        """
        Return the dollars that one answer cost, or None if the model's price is not known.

        :param model: The version that answered.
        :param usage: The service's token counts.
        :param when: RFC 3339 time of the job's end.
        """
        ...

    def at_most(
        self, kind: Kind, model: str, *, rows: int, input_bytes: int, max_output_tokens: int | None, tier: Tier
    ) -> float | None:
        """Return the dollars that so many requests may cost at most, or None if the price is not known."""
        ...


class UnknownPrices:
    """Stands for a price list where there is none."""

    def of_answer(self, model: str, usage: Mapping[str, Any], *, tier: Tier, when: str | None) -> float | None:
        """Return None."""
        return None

    def at_most(
        self, kind: Kind, model: str, *, rows: int, input_bytes: int, max_output_tokens: int | None, tier: Tier
    ) -> float | None:
        """Return None."""
        return None


@dataclass(frozen=True)
class Budget:
    """
    What may still be spent.

    :param limit: ``max_cost`` in dollars, or None for no limit.
    :param spent: Dollars of all answers so far.
    :param reserved: Upper end of what jobs in flight may cost.
    """

    limit: float | None
    spent: float = 0.0
    reserved: float = 0.0

    def check(self, estimate: float | None, model: str) -> None:
        """
        Raise unless *estimate* fits.

        :raises ConfigurationError: If the price is not known.
        :raises CostLimitError: If spent, reserved and *estimate* pass the limit.
        """
        if self.limit is None:
            return
        if estimate is None:
            raise ConfigurationError(
                f"max_cost={self.limit:g} cannot be kept: the price of {model} is not known. Leave max_cost out, or "
                "give the price in the file of [gemini_batch] prices_path."
            )
        if self.spent + self.reserved + estimate > self.limit:
            raise CostLimitError(
                f"max_cost={self.limit:g}: {self.spent:.4g} spent, {self.reserved:.4g} reserved for jobs in flight, "
                f"and what is next may cost {estimate:.4g} dollars. Raise max_cost, or ask fewer rows (sample=)."
            )
