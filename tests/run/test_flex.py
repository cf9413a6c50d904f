# SPDX-License-Identifier: Apache-2.0
"""Rows asked one by one (``retry_tier="flex"``): what a lost reply, a refused key and a killed worker cost."""

from __future__ import annotations

import pytest

from airflow_provider_gemini_batch.cost.estimate import RunPrices
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.errors import AuthError
from airflow_provider_gemini_batch.run import collecting
from airflow_provider_gemini_batch.run.driver import Run
from airflow_provider_gemini_batch.run.finish import RunFailedError
from airflow_provider_gemini_batch.run.progress import progress_of
from tests.run.test_cap import CONFIG, longest
from tests.run.world import rows

FLEX = {"method": "POST", "path": ":generateContent$"}
PRICES = RunPrices(PriceList())


class KilledError(BaseException):
    """The process is gone."""


def failing_once(world, pattern="word-", **answers):
    """Let rows fail in the batch, so that the next round asks them one by one."""
    world.emulator.script(
        mode="at_once",
        rows=[{"pattern": pattern, "outcome": "error", "code": 13, "first": 1}, {"outcome": "succeed", **answers}],
    )


def asked(world) -> int:
    return int(world.emulator.ledger()["synchronous"]["answered"])


@pytest.mark.parametrize("action", [{"action": "close"}, {"status": 504}, {"status": 200, "body": "truncated"}])
def test_call_whose_reply_is_lost_is_not_repeated_at_once(world, action):
    failing_once(world)
    world.emulator.fault(match=FLEX, when="after", times=1, **action)
    manifest = world.attempt(world.spec(retry_tier="flex", max_row_attempts=2), rows(3), prices=PRICES)
    assert asked(world) == 3
    assert manifest["counts"] == {"succeeded": 2, "failed": 1}
    # It may have run: its price is not known, and not nothing.
    assert manifest["cost"]["rows_of_unknown_cost"] == 1
    assert [row["cost"] for row in world.table()].count(None) == 1


def test_call_that_never_ran_is_repeated(world):
    failing_once(world)
    world.emulator.fault(match=FLEX, when="before", times=2, status=503, retry_after=1.0)
    manifest = world.attempt(world.spec(retry_tier="flex", max_row_attempts=2), rows(3), prices=PRICES)
    assert (manifest["counts"], asked(world)) == ({"succeeded": 3}, 3)


def test_call_whose_reply_is_lost_holds_its_share_of_the_cap(world):
    failing_once(world, output_tokens=990)
    world.emulator.fault(match=FLEX, when="after", times=4, action="close")
    with pytest.raises(RunFailedError, match="Not all rows were asked"):
        world.attempt(
            world.spec(retry_tier="flex", generation_config=CONFIG, max_cost=longest(world, 6)), rows(4), prices=PRICES
        )
    # Four calls whose replies were lost may have cost their longest answers, which leaves room for two others.
    assert asked(world) == 6


def stopping(at, error):
    """Return what lets the *at*-th look at whether to go on fail."""
    seen = []

    def stop():
        seen.append(1)
        if len(seen) == at:
            raise error

    return stop


def test_killed_worker_asks_no_row_again_whose_answer_it_has_kept(world, monkeypatch):
    monkeypatch.setattr(collecting, "PART_SECONDS", 0.0)
    failing_once(world)
    spec = world.spec(retry_tier="flex")
    with pytest.raises(KilledError):
        world.attempt(spec, rows(30), stop=stopping(24, KilledError()))
    manifest = world.attempt(spec, rows(30))
    assert manifest["counts"] == {"succeeded": 30}
    # Of the rows that were asked then, eight at most were under way.
    assert 30 < asked(world) <= 38
    assert [row["id"] for row in world.table()] == [row["id"] for row in rows(30)]
    assert manifest["paid_twice"] == 0
    # What is told of a shard is told of all its parts.
    run = Run(spec, world.context(rows(30)), generation=1)
    run.checkpoint.notes()
    jobs = progress_of(run)["jobs"]
    tokens = manifest["tokens"]
    told = [sum(job["tokens"][place] for job in jobs) for place in (0, 1)]
    assert told == [tokens["prompt"], tokens["output"] + tokens["thoughts"]]


def test_answers_before_a_refused_key_are_kept(world):
    failing_once(world)
    world.emulator.fault(match=FLEX, skip=20, times=None, status=403, reason="API_KEY_INVALID")
    spec = world.spec(retry_tier="flex")
    with pytest.raises(AuthError):
        world.attempt(spec, rows(30))
    before = asked(world)
    world.emulator.clear_faults()
    assert world.attempt(spec, rows(30))["counts"] == {"succeeded": 30}
    assert (before, asked(world)) == (20, 30)


@pytest.mark.parametrize("room", [15, 100])
def test_what_a_killed_worker_may_have_asked_counts_against_the_cap(world, room):
    failing_once(world, output_tokens=990)
    spec = world.spec(retry_tier="flex", generation_config=CONFIG, max_cost=longest(world, room))
    with pytest.raises(KilledError):
        world.attempt(spec, rows(10), prices=PRICES, run_claim="dag run", stop=stopping(9, KilledError()))
    if room == 100:
        manifest = world.attempt(spec, rows(10), prices=PRICES, run_claim="dag run")
        assert manifest["counts"] == {"succeeded": 10}
        return
    # What was not asked is forgotten by nobody: a clear is no way around the cap.
    for occasion in ("", "a clear"):
        with pytest.raises(RunFailedError, match="Not all rows were asked"):
            world.attempt(spec, rows(10), prices=PRICES, run_claim="dag run", occasion=occasion)
    assert asked(world) <= 10
