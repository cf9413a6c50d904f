# SPDX-License-Identifier: Apache-2.0
"""What a sample says of the whole, and what is asked of a person."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.sample_model import Likely, sample_of
from airflow_provider_gemini_batch.plugins.page.urls import TaskAddress, answers_path, run_path, sample_path
from tests.plugins.page.test_run_view import HOSTILE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.page_server import PageServer

_numbers = itertools.count()
PROJECTION = {
    "rows": 1_204_550,
    "cost": {"low": 134.0, "likely": 143.5, "high": 153.0},
    "failed": {"low": 3614, "likely": 12046, "high": 43364},
}
MANIFEST = {
    "total": 200, "input_rows": 1_204_550, "succeeded": 198, "counts": {"succeeded": 198, "blocked": 1, "invalid": 1},
    "finish_reasons": {"STOP": 198, "MAX_TOKENS": 1}, "cost": {"actual": 0.024, "rows_of_unknown_cost": 0},
    "tokens": {"prompt": 61_600, "output": 11_400, "thoughts": 0}, "projection": PROJECTION,
}  # fmt: skip


def test_projection_is_read_as_the_run_writes_it() -> None:
    view = sample_of(MANIFEST, {"max_cost": 140.0})
    assert view is not None
    assert (view.rows, view.whole, view.failed_rows, view.paid) == (200, 1_204_550, 2, 0.024)
    assert view.cost == Likely(134.0, 143.5, 153.0)
    assert view.tokens == (308.0, 57.0)
    assert view.cap_is_low
    assert view.failed is not None
    assert f"{view.share(view.failed.low):.1f} to {view.share(view.failed.high or 0):.1f}" == "0.3 to 3.6"


@pytest.mark.parametrize(
    ("cost", "single"),
    [
        ({"actual": 0.024, "rows_of_unknown_cost": 0, "single_calls": 0.036}, 143.5 * 1.5),  # batch is not half of it
        ({"actual": 0.024, "rows_of_unknown_cost": 0}, None),  # a manifest of a former version
        ({"actual": 0.024, "rows_of_unknown_cost": 3, "single_calls": 0.036}, None),
        ({"actual": 0.0, "rows_of_unknown_cost": 0, "single_calls": 0.0}, None),
    ],
)
def test_single_calls_are_priced_as_the_samples_answers_were(cost: dict[str, Any], single: float | None) -> None:
    view = sample_of({**MANIFEST, "cost": cost}, {})
    assert view is not None
    assert view.single == (None if single is None else pytest.approx(single))


@pytest.mark.parametrize(
    ("most", "allowed", "may_fail"),
    [(0.01, 12_045, True), (0.1, 120_455, False), (5, 5, True), (0, 0, True), (None, None, False), ("x", None, False)],
)
def test_sample_says_whether_more_rows_may_fail_than_are_allowed(
    most: Any, allowed: int | None, may_fail: bool
) -> None:
    view = sample_of(MANIFEST, {"max_failed_rows": most})
    assert view is not None
    assert (view.allowed, view.may_fail) == (allowed, may_fail)


@pytest.mark.parametrize("projection", [None, "x", {"rows": "x", "cost": 3, "failed": {"low": "1"}}, {}])
def test_odd_projection_claims_nothing(projection: Any) -> None:
    view = sample_of({"total": 5, "projection": projection, "cost": {"actual": 1.0, "rows_of_unknown_cost": 5}}, {})
    assert view is None or (view.cost, view.paid, view.failed, view.whole) == (None, None, None, 5)


def sampled(page: PageServer, manifest: dict[str, Any], run_id: str = "") -> TaskAddress:
    address = TaskAddress("backfill", run_id or f"sample_{next(_numbers)}", "sample")
    page.fill(tasks=[{**address.query(), "xcoms": {"gemini_batch_manifest": manifest}}])
    return address


@pytest.mark.newest_airflow
def test_sample_shows_the_projected_cost_and_who_has_to_decide(page: PageServer, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"key": "r1", "status": "succeeded", "error": null, "response": {}}\n')
    address = sampled(page, {**MANIFEST, "output_path": str(tmp_path / "a.jsonl")})
    page.fill(tasks=[{"dag_id": "backfill", "run_id": address.run_id, "task_id": "approve", "state": "deferred",
                      "asks": f"Ask all? {HOSTILE}"}])  # fmt: skip
    html = page.client("viewer").get(sample_path(address)).text
    for text in ("Ask all 1,204,550 rows?", "$134.00 to $153.00", "2 of 200", "0.3 % to 3.6 %", "MAX_TOKENS"):
        assert text in html
    assert f"/dags/backfill/runs/{address.run_id}/tasks/approve/required_actions" in html
    assert "<script>alert" not in html
    for path in (run_path(address), answers_path(address)):
        assert f'href="/gemini-batch{sample_path(address).replace("&", "&amp;")}"' in page.client().get(path).text


@pytest.mark.newest_airflow
@pytest.mark.parametrize("chosen", [None, "Approve"])
def test_who_may_not_read_required_actions_sees_none(page: PageServer, chosen: str | None) -> None:
    address = sampled(page, MANIFEST)
    asked = {"task_id": "approve", "asks": "A secret question", **({} if chosen is None else {"chosen": chosen})}
    page.fill(tasks=[{"dag_id": "backfill", "run_id": address.run_id, **asked}])
    assert "A secret question" in page.client("op").get(sample_path(address)).text
    html = page.client("no_actions").get(sample_path(address)).text
    assert "You may not see what tasks of this run ask a person" in html
    assert not [word for word in ("A secret question", "Approve", "by ada") if word in html]


@pytest.mark.newest_airflow
def test_sample_is_drawn_beside_its_cap(page: PageServer) -> None:
    drawn = 'aria-label="$134.00 to $153.00, cap $140.00"'
    assert drawn not in page.client().get(sample_path(sampled(page, MANIFEST))).text, "it has no cap"
    address = TaskAddress("backfill", f"sample_{next(_numbers)}", "sample")
    told = {"max_cost": 140.0, "max_failed_rows": 0.01}
    xcoms = {"gemini_batch_manifest": MANIFEST, "gemini_batch_progress": told}
    page.fill(tasks=[{**address.query(), "xcoms": xcoms}])
    html = page.client().get(sample_path(address)).text
    assert drawn in html
    for text in ("The whole may cost more than the cap.", "12,045 of 1,204,550", "The run may end as failed."):
        assert text in html


@pytest.mark.newest_airflow
@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"projection": {**PROJECTION, "cost": None}}, ["unknown", "No price is known for all of its answers"]),
        ({"tokens": {"prompt": 1_230_000, "output": 1, "thoughts": 0}}, ["6,150 and 0"]),
        (
            {"total": 0, "input_rows": 0, "projection": {"rows": 0, "cost": None, "failed": None}},
            ["The input had no row", "nothing to decide"],
        ),
    ],
)
def test_sample_says_why_it_says_little(page: PageServer, changes: dict[str, Any], texts: list[str]) -> None:
    html = page.client().get(sample_path(sampled(page, {**MANIFEST, **changes}))).text
    assert [text for text in texts if text not in html] == []
    assert "Ask all 0 rows?" not in html


@pytest.mark.newest_airflow
def test_answered_question_is_told_with_who_answered_it(page: PageServer) -> None:
    address = sampled(page, MANIFEST)
    page.fill(tasks=[{"dag_id": "backfill", "run_id": address.run_id, "task_id": "approve", "asks": "Ask all?",
                      "chosen": HOSTILE}])  # fmt: skip
    html = page.client("viewer").get(sample_path(address)).text
    assert "<b>&lt;script&gt;alert(1)&lt;/script&gt;</b>, by ada" in html
    assert "required_actions" not in html


@pytest.mark.newest_airflow
def test_run_without_a_sample_has_no_such_tab(page: PageServer) -> None:
    address = sampled(page, {name: value for name, value in MANIFEST.items() if name != "projection"})
    assert page.client().get(sample_path(address)).status_code == 404
    assert "/sample?" not in page.client().get(run_path(address)).text
