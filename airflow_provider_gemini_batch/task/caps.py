# SPDX-License-Identifier: Apache-2.0
"""What a create operator says of a job's cost before it is submitted, and when it refuses."""

# `max_cost` counts the upper end of the estimate, and what earlier jobs of this task instance have cost at most: those
# that were cancelled or failed on the way bill the rows that they had answered, those that have not ended yet may
# answer all of theirs. Of rows that this attempt does not see, each counts as much as one of those that it does. A job
# that is found again is not a new one and is not counted twice: nothing is created, and nobody asks here.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.budget import (
    LISTED_WITHIN,
    Budget,
    CostLimitError,
    calls_in_doubt,
    rows_answered,
)
from airflow_provider_gemini_batch.errors import ConfigurationError, SubmitError
from airflow_provider_gemini_batch.task.store import jobs_heard_of, unheard_of
from airflow_provider_gemini_batch.task.xcom_keys import ESTIMATE_KEY

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.cost.estimate import Estimate
    from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
    from airflow_provider_gemini_batch.cost.prices import PriceList


@dataclass(frozen=True)
class Caps:
    """
    What a task instance may spend.

    :param max_cost: Dollars.
    :param max_input_tokens: Tokens of input.
    """

    max_cost: float | None = None
    max_input_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_cost", "max_input_tokens"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < float("inf")):  # NaN is neither
                raise ConfigurationError(f"{name} must be a number above 0, not {value!r}.")

    @property
    def are_set(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_cost is not None or self.max_input_tokens is not None

    def check(self, estimate: Estimate, jobs: Iterable[BatchJob], lost: int = 0, token: str = "") -> None:
        """
        Refuse a job that may cost more than is left.

        :param jobs: Earlier jobs of this task instance.
        :param lost: Create calls without an answer: each may have made a job that nobody has seen.
        :param token: By which such a job is found.
        :raises ConfigurationError: If it cannot be known what the job may cost.
        :raises CostLimitError: If it may cost too much.
        :raises SubmitError: If it may cost too much because of a job that nobody has seen: a retry finds that.
        """
        # Looked through twice, with and without the calls that have no answer.
        jobs = list(jobs)
        try:
            self._check(estimate, jobs, lost)
        except CostLimitError as error:
            if not lost:
                raise
            # Only if there is room without those calls is it their doing, and a retry worth its while.
            self._check(estimate, jobs, 0)
            raise SubmitError(
                f"{error} A create call without an answer may have made a job, which bills. A retry takes it once it "
                f"is listed, and submits if none is listed within {LISTED_WITHIN / 60:.0f} minutes; without a retry, "
                f"look for [airflow {token}] among the jobs."
            ) from error

    def _check(self, estimate: Estimate, jobs: Sequence[BatchJob], lost: int) -> None:
        if self.max_input_tokens is not None:
            tokens = self._upper("max_input_tokens", estimate.input_tokens.high)
            sent = tokens * (lost + sum(_share_answered(job, estimate.rows) for job in jobs))
            if sent + tokens > self.max_input_tokens:
                raise CostLimitError(
                    f"max_input_tokens={self.max_input_tokens}: {sent:.0f} were sent, and what is next may be "
                    f"{tokens:.0f} ({estimate.basis}). Raise it, or ask fewer rows."
                )
        if self.max_cost is not None:
            upper = None
            if estimate.dollars is not None:
                upper = self._upper("max_cost", estimate.dollars.high)
            spent = sum((upper or 0.0) * _share_answered(job, estimate.rows) for job in jobs)
            Budget(self.max_cost, spent, lost * (upper or 0.0)).check(upper, estimate.model)

    @staticmethod
    def _upper(name: str, number: float | None) -> float:
        if number is None:
            raise ConfigurationError(
                f"{name} cannot be kept: rows that name media by URI have no upper end, nor do rows with a "
                f"cached content. Leave {name} out."
            )
        return number


def unheard_lately(noted: Mapping[str, Any], jobs: Iterable[BatchJob], now: float) -> int:
    """
    Return how many create calls of earlier attempts may have made a job that the list does not show yet.

    A listed job that no attempt has heard of came of such a call, and is counted itself.

    :param noted: What the task state store keeps (Airflow 3.3 and later).
    :param jobs: Jobs of this task instance that are known now.
    """
    at = noted.get("intent_at")
    if not isinstance(at, (int, float)) or now - at >= LISTED_WITHIN:
        return 0
    heard = jobs_heard_of(noted)
    return calls_in_doubt(unheard_of(noted), sum(job.name not in heard for job in jobs))


def _share_answered(job: BatchJob, rows: int) -> float:
    """Return how many rows an earlier job has answered and billed, or may yet, as a multiple of *rows*."""
    sent = job.stats.total or rows
    return (rows_answered(job, sent) if job.is_done else sent) / rows if rows else 0.0


def estimate_of(
    prices: PriceList, kind: str, model: str, measure: InputMeasure | None, *, asked_for: str = ""
) -> Estimate | None:
    """
    Return what rows will cost, or None for rows that lie at Google.

    :param asked_for: Argument that cannot do without an estimate, if there is one.
    :raises ConfigurationError: If that argument is given, and there is none.
    """
    from airflow_provider_gemini_batch.cost.estimate import estimate

    if measure is None:
        if asked_for:
            raise ConfigurationError(
                f"{asked_for} needs rows that this task reads: inlined_requests or input_path. What lies at Google "
                "already is not read."
            )
        return None
    return estimate(prices, model, measure, embeds=kind == "embed")


def tell(found: Estimate, prices: PriceList, log: Any, push: Callable[[str, Any], None]) -> None:
    """Say what a job may cost, in log and XCom, and whether the price is about to change."""
    log.info("What it may cost: %s", found.line())
    push(ESTIMATE_KEY, found.to_json())
    warn_of_change(prices, found.model, log)


def warn_of_change(prices: PriceList, model: str, log: Any) -> None:
    """Warn where a model's price changes while a job that begins now may still run."""
    from airflow_provider_gemini_batch.cost.estimate import EXPECTED_DAYS

    change = prices.changes(model, datetime.now(UTC).date(), EXPECTED_DAYS)
    if change is not None:
        log.warning("The price of %s changes on %s, while this job may still run.", model, change.isoformat())
