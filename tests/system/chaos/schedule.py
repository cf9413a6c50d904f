# SPDX-License-Identifier: Apache-2.0
"""
Seed -> schedule: what goes wrong, when. The same seed, backend and mode make the same schedule.

Times are seconds as the service and the tasks see them; the harness lets them pass faster.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

BACKENDS = ("gemini", "vertex_ai")
MODES = ("deferrable", "blocking")

CREATE = r":batchGenerateContent$|/batchPredictionJobs$"
CANCEL = r":cancel$"
KILL_STEPS = ("before_request", "during_request", "after_request", "xcom", "intent_noted", "job_noted")
MAX_LAG = 7.0
MAX_DELAY = 2.0
"""A new job is listed up to MAX_LAG seconds late, and a create is up to MAX_DELAY on its way: together below the 10 s
after which a may_have_rivals create looks for twins a last time."""
MAX_ADVERSE_LAG = 45.0
"""In one of four schedules the list lags up to so many seconds, differently at each request: beyond what a submission
waits for, but less than the minute by which the wait finds a twin before a row of it has run."""
MAX_LATE = 40.0
"""In one of four the answers can be read up to so many seconds after their job has ended."""
PENDING = 90.0
RUNNING = 30.0


@dataclass(frozen=True)
class Kill:
    """
    SIGKILL of a process by itself.

    :param step: One of KILL_STEPS.
    :param number: At which request, push or note, from 1.
    :param lag: With ``during_request``: real seconds after the request was handed to the network.
    """

    step: str
    number: int
    lag: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """
    What befalls one process of the worker.

    :param kill: Where it dies, or None.
    :param beside: Start the next attempt after so many seconds although this one still lives; None is never.
    :param delay: Seconds until the retry after a failure or a death.
    """

    kill: Kill | None = None
    beside: float | None = None
    delay: float = 0.0


@dataclass(frozen=True)
class Watcher:
    """
    What befalls a process of the triggerer.

    :param action: ``kill`` (restart it), ``hand_over`` (a second one beside it), ``clear`` (the deferred task).
    :param after: Seconds from its start.
    """

    action: str
    after: float


@dataclass(frozen=True)
class Schedule:
    """
    All of it.

    :param faults: Rules for the emulator.
    :param store: Whether the task has a state store (Airflow 3.3) over its attempts.
    :param store_survives_clear: Whether a clear leaves it.
    :param clear_after_success: The task is cleared after it has succeeded, and runs once more.
    :param lags: Lags of the list beyond *listing_lag*, one for each request in turn; empty for none.
    :param late: Seconds from a job's end until its answers can be read.
    :param from_file: The rows come from a file and not from the DAG.
    """

    seed: int
    backend: str
    mode: str
    listing_lag: float
    rows: int
    faults: tuple[dict[str, Any], ...]
    attempts: tuple[Attempt, ...]
    watchers: tuple[Watcher, ...]
    store: bool
    store_survives_clear: bool
    clear_after_success: bool
    from_file: bool
    lags: tuple[float, ...] = ()
    late: float = 0.0


def schedule(seed: int, backend: str, mode: str) -> Schedule:
    """Make the schedule of a seed."""
    draw = random.Random(f"{backend}/{mode}/{seed}")
    faults = tuple(_fault(draw) for _ in range(draw.choice((0, 1, 1, 2, 2, 3, 4))))
    attempts = tuple(_attempt(draw) for _ in range(draw.choice((0, 1, 1, 2, 3))))
    watchers: tuple[Watcher, ...] = ()
    if mode == "deferrable":
        watchers = tuple(
            Watcher(draw.choice(("kill", "kill", "hand_over", "clear")), draw.uniform(0, 60))
            for _ in range(draw.choice((0, 1, 1, 2)))
        )
    return Schedule(
        seed,
        backend,
        mode,
        draw.choice((0.0, draw.uniform(0.5, MAX_LAG), draw.uniform(0.5, MAX_LAG))),
        draw.randint(1, 5),
        faults,
        attempts,
        watchers,
        store=draw.random() < 0.5,
        store_survives_clear=draw.random() < 0.5,
        clear_after_success=draw.random() < 0.25,
        from_file=draw.random() < 0.3,
        **_adversity(random.Random(f"adversity/{backend}/{mode}/{seed}")),
    )


def _adversity(draw: random.Random) -> dict[str, Any]:
    """Draw what an adversary among services does; by dice of its own, so that the rest of a seed stays."""
    worst = draw.uniform(MAX_LAG, MAX_ADVERSE_LAG) if draw.random() < 0.25 else 0.0
    late = draw.uniform(5, MAX_LATE) if draw.random() < 0.25 else 0.0
    return {"lags": tuple(worst * draw.uniform(0.5, 1) for _ in range(7)) if worst else (), "late": late}


def _fault(draw: random.Random) -> dict[str, Any]:
    where = draw.choice((CREATE, CREATE, CREATE, CANCEL, ""))
    match = {"method": "POST", "path": where} if where else {}
    rule: dict[str, Any] = {"match": match, "skip": draw.randint(0, 1 if where else 12), "seed": draw.getrandbits(30)}
    when = draw.choice(("before", "after"))
    kind = draw.choice(("close", "reset", 500, 503, 503, 429, "cut", "garbage", "html", "delay"))
    if kind in ("close", "reset"):
        return {**rule, "action": kind, "when": when}
    if kind == "cut":
        return {**rule, "action": "cut_response", "bytes": draw.randint(0, 60)}
    if kind == "delay":
        return {**rule, "action": "delay", "delay": draw.uniform(0, MAX_DELAY)}
    if kind in ("garbage", "html"):
        return {**rule, "when": "after", "status": 200, "body": kind}
    if kind == 429:
        # Without effect: the service would not do what it says it refuses.
        return {**rule, "status": 429, "times": draw.randint(1, 2), "retry_after": draw.choice((5, 20, 37))}
    return {**rule, "status": kind, "when": when, "times": draw.randint(1, 2)}


def _attempt(draw: random.Random) -> Attempt:
    if draw.random() < 0.3:
        return Attempt(beside=draw.uniform(0, 15), delay=draw.uniform(0, 10))
    step = draw.choice((*KILL_STEPS, "during_request", "after_request"))
    number = draw.randint(1, 9) if "request" in step else draw.randint(1, 2)
    return Attempt(
        Kill(step, number, draw.choice((0.0, 0.001, 0.003, 0.01, 0.05))),
        beside=draw.uniform(0, 15) if draw.random() < 0.2 else None,
        delay=draw.choice((0.0, 0.0, draw.uniform(0, 30))),
    )
