# SPDX-License-Identifier: Apache-2.0
"""Which jobs of the service's list are a run's, and how far the list is read for them."""

from __future__ import annotations

import pytest

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


def test_a_young_job_that_a_read_does_not_find_is_waited_for(both):
    both.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    unheard = both.emulator.fault(match={"method": "GET", "path": r"(batches|Jobs)/[^/:]+$"}, status=404, times=2)
    manifest = both.attempt(both.spec(), rows(3))
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
