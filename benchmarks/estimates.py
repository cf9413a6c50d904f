# SPDX-License-Identifier: Apache-2.0
"""
``python -m benchmarks.estimates``: how often an estimate's range holds what a run then costs.

For each distribution of output lengths, 100 seeded runs of 1,000 rows: the range before anything is known, and after a
sample of 50 rows, against what the 1,000 rows cost. Lengths are drawn here, not by a model: the distributions are
stated, and heavier tails than real ones are among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date

from airflow_provider_gemini_batch.cost.estimate import AnswerStats, InputMeasure, estimate
from airflow_provider_gemini_batch.cost.prices import PriceList

MODEL, DAY, ROWS, SAMPLE, RUNS = "gemini-3.5-flash-lite", date(2026, 11, 27), 1_000, 50, 100
MAX_TOKENS = 8_192
INPUT_TOKENS = 400

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


def runs(draw: Draw) -> list[tuple[bool, float, bool, float]]:
    """Return for each run whether the range held before and after the sample, and how wide it was (high / low)."""
    prices, found = PriceList(), []
    rates = prices.rates(MODEL, DAY)
    assert rates is not None
    for seed in range(RUNS):
        rng = random.Random(seed)
        lengths = [min(MAX_TOKENS, max(1, round(draw(rng)))) for _ in range(ROWS)]
        measure = InputMeasure(ROWS, ROWS * INPUT_TOKENS * 4, MAX_TOKENS, ROWS * INPUT_TOKENS * 4, ROWS * INPUT_TOKENS)
        known = AnswerStats()
        for length in lengths[:SAMPLE]:
            known.add(length)
        before = estimate(prices, MODEL, measure, at=DAY).dollars
        rest = InputMeasure(
            ROWS - SAMPLE, (ROWS - SAMPLE) * INPUT_TOKENS * 4, MAX_TOKENS,
            (ROWS - SAMPLE) * INPUT_TOKENS * 4, (ROWS - SAMPLE) * INPUT_TOKENS,
        )  # fmt: skip
        after = estimate(prices, MODEL, rest, known=known, at=DAY).dollars
        assert before is not None
        assert before.high is not None
        assert after is not None
        assert after.high is not None
        spent = float(rates.input) * INPUT_TOKENS * ROWS / 1e6 + float(rates.output or 0) * sum(lengths) / 1e6
        left = float(rates.input) * INPUT_TOKENS * (ROWS - SAMPLE) / 1e6
        left += float(rates.output or 0) * sum(lengths[SAMPLE:]) / 1e6
        found.append(
            (
                before.low <= spent <= before.high,
                before.high / before.low,
                after.low <= left * 1.0000001 and left <= after.high * 1.0000001,
                after.high / after.low,
            )
        )
    return found


def table() -> list[tuple[str, int, float, int, float]]:
    """Return a row for each distribution: name, held and median width before, held and median width after."""
    rows = []
    for name, draw in DISTRIBUTIONS.items():
        found = runs(draw)
        middle = len(found) // 2
        rows.append(
            (
                name,
                sum(each[0] for each in found),
                sorted(each[1] for each in found)[middle],
                sum(each[2] for each in found),
                sorted(each[3] for each in found)[middle],
            )
        )
    return rows


def main() -> None:
    """Print the table."""
    print("| output tokens | before: held | width | after 50 rows: held | width |")
    print("|---|---|---|---|---|")
    for name, held, width, later, narrower in table():
        print(f"| {name} | {held} of {RUNS} | x {width:.1f} | {later} of {RUNS} | x {narrower:.2f} |")


if __name__ == "__main__":
    main()
