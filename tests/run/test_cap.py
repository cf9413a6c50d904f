# SPDX-License-Identifier: Apache-2.0
"""``max_cost`` of a run: kept through rounds, tiers and clears, and used as far as it goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.cost.estimate import RunPrices
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.lifecycle.request import JobRequest
from airflow_provider_gemini_batch.run.budget import PIECES, estimate
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.run.finish import RunFailedError
from airflow_provider_gemini_batch.run.schema import ResponseSchema
from tests.run.world import MODEL, TASK, World, rows

PRICES = RunPrices(PriceList())
CONFIG = {"maxOutputTokens": 1000}
ROW_BYTES = 150


def longest(world: World, count: int) -> float:
    """Return what so many rows may cost, each at its longest answer."""
    found = estimate(world.spec(generation_config=CONFIG), PRICES, {"rows": count, "bytes": count * ROW_BYTES})
    assert found is not None
    return found


def slowly(world: World, *rules: dict) -> None:
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60, rows=list(rules))


def run(world: World, count: int, cap: float, *, occasion: str = "", claim: str = "", **more):
    spec = world.spec(generation_config=CONFIG, max_cost=cap, **more)
    return world.attempt(spec, rows(count), prices=PRICES, occasion=occasion, run_claim=claim)


def test_shard_waits_for_the_cost_of_jobs_in_flight(world):
    slowly(world)
    # All rows at their longest pass the cap, and all may be in flight at once; what they really cost is far below it.
    manifest = run(world, 30, longest(world, 10), max_jobs=30)
    assert manifest["counts"] == {"succeeded": 30}
    assert world.rows_run() == 30


def test_shards_shrink_to_what_the_cap_allows(world):
    slowly(world)
    cap = longest(world, 40) / 2
    manifest = run(world, 40, cap)
    assert manifest["counts"] == {"succeeded": 40}
    assert manifest["cost"]["actual"] < cap
    assert world.emulator.ledger()["totals"]["created"] >= 2 * PIECES


def test_cap_that_is_reached_in_the_middle_lands_what_is_paid_for(world):
    slowly(world, {"outcome": "succeed", "output_tokens": 900})
    cap = longest(world, 20)
    with pytest.raises(RunFailedError, match="Not all rows were asked") as failure:
        run(world, 40, cap)
    table = world.table()
    answered = [row for row in table if row["status"] == "succeeded"]
    assert len(table) == 40
    assert 15 <= len(answered) < 40
    assert failure.value.manifest["cost"]["actual"] == pytest.approx(sum(row["cost"] for row in answered))
    assert 0.75 * cap < failure.value.manifest["cost"]["actual"] <= cap
    assert world.rows_run() == len(answered)


def test_clear_counts_what_the_task_has_spent_before(world):
    slowly(world, {"outcome": "succeed", "output_tokens": 900})
    cap = longest(world, 20)
    with pytest.raises(RunFailedError):
        run(world, 40, cap, claim="dag\nrun", occasion="1")
    ran = world.rows_run()
    with pytest.raises(RunFailedError):
        run(world, 40, cap, claim="dag\nrun", occasion="2")
    assert world.rows_run() - ran <= 1
    manifest = run(world, 40, 2.2 * cap, claim="dag\nrun", occasion="3")
    assert manifest["counts"] == {"succeeded": 40}
    assert world.rows_run() == 40


def test_rows_asked_over_flex_keep_the_cap(world):
    schema = ResponseSchema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    world.emulator.script(mode="at_once", rows=[{"outcome": "invalid", "output_tokens": 900}])
    cap = longest(world, 10)
    with pytest.raises(RunFailedError, match="max_cost") as failure:
        run(world, 10, cap, retry_tier="flex", schema=schema)
    assert 0.5 * cap < failure.value.manifest["cost"]["actual"] <= cap
    assert sum(row["answer_source"] == "flex" for row in world.table()) <= 1


@pytest.mark.parametrize(
    ("backend", "state"), [("gemini", "EXPIRED"), ("vertex_ai", "EXPIRED"), ("vertex_ai", "CANCELLED")]
)
def test_answers_that_a_job_took_with_it_are_counted(gemini_batch_emulator, tmp_path, backend, state):
    world = World(gemini_batch_emulator, tmp_path, backend)
    world.emulator.script(mode="at_once", times=1, end={"state": state, "share": 0.0})
    world.emulator.script(mode="at_once")
    manifest = run(world, 10, longest(world, 100))
    assert (manifest["counts"], manifest["answers_lost"]) == ({"succeeded": 10}, 10)


def test_job_cancelled_before_it_ran_costs_nothing(both):
    slowly(both)
    spec = both.spec(generation_config=CONFIG, max_cost=longest(both, 10))
    attempt = Run(spec, both.context(rows(10), prices=PRICES))
    came = attempt.proceed()
    assert isinstance(came, Waiting)
    attempt.context.client.cancel_batch(came.jobs[0])
    both.emulator.advance(3600)
    manifest = both.attempt(spec, rows(10), prices=PRICES)
    assert (manifest["counts"], manifest["answers_lost"]) == ({"succeeded": 10}, 0)
    assert both.rows_run() == 10


def test_job_cancelled_before_it_ran_leaves_the_cap_to_another_prompt(both):
    slowly(both)
    cap = longest(both, 15)
    context = both.context(rows(10), prices=PRICES, run_claim="dag run")
    assert isinstance(Run(both.spec(generation_config=CONFIG, max_cost=cap), context).proceed(), Waiting)
    manifest = run(both, 10, cap, claim="dag run", prompt="Shout {{ row.word }}")
    assert manifest["counts"] == {"succeeded": 10}
    # All rows fit at their longest: no small shards are needed.
    assert both.emulator.ledger()["totals"]["created"] == 2


def test_answers_that_a_list_does_not_show_count(both):
    both.emulator.script(mode="time", pending_seconds=10, running_seconds=100, output_tokens=900)
    both.emulator.configure(cancel_outcome="cancelled_partial", stale_list_stats=True)
    cap = longest(both, 10)
    attempt = Run(
        both.spec(generation_config=CONFIG, max_cost=cap),
        both.context(rows(10), prices=PRICES, run_claim="dag run"),
    )
    came = attempt.proceed()
    assert isinstance(came, Waiting)
    both.emulator.advance(100)  # nine rows are answered
    attempt.context.client.cancel_batch(came.jobs[0])
    both.emulator.advance(600)
    with pytest.raises(RunFailedError, match="Not all rows were asked"):
        run(both, 10, cap, claim="dag run", prompt="Shout {{ row.word }}")
    assert both.rows_run() <= 11


def test_answers_of_a_cancelled_job_are_kept_and_none_is_lost(both):
    both.emulator.script(mode="at_once", times=1, end={"state": "CANCELLED", "share": 0.5})
    both.emulator.script(mode="at_once")
    manifest = run(both, 10, longest(both, 100))
    assert (manifest["counts"], manifest["answers_lost"]) == ({"succeeded": 10}, 0)
    assert both.rows_run() == 10


def test_answers_of_a_deleted_job_are_counted(world):
    slowly(world)
    attempt = Run(world.spec(), world.context(rows(3)))
    came = attempt.proceed()
    assert isinstance(came, Waiting)
    world.emulator.advance(3600)
    attempt.context.client.delete_batch(came.jobs[0])
    manifest = world.attempt(world.spec(), rows(3))
    assert (manifest["counts"], manifest["answers_lost"]) == ({"succeeded": 3}, 3)


def test_lost_answers_hold_their_share_of_the_cap(world):
    world.emulator.script(mode="at_once", times=1, end={"state": "EXPIRED", "share": 1.0})
    world.emulator.script(mode="at_once", rows=[{"outcome": "succeed", "output_tokens": 900}])
    # The rows of the expired job may be billed in full, which leaves room for two of the ten that are asked again.
    with pytest.raises(RunFailedError, match="Not all rows were asked"):
        run(world, 10, longest(world, 12))
    assert world.rows_run() <= 12


def test_a_deleted_job_of_an_earlier_prompt_holds_its_share_of_the_cap(world):
    slowly(world, {"outcome": "succeed", "output_tokens": 900})
    cap = longest(world, 12)
    context = world.context(rows(10), prices=PRICES, run_claim="dag run")
    came = Run(world.spec(generation_config=CONFIG, max_cost=cap), context).proceed()
    assert isinstance(came, Waiting)
    world.emulator.advance(3600)
    context.client.delete_batch(came.jobs[0])
    with pytest.raises(RunFailedError, match="Not all rows were asked"):
        run(world, 10, cap, claim="dag run", prompt="Shout {{ row.word }}")
    assert world.rows_run() <= 12


def test_flex_round_waits_for_room_that_a_lost_call_holds(world):
    schema = ResponseSchema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    world.emulator.script(mode="at_once", rows=[{"outcome": "invalid", "output_tokens": 900, "first": 1}])
    # The first create call gets no reply: for ten minutes it may still make a job, and holds room for that.
    world.emulator.fault(match={"method": "POST", "path": ":batchGenerateContent$"}, times=1, action="close")
    manifest = run(world, 10, longest(world, 25), retry_tier="flex", schema=schema)
    assert manifest["counts"] == {"succeeded": 10}
    assert {row["answer_source"] for row in world.table()} == {"flex"}


def test_flex_round_counts_nothing_for_a_job_cancelled_unbilled(world):
    world.emulator.script(times=1, mode="time", pending_seconds=60, running_seconds=60)
    world.emulator.script(mode="at_once", rows=[{"pattern": "word-0-", "outcome": "error", "code": 13, "first": 1}])
    cap = longest(world, 10)
    context = world.context(rows(10), prices=PRICES, run_claim="dag run")
    assert isinstance(Run(world.spec(generation_config=CONFIG, max_cost=cap), context).proceed(), Waiting)
    manifest = run(world, 10, cap, claim="dag run", prompt="Shout {{ row.word }}", retry_tier="flex")
    assert manifest["counts"] == {"succeeded": 10}
    assert [row["answer_source"] for row in world.table()].count("flex") == 1


def test_flex_round_counts_a_job_that_nobody_noted(world):
    failing = {"pattern": "word-0-", "outcome": "error", "code": 13, "first": 1}
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60, rows=[failing])
    spec = world.spec(generation_config=CONFIG, max_cost=longest(world, 12), retry_tier="flex")
    attempt = Run(spec, world.context(rows(10), prices=PRICES))
    assert isinstance(attempt.proceed(), Waiting)
    path = Path(world.path("theirs.jsonl"))
    path.write_text("".join(json.dumps({"key": str(n), "prompt": "Say"}) + "\n" for n in range(12)))
    request = JobRequest("generate", MODEL, input_path=str(path))
    attempt.context.client.submit(request, task=TASK, digest="f" * 16, on_existing_job="siblings")
    world.emulator.advance(3600)
    with pytest.raises(RunFailedError, match="Not all rows were asked"):
        attempt.proceed()
    assert [row["status"] for row in world.table()].count("succeeded") == 9
