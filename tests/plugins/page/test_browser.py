# SPDX-License-Identifier: Apache-2.0
"""
The page as a person sees it: in a browser, light and dark, narrow and wide.

``PICTURES=docs/pictures`` keeps pictures of the views.
"""

from __future__ import annotations

import json
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
from tests.support.accessible import flaws_of, unseen_focus
from tests.support.chromium import LOOKED_AT
from tests.support.looks import Look

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle
    from tests.support.page_server import PageServer

pytestmark = list(LOOKED_AT)


PICTURES = {"under way": ("run", 790), "row": ("answers", 880), "spend": ("spend", 560), "sample": ("sample", 530)}
"""Name and height of the picture that is kept of a view."""


@pytest.mark.parametrize("view", ["run", "under way", "answers", "row", "sample", "spend"])
@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 640)])
def test_a_view_is_whole_in_both_themes_and_on_a_narrow_screen(
    browser: Any, page: PageServer, seen: dict[str, str], view: str, dark: bool, width: int
) -> None:
    look = Look(browser, page, dark=dark, width=width)
    look.open(seen[view])
    assert look.faults == []
    across = look.window.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert across[0] <= across[1], "the document is no wider than the window"
    if view in PICTURES and not dark and width > 1000:
        name, height = PICTURES[view]
        look.picture(name, height=height)
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


LONG = "<b>x</b>\u202e'\"&;" + "w" * 150


@pytest.fixture(scope="module")
def long_names(page: PageServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Fill an Airflow with names and answers that are long, full of markup and without a place to break a line."""
    place = tmp_path_factory.mktemp("long") / "answers.jsonl"
    row = {"key": LONG, LONG: LONG, "status": "failed", "text": json.dumps({LONG: [LONG]}), "finish_reason": LONG,
           "error": {"code": 13, "message": LONG}, "response": {LONG: LONG}, "model_version": LONG}  # fmt: skip
    place.write_text(json.dumps(row) + "\n")
    manifest = {
        "output_path": str(place), "total": 1, "succeeded": 0, "counts": {"failed": 1}, "model_versions": {LONG: 1},
        "errors": [{"status": "failed", "code": 13, "message": LONG, "count": 1}], "jobs": [f"batches/{LONG}"],
        "job_count": 1, "answer_columns": [LONG], "projection": {"rows": 9, "cost": None, "failed": None},
        "costs": {LONG: {"rows": 1, "input_tokens": 9, "output_tokens": 9, "cost": 2.5, "unknown": 0}},
        "cost": {"actual": 2.5, "rows_of_unknown_cost": 0},
    }  # fmt: skip
    address = TaskAddress(LONG, "manual__long", LONG)
    task = {"dag_id": LONG, "run_id": "manual__long", "task_id": LONG, "state": "failed"}
    page.fill(tasks=[{**task, "xcoms": {"gemini_batch_manifest": manifest}, "earlier": ["failed"], "try_number": 2}])
    page.fill(tasks=[{"dag_id": LONG, "run_id": "manual__long", "task_id": "ask", "asks": LONG}])
    return {
        "run": run_path(address), "row": answers_path(address, open=1), "sample": sample_path(address),
        "spend": spend_path(by="task"), "models": spend_path(by="model"),
    }  # fmt: skip


@pytest.mark.parametrize("view", ["run", "row", "sample", "spend", "models"])
@pytest.mark.parametrize("width", [1280, 640])
def test_names_that_are_long_and_full_of_markup_neither_widen_a_view_nor_act(
    browser: Any, page: PageServer, long_names: dict[str, str], view: str, width: int
) -> None:
    look = Look(browser, page, width=width)
    look.open(long_names[view])
    assert look.faults == []
    across = look.window.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert across[0] <= across[1], "the document is no wider than the window"
    text = look.window.inner_text("body")
    assert "<b>x</b>" in text
    assert "\u202e" not in text
    look.close()
