# SPDX-License-Identifier: Apache-2.0
"""A real API server for the page's tests, one for all of them, and what a person sees in it."""

from __future__ import annotations

import csv
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.urls import (
    TaskAddress,
    answers_path,
    jobs_path,
    run_path,
    sample_path,
    spend_path,
)
from tests.support.chromium import running_chromium
from tests.support.page_server import PageServer

if TYPE_CHECKING:
    from collections.abc import Iterator


ADDRESS = TaskAddress("nightly_reviews", "scheduled__2026-11-26", "classify")
EXAMPLES = Path(__file__).parents[3] / "example_dags" / "data"
MODEL = "gemini-3.5-flash-lite"
NOT_IN_SCHEMA = "sentiment: 'neutral' is not one of 'good', 'bad', 'mixed'"
MARKUP = "<b>bold</b><script>document.title='taken over'</script>"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker of a parallel run have all tests of the server: it takes ten seconds to start."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "page" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("page"))


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """Serve the page in a real Airflow, whose users are named as their roles."""
    server = PageServer(tmp_path_factory.mktemp("page"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def seen(page: PageServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Fill an Airflow with a run and its answers; return the paths of the views."""
    folder = Path("/tmp") if "PICTURES" in os.environ else tmp_path_factory.mktemp("answers")
    place = folder / "answers.jsonl"
    with (EXAMPLES / "reviews.csv").open(encoding="utf-8", newline="") as file:
        reviews = [(row["product"], row["review"]) for row in csv.DictReader(file)]
    with place.open("w") as out:
        for number in range(120):
            product, review = reviews[number % len(reviews)]
            out.write(json.dumps(_answer(number, product, review if number != 87 else MARKUP)) + "\n")
    reasons = [("invalid", None, NOT_IN_SCHEMA, 3), ("blocked", None, "PROHIBITED_CONTENT", 2)]
    manifest = {
        "output_path": str(place), "total": 120, "input_rows": 120, "answer_columns": ["sentiment"],
        "counts": {"succeeded": 115, "invalid": 3, "blocked": 2}, "succeeded": 115, "reused": 0, "duplicates": 0,
        "finish_reasons": {"STOP": 118}, "model_versions": {"gemini-3.5-flash-lite": 118}, "attempts": 120, "rounds": 1,
        "errors": [dict(zip(("status", "code", "message", "count"), each, strict=True)) for each in reasons],
        "tokens": {"prompt": 2640, "output": 1680, "thoughts": 0, "cached": 0},
        "cost": {"actual": 0.0025, "rows_of_unknown_cost": 0}, "paid_twice": 0, "jobs": ["batches/abc"], "job_count": 1,
    }  # fmt: skip
    task = {
        "dag_id": ADDRESS.dag_id, "run_id": ADDRESS.run_id, "task_id": ADDRESS.task_id, "state": "success",
        "xcoms": {"gemini_batch_manifest": manifest},
    }  # fmt: skip
    page.fill(tasks=[task])
    if "PICTURES" in os.environ:
        _spend_before(page)
    return {
        "run": run_path(ADDRESS), "answers": answers_path(ADDRESS), "spend": spend_path(),
        "row": answers_path(ADDRESS, open=1), "under way": run_path(run_under_way(page)),
        "sample": sample_path(sample_asked(page)),
    }  # fmt: skip


def _answer(number: int, product: str, review: str) -> dict[str, Any]:
    sentiment = ("good", "bad", "mixed")[number % 3]
    row: dict[str, Any] = {
        "key": f"r{number:03d}", "product": product, "review": review, "sentiment": sentiment,
        "prompt": f"Classify this product review:\n{review}", "status": "succeeded",
        "text": json.dumps({"sentiment": sentiment}), "finish_reason": "STOP", "error_message": None, "attempts": 1,
        "model_version": MODEL, "prompt_tokens": 22, "output_tokens": 14, "cost": 0.00002,
    }  # fmt: skip
    if number % 40 == 7:
        neutral = {"text": '{"sentiment": "neutral"}', "error_message": NOT_IN_SCHEMA, "attempts": 3}
        return row | {"status": "invalid", "sentiment": None} | neutral
    if number % 60 == 13:
        return row | {"status": "blocked", "sentiment": None, "text": None, "finish_reason": "PROHIBITED_CONTENT"}
    return row


def _moment(minutes_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat()


def _job(name: str, round_number: int, rows: int, began: float, **more: Any) -> dict[str, Any]:
    return {"job": f"batches/{name}", "round": round_number, "rows": rows, "created": _moment(began), "ended": None,
            "state": "SUCCEEDED", "stats": None, "counts": None, "cost": None, "estimate": None, **more}  # fmt: skip


def run_under_way(page: PageServer) -> TaskAddress:
    """Put a run into the database that waits for two of its jobs, and earlier ones of its task."""
    dollars = {"low": 16.5, "likely": 17.9, "high": 20.4}
    estimate = {"model": MODEL, "rows": 150_072, "dollars": dollars}
    live = {"total": 50_024, "succeeded": 38_601, "failed": 311}
    read = [(49_611, 413, 5.94, [15_410_000, 2_900_000], 40), (49_570, 454, 5.97, [15_380_000, 2_930_000], 33)]
    jobs = [_job("x8be3s1kf2gj", 1, 50_024, 39, state="RUNNING", stats=live, estimate=5.94),
            _job("e6hk1ojp4xqy", 2, 867, 5, state="QUEUED", estimate=0.11)]  # fmt: skip
    for name, (good, bad, cost, tokens, ended) in zip(("7kq2vhx0mzr4", "c19wpd8t5n3e"), read, strict=True):
        counts = {"succeeded": good, "failed": bad}
        jobs.append(
            _job(name, 1, 50_024, 72, counts=counts, cost=cost, tokens=tokens, ended=_moment(ended))
        )  # fmt: skip
    progress = {
        "at": time.time() - 24, "model": MODEL, "total": 198_292, "counts": {"succeeded": 147_401},
        "reused": 48_220, "spent": 11.91, "reserved": 6.05, "max_cost": 30.0, "max_row_attempts": 3, "rounds": 2,
        "waiting_shards": 0, "job_count": 4, "jobs": jobs,
    }  # fmt: skip
    trigger = {
        "classpath": "airflow_provider_gemini_batch.triggers.batch_jobs.BatchJobsTrigger",
        "kwargs": {"job_names": [job["job"] for job in jobs[:2]], "gemini_batch_conn_id": "gemini_batch_default"},
    }
    address = TaskAddress("reviews_nightly", "scheduled__2026-11-27", "classify")
    page.fill(tasks=[{**address.query(), "state": "deferred", "age": 73 * 60, "trigger": trigger,
                      "xcoms": {"gemini_batch_progress": progress, "gemini_batch_estimate": estimate}}])  # fmt: skip
    for day in range(1, 4):
        took = [_job(f"before{day}{n}", 1, 50_024, 2000, ended=_moment(2000 - 31 - 6 * n - day)) for n in range(4)]
        page.fill(tasks=[{**address.query(), "run_id": f"scheduled__2026-11-{27 - day}", "age": 86400 * day,
                          "xcoms": {"gemini_batch_progress": {"model": MODEL, "jobs": took}}}])  # fmt: skip
    return address


def sample_asked(page: PageServer) -> TaskAddress:
    """Put a sample into the database, and a task that asks a person about it."""
    manifest = {
        "total": 200, "input_rows": 1_204_550, "succeeded": 198,
        "counts": {"succeeded": 198, "blocked": 1, "invalid": 1},
        "finish_reasons": {"STOP": 198, "MAX_TOKENS": 1}, "errors": [
            {"status": "blocked", "code": None, "message": "PROHIBITED_CONTENT", "count": 1}],
        "cost": {"actual": 0.024, "rows_of_unknown_cost": 0, "single_calls": 0.048},
        "tokens": {"prompt": 61_600, "output": 11_400, "thoughts": 0},
        "projection": {"rows": 1_204_550, "cost": {"low": 134.0, "likely": 143.5, "high": 153.0},
                       "failed": {"low": 3614, "likely": 12046, "high": 43364}},
    }  # fmt: skip
    address = TaskAddress("reviews_backfill", "manual__2026-11-27", "sample")
    xcoms = {"gemini_batch_manifest": manifest, "gemini_batch_progress": {"max_cost": 160.0, "max_failed_rows": 0.01}}
    page.fill(tasks=[{**address.query(), "xcoms": xcoms},
                     {**address.query(), "task_id": "approve", "state": "deferred",
                      "asks": "Ask all 1,204,550 reviews?"}])  # fmt: skip
    return address


@pytest.fixture(scope="session")
def views(page: PageServer, seen: dict[str, str]) -> dict[str, str]:
    """Return the paths of further views: a run that waits, what is not there, what is refused."""
    from tests.plugins.page.test_run_view import waiting_run

    waiting = run_path(waiting_run(page))
    return {
        **seen,
        "waiting": waiting,
        "every answer": f"{seen['answers']}&status=all",
        "no answers": waiting.replace("/run?", "/answers?"),
        "nowhere": "/nowhere",
        "jobs": jobs_path("a_conn"),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Run Chromium for a module's tests; asyncio cannot be used beside it."""
    with running_chromium() as started:
        yield started


def _spend_before(page: PageServer) -> None:
    """Let three DAGs have spent something on each of the last days, so that a picture shows more than one bar."""
    for day in range(1, 29):
        for dag_id, dollars in (("reviews_nightly", 22 + day % 5), ("catalog", 1.4), ("contracts", 25 * (day == 9))):
            tokens = {"input_tokens": int(4e6 * dollars), "output_tokens": int(6e5 * dollars)}
            costs = {"gemini-3.5-flash-lite-002": {"rows": 9000, **tokens, "cost": dollars, "unknown": 0}}
            manifest = {"output_path": "/lake/a.parquet", "costs": costs, "cost": {"actual": dollars}}
            task = {"dag_id": dag_id, "run_id": f"day_{day}", "task_id": "ask", "age": 86400 * day}
            page.fill(tasks=[{**task, "xcoms": {"gemini_batch_manifest": manifest}}])
