# SPDX-License-Identifier: Apache-2.0
"""The plan: each next step, and that no row is ever asked twice at once, whatever two planners see."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_gemini_batch.run.plan import (
    AskFlex,
    Collect,
    CutRound,
    Facts,
    Finished,
    Limits,
    Policy,
    Round,
    Shard,
    Submit,
    TakeSnapshot,
    Wait,
    WriteOutputs,
    cut,
    is_passing,
    next_step,
)

POLICY = Policy(max_jobs=2, max_row_attempts=3)


def shards(*states):
    return tuple(
        Shard(f"r1.s{place}", 1, state, "" if state == "open" else f"batches/{place}")
        for place, state in enumerate(states)
    )


def step(*states, policy=POLICY, number=1, tier="batch"):
    rounds = (
        *(Round(earlier, shards("collected")) for earlier in range(1, number)),
        Round(number, shards(*states), tier),
    )
    return next_step(Facts(True, rounds), policy)


def test_input_is_read_first():
    assert next_step(Facts(), POLICY) == TakeSnapshot()


def test_first_round_is_cut_from_the_snapshot():
    assert next_step(Facts(True), POLICY) == CutRound(1)


def test_jobs_in_flight_are_bounded():
    assert step("open", "open", "open") == Submit(shards("open", "open"))
    assert step("live", "open", "open") == Submit((shards("live", "open")[1],))
    assert isinstance(step("live", "live", "open"), Wait)


def test_ended_job_is_collected_before_anything_is_submitted():
    assert step("live", "ended", "open") == Collect(shards("live", "ended")[1])


def test_wait_wakes_at_any_end_while_a_shard_is_left():
    assert step("live", "live", "open") == Wait(shards("live", "live"), "any")
    assert step("live", "live", "collected") == Wait(shards("live", "live"), "all")


def test_next_round_is_cut_when_all_is_collected():
    assert step("collected", "collected") == CutRound(2, "batch")


def test_outputs_are_written_after_the_last_attempt():
    assert step("collected", number=3) == WriteOutputs()


def test_outputs_are_written_when_a_round_asks_nothing():
    assert next_step(Facts(True, (Round(1, shards("collected")), Round(2, ()))), POLICY) == WriteOutputs()
    assert next_step(Facts(True, (Round(1, ()),)), POLICY) == WriteOutputs()


def test_ended_generation_has_no_step():
    assert next_step(Facts(True, (Round(1, shards("open")),), has_ended=True), POLICY) == Finished()


def test_later_rounds_go_over_flex_if_asked():
    flex = Policy(max_jobs=2, retry_tier="flex")
    assert step("collected", policy=flex) == CutRound(2, "flex")
    assert step("open", policy=flex, number=2, tier="flex") == AskFlex(shards("open")[0])


@pytest.mark.parametrize(
    ("status", "code", "finish", "passing"),
    [
        ("failed", 13, None, True), ("failed", 8, None, True), ("failed", 14, None, True), ("failed", 4, None, True),
        ("failed", 3, None, False), ("failed", None, None, False), ("blocked", None, "SAFETY", False),
        ("missing", None, None, True), ("invalid", None, "STOP", True), ("invalid", None, "MAX_TOKENS", False),
        ("succeeded", None, "STOP", False),
    ],
)  # fmt: skip
def test_reason_decides_whether_a_row_is_asked_again(status, code, finish, passing):
    assert is_passing(status, code, finish) is passing


@given(st.lists(st.integers(1, 50), max_size=200), st.integers(1, 20), st.integers(50, 300))
def test_cut_keeps_order_and_limits_and_loses_no_row(sizes, rows, size):
    numbered = [(3 * n, value) for n, value in enumerate(sizes)]
    found = list(cut(numbered, Limits(rows, size)))
    assert [n for one in found for n, _ in numbered if one.first <= n <= one.last] == [n for n, _ in numbered]
    for one in found:
        members = [value for n, value in numbered if one.first <= n <= one.last]
        assert len(members) == one.rows <= rows
        assert sum(members) <= size


# --- two planners ---------------------------------------------------------------------------------------------------


class World:
    """
    A checkpoint and a service, as a run sees them: files created once or named by content, jobs with one token each.

    :param late: Each planner sees each fact only after so many of its own turns.
    """

    def __init__(self, rows: int, per_shard: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.rows = rows
        self.per_shard = per_shard
        self.snapshot = False
        self.rounds: list[dict] = []
        self.collected: dict[str, dict[int, str]] = {}
        self.jobs: dict[str, dict] = {}
        self.ended = False
        self.answered_by_service: Counter[int] = Counter()
        self.live_rows: Counter[int] = Counter()

    def outcome(self) -> str:
        return self.random.choices(["succeeded", "passing", "lasting"], [6, 3, 1])[0]


class Planner:
    """A worker that sees a part of the facts, dies between any two steps, and begins again."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)

    def sees(self) -> bool:
        return self.random.random() < 0.8

    def facts(self) -> Facts:
        world = self.world
        rounds = []
        for header in world.rounds:
            if not self.sees():
                break  # rounds are looked up one after the other
            found = []
            for shard in header["shards"]:
                if shard["id"] in world.collected and self.sees():
                    found.append(Shard(shard["id"], len(shard["rows"]), "collected"))
                elif shard["id"] in world.jobs and self.sees():
                    job = world.jobs[shard["id"]]
                    found.append(
                        Shard(shard["id"], len(shard["rows"]), "ended" if job["ended"] else "live", shard["id"])
                    )
                else:
                    found.append(Shard(shard["id"], len(shard["rows"])))
            rounds.append(Round(header["number"], tuple(found)))
        return Facts(world.snapshot, tuple(rounds), world.ended)

    def turn(self) -> None:
        world = self.world
        step = next_step(self.facts(), Policy(max_jobs=self.random.randint(1, 3)))
        if self.random.random() < 0.15:
            return  # died before the effect
        if isinstance(step, TakeSnapshot):
            world.snapshot = True
        elif isinstance(step, CutRound):
            self.cut(step.number)
        elif isinstance(step, Submit):
            for shard in step.shards:
                self.submit(shard.id)
        elif isinstance(step, Collect):
            self.collect(step.shard.id)
        elif isinstance(step, WriteOutputs):
            world.ended = True
        elif isinstance(step, Wait):
            for shard in step.shards:
                if self.random.random() < 0.5:
                    self.end(shard.id)

    def cut(self, number: int) -> None:
        world = self.world
        if len(world.rounds) >= number:
            return  # somebody created it: his counts
        rows = list(range(world.rows))
        if number > 1:
            last = {
                n: status for shard in world.rounds[-1]["shards"] for n, status in world.collected[shard["id"]].items()
            }
            rows = [n for n in rows if last.get(n) == "passing"]
        pieces = [rows[at : at + world.per_shard] for at in range(0, len(rows), world.per_shard)]
        world.rounds.append(
            {"number": number, "shards": [{"id": f"r{number}.s{k}", "rows": piece} for k, piece in enumerate(pieces)]}
        )

    def rows_of(self, shard: str) -> list[int]:
        return next(one["rows"] for header in self.world.rounds for one in header["shards"] if one["id"] == shard)

    def submit(self, shard: str) -> None:
        world = self.world
        if shard in world.jobs:
            return  # its token finds the job
        rows = self.rows_of(shard)
        for n in rows:
            world.live_rows[n] += 1
            assert world.live_rows[n] == 1, f"row {n} is asked twice at once"
            assert n not in {row for row, count in world.answered_by_service.items() if count}, f"row {n} has an answer"
        world.jobs[shard] = {"ended": False, "answers": {n: world.outcome() for n in rows}}

    def end(self, shard: str) -> None:
        job = self.world.jobs[shard]
        if not job["ended"]:
            job["ended"] = True
            for n, status in job["answers"].items():
                self.world.live_rows[n] -= 1
                self.world.answered_by_service[n] += status == "succeeded"

    def collect(self, shard: str) -> None:
        self.world.collected[shard] = dict(self.world.jobs[shard]["answers"])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 12), st.integers(1, 5))
def test_two_planners_never_ask_a_row_twice(seed, rows, per_shard):
    world = World(rows, per_shard, seed)
    planners = [Planner(world, seed + 1), Planner(world, seed + 2)]
    order = random.Random(seed + 3)
    for _ in range(3000):
        if world.ended:
            break
        order.choice(planners).turn()
    assert world.ended, "two planners get stuck"
    assert max(world.answered_by_service.values(), default=0) <= 1
    assert set().union(*(found for found in world.collected.values())) == set(range(rows))
