# SPDX-License-Identifier: Apache-2.0
"""What a run does next: a pure function from what is known to one step."""

# Theory of operation
# ===================
#
# A run is a reconcile loop: read the facts from the checkpoint, ask `next_step`, carry the step out, publish what came
# of it, and begin again. Any attempt on any worker may enter the loop at any time, also two at once, so nothing is
# remembered outside of the checkpoint, and each step may be carried out twice.
#
# A request is paid for once because of three rules:
#
# 1. Rows are put into shards by `CutRound` alone, and a round is created if absent: whoever loses the race works on the
#    winner's shards. Each row is in at most one shard of a round.
# 2. A round is cut only when each shard of the round before it is collected: no job that may still answer a row is
#    alive.
# 3. A shard has one token, by which its job is found again. Submitting it twice finds the same job
#    (`lifecycle/submit.py`).
#
# A planner that sees only some of the facts (files may be listed late) sees a run that is less far. It may collect a
# job again, which costs nothing, or lose the race for a round that is there already.
#
# Example: 1,000 rows, three shards, two jobs at once. `TakeSnapshot`, `CutRound(1)`, `Submit(s0, s1)`, `Wait`,
# `Collect(s0)`, `Submit(s2)`, `Wait`, `Collect(s1)`, `Collect(s2)`, `CutRound(2)` with the rows that failed for a
# passing reason, and so on until a round has no rows or `max_row_attempts` rounds are closed: `WriteOutputs`.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

Tier = Literal["batch", "flex"]
ShardState = Literal["open", "live", "ended", "collected"]

MAX_JOBS_AT_ONCE = 50


@dataclass(frozen=True)
class Shard:
    """
    Some rows of a round, asked by one job.

    :param id: ``r<round>.s<number>``.
    :param rows: How many.
    :param state: ``open`` before its job is known, ``live`` while that runs, ``ended``, ``collected``.
    :param job: Name of its job.
    :param is_called: Whether an attempt was about to create its job.
    """

    id: str
    rows: int
    state: ShardState = "open"
    job: str = ""
    is_called: bool = False


def round_of(shard_id: str) -> int:
    """Return the number of the round that a shard is of."""
    return int(shard_id[1:].split(".", 1)[0])


@dataclass(frozen=True)
class Round:
    """
    One time of asking.

    :param tier: ``batch``, or ``flex`` for rows that are asked one by one.
    """

    number: int
    shards: tuple[Shard, ...] = ()
    tier: Tier = "batch"

    @property
    def is_closed(self) -> bool:
        """Whether each of its shards is collected."""
        return all(shard.state == "collected" for shard in self.shards)


@dataclass(frozen=True)
class Facts:
    """What is known of a generation: the union of what its checkpoint shows."""

    has_snapshot: bool = False
    rounds: tuple[Round, ...] = ()
    has_ended: bool = False


@dataclass(frozen=True)
class Policy:
    """
    What the user allows.

    :param max_jobs: Jobs in flight.
    :param max_row_attempts: How often a row is asked, over all rounds.
    :param retry_tier: How rows are asked that are left after the first round.
    """

    max_jobs: int = 5
    max_row_attempts: int = 3
    retry_tier: Tier = "batch"


@dataclass(frozen=True)
class TakeSnapshot:
    """Read the input, once for this generation."""


@dataclass(frozen=True)
class CutRound:
    """Put the rows that are to be asked into shards, and publish the round."""

    number: int
    tier: Tier = "batch"


@dataclass(frozen=True)
class Submit:
    """Find or create the jobs of these shards."""

    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Adopt:
    """Look for the jobs of these shards: somebody was about to create them, and did not say what came of it."""

    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Collect:
    """Bring in the answers of an ended job."""

    shard: Shard


@dataclass(frozen=True)
class AskFlex:
    """Ask the rows of a shard one by one, without a job."""

    shard: Shard


@dataclass(frozen=True)
class Wait:
    """
    Wait for jobs.

    :param wake: ``any`` if a shard can be sent once one of them has ended, else ``all``.
    """

    shards: tuple[Shard, ...]
    wake: Literal["any", "all"] = "all"


@dataclass(frozen=True)
class WriteOutputs:
    """Write the outputs and end the generation."""


@dataclass(frozen=True)
class Finished:
    """There is nothing left to do."""


Step = TakeSnapshot | CutRound | Submit | Adopt | Collect | AskFlex | Wait | WriteOutputs | Finished


def next_step(facts: Facts, policy: Policy) -> Step:
    """Return the one step to take now."""
    if facts.has_ended:
        return Finished()
    if not facts.has_snapshot:
        return TakeSnapshot()
    if not facts.rounds:
        return CutRound(1)
    # A second job of an earlier round's shard. Its answers are paid for and may be gone in two days, so they come
    # first.
    if late := _ended(facts.rounds[:-1]):
        return Collect(late)
    current = facts.rounds[-1]
    if not current.is_closed:
        return _work_on(current, policy)
    # A round without shards is how the run learns that no row is left to ask; it is published like any other, so that
    # every attempt comes to the same end.
    if not current.shards or current.number >= policy.max_row_attempts:
        return WriteOutputs()
    return CutRound(current.number + 1, policy.retry_tier)


def leaving_step(facts: Facts, sought: Collection[str] = ()) -> Step:
    """
    Return the step to take in a generation that is given up: what its jobs are paid for is brought in.

    :param sought: Shards whose jobs were looked for, and are nowhere.
    """
    shards = [shard for found in facts.rounds for shard in found.shards]
    if ended := _ended(facts.rounds):
        return Collect(ended)
    # An open shard without a create call has no job, and gets none any more.
    if unheard := tuple(
        shard for shard in shards if shard.state == "open" and shard.is_called and shard.id not in sought
    ):
        return Adopt(unheard)
    live = tuple(shard for shard in shards if shard.state == "live")
    return Wait(live, "all") if live else Finished()


def _ended(rounds: Iterable[Round]) -> Shard | None:
    """Return the first shard whose job has answers to bring in; one of a closed round has a second job (.twins)."""
    return next((shard for found in rounds for shard in found.shards if shard.state == "ended"), None)


def _work_on(current: Round, policy: Policy) -> Step:
    by_state: dict[ShardState, list[Shard]] = {"open": [], "live": [], "ended": [], "collected": []}
    for shard in current.shards:
        by_state[shard.state].append(shard)
    # Answers live 48 hours at Google: what has ended is brought in before anything else.
    if by_state["ended"]:
        return Collect(by_state["ended"][0])
    # Rows that are asked one by one make no job: their shards are open or collected, never live.
    if current.tier == "flex":
        return AskFlex(by_state["open"][0])
    room = min(policy.max_jobs, MAX_JOBS_AT_ONCE) - len(by_state["live"])
    if by_state["open"] and room > 0:
        return Submit(tuple(by_state["open"][:room]))
    return Wait(tuple(by_state["live"]), "any" if by_state["open"] else "all")


# --- what becomes of a row --------------------------------------------------------------------------------------------

RowStatus = Literal["succeeded", "failed", "blocked", "invalid", "missing"]

STATUSES: tuple[RowStatus, ...] = ("succeeded", "failed", "blocked", "invalid", "missing")

PASSING_CODES = frozenset({1, 4, 8, 10, 13, 14})
"""gRPC codes that another time of asking may not meet: cancelled, deadline, quota, aborted, internal, unavailable."""

LASTING_FINISH = frozenset({"MAX_TOKENS"})
"""Finish reasons that the same request meets again: the same limit cuts again."""


def is_passing(
    status: str, code: int | None, finish_reason: str | None, codes: Collection[int] = PASSING_CODES
) -> bool:
    """
    Say whether a row without a usable answer is worth asking again.

    Passing are missing rows, answers that break the schema, and errors with one of *codes*. Lasting are refused and
    blocked rows, and answers that a limit cut off.
    """
    if status == "missing":
        return True
    if status == "invalid":
        return finish_reason not in LASTING_FINISH
    return status == "failed" and code in codes


@dataclass(frozen=True)
class Limits:
    """
    What one job may hold.

    :param rows: At most so many rows.
    :param input_bytes: At most so many bytes of requests.
    """

    rows: int = 200_000
    input_bytes: int = 900_000_000


@dataclass(frozen=True)
class Cut:
    """One shard of a cut: rows from *first* to *last*, of which *rows* are asked."""

    first: int
    last: int
    rows: int
    input_bytes: int = field(default=0, compare=False)


MAX_SMALL = 200
"""Small shards at the beginning of a round, at most: each is a few files in the checkpoint."""


def cut(sizes: Iterable[tuple[int, int]], limits: Limits, small: Limits | None = None) -> Iterator[Cut]:
    """
    Put rows into shards, in order, each as full as its limits allow.

    :param sizes: ``(n, bytes)`` of each row that is to be asked, ordered by ``n``.
    :param small: Limits of the first :data:`MAX_SMALL` shards, where money allows no larger ones.
    """
    first = last = rows = total = made = 0
    for n, size in sizes:
        now = limits if small is None or made >= MAX_SMALL else small
        # A row that is above the limit by itself gets a shard of its own; who uploads it says what is wrong with it.
        if rows and (rows >= now.rows or total + size > now.input_bytes):
            yield Cut(first, last, rows, total)
            made += 1
            rows = total = 0
        if not rows:
            first = n
        last = n
        rows += 1
        total += size
    if rows:
        yield Cut(first, last, rows, total)
