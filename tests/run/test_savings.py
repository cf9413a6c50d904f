# SPDX-License-Identifier: Apache-2.0
"""What a run saved: batch against single calls, answers taken over, answers shared; as its manifest and spend tell."""

from __future__ import annotations

import pytest

from airflow_provider_gemini_batch.cost.estimate import RunPrices
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.cost.spend import summed
from tests.run.world import MODEL, World, rows


def priced(world: World, spec, source, **more):
    return world.attempt(spec, source, prices=RunPrices(PriceList()), **more)


def test_single_calls_cost_twice_what_batch_did(both: World) -> None:
    manifest = priced(both, both.spec(), rows(6))
    cost = manifest["cost"]
    assert cost["actual"] > 0
    assert cost["single_calls"] == pytest.approx(2 * cost["actual"])
    assert (cost["saved_by_reuse"], cost["saved_by_deduplication"]) == (0, 0)
    (part,) = manifest["costs"].values()
    assert part["single_calls"] == pytest.approx(cost["single_calls"])
    assert part["saved"] == 0


def test_reuse_saves_what_the_answers_cost_before(world: World) -> None:
    first = priced(world, world.spec("first.parquet"), rows(6), occasion="a")
    again = world.spec("again.parquet", reuse=(world.path("first.parquet"),))
    second = priced(world, again, rows(8), occasion="b")
    assert (second["reused"], second["counts"]["succeeded"]) == (6, 8)
    assert second["cost"]["saved_by_reuse"] == pytest.approx(first["cost"]["actual"])
    assert 0 < second["cost"]["actual"] < first["cost"]["actual"]
    assert second["cost"]["single_calls"] == pytest.approx(2 * second["cost"]["actual"])


def test_a_run_that_asked_nothing_tells_what_it_saved(world: World) -> None:
    first = priced(world, world.spec("first.parquet"), rows(3), occasion="a")
    again = world.spec("again.parquet", reuse=(world.path("first.parquet"),))
    second = priced(world, again, rows(3), occasion="b")
    assert second["cost"]["actual"] == second["cost"]["single_calls"] == 0
    (part,) = second["costs"].values()
    assert (part["rows"], part["cost"]) == (0, 0)
    assert part["saved"] == pytest.approx(first["cost"]["actual"])


def test_deduplication_saves_each_answer_that_is_shared(world: World) -> None:
    same = [{"id": f"k{n}", "word": "one"} for n in range(5)]
    manifest = priced(world, world.spec(deduplicate=True), same)
    assert manifest["duplicates"] == 4
    assert manifest["cost"]["saved_by_deduplication"] == pytest.approx(4 * manifest["cost"]["actual"])


def test_unknown_prices_save_nothing_that_is_known(world: World) -> None:
    same = [{"id": f"k{n}", "word": "one"} for n in range(3)]
    manifest = world.attempt(world.spec(deduplicate=True), same)
    assert manifest["cost"]["saved_by_deduplication"] is None
    assert next(iter(manifest["costs"].values()))["saved"] is None


def test_spend_sums_up_what_was_saved(world: World) -> None:
    first = priced(world, world.spec("first.parquet"), rows(4), occasion="a")
    again = world.spec("again.parquet", reuse=(world.path("first.parquet"),))
    second = priced(world, again, rows(5), occasion="b")
    found = [{"dag_id": "d", "ended_at": "2026-11-27T10:00:00", "manifest": each} for each in (first, second)]
    (total,) = summed(found, ["model"])
    assert total["model"] == MODEL
    assert total["saved"] == pytest.approx(first["cost"]["actual"])
    assert total["single_calls"] == pytest.approx(2 * total["cost"])
