# SPDX-License-Identifier: Apache-2.0
"""A real API server for the page's tests, one for all of them, and what a person sees in it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, answers_path, jobs_path, run_path, spend_path
from tests.support.chromium import running_chromium
from tests.support.page_server import PageServer

if TYPE_CHECKING:
    from collections.abc import Iterator


ADDRESS = TaskAddress("nightly_reviews", "scheduled__2026-11-26", "classify")
EXAMPLES = Path(__file__).parents[3] / "example_dags" / "data"
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
            row: dict[str, Any] = {
                "key": f"r{number:03d}", "product": product, "review": review if number != 87 else MARKUP,
                "status": "succeeded", "text": "good", "finish_reason": "STOP", "error_message": None, "attempts": 1,
                "model_version": "gemini-3.5-flash-lite", "prompt_tokens": 22, "output_tokens": 14, "cost": 0.00002,
            }  # fmt: skip
            if number % 40 == 7:
                row |= {"status": "invalid", "text": None, "finish_reason": "MAX_TOKENS"}
            out.write(json.dumps(row) + "\n")
    manifest = {
        "output_path": str(place), "total": 120, "input_rows": 120, "counts": {"succeeded": 117, "invalid": 3},
        "succeeded": 117, "reused": 0, "duplicates": 0, "finish_reasons": {"STOP": 117, "MAX_TOKENS": 3},
        "model_versions": {"gemini-3.5-flash-lite": 117}, "errors": [], "attempts": 120, "rounds": 1,
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
    return {"run": run_path(ADDRESS), "answers": answers_path(ADDRESS), "spend": spend_path()}


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
