# SPDX-License-Identifier: Apache-2.0
"""What a create operator says of its cost before it submits, and the caps that it keeps."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.compat import AirflowFailException, AirflowSkipException
from airflow_provider_gemini_batch.errors import GeminiBatchError, SubmitError
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    RunBatchOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.task.store import SubmissionStore
from airflow_provider_gemini_batch.task.xcom_keys import ESTIMATE_KEY
from tests.operators.caps import play
from tests.support.airflow_side import Store, attempt, set_connection

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODEL = "gemini-3.5-flash-lite"
TOKENS = 1000


def create(count: int = 10, **arguments: Any) -> CreateBatchOperator:
    rows = [{"key": f"k{number}", "prompt": f"Say {number}."} for number in range(count)]
    limit = {"maxOutputTokens": TOKENS}
    if "input_path" not in arguments and "file_name" not in arguments:
        arguments.setdefault("inlined_requests", rows)
    return CreateBatchOperator(task_id="ask", model=MODEL, generation_config=limit, **arguments)


def upper(count: int = 10) -> float:
    """Return more dollars than so many answers cost, and less than one more."""
    return count * TOKENS * 1.25 / 1e6 * 1.05


def changing_calls(emulator: EmulatorHandle) -> list[str]:
    return [f"{entry['method']} {entry['path']}" for entry in emulator.journal()
            if entry["method"] != "GET" and "token" not in entry["path"].lower()]  # fmt: skip


def test_an_estimate_is_in_xcom_before_the_job(emulator: EmulatorHandle) -> None:
    context = attempt()
    create(max_cost=upper()).execute(context)
    estimate = context["ti"].xcoms[ESTIMATE_KEY]
    assert estimate["rows"] == 10
    assert 0 < estimate["dollars"]["low"] < estimate["dollars"]["high"] <= upper()
    assert estimate["dollars_in_single_calls"]["high"] == pytest.approx(2 * estimate["dollars"]["high"], rel=1e-3)
    assert emulator.ledger()["totals"]["created"] == 1


@pytest.mark.parametrize(
    ("caps", "named"),
    [({"max_cost": upper(9)}, "max_cost"), ({"max_input_tokens": 20}, "max_input_tokens")],
    ids=["dollars", "tokens"],
)
def test_a_job_over_a_cap_is_not_submitted(emulator: EmulatorHandle, caps: dict[str, Any], named: str) -> None:
    with pytest.raises(AirflowFailException, match=f"{named}=.*Raise"):
        create(**caps).execute(attempt())
    assert changing_calls(emulator) == []


@pytest.mark.usefixtures("stepped")
def test_a_job_that_is_found_again_is_counted_once(emulator: EmulatorHandle) -> None:
    name = create(max_cost=upper()).execute(attempt())
    assert create(max_cost=upper()).execute(attempt(2)) == name
    assert emulator.ledger()["totals"]["created"] == 1


def test_what_a_cancelled_job_has_answered_counts(emulator: EmulatorHandle) -> None:
    emulator.script(mode="time", pending_seconds=0, running_seconds=100)
    name = create(max_cost=1.3 * upper()).execute(attempt())
    emulator.advance(60)
    create(max_cost=1.3 * upper()).hook.cancel_batch(name)
    emulator.advance(60)
    stats = create().hook.get_batch(name).stats
    assert (stats.succeeded or 0) >= 4
    with pytest.raises(AirflowFailException, match=r"spent"):
        create(max_cost=1.3 * upper()).execute(attempt(2))
    assert emulator.ledger()["totals"]["created"] == 1


@pytest.mark.usefixtures("stepped")
@pytest.mark.parametrize(("caps", "reads"), [({}, 0), ({"max_cost": 100 * upper()}, 2)], ids=["no cap", "cap"])
def test_earlier_jobs_are_read_for_a_cap_alone(emulator: EmulatorHandle, caps: dict[str, Any], reads: int) -> None:
    emulator.script(mode="at_once", end={"state": "FAILED"})
    names = [create().execute(attempt(number)) for number in (1, 2)]
    before = len(emulator.journal())
    create(**caps).execute(attempt(3))
    paths = [entry["path"] for entry in emulator.journal()[before:] if entry["method"] == "GET"]
    assert sum(path.endswith(tuple(names)) for path in paths) == reads


@pytest.mark.usefixtures("stepped")
def test_a_create_call_without_an_answer_counts(emulator: EmulatorHandle) -> None:
    path = "batchGenerateContent$|/batchPredictionJobs$"
    emulator.fault(match={"method": "POST", "path": path}, action="close", times=None)
    with pytest.raises(SubmitError, match="reserved"):
        create(max_cost=1.5 * upper()).execute(attempt())
    creates = [entry for entry in emulator.journal(method="POST") if "batch" in entry["path"].lower()]
    assert len(creates) == 1


@pytest.mark.usefixtures("stepped")
def test_a_retry_takes_the_late_job_of_a_call_that_filled_the_cap(emulator: EmulatorHandle) -> None:
    emulator.configure(listing_lag=400)
    path = "batchGenerateContent$|/batchPredictionJobs$"
    emulator.fault(match={"method": "POST", "path": path}, action="close", when="after", times=1)
    with pytest.raises(SubmitError, match=r"may have made a job.*\[airflow [0-9a-f]{16}\."):
        create(max_cost=1.5 * upper()).execute(attempt())
    emulator.advance(600)
    (job,) = emulator.ledger()["jobs"]
    assert create(max_cost=1.5 * upper()).execute(attempt(2)) == job["name"]


@pytest.mark.parametrize("asked", [{"max_cost": 1.0}, {"max_input_tokens": 5}, {"dry_run": True}], ids=str)
def test_rows_that_are_not_read_have_no_estimate(
    gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: dict[str, Any]
) -> None:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a", "prompt": "Why?"}\n')
    name = UploadFileOperator(task_id="upload", model=MODEL, input_path=str(path)).execute(attempt())
    with pytest.raises(AirflowFailException, match=f"{next(iter(asked))} needs rows that this task reads"):
        CreateBatchOperator(task_id="ask", model=MODEL, file_name=name, **asked).execute(attempt())
    assert gemini_batch_emulator.ledger()["totals"]["created"] == 0


def test_an_unknown_price_cannot_be_capped(emulator: EmulatorHandle) -> None:
    operator = create(max_cost=1)
    operator.model = "nobody-knows-it"
    with pytest.raises(AirflowFailException, match="price of nobody-knows-it is not known"):
        operator.execute(attempt())
    assert changing_calls(emulator) == []


def test_a_row_without_a_limit_of_its_own_counts_with_the_longest_answer(
    emulator: EmulatorHandle, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    body = {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]}
    limited = {**body, "generationConfig": {"maxOutputTokens": 10}}
    rows = [{"key": f"k{number}", "request": body if number == 77 else limited} for number in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    operator = CreateBatchOperator(task_id="ask", model=MODEL, input_path=str(path), max_cost=upper(100))
    with pytest.raises(AirflowFailException, match="max_cost"):
        operator.execute(attempt())
    assert emulator.ledger()["totals"]["created"] == 0


@pytest.mark.parametrize("bad", [0, -1, True, "5"])
def test_a_cap_that_is_no_number_is_an_error(emulator: EmulatorHandle, bad: Any) -> None:
    with pytest.raises(AirflowFailException, match="max_cost must be a number above 0"):
        create(max_cost=bad).execute(attempt())


def test_a_dry_run_changes_nothing_and_skips(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"key": f"k{n}", "text": f"Text {n}"}) + "\n" for n in range(50)))
    embedding = CreateEmbeddingBatchOperator(
        task_id="embed", model="gemini-embedding-001", input_path=str(path), dry_run=True
    )
    for operator in (create(dry_run=True), embedding):
        context = attempt()
        with pytest.raises(AirflowSkipException, match="no job was made"):
            operator.execute(context)
        assert context["ti"].xcoms[ESTIMATE_KEY]["dollars"]["high"] > 0
    assert changing_calls(emulator) == []


def test_a_price_that_changes_while_a_job_may_run_is_warned_of(
    emulator: EmulatorHandle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    today = datetime.now(UTC).date()
    prices = [
        {"model": MODEL, "since": str(today + timedelta(days=days)), "input": 10.0 + days, "output": 1.0}
        for days in (-9, 1)
    ]
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(prices))
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__PRICES_PATH", str(path))
    run = RunBatchOperator(
        task_id="run", model=MODEL, rows=[{"id": 1, "word": "a"}], key="id", prompt="{{ row.word }}",
        output_path=str(tmp_path / "out.jsonl"), dry_run=True,
    )  # fmt: skip
    for operator in (create(dry_run=True), run):
        caplog.clear()
        with pytest.raises(AirflowSkipException):
            operator.execute(attempt())
        said = caplog.text + "".join(capsys.readouterr())  # where Airflow's log goes differs between its versions
        assert f"price of {MODEL} changes on {today + timedelta(days=1)}" in said


@pytest.mark.parametrize("seed", range(12))
def test_no_job_is_created_over_a_cap(emulator: EmulatorHandle, seed: int) -> None:
    """A task that is retried over faults, cancels and clears spends no more than its cap."""
    rng = random.Random(seed)
    cap = upper() * rng.uniform(1.0, 3.0)
    emulator.script(mode="time", pending_seconds=0, running_seconds=100)
    for _ in range(6):
        if rng.random() < 0.4:
            emulator.fault(match={"method": "POST", "path": "atch"}, status=400, times=None)
        try:
            name = create(max_cost=cap).execute(attempt())
        except (GeminiBatchError, AirflowFailException):
            name = None
        emulator.clear_faults()
        emulator.advance(rng.uniform(1, 60))
        if name is not None and rng.random() < 0.8:
            create().hook.cancel_batch(name)
            emulator.advance(60)
    jobs = emulator.ledger()["jobs"]
    ended = sum(job["rows_run"] for job in jobs if job["state"] in ("SUCCEEDED", "CANCELLED"))
    live = sum(job["rows"] for job in jobs if job["state"] not in ("SUCCEEDED", "CANCELLED"))
    assert (ended + live) * TOKENS * 1.25 / 1e6 <= cap


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 6])
def test_no_create_call_passes_a_cap_on_a_bad_day(
    gemini_batch_emulator: EmulatorHandle, tmp_path: Path, seed: int
) -> None:
    assert sum(play(gemini_batch_emulator, tmp_path, seed).values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), Decimal(5)])
def test_a_cap_that_limits_nothing_is_an_error(emulator: EmulatorHandle, bad: Any) -> None:
    with pytest.raises(AirflowFailException, match="max_cost must be a number above 0"):
        create(max_cost=bad).execute(attempt())


def test_a_larger_job_of_before_counts_with_all_its_rows(emulator: EmulatorHandle) -> None:
    emulator.script(mode="time", pending_seconds=0, running_seconds=100)
    name = create(10, max_cost=10 * upper()).execute(attempt())
    emulator.advance(90)
    create().hook.cancel_batch(name)
    emulator.advance(60)
    with pytest.raises(AirflowFailException, match=r"spent"):
        create(2, max_cost=upper(5)).execute(attempt(2))


@pytest.mark.usefixtures("stepped")
def test_a_create_of_an_earlier_attempt_that_nobody_heard_of_counts(emulator: EmulatorHandle) -> None:
    noted: dict[str, Any] = {
        "intent": "0123456789abcdef.0123456789abcdef",
        "intent_at": time.time() - 300,
        "unheard": 1,
    }
    store = Store({SubmissionStore.KEY: noted})
    with pytest.raises(SubmitError, match="reserved"):
        create(max_cost=1.5 * upper()).execute({**attempt(2), "task_state_store": store})
    noted["intent_at"] -= 400
    assert create(max_cost=1.5 * upper()).execute({**attempt(3), "task_state_store": store})


def failed_unasked(emulator: EmulatorHandle, context: dict[str, Any]) -> None:
    """Let an attempt submit a job that fails before it answers a row."""
    emulator.script(mode="at_once", times=1, end={"state": "FAILED", "message": "No luck."})
    create(max_cost=1.5 * upper()).execute(context)
    emulator.advance(10)


@pytest.mark.usefixtures("stepped")
def test_a_job_of_an_unheard_call_that_is_listed_counts_once(emulator: EmulatorHandle) -> None:
    failed_unasked(emulator, attempt())
    noted = {"intent": "0123456789abcdef.0123456789abcdef", "intent_at": time.time() - 60, "unheard": 1}
    context = {**attempt(2), "task_state_store": Store({SubmissionStore.KEY: noted})}
    assert create(max_cost=1.5 * upper()).execute(context)
    assert emulator.ledger()["totals"]["created"] == 2


@pytest.mark.usefixtures("stepped")
@pytest.mark.parametrize("is_cleared", [False, True], ids=["retried", "cleared"])
def test_a_job_that_was_heard_of_answers_for_no_lost_call(emulator: EmulatorHandle, is_cleared: bool) -> None:
    store = Store()
    failed_unasked(emulator, {**attempt(), "task_state_store": store})
    if is_cleared:
        store.clear()
    path = "batchGenerateContent$|/batchPredictionJobs$"
    emulator.fault(match={"method": "POST", "path": path}, action="close", times=1)
    for number in (2, 3):
        with pytest.raises(SubmitError, match="reserved"):
            create(max_cost=1.5 * upper()).execute({**attempt(number), "task_state_store": store})
    assert emulator.ledger()["totals"]["created"] == 1
