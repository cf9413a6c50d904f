# SPDX-License-Identifier: Apache-2.0
"""Whatever dies, and wherever: each row is in the output once, and each answer is paid for once."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.identity import TaskIdentity
from airflow_provider_gemini_batch.client.client import GeminiBatchClient
from airflow_provider_gemini_batch.connection.settings import Secret
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
from airflow_provider_gemini_batch.run.checkpoint import Checkpoint, CheckpointLostError, Left
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from tests.run.world import QUICK, TASK, World, rows

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 12
SEEDS = int(os.environ.get("GEMINI_BATCH_RUN_SEEDS", "6"))


class Killed(BaseException):
    """The process is gone."""


class MortalFolder(Folder):
    """A folder whose writer dies at its n-th write: before it, or right after it."""

    def __init__(self, place: str, *, dies_at: int = -1, after: bool = False, **more) -> None:
        super().__init__(place, **more)
        self.writes = 0
        self._dies_at = dies_at
        self._after = after
        self._shared = self

    def below(self, name: str) -> Folder:
        found = type(self)(self.path(name), settle=0.0)
        found._shared = self._shared
        return found

    def _count(self, is_after: bool) -> None:
        root = self._shared
        root.writes += not is_after
        if root.writes == root._dies_at and root._after is is_after:
            raise Killed

    def create(self, name: str, content: bytes) -> bool:
        self._count(False)
        done = super().create(name, content)
        self._count(True)
        return done

    def put(self, name: str, local: str) -> None:
        self._count(False)
        super().put(name, local)
        self._count(True)


def spec_of(world: World, **more):
    return world.spec(**{"rows_per_job": 5, "max_jobs": 2, **more})


def go_on(world: World, folder: Folder, spec=None, **more) -> dict:
    """Let one attempt run until it ends or dies."""
    identity = TaskIdentity(TASK, None, may_have_rivals=True)
    run = Run(spec or spec_of(world), world.context(rows(ROWS), checkpoint=folder, identity=identity, **more))
    for _ in range(100):
        came = run.proceed()
        if not isinstance(came, Waiting):
            return came
        if came.until is None or "now" not in more:
            world.emulator.advance(3600)
        else:
            time.sleep(0.2)
    raise AssertionError("the run does not end")


def fails_once(world: World) -> None:
    world.emulator.script(
        mode="at_once", shuffle=True, rows=[{"pattern": "word-[37]-", "outcome": "error", "code": 13, "first": 1}]
    )


def check(world: World, manifest: dict) -> None:
    """Each row has its own answer, once, and no answer was paid for twice."""
    table = world.table()
    assert [row["id"] for row in table] == [f"k{n}" for n in range(ROWS)]
    assert all(row["status"] == "succeeded" and f"word-{n}-" in row["text"] for n, row in enumerate(table))
    # Two rows fail once: they are executed twice, all others once.
    assert world.emulator.executions()["rows"] <= ROWS + 2
    assert manifest["paid_twice"] == 0


def writes_of_a_run(tmp_path, emulator) -> int:
    world = World(emulator, tmp_path / "counted")
    world.folder.mkdir()
    fails_once(world)
    folder = MortalFolder(world.path("checkpoint"), settle=0.0)
    go_on(world, folder, spec_of(world, rows_per_job=ROWS))
    emulator.reset()
    return folder.writes


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_at_any_write_costs_nothing(gemini_batch_emulator, tmp_path, after):
    total = writes_of_a_run(tmp_path, gemini_batch_emulator)
    assert total > 12
    for place in range(1 + after, total + 1, 2):
        gemini_batch_emulator.reset()
        world = World(gemini_batch_emulator, tmp_path / f"{place}")
        world.folder.mkdir()
        fails_once(world)
        spec = spec_of(world, rows_per_job=ROWS)
        with pytest.raises(Killed):
            go_on(world, MortalFolder(world.path("checkpoint"), dies_at=place, after=after, settle=0.0), spec)
        check(world, go_on(world, Folder(world.path("checkpoint"), settle=0.0), spec))


def test_lost_checkpoint_is_rebuilt_from_the_jobs(world):
    rule = {"pattern": "word-[37]-", "outcome": "error", "code": 13, "first": 1}
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60, rows=[rule])
    run = Run(spec_of(world), world.context(rows(ROWS)))
    assert isinstance(run.proceed(), Waiting)
    shutil.rmtree(world.path("checkpoint"))
    world.emulator.advance(3600)
    check(world, go_on(world, Folder(world.path("checkpoint"), settle=0.0)))
    # Three shards of the first round, one of the second.
    assert world.emulator.ledger()["totals"]["created"] == 4


def test_checkpoint_lost_after_answers_were_collected_costs_nothing(both):
    both.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    run = Run(spec_of(both, max_jobs=1), both.context(rows(ROWS)))
    assert isinstance(run.proceed(), Waiting)
    both.emulator.advance(3600)
    assert isinstance(run.proceed(), Waiting)
    assert len(run.checkpoint.notes()["collected"]) == 1
    shutil.rmtree(both.path("checkpoint"))
    both.emulator.advance(3600)
    check(both, go_on(both, Folder(both.path("checkpoint"), settle=0.0), spec_of(both, max_jobs=1)))
    assert both.emulator.ledger()["totals"]["created"] == 3
    assert both.emulator.executions()["rows"] == ROWS


def test_files_of_a_run_at_google_are_gone_once_its_outputs_are_written(both):
    both.emulator.script(mode="at_once")
    go_on(both, Folder(both.path("checkpoint"), settle=0.0))
    assert list(both.context(rows(1)).client.all_files()) == []


def test_lost_reply_to_a_submission_is_one_job(world):
    fails_once(world)
    world.emulator.fault(
        match={"method": "POST", "path": "batchGenerateContent"}, action="close", when="after", times=2
    )
    check(world, go_on(world, Folder(world.path("checkpoint"), settle=0.0)))


def test_job_that_was_deleted_is_asked_again(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    run = Run(spec_of(world), world.context(rows(ROWS)))
    came = run.proceed()
    assert isinstance(came, Waiting)
    run.context.client.delete_batch(came.jobs[0])
    manifest = go_on(world, Folder(world.path("checkpoint"), settle=0.0))
    assert manifest["counts"] == {"succeeded": ROWS}


def test_rows_of_a_job_that_another_key_may_still_run_are_not_asked_anew_unless_a_person_says_so(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    first = Run(spec_of(world), world.context(rows(ROWS), occasion="1"))
    came = first.proceed()
    assert isinstance(came, Waiting)
    for name in came.jobs:  # as good as in a project that the other key does not see
        first.context.client.delete_batch(name)
    world.emulator.advance(3600)
    settings = replace(first.context.client.settings, api_key=Secret("another"))
    created = world.emulator.ledger()["totals"]["created"]

    def proceed(occasion):
        again = replace(world.context(rows(ROWS), occasion=occasion), client=GeminiBatchClient(settings))
        return Run(spec_of(world), again).proceed()

    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"with another key.*may run and bill.*clear the task"):
            proceed("1")
    assert world.emulator.ledger()["totals"]["created"] == created
    for occasion in ("2", "2", "2"):
        if isinstance(proceed(occasion), Waiting):
            world.emulator.advance(3600)
    assert world.emulator.ledger()["totals"]["created"] > created


def test_late_job_is_cancelled_and_its_rows_asked_again(world):
    from airflow_provider_gemini_batch.run.context import JobLimits

    world.emulator.script(stuck="RUNNING", pending_seconds=0, times=1)
    world.emulator.script(mode="at_once")
    context = world.context(rows(3), limits=JobLimits(running=1800.0))
    run = Run(world.spec(), context)
    while isinstance(came := run.proceed(), Waiting):
        world.emulator.advance(3600)
    assert came["counts"] == {"succeeded": 3}
    assert came["rounds"] == 2


def test_two_attempts_at_once_share_their_jobs(gemini_batch_emulator, tmp_path):
    world = World(gemini_batch_emulator, tmp_path)
    fails_once(world)
    came: list = []

    def attempt() -> None:
        try:
            folder = Folder(world.path("checkpoint"), settle=0.0)
            came.append(go_on(world, folder, now=time.time, submit_policy=replace(QUICK, in_flight=4.0)))
        except GeminiBatchError as error:
            came.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(came) == 2
    check(world, go_on(world, Folder(world.path("checkpoint"), settle=0.0)))


def test_changed_prompt_in_mid_run_cancels_and_begins_anew(world):
    world.emulator.script(mode="time", pending_seconds=6000, running_seconds=6000)
    run = Run(world.spec(), world.context(rows(3)))
    assert isinstance(run.proceed(), Waiting)
    other = Run(world.spec(prompt="Shout {{ row.word }}"), world.context(rows(3)))
    assert other.checkpoint.number == 2
    assert {job["state"] for job in world.emulator.ledger()["jobs"]} <= {"CANCELLED", "CANCELLING"}


class NamesNoJob(Folder):
    """A folder whose writer dies when it is to note the name of a job."""

    def below(self, name: str) -> Folder:
        return NamesNoJob(self.path(name), settle=0.0)

    def create(self, name: str, content: bytes) -> bool:
        if name.startswith("job-"):
            raise Killed
        return super().create(name, content)


def die_before_a_job_is_noted(both: Any) -> dict[str, Any]:
    """Return what the next attempt knows of its predecessor, which may have made a job."""
    dying = NamesNoJob(both.path("checkpoint"), settle=0.0)
    with pytest.raises(Killed):
        Run(both.spec(), both.context(rows(3), checkpoint=dying)).proceed()
    return {"submit_policy": SubmitPolicy(rivals=()), "identity": TaskIdentity(TASK, None, may_have_rivals=True)}


@pytest.mark.parametrize("lag", [0.0, 40.0])
def test_job_that_nobody_noted_is_adopted_though_the_columns_change(both, lag):
    both.emulator.script(mode="time", pending_seconds=10, running_seconds=10)
    both.emulator.configure(listing_lag=lag)
    patient = die_before_a_job_is_noted(both)
    both.emulator.advance(30)
    manifest = both.attempt(both.spec(keep_columns=()), rows(3), **patient)
    assert (manifest["counts"], manifest["reused"]) == ({"succeeded": 3}, 3)
    assert both.emulator.executions()["rows"] == 3


@pytest.mark.parametrize("lag", [0.0, 40.0])
def test_job_that_nobody_noted_is_cancelled_once_the_prompt_changes(both, lag, monkeypatch):
    monkeypatch.setattr("time.sleep", both.emulator.advance)
    both.emulator.script(mode="time", pending_seconds=6000, running_seconds=6000)
    both.emulator.configure(listing_lag=lag)
    patient = die_before_a_job_is_noted(both)
    run = Run(both.spec(prompt="Shout {{ row.word }}"), both.context(rows(3), **patient))
    for _ in range(8):
        assert isinstance(run.proceed(), Waiting)
        both.emulator.advance(60)
    unwanted, wanted = both.emulator.state.all_jobs
    assert (unwanted.cancelled is None, wanted.cancelled) == (False, None)
    assert run.checkpoint.number == 2


class ReplacedMeanwhile(MortalFolder):
    """A folder whose writer is overtaken, at its n-th write, by an attempt with another prompt."""

    overtake: Callable[[], None]

    def _count(self, is_after: bool) -> None:
        try:
            super()._count(is_after)
        except Killed:
            assert isinstance(self._shared, ReplacedMeanwhile)
            self._shared.overtake()


def test_job_of_an_attempt_overtaken_at_any_write_is_cancelled_or_never_made(gemini_batch_emulator, tmp_path):
    for place in range(5, 9):  # the snapshot, the round, the claim, the intent
        gemini_batch_emulator.reset()
        world = World(gemini_batch_emulator, tmp_path / f"{place}")
        world.folder.mkdir()
        world.emulator.script(mode="time", pending_seconds=6000, running_seconds=6000)
        younger: list[Run] = []

        def overtake(world=world, younger=younger) -> None:
            younger.append(Run(world.spec(prompt="Shout {{ row.word }}"), world.context(rows(3))))
            younger[0].proceed()

        folder = ReplacedMeanwhile(world.path("checkpoint"), dies_at=place, after=True, settle=0.0)
        folder.overtake = overtake
        with suppress(GeminiBatchError):
            Run(world.spec(), world.context(rows(3), checkpoint=folder)).proceed()
        for _ in range(8):
            assert isinstance(younger[0].proceed(), Waiting)
            world.emulator.advance(60)
        *unwanted, wanted = world.emulator.state.all_jobs
        assert [job.cancelled is None for job in (*unwanted, wanted)] == [False] * len(unwanted) + [True], place


def test_death_at_any_write_while_a_generation_is_given_up_loses_no_job(gemini_batch_emulator, tmp_path):
    for place in range(1, 4):  # that it is given up, that it has ended, the first of the next one
        gemini_batch_emulator.reset()
        world = World(gemini_batch_emulator, tmp_path / f"{place}")
        world.folder.mkdir()
        world.emulator.script(mode="time", pending_seconds=60, running_seconds=6000)
        assert isinstance(Run(world.spec(), world.context(rows(3))).proceed(), Waiting)
        changed = world.spec(prompt="Shout {{ row.word }}")
        with suppress(Killed):
            folder = MortalFolder(world.path("checkpoint"), dies_at=place, after=True, settle=0.0)
            Run(changed, world.context(rows(3), checkpoint=folder)).proceed()
        run = Run(changed, world.context(rows(3)))
        for _ in range(8):
            assert isinstance(run.proceed(), Waiting)
            world.emulator.advance(60)
        unwanted, wanted = world.emulator.state.all_jobs
        assert (unwanted.cancelled is None, wanted.cancelled) == (False, None)


def test_prompt_that_is_changed_back_while_its_generation_is_given_up_is_answered(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    assert isinstance(Run(world.spec(), world.context(rows(3))).proceed(), Waiting)
    folder = MortalFolder(world.path("checkpoint"), dies_at=1, after=True, settle=0.0)
    with pytest.raises(Killed):
        Run(world.spec(prompt="Shout {{ row.word }}"), world.context(rows(3), checkpoint=folder)).proceed()
    manifest = world.attempt(world.spec(), rows(3))
    assert (manifest["counts"], world.rows_run()) == ({"succeeded": 3}, 3)


def test_worker_that_cannot_see_the_checkpoint_names_who_wrote_it(world):
    slept: list[float] = []
    context = world.context(rows(3), host="worker-b", left=Left(1, "worker-a"), sleep=slept.append)
    for generation in (1, None):  # after a wait; at the beginning of another attempt
        with pytest.raises(
            CheckpointLostError, match=r"\(worker-b\) does not see the checkpoint .*/g1, which worker-a "
        ):
            Run(world.spec(), context, generation=generation)
    assert sum(slept) == 120
    assert world.emulator.ledger()["jobs"] == []


def test_worker_that_sees_a_checkpoint_of_its_own_is_not_misled(world):
    world.emulator.script(mode="time", pending_seconds=60, running_seconds=60)
    assert isinstance(Run(world.spec(), world.context(rows(3), host="worker-b")).proceed(), Waiting)
    context = world.context(rows(3), host="worker-b", left=Left(1, "worker-a"))
    with pytest.raises(CheckpointLostError, match="which worker-a wrote"):
        Run(world.spec(), context, generation=1)


def test_worker_that_lost_its_own_checkpoint_begins_again(world):
    world.emulator.script(mode="at_once")
    run = Run(world.spec(), world.context(rows(3), host="worker-a", left=Left(1, "worker-a")))
    manifest = run.proceed()
    assert isinstance(manifest, dict)
    assert manifest["succeeded"] == 3


def test_attempt_says_what_it_leaves_before_it_submits(world):
    told = []
    context = world.context(rows(3), host="worker-a", on_checkpoint=lambda left: told.append((left, asked())))

    def asked() -> int:
        return len(world.emulator.ledger()["jobs"])

    run = Run(world.spec(), context)
    assert isinstance(run.proceed(), Waiting)
    assert isinstance(run.proceed(), Waiting)
    assert told == [(Left(1, "worker-a"), 0)]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_chaos_pays_once_and_loses_nothing(gemini_batch_emulator, tmp_path, seed):
    world = World(gemini_batch_emulator, tmp_path, random.Random(seed).choice(["gemini", "vertex_ai"]))
    chance = random.Random(seed)
    fails_once(world)
    for _ in range(chance.randint(0, 3)):
        world.emulator.fault(
            match={"method": chance.choice(["POST", "GET"])},
            skip=chance.randint(0, 30), times=1, action=chance.choice(["close", "reset", "reply"]),
            when=chance.choice(["before", "after"]), status=503,
        )  # fmt: skip
    for _ in range(30):
        folder = MortalFolder(
            world.path("checkpoint"), dies_at=chance.randint(1, 25), after=chance.random() < 0.5, settle=0.0
        )
        try:
            manifest = go_on(world, folder)
        except (Killed, GeminiBatchError):
            if chance.random() < 0.1:
                shutil.rmtree(world.path("checkpoint"), ignore_errors=True)
            continue
        check(world, manifest)
        break
    else:
        raise AssertionError("thirty attempts did not end the run")
    assert Checkpoint.latest(Folder(world.path("checkpoint"))).end is not None
