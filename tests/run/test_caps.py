# SPDX-License-Identifier: Apache-2.0
"""The caps of a run: what counts, what waits for room, and what is paid for lands."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest

from airflow_provider_gemini_batch.cost.estimate import RunPrices
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.run.driver import Run
from airflow_provider_gemini_batch.run.finish import RunFailedError
from tests.run.world import rows

TOKENS = 1000
ROW = TOKENS * 1.25e-6
"""Dollars of the longest answer."""


def capped(world, count, **members):
    """Return a spec whose cap holds *count* rows of the longest answer."""
    limit = {"maxOutputTokens": TOKENS}
    return world.spec(max_cost=count * ROW * 1.05, generation_config=limit, **members)


def prices():
    return {"prices": RunPrices(PriceList()), "run_claim": "dag run"}


def test_a_shard_waits_for_room_while_jobs_may_cost_less(world):
    world.emulator.script(output_tokens=10)
    spec = capped(world, 5, rows_per_job=4, max_jobs=3)
    assert world.attempt(spec, rows(12), **prices())["succeeded"] == 12


def test_what_is_paid_for_lands_when_a_cap_is_reached(world):
    world.emulator.script(output_tokens=TOKENS - 1)
    with pytest.raises(RunFailedError, match=r"Not all rows were asked.*max_cost") as caught:
        world.attempt(capped(world, 9, rows_per_job=4), rows(12), **prices())
    answered = len([row for row in world.table() if row["text"]])
    assert 8 <= answered <= 9
    assert caught.value.manifest["counts"] == {"succeeded": answered, "missing": 12 - answered}


def test_a_cap_that_is_reached_between_rounds_lands_the_first(world):
    world.emulator.script(times=1, output_tokens=TOKENS - 1)
    world.emulator.script(times=1, stuck="RUNNING", expire_seconds=600)
    world.emulator.script(output_tokens=TOKENS - 1)
    with pytest.raises(RunFailedError, match="Not all rows were asked"):
        world.attempt(capped(world, 9, rows_per_job=4), rows(8), **prices())
    assert 4 <= [row["status"] for row in world.table()].count("succeeded") <= 5


def test_what_a_run_has_spent_before_a_clear_counts(world):
    world.emulator.script(output_tokens=TOKENS - 1)
    spec = capped(world, 9)
    world.attempt(spec, rows(8), **prices())
    with pytest.raises(RunFailedError, match="spent"):
        world.attempt(spec, rows(16), occasion="cleared", **prices())
    assert 8 <= world.rows_run() <= 9


def test_rows_of_unknown_price_count_with_their_upper_end(world):
    world.emulator.script(output_tokens=20, model_version="gemini-9-argon")
    with pytest.raises(RunFailedError, match="spent"):
        world.attempt(capped(world, 7, rows_per_job=4, max_jobs=1), rows(8), **prices())
    assert world.rows_run() <= 7


def test_rows_of_an_expired_job_count_with_their_upper_end(world):
    world.emulator.script(times=1, stuck="RUNNING", expire_seconds=600)
    world.emulator.script(output_tokens=TOKENS - 1)
    with pytest.raises(RunFailedError, match="spent"):
        world.attempt(capped(world, 7), rows(4), **prices())
    assert sum(job["rows"] for job in world.emulator.ledger()["jobs"]) <= 7


def test_rows_with_media_cannot_be_capped(world):
    part = {"fileData": {"fileUri": "https://example.com/film.mp4", "mimeType": "video/mp4"}}
    source = [{"id": "a", "request": {"contents": [{"role": "user", "parts": [part]}]}}]
    with pytest.raises(RunFailedError, match="rows with media have no upper end"):
        world.attempt(world.spec(prompt=None, max_cost=5.0), source, **prices())
    assert world.emulator.ledger()["totals"]["created"] == 0


def test_a_cap_without_a_known_price_is_an_error_before_money(world):
    with pytest.raises(ConfigurationError, match="price of gemini-9-argon is not known"):
        world.attempt(world.spec(model="gemini-9-argon", max_cost=5.0), rows(2), **prices())
    assert world.emulator.ledger()["totals"]["created"] == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_cap_that_limits_nothing_is_an_error(world, bad):
    with pytest.raises(ConfigurationError, match="max_cost must be a number"):
        world.attempt(world.spec(max_cost=bad), rows(2), **prices())


def test_submission_reads_none_of_the_runs_other_jobs(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    attempt = Run(capped(world, 99, rows_per_job=1, max_jobs=12), world.context(rows(12), **prices()))
    attempt.proceed()
    singles = [entry for entry in world.emulator.journal(method="GET") if "/batches/" in entry["path"]]
    # Each job once, to know whether it has ended; and not all of them again for each that is created.
    assert len(singles) <= 12


class CountingPrices(RunPrices):
    """Prices that count how often they are asked."""

    asked = 0

    def before(self, *which, **facts):
        self.asked += 1
        return super().before(*which, **facts)


class CountingFolder(Folder):
    """A folder that counts how often its notes are read."""

    reads: ClassVar[Counter[str]] = Counter()

    def below(self, name: str) -> Folder:
        return CountingFolder(self.path(name), settle=0.0)

    def read(self, name: str) -> bytes | None:
        self.reads[name] += 1
        return super().read(name)


def test_attempt_reads_each_note_and_job_once_however_many_shards_there_are(world):
    world.emulator.script(mode="at_once", output_tokens=10)
    CountingFolder.reads.clear()
    folder, asked = CountingFolder(world.path("checkpoint"), settle=0.0), CountingPrices(PriceList())
    spec = capped(world, 99, rows_per_job=1, max_jobs=3)
    assert world.attempt(spec, rows(12), checkpoint=folder, prices=asked, run_claim="dag run")["succeeded"] == 12
    notes = {name: count for name, count in CountingFolder.reads.items() if name.startswith(("intent", "job", "coll"))}
    assert len(notes) == 36
    assert set(notes.values()) == {1}
    singles = [entry["path"] for entry in world.emulator.journal(method="GET") if "/batches/" in entry["path"]]
    assert len(singles) == len(set(singles)) == 12
    # For a shard: its own upper end, and those of the three at most whose answers are not collected, twice. What the
    # nine others of before have cost is summed up already.
    assert asked.asked <= 12 * 8
