# SPDX-License-Identifier: Apache-2.0
"""A schedule stepped by hand: a clock that stands still unless it is moved, and a service without a network."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats, JobPage
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.errors import GeminiBatchError, NotFoundError
from airflow_provider_gemini_batch.watch.schedule import Schedule
from airflow_provider_gemini_batch.watch.steps import Read, ReadJob, Stop, Tell, Update, Wait, WatchedJob

EPOCH = 1_790_000_000.0
PAGE = 100
LATENCY = 0.01
NONE_DONE = BatchStats(100, 0, 0, 100)


def moment(utc: float) -> str:
    """Write a time as the service does."""
    return datetime.fromtimestamp(utc, UTC).isoformat().replace("+00:00", "Z")


def is_page(read: Read) -> bool:
    """Whether a read is one of the list."""
    return not isinstance(read, ReadJob)


@dataclass
class Rule:
    """
    A fault of the service.

    :param answer: Returns what to answer instead, or None for the usual answer.
    :param times: How often; it then does no more.
    :param delay: Seconds that the answer takes.
    """

    matches: Callable[[Read], bool]
    answer: Callable[[], GeminiBatchError | JobPage | None] = lambda: None
    times: float = float("inf")
    delay: float = LATENCY
    skip: int = 0
    fired: int = 0


@dataclass
class Owner:
    """What a subscriber was told, and when."""

    job: WatchedJob
    told: list[tuple[float, Update]] = field(default_factory=list)

    @property
    def states(self) -> list[JobState]:
        return [update.job.state for _, update in self.told if update.job is not None]

    @property
    def errors(self) -> list[GeminiBatchError]:
        return [update.error for _, update in self.told if update.error is not None]

    @property
    def siblings(self) -> list[str]:
        return [update.sibling.name for _, update in self.told if update.sibling is not None]

    @property
    def has_seen_the_end(self) -> bool:
        return bool(self.states) and self.states[-1].is_terminal


class World:
    """A service with jobs, a schedule, and one clock for both."""

    def __init__(self) -> None:
        self.now = 0.0
        self.schedule = Schedule(lambda: self.now, lambda: EPOCH + self.now)
        self.jobs: dict[str, BatchJob] = {}
        self.rules: list[Rule] = []
        self.journal: list[tuple[float, Read]] = []
        self.has_stopped = False
        self._pending: list[tuple[float, int, Read, object]] = []
        self._numbers = itertools.count()

    # --- the service ----------------------------------------------------------------------------------------------

    def seed(
        self, count: int, state: JobState = JobState.RUNNING, *, age: float = 7200.0, **facts: object
    ) -> list[str]:
        """Create jobs, the first the oldest, and return their names."""
        names = []
        for _ in range(count):
            name = f"batches/{len(self.jobs):06}"
            created = moment(EPOCH + self.now - age)
            job = BatchJob(
                name,
                state=state,
                state_text=f"BATCH_STATE_{state.value}",
                create_time=created,
                **{"stats": NONE_DONE, **facts},
            )
            self.jobs[name] = job
            names.append(name)
        return names

    def set(self, names: Iterable[str], state: JobState = JobState.SUCCEEDED, **facts: object) -> None:
        """Change jobs."""
        for name in names:
            job = self.jobs[name]
            self.jobs[name] = dataclasses.replace(job, state=state, state_text=f"BATCH_STATE_{state.value}", **facts)

    def progress(self, name: str, done: int) -> None:
        """Let rows of a job be done."""
        self.jobs[name] = dataclasses.replace(self.jobs[name], stats=BatchStats(100, done, 0, 100 - done))

    def fault(self, matches: Callable[[Read], bool], answer: object = None, **more: object) -> Rule:
        """Answer some reads in another way."""
        make = answer if callable(answer) else (lambda: answer)
        rule = Rule(matches, make, **more)  # type: ignore[arg-type]
        self.rules.append(rule)
        return rule

    def fault_job(self, name: str, answer: object = None, **more: object) -> Rule:
        """Answer single reads of one job in another way."""
        return self.fault(lambda read: isinstance(read, ReadJob) and read.job_name == name, answer, **more)

    def _answer(self, read: Read) -> tuple[object, float]:
        for rule in self.rules:
            if rule.fired < rule.times and rule.matches(read):
                if rule.skip:
                    rule.skip -= 1
                    continue
                rule.fired += 1
                answer = rule.answer()
                return (self._usual(read) if answer is None else answer), rule.delay
        return self._usual(read), LATENCY

    def _usual(self, read: Read) -> object:
        if isinstance(read, ReadJob):
            return self.jobs.get(read.job_name) or NotFoundError("HTTP 404", status=404)
        newest_first = list(reversed(self.jobs.values()))
        begin = int(read.token or 0)
        end = begin + PAGE
        return JobPage(tuple(newest_first[begin:end]), str(end) if end < len(newest_first) else None)

    # --- who waits ------------------------------------------------------------------------------------------------

    def watch(self, name: str, interval: float | None = 1.0) -> Owner:
        """Wait for a job."""
        self.has_stopped = False
        job = self.schedule.add(name, interval, None)
        job.owner = Owner(job)
        return job.owner  # type: ignore[no-any-return]

    def watch_all(self, names: Iterable[str], interval: float | None = 1.0) -> list[Owner]:
        """Wait for each of several jobs."""
        return [self.watch(name, interval) for name in names]

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> list[tuple[float, Read]]:
        """Carry out steps until the clock has moved by *seconds*; return the reads that were begun."""
        begin, end = len(self.journal), self.now + seconds
        while not self.has_stopped:
            step = self.schedule.next_step()
            if isinstance(step, Tell):
                for job, update in step.updates:
                    job.owner.told.append((self.now, update))
            elif isinstance(step, Stop):
                self.has_stopped = True
            elif isinstance(step, Wait):
                pending = self._pending[0][0] if self._pending else float("inf")
                at = min(step.until, pending)
                if at > end:
                    break
                assert at > self.now or pending <= self.now, "a wait for the past would never end"
                self.now = max(self.now, at)
                if pending <= self.now:
                    _, _, read, answer = heapq.heappop(self._pending)
                    self.schedule.finish(read, answer)  # type: ignore[arg-type]
            else:
                self.journal.append((self.now, step))
                answer, delay = self._answer(step)
                heapq.heappush(self._pending, (self.now + delay, next(self._numbers), step, answer))
                assert len(self._pending) <= 2, "there are two connections"
        self.now = end
        return self.journal[begin:]

    def forget_reads(self) -> None:
        """Lose what is under way, as a driver does that ends."""
        self._pending.clear()


def pages(reads: list[tuple[float, Read]]) -> int:
    """Count the pages among reads."""
    return sum(is_page(read) for _, read in reads)


def singles(reads: list[tuple[float, Read]], name: str | None = None) -> int:
    """Count the single reads, or those of one job."""
    return sum(isinstance(read, ReadJob) and name in (None, read.job_name) for _, read in reads)


def longest_gap(times: Iterable[float]) -> float:
    """Return the longest time between one moment and the next."""
    return max(after - before for before, after in itertools.pairwise(times))
