# SPDX-License-Identifier: Apache-2.0
"""Which jobs of the service's list are a run's, how far the list is read for them, and jobs that say little."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.request import Request, urlopen

import pytest

from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.client import results
from airflow_provider_gemini_batch.cost.estimate import RunPrices
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.errors import NotFoundError, ResultsIncompleteError
from airflow_provider_gemini_batch.run.answers import Repeated
from airflow_provider_gemini_batch.run.collecting import ANSWERS_SETTLE, _whole
from airflow_provider_gemini_batch.run.context import JobLimits
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from tests.run.world import rows


def pages_read(world) -> int:
    return len(
        [one for one in world.emulator.journal(method="GET") if one["path"].lower().endswith(("batches", "jobs"))]
    )


def test_an_old_job_above_younger_ones_does_not_end_the_look(both):
    run = Run(both.spec(), both.context(rows(3)))
    came = run.proceed()
    assert isinstance(came, Waiting)
    (old,) = both.emulator.seed_jobs(backend=both.backend)
    both.emulator.state.all_jobs[-1].created -= 30 * 86400
    listed = [job.name for job in run.context.client.list_all_batches()]
    assert listed == [old, *came.jobs]
    assert [job.name for job in run.jobs.own()] == list(came.jobs)


def test_a_page_of_old_jobs_ends_the_look(world):
    world.emulator.configure(list_max_page_size=2)
    world.emulator.seed_jobs(count=9)
    for job in world.emulator.state.all_jobs:
        job.created -= 30 * 86400
    run = Run(world.spec(), world.context(rows(3)))
    came = run.proceed()
    assert isinstance(came, Waiting)
    before = pages_read(world)
    assert [job.name for job in run.jobs.own()] == list(came.jobs)
    assert pages_read(world) - before == 2


def test_a_row_with_two_lines_was_asked_and_is_paid_for_once(both):
    twice = {"pattern": "word-[13]-", "outcome": "duplicate"}
    both.emulator.script(mode="at_once", rows=[twice])
    manifest = both.attempt(both.spec(), rows(5), prices=RunPrices(PriceList()))
    assert (manifest["counts"], manifest["attempts"]) == ({"succeeded": 5}, 5)
    assert (manifest["paid_twice"], manifest["answers_lost"]) == (0, 0)
    assert len({row["cost"] for row in both.table()}) == 1


def test_a_line_that_came_twice_stands_for_no_other_row(both):
    twice, lacking = {"pattern": "word-0-", "outcome": "duplicate"}, {"pattern": "word-4-", "outcome": "missing"}
    both.emulator.script(mode="at_once", rows=[twice, lacking])
    # Five answers are counted, and there are five lines, of four rows.
    with pytest.raises(ResultsIncompleteError):
        both.attempt(both.spec(), rows(5))
    assert both.rows_run() == 5


def test_a_young_job_that_a_read_does_not_find_is_waited_for(both):
    both.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    unheard = both.emulator.fault(match={"method": "GET", "path": r"(batches|Jobs)/[^/:]+$"}, status=404, times=2)
    ahead = both.emulator.state.clock.now
    manifest = both.attempt(both.spec(), rows(3), now=lambda: ahead() + 300)  # this worker's clock
    assert unheard.fired == 2
    assert (manifest["counts"], manifest["attempts"]) == ({"succeeded": 3}, 3)
    assert (both.emulator.ledger()["totals"]["created"], both.rows_run()) == (1, 3)


def test_a_job_that_is_slow_to_end_after_its_timeout_is_not_looked_at_all_the_time(both):
    both.emulator.configure(cancel_settle_seconds=7200)
    both.emulator.script(mode="time", pending_seconds=60, running_seconds=20 * 3600)
    run = Run(both.spec(), both.context(rows(3), limits=JobLimits(3600)))
    came = run.proceed()
    assert isinstance(came, Waiting)
    assert run.reader.next_limit(came.jobs) == pytest.approx(run.context.now() + 3600, abs=60)
    both.emulator.advance(4000)
    for number in range(2):  # the process that cancelled it, and one after it
        run = run if not number else Run(both.spec(), both.context(rows(3), limits=JobLimits(3600)))
        came = run.proceed()
        assert isinstance(came, Waiting)
        assert run.reader.next_limit(came.jobs) >= run.context.now() + 60


def end_telling_little(world, run, what):
    """Let the run's one job end, and let the service not say *what* of it."""
    came = run.proceed()
    assert isinstance(came, Waiting)
    world.emulator.advance(3600)
    url = f"{world.emulator.url}/v1beta/{came.jobs[0]}"
    with urlopen(Request(url, headers={"x-goog-api-key": world.emulator.connection()["password"]})) as reply:
        job = json.load(reply)
    for holder in (job["metadata"], job["metadata"]["batchStats"]):
        holder.pop(what, None)
    world.emulator.fault(match={"method": "GET", "path": f"{came.jobs[0]}$"}, status=200, body=job, times=None)


def test_answers_of_a_job_without_an_end_time_are_not_taken_for_gone(world, monkeypatch):

    def no_pause(seconds):
        yield from ()

    monkeypatch.setattr(results, "_pause", no_pause)
    run = Run(world.spec(), world.context(rows(3)))
    end_telling_little(world, run, "endTime")
    world.emulator.fault(match={"path": ":download"}, status=404, times=None)
    with pytest.raises(NotFoundError):
        run.proceed()
    assert world.emulator.ledger()["totals"]["created"] == 1


def test_cut_answers_of_a_job_without_an_end_time_do_not_hold_a_run_for_ever(world):
    world.emulator.script(results_share=0.5, times=1)
    run = Run(world.spec(), world.context(rows(4)))
    end_telling_little(world, run, "endTime")
    world.emulator.advance(7 * 3600)
    assert world.attempt(world.spec(), rows(4))["counts"] == {"succeeded": 4}


def test_cut_answers_of_a_job_without_counts_are_not_asked_again_at_once(world):
    world.emulator.script(results_share=0.5, times=1)
    run = Run(world.spec(), world.context(rows(4)))
    end_telling_little(world, run, "successfulRequestCount")
    with pytest.raises(ResultsIncompleteError, match="2 answers and counts 4"):
        run.proceed()
    assert world.emulator.ledger()["totals"]["created"] == 1
    world.emulator.advance(7 * 3600)
    manifest = world.attempt(world.spec(), rows(4))
    assert (manifest["counts"], manifest["answers_lost"]) == ({"succeeded": 4}, 2)


@pytest.mark.parametrize("page", [b"<html>", b'{"error": {"code": 502}}'], ids=["html", "json"])
def test_a_page_among_answers_of_a_job_without_counts_is_read_again(page):
    ended, now = "2026-01-01T00:00:00Z", 1767225600.0 + 60
    job = BatchJob("projects/p/locations/l/batchPredictionJobs/1", state=JobState.SUCCEEDED, end_time=ended)
    job = replace(job, backend="vertex_ai", answers_every_row=False)
    lines = [b'{"key": "a", "error": {"code": 3}}\n', b'{"error": {"code": 3}, "key": "b"}\n']
    assert list(_whole(iter(lines), job, now, 9, Repeated())) == lines
    with pytest.raises(ResultsIncompleteError, match="1 lines that are none"):
        list(_whole(iter([*lines, page]), job, now, 9, Repeated()))
    assert len(list(_whole(iter([*lines, page]), job, now + ANSWERS_SETTLE, 9, Repeated()))) == 3
