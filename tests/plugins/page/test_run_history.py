# SPDX-License-Identifier: Apache-2.0
"""What happened in a run, in words: attempts, rounds, jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.attempts import Attempt
from airflow_provider_gemini_batch.plugins.page.run_history import MOST, happened
from airflow_provider_gemini_batch.plugins.page.run_model import view_of
from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, run_path
from tests.plugins.page.test_run_view import HOSTILE, waiting_run

if TYPE_CHECKING:
    from tests.support.page_server import PageServer

ADDRESS = TaskAddress("nightly", "run_1", "classify")


def job(name: str, number: int, rows: int, created: str, ended: str | None = None, **more: Any) -> dict[str, Any]:
    return {"job": f"batches/{name}", "round": number, "rows": rows, "created": created, "ended": ended,
            "state": "SUCCEEDED" if ended else "RUNNING", "counts": None, "cost": None, **more}  # fmt: skip


def facts_of(*jobs: dict[str, Any], job_count: int = 0, **more: Any) -> TaskFacts:
    progress = {"jobs": list(jobs), "job_count": job_count or len(jobs)}
    return TaskFacts(ADDRESS, xcoms={"gemini_batch_progress": progress, **more.pop("xcoms", {})}, **more)


def test_events_are_told_newest_first_with_what_came_of_them() -> None:
    facts = facts_of(
        job("a", 1, 100, "2026-11-27T04:00:10Z", "2026-11-27T04:30:00Z",
            counts={"succeeded": 90, "failed": 10}, cost=0.25),
        job("b", 2, 10, "2026-11-27T04:31:00Z"),
        attempts=[Attempt(1, "failed", 1795752000.0, 1795752005.0), Attempt(2, "", 1795752007.0)],
    )  # fmt: skip
    assert [(text, more) for _, text, more in happened(facts, {})] == [
        ("Job b was submitted with 10 rows.", ""),
        ("Round 2: 10 rows asked again.", "They had failed for a reason that passes."),
        ("Job a ended: succeeded.", "90 usable, 10 failed. It cost $0.25."),
        ("Job a was submitted with 100 rows.", ""),
        ("Attempt 2 began.", ""),
        ("Attempt 1 ended: failed.", "After 5 s."),
        ("Attempt 1 began.", ""),
    ]


def test_last_attempt_tells_what_the_rows_came_to() -> None:
    manifest = {"total": 120, "succeeded": 117}
    facts = facts_of(attempts=[Attempt(1, "success", 10.0, 70.0)], xcoms={"gemini_batch_manifest": manifest})
    assert happened(facts, {})[0][1:] == ("Attempt 1 ended: success.", "117 of 120 rows have a usable answer.")


def test_what_a_run_did_not_pay_is_what_its_manifest_tells_and_no_guess() -> None:
    one = {"rows": 2, "input_tokens": 9, "output_tokens": 9, "cost": 0.25, "unknown": 0}
    shown = view_of(facts_of(xcoms={"gemini_batch_manifest": {"costs": {"m": {**one, "single_calls": 0.75}}}}), 0.0)
    assert shown.money.unpaid == (("Batch instead of single calls", 0.5),)
    assert view_of(facts_of(xcoms={"gemini_batch_manifest": {"costs": {"m": one}}}), 0.0).money.unpaid == ()


def test_job_of_which_only_the_name_is_left_is_told_by_the_list_of_jobs() -> None:
    facts = TaskFacts(ADDRESS, xcoms={"job_name": "batches/x"})
    look = {"at": 9.0, "state": "FAILED", "created": 5.0, "ended": 8.0}
    assert [(at, text) for at, text, _ in happened(facts, {"batches/x": look})] == [
        (8.0, "Job x ended: failed."),
        (5.0, "Job x was submitted."),
    ]
    assert happened(facts, {}) == []


@pytest.mark.parametrize(
    ("read", "more"), [({"read": True}, "A task has read its answers."), ({"read": False}, ""), ({}, "")]
)
def test_job_whose_answers_another_task_reads_is_not_called_unread(read: dict[str, bool], more: str) -> None:
    look = {"at": 9.0, "state": "SUCCEEDED", "created": 5.0, "ended": 8.0, **read}
    facts = TaskFacts(ADDRESS, xcoms={"job_name": "batches/x"})
    assert happened(facts, {"batches/x": look})[0] == (8.0, "Job x ended: succeeded.", more)


def test_rounds_are_not_summed_up_where_some_jobs_are_not_told() -> None:
    facts = facts_of(job("b", 2, 10, "2026-11-27T04:31:00Z"), job_count=400)
    assert [text for _, text, _ in happened(facts, {})] == ["Job b was submitted with 10 rows."]


def test_odd_values_and_very_many_jobs_are_borne() -> None:
    odd = [job(f"j{number}", 1, 1, "2026-11-27T04:00:00Z") for number in range(500)]
    odd += [{"job": 3, "created": {}}, {"job": "x", "created": "soon", "round": "two", "counts": [1]}]
    assert len(happened(facts_of(*odd), {})) == MOST
    assert happened(TaskFacts(ADDRESS, xcoms={"gemini_batch_progress": {"jobs": "none"}}), {}) == []


@pytest.mark.newest_airflow
def test_run_shows_its_attempts_and_jobs_and_no_markup(page: PageServer) -> None:
    progress = {"at": 1e14, "total": 2, "jobs": [job(HOSTILE, 1, 2, "2026-11-27T04:00:00Z")], "job_count": 1}
    address = waiting_run(page, xcoms={"gemini_batch_progress": progress}, try_number=2, earlier=["failed"])
    html = page.client("viewer").get(run_path(address)).text
    assert "What happened" in html
    for text in ("Attempt 2 began.", "Attempt 1 ended: failed.", "was submitted with 2 rows."):
        assert text in html
    assert "<script>alert" not in html
    assert "\u202e" not in html
