# SPDX-License-Identifier: Apache-2.0
"""What a sample says of the whole."""

from __future__ import annotations

import random
import statistics

from airflow_provider_gemini_batch.cost.estimate import RunPrices
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.run.projection import Sampled
from tests.run.world import rows


def test_sample_projects_cost_and_failures_of_the_whole(world):
    world.emulator.script(
        mode="at_once", rows=[{"pattern": r"word-\d*[05]-", "outcome": "error", "code": 3, "message": "no"}]
    )
    spec = world.spec(sample=100)
    manifest = world.attempt(spec, rows(400), prices=RunPrices(PriceList()))
    shown = manifest["projection"]
    actual = world.attempt(world.spec("all.parquet"), rows(400), prices=RunPrices(PriceList()), occasion="other")
    assert shown["rows"] == 400
    assert shown["failed"]["low"] <= actual["counts"]["failed"] <= shown["failed"]["high"]
    cost = manifest["cost"]["actual"] + actual["cost"]["actual"]
    assert shown["cost"]["low"] <= cost <= shown["cost"]["high"]


def test_whole_run_projects_nothing(world):
    world.emulator.script(mode="at_once")
    assert "projection" not in world.attempt(world.spec(), rows(3))


def test_range_holds_in_nearly_all_draws():
    draw = random.Random(1)
    held = 0
    for _ in range(300):
        costs = [draw.lognormvariate(-8, 0.6) for _ in range(2000)]
        failed = [draw.random() < 0.03 for _ in costs]
        sample = draw.sample(range(2000), 60)
        known = [costs[n] for n in sample]
        found = Sampled(60, sum(failed[n] for n in sample), sum(known), statistics.variance(known))
        shown = found.of(2000)
        held += all(
            shown[what]["low"] - 1e-6 <= actual <= shown[what]["high"] + 1e-6
            for what, actual in (("cost", sum(costs)), ("failed", sum(failed)))
        )
    assert held >= 290


def test_few_rows_promise_no_upper_end():
    found = Sampled(10, 0, 0.01).of(1000)
    assert found["cost"] == {"low": 0.01, "likely": 1.0, "high": None}
    assert found["failed"]["high"] is None


def test_sample_of_all_rows_is_what_it_is():
    found = Sampled(50, 2, 0.5, 0.1).of(50)
    assert found["cost"] == {"low": 0.5, "likely": 0.5, "high": 0.5}
    assert found["failed"] == {"low": 2, "likely": 2, "high": 2}


def test_unknown_price_is_said_and_never_zero():
    found = Sampled(50, 0, None)
    assert found.of(1000)["cost"] is None
    assert "unknown price" in found.line(1000)


def test_first_answers_say_what_the_rest_will_cost(world, caplog):
    caplog.set_level("INFO")
    world.emulator.script(mode="at_once")
    world.attempt(world.spec(rows_per_job=40), rows(120), prices=RunPrices(PriceList()))
    said = [line for line in caplog.messages if "will cost" in line]
    assert len(said) == 2  # not after the last job: then it is known
    assert said[0].startswith("40 of 120 rows are collected, for ")
    assert "at most" in said[0]
