# SPDX-License-Identifier: Apache-2.0
"""``on_bad_row="land"``: a row that cannot be sent is a row of the output that says why; the others are asked."""

from __future__ import annotations

import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.dry_run import plan_of
from airflow_provider_gemini_batch.run.finish import RunFailedError
from tests.run.world import rows


def with_bad_rows(*numbers):
    """Return ten rows, of which some have no word."""
    return [{**row, "word": None} if n in numbers else row for n, row in enumerate(rows(10))]


def test_row_of_nulls_lands_as_failed_and_the_others_are_asked(both):
    both.emulator.script(mode="at_once")
    manifest = both.attempt(both.spec(on_bad_row="land"), with_bad_rows(3, 7))
    table = both.table()
    assert [row["id"] for row in table] == [f"k{n}" for n in range(10)]
    bad = [row for row in table if row["status"] != "succeeded"]
    shown = [(row["id"], row["status"], row["attempts"], row["cost"], row["answer_source"]) for row in bad]
    assert shown == [("k3", "failed", 0, 0.0, None), ("k7", "failed", 0, 0.0, None)]
    assert bad[0]["error_message"].startswith("not sent: row 4 (key 'k3'): the column word is null")
    assert bad[0]["request_digest"] is None
    assert (manifest["counts"], manifest["reused"]) == ({"succeeded": 8, "failed": 2}, 0)
    assert both.rows_run() == 8


@pytest.mark.parametrize(
    ("prompt", "said"), [("{{ 10 // row.n }}", "the prompt's template fails"), ("{{ row.word * row.n }}", "is empty")]
)
def test_row_whose_template_fails_lands(world, prompt, said):
    world.emulator.script(mode="at_once")
    source = [{**row, "n": n} for n, row in enumerate(rows(3))]
    world.attempt(world.spec(prompt=prompt, on_bad_row="land"), source)
    assert [row["status"] for row in world.table()] == ["failed", "succeeded", "succeeded"]
    assert said in world.table()[0]["error_message"]


def test_request_that_is_none_lands(world):
    world.emulator.script(mode="at_once")
    source = [{"id": "a", "prompt": "Say a"}, {"id": "b", "prompt": ""}, {"id": "c", "prompt": "Say c"}]
    world.attempt(world.spec(prompt=None, on_bad_row="land"), source)
    assert [row["status"] for row in world.table()] == ["succeeded", "failed", "succeeded"]


def test_unsent_rows_stand_in_the_errors_file_and_with_duplicates(world):
    world.emulator.script(mode="at_once")
    place = world.path("errors.jsonl")
    source = [*with_bad_rows(0, 1, 2), {"id": "k10", "word": "word-9-"}]
    manifest = world.attempt(world.spec(on_bad_row="land", deduplicate=True, errors_path=place), source)
    assert [(row["id"], row["prompt"]) for row in world.table("errors.jsonl")] == [
        ("k0", None),
        ("k1", None),
        ("k2", None),
    ]
    assert (manifest["counts"], manifest["duplicates"]) == ({"succeeded": 8, "failed": 3}, 1)


def test_unsent_rows_count_as_failed(world):
    with pytest.raises(RunFailedError, match="10 of 10"):
        world.attempt(world.spec(on_bad_row="land", max_failed_rows=0.5), with_bad_rows(*range(10)))
    assert world.emulator.ledger()["totals"]["created"] == 0
    assert len(world.table()) == 10


def test_clear_asks_a_row_that_was_mended(world):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec(on_bad_row="land"), with_bad_rows(3))
    manifest = world.attempt(world.spec(on_bad_row="land"), rows(10), occasion="cleared")
    assert (manifest["counts"], manifest["reused"]) == ({"succeeded": 10}, 9)
    assert world.rows_run() == 10


def test_plan_tells_the_rows_that_cannot_be_sent(world):
    plan = plan_of(world.spec(on_bad_row="land"), world.context(with_bad_rows(3, 7)))
    assert (plan["rows_to_ask"], plan["rows_unsent"], plan["rows_reused"]) == (8, 2, 0)


@pytest.mark.parametrize(
    ("sample", "facts"), [(2, (2, 0, 0)), (9, (8, 0, 1)), (10, (8, 0, 2))], ids=["sendable", "some", "all"]
)
def test_plan_of_a_sample_counts_the_rows_of_the_sample(world, sample, facts):
    plan = plan_of(world.spec(on_bad_row="land", sample=sample), world.context(with_bad_rows(3, 7)))
    assert (plan["rows_to_ask"], plan["rows_reused"], plan["rows_unsent"]) == facts


def test_sample_lands_the_unsent_rows_that_it_holds(world):
    world.emulator.script(mode="at_once")
    manifest = world.attempt(world.spec(on_bad_row="land", sample=9), with_bad_rows(3, 7))
    assert (manifest["counts"], manifest["reused"]) == ({"succeeded": 8, "failed": 1}, 0)


def test_plan_tells_duplicates_from_reused_rows(world):
    source = [*rows(3), {"id": "again", "word": "word-0-"}]
    plan = plan_of(world.spec(deduplicate=True), world.context(source))
    assert (plan["rows_to_ask"], plan["rows_reused"], plan["rows_duplicate"]) == (3, 0, 1)


def test_choice_that_is_none_is_an_error(world):
    with pytest.raises(ConfigurationError, match="on_bad_row must be fail or land, not 'skip'"):
        world.attempt(world.spec(on_bad_row="skip"), rows(2))
