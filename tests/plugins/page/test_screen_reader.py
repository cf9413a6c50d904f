# SPDX-License-Identifier: Apache-2.0
"""What Chromium tells a screen reader of each view: landmarks, headings, controls, tables, what is read by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.urls import jobs_path, sample_path
from tests.plugins.page.test_sample_view import MANIFEST, sampled
from tests.support.accessible import Tree
from tests.support.chromium import LOOKED_AT
from tests.support.looks import Look

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle
    from tests.support.page_server import PageServer

pytestmark = list(LOOKED_AT)

CONTROLS = ("link", "button", "textbox", "searchbox", "combobox", "checkbox", "spinbutton", "dialog", "image")
TITLES = {
    "run": "classify", "waiting": "classify", "answers": "120 answers", "row": "120 answers", "spend": "Spend",
    "sample": "Ask all 1,204,550 rows?", "jobs": "Jobs", "clean up": "Clean up: what would happen",
    "no answers": "No answers yet", "nowhere": "There is nothing here",
}  # fmt: skip
TABLES = {
    "run": [["Round", "Job", "Rows", "State", "Progress", "Age", "Cost", "Actions"], ["Time (UTC)", "Event"]],
    "answers": [["key", "outcome", "row", "answer, or why there is none", "asked", "cost"]],
    "spend": [[name, "Share", "Cost", "Rows", "Tokens in + out"] for name in ("day", "DAG")],
    "clean up": [["What", "Jobs", "Why"]],
    "jobs": [["Choose all jobs of this page", "State", "Job", "Owner", "Rows", "Age", "Cost", "Model", "Input",
              "Actions"]],
}  # fmt: skip


@pytest.fixture(scope="module")
def all_views(page: PageServer, views: dict[str, str]) -> dict[str, str]:
    """Return the paths of all views by name; jobs are listed by a test that has an emulator."""
    return {
        **views,
        "row": f"{views['answers']}&open=1",
        "sample": sample_path(sampled(page, MANIFEST)),
    }


@pytest.fixture
def listed(page: PageServer, gemini_batch_emulator: EmulatorHandle, browser: Any) -> dict[str, str]:
    """List jobs of a connection; return the paths of what shows them."""
    page.fill(connections=[{"conn_id": "gemini_heard", **gemini_batch_emulator.connection("gemini")}])
    gemini_batch_emulator.seed_jobs(display_name="by hand", state="SUCCEEDED", count=3)
    look = Look(browser, page)
    look.open(jobs_path("gemini_heard"))
    look.window.get_by_text("by hand").first.wait_for(timeout=20_000)
    look.close()
    return {"jobs": jobs_path("gemini_heard"), "clean up": "/jobs/clean-up?conn_id=gemini_heard"}


def tree_of(browser: Any, page: PageServer, path: str) -> Tree:
    look = Look(browser, page)
    look.open(path)
    found = Tree(look.window)
    look.close()
    return found


def check(tree: Tree, view: str) -> None:
    """Hold a view to what every view owes."""
    assert len(tree.named("main")) == 1
    assert tree.named("navigation")[0] == "Gemini batch"
    assert tree.headings()[0] == (1, TITLES[view])
    assert [title for level, title in tree.headings() if level == 1] == [TITLES[view]]
    assert "" not in tree.named(*CONTROLS)
    assert "" not in tree.named("navigation", "region", "search", "complementary")
    assert [headers for headers, _ in tree.tables()] == TABLES.get(view, [headers for headers, _ in tree.tables()])
    for headers, cells in tree.tables():
        assert "" not in headers
        assert cells
        assert set(cells) == {len(headers)}, "each cell stands below a header"


@pytest.mark.parametrize(
    "view", ["run", "waiting", "answers", "row", "spend", "sample", "no answers", "nowhere"]
)  # fmt: skip
def test_view_tells_a_screen_reader_what_it_is_and_what_each_thing_is_called(
    browser: Any,
    page: PageServer,
    all_views: dict[str, str],
    view: str,
) -> None:
    check(tree_of(browser, page, all_views[view]), view)


def test_jobs_and_cleaning_up_are_told_with_their_state(
    browser: Any,
    page: PageServer,
    listed: dict[str, str],
) -> None:
    for view, path in listed.items():
        tree = tree_of(browser, page, path)
        check(tree, view)
        if view == "jobs":
            assert any(text.startswith("status: 3 jobs at Google") for text in tree.live())


def test_what_is_missing_is_read_aloud_and_leads_back_to_the_run(
    browser: Any,
    page: PageServer,
    all_views: dict[str, str],
) -> None:
    tree = tree_of(browser, page, all_views["no answers"])
    said = "status: No answers yet They appear here when the task has landed them."
    assert tree.live() == [f"{said} So far 50 of 100 rows are answered: 48 succeeded, 2 blocked."]
    look = Look(browser, page)
    look.open(all_views["no answers"])
    look.window.get_by_role("link", name="Run", exact=True).click()
    look.window.get_by_role("heading", name="classify").wait_for()
    look.close()


def test_copying_is_said(browser: Any, page: PageServer, all_views: dict[str, str]) -> None:
    look = Look(browser, page)
    look.open(all_views["run"])
    look.window.get_by_role("button", name="Copy the name batches/abc").click()
    look.window.get_by_text("Copied.").wait_for(state="attached")
    assert "status: Copied." in Tree(look.window).live()
    look.close()
