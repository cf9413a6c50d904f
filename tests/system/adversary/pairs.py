# SPDX-License-Identifier: Apache-2.0
"""
Two attempts at one piece of work, beside an adversarial service, at a time that is stepped by hand.

The flows are the production's own: submission, wait with its looks for twins, reconciliation at the end. What differs
between the kinds of pairs is how the first attempt goes wrong:

``killed``
    It dies right after its create call was carried out, before it heard of it; the second attempt starts soon after.
``simultaneous``
    Both start within a second, and both live.
``zombie``
    It is thought dead while its create call is still on its way, and may live on or die after it.
``lost``
    No second attempt; the answer to its create call is lost, and the job is listed late.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from airflow_provider_gemini_batch.api.developer.jobs import DeveloperBackend
from airflow_provider_gemini_batch.api.identity import SubmissionToken
from airflow_provider_gemini_batch.api.models import BatchJob, JobSpec
from airflow_provider_gemini_batch.api.vertex.jobs import VertexBackend
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest, Pause
from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
from airflow_provider_gemini_batch.errors import GeminiBatchError, TransportError
from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
from airflow_provider_gemini_batch.lifecycle.submit import submit
from airflow_provider_gemini_batch.lifecycle.twins import LAST_LOOK_AGE, TwinWatch, reconcile
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome, WaitLimits, Watch, wait_for_end
from airflow_provider_gemini_batch.task.store import SubmissionStore
from tests.system.adversary.service import Job, Service

KINDS = ("killed", "simultaneous", "zombie", "lost")
BACKENDS = ("gemini", "vertex_ai")
LAGS = (5.0, 20.0, 60.0, 120.0)
START = 1_800_000_000.0
TOKEN = SubmissionToken("a" * 16, "1" * 16)
POLICY = SubmitPolicy()
DAY = 24 * 3600.0
IN_TIME = 60.0
"""Seconds beyond the lag within which a twin has to be cancelled: jobs that run longer are to be paid for once."""

Times = Callable[[random.Random], tuple[float, float]]


@dataclass(frozen=True)
class Plan:
    """
    One pair.

    :param store: Whether Airflow keeps a task's state (3.3 and later).
    :param long: Whether jobs run longer than the lag and IN_TIME.
    :param skew: Seconds by which the clock of the workers is ahead of the service's.
    """

    kind: str
    backend: str
    lag: float
    store: bool
    long: bool
    seed: int
    skew: float = 0.0


@dataclass
class Actor:
    """One attempt: its flow, and what befalls its first create call."""

    flow: Flow[str]
    dies_after_create: bool = False
    stall: float = 0.0
    loses_reply: bool = False
    creates: int = 0
    is_dead: bool = False
    result: str | None = None
    error: GeminiBatchError | None = None


class Befallen(Protocol):
    """Whose first create call something befalls."""

    dies_after_create: bool
    stall: float
    loses_reply: bool


@dataclass
class Bill:
    """
    What a pair came to.

    :param alive: Jobs that run or have run to their end, one lag and one look after the last one was created.
    :param told: What the task says was paid for twice.
    """

    plan: Plan
    created: list[Job]
    alive: list[Job]
    told: set[str]
    results: list[str]
    errors: list[GeminiBatchError]

    @property
    def is_right(self) -> bool:
        """One job is paid for; where that could not be helped, the task names all of them."""
        if not self.results or self.errors:
            return False
        if len(self.alive) == 1:
            return self.results[-1] == self.alive[0].name
        return not self.plan.long and {job.name for job in self.alive} <= self.told


class Pair:
    """
    One pair of attempts on a clock of its own.

    :param plan: What is to happen.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.draw = random.Random(repr(replace(plan, skew=0.0)))
        self.time = START
        lag = plan.lag

        def duration(draw: random.Random) -> tuple[float, float]:
            whole = lag + IN_TIME + draw.uniform(5, 200) if plan.long else draw.uniform(2, max(10.0, lag))
            waits = whole * draw.uniform(0.1, 0.9)
            return waits, whole - waits

        self.service = Service(lambda: self.time, lag=lag, seed=plan.seed, duration=duration)
        host = "https://service.example"
        self.settings = ConnectionSettings("gemini", host, "v1beta")
        self.backend: Any = DeveloperBackend(self.settings)
        if plan.backend == "vertex_ai":
            self.settings = ConnectionSettings(
                "vertex_ai", host, "v1", project="p", location="us-central1", storage_uri="gs://bucket/x"
            )
            self.backend = VertexBackend(self.settings)
        self.kept: dict[str, Any] | None = {} if plan.store else None
        self.told: set[str] = set()
        self.actors: list[Actor] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial: Iterator[int] = iter(range(10**9))

    # --- the task -----------------------------------------------------------------------------------------------------

    def task(self, try_number: int) -> Flow[str]:
        """Do what an operator that waits in its worker does."""
        store = SubmissionStore(self.kept_for(), now=self.now)
        noted = store.recall()
        names = [noted["job"]] if "job" in noted else []
        submission = yield from submit(
            self.backend,
            self.spec,
            self.prepare,
            TOKEN,
            since=START - 3600,
            known_names=names,
            may_have_rivals=try_number > 1 or bool(noted),
            intent_at=None if names else noted.get("intent_at"),
            now=self.now,
            remember=store.note,
            was_cut_short=self.was_cut_short,
        )
        job = submission.job
        settled = set(submission.settled)
        paid = set(submission.paid_twice)
        hold = LAST_LOOK_AGE if submission.may_have_twin else 0.0
        while True:
            twins = TwinWatch(replace=True, settled=frozenset(settled))
            watch = Watch(WaitLimits(self.now() + DAY), self.now())
            outcome = yield from wait_for_end(self.backend, job.name, watch, self.now, twins=twins)
            assert outcome in (Outcome.ENDED, Outcome.TWIN)
            left = yield from reconcile(
                self.backend,
                job.name,
                twins,
                reads=POLICY.reads,
                cancels=POLICY.cancels,
                was_cut_short=self.was_cut_short,
                now=self.now,
                known=watch.twins,
                hold_until_age=hold,
            )
            job = left.job
            settled.update(left.settled)
            paid.update(left.paid_twice)
            if job.is_done and not job.is_succeeded:
                return (yield from self.task(try_number + 1))  # the attempt fails, and is retried
            if job.is_done:
                self.told |= paid
                return job.name

    def now(self) -> float:
        """Return the time of the workers."""
        return self.time + self.plan.skew

    def was_cut_short(self, job: BatchJob) -> Flow[bool]:
        """Know it from the counts: the rows of this service fail for no other reason."""
        yield Pause(0)
        return bool(job.stats.failed)

    def kept_for(self) -> Any:
        """Return the task's state store."""
        if self.kept is None:
            return None
        kept = self.kept

        class Kept:
            def get(self, key: str) -> Any:
                return kept.get(key)

            def set(self, key: str, value: Any) -> None:
                kept[key] = value

        return Kept()

    def spec(self, source: str) -> JobSpec:
        if self.plan.backend == "vertex_ai":
            return JobSpec("m", "generate", "nightly", gcs_uri=source)
        rows = tuple({"request": {}, "metadata": {"key": f"k{number}"}} for number in range(4))
        return JobSpec("m", "generate", "nightly", requests=rows)

    def prepare(self) -> Flow[str]:
        yield Pause(self.draw.choice((0.0, 0.0, 4.0, 20.0)))
        return "gs://bucket/rows.jsonl"

    # --- time ---------------------------------------------------------------------------------------------------------

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.time + seconds, next(self._serial), what))

    def begin(self, actor: Actor) -> None:
        self.actors.append(actor)
        self.step(actor, None, None)

    def step(self, actor: Actor, value: HttpReply | None, error: GeminiBatchError | None) -> None:
        if actor.is_dead:
            return
        try:
            wanted = actor.flow.throw(error) if error else actor.flow.send(value)
        except StopIteration as end:
            actor.result = end.value
            return
        except GeminiBatchError as fault:
            actor.error = fault
            return
        if isinstance(wanted, Pause):
            self.later(wanted.seconds, lambda: self.step(actor, None, None))
        elif isinstance(wanted, HttpRequest):
            self.send(actor, wanted)
        else:
            self.later(0.0, lambda: self.step(actor, None, None))

    def send(self, actor: Actor, request: HttpRequest) -> None:
        there, back = self.draw.uniform(0.02, 0.5), self.draw.uniform(0.02, 0.5)
        is_create = request.method == "POST" and not request.url.endswith(":cancel")
        actor.creates += is_create
        is_first = is_create and actor.creates == 1

        def arrive() -> None:
            query = "&".join(f"{name}={value}" for name, value in request.params)
            body = bytes(request.body) if request.body is not None else b""
            status, headers, content = self.service.handle(
                request.method, f"{request.url}?{query}" if query else request.url, request.headers, body
            )
            if is_first and actor.dies_after_create:
                actor.is_dead = True
                actor.flow.close()
            elif is_first and actor.loses_reply:
                self.later(back, lambda: self.step(actor, None, TransportError("reset")))
            else:
                self.later(back, lambda: self.step(actor, HttpReply(status, headers, content), None))

        self.later(there + (actor.stall if is_first else 0.0), arrive)

    # --- the pair -----------------------------------------------------------------------------------------------------

    def play(self) -> Bill:
        """Let both attempts run to their end, and read the bill."""
        kind, draw = self.plan.kind, self.draw
        first = Actor(self.task(1))
        delay = befall(first, kind, draw)
        self.later(0.0, lambda: self.begin(first))
        if kind != "lost":
            # A task of a killed worker begins only once that has sent its call.
            try_number = 1 if kind == "simultaneous" and self.plan.long and draw.random() < 0.3 else 2
            self.later(delay, lambda: self._begin_second(first, try_number))
        while self._queue:
            self.time, _, what = heapq.heappop(self._queue)
            what()
        jobs = self.service.jobs
        by_then = max((job.created for job in jobs), default=START) + self.plan.lag + IN_TIME
        alive = [job for job in jobs if job.cancelled is None or job.cancelled > by_then]
        results = [actor.result for actor in self.actors if actor.result is not None]
        errors = [actor.error for actor in self.actors if actor.error is not None]
        return Bill(self.plan, self.service.jobs, alive, self.told, results, errors)

    def _begin_second(self, first: Actor, try_number: int) -> None:
        if self.plan.kind == "killed" and not (first.is_dead or first.result or first.error):
            self.later(0.5, lambda: self._begin_second(first, try_number))
            return
        self.begin(Actor(self.task(try_number)))


def befall(first: Befallen, kind: str, draw: random.Random) -> float:
    """Draw what befalls the first attempt's create call; return how many seconds later the second attempt begins."""
    delay = draw.uniform(0.5, 30.0)
    if kind == "killed":
        first.dies_after_create = True
    elif kind == "simultaneous":
        delay = draw.uniform(0.0, 1.0)
    elif kind == "zombie":
        first.stall = draw.uniform(1.0, 55.0)
        first.dies_after_create = draw.random() < 0.5
        delay = draw.uniform(0.5, first.stall)
    else:
        first.loses_reply = True
    return delay


def plans(pairs: int, *, lags: tuple[float, ...] = LAGS, long: bool = True) -> list[Plan]:
    """Lay out every combination."""
    return [
        Plan(kind, backend, lag, store, long, seed)
        for kind in KINDS
        for lag in lags
        for backend in BACKENDS
        for store in (True, False)
        for seed in range(pairs)
    ]
