# SPDX-License-Identifier: Apache-2.0
"""
Seeded schedules of what befalls a run: each row is to be in the output once, and paid for once.

Time is stepped: whoever sleeps lets the emulator's clock go on, and nobody waits. What goes wrong, each by chance:

=====================  ===============================================================================================
the worker             dies before or after any write to the checkpoint, or between two steps; goes on elsewhere
a twin                 a second attempt runs in the middle of a write of the first one, until it has to wait
the checkpoint         a write fails, before or after it took effect; files are listed up to 60 s late
calls                  503, 429, connections closed before or after the call took effect (a lost reply to a create)
the list               shows new jobs up to 60 s late, differently at each request
jobs                   fail, expire, hang, are deleted while they run; answers come up to 40 s late
rows                   two of them fail once for a passing reason
a person               clears the task after its end: a new generation, which asks nothing again
=====================  ===============================================================================================

``python -m tests.run.chaos`` plays 500 seeds; ``--seed N`` plays one, and shows what happened.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.identity import TaskIdentity
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
from airflow_provider_gemini_batch.run.context import JobLimits
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import credentials_for
from tests.run.world import TASK, World, rows
from tests.support.seeded_plays import command

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

SEEDS = 500
ROWS = 12
ATTEMPTS = 60
MAX_LAG = 60.0
MODES = ("deferrable", "blocking")
_FAILING = 2
_CREATE = r":batchGenerateContent$|/batchPredictionJobs$"
_ODD: tuple[dict[str, Any], ...] = (
    {"end": {"state": "FAILED", "message": "No luck."}},
    {"stuck": "PENDING", "expire_seconds": 600},
    {"stuck": "RUNNING"},
)
_WRITES = ("die before", "die after", "fail before", "fail after", "twin")


class KilledError(BaseException):
    """The process is gone."""


@dataclass
class Worker:
    """
    What befalls one attempt.

    :param writes: Number of a write -> what happens then, of :data:`_WRITES`.
    :param dies_at: At which look at whether to stop it dies; 0 is never.
    :param lag: Seconds after which its folder lists a file.
    """

    writes: dict[int, str] = field(default_factory=dict)
    dies_at: int = 0
    lag: float = 0.0
    twin: Callable[[], None] = lambda: None
    written: int = 0
    looked: int = 0

    def stop(self) -> None:
        """Die here, perhaps."""
        self.looked += 1
        if self.looked == self.dies_at:
            raise KilledError

    def before(self) -> str:
        """Count a write; return what happens after it."""
        self.written += 1
        what = self.writes.get(self.written, "")
        if what == "die before":
            raise KilledError
        if what == "fail before":
            raise OSError("the disk is full")
        if what == "twin":
            self.twin()
        return what

    def after(self, what: str) -> None:
        """Let go wrong what comes after a write."""
        if what == "die after":
            raise KilledError
        if what == "fail after":
            raise OSError("the reply to a write was lost")


class ShakyFolder(Folder):
    """
    A folder on a bad day.

    :param born: Path -> when it was written, shared by all workers.
    """

    def __init__(self, place: str, worker: Worker, born: dict[str, float], now: Callable[[], float]) -> None:
        super().__init__(place, settle=0.0)
        self._worker, self._born, self._now = worker, born, now

    def below(self, name: str) -> Folder:
        """Return a folder in this one, with the same troubles."""
        return ShakyFolder(self.path(name), self._worker, self._born, self._now)

    def names(self) -> list[str]:
        """Leave out what was written lately."""
        seen = self._now() - self._worker.lag
        return [name for name in super().names() if self._born.get(self.path(name), 0.0) <= seen]

    def create(self, name: str, content: bytes) -> bool:
        """Publish, perhaps."""
        what = self._worker.before()
        done = super().create(name, content)
        if done:
            self._born[self.path(name)] = self._now()
        self._worker.after(what)
        return done

    def put(self, name: str, local: str) -> None:
        """Publish, perhaps."""
        what = self._worker.before()
        super().put(name, local)
        self._worker.after(what)


class Chaos:
    """
    One schedule.

    :param folder: For checkpoint and output.
    """

    def __init__(self, emulator: EmulatorHandle, folder: Path, seed: int, mode: str) -> None:
        self.chance = random.Random(seed)
        self.world = World(emulator, folder, self.chance.choice(["gemini", "vertex_ai"]))
        self.mode = mode
        self.emulator = emulator
        self.spec = self.world.spec(rows_per_job=5, max_jobs=2, max_row_attempts=12)
        self.born: dict[str, float] = {}
        self.told: Counter[str] = Counter()
        self.members: dict[str, Any] = {}
        self._deletions = self.chance.random() < 0.2
        self._prepare()

    def _prepare(self) -> None:
        draw = self.chance
        lags = [draw.uniform(0, MAX_LAG) for _ in range(7)] if draw.random() < 0.5 else 0.0
        self.emulator.configure(listing_lag=lags)
        failing = {"pattern": "word-[37]-", "outcome": "error", "code": 13, "first": 1}
        usual: dict[str, Any] = {"pending_seconds": 60, "running_seconds": 60, "shuffle": True, "rows": [failing]}
        if draw.random() < 0.3:
            usual["results_after"] = draw.uniform(0, 40)
        for _ in range(draw.choice([0, 0, 1, 2])):
            self.emulator.script(times=1, **{**usual, **draw.choice(_ODD)})
        self.emulator.script(**usual)
        for _ in range(draw.randint(0, 4)):
            self._fault()

    def _fault(self) -> None:
        draw = self.chance
        action: dict[str, Any]
        if draw.random() < 0.5:
            action = draw.choice([{"status": 429}, {"status": 503}, {"action": "close"}, {"action": "close"}])
            match: dict[str, Any] = {"method": "POST", "path": _CREATE}
            skip = draw.randint(0, 4)
        else:
            action = draw.choice([{"status": 503}, {"action": "close"}, {"action": "reset"}, {"status": 429}])
            match = {"method": draw.choice(["GET", "POST", "DELETE"])}
            skip = draw.randint(0, 40)
        when = draw.choice(["before", "after"])
        if action.get("status") == 429:  # a refusal: what is refused is not carried out
            when = "before"
        self.emulator.fault(match=match, skip=skip, times=draw.randint(1, 2), when=when, **action)

    def now(self) -> float:
        """Return the time."""
        return self.emulator.state.clock.now()

    # --- attempts -----------------------------------------------------------------------------------------------------

    def worker(self, *, is_calm: bool = False) -> Worker:
        """Draw what befalls an attempt."""
        draw = self.chance
        found = Worker(lag=draw.choice([0.0, 0.0, draw.uniform(0, MAX_LAG)]))
        if is_calm:
            return found
        for _ in range(draw.choice([0, 1, 1, 2])):
            found.writes[draw.randint(1, 25)] = draw.choice(_WRITES)
        if draw.random() < 0.3:
            found.dies_at = draw.randint(1, 12)
        found.twin = self._twin
        return found

    def run(self, worker: Worker, occasion: str, generation: int | None = None) -> Run:
        """Return an attempt's run."""
        folder = ShakyFolder(self.world.path("checkpoint"), worker, self.born, self.now)
        context = self.world.context(
            rows(ROWS), checkpoint=folder, identity=TaskIdentity(TASK, None, may_have_rivals=True), now=self.now,
            sleep=self.emulator.advance, stop=worker.stop, submit_policy=SubmitPolicy(), occasion=occasion,
            limits=JobLimits(total=1800.0), **self.members,
        )  # fmt: skip
        client = context.client
        client.__dict__["transport"] = BlockingTransport(
            client.settings, credentials_for(client.settings), sleep=self.emulator.advance
        )
        return Run(self.spec, context, generation)

    def _twin(self) -> None:
        """Run a second attempt until it waits, fails or ends."""
        self.told["twins"] += 1
        try:
            self.run(Worker(), "one").proceed()
        except (GeminiBatchError, OSError):
            self.told["twins that failed"] += 1

    def attempt(self, worker: Worker, occasion: str) -> dict[str, Any]:
        """Go on until the run has ended, or the attempt has."""
        run = self.run(worker, occasion)
        for _ in range(300):
            came = run.proceed()
            if not isinstance(came, Waiting):
                return came
            self._wait(run, came)
            if self.mode == "deferrable":
                # A task that resumes is a new process, on any worker.
                worker = Worker(worker.writes, worker.dies_at, worker.lag, worker.twin, worker.written, worker.looked)
                run = self.run(worker, occasion, run.checkpoint.number)
        raise AssertionError("the run does not end")

    def _wait(self, run: Run, waiting: Waiting) -> None:
        if waiting.jobs and self._deletions and self.chance.random() < 0.3:
            self._deletions = False
            self.told["deleted jobs"] += 1
            run.context.client.delete_batch(self.chance.choice(waiting.jobs))
        for number in range(500):
            self.emulator.advance(self.chance.uniform(5, 60) if number < 50 else 3600.0)
            if run.is_over(waiting):
                return
        raise AssertionError(f"{waiting} does not end")

    def play(self) -> dict[str, Any]:
        """Let attempts follow each other until the run has ended, and perhaps clear it then."""
        manifest = self._to_the_end("one")
        self.check(manifest)
        if self.chance.random() < 0.3:
            self.told["clears"] += 1
            ran = self.ran_well()
            manifest = self._to_the_end("two")
            self.check(manifest)
            assert self.ran_well() == ran, "a clear asked again what had an answer"
        return manifest

    def _to_the_end(self, occasion: str) -> dict[str, Any]:
        for number in range(ATTEMPTS):
            self.told["attempts"] += 1
            try:
                return self.attempt(self.worker(is_calm=number > ATTEMPTS // 2), occasion)
            except KilledError:
                self.told["deaths"] += 1
            except (GeminiBatchError, OSError) as error:
                self.told["failed attempts"] += 1
                logging.getLogger(__name__).info("attempt %d: %s", number, error)
            self.emulator.advance(self.chance.choice([0.0, 1.0, 30.0, 300.0]))
        raise AssertionError(f"{ATTEMPTS} attempts did not end the run")

    # --- what must hold -----------------------------------------------------------------------------------------------

    def ran_well(self) -> int:
        """Return how many rows ran in jobs that ended well and stayed."""
        good = self._good_jobs()
        return sum(job["rows_run"] for job in self.emulator.ledger()["jobs"] if job["number"] in good)

    def _good_jobs(self) -> set[int]:
        return {
            job["number"]
            for job in self.emulator.ledger()["jobs"]
            if "SUCCEEDED" in job["state"] and not job["deleted"]
        }

    def check(self, manifest: dict[str, Any]) -> None:
        """Each row is in the output once with its own answer, and its answer was paid for once; no job is left."""
        table = self.world.table()
        assert [row["id"] for row in table] == [f"k{n}" for n in range(ROWS)], "rows were lost, or came twice"
        bad = [row for n, row in enumerate(table) if row["status"] != "succeeded" or f"word-{n}-" not in row["text"]]
        assert not bad, f"rows without their answer: {bad}"
        good = self._good_jobs()
        surplus = 0
        for entry in self.emulator.executions()["repeated"]:
            surplus += max(0, sum(job in good for job, _ in entry["places"]) - 1)
        paid_twice = max(0, surplus - _FAILING)
        self.told["paid twice"] += paid_twice
        assert paid_twice <= manifest["paid_twice"], f"{paid_twice} rows were paid for twice, which nobody counted"
        assert not self.emulator.ledger()["totals"]["running"], "jobs are left running"


def play(emulator: EmulatorHandle, folder: Path, seed: int) -> Counter[str]:
    """
    Play one schedule; return what happened, counted.

    :param folder: An empty one.
    """
    emulator.reset()
    random.seed(seed)  # pauses between tries have a random share
    with pytest.MonkeyPatch.context() as patch:
        chaos = Chaos(emulator, folder, seed, MODES[seed % 2])
        patch.setattr(time, "time", chaos.now)
        chaos.play()
    return chaos.told


if __name__ == "__main__":
    sys.exit(command(play, "tests.run.chaos", SEEDS))
