# SPDX-License-Identifier: Apache-2.0
"""
What requests will cost: a range, and what it rests on.

Input. ``countTokens`` on a sample of rows gives tokens for each byte, which the rest of the rows share. Without it, a
token is taken for 4 bytes of request, and the range goes from 8 bytes a token (JSON and markup around little text) to 2
(scripts beyond ASCII). Media that a row names by URI is not among the bytes: such rows have no upper end.

Output. Until :data:`ENOUGH` answers are known, an answer is between 1 token and ``maxOutputTokens``, thoughts included,
else the longest that models write. From then on the mean of the known answers stands for the rest, plus and minus
three standard errors of the sum of what is to come: ``3 * sd * sqrt(rows * (1 + rows / known))``. Thoughts have long
tails, of which few answers show little: where the logarithms of the lengths spread so far that a log-normal law puts
its mean, with three of its own standard errors, above that end, the higher end counts. A rare answer of thousands of
tokens that no known one resembles is still missed: ``python -m benchmarks.estimates`` says how often.

Example: 1,000 rows to come, 100 known answers of 200 tokens on average, sd 50, the longest of 400: 200,000 tokens, at
least 200,000 - 3 * 50 * sqrt(1000 * 11) = 184,268, at most 200,000 + 15,732 = 215,732.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.tokens import Tokens

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.cost.prices import PriceList, Rates, Tier

ENOUGH = 30
"""Known answers from which on their mean stands for the rest."""

BYTES_A_TOKEN = 4.0
MOST_BYTES_A_TOKEN = 8.0
LEAST_BYTES_A_TOKEN = 2.0

LONGEST_ANSWER = 65_536
"""Output tokens of an answer where ``maxOutputTokens`` does not say: the most that models of today write."""

_ERRORS = 3.0


@dataclass(frozen=True)
class Range:
    """From *low* to *high*, and what is most *likely*; None where there is no upper end, or nothing is likely."""

    low: float
    likely: float | None
    high: float | None

    def times(self, factor: float) -> Range:
        """Return the range of a multiple."""
        return Range(
            self.low * factor,
            None if self.likely is None else self.likely * factor,
            None if self.high is None else self.high * factor,
        )


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
class InputMeasure:
    """
    What is known of the rows before they are sent.

    :param rows: How many.
    :param size: Bytes of all requests, as JSON.
    :param max_output_tokens: The largest ``maxOutputTokens`` of a row, or None if a row has none.
    :param counted_size: Bytes of the rows that ``countTokens`` counted.
    :param counted_tokens: Their tokens.
    :param has_media: Whether a row names media by URI.
    """

    rows: int
    size: int
    max_output_tokens: int | None = None
    counted_size: int = 0
    counted_tokens: int = 0
    has_media: bool = False

    @property
    def tokens(self) -> Range:
        """Input tokens of all rows."""
        if self.counted_size:
            likely = self.size * self.counted_tokens / self.counted_size
            spread = 0.0 if self.counted_size >= self.size else 0.25
            high = None if self.has_media else likely * (1 + spread)
            return Range(likely * (1 - spread), likely, high)
        high = None if self.has_media else self.size / LEAST_BYTES_A_TOKEN
        return Range(self.size / MOST_BYTES_A_TOKEN, self.size / BYTES_A_TOKEN, high)


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

        def ends(what: Range | None, digits: int) -> dict[str, float | None] | None:
            if what is None:
                return None
            numbers = {"low": what.low, "likely": what.likely, "high": what.high}
            return {name: None if each is None else round(each, digits) for name, each in numbers.items()}

        return {
            "model": self.model,
            "tier": self.tier,
            "rows": self.rows,
            "input_tokens": ends(self.input_tokens, 0),
            "output_tokens": ends(self.output_tokens, 0),
            "dollars": ends(self.dollars, 6),
            "dollars_in_single_calls": ends(self.single, 6),
            "basis": self.basis,
        }

    def line(self) -> str:
        """Return it as a line for the log."""
        if self.dollars is None:
            return f"{self.rows} rows: the price of {self.model} is not known ({self.basis})."
        high = "no upper end" if self.dollars.high is None else f"at most {money(self.dollars.high)}"
        likely = "" if self.dollars.likely is None else f", about {money(self.dollars.likely)}"
        low = f"at least {money(self.dollars.low)}"
        return f"{self.rows} rows with {self.model}: {low}, {high}{likely} ({self.basis})."


def money(dollars: float | Decimal) -> str:
    """Write dollars for people: two digits, more for less than a dollar."""
    value = float(dollars)
    if value and abs(value) < 0.0001:
        return "less than 0.0001 USD"
    return f"{value:,.2f} USD" if abs(value) >= 1 else f"{value:.4f} USD"


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
    :param at: When the requests run; now by default. A job that runs into a price change costs what it did before.
    """
    from airflow_provider_gemini_batch.cost.prices import utc_day

    day = utc_day(at or datetime.now(UTC))
    inputs = measure.tokens
    how = "input counted on a sample" if measure.counted_size else "input estimated at a token for 4 bytes"
    if embeds:
        outputs = Range(0, 0, 0)
    else:
        found = known.rest(measure.rows) if known is not None else None
        if found is not None and known is not None:
            outputs, how = found, f"{how}, output by {known.count} known answers"
        else:
            longest = measure.max_output_tokens or LONGEST_ANSWER
            outputs = Range(measure.rows, None, float(measure.rows * longest))
            how = f"{how}, output of up to {longest} tokens a row"
    rates, single = prices.rates(model, day, tier), prices.rates(model, day, "standard")
    return Estimate(
        model,
        tier,
        measure.rows,
        inputs,
        outputs,
        None if rates is None else _dollars(rates, measure.rows, inputs, outputs),
        None if single is None else _dollars(single, measure.rows, inputs, outputs),
        how,
    )


def _dollars(rates: Rates, rows: int, inputs: Range, outputs: Range) -> Range:
    """Price the ends; the upper one by the dearest rates that such rows may meet."""

    def cost(read: float | None, written: float | None, *, dearest: bool) -> float | None:
        if read is None or written is None:
            return None
        by = rates.long if dearest and rates.long is not None and read > rates.long_above else rates
        mean = Tokens(prompt=0, text_in=math.ceil(read), text_out=math.ceil(written))
        return float(by.cost(mean))

    low = cost(inputs.low, outputs.low, dearest=False) or 0.0
    return Range(
        low,
        cost(inputs.likely, outputs.likely, dearest=False),
        cost(inputs.high, outputs.high, dearest=rows > 0),
    )


class RunPrices:
    """
    A price list as a run asks it; see :class:`airflow_provider_gemini_batch.run.money.Prices`.

    :param prices: The list.
    """

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices

    def of_answer(self, model: str, usage: Mapping[str, Any], *, tier: Tier, when: str | None) -> float | None:
        """Return the dollars that one answer cost, or None if the model's price is not known."""
        moment = datetime.now(UTC) if not when else _moment(when)
        cost = self._prices.cost_of(usage, model, moment, tier)
        return None if cost is None else float(cost)

    def at_most(
        self, kind: str, model: str, *, rows: int, input_bytes: int, max_output_tokens: int | None, tier: Tier
    ) -> float | None:
        """Return the dollars that so many requests may cost at most, or None if the price is not known."""
        measure = InputMeasure(rows, input_bytes, max_output_tokens)
        found = estimate(self._prices, model, measure, embeds=kind == "embed", tier=tier).dollars
        return None if found is None else found.high


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
