# SPDX-License-Identifier: Apache-2.0
"""What may still be spent by a task instance, checked before each call that can submit."""

# A cap is per task instance. A budget that tasks share could not be kept: Airflow has no lock that they all hold.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob

LISTED_WITHIN = 600.0
"""Seconds after which a job that the service's list does not show was never made."""


class CostLimitError(ConfigurationError):
    """What is next might cost more than a cap leaves; nothing more is submitted, and a retry cannot help."""


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
        # A price that is not known is not zero. With a cap nothing is sent then: the cap would hold nothing back.
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


def calls_in_doubt(calls: int, found: int) -> int:
    """
    Return how many create calls may have made a job that nobody has seen: each call makes one at most.

    :param calls: Without an answer, and not refused.
    :param found: Jobs that came of these calls, as far as a look at the service has shown them: they are counted
        themselves.
    """
    return max(0, calls - found)


def rows_answered(job: BatchJob, rows: int) -> int:
    """
    Return how many rows of a job that has ended may have been billed.

    A job that expired has no answers and no counts to go by, and what ran of it may be billed: all its rows count. One
    that failed and does not say how many rows it answered has asked nothing, nor has one that ended before it ran.

    :param rows: Of the job; all of them count where the service does not say.
    """
    if job.never_ran:
        return 0
    # In doubt a cap counts too much. An expired job shows no results, whatever ran of it
    # (https://ai.google.dev/gemini-api/docs/batch-api).
    if job.state.value == "EXPIRED":
        return rows
    if job.stats.succeeded is not None:
        return job.stats.succeeded
    return 0 if job.state.value == "FAILED" else rows
