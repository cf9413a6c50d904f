# SPDX-License-Identifier: Apache-2.0
"""
The page as a person sees it: in a browser, light and dark, narrow and wide.

``PICTURES=docs/pictures`` keeps pictures of the views.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.urls import (
    TaskAddress,
    answers_path,
    jobs_path,
    run_path,
    spend_path,
)
from tests.plugins.page.test_run_view import waiting_run
from tests.support.accessible import flaws_of, unseen_focus
from tests.support.chromium import CHROMIUM, NO_CHROMIUM, running_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle
    from tests.support.page_server import PageServer

pytestmark = [
    pytest.mark.newest_airflow,
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]

ADDRESS = TaskAddress("nightly_reviews", "scheduled__2026-11-26", "classify")
EXAMPLES = Path(__file__).parents[3] / "example_dags" / "data"
MARKUP = "<b>bold</b><script>document.title='taken over'</script>"


@pytest.fixture(scope="module")
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
    return {"run": run_path(ADDRESS), "answers": answers_path(ADDRESS), "spend": spend_path()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_chromium() as started:
        yield started


class Look:
    """One window of a signed-in person, and what its console said."""

    def __init__(self, browser: Any, page: PageServer, *, dark: bool = False, width: int = 1280) -> None:
        self.faults: list[str] = []
        self._base = f"{page.url}/gemini-batch"
        scheme = "dark" if dark else "light"
        self._context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        self._context.add_cookies([{"name": "_token", "value": page.token("admin"), "url": page.url}])
        self.window = self._context.new_page()
        self.window.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        self.window.on("pageerror", lambda fault: self.faults.append(str(fault)))

    def open(self, path: str) -> None:
        """Go to a view and wait until it stands still."""
        self.window.goto(f"{self._base}{path}", wait_until="networkidle")

    def picture(self, name: str) -> None:
        """Keep a picture where pictures are asked for."""
        if place := os.environ.get("PICTURES"):
            Path(place).mkdir(parents=True, exist_ok=True)
            clip = {"x": 0, "y": 0, "width": 1280, "height": 560}
            self.window.screenshot(path=str(Path(place) / f"{name}.png"), clip=clip)

    def close(self) -> None:
        """Close the window."""
        self._context.close()


@pytest.mark.parametrize("view", ["run", "answers", "spend"])
@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 640)])
def test_a_view_is_whole_in_both_themes_and_on_a_narrow_screen(
    browser: Any, page: PageServer, seen: dict[str, str], view: str, dark: bool, width: int
) -> None:
    look = Look(browser, page, dark=dark, width=width)
    look.open(seen[view])
    assert look.faults == []
    across = look.window.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert across[0] <= across[1], "the document is no wider than the window"
    if not dark and width > 1000:
        look.picture(view)
    look.window.keyboard.press("Tab")
    assert look.window.evaluate("document.activeElement.tagName") in ("A", "BUTTON", "INPUT", "SELECT", "SUMMARY")
    look.close()


def test_answers_are_read_and_filtered_with_a_click(browser: Any, page: PageServer, seen: dict[str, str]) -> None:
    look = Look(browser, page)
    look.open(seen["answers"])
    body = look.window.inner_text("body")
    assert "r007" in body
    assert "<b>bold</b>" in body, "markup in a row is text"
    assert look.window.title() != "taken over"
    look.window.locator("main a, main button", has_text="invalid").first.click()
    look.window.wait_for_load_state("networkidle")
    filtered = look.window.inner_text("main")
    assert "r047" in filtered
    assert "r001" not in filtered
    assert look.faults == []
    look.close()


def test_jobs_of_a_connection_are_listed_on_the_screen(
    browser: Any, page: PageServer, gemini_batch_emulator: EmulatorHandle
) -> None:
    page.fill(connections=[{"conn_id": "gemini_seen", **gemini_batch_emulator.connection("gemini")}])
    gemini_batch_emulator.seed_jobs(display_name="by hand", state="SUCCEEDED", count=60)
    look = Look(browser, page)
    look.open(jobs_path("gemini_seen"))
    look.window.get_by_text("by hand").first.wait_for(timeout=20_000)
    assert look.faults == []
    look.picture("jobs")
    look.close()


@pytest.fixture(scope="module")
def views(page: PageServer, seen: dict[str, str]) -> dict[str, str]:
    """Return the paths of further views: a run that waits, what is not there, what is refused."""
    waiting = run_path(waiting_run(page))
    return {
        **seen,
        "waiting": waiting,
        "every answer": f"{seen['answers']}&status=all",
        "no answers": waiting.replace("/run?", "/answers?"),
        "nowhere": "/nowhere",
        "jobs": jobs_path("a_conn"),
    }


@pytest.mark.parametrize(
    "view", ["run", "answers", "every answer", "spend", "waiting", "no answers", "nowhere", "jobs"]
)  # fmt: skip
def test_a_screen_reader_and_a_keyboard_find_their_way(
    browser: Any, page: PageServer, views: dict[str, str], view: str
) -> None:
    look = Look(browser, page)
    look.open(views[view])
    assert flaws_of(look.window) == []
    assert unseen_focus(look.window, 30) == []
    look.close()


def test_dialog_has_the_focus_on_what_does_no_harm_and_gives_it_back(
    browser: Any, page: PageServer, views: dict[str, str]
) -> None:
    look = Look(browser, page)
    look.open(views["waiting"])
    look.window.get_by_role("button", name="Cancel run").press("Enter")
    assert look.window.evaluate("document.activeElement.innerText") == "Keep running"
    assert flaws_of(look.window) == []
    look.window.keyboard.press("Escape")
    assert look.window.evaluate("document.activeElement.innerText") == "Cancel run…"
    look.close()


def test_page_outside_the_frame_has_a_way_back_to_airflow(browser: Any, page: PageServer, seen: dict[str, str]) -> None:
    look = Look(browser, page)
    look.open(seen["spend"])
    assert look.window.get_by_role("link", name="Airflow", exact=True).get_attribute("href") == "/"
    look.window.goto(f"{page.url}/plugin/gemini-batch")
    frame = look.window.frame_locator("iframe")
    frame.get_by_role("heading", name="Jobs", exact=True).wait_for()
    assert frame.get_by_role("link", name="Airflow", exact=True).count() == 0
    look.close()
