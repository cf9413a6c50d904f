# SPDX-License-Identifier: Apache-2.0
"""Twins: two jobs for one piece of work, of which one is enough."""

# A new job appears in the service's list late, nobody knows how late. So two attempts at one task may each find nothing
# and create a job; what a submission could not see is looked for again while the task waits, and once when the wait
# ends:
#
# * `list_look_due` says when a wait reads the list instead of the job alone: often in the first minutes, then ever more
#   rarely. A page of the list shows the job as well, so that most of these looks cost nothing.
# * `TwinWatch` says whether a listed job is a twin that matters.
# * `reconcile` leaves one of them: the oldest with answers, else the oldest that lives, by the service's own time and
#   then by name, so that all attempts choose alike. The others are cancelled.
#
# Example, with a list that lags 90 s. Attempt 1 creates A at 0 s and dies. Attempt 2 looks from 3 s to 50 s, sees
# nothing, creates B at 51 s, and looks once more at 61 s. Its wait reads the list when B is 15, 30 and 60 s old. The
# last of these looks, at 111 s, finds A, which is older: B is cancelled, the wait goes on with A. Had A and B both
# ended by then, A's answers would be taken, and the task would say that both were paid for (`paid_twice`).

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.flows import cancel_job, get_job
from airflow_provider_gemini_batch.api.identity import TaskIdentity, token_of
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.api.wire import Pause
from airflow_provider_gemini_batch.errors import GeminiBatchError, NotFoundError
from airflow_provider_gemini_batch.lifecycle.own_jobs import OwnJobs, age_order, is_live, is_live_or_useful, is_young
from airflow_provider_gemini_batch.times import epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.api.wire import Flow

log = logging.getLogger(__name__)

LAST_LOOK_AGE = 180.0
"""
How old in seconds the job of an attempt with rivals has to be for the last look.

A job that ends sooner is held back until then: its twin may not be listed yet, and nobody would hear that two were paid
for. Longer than two minutes of lag and a create call of another minute.
"""

SETTLED_AGE = 2 * LAST_LOOK_AGE
"""
How old in seconds a job is that no attempt can have missed a moment ago: it is listed within LAST_LOOK_AGE of its
creation, and so is what an attempt has created that did not find it.
"""

_FIRST = 15.0
_STEP = 30.0
_DENSE_UNTIL = 300.0
_GROWTH = 1.5

MOST_PAGES = 10
"""So many pages of the list are read for twins at most: a thousand jobs, of which a project may run a hundred."""

REACH = 3600.0
"""How many seconds older than the own job a twin may be."""


def list_look_due(age_at_last_look: float, age: float) -> bool:
    """
    Say whether a wait should read the list.

    :param age_at_last_look: Seconds from the job's creation to the last time the list was read; 0 for never.
    :param age: Seconds from the job's creation to now.
    """
    return age >= next_list_look(age_at_last_look)


def next_list_look(age: float) -> float:
    """Return the job's age in seconds at which the list is to be read next: at 15, 30, 60, 90 ... 300, 450, 675 ..."""
    if age < _FIRST:
        return _FIRST
    if age < _DENSE_UNTIL:
        return (age // _STEP + 1) * _STEP
    look = _DENSE_UNTIL
    while look <= age:
        look *= _GROWTH
    return look


@dataclass(frozen=True)
class TwinWatch:
    """
    Which jobs of the same task matter to one that is waited for.

    :param replace: Whether jobs of the same task with other input, if older, are to be cancelled.
    :param settled: Names of jobs about which nothing more is to be done.
    :param owned: Task halves whose jobs are certainly this task's own; empty where that is not known. A job that was
        adopted under another one (a former identity, another map index) has no twins here: they may be somebody else's.
    """

    replace: bool = False
    settled: frozenset[str] = frozenset()
    owned: frozenset[str] = frozenset()

    def is_twin(self, own: BatchJob, other: BatchJob) -> bool:
        """Whether *other* is a job that must not run, or must not have run, beside *own*."""
        ours, theirs = token_of(own), token_of(other)
        if ours is None or theirs is None or other.name == own.name or other.name in self.settled:
            return False
        # Adopted under another name: jobs beside it may be somebody else's, and are not ours to cancel.
        if self.owned and ours.task not in self.owned:
            return False
        if theirs == ours:
            return is_live_or_useful(other)
        return self.replace and theirs.task == ours.task and is_live(other) and age_order(other) < age_order(own)


@dataclass(frozen=True)
class Reconciled:
    """
    What is left of several jobs.

    :param job: The one to go on with.
    :param cancelled: Names of those that were cancelled.
    :param uncancelled: Names of those whose cancel call failed: they may still run and bill.
    :param paid_twice: Names of all jobs that ran for the same rows, the one gone on with first; empty if it is alone.
    :param settled: Names about which nothing more is to be done.
    """

    job: BatchJob
    cancelled: tuple[str, ...] = ()
    uncancelled: tuple[str, ...] = ()
    paid_twice: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()


@dataclass
class Choice:
    """
    Chooses among jobs with the same token, and cancels the rest. One for all looks of an attempt.

    :param reads: Retries of a read.
    :param cancels: Retries of a cancel.
    :param was_cut_short: Whether a SUCCEEDED job is what a cancel left over: its answers are not the whole work.
    :param may_cancel: Whether a job is certainly this task's own.
    :param now: UTC epoch seconds.
    """

    backend: Backend
    reads: RetryPolicy
    cancels: RetryPolicy
    was_cut_short: Callable[[BatchJob], Flow[bool]]
    now: Callable[[], float]
    may_cancel: Callable[[BatchJob], bool] = lambda job: True
    cancelled: list[str] = field(default_factory=list)
    uncancelled: list[str] = field(default_factory=list)
    rejected: set[str] = field(default_factory=set)
    """Names of ended jobs whose answers turned out not to be usable."""
    paid: list[str] = field(default_factory=list)
    """Names of jobs that have run to their end, beside the chosen one."""
    fresh: dict[str, BatchJob] = field(default_factory=dict)
    """Jobs as their last read showed them; what a list says may be older."""

    def of(self, jobs: Iterable[BatchJob]) -> Flow[BatchJob | None]:
        """
        Return the one job to take: the oldest with usable answers, else the oldest live one.

        What a list says of a job may be stale and lacks numbers, so a job is read before it is taken.
        """
        live: list[BatchJob] = []
        useful: list[BatchJob] = []
        # Oldest first, so that two attempts that see the same jobs choose alike without a word to each other.
        for candidate in sorted(jobs, key=age_order):
            if candidate.name in self.rejected or not is_live_or_useful(candidate):
                continue
            try:
                job = yield from get_job(self.backend, candidate.name, self.reads)
            except NotFoundError:
                # A replica may not have heard of it yet. Taken for deleted, its rows would be paid for twice.
                if not is_young(candidate, self.now()):
                    continue
                job = candidate
            else:
                self.fresh[job.name] = job
            if (yield from self.is_useful(job)):
                useful.append(job)
            elif is_live(job):
                live.append(job)
        if useful:
            self.paid += [job.name for job in useful[1:] if job.name not in self.paid]
            return useful[0]
        return min(live, key=age_order, default=None)  # anew: a create's answer may lack the time

    def is_useful(self, job: BatchJob) -> Flow[bool]:
        """Whether a job has ended with answers that can be used."""
        if not job.state.has_results:
            return False
        if job.stats.succeeded != 0 and not (yield from self.was_cut_short(job)):
            return True
        self.rejected.add(job.name)
        return False

    def cancel_all(self, jobs: Iterable[BatchJob]) -> Flow[None]:
        """Cancel what lives among *jobs*. There is a job to wait for, so a failing cancel is told, not raised."""
        for job in jobs:
            if not is_live(self.fresh.get(job.name, job)) or job.name in self.cancelled or not self.may_cancel(job):
                continue
            try:
                yield from cancel_job(self.backend, job.name, self.cancels)
                left = yield from get_job(self.backend, job.name, self.cancels)
            except GeminiBatchError as error:
                if isinstance(error, NotFoundError) and not is_young(job, self.now()):
                    continue
                if job.name not in self.uncancelled:
                    self.uncancelled.append(job.name)
                continue
            self.fresh[job.name] = left
            if job.name in self.uncancelled:
                self.uncancelled.remove(job.name)
            # A cancel may come a moment too late, and is not refused then.
            (self.paid if (yield from self.is_useful(left)) else self.cancelled).append(job.name)


def find_twins(backend: Backend, own: BatchJob, watch: TwinWatch, retry: RetryPolicy) -> Flow[list[BatchJob]]:
    """Read the list once, as far back as a twin can be, and return the twins of *own*."""
    token = token_of(own)
    if token is None:
        return []
    jobs = yield from _own_jobs(backend, own, token.task, retry).read()
    return [job for job in jobs if watch.is_twin(own, job)]


def paid_twins(backend: Backend, own: BatchJob, choice: Choice) -> Flow[tuple[str, ...]]:
    """
    Name the jobs that ran for the same rows as an ended one, that one first; nothing if it is alone.

    :raises GeminiBatchError: If the list cannot be read.
    """
    twins = yield from find_twins(backend, own, TwinWatch(), choice.reads)
    names = []
    for twin in (yield from _own_jobs(backend, own, "", choice.reads).get(twin.name for twin in twins)):
        if (yield from choice.is_useful(twin)):
            names.append(twin.name)
    return (own.name, *names) if names else ()


def _own_jobs(backend: Backend, own: BatchJob, task: str, retry: RetryPolicy, exclude: Collection[str] = ()) -> OwnJobs:
    born = epoch(own.create_time)
    identity = TaskIdentity(task, None if born is None else born - REACH)
    return OwnJobs(backend, identity, retry, exclude=exclude, clock_skew=0, most_pages=MOST_PAGES)


def reconcile(
    backend: Backend,
    job_name: str,
    watch: TwinWatch,
    *,
    reads: RetryPolicy,
    cancels: RetryPolicy,
    was_cut_short: Callable[[BatchJob], Flow[bool]],
    now: Callable[[], float],
    known: Collection[str] = (),
    exclude: Collection[str] = frozenset(),
    keep: bool = False,
    hold_until_age: float = 0.0,
    hold_until: float = math.inf,
) -> Flow[Reconciled]:
    """
    Look once for twins of a job, and leave one of them.

    :param known: Names of twins that a look has shown already; the next one may meet a replica that lacks them.
    :param exclude: Names of jobs that must neither be taken nor cancelled.
    :param keep: Go on with this very job as long as it lives or has answers, though a twin may be older: others know
        it by name.
    :param hold_until_age: If the job has ended, wait before the look until it is so many seconds old.
    :param hold_until: UTC epoch seconds at which no look is waited for any longer.
    :raises GeminiBatchError: If the job itself cannot be read. A list that cannot be read costs nothing but the look.
    """
    own = yield from get_job(backend, job_name, reads)
    hold = _Hold(own.born(now()), hold_until_age, hold_until, now)
    token = token_of(own)
    if token is None:
        return Reconciled(own)
    if own.is_succeeded:
        yield from _held_back(own, hold)
    choice = Choice(backend, reads, cancels, was_cut_short, now)
    own_jobs = _own_jobs(backend, own, token.task, reads, exclude)
    winner = own
    twins: list[BatchJob] = []
    gone: list[str] = []
    try:
        while True:
            seen = {job.name: job for job in [*(yield from own_jobs.read()), *(yield from own_jobs.get(known))]}
            listed = seen.values()
            # Deleted, though a list still shows it: it would end the wait at each look. A young one may only be unread.
            gone = [name for name in known if name not in seen and hold.is_settled]
            # Also those that were dealt with before: a cancel that failed the last time is tried again.
            twins = [job for job in listed if replace(watch, settled=frozenset()).is_twin(own, job)]
            same = [job for job in twins if token_of(job) == token]
            if same:
                winner = yield from _winner(choice, own, same, keep)
            yield from choice.cancel_all(job for job in (own, *twins) if job.name != winner.name)
            pause = yield from _until_next_look(choice, winner, own, hold)
            if not pause:
                break
            yield Pause(pause, f"{own.name} was cancelled. Looking for a job that took its place in {pause:.0f} s.")
    except GeminiBatchError as error:
        log.info("Whether another attempt submitted a twin of %s could not be checked: %s", own.name, error)
    paid = [name for name in choice.paid if name != winner.name]
    settled = [job.name for job in (own, *twins) if job.name != winner.name]
    return Reconciled(
        winner,
        tuple(choice.cancelled),
        tuple(choice.uncancelled),
        (winner.name, *paid) if paid and winner.state.has_results else (),
        # Nothing is left to do about a twin that has run but to take it, or to name it at the end.
        (*(name for name in settled if keep or name not in paid or winner.state.has_results), *gone),
    )


@dataclass(frozen=True)
class _Hold:
    """
    How long an ended job is held back for a twin that is listed late.

    :param born: When the job was created, by our clock.
    :param age: How old it has to be for the last look; 0 for no wait.
    :param until: UTC epoch seconds at which the wait ends in any case.
    """

    born: float | None
    age: float
    until: float
    now: Callable[[], float]

    @property
    def is_settled(self) -> bool:
        """Whether the job is so old that what it may have beside it is listed by now, and can be read."""
        return self.born is not None and self.now() - self.born >= SETTLED_AGE

    @property
    def missing(self) -> float:
        """Seconds that are still to be waited."""
        if self.born is None:
            return 0.0
        now = self.now()
        return max(0.0, min(self.age, self.born + self.age - now, self.until - now))


def _until_next_look(choice: Choice, winner: BatchJob, own: BatchJob, hold: _Hold) -> Flow[float]:
    """
    Return the seconds until another look at the list; 0 for none.

    A job that somebody cancelled may have been the younger of two, and the list may not show the other one yet.
    """
    if not hold.age or winner.name != own.name or not own.is_done or own.state is JobState.FAILED:
        return 0.0
    if (yield from choice.is_useful(own)):
        return 0.0
    return min(_STEP, hold.missing)


def _winner(choice: Choice, own: BatchJob, twins: list[BatchJob], keep: bool) -> Flow[BatchJob]:
    chosen = (yield from choice.of((own, *twins))) or own
    if not (keep and is_live_or_useful(own)) or chosen.name == own.name:
        return chosen
    if chosen.state.has_results:
        choice.paid.insert(0, chosen.name)
    return own


def _held_back(own: BatchJob, hold: _Hold) -> Iterator[Pause]:
    missing = hold.missing
    if missing > 0:
        why = f"{own.name} ended early, and another attempt may have submitted a job that is not listed yet."
        yield Pause(missing, f"{why} Looking for it in {missing:.0f} s.")
