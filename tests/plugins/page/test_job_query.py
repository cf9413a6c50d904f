# SPDX-License-Identifier: Apache-2.0
"""What a viewer sees of a list of jobs, without a server."""

from __future__ import annotations

import time
from typing import Any

from airflow_provider_gemini_batch.plugins.page.job_query import Filters, clean_up, query, seen
from airflow_provider_gemini_batch.plugins.page.listed import ListedJob
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress

NOW = 1_800_000_000.0
OTHER = TaskAddress("payroll", "run", "read_salaries")


def job(name: str = "batches/a", **members: Any) -> ListedJob:
    known: dict[str, Any] = {
        "display_name": "payroll.read_salaries", "token": "f" * 16, "model": "flash", "state": "SUCCEEDED", "total": 7,
        "succeeded": 6, "failed": 1, "created": NOW - 9 * 86400, "ended": NOW - 8 * 86400, "file": "files/x",
        "cost": 4.5, "read": True,
    }  # fmt: skip
    return ListedJob(name, **{**known, **members})


def test_job_of_a_foreign_dag_shows_neither_name_owner_nor_cost() -> None:
    [foreign] = seen([job(owner=OTHER)], lambda names: set())
    shown = foreign.job
    assert foreign.hidden
    assert (shown.display_name, shown.owner, shown.cost, shown.total, shown.file) == ("", None, None, None, "")


def test_no_search_or_filter_tells_what_is_hidden() -> None:
    jobs = seen([job(owner=OTHER)], lambda names: set())
    for filters in (Filters(search="payroll"), Filters(search="salaries"), Filters(dag="payroll")):
        assert query(jobs, filters, 1, NOW).found == 0
    assert query(jobs, Filters(), 1, NOW).dags == []


def test_clean_up_never_touches_what_is_hidden_running_unread_or_not_ours_to_edit() -> None:
    mine = TaskAddress("mine", "run", "task")
    jobs = seen(
        [
            job("hidden", owner=OTHER),
            job("running", state="RUNNING", ended=None),
            job("unread", owner=mine, read=False),
            job("young", ended=NOW - 60),
            job("read", owner=mine),
            job("failed", owner=mine, state="FAILED", read=False),
            job("nobody's"),
        ],
        lambda names: {"mine"},
    )
    rights = {"may_dag": lambda dag_id: True, "may_connection": True}
    assert clean_up(jobs, 7, NOW, **rights).delete == ["read", "failed", "nobody's"]
    rights = {"may_dag": lambda dag_id: False, "may_connection": False}
    plan = clean_up(jobs, 7, NOW, **rights)
    assert (plan.delete, sum(count for _, count, _ in plan.lines)) == ([], 7)


def test_ten_thousand_jobs_are_filtered_in_a_moment() -> None:
    owners = [TaskAddress(f"dag_{n % 200}", f"run_{n}", "task") for n in range(10_000)]
    jobs = [job(f"batches/{n}", owner=owner) for n, owner in enumerate(owners)]
    began = time.perf_counter()
    result = query(seen(jobs, set), Filters(search="dag_7 run", state="succeeded"), 2, NOW)
    assert time.perf_counter() - began < 0.5
    assert (result.found, len(result.jobs)) == (550, 50)
