# SPDX-License-Identifier: Apache-2.0
"""A whole run against the emulator: each row asked once, one row in one row out."""

from __future__ import annotations

import datetime
import json

import pytest

from airflow_provider_gemini_batch.client import results
from airflow_provider_gemini_batch.errors import ConfigurationError, ResultsIncompleteError
from airflow_provider_gemini_batch.run.finish import RunFailedError
from airflow_provider_gemini_batch.run.schema import ResponseSchema
from tests.run.world import rows

REVIEW = {
    "type": "object",
    "properties": {
        "mood": {"type": "string", "enum": ["good", "bad"]},
        "stars": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["mood", "stars", "tags"],
}
ANSWER = json.dumps({"stars": 4, "mood": "good", "tags": ["a", "b"]})


def answering(text, *rules):
    """A job script: *rules* first, then *text* for every row."""
    return {"mode": "at_once", "shuffle": True, "rows": [*rules, {"outcome": "text", "text": text}]}


def test_rows_come_out_in_order_with_their_columns(both):
    both.emulator.script(mode="at_once", shuffle=True)
    manifest = both.attempt(both.spec(rows_per_job=8), rows(20, note="n"))
    table = both.table()
    assert [row["id"] for row in table] == [f"k{n}" for n in range(20)]
    assert list(table[0]) == [
        "id", "note", "text", "status", "error_code", "error_message", "finish_reason", "answer_source", "attempts",
        "model_version", "prompt_tokens", "output_tokens", "thoughts_tokens", "cached_tokens", "cost",
        "request_digest", "job_name",
    ]  # fmt: skip
    assert all(f"word-{n}-" in row["text"] for n, row in enumerate(table))
    assert manifest["counts"] == {"succeeded": 20}
    ((version, part),) = manifest["costs"].items()
    assert (version in manifest["model_versions"], part["rows"]) == (True, 20)
    assert part["input_tokens"] == manifest["tokens"]["prompt"]
    assert part["unknown"] == manifest["cost"]["rows_of_unknown_cost"]
    assert (part["cost"] or 0) == pytest.approx(manifest["cost"]["actual"])
    assert manifest["job_count"] == 3
    assert both.rows_run() == 20


def test_schema_becomes_typed_columns(both):
    both.emulator.script(**answering(ANSWER))
    both.attempt(both.spec(schema=ResponseSchema(REVIEW)), rows(3))
    assert [(row["mood"], row["stars"], row["tags"]) for row in both.table()] == [("good", 4, ["a", "b"])] * 3


def test_jsonl_output_keeps_types_and_order(world):
    world.emulator.script(**answering(ANSWER))
    source = [{"id": 1, "word": "a", "day": datetime.date(2026, 1, 2)}, {"id": 2, "word": "b", "day": None}]
    world.attempt(world.spec("out.jsonl", schema=ResponseSchema(REVIEW)), source)
    first, second = world.table("out.jsonl")
    assert (first["id"], first["day"], first["stars"], first["tags"]) == (1, "2026-01-02", 4, ["a", "b"])
    assert (second["id"], second["day"]) == (2, None)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "jsonl.gz", "csv.gz"])
def test_every_form_of_input_gives_the_same_requests(world, form, tmp_path):
    import duckdb

    world.emulator.script(mode="at_once")
    path = world.path(f"in.{form}")
    made = ", ".join(f"('{row['id']}', '{row['word']}')" for row in rows(5))
    kind = {"jsonl": "json", "csv": "csv, HEADER", "parquet": "parquet"}[form.split(".")[0]]
    compression = ", COMPRESSION gzip" if form.endswith(".gz") else ""
    duckdb.sql(f"COPY (SELECT * FROM (VALUES {made}) t(id, word)) TO '{path}' (FORMAT {kind}{compression})")
    world.attempt(world.spec(), path)
    found = [row["request_digest"] for row in world.table()]
    other = type(world)(world.emulator, tmp_path / "other")
    other.folder.mkdir()
    other.attempt(other.spec(), rows(5))
    assert [row["request_digest"] for row in other.table()] == found


SOME = range(100, 137)
BROKEN = range(200, 205)
REFUSED = range(300, 303)
DROPPED = 400


def rule(n, **outcome):
    return {"pattern": f"word-{n}-", **outcome}


LASTING = [
    *(rule(n, outcome="error", code=3, message="bad row") for n in REFUSED),
    rule(DROPPED, outcome="missing"),
]
PASSING = [
    *(rule(n, outcome="error", code=13, message="try again") for n in SOME),
    *(rule(n, outcome="text", text='{"mood": "fine"}') for n in BROKEN),
]


def test_thousand_rows_of_which_some_fail_each_get_one_row(world):
    schema = ResponseSchema(REVIEW)
    world.emulator.script(**answering(ANSWER, *PASSING, *LASTING), times=1)
    world.emulator.script(**answering(ANSWER, *LASTING))
    manifest = world.attempt(world.spec(schema=schema), rows(1000))
    table = world.table()
    assert [row["id"] for row in table] == [f"k{n}" for n in range(1000)]
    without = {
        row["id"]: (row["status"], row["error_code"], row["attempts"]) for row in table if row["status"] != "succeeded"
    }
    assert without == {**{f"k{n}": ("failed", 3, 1) for n in REFUSED}, f"k{DROPPED}": ("missing", None, 3)}
    assert {row["attempts"] for row in table if row["id"] in {f"k{n}" for n in (*SOME, *BROKEN)}} == {2}
    assert (manifest["counts"]["succeeded"], manifest["paid_twice"]) == (996, 0)
    executed = world.rows_run()
    assert executed <= 1046

    # A retry of the ended task executes nothing; a clear asks those without an answer alone.
    assert world.attempt(world.spec(schema=schema), rows(1000)) == manifest
    assert world.rows_run() == executed
    again = world.attempt(world.spec(schema=schema), rows(1000), occasion="cleared")
    assert (again["reused"], again["attempts"]) == (996, 3 + 3)

    # The next night, another piece of work takes what is there from the output.
    world.emulator.configure(script={})
    tonight = type(world)(world.emulator, world.folder / "tonight", task="fedcba9876543210")
    tonight.folder.mkdir()
    changed = [*rows(1000), *({"id": f"new{n}", "word": f"new-{n}-"} for n in range(10))]
    for n in range(500, 550):
        changed[n] = {"id": f"k{n}", "word": f"changed-{n}-"}
    before = world.emulator.ledger()["totals"]["rows"]
    night = tonight.attempt(tonight.spec(schema=schema, reuse=(world.path("out.parquet"),)), changed)
    assert (night["reused"], night["total"]) == (1010 - 64, 1010)
    asked = [row["id"] for row in tonight.table() if row["attempts"]]
    expected = {*(f"k{n}" for n in (*range(500, 550), *REFUSED, DROPPED)), *(f"new{n}" for n in range(10))}
    assert set(asked) == expected
    # The dropped one is asked up to max_row_attempts, all others once.
    assert world.emulator.ledger()["totals"]["rows"] - before == 64 + 2


def test_cut_off_answer_is_not_asked_again(world):
    world.emulator.script(mode="at_once", rows=[{"pattern": "word-1-", "outcome": "max_tokens"}])
    world.attempt(world.spec(), rows(3))
    row = world.table()[1]
    assert (row["status"], row["finish_reason"], row["attempts"]) == ("invalid", "MAX_TOKENS", 1)
    assert "raise max_output_tokens" in row["error_message"]


def test_blocked_row_says_why(world):
    world.emulator.script(
        mode="at_once", rows=[{"pattern": "word-1-", "outcome": "blocked_prompt", "reason": "SAFETY"}]
    )
    world.attempt(world.spec(), rows(3))
    assert [row["status"] for row in world.table()] == ["succeeded", "blocked", "succeeded"]


def test_job_that_fails_is_asked_again_as_a_round(world):
    world.emulator.script(mode="at_once", end={"state": "FAILED", "code": 13, "message": "oops"}, times=1)
    world.emulator.script(mode="at_once")
    manifest = world.attempt(world.spec(), rows(5))
    assert (manifest["counts"], manifest["rounds"]) == ({"succeeded": 5}, 2)
    assert [row["attempts"] for row in world.table()] == [2] * 5


def test_cut_result_is_read_again_instead_of_asked_again_until_it_will_not_change(both):
    both.emulator.script(mode="at_once", results_share=0.95, times=1)  # one answer is missing
    both.emulator.script(mode="at_once")
    for _ in range(2):
        with pytest.raises(ResultsIncompleteError, match="20"):
            both.attempt(both.spec(), rows(20))
    assert both.rows_run() == 20
    both.emulator.advance(7 * 3600)
    manifest = both.attempt(both.spec(), rows(20))
    assert (manifest["counts"], both.rows_run()) == ({"succeeded": 20}, 21)
    assert manifest["answers_lost"] == 1


def test_row_that_is_dropped_each_time_ends_as_missing_also_alone_in_its_job(both):
    both.emulator.script(mode="at_once", rows=[rule(1, outcome="missing")])
    manifest = both.attempt(both.spec(), rows(2))
    assert (manifest["counts"], both.rows_run()) == ({"succeeded": 1, "missing": 1}, 4)


def test_answers_that_come_late_are_waited_for(both, monkeypatch):
    both.emulator.script(mode="at_once", output_after=30)

    def pause(seconds):
        both.emulator.advance(seconds)
        yield from ()

    monkeypatch.setattr(results, "_pause", pause)
    manifest = both.attempt(both.spec(), rows(20))
    assert (manifest["counts"], both.rows_run()) == ({"succeeded": 20}, 20)


def test_too_many_failed_rows_fail_the_run_after_publishing(world):
    world.emulator.script(mode="at_once", rows=[{"pattern": "word-[0-4]-", "outcome": "error", "code": 3}])
    with pytest.raises(RunFailedError, match="5 of 20 rows have no usable answer") as failure:
        world.attempt(world.spec(max_failed_rows=0.1), rows(20))
    assert len(world.table()) == 20
    assert failure.value.manifest["counts"] == {"succeeded": 15, "failed": 5}


def test_errors_file_holds_what_was_asked(world):
    world.emulator.script(mode="at_once", rows=[{"pattern": "word-3-", "outcome": "error", "code": 3, "message": "no"}])
    spec = world.spec(errors_path=world.path("errors.jsonl"))
    world.attempt(spec, rows(5, note="n"))
    (row,) = world.table("errors.jsonl")
    assert (row["id"], row["note"], row["prompt"], row["status"], row["error_code"]) == (
        "k3", "n", "Say word-3-", "failed", 3,
    )  # fmt: skip


def test_equal_requests_are_asked_once_where_that_is_wanted(world):
    world.emulator.script(mode="at_once")
    source = [{"id": n, "word": f"word-{n % 3}-"} for n in range(9)]
    manifest = world.attempt(world.spec(deduplicate=True), source)
    table = world.table()
    assert world.rows_run() == 3
    assert [row["answer_source"] for row in table] == ["batch"] * 3 + ["duplicate"] * 6
    assert [row["text"] for row in table] == [table[n % 3]["text"] for n in range(9)]
    assert (manifest["duplicates"], manifest["attempts"]) == (6, 3)


def test_answer_of_a_duplicate_is_reused_for_each_row(world):
    world.emulator.script(mode="at_once")
    source = [{"id": n, "word": f"word-{n % 3}-"} for n in range(9)]
    world.attempt(world.spec(deduplicate=True), source)
    spec = world.spec(deduplicate=True, reuse=(world.path("out.parquet"),))
    manifest = world.attempt(spec, [*source, {"id": 9, "word": "new"}, {"id": 10, "word": "new"}], occasion="other")
    assert (manifest["reused"], manifest["duplicates"]) == (9, 1)
    assert [row["id"] for row in world.table()] == list(range(11))
    assert world.rows_run() == 4


def texts_of_parts(world):
    """Return ids and texts of each part of an output that is a folder."""
    names = json.loads((world.folder / "parts" / "_manifest.json").read_text())["parts"]
    return [[(row["id"], row["text"]) for row in world.table(f"parts/{name}")] for name in names]


def test_long_answers_behind_short_ones_go_to_parts_of_bounded_size(world):
    long = {"pattern": r"word-2\d\d\d-", "outcome": "text", "text": "long " * 200_000}
    world.emulator.script(mode="at_once", shuffle=True, rows=[long])
    source = [{"id": n, "word": f"word-{n}-"} for n in range(2040)]
    world.attempt(world.spec("parts"), source)
    parts = texts_of_parts(world)
    assert [n for part in parts for n, _ in part] == list(range(2040))
    assert all(len(text) == 1_000_000 if n >= 2000 else f"word-{n}-" in text for part in parts for n, text in part)
    assert max(sum(len(text) for _, text in part) for part in parts) < 36_000_000


def test_long_answer_stands_beside_each_duplicate(world):
    world.emulator.script(
        mode="at_once",
        rows=[{"pattern": f"word-{n}-", "outcome": "text", "text": f"{n} " * 250_000} for n in range(2)],
    )
    source = [{"id": n, "word": f"word-{n % 2}-"} for n in range(120)]
    manifest = world.attempt(world.spec("parts", deduplicate=True), source)
    assert world.rows_run() == 2
    assert (manifest["counts"], manifest["duplicates"]) == ({"succeeded": 120}, 118)
    parts = texts_of_parts(world)
    assert [(n, text[0]) for part in parts for n, text in part] == [(n, str(n % 2)) for n in range(120)]
    assert max(sum(len(text) for _, text in part) for part in parts) < 36_000_000


def test_errors_of_a_sample_stand_beside_their_own_prompts(world):
    world.emulator.script(mode="at_once", rows=[{"outcome": "error", "code": 3, "message": "no"}])
    spec = world.spec(errors_path=world.path("errors.jsonl"), sample=7)
    with pytest.raises(RunFailedError):
        world.attempt(spec, rows(50))
    found = world.table("errors.sample.jsonl")
    assert len(found) == 7
    assert all(row["prompt"] == f"Say word-{row['id'][1:]}-" for row in found)


def test_run_without_errors_leaves_an_empty_errors_file(world):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec(errors_path=world.path("errors.jsonl")), rows(3))
    assert world.table("errors.jsonl") == []


def test_sample_asks_a_part_and_writes_beside_the_output(world):
    world.emulator.script(mode="at_once")
    manifest = world.attempt(world.spec(sample=4), rows(50))
    assert (manifest["total"], manifest["input_rows"]) == (4, 50)
    assert world.rows_run() == 4
    assert len(world.table("out.sample.parquet")) == 4


@pytest.mark.parametrize("folder", ["table", "table.d"])
def test_sample_of_a_folder_is_a_folder_beside_it(world, folder):
    world.emulator.script(mode="at_once")
    manifest = world.attempt(world.spec(folder, sample=2), rows(5))
    assert manifest["output_path"].startswith(world.path("table.sample"))
    whole = world.attempt(world.spec(folder, reuse=(manifest["output_path"],)), rows(5), occasion="whole")
    assert (whole["reused"], world.rows_run()) == (2, 5)


def test_sample_is_reused_by_the_whole_run(world, tmp_path):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec(sample=4), rows(50))
    whole = type(world)(world.emulator, tmp_path / "whole")
    whole.folder.mkdir()
    manifest = whole.attempt(whole.spec(reuse=(world.path("out.sample.parquet"),)), rows(50))
    assert manifest["reused"] == 4
    assert world.rows_run() == 50


@pytest.mark.parametrize(("most", "reused"), [(24 * 3600.0, 3), (3600.0, 0)])
def test_answers_beyond_reuse_max_age_are_asked_again(world, tmp_path, most, reused):
    world.emulator.script(mode="at_once")
    world.emulator.advance(-7200)
    world.attempt(world.spec(), rows(3))
    other = type(world)(world.emulator, tmp_path / "other", task="fedcba9876543210")
    other.folder.mkdir()
    manifest = other.attempt(other.spec(reuse=(world.path("out.parquet"),), reuse_max_age=most), rows(3))
    assert (manifest["reused"], world.rows_run()) == (reused, 6 - reused)


def test_changed_prompt_reuses_nothing(world):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec(), rows(3))
    manifest = world.attempt(
        world.spec(prompt="Shout {{ row.word }}", reuse=(world.path("out.parquet"),)), rows(3), occasion="other"
    )
    assert manifest["reused"] == 0
    assert world.rows_run() == 6


def test_embeddings_are_lists_of_equal_length(both):
    both.emulator.script(mode="at_once", shuffle=True)
    spec = both.spec(kind="embed", model="gemini-embedding-001", prompt="{{ row.word }}", output_dimensionality=16)
    both.attempt(spec, rows(5))
    assert [len(row["embedding"]) for row in both.table()] == [16] * 5


def test_folder_of_parts_is_whole_through_its_manifest(world):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec("parts"), rows(5))
    first = json.loads((world.folder / "parts" / "_manifest.json").read_text())["parts"]
    world.attempt(world.spec("parts"), rows(7), occasion="again")
    second = json.loads((world.folder / "parts" / "_manifest.json").read_text())["parts"]
    assert not set(first) & set(second)
    assert sorted(path.name for path in (world.folder / "parts").glob("*.parquet")) == second
    assert sum(len(world.table(f"parts/{name}")) for name in second) == 7


def test_rows_in_the_wire_form_need_no_template(world):
    world.emulator.script(mode="at_once")
    source = [{"id": n, "request": {"contents": [{"parts": [{"text": f"word-{n}-"}]}]}} for n in range(3)]
    world.attempt(world.spec(prompt=None), source)
    assert [row["id"] for row in world.table()] == [0, 1, 2]
    assert all(f"word-{n}-" in row["text"] for n, row in enumerate(world.table()))


def test_columns_keep_the_order_of_the_input(world):
    world.emulator.script(mode="at_once")
    source = [{"z": 1, "id": 2, "b": 3, "word": "w", "a": 4}]
    world.attempt(world.spec(key=("z", "id")), source)
    assert list(world.table()[0])[:5] == ["z", "id", "b", "a", "text"]


def test_rows_without_a_key_are_numbered(world):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec(key=()), [{"word": "a"}, {"word": "b"}])
    assert [row["key"] for row in world.table()] == ["row-1", "row-2"]


def test_input_without_rows_is_an_error(world):
    with pytest.raises(ConfigurationError, match="has no rows"):
        world.attempt(world.spec(), [])
    assert world.emulator.ledger()["totals"]["created"] == 0


def test_rows_left_after_a_round_are_asked_over_flex(world):
    world.emulator.script(mode="at_once", rows=[{"pattern": "word-[13]-", "outcome": "error", "code": 13}], times=1)
    manifest = world.attempt(world.spec(retry_tier="flex"), rows(5))
    table = world.table()
    assert [row["answer_source"] for row in table] == ["batch", "flex", "batch", "flex", "batch"]
    assert [row["attempts"] for row in table] == [1, 2, 1, 2, 1]
    assert manifest["job_count"] == 1
    assert all(f"word-{n}-" in row["text"] for n, row in enumerate(table))


def test_flex_is_refused_on_vertex_before_money(gemini_batch_emulator, tmp_path):
    from tests.run.world import World

    vertex = World(gemini_batch_emulator, tmp_path, "vertex_ai")
    with pytest.raises(ConfigurationError, match="Developer API alone"):
        vertex.attempt(vertex.spec(retry_tier="flex"), rows(2))


def test_cost_of_each_row_adds_up_to_the_manifest(world):
    from airflow_provider_gemini_batch.cost.estimate import RunPrices
    from airflow_provider_gemini_batch.cost.prices import PriceList

    world.emulator.script(mode="at_once", rows=[{"pattern": "word-1-", "outcome": "error", "code": 13, "first": 1}])
    manifest = world.attempt(world.spec(), rows(4), prices=RunPrices(PriceList()))
    costs = [row["cost"] for row in world.table()]
    assert all(cost and cost > 0 for cost in costs)
    assert manifest["cost"]["actual"] == pytest.approx(sum(costs))


def test_cap_that_one_job_passes_submits_nothing(world):
    from airflow_provider_gemini_batch.cost.estimate import RunPrices
    from airflow_provider_gemini_batch.cost.prices import PriceList

    with pytest.raises(RunFailedError, match="max_cost"):
        world.attempt(world.spec(max_cost=0.0000001), rows(4), prices=RunPrices(PriceList()))
    assert world.emulator.ledger()["totals"]["created"] == 0
    assert [row["status"] for row in world.table()] == ["missing"] * 4


def test_cap_on_input_tokens_stops_before_it_is_passed(world):
    world.emulator.script(mode="at_once")
    with pytest.raises(RunFailedError, match="max_input_tokens"):
        world.attempt(world.spec(max_input_tokens=1), rows(4))
    assert world.emulator.ledger()["totals"]["created"] == 0
    assert world.attempt(world.spec(max_input_tokens=100_000), rows(4), occasion="again")["succeeded"] == 4


def test_row_of_nulls_alone_is_refused_before_money(world):
    source = [*rows(2), {"id": "k2", "word": None}]
    with pytest.raises(ConfigurationError, match=r"row 3 \(key 'k2'\): the column word is null.*row\.word or"):
        world.attempt(world.spec(), source)
    assert world.emulator.ledger()["totals"]["created"] == 0


def test_prompt_that_shows_no_column_is_warned_about(world, caplog):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec(prompt="Say hello"), rows(3))
    assert "prompt shows no column, so that all 3 rows ask for the same" in caplog.text


def test_last_line_of_a_run_says_what_came_and_where(world, caplog):
    world.emulator.script(mode="at_once")
    with caplog.at_level("INFO"):
        world.attempt(world.spec(deduplicate=True), [{"id": n, "word": "same"} for n in range(3)])
    line = caplog.messages[-1]
    assert f"3 rows (3 succeeded) in {world.path('out.parquet')}; 1 job; cost " in line
    assert line.endswith("; 0 rows reused, 2 duplicates.")
