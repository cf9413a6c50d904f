# SPDX-License-Identifier: Apache-2.0
"""
``python -m benchmarks.estimates``: how often an estimate's range holds what a run then costs.

Output: for each distribution of output lengths, 100 seeded runs of 1,000 rows: the range before anything is known, and
after a sample of 50 rows, against what the 1,000 rows cost. Input: for each kind of text, 100 seeded runs of 1,000
rows: by bytes and by the count of 16 rows, against the tokens that they hold. Lengths are drawn, not by a model: the
distributions are stated, and heavier tails than real ones are among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import date
from typing import NamedTuple

from airflow_provider_gemini_batch.cost.estimate import AnswerStats, estimate
from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.cost.row_sample import MOST_ROWS

MODEL, DAY, ROWS, SAMPLE, RUNS = "gemini-3.5-flash-lite", date(2026, 11, 27), 1_000, 50, 100
MAX_TOKENS = 8_192
INPUT_TOKENS = 400
INPUT_BYTES = 4 * INPUT_TOKENS

Draw = Callable[[random.Random], float]

DISTRIBUTIONS: dict[str, Draw] = {
    "all 200": lambda rng: 200,
    "uniform, 50 to 350": lambda rng: rng.uniform(50, 350),
    "lognormal, sigma 0.6": lambda rng: rng.lognormvariate(5.1, 0.6),
    "lognormal, sigma 1.0": lambda rng: rng.lognormvariate(4.8, 1.0),
    "a fifth thinks, lognormal sigma 1.2": lambda rng: 150 + (rng.random() < 0.2) * rng.lognormvariate(6.9, 1.2),
    "Pareto, alpha 1.5": lambda rng: 100 * rng.paretovariate(1.5),
    "one in 200 runs to the limit": lambda rng: MAX_TOKENS if rng.random() < 0.005 else 120,
}

TEXTS: dict[str, Draw] = {
    "English prose, 4.3 bytes a token": lambda rng: rng.gauss(4.3, 0.3),
    "short texts in long JSON, 9 bytes": lambda rng: rng.gauss(9, 1.0),
    "every fifth row Chinese, 2.6 bytes": lambda rng: rng.gauss(2.6 if rng.random() < 0.2 else 4.3, 0.2),
    "tables of digits, 1.3 bytes": lambda rng: rng.gauss(1.3, 0.05),
    "one row in 100 digits, ten times as long": lambda rng: rng.gauss(4.3, 0.3),
}
"""Bytes a token."""

LONG_ROWS = "one row in 100 digits, ten times as long"


class Held(NamedTuple):
    """In how many of :data:`RUNS` a range held, and its median width (high / low): at first, and knowing more."""

    name: str
    before: int
    width: float
    after: int
    narrower: float

    @classmethod
    def of(cls, name: str, found: Sequence[tuple[bool, float, bool, float]]) -> Held:
        """Sum runs up."""
        middle = len(found) // 2
        return cls(
            name,
            sum(each[0] for each in found),
            sorted(each[1] for each in found)[middle],
            sum(each[2] for each in found),
            sorted(each[3] for each in found)[middle],
        )


def output_runs(draw: Draw) -> list[tuple[bool, float, bool, float]]:
    """Return for each run whether the range held before and after the sample, and how wide it was (high / low)."""
    prices, found = PriceList(), []
    rates = prices.rates(MODEL, DAY)
    assert rates is not None
    counted = ((INPUT_BYTES, INPUT_TOKENS),) * MOST_ROWS
    for seed in range(RUNS):
        rng = random.Random(seed)
        lengths = [min(MAX_TOKENS, max(1, round(draw(rng)))) for _ in range(ROWS)]
        known = AnswerStats()
        for length in lengths[:SAMPLE]:
            known.add(length)
        before = estimate(prices, MODEL, InputMeasure(ROWS, ROWS * INPUT_BYTES, MAX_TOKENS, counted), at=DAY).dollars
        left = ROWS - SAMPLE
        rest = InputMeasure(left, left * INPUT_BYTES, MAX_TOKENS, counted)
        after = estimate(prices, MODEL, rest, known=known, at=DAY).dollars
        assert before is not None
        assert before.high is not None
        assert after is not None
        assert after.high is not None
        spent = float(rates.input) * INPUT_TOKENS * ROWS / 1e6 + float(rates.output or 0) * sum(lengths) / 1e6
        to_come = (
            float(rates.input) * INPUT_TOKENS * left / 1e6 + float(rates.output or 0) * sum(lengths[SAMPLE:]) / 1e6
        )
        found.append(
            (
                before.low <= spent <= before.high,
                before.high / before.low,
                after.low <= to_come <= after.high,
                after.high / after.low,
            )
        )
    return found


def input_runs(name: str, draw: Draw) -> list[tuple[bool, float, bool, float]]:
    """Return for each run whether the range of input tokens held by bytes and by count, and how wide it was."""
    found = []
    for seed in range(RUNS):
        rng = random.Random(seed)
        rows = [_row(name, draw, rng) for _ in range(ROWS)]
        size, tokens = (sum(each) for each in zip(*rows, strict=True))
        step = ROWS // MOST_ROWS
        counted = rows[:: step + 1][:MOST_ROWS]
        ranges = [InputMeasure(ROWS, size, counted=each).tokens for each in ((), counted)]
        held: list[float] = []
        for each in ranges:
            assert each.high is not None
            held += [each.low <= tokens <= each.high, each.high / each.low]
        found.append((bool(held[0]), held[1], bool(held[2]), held[3]))
    return found


def _row(name: str, draw: Draw, rng: random.Random) -> tuple[int, int]:
    size = round(rng.lognormvariate(6.5, 0.5))
    bytes_a_token = max(1.0, draw(rng))
    if name == LONG_ROWS and rng.random() < 0.01:
        size, bytes_a_token = 10 * size, 1.3
    return size, max(1, round(size / bytes_a_token))


def table() -> list[Held]:
    """Return a row for each distribution of output lengths: before the sample, and after it."""
    return [Held.of(name, output_runs(draw)) for name, draw in DISTRIBUTIONS.items()]


def input_table() -> list[Held]:
    """Return a row for each kind of text: by bytes, and by count."""
    return [Held.of(name, input_runs(name, draw)) for name, draw in TEXTS.items()]


def main() -> None:
    """Print the tables."""
    for title, before, after, found in (
        ("output tokens", "before", f"after {SAMPLE} rows", table()),
        ("input tokens", "by bytes", f"{MOST_ROWS} rows counted", input_table()),
    ):
        print(f"| {title} | {before}: held | width | {after}: held | width |")
        print("|---|---|---|---|---|")
        for each in found:
            print(
                f"| {each.name} | {each.before} of {RUNS} | x {each.width:.1f} | {each.after} of {RUNS} | "
                f"x {each.narrower:.2f} |"
            )
        print()


if __name__ == "__main__":
    main()
