# SPDX-License-Identifier: Apache-2.0
"""How many tokens rows hold: by count, by bytes, and what neither can say."""

from __future__ import annotations

import random

import pytest

from airflow_provider_gemini_batch.cost.input_measure import Counted, InputMeasure

EXAMPLE: Counted = [(400, 100 + sign * 8) for sign in (1, -1)] * 8


def test_worked_example_of_counted_rows_holds() -> None:
    found = InputMeasure(1000, 400_000, counted=EXAMPLE).tokens
    assert (found.low, found.likely, found.high) == (80_000, 100_000, 120_000)


def test_rows_that_differ_widen_the_range_beyond_a_fifth() -> None:
    differing = [(400, 100 + sign * 80) for sign in (1, -1)] * 8
    found = InputMeasure(1000, 400_000, counted=differing).tokens
    assert found.high is not None
    assert 155_000 < found.high < 165_000


def test_fewer_counted_rows_say_less() -> None:
    assert InputMeasure(1000, 400_000, counted=[(400, 100)] * 4).tokens.high == pytest.approx(140_000)


def test_a_count_of_all_rows_leaves_a_twentieth() -> None:
    measure = InputMeasure(16, 6_400, counted=EXAMPLE)
    assert measure.tokens.low == pytest.approx(1520)
    assert measure.tokens.high == pytest.approx(1680)
    assert measure.basis == "input counted"


def test_rows_that_are_not_counted_go_by_bytes() -> None:
    measure = InputMeasure(10, 4_000)
    assert (measure.tokens.low, measure.tokens.likely, measure.tokens.high) == (500, 1_000, 2_000)
    assert measure.basis == "input estimated at a token for 4 bytes"


def test_bytes_of_media_say_nothing() -> None:
    found = InputMeasure(10, 40_000_000, has_media=True).tokens
    assert (found.low, found.likely, found.high) == (10, None, None)


def test_counted_media_stand_for_others_by_number_without_an_upper_end() -> None:
    images = [(200, 260)] * 8 + [(9_000_000, 262)] * 8
    found = InputMeasure(100, 500_000_000, counted=images, has_media=True).tokens
    assert found.likely == 100 * 261
    assert found.high is None
    whole = InputMeasure(16, 72_000_000, counted=images, has_media=True).tokens
    assert whole.high == pytest.approx(1.05 * 16 * 261)


def test_a_part_counts_each_byte_as_in_the_densest_row() -> None:
    digits = [*EXAMPLE[:15], (400, 300)]
    whole = InputMeasure(1000, 400_000, counted=digits).tokens
    part = InputMeasure(100, 40_000, counted=digits, is_part=True).tokens
    assert whole.high is not None
    assert whole.high < 200_000
    assert part.high == pytest.approx(30_000)


@pytest.mark.parametrize("seed", range(20))
def test_counted_ranges_hold_for_rows_of_two_languages(seed: int) -> None:
    draw = random.Random(seed)
    rows = []
    for _ in range(2000):
        size = round(draw.lognormvariate(6, 0.5))
        rows.append((size, round(size / (4.2 if draw.random() < 0.8 else 2.5) * draw.uniform(0.9, 1.1))))
    found = InputMeasure(2000, sum(size for size, _ in rows), counted=draw.sample(rows, 16)).tokens
    assert found.high is not None
    assert found.low <= sum(tokens for _, tokens in rows) <= found.high
    assert found.high / found.low < 2.5
