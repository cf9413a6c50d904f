# SPDX-License-Identifier: Apache-2.0
"""Which jobs of the service's list are a run's, and how far the list is read for them."""

from __future__ import annotations

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
