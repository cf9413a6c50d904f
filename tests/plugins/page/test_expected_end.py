# SPDX-License-Identifier: Apache-2.0
"""When the jobs of a run that waits will have ended, judged by earlier jobs of the same model."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_gemini_batch.plugins.page.expected_end import durations_in, expect
from airflow_provider_gemini_batch.plugins.page.run_model import view_of
from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress

NOW = 1_800_000_000.0
ADDRESS = TaskAddress("nightly", "run_1", "classify")


def aged(*minutes: float | None) -> list[float | None]:
    return [None if age is None else 60 * age for age in minutes]


def test_end_is_expected_when_most_earlier_jobs_had_ended() -> None:
    found = expect(aged(10, 5), [60.0 * minutes for minutes in (30, 40, 50)], NOW)
    assert found is not None
    assert ((found.soonest - NOW) / 60, (found.latest - NOW) / 60) == (25, 45), "the youngest job ends last"
    assert (found.count, found.low, found.middle, found.high) == (3, 1800, 2400, 3000)
    assert not found.is_late


def test_one_odd_job_of_many_does_not_widen_the_range() -> None:
    found = expect(aged(0), [60.0] + [600.0] * 18 + [86400.0], NOW)
    assert found is not None
    assert (found.low, found.high) == (600, 600)


def test_job_that_runs_longer_than_the_others_is_called_late() -> None:
    found = expect(aged(90), [1800.0, 2400.0, 3000.0], NOW)
    assert found is not None
    assert found.is_late


@pytest.mark.parametrize(("ages", "earlier"), [((), [60.0] * 9), ((5, None), [60.0] * 9), ((5,), [60.0, 70.0])])
def test_nothing_is_expected_of_too_little_knowledge(ages: tuple[float | None, ...], earlier: list[float]) -> None:
    assert expect(aged(*ages), earlier, NOW) is None


def test_only_whole_jobs_of_the_model_that_succeeded_tell_how_long_one_takes() -> None:
    whole = {"state": "SUCCEEDED", "created": "2026-11-27T04:00:00Z", "ended": "2026-11-27T04:30:00Z"}
    odd: list[Any] = [{**whole, "state": "CANCELLED"}, {**whole, "ended": None}, {**whole, "created": 7}, "x",
                      {**whole, "created": "2026-11-28T04:00:00Z"}]  # fmt: skip
    progress = {"model": "models/gemini-a", "jobs": [whole, *odd]}
    assert durations_in(progress, "gemini-a") == [1800.0]
    assert durations_in(progress, "gemini-b") == []
    assert durations_in({"model": "gemini-a", "jobs": "none"}, "gemini-a") == []


def waiting(**more: Any) -> dict[str, Any]:
    job = {"job": "batches/a", "round": 1, "rows": 5, "state": "RUNNING", "created": "2027-01-15T07:50:00Z"}
    return {"gemini_batch_progress": {"model": "gemini-a", "total": 5, "jobs": [job], "waiting_shards": 0, **more}}


@pytest.mark.parametrize(("left", "label"), [(0, "Expected end"), (2, "End of the jobs under way")])
def test_run_with_jobs_still_to_submit_says_whose_end_is_expected(left: int, label: str) -> None:
    view = view_of(TaskFacts(ADDRESS, "deferred", xcoms=waiting(waiting_shards=left)), NOW, earlier=[600.0] * 5)
    assert view.expected is not None
    assert view.expected_label == label


@pytest.mark.parametrize("state", ["success", "failed"])
def test_task_that_is_over_expects_no_end(state: str) -> None:
    assert view_of(TaskFacts(ADDRESS, state, xcoms=waiting()), NOW, earlier=[600.0] * 5).expected is None


@pytest.mark.parametrize(
    ("dollars", "text"),
    [
        ({"low": 22.1, "likely": 24.0, "high": 27.6}, "$22.10 to $27.60"),
        ({"low": 0.001, "likely": None, "high": 0.002}, "< $0.01"),
        ({"low": 22.1, "likely": 24.0, "high": None}, "at least $22.10"),
        (None, "unknown"),
        ("x", "unknown"),
    ],
)
def test_plan_is_told_beside_what_was_paid(dollars: Any, text: str) -> None:
    estimate = {"model": "gemini-a", "rows": 5, "dollars": dollars}
    assert view_of(TaskFacts(ADDRESS, xcoms={"gemini_batch_estimate": estimate}), NOW).planned == text


@pytest.mark.parametrize("estimate", [None, "x", {}])
def test_task_without_an_estimate_names_no_plan(estimate: Any) -> None:
    assert view_of(TaskFacts(ADDRESS, xcoms={"gemini_batch_estimate": estimate}), NOW).planned == ""


def test_jobs_show_the_tokens_of_their_answers_where_they_were_counted() -> None:
    read = {"job": "batches/a", "state": "SUCCEEDED", "counts": {"succeeded": 5}, "rows": 5}
    jobs = [{**read, "tokens": [150, 20]}, {**read, "job": "batches/b"}, {**read, "job": "batches/c", "tokens": "x"}]
    view = view_of(TaskFacts(ADDRESS, xcoms={"gemini_batch_progress": {"jobs": jobs}}), NOW)
    assert [job.tokens for job in view.jobs] == [(150, 20), None, None]
    assert view.tokens_asked is None, "a sum with an unknown part is none"
