# SPDX-License-Identifier: Apache-2.0
"""Estimates: ranges that hold, and what they rest on."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from airflow_provider_gemini_batch.cost.estimate import AnswerStats, RunPrices, estimate
from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
from airflow_provider_gemini_batch.cost.prices import PriceList, read_price_file
from airflow_provider_gemini_batch.errors import ConfigurationError
from benchmarks.estimates import LONG_ROWS, RUNS, Held, input_table, table

DAY = date(2026, 11, 27)
FLASH_LITE = "gemini-3.5-flash-lite"


def stats(*lengths: int) -> AnswerStats:
    known = AnswerStats()
    for length in lengths:
        known.add(length)
    return known


def test_upper_end_without_answers_is_every_row_at_its_limit() -> None:
    measure = InputMeasure(rows=1000, size=4_000_000, max_output_tokens=500)
    found = estimate(PriceList(), FLASH_LITE, measure, at=DAY).dollars
    assert found is not None
    assert found.high == pytest.approx(2_000_000 * 0.15e-6 + 1000 * 500 * 1.25e-6)
    assert found.likely is None


def test_worked_example_of_known_answers_holds() -> None:
    known = AnswerStats(count=100, total=20_000, squares=100 * 200**2 + 99 * 50**2)
    found = known.rest(1000)
    assert found is not None
    assert found.high is not None
    assert (round(found.low), found.likely, round(found.high)) == (184_268, 200_000, 215_732)


def test_too_few_answers_say_nothing() -> None:
    assert stats(*[200] * 29).rest(1000) is None
    assert stats(*[200] * 30).rest(1000) is not None


def test_unknown_model_has_no_dollars_but_tokens() -> None:
    found = estimate(PriceList(), "gemini-9-argon", InputMeasure(10, 4_000), at=DAY)
    assert found.dollars is None
    assert found.input_tokens.likely == 1_000
    assert "not known" in found.line()
    assert RunPrices(PriceList()).before("generate", "gemini-9-argon", InputMeasure(1, 10, 1)).dollars is None


def test_media_by_uri_have_no_upper_end() -> None:
    found = estimate(PriceList(), FLASH_LITE, InputMeasure(10, 4_000, 100, has_media=True), at=DAY)
    assert found.dollars is not None
    assert found.dollars.high is None
    assert "no upper end" in found.line()


def test_batch_is_half_of_single_calls() -> None:
    found = estimate(PriceList(), FLASH_LITE, InputMeasure(10, 4_000, 100), at=DAY)
    assert found.dollars is not None
    assert found.single is not None
    assert found.single.high == pytest.approx(2 * (found.dollars.high or 0))


def test_embeddings_have_no_output() -> None:
    found = estimate(PriceList(), "gemini-embedding-2", InputMeasure(10, 4_000), embeds=True, at=DAY)
    assert found.output_tokens.high == 0
    assert found.dollars is not None
    assert found.dollars.high == pytest.approx(2_000 * 0.10e-6)


TAILS = ("a fifth thinks, lognormal sigma 1.2", "Pareto, alpha 1.5", "one in 200 runs to the limit")
"""What 50 answers cannot show; docs/cost.md says how often the range then fails."""


@pytest.mark.parametrize("row", table(), ids=lambda row: row[0])
def test_ranges_hold_in_seeded_runs(row: Held) -> None:
    name, before, _, after, width = row
    assert before == RUNS
    if name not in TAILS:
        assert after >= 95
        assert width < 3


def test_own_prices_come_before_all_others() -> None:
    own = read_price_file('[{"model": "gemini-3.8-flash", "since": "2026-11-01", "input": 0.3, "output": 1.5}]')
    prices = PriceList(own)
    usage = {"promptTokenCount": 1_000_000, "candidatesTokenCount": 1_000_000}
    assert prices.cost_of(usage, "gemini-3.8-flash", DAY) == Decimal("1.8")
    assert prices.cost_of(usage, "gemini-3.8-flash", date(2026, 10, 31)) == Decimal("2.25")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("{}", "list of prices"),
        ("[1]", "price 1: it must be an object with a model"),
        ('[{"model": "m"}]', "price 1 (m): input is missing"),
        ('[{"model": "m", "input": -1}]', "price 1 (m), input must be dollars"),
        ('[{"model": "m", "input": 1, "since": "soon"}]', "since must be a day"),
        ('[{"model": "m", "input": 1, "outputs": 1}]', "unknown member outputs"),
    ],
)
def test_wrong_price_file_names_entry_and_member(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_price_file(text, "prices.json")
    assert says in str(caught.value)


def test_price_change_ahead_is_found() -> None:
    assert PriceList().changes("gemini-4-argon", DAY, 7) == date(2026, 12, 1)
    assert PriceList().changes("gemini-2.5-pro", DAY, 7) == date(2026, 12, 1)
    assert PriceList().changes(FLASH_LITE, DAY, 60) is None


@pytest.mark.parametrize("row", input_table(), ids=lambda row: row.name)
def test_counted_input_holds_where_bytes_do_not(row: Held) -> None:
    if row.name != LONG_ROWS:  # docs/cost.md says how often a rare row is missed
        assert row.after >= 95
        assert row.narrower < 2
    assert row.before in (0, RUNS)


def test_a_price_that_rises_while_a_job_may_run_is_in_the_upper_end() -> None:
    measure = InputMeasure(10, 4_000, 100)
    before, on_the_eve = (
        estimate(PriceList(), "gemini-4-argon", measure, at=date(2026, 11, day)).dollars for day in (27, 30)
    )
    assert before is not None
    assert on_the_eve is not None
    assert on_the_eve.high == pytest.approx(2 * (before.high or 0))
    assert on_the_eve.low == before.low


def test_pictures_are_in_the_upper_end_at_their_own_price() -> None:
    found = estimate(PriceList(), "gemini-3-pro-image", InputMeasure(10, 4_000, 1_000), at=DAY).dollars
    assert found is not None
    assert found.high is not None
    assert found.high >= 10 * 1_000 * 60e-6


@pytest.mark.parametrize(
    "model", ["", " ", "tunedModels/gemini-3.8-flash", "projects/p/locations/l/models/gemini-3.8-flash"]
)
def test_a_name_that_says_nothing_of_a_price_has_none(model: str) -> None:
    own = read_price_file('[{"model": "gemini-3.8-flash", "input": 1}]')
    assert PriceList(own).rates(model, DAY) is None
    assert PriceList().rates(model, DAY) is None


def test_a_tuned_model_may_have_a_price_of_its_own() -> None:
    prices = PriceList(read_price_file('[{"model": "tunedModels/mine", "input": 4}]'))
    assert prices.cost_of({"promptTokenCount": 1_000_000}, "tunedModels/mine", DAY) == 4


@pytest.mark.parametrize(
    "text",
    ['[{"model": " ", "input": 1}]', '[{"model": "m", "input": "1e5000"}]', "[" * 20_000,
     '[{"model": "m", "input": NaN}]', '[{"model": "m", "input": 1, "since": "2026-12-01T00:00:00+09:00"}]'],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_rubbish_in_a_price_file_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"prices\.json"):
        read_price_file(text, "prices.json")


def test_a_count_beyond_all_numbers_is_none() -> None:
    assert PriceList().cost_of({"promptTokenCount": "1" * 5_000}, "gemini-3.8-flash", DAY) == 0
