# SPDX-License-Identifier: Apache-2.0
"""The attempt as a table of steps, and as a value that outlives versions; no clock, no service."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
from airflow_provider_gemini_batch.errors import (
    GeminiBatchError,
    JobStuckError,
    JobTimeoutError,
    RateLimitedError,
    SubmitError,
    TriggerEventError,
)
from airflow_provider_gemini_batch.lifecycle.attempt import (
    EARLY,
    Attempt,
    AttemptPolicy,
    Done,
    Fail,
    Pause,
    Resubmit,
    Step,
    Wait,
    next_step,
)
from airflow_provider_gemini_batch.lifecycle.uploaded import UploadedInput
from airflow_provider_gemini_batch.lifecycle.waiting import Outcome
from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger
from airflow_provider_gemini_batch.triggers.deferral import CARRIED, read_carried, read_wait

NOW = 1_800_000_000.0
POLICY = AttemptPolicy(timeout=1000.0, submit_timeout=500.0, quota=RetryPolicy(None, base=30, rng=lambda: 1.0))
WAITING = replace(POLICY.begin(NOW), job_name="batches/a")
DAYS_LATER = NOW + 400_000


def job(state: JobState) -> BatchJob:
    return BatchJob("batches/a", state=state)


RUNNING, PENDING, PAUSED = job(JobState.RUNNING), job(JobState.PENDING), job(JobState.PAUSED)
ENDED, TIMEOUT = Outcome.ENDED, Outcome.TIMEOUT
STUCK_PENDING, STUCK_RUNNING = Outcome.PENDING_TIMEOUT, Outcome.RUNNING_TIMEOUT
BROKEN = GeminiBatchError("batches/a could not be watched any longer")

TABLE: list[tuple[str, Any, BatchJob | None, dict[str, Any], float, type[Step], dict[str, Any]]] = [
    # what happened; outcome; the job; policy; seconds since the start; step; what it says
    ("the job ended", ENDED, job(JobState.SUCCEEDED), {}, 10, Done, {}),
    ("the job failed", ENDED, job(JobState.FAILED), {}, 10, Done, {}),
    ("it ended as time was over", TIMEOUT, job(JobState.SUCCEEDED), {}, 1001, Done, {}),
    ("it ended as it was stuck", STUCK_PENDING, job(JobState.CANCELLED), {}, 10, Done, {}),
    ("the wait broke", BROKEN, None, {}, 10, Fail, {"error": GeminiBatchError, "cancel": False}),
    ("a twin turned up", Outcome.TWIN, RUNNING, {}, 10, Wait, {"waived": ()}),
    ("a list was ahead", ENDED, RUNNING, {}, 10, Wait, {"waived": ()}),
    ("the job cannot be read", ENDED, None, {}, 10, Wait, {"waived": ()}),
    ("a list was ahead, too late", ENDED, RUNNING, {}, 1000, Fail, {"error": JobTimeoutError, "cancel": False}),
    ("a twin turned up", Outcome.TWIN, RUNNING, {}, 10, Wait, {"waived": ()}),
    ("time is over", TIMEOUT, RUNNING, {}, 1000, Fail, {"error": JobTimeoutError, "cancel": False}),
    ("time is over, cancel", TIMEOUT, RUNNING, {"on_timeout": "cancel"}, 1000, Fail, {"cancel": True}),
    ("time is over, unread", TIMEOUT, None, {}, 1000, Fail, {"error": JobTimeoutError, "cancel": False}),
    ("a triggerer's clock is ahead", TIMEOUT, RUNNING, {}, 700, Fail, {"error": JobTimeoutError}),
    ("stuck, unread", STUCK_PENDING, None, {}, 10, Wait, {"waived": ()}),
    ("stuck, and late", STUCK_PENDING, None, {}, 1000, Fail, {"error": JobTimeoutError}),
    ("stuck pending", STUCK_PENDING, PENDING, {}, 10, Fail, {"error": JobStuckError, "cancel": False}),
    ("stuck, cancel", STUCK_PENDING, PENDING, {"on_timeout": "cancel"}, 10, Fail, {"cancel": True}),
    ("stuck, wait", STUCK_PENDING, PENDING, {"on_pending_timeout": "wait"}, 10, Wait, {"waived": (STUCK_PENDING,)}),
    ("it runs meanwhile", STUCK_PENDING, RUNNING, {"on_pending_timeout": "resubmit"}, 10, Wait,
     {"waived": (STUCK_PENDING,)}),
    ("stuck, again", STUCK_PENDING, PENDING, {"on_pending_timeout": "resubmit"}, 10, Resubmit,
     {"cancel": "batches/a", "exclude": ("batches/a",), "resubmits": 1, "job_name": None}),
    ("stuck, no more", STUCK_PENDING, PENDING, {"on_pending_timeout": "resubmit", "max_resubmits": 0}, 10, Fail,
     {"error": JobStuckError, "cancel": True}),
    ("runs too long", STUCK_RUNNING, RUNNING, {}, 10, Fail, {"error": JobStuckError, "cancel": False}),
    ("runs too long, wait", STUCK_RUNNING, RUNNING, {"on_running_timeout": "wait"}, 10, Wait,
     {"waived": (STUCK_RUNNING,)}),
    ("runs too long, again", STUCK_RUNNING, RUNNING, {"on_running_timeout": "resubmit"}, 10, Resubmit,
     {"cancel": "batches/a"}),
    ("the other choice", STUCK_RUNNING, RUNNING, {"on_pending_timeout": "resubmit"}, 10, Fail, {"cancel": False}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "seen", "policy", "after", "kind", "says"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_each_outcome_has_its_step(
    outcome: Any, seen: BatchJob | None, policy: dict[str, Any], after: float, kind: type[Step], says: dict[str, Any]
) -> None:
    step = next_step(WAITING, outcome, seen, replace(POLICY, **policy), NOW + after)
    assert type(step) is kind
    for name, value in says.items():
        found = getattr(step, name) if hasattr(step, name) else getattr(step.attempt, name)  # type: ignore[union-attr]
        assert type(found) is value if name == "error" else found == value, name


def test_the_table_has_a_row_for_every_outcome() -> None:
    assert {row[1] for row in TABLE if isinstance(row[1], Outcome)} == set(Outcome) - {Outcome.ERROR}


def test_waived_limits_no_longer_count() -> None:
    policy = replace(POLICY, pending_timeout=5.0, running_timeout=6.0, on_pending_timeout="wait")
    step = next_step(WAITING, STUCK_PENDING, PENDING, policy, NOW + 10)
    assert isinstance(step, Wait)
    limits = policy.limits(step.attempt)
    assert (limits.deadline, limits.pending_timeout, limits.running_timeout) == (NOW + 1000, None, 6.0)


# --- quota ------------------------------------------------------------------------------------------------------------


def refused(tries: int = 0, after: float = 0.0, **facts: Any) -> Step:
    attempt = replace(POLICY.begin(NOW), tries=tries)
    text = facts.pop("text", "HTTP 429 RESOURCE_EXHAUSTED: no")
    return next_step(attempt, RateLimitedError(text, **facts), None, POLICY, NOW + after)


@pytest.mark.parametrize(("tries", "pause"), [(0, 30), (1, 60), (2, 120)])
def test_a_refused_create_pauses_longer_each_time(tries: int, pause: float) -> None:
    policy = replace(POLICY, submit_timeout=10_000, quota=RetryPolicy(None, base=30, cap=1800, rng=lambda: 1.0))
    step = next_step(replace(policy.begin(NOW), tries=tries), RateLimitedError("no"), None, policy, NOW)
    assert isinstance(step, Pause)
    assert (step.until, step.attempt.tries) == (NOW + pause, tries + 1)


def test_a_pause_ends_at_submit_timeout_and_then_the_task_fails() -> None:
    step = refused(after=490)
    assert isinstance(step, Pause)
    assert step.until == NOW + 500
    step = refused(after=500)
    assert isinstance(step, Fail)
    assert isinstance(step.error, SubmitError)
    assert "within submit_timeout; nothing was submitted" in str(step.error)
    assert isinstance(step.error.__cause__, RateLimitedError)


def test_a_wait_for_quota_ends_at_execution_timeout_too() -> None:
    policy = replace(POLICY, execution_timeout=100.0)
    step = next_step(policy.begin(NOW), RateLimitedError("no"), None, policy, NOW + 95)
    assert isinstance(step, Fail)
    assert "within execution_timeout" in str(step.error)


@pytest.mark.parametrize(
    ("facts", "least"),
    [
        ({"text": "You exceeded your spend limit of the last 10 minutes."}, 600),
        ({"quota": "SpendPerTenMinutesPerProject"}, 600),
        ({"text": "spend limit", "retry_after": 900.0}, 900),
        ({"text": "spend limit", "retry_after": 20.0}, 600),
        ({"retry_after": 40.0}, 40),
        ({}, 15),
    ],
)
def test_a_spend_limit_pauses_ten_minutes(facts: dict[str, Any], least: float) -> None:
    step = next_step(
        AttemptPolicy().begin(NOW), RateLimitedError(facts.pop("text", "no"), **facts), None, AttemptPolicy(), NOW
    )
    assert isinstance(step, Pause)
    assert least <= step.until - NOW <= least * 1.1 + 15


def test_an_error_while_a_job_is_waited_for_is_no_refusal() -> None:
    step = next_step(WAITING, RateLimitedError("no"), None, POLICY, NOW)
    assert isinstance(step, Fail)


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_execution_timeout_bounds_a_wait_and_ends_a_little_earlier() -> None:
    attempt = replace(POLICY, timeout=10_000, execution_timeout=3600.0).begin(NOW)
    assert attempt.ends_at == NOW + 3600 - EARLY
    assert replace(POLICY, execution_timeout=10.0).begin(NOW).ends_at == NOW + 9
    assert POLICY.begin(NOW).ends_at == NOW + 1000


@pytest.mark.parametrize(("limit", "named"), [(100.0, "execution_timeout"), (5000.0, "timeout"), (None, "timeout")])
def test_a_timeout_names_the_limit_that_ended_the_wait(limit: float | None, named: str) -> None:
    policy = replace(POLICY, execution_timeout=limit)
    step = next_step(replace(policy.begin(NOW), job_name="batches/a"), TIMEOUT, RUNNING, policy, NOW + 1000)
    assert isinstance(step, Fail)
    assert isinstance(step.error, JobTimeoutError)
    assert step.error.limit == named
    assert f"({named})" in str(step.error)


def test_airflows_own_timeout_of_a_deferral_comes_last() -> None:
    assert WAITING.deferral_timeout(NOW) == 1300
    assert WAITING.deferral_timeout(NOW + 5000) == 60


# --- over versions ----------------------------------------------------------------------------------------------------

SAMPLES = json.loads((Path(__file__).parents[1] / "samples/deferrals/0.1.0.json").read_text(encoding="utf-8"))
MEASURE = InputMeasure(3, 900, 100, ((300, 70), (301, 71)))
UPLOADED = UploadedInput("ab" * 32, "files/x", "f" * 16, 3, "e" * 16, sent=True, measure=MEASURE)
FULL = Attempt(1.0, 2.0, 3.0, 4.0, "batches/a", 5, 6, ("batches/b",), ("pending_timeout",), UPLOADED, ("batches/c",))


def with_measure(**measure: Any) -> dict[str, Any]:
    return {"deadline": 1, "uploaded": {"sha256": "a", "file_name": "b", "fingerprint": "c", "measure": measure}}


@pytest.mark.parametrize("attempt", [FULL, WAITING, POLICY.begin(NOW)], ids=["full", "waiting", "new"])
def test_an_attempt_survives_json(attempt: Attempt) -> None:
    assert Attempt.from_json(json.loads(json.dumps(attempt.to_json()))) == attempt


@pytest.mark.parametrize("name", list(SAMPLES))
def test_what_version_0_1_0_deferred_is_resumed(name: str) -> None:
    sample = SAMPLES[name]
    attempt = read_carried(sample["kwargs"], POLICY)
    plan = sample["kwargs"].get("plan") or {"waived": [], "tries": 0, **sample["kwargs"]}
    assert attempt.deadline == plan["deadline"]
    assert attempt.started == plan["deadline"] - POLICY.timeout
    assert (list(attempt.waived), attempt.tries) == (plan["waived"], plan["tries"])
    event = {"outcome": "ended", "job_name": "batches/a", "state": "SUCCEEDED", "stats": {}, "message": "", "error": ""}
    resumed, outcome = read_wait(event, sample["kwargs"], POLICY)
    assert (resumed.job_name, outcome) == ("batches/a", ENDED)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "quota" not in name])
def test_a_trigger_that_version_0_1_0_stored_is_the_same_today(name: str) -> None:
    stored = SAMPLES[name]["trigger"]
    again = BatchJobTrigger(**stored["kwargs"]).serialize()
    assert again[0] == stored["classpath"]
    assert {member: again[1][member] for member in stored["kwargs"]} == stored["kwargs"]


def test_version_0_1_0_finds_in_ours_what_it_reads() -> None:
    plan = SAMPLES["create"]["kwargs"]["plan"]
    ours = WAITING.to_json()
    assert {name: type(ours[name]) for name in plan} == {name: type(value) for name, value in plan.items()}


def test_members_of_a_newer_version_are_passed_over() -> None:
    carried = {CARRIED: {**WAITING.to_json(), "version": 9, "colour": {"of": "tomorrow"}}, "extra": 1}
    assert read_carried(carried, POLICY) == WAITING


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, "not an object"),
        ("plan", "not an object"),
        ([], "not an object"),
        ({}, "deadline is missing"),
        ({"deadline": "soon"}, "deadline is 'soon'"),
        ({"deadline": None}, "deadline is None"),
        ({"deadline": True}, "deadline is True"),
        ({"deadline": float("nan")}, "deadline is nan"),
        ({"deadline": 1, "tries": "3"}, "tries is '3'"),
        ({"deadline": 1, "tries": -1}, "tries is -1"),
        ({"deadline": 1, "resubmits": 1.5}, "resubmits is 1.5"),
        ({"deadline": 1, "exclude": "batches/a"}, "exclude is 'batches/a'"),
        ({"deadline": 1, "waived": [1]}, "waived is "),
        ({"deadline": 1, "job_name": 3}, "job_name is 3"),
        ({"deadline": 1, "uploaded": "files/a"}, "uploaded is 'files/a'"),
        ({"deadline": 1, "uploaded": {"sha256": "a"}}, "file_name is missing"),
        (with_measure(rows=0), "rows is 0"),
        (with_measure(rows=3), "size is missing"),
        (with_measure(rows=3, size=9, counted=[[3, -1]]), "counted is "),
        ({"deadline": 1, "execution_deadline": []}, "execution_deadline is "),
    ],
)
def test_what_cannot_be_read_names_the_member_and_the_way_out(value: Any, names: str) -> None:
    with pytest.raises(TriggerEventError, match=r"Clear the task: it finds its job again") as caught:
        read_carried({CARRIED: value}, POLICY)
    assert names in str(caught.value)


def test_a_deferral_that_carried_nothing_keeps_its_job() -> None:
    event = {"outcome": "timeout", "job_name": "batches/a"}
    attempt, outcome = read_wait(event, {}, POLICY)
    assert (attempt.job_name, outcome) == ("batches/a", TIMEOUT)
    with pytest.raises(TriggerEventError, match="plan is missing"):
        read_carried({"colour": 1}, POLICY)
