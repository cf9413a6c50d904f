# SPDX-License-Identifier: Apache-2.0
"""How long a task that does not wait for its job stays for a twin, and what a refused create leaves in doubt."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowTaskTimeout, TaskDeferred
from airflow_provider_gemini_batch.lifecycle.twins import LAST_LOOK_AGE
from airflow_provider_gemini_batch.operators import CreateBatchOperator
from airflow_provider_gemini_batch.task.store import SubmissionStore
from tests.support.airflow_side import Store, attempt, execution_timeout, rows, set_connection

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODEL = "gemini-3.5-flash-lite"
CREATE = {"method": "POST", "path": "batchGenerateContent$"}


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    monkeypatch.setattr(time, "time", gemini_batch_emulator.state.now)
    monkeypatch.setattr(time, "sleep", gemini_batch_emulator.advance)
    return gemini_batch_emulator


def ask(emulator: EmulatorHandle, number: int, store: Store | None = None, **arguments: Any) -> float:
    """Let an attempt submit; return how many seconds it took."""
    operator = CreateBatchOperator(task_id="create", model=MODEL, inlined_requests=rows(2), **arguments)
    began = emulator.state.now()
    operator.execute(attempt(number) if store is None else {**attempt(number), "task_state_store": store})
    return emulator.state.now() - began


@pytest.mark.parametrize("running", [5, 5000], ids=["short", "long"])
def test_a_task_that_does_not_wait_stays_within_its_execution_timeout(emulator: EmulatorHandle, running: int) -> None:
    emulator.script(mode="time", pending_seconds=5, running_seconds=running)
    assert 100 < ask(emulator, 2, execution_timeout=timedelta(seconds=120)) < 115
    assert [job.cancelled for job in emulator.state.all_jobs] == [None]


def test_a_task_without_a_limit_stays_until_a_twin_would_be_listed(emulator: EmulatorHandle) -> None:
    emulator.script(mode="time", pending_seconds=5000)
    assert LAST_LOOK_AGE < ask(emulator, 2) < LAST_LOOK_AGE + 90


def test_a_third_attempt_leaves_a_job_of_hours_at_once(emulator: EmulatorHandle) -> None:
    emulator.script(mode="time", pending_seconds=1e6)
    ask(emulator, 1)
    emulator.advance(4 * 3600)
    assert ask(emulator, 3) < 20
    assert emulator.ledger()["totals"]["created"] == 1


@pytest.mark.parametrize("minutes", [-9, 9])
def test_a_call_noted_by_a_clock_minutes_off_is_waited_for(emulator: EmulatorHandle, minutes: float) -> None:
    emulator.configure(listing_lag=30)
    store = Store()
    ask(emulator, 1, store)
    noted = store[SubmissionStore.KEY]
    # As if the worker, whose clock is wrong, had died before it heard of its job.
    store[SubmissionStore.KEY] = {
        "intent": noted["intent"],
        "intent_at": noted["intent_at"] + 60 * minutes,
        "unheard": 1,
    }
    assert ask(emulator, 2, store) >= 30
    assert emulator.ledger()["totals"]["created"] == 1


@pytest.mark.parametrize(("is_lost", "age"), [(True, LAST_LOOK_AGE), (False, 0.0)], ids=["lost", "refused"])
def test_a_call_without_an_answer_stays_in_doubt_over_a_wait_for_quota(
    emulator: EmulatorHandle, is_lost: bool, age: float
) -> None:
    if is_lost:
        emulator.fault(match=CREATE, action="close", times=1)
    emulator.fault(match=CREATE, status=429, skip=int(is_lost), times=1)
    with pytest.raises(TaskDeferred) as deferred:
        ask(emulator, 1, wait_for_completion=True, deferrable=True)
    assert deferred.value.kwargs["plan"]["last_look_age"] == age


@pytest.mark.parametrize("on_timeout", ["leave", "cancel"])
def test_a_create_call_that_is_cut_off_is_said(
    emulator: EmulatorHandle, on_timeout: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ask(emulator, 1, submission_salt="so that all modules are loaded")
    emulator.fault(match=CREATE, action="delay", when="after", delay=3.0, times=1)
    with pytest.raises(AirflowTaskTimeout), execution_timeout(1.5):
        ask(emulator, 1, on_timeout=on_timeout)
    assert "it may have made a job, which bills" in caplog.text + "".join(capsys.readouterr())
    before = [job.cancelled for job in emulator.state.all_jobs]
    assert ask(emulator, 2) < 300
    assert [job.cancelled for job in emulator.state.all_jobs] == before == [None, None]
