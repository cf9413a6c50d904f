# SPDX-License-Identifier: Apache-2.0
"""Answers of earlier outputs come back as they were, from each form of output and beside changed columns."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.cost.estimate import RunPrices
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.cost.spend import summed
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.run import parts
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.run.schema import ResponseSchema
from airflow_provider_gemini_batch.run.sources import QuerySource
from tests.run.test_caps import CountingFolder
from tests.run.test_run import REVIEW, answering, rule
from tests.run.world import read_table, rows


def night(world, number, source, *, output=None, **members):
    """Run a task instance of its own."""
    spec = world.spec(output or f"night-{number}.parquet", **members)
    return world.attempt(spec, source, checkpoint=Folder(world.path(f"checkpoint-{number}"), settle=0.0))


FREE = {
    "type": "object",
    "properties": {
        "any": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "things": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        "facts": {
            "type": "object",
            "properties": {
                "day": {"type": "string", "format": "date"},
                "n": {"type": "array", "items": {"type": "number"}},
            },
        },
        "text": {"type": "string"},
        "moment": {"type": "string", "format": "date-time"},
    },
}
ODD = (
    {"any": "x", "things": [{"x": 1}], "facts": {"day": "2026-01-02", "n": [1, 2.5]}, "text": ""},
    {"any": 5, "things": [], "facts": {"n": []}, "text": "null", "moment": "2026-01-02T03:04:05Z"},
    {"any": "null", "text": " padded "},
    {"any": '"quoted"', "text": "1.10", "moment": "2026-01-02T03:04:05.123456+05:00"},
)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_values_of_each_type_come_back_as_they_were(world, suffix):
    rules = [rule(n, outcome="text", text=json.dumps(each)) for n, each in enumerate(ODD)]
    world.emulator.script(**answering("{}", *rules))
    schema = ResponseSchema(FREE)
    for number, reuse in ((1, ()), (2, (world.path(f"night-1.{suffix}"),))):
        found = night(world, number, rows(5), output=f"night-{number}.{suffix}", schema=schema, reuse=reuse)
    assert found["reused"] == 5

    def shown(number):
        path = world.path(f"night-{number}.{suffix}")
        if suffix == "csv":
            with open(path, newline="") as file:
                table = list(csv.DictReader(file))
        else:
            table = read_table(path)
        return [{name: row[name] for name in FREE["properties"]} for row in table]

    assert shown(2) == shown(1)


def test_nights_with_other_columns_are_reused_together(world):
    world.emulator.script(mode="at_once")
    night(world, 1, rows(3, extra=1))
    night(world, 2, rows(4))
    assert night(world, 3, rows(5), output="out.parquet", reuse=(world.path("night-*.parquet"),))["reused"] == 4


def test_changed_schema_reuses_nothing_and_says_so(world, caplog):
    caplog.set_level(logging.INFO)
    world.emulator.script(**answering('{"stars": 4, "mood": "good", "tags": []}'))
    night(world, 1, rows(3))
    night(world, 2, rows(3), schema=ResponseSchema(REVIEW), reuse=(world.path("night-1.parquet"),))
    assert "0 of 3 rows take an answer" in caplog.text


def test_answers_given_over_flex_have_an_age(world):
    world.emulator.script(mode="at_once", rows=[{"outcome": "error", "code": 13}], times=1)
    night(world, 1, rows(3), retry_tier="flex")
    found = night(world, 2, rows(3), reuse=(world.path("night-1.parquet"),), reuse_max_age=1e6)
    assert found["reused"] == 3


def test_folder_as_input_is_what_its_manifest_names(world):
    world.emulator.script(mode="at_once")
    night(world, 1, rows(3), output="table")
    (part,) = Path(world.path("table")).glob("*.parquet")
    shutil.copy(part, part.with_name("part-dead-1.parquet"))
    found = night(world, 2, world.path("table"), prompt="Again {{ row.text }}", keep_columns=())
    assert found["total"] == 3


def test_writers_of_one_folder_lose_no_part_of_each_other(tmp_path):
    # The second writer publishes while the first one has read the folder and has not written its manifest.
    class Late(Folder):
        seen = False

        def names(self):
            found = super().names()
            if not Late.seen:
                Late.seen = True
                parts.publish(Folder(str(tmp_path)), "part-b", ["part-b-1.parquet"])
            return found

    parts.publish(Late(str(tmp_path)), "part-a", ["part-a-1.parquet"])
    named = json.loads((tmp_path / parts.MANIFEST).read_text())["parts"]
    assert named == ["part-a-1.parquet", "part-b-1.parquet"]


def test_objects_of_json_lines_are_objects_in_json_lines(world):
    world.emulator.script(mode="at_once")
    night(world, 1, rows(2, facts={"a": [1, None]}), output="out.jsonl")
    assert world.table("out.jsonl")[0]["facts"] == {"a": [1, None]}


@pytest.mark.parametrize(("value", "shown"), [("sum(x)", "6"), ("sum(x) * 9000000000000000000", "54" + "0" * 18)])
def test_sum_of_a_query_shows_as_the_integer_it_is(world, value, shown):
    world.emulator.script(mode="at_once")
    source = QuerySource(f"SELECT 'k' AS id, {value} AS total FROM range(4) t(x)")
    night(world, 1, source, prompt="Add {{ row.total }}")
    assert world.table("night-1.parquet")[0]["text"].endswith(f"Add {shown}")


def test_changed_columns_in_mid_run_pay_nothing_twice(both):
    both.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    first = both.spec(rows_per_job=2, max_jobs=2)
    assert isinstance(Run(first, both.context(rows(5, note="n"))).proceed(), Waiting)
    manifest = both.attempt(both.spec(rows_per_job=2, max_jobs=2, keep_columns=()), rows(5, note="n"))
    assert (manifest["counts"], manifest["reused"]) == ({"succeeded": 5}, 4)
    assert "note" not in both.table()[0]
    assert both.rows_run() == 5


def test_what_was_paid_before_a_run_changed_is_told_and_summed_up(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    priced = {"prices": RunPrices(PriceList())}
    first = world.spec(rows_per_job=2, max_jobs=2)
    assert isinstance(Run(first, world.context(rows(5, note="n"), **priced)).proceed(), Waiting)
    manifest = world.attempt(world.spec(keep_columns=()), rows(5, note="n"), **priced)
    sums = world.emulator.ledger()["totals"]
    paid = sums["input_tokens"] * 0.15e-6 + sums["output_tokens"] * 1.25e-6
    assert manifest["cost"]["actual"] + manifest["cost"]["replaced"] == pytest.approx(paid)
    (part,) = summed([{"dag_id": "d", "manifest": manifest}], ["dag"])
    assert (part["rows"], part["cost"]) == (1, pytest.approx(paid))
    again = world.attempt(world.spec(keep_columns=()), rows(5, note="n"), occasion="clear", **priced)
    assert again["cost"]["replaced"] == 0.0


def test_prompt_that_changed_during_a_wait_is_asked_anew(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    run = Run(world.spec(), world.context(rows(3)))
    assert isinstance(run.proceed(), Waiting)
    world.emulator.advance(3600)
    resumed = Run(world.spec(prompt="Shout {{ row.word }}"), world.context(rows(3)), generation=1)
    assert resumed.checkpoint.number == 2


def test_attempt_that_waited_in_a_replaced_generation_goes_on_in_the_next(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    assert isinstance(Run(world.spec(), world.context(rows(3))).proceed(), Waiting)
    other = world.spec(prompt="Shout {{ row.word }}")
    assert isinstance(Run(other, world.context(rows(3))).proceed(), Waiting)
    world.emulator.advance(3600)
    late = Run(other, world.context(rows(3)), generation=1)
    manifest = late.proceed()
    assert not isinstance(manifest, Waiting)
    assert (late.checkpoint.number, manifest["counts"]) == (2, {"succeeded": 3})


def test_attempt_whose_generation_is_replaced_while_it_waits_does_not_end_well(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    run = Run(world.spec(), world.context(rows(3)))
    assert isinstance(run.proceed(), Waiting)
    assert isinstance(Run(world.spec(prompt="Shout {{ row.word }}"), world.context(rows(3))).proceed(), Waiting)
    world.emulator.advance(3600)
    with pytest.raises(GeminiBatchError, match="went on with it and asks something else"):
        run.proceed()


def test_attempt_creates_no_further_job_in_a_generation_that_is_given_up(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    others: list[Run] = []

    def replace_it(name: str) -> None:
        if others:
            return
        others.append(Run(world.spec(prompt="Shout {{ row.word }}"), world.context(rows(1))))
        others[-1].proceed()

    run = Run(world.spec(rows_per_job=1, max_jobs=3), world.context(rows(3), on_job=replace_it))
    with pytest.raises(GeminiBatchError, match="given up"):
        run.proceed()
    assert len(world.emulator.state.all_jobs) == 2  # one of each


def test_job_that_could_not_be_cancelled_is_in_the_manifest_till_it_is(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=90_000, times=1)
    assert isinstance(Run(world.spec(), world.context(rows(3))).proceed(), Waiting)
    old = world.emulator.state.all_jobs[0]
    world.emulator.script(mode="at_once")
    world.emulator.fault(match={"path": ":cancel$"}, times=None, status=403, reason="PERMISSION_DENIED")
    other = world.spec(prompt="Shout {{ row.word }}")
    assert world.attempt(other, rows(3))["still_running"] == [old.name]
    world.emulator.clear_faults()
    assert world.attempt(other, rows(3), occasion="clear")["still_running"] == []
    assert old.cancelled is not None


def test_job_that_was_deleted_is_told_as_running_no_more(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=90_000, times=1)
    context = world.context(rows(3))
    assert isinstance(Run(world.spec(), context).proceed(), Waiting)
    (old,) = (job.name for job in world.emulator.state.all_jobs)
    world.emulator.script(mode="at_once")
    world.emulator.fault(match={"path": ":cancel$"}, times=None, status=403, reason="PERMISSION_DENIED")
    other = world.spec(prompt="Shout {{ row.word }}")
    assert world.attempt(other, rows(3))["still_running"] == [old]
    # A read that misses a young job proves nothing, so that it is told until then.
    world.emulator.fault(match={"method": "GET", "path": f"/{old}$"}, times=1, status=404)
    assert world.attempt(other, rows(3), occasion="soon")["still_running"] == [old]
    context.client.delete_batch(old)
    world.emulator.advance(3600)
    assert world.attempt(other, rows(3), occasion="clear")["still_running"] == []


def test_job_that_runs_on_is_told_in_the_last_generation_alone(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=900_000, times=1)
    assert isinstance(Run(world.spec(), world.context(rows(3))).proceed(), Waiting)
    (old,) = (job.name for job in world.emulator.state.all_jobs)
    world.emulator.script(mode="at_once")
    world.emulator.fault(match={"path": ":cancel$"}, times=None, status=403, reason="PERMISSION_DENIED")
    other = world.spec(prompt="Shout {{ row.word }}")
    for occasion in ("1", "2", "3"):
        assert world.attempt(other, rows(3), occasion=occasion)["still_running"] == [old]
    # However many generations there are, one of them says it.
    CountingFolder.reads.clear()
    Run(other, world.context(rows(3), occasion="4", checkpoint=CountingFolder(world.path("checkpoint"), settle=0.0)))
    assert CountingFolder.reads["end.json"] == 2  # that of the latest one, and once more as the one before the new one
