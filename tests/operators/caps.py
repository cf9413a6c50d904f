# SPDX-License-Identifier: Apache-2.0
"""
Seeded schedules of what befalls a task under a cap: no create call may be made that could pass it.

Half of the seeds are create operators, half are runs; both backends. What goes wrong, each by chance: calls that fail
before or after they took effect, 429, workers that die, jobs that fail, expire, hang or are cancelled, new jobs that
the list shows late, retries, clears, rows that changed.

The judge is the emulator's record alone. At each create, in the order in which the service took them, these are summed
up: what jobs that had ended by then were billed, rows that ran without an answer at their longest; the longest answers
of jobs that ran; the longest answers of the new job. The sum may not pass the cap.

``python -m tests.operators.caps`` plays 200 seeds; ``--seed N`` plays one, and shows what happened.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowFailException
from airflow_provider_gemini_batch.cost.estimate import RunPrices
from airflow_provider_gemini_batch.cost.prices import PriceList
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.operators import CreateBatchOperator
from airflow_provider_gemini_batch.run.finish import RunFailedError
from tests.run.chaos import ATTEMPTS, MODES, Chaos, KilledError
from tests.support.airflow_side import Store, attempt, set_connection
from tests.support.seeded_plays import command

if TYPE_CHECKING:
    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

SEEDS = 200
MODEL = "gemini-3.5-flash-lite"
TOKENS = 1000
READ, WRITTEN = 0.15e-6, 1.25e-6
ROW = TOKENS * WRITTEN
"""Dollars of the longest answer; prompts cost a hundredth of a per cent of it."""

_CREATE = r":batchGenerateContent$|/batchPredictionJobs$"
_LENGTHS: tuple[Any, ...] = (TOKENS, {"shape": "uniform", "least": 1, "most": TOKENS}, 20)
_ENDS: tuple[dict[str, Any], ...] = ({}, {}, {"end": {"state": "FAILED", "message": "No luck."}}, {"stuck": "RUNNING"})


def judge(emulator: EmulatorHandle, cap: float) -> tuple[int, float]:
    """
    Check each create call against a cap.

    :return: How many there were, and what all of them were billed.
    """
    jobs = sorted(emulator.state.all_jobs, key=lambda job: job.number)
    emulator.ledger()  # brings each job up to now
    for place, job in enumerate(jobs):
        may_cost = sum(_owed(other, job.created) for other in jobs[:place]) + _longest(job, job.source.count)
        assert may_cost <= cap + 0.01 * ROW, f"job {place + 1} of {len(jobs)}: {may_cost:.6f} over the cap {cap:.6f}"
    return len(jobs), sum(_owed(job, emulator.state.now()) for job in jobs)


def _owed(job: Job, when: float) -> float:
    """Return what a job was billed by *when* if it had ended, else what it may come to."""
    if job.ended is None or job.ended > when:
        return _longest(job, job.source.count)
    if "SUCCEEDED" not in job.raw_state and (job.raw_state == "EXPIRED" or job.output_tokens == 0):
        return _longest(job, job.rows_run)
    return job.source.tokens * READ * job.rows_run / max(1, job.source.count) + job.output_tokens * WRITTEN


def _longest(job: Job, rows: int) -> float:
    return rows * ROW + job.source.tokens * READ * rows / max(1, job.source.count)


@contextmanager
def stepped(emulator: EmulatorHandle) -> Iterator[pytest.MonkeyPatch]:
    """Let the emulator's clock be everybody's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", emulator.state.now)
        patch.setattr(time, "sleep", emulator.advance)
        yield patch


def play_creates(emulator: EmulatorHandle, seed: int) -> Counter[str]:
    """Let a create operator be retried, cleared and cancelled under a cap."""
    emulator.reset()
    draw = random.Random(seed)
    backend, told = draw.choice(["gemini", "vertex_ai"]), Counter[str]()
    cap, count = ROW * 10 * draw.uniform(0.8, 3.5), 10
    # What a clear forgets, the list has to show within the patience of a submission; the state store bridges more.
    clears = draw.random() < 0.5
    emulator.configure(listing_lag=draw.uniform(0, 40 if clears else 200) if draw.random() < 0.5 else 0.0)
    with stepped(emulator) as patch:
        set_connection(patch, emulator.connection(backend))
        store = Store()
        for number in range(1, 9):
            _befall(emulator, draw)
            if clears and draw.random() < 0.2:
                told["clears"] += 1
                store = Store()
            if draw.random() < 0.15:
                count = draw.randint(2, 12)
            told[_attempt(emulator, count, cap, number, store, draw)] += 1
            emulator.clear_faults()
            emulator.advance(draw.choice([0.0, 5.0, 60.0, 700.0]))
            if draw.random() < 0.5:
                _cancel_one(emulator, draw, told)
        created, _ = judge(emulator, cap)
    told["jobs"] += created
    return told


def _befall(emulator: EmulatorHandle, draw: random.Random) -> None:
    usual = {"pending_seconds": 30, "running_seconds": 100, "output_tokens": draw.choice(_LENGTHS)}
    emulator.script(times=1, **{**usual, **draw.choice(_ENDS)})
    kinds: list[dict[str, Any]] = [{"status": 429}, {"status": 503}, {"action": "close"}, {"status": 400}]
    action = draw.choice(kinds)
    if draw.random() < 0.5:
        when = draw.choice(["before", "after"]) if action.get("status") not in (429, 400) else "before"
        emulator.fault(match={"method": "POST", "path": _CREATE}, times=draw.randint(1, 3), when=when, **action)
    if draw.random() < 0.2:
        emulator.fault(match={"method": "GET"}, skip=draw.randint(0, 5), times=1, status=503)


def _attempt(emulator: EmulatorHandle, count: int, cap: float, number: int, store: Store, draw: random.Random) -> str:
    """Let one attempt at the task run; return how it ended."""
    rows = [{"key": f"k{n}", "prompt": f"Say {n}."} for n in range(count)]
    operator = CreateBatchOperator(
        task_id="ask", model=MODEL, generation_config={"maxOutputTokens": TOKENS}, inlined_requests=rows, max_cost=cap,
        deferrable=False, wait_for_completion=draw.random() < 0.3, max_resubmits=1, pending_timeout=200, timeout=900,
        submit_timeout=300,
    )  # fmt: skip
    try:
        operator.execute({**attempt(number), "task_state_store": store})
    except AirflowFailException as error:
        return "refused by the cap" if "max_cost" in str(error) else "failed"
    except GeminiBatchError:
        return "failed"
    return "went well"


def _cancel_one(emulator: EmulatorHandle, draw: random.Random, told: Counter[str]) -> None:
    live = [job for job in emulator.state.all_jobs if not job.is_ended and job.cancelled is None]
    if live:
        told["cancelled jobs"] += 1
        hook = CreateBatchOperator(task_id="ask", model=MODEL, inlined_requests=[{"prompt": "x"}]).hook
        try:
            hook.cancel_batch(draw.choice(live).name)
        except GeminiBatchError:
            told["failed"] += 1


class CappedChaos(Chaos):
    """A run's schedule of :mod:`tests.run.chaos`, under a cap."""

    def __init__(self, emulator: EmulatorHandle, folder: Path, seed: int, mode: str) -> None:
        super().__init__(emulator, folder, seed, mode)
        self.cap = ROW * 12 * self.chance.uniform(0.4, 2.5)
        self.members = {"prices": RunPrices(PriceList()), "run_claim": "dag run"}
        self.spec = self.world.spec(
            rows_per_job=5, max_jobs=self.chance.choice([1, 2, 3]), max_row_attempts=6, max_cost=self.cap,
            generation_config={"maxOutputTokens": TOKENS},
        )  # fmt: skip

    def _prepare(self) -> None:
        super()._prepare()
        lengths = self.chance.choice(_LENGTHS)
        for pending in self.emulator.state.scripts:
            pending.script["output_tokens"] = lengths

    def play(self) -> dict[str, Any]:
        """Let attempts follow each other until the run has ended, whatever its outcome, and clear it."""
        manifest: dict[str, Any] = {}
        for occasion in ("one", "two", "three")[: self.chance.choice([1, 2, 3])]:
            self.told["clears"] += occasion != "one"
            manifest = self._to_the_end(occasion)
            self.told[f"runs {'in full' if manifest['succeeded'] == manifest['total'] else 'in part'}"] += 1
        created, _ = judge(self.emulator, self.cap)
        self.told["jobs"] += created
        return manifest

    def _to_the_end(self, occasion: str) -> dict[str, Any]:
        for number in range(ATTEMPTS):
            self.told["attempts"] += 1
            try:
                return self.attempt(self.worker(is_calm=number > ATTEMPTS // 2), occasion)
            except RunFailedError as ended:
                return ended.manifest
            except KilledError:
                self.told["deaths"] += 1
            except (GeminiBatchError, OSError) as error:
                self.told["failed attempts"] += 1
                logging.getLogger(__name__).info("attempt %d: %s", number, error)
            self.emulator.advance(self.chance.choice([0.0, 1.0, 30.0, 300.0]))
        raise AssertionError(f"{ATTEMPTS} attempts did not end the run")


def play_run(emulator: EmulatorHandle, folder: Path, seed: int) -> Counter[str]:
    """Let a run have a bad day under a cap."""
    emulator.reset()
    with pytest.MonkeyPatch.context() as patch:
        chaos = CappedChaos(emulator, folder, seed, MODES[seed // 2 % 2])
        patch.setattr(time, "time", chaos.now)
        chaos.play()
    return chaos.told


def play(emulator: EmulatorHandle, folder: Path, seed: int) -> Counter[str]:
    """Play one schedule: an even seed is a create operator, an odd one a run."""
    told = play_run(emulator, folder, seed) if seed % 2 else play_creates(emulator, seed)
    kind = "run" if seed % 2 else "create"
    return Counter({f"{kind}: {what}": count for what, count in told.items()})


if __name__ == "__main__":
    sys.exit(command(play, "tests.operators.caps", SEEDS))
