# SPDX-License-Identifier: Apache-2.0
"""A few schedules of the fault injection, for every run of the suite; ``make chaos`` runs them all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.chaos.schedule import (
    BACKENDS,
    CREATE,
    KILL_STEPS,
    MAX_ADVERSE_LAG,
    MAX_DELAY,
    MAX_LAG,
    MODES,
    PENDING,
    schedule,
)

SEEDS = 12
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nobody_pays_twice(backend: str, tmp_path: Path) -> None:
    report = tmp_path / "bills.json"
    # A process of its own: schedules fork, and tests beside this one have threads.
    command = [
        sys.executable,
        "-m",
        "tests.system.chaos",
        "--part",
        "schedules",
        "--seeds",
        str(SEEDS),
        "--backend",
        backend,
    ]
    done = subprocess.run(
        [*command, "--json", str(report), "--processes", str(SEEDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    bills = json.loads(report.read_text())
    assert len(bills) == SEEDS
    assert {bill["mode"] for bill in bills} == set(MODES)
    assert sum(bill["billed"] for bill in bills) == SEEDS
    assert sum(bill["tries"] for bill in bills) > SEEDS, "no schedule needed a second attempt: nothing was tested"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_schedules_of_a_full_run_hold_every_event(backend: str) -> None:
    plans = [schedule(seed, backend, MODES[seed % 2]) for seed in range(500)]
    kills = {attempt.kill.step for plan in plans for attempt in plan.attempts if attempt.kill}
    assert kills == set(KILL_STEPS)
    assert {watcher.action for plan in plans for watcher in plan.watchers} == {"kill", "hand_over", "clear"}
    on_create = [fault for plan in plans for fault in plan.faults if fault["match"].get("path") == CREATE]
    events = {
        (fault.get("action", "reply"), fault.get("status"), fault.get("when", "before"))
        for fault in on_create
        if fault.get("action") != "cut_response"
    }
    assert {("close", None, "before"), ("close", None, "after"), ("reply", 429, "before")} <= events
    assert {("reply", status, when) for status in (500, 503) for when in ("before", "after")} <= events
    assert any(fault.get("action") == "cut_response" for fault in on_create)
    assert any(attempt.beside is not None for plan in plans for attempt in plan.attempts)
    assert any(plan.clear_after_success for plan in plans)
    assert {plan.store for plan in plans} == {True, False}
    assert {bool(plan.lags) for plan in plans} == {bool(plan.late) for plan in plans} == {True, False}


def test_a_seed_makes_the_same_schedule_again() -> None:
    assert schedule(7, "gemini", "blocking") == schedule(7, "gemini", "blocking")
    assert schedule(7, "gemini", "blocking") != schedule(8, "gemini", "blocking")


def test_what_a_schedule_may_delay_is_less_than_what_a_submission_waits_for() -> None:
    from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy

    policy = SubmitPolicy()
    assert MAX_LAG + MAX_DELAY < sum(policy.rivals) < sum(policy.reconcile) < PENDING
    assert MAX_ADVERSE_LAG + 30 < PENDING, (
        "a twin is found by the list's look of each half minute, before a row of it runs"
    )
