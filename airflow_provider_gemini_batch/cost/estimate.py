# SPDX-License-Identifier: Apache-2.0
"""What requests will cost: a range, and what it rests on."""

# Input: `cost/input_measure.py`.
#
# Output. Until `ENOUGH` answers are known, an answer is between 1 token and `maxOutputTokens`, thoughts included, else
# the longest that models write. From then on the mean of the known answers stands for the rest, plus and minus three
# standard errors of the sum of what is to come: `3 * sd * sqrt(rows * (1 + rows / known))`. Thoughts have long tails,
# of which few answers show little: where the logarithms of the lengths spread so far that a log-normal law puts its
# mean, with three of its own standard errors, above that end, the higher end counts. A rare answer of thousands of
# tokens that no known one resembles is still missed: `python -m benchmarks.estimates` says how often.
#
# Example: 1,000 rows to come, 100 known answers of 200 tokens on average, sd 50, the longest of 400: 200,000 tokens, at
# least 200,000 - 3 * 50 * sqrt(1000 * 11) = 184,268, at most 200,000 + 15,732 = 215,732.

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.ranges import LEAST_SHOWN, AnswerCost, Range, money
from airflow_provider_gemini_batch.cost.tokens import Tokens, read_tokens

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
    from airflow_provider_gemini_batch.cost.prices import PriceList, Rates, Tier

ENOUGH = 30
"""Known answers from which on their mean stands for the rest."""

LONGEST_ANSWER = 65_536
"""Output tokens of an answer where ``maxOutputTokens`` does not say: the most that models of today write."""

EXPECTED_DAYS = 2
"""Days that a job may take: a price that changes within them is worth a word."""

_ERRORS = 3.0


@dataclass
class AnswerStats:
    """Lengths of known answers, in output tokens with thoughts: sums, so that any number of answers takes no room."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    logs: float = 0.0
    log_squares: float = 0.0

    def add(self, tokens: int) -> None:
        """Take one answer."""
        log = math.log(max(1, tokens))
        self.count += 1
        self.total += tokens
        self.squares += tokens * tokens
        self.logs += log
        self.log_squares += log * log

    def rest(self, rows: int) -> Range | None:
        """Return the output tokens of *rows* answers to come, or None while too few are known."""
        if self.count < ENOUGH:
            return None
        mean = self.total / self.count
        variance = max(0.0, (self.squares - self.total * mean) / (self.count - 1))
        error = _ERRORS * math.sqrt(variance * rows * (1 + rows / self.count))
        high = max(rows * mean + error, rows * self._log_normal_mean())
        return Range(max(rows * 1.0, rows * mean - error), rows * mean, high)

    def _log_normal_mean(self) -> float:
        """Return the mean of a log-normal law with these logarithms, three standard errors up (Cox's interval)."""
        middle = self.logs / self.count
        spread = max(0.0, (self.log_squares - self.logs * middle) / (self.count - 1))
        error = math.sqrt(spread / self.count + spread * spread / (2 * (self.count - 1)))
        return math.exp(middle + spread / 2 + _ERRORS * error)


@dataclass(frozen=True)
class Estimate:
    """
    What requests will cost.

    :param dollars: None if the model's price is not known.
    :param single: The same in single calls, for comparison; None if that price is not known.
    :param basis: What the range rests on, for people.
    """

    model: str
    tier: str
    rows: int
    input_tokens: Range
    output_tokens: Range
    dollars: Range | None
    single: Range | None
    basis: str

    def to_json(self) -> dict[str, Any]:
        """Return it for XCom: plain numbers, dollars rounded to a ten-thousandth of a cent."""
        return {
            "model": self.model,
            "tier": self.tier,
            "rows": self.rows,
            "input_tokens": self.input_tokens.rounded(0),
            "output_tokens": self.output_tokens.rounded(0),
            "dollars": None if self.dollars is None else self.dollars.rounded(6),
            "dollars_in_single_calls": None if self.single is None else self.single.rounded(6),
            "basis": self.basis,
        }

    def line(self) -> str:
        """Return it as a line for the log."""
        rows = f"{self.rows} row{'' if self.rows == 1 else 's'}"
        if self.dollars is None:
            return f"{rows}: the price of {self.model} is not known ({self.basis})."
        ends = [f"at least {money(self.dollars.low)}"] if self.dollars.low >= LEAST_SHOWN else []
        if self.dollars.high is None:
            ends.append("no upper end")
        else:
            ends.append(f"{'at most ' if self.dollars.high >= LEAST_SHOWN else ''}{money(self.dollars.high)}")
        if self.dollars.likely is not None and self.dollars.likely >= LEAST_SHOWN:
            ends.append(f"about {money(self.dollars.likely)}")
        return f"{rows} with {self.model}: {', '.join(ends)} ({self.basis})."


def estimate(
    prices: PriceList,
    model: str,
    measure: InputMeasure,
    *,
    embeds: bool = False,
    known: AnswerStats | None = None,
    at: datetime | date | None = None,
    tier: Tier = "batch",
) -> Estimate:
    """
    Return what *measure* will cost.

    :param embeds: Embeddings have no output tokens.
    :param known: Lengths of earlier answers to like requests.
    :param at: When the requests are sent; now by default. A price that changes within :data:`EXPECTED_DAYS` counts in
        the upper end where it is the higher one, as no source says which day of a job is billed.
    """
    from airflow_provider_gemini_batch.cost.prices import utc_day

    day = utc_day(at or datetime.now(UTC))
    inputs = measure.tokens
    outputs, how = _outputs(measure, embeds, known)
    days = [day + timedelta(days=number) for number in range(EXPECTED_DAYS + 1)]

    def dollars(tier: Tier) -> Range | None:
        rates = prices.rates(model, day, tier)
        if rates is None:
            return None
        later = [each for each in (prices.rates(model, on, tier) for on in days) if each is not None]
        highs = [_dollars(_dearest(each, measure), inputs.high, outputs.high) for each in later]
        return Range(
            _dollars(rates, inputs.low, outputs.low) or 0.0,
            _dollars(rates, inputs.likely, outputs.likely),
            max((high for high in highs if high is not None), default=None),
        )

    return Estimate(
        model, tier, measure.rows, inputs, outputs, dollars(tier), dollars("standard"), f"{measure.basis}{how}"
    )


def _outputs(measure: InputMeasure, embeds: bool, known: AnswerStats | None) -> tuple[Range, str]:
    """Return the output tokens of all rows, and what they rest on."""
    if embeds:
        return Range(0, 0, 0), ""
    found = known.rest(measure.rows) if known is not None else None
    if found is not None and known is not None:
        return found, f", output by {known.count} known answers"
    longest = measure.max_output_tokens or LONGEST_ANSWER
    return Range(measure.rows, None, float(measure.rows * longest)), f", output of up to {longest} tokens a row"


def _dearest(rates: Rates, measure: InputMeasure) -> Rates:
    """
    Return the dearest rates that such rows may meet: media where there may be some, and long prompts' rates.

    Example: a picture costs ten times what as many tokens of text do, and only its tokens' count tells them apart.
    """
    high = measure.tokens.high
    if rates.long is not None and high is not None and high > rates.long_above:
        rates = rates.long
    read = [rates.input, *(rates.media_in.values() if measure.has_media else ())]
    written = [rate for rate in (rates.output, *rates.media_out.values()) if rate is not None]
    return replace(rates, input=max(read), output=max(written, default=None), long=None)


def _dollars(rates: Rates, read: float | None, written: float | None) -> float | None:
    if read is None or written is None:
        return None
    return float(rates.cost(Tokens(prompt=0, text_in=math.ceil(read), text_out=math.ceil(written))))


class RunPrices:
    """
    A price list as a run asks it; see :class:`airflow_provider_gemini_batch.run.money.Prices`.

    :param prices: The list.
    """

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices

    def of_answer(self, model: str, usage: Mapping[str, Any], *, tier: Tier, when: str | None) -> AnswerCost:
        """Return what one answer cost; its tokens are read once."""
        from airflow_provider_gemini_batch.cost.prices import utc_day

        tokens = read_tokens(usage)
        day = utc_day(datetime.now(UTC) if not when else _moment(when))
        return AnswerCost(
            *(
                None if rates is None else float(rates.cost(tokens))
                for rates in (self._prices.rates(model, day, each) for each in (tier, "standard"))
            )
        )

    def of_sums(self, model: str, rows: int, read: int, written: int, cached: int) -> float | None:
        """
        Return what many answers of text would cost in batch today, or None if the price is not known.

        :param rows: Whose prompts are all above the threshold of long ones, or all below.
        :param read: Input tokens, the cached ones among them. *written*: with thoughts.
        """
        rates = self._prices.rates(model, datetime.now(UTC).date(), "batch")
        if rates is None:
            return None
        sums = Tokens(prompt=read // max(1, rows), text_in=read - cached, cached=cached, text_out=written)
        return float(rates.cost(sums))

    def before(self, kind: str, model: str, measure: InputMeasure, *, tier: Tier = "batch") -> Estimate:
        """Return what requests will cost."""
        return estimate(self._prices, model, measure, embeds=kind == "embed", tier=tier)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
