# SPDX-License-Identifier: Apache-2.0
"""A shard whose first job was listed so late that a second one was made: one is paid for, or both are told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.identity import TaskIdentity
from airflow_provider_gemini_batch.errors import PermissionDeniedError
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from tests.run.world import World, rows

LAG = 150.0


class KilledError(BaseException):
    """The process is gone."""


def killed_after_its_create(world: World, spec: Any, count: int = 5) -> None:
    """Let an attempt die once its job is made, before that is noted."""

    def die(name: str) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        Run(spec, world.context(rows(count), on_job=die)).proceed()


def second_attempt(world: World, spec: Any, count: int = 5) -> tuple[Run, Any]:
    """Let an attempt create a second job, as the list does not show the first one."""
    run = Run(spec, world.context(rows(count)))
    waiting: Any = run.proceed()
    assert isinstance(waiting, Waiting)
    assert len(world.emulator.state.all_jobs) == 2
    return run, waiting


def three_minutes_pass(world: World, run: Run, waiting: Any) -> Any:
    """Let the run look once a minute; return what it waits for then."""
    for _ in range(3):
        world.emulator.advance(60)
        if run.is_over(waiting):
            waiting = run.proceed()
    return waiting


@pytest.fixture
def twins(both: World) -> World:
    """A world whose list lags, for a shard with two jobs."""
    both.emulator.configure(listing_lag=LAG)
    return both


def test_a_job_that_is_listed_late_stays_and_its_younger_twin_is_cancelled(twins):
    twins.emulator.script(pending_seconds=400, running_seconds=400)
    spec = twins.spec()
    killed_after_its_create(twins, spec)
    twins.emulator.advance(5)
    run, waiting = second_attempt(twins, spec)
    waiting = three_minutes_pass(twins, run, waiting)
    older, younger = twins.emulator.state.all_jobs
    assert (older.cancelled, younger.cancelled is None) == (None, False)
    assert waiting.jobs == (older.name,)
    twins.emulator.advance(3600)
    manifest: Any = run.proceed()
    assert (manifest["succeeded"], manifest["paid_twice"], manifest["paid_twice_jobs"]) == (5, 0, [])


def test_a_resumed_run_looks_for_a_job_that_was_listed_meanwhile(twins):
    twins.emulator.script(pending_seconds=4000, running_seconds=400)
    spec = twins.spec()
    killed_after_its_create(twins, spec)
    second_attempt(twins, spec)
    twins.emulator.advance(1000)
    resumed = Run(spec, twins.context(rows(5)), 1)
    waiting: Any = resumed.proceed()
    older, younger = twins.emulator.state.all_jobs
    assert (older.cancelled, younger.cancelled is None, waiting.jobs) == (None, False, (older.name,))


def test_two_jobs_that_have_run_are_named(twins, caplog):
    twins.emulator.script(pending_seconds=5, running_seconds=10)
    spec = twins.spec()
    killed_after_its_create(twins, spec)
    run, waiting = second_attempt(twins, spec)
    twins.emulator.advance(20)
    assert run.is_over(waiting)
    held: Any = run.proceed()
    assert isinstance(held, Waiting)
    assert (held.jobs, held.until is not None) == ((), True)
    twins.emulator.advance(held.until - twins.emulator.state.clock.now() + 0.1)
    manifest: Any = run.proceed()
    names = sorted(job.name for job in twins.emulator.state.all_jobs)
    assert (manifest["succeeded"], manifest["paid_twice"]) == (5, 5)
    assert manifest["paid_twice_jobs"] == names
    assert all(name in caplog.text for name in names)
    assert manifest["attempts"] == 10


def test_a_run_does_not_end_while_it_cannot_look_for_a_second_job(twins):
    spec = twins.spec()
    killed_after_its_create(twins, spec)
    twins.emulator.advance(5)
    run, _ = second_attempt(twins, spec)
    twins.emulator.advance(3600)
    refused = twins.emulator.fault(
        match={"method": "GET", "path": r"(batches|Jobs)$"}, status=403, reason="PERMISSION_DENIED", times=None
    )
    with pytest.raises(PermissionDeniedError):
        run.proceed()
    assert refused.fired
    assert not Path(twins.path("out.parquet")).exists()
    twins.emulator.clear_faults()
    manifest: Any = Run(spec, twins.context(rows(5))).proceed()
    assert (manifest["succeeded"], manifest["paid_twice"]) == (5, 5)


def test_a_late_job_of_a_closed_round_is_told_in_a_later_one(twins):
    failing = {"pattern": "word-3-", "outcome": "error", "code": 13}
    twins.emulator.script(pending_seconds=5, running_seconds=10, rows=[failing])
    spec = twins.spec(max_row_attempts=2)
    killed_after_its_create(twins, spec)
    run, came = second_attempt(twins, spec)
    for _ in range(40):
        if not isinstance(came, Waiting):
            break
        twins.emulator.advance(20)
        if run.is_over(came):
            came = run.proceed()
    assert isinstance(came, dict)
    assert (came["succeeded"], came["paid_twice"], len(came["paid_twice_jobs"])) == (4, 4, 2)


def test_a_run_whose_calls_were_all_heard_is_held_for_nothing(world):
    world.emulator.script(mode="at_once")
    spec = world.spec(rows_per_job=2)
    run = Run(spec, world.context(rows(5)))
    came = run.proceed()
    assert isinstance(came, dict) or run.is_over(came)
    manifest: Any = run.proceed()
    assert (manifest["job_count"], manifest["paid_twice_jobs"]) == (3, [])
    # One look before the three are created, and one after each.
    assert len([entry for entry in world.emulator.journal(method="GET") if entry["path"].endswith("batches")]) == 4


def test_a_generation_that_is_given_up_waits_for_a_job_that_is_listed_late(twins):
    twins.emulator.script(pending_seconds=5, running_seconds=10)
    spec = twins.spec()
    killed_after_its_create(twins, spec)
    second_attempt(twins, spec)
    twins.emulator.advance(20)
    changed = twins.spec(keep_columns=("word",), meta_prefix="x_")
    run = Run(changed, twins.context(rows(5)))
    came: Any = run.proceed()
    for _ in range(5):
        if not isinstance(came, Waiting):
            break
        twins.emulator.advance(60)
        came = run.proceed()
    assert (came["succeeded"], came["reused"]) == (5, 5)
    notes = run.checkpoint.all(run.checkpoint.root)[-1].collected()
    assert sorted(note["job"] for note in notes) == sorted(job.name for job in twins.emulator.state.all_jobs)


def to_the_end(world: World, run: Run, came: Any, seconds: float = 60) -> dict[str, Any]:
    """Let time pass until the run has ended."""
    for _ in range(100):
        if isinstance(came, dict):
            return came
        world.emulator.advance(seconds)
        came = run.proceed()
    raise AssertionError("The run did not end.")


def test_a_twin_that_a_cancel_cut_short_does_not_end_the_older_job(twins):
    twins.emulator.script(pending_seconds=10, running_seconds=600)
    spec = twins.spec(max_row_attempts=1)
    killed_after_its_create(twins, spec)
    twins.emulator.advance(5)
    run, waiting = second_attempt(twins, spec)
    manifest = to_the_end(twins, run, waiting)
    older, younger = twins.emulator.state.all_jobs
    assert (older.cancelled, younger.cancelled is None) == (None, False)
    assert manifest["succeeded"] == 5


def test_answers_of_a_shards_job_are_read_once_its_cancel_is_through(twins):
    twins.emulator.configure(cancel_settle_seconds=300)
    twins.emulator.script(pending_seconds=10, running_seconds=2000)
    spec = twins.spec(max_row_attempts=1)
    killed_after_its_create(twins, spec)
    twins.emulator.advance(5)
    run, waiting = second_attempt(twins, spec)
    three_minutes_pass(twins, run, waiting)
    twins.emulator.advance(1200)
    run.cancel()
    resumed = Run(spec, twins.context(rows(5)), 1)
    manifest = to_the_end(twins, resumed, resumed.proceed())
    assert manifest["succeeded"] >= 3


def test_a_job_that_another_index_had_just_made_is_found_before_its_rows_are_asked(both):
    both.emulator.script(pending_seconds=5, running_seconds=10)
    half = "fedcba9876543210"
    theirs = Folder(both.path(f"indexes/{half}"), settle=0.0)
    identity = TaskIdentity(half, time.time() - 3600)

    def die(name: str) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        Run(both.spec(), both.context(rows(5), checkpoint=theirs, identity=identity, on_job=die)).proceed()
    ours = Folder(both.path(f"indexes/{both.task}"), settle=0.0)
    run = Run(both.spec(), both.context(rows(5), checkpoint=ours, siblings=[theirs], may_be_reordered=True))
    manifest = to_the_end(both, run, run.proceed())
    assert (manifest["reused"], both.rows_run()) == (5, 5)


def test_a_job_that_goes_on_beside_answers_cut_short_is_one_to_cancel(twins):
    twins.emulator.script(pending_seconds=10, running_seconds=600)
    spec = twins.spec(max_row_attempts=1)
    killed_after_its_create(twins, spec)
    twins.emulator.advance(5)
    run, _ = second_attempt(twins, spec)
    while not run.checkpoint.notes()["collected"]:
        twins.emulator.advance(60)
        assert isinstance(run.proceed(), Waiting)
    assert run.live_jobs() == [twins.emulator.state.all_jobs[0].name]
