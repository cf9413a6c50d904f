# SPDX-License-Identifier: Apache-2.0
"""Which attempt may create a shard's job: claims in a checkpoint that two attempts share, with a clock set by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
from airflow_provider_gemini_batch.run.claims import ClaimedError, Claims
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from tests.run.world import rows

START = 1_800_000_000.0
POLICY = SubmitPolicy(reconcile=(0.0, 5.0, 10.0), in_flight=60.0)
PATIENCE = 75.0


class Counted(Folder):
    """A folder that says which files somebody tried to create."""

    asked: ClassVar[list[str]] = []

    def below(self, name: str) -> Folder:
        return Counted(self.path(name), settle=0.0)

    def create(self, name: str, content: bytes) -> bool:
        self.asked.append(name)
        return super().create(name, content)


class Attempts:
    """Attempts at one run, each with claims of its own."""

    def __init__(self, world) -> None:
        self.now = START
        self._folder = Counted(world.path("claims"), settle=0.0)
        self._context = replace(world.context([]), submit_policy=POLICY, now=lambda: self.now)

    def begin(self) -> Claims:
        """Return the claims of one more attempt."""
        return Claims(self._context, self.checkpoint())

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint that all attempts share, as one that begins sees it."""
        found = Checkpoint(self._folder, 1)
        found.notes()
        return found


@pytest.fixture
def attempts(world) -> Attempts:
    return Attempts(world)


def test_the_first_attempt_gets_the_claim(attempts):
    assert attempts.begin().claim("r1.0", START) == "claim-r1.0-1.json"


@pytest.mark.parametrize("looked_after", [-5.0, 0.0, 5.0, PATIENCE - 1])
def test_a_second_attempt_waits_until_the_firsts_job_must_be_listed(attempts, looked_after):
    attempts.begin().claim("r1.0", START)
    attempts.now += looked_after + 1
    with pytest.raises(ClaimedError) as caught:
        attempts.begin().claim("r1.0", START + looked_after)
    assert caught.value.until == START + PATIENCE


def test_a_second_attempt_claims_anew_once_no_job_came(attempts):
    attempts.begin().claim("r1.0", START)
    attempts.now += PATIENCE
    assert attempts.begin().claim("r1.0", attempts.now) == "claim-r1.0-2.json"


def test_an_attempt_whose_reply_was_lost_waits_for_its_own_claim(attempts):
    claims = attempts.begin()
    claims.claim("r1.0", START)
    with pytest.raises(ClaimedError):
        claims.claim("r1.0", START + 1)


def test_a_refused_create_gives_the_claim_back_to_its_attempt_alone(attempts):
    claims = attempts.begin()
    claims.release([claims.claim("r1.0", START)])
    with pytest.raises(ClaimedError):
        attempts.begin().claim("r1.0", START)
    assert claims.claim("r1.0", START) == "claim-r1.0-2.json"


def test_a_claim_after_many_refused_ones_is_made_at_once(attempts):
    claims, checkpoint = attempts.begin(), attempts.checkpoint()
    for _ in range(30):
        name = claims.claim("r1.s0", START)
        claims.release([name])
        checkpoint.note("intent", "r1.s0", {"claim": name, "at": START})
    attempts.now += PATIENCE
    Counted.asked.clear()
    assert attempts.begin().claim("r1.s0", attempts.now) == "claim-r1.s0-31.json"
    assert Counted.asked == ["claim-r1.s0-30.json", "claim-r1.s0-31.json"]


def test_a_claim_below_one_that_is_noted_is_passed_over_only_if_that_one_is_over(attempts):
    attempts.begin().claim("r1.s0", START)
    attempts.now += PATIENCE
    second = attempts.begin().claim("r1.s0", attempts.now)
    attempts.checkpoint().note("intent", "r1.s0", {"claim": second, "at": attempts.now})
    with pytest.raises(ClaimedError):
        attempts.begin().claim("r1.s0", START)


def test_shards_are_claimed_one_by_one(attempts):
    attempts.begin().claim("r1.0", START)
    assert attempts.begin().claim("r1.1", START) == "claim-r1.1-1.json"


def test_a_create_refused_for_quota_is_tried_again_before_a_claim_would_end(world):
    world.emulator.fault(match={"method": "POST", "path": ":batchGenerateContent"}, status=429, retry_after=1)
    slow = SubmitPolicy(reconcile=(0.0,), rivals=(0.0,), in_flight=3600.0)
    run = Run(world.spec(), world.context(rows(2), submit_policy=slow))
    refused = run.proceed()
    assert isinstance(refused, Waiting)
    assert not refused.jobs
    world.emulator.advance(refused.until - world.emulator.state.now())
    created = run.proceed()
    assert isinstance(created, Waiting)
    assert len(created.jobs) == 1  # a claim that was kept would have to be waited for: an hour


def test_pauses_for_quota_grow_from_one_process_to_the_next(world):
    world.emulator.fault(match={"method": "POST", "path": ":batchGenerateContent"}, status=429, times=None)
    for _ in range(8):
        refused = Run(world.spec(), world.context(rows(2))).proceed()
        assert isinstance(refused, Waiting)
        pause = refused.until - world.emulator.state.now()
        world.emulator.advance(pause + 1)
    assert pause > 600  # each process begins with the claims, and the notes, of those before it


def test_refusal_for_quota_does_not_let_an_old_lost_call_be_looked_for_again(world, caplog):
    create = {"method": "POST", "path": ":batchGenerateContent"}
    world.emulator.fault(match=create, status=429, retry_after=1, times=3)
    context = world.context(rows(2), submit_policy=SubmitPolicy(reconcile=(0.01,), rivals=(0.0,), in_flight=600.0))
    run = Run(world.spec(), context)
    refused = run.proceed()
    lost = {"at": world.emulator.state.now() - 3600, "host": "gone", "claim": "claim-r1.s0-0.json", "digest": ""}
    Checkpoint(context.checkpoint, 1).note("intent", "r1.s0", lost)
    while isinstance(refused, Waiting) and not refused.jobs:
        world.emulator.advance(max(0.0, refused.until - world.emulator.state.now()))
        refused = run.proceed()
    assert caplog.text.count("No quota for a job now") == 3
    assert "may have submitted" not in caplog.text
