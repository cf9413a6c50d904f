# SPDX-License-Identifier: Apache-2.0
"""Spend as bars."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.cost.spend import unpaid
from airflow_provider_gemini_batch.plugins.page.charts import by_day, tokens_by_day
from airflow_provider_gemini_batch.plugins.page.month import month_of, monthly_budget
from airflow_provider_gemini_batch.plugins.page.urls import spend_path
from airflow_provider_gemini_batch.plugins.page.views.spend import COLUMNS

if TYPE_CHECKING:
    from tests.support.page_server import PageServer

TODAY = date(2026, 11, 27)


def part(day: str, dag: str, cost: float) -> dict[str, Any]:
    return {"day": day, "dag": dag, "cost": cost}


def test_bars_stand_on_each_other_and_on_their_day() -> None:
    parts = [part("2026-11-25", "a", 3.0), part("2026-11-27", "a", 1.0), part("2026-11-27", "b", 0.5)]
    chart = by_day(parts, "dag", "cost", TODAY, 30)
    assert chart is not None
    assert (len(chart.bars), chart.bars[0].day) == (7, "2026-11-21")
    assert [(bar.day, bar.total) for bar in chart.bars[4:]] == [
        ("2026-11-25", 3.0),
        ("2026-11-26", 0),
        ("2026-11-27", 1.5),
    ]
    assert [(piece.kind, piece.name, piece.y, piece.height) for piece in chart.bars[6].pieces] == [
        ("s1", "a", 75.0, 25.0),
        ("s2", "b", 62.5, 12.5),
    ]
    assert chart.lines[-1] == (4.0, 0.0)
    assert chart.legend == [("s1", "a", 4.0), ("s2", "b", 0.5)]


def test_small_series_share_a_colour_and_old_days_are_left_out() -> None:
    parts = [part("2026-11-27", f"dag{number}", 10.0 - number) for number in range(9)] + [part("2020-01-01", "dag0", 1)]
    chart = by_day(parts, "dag", "cost", TODAY, 7)
    assert chart is not None
    assert len(chart.bars) == 7
    assert [kind for kind, _, _ in chart.legend] == ["s1", "s2", "s3", "s4", "s5"]
    assert chart.legend[-1][1:] == ("5 others", sum(10.0 - number for number in range(4, 9)))
    assert sum(piece.height for piece in chart.bars[-1].pieces) <= 100


@pytest.mark.parametrize("parts", [[], [part("2026-11-27", "a", 0.0)]])
def test_nothing_to_draw_is_no_chart(parts: list[dict[str, Any]]) -> None:
    assert by_day(parts, "dag", "cost", TODAY, 30) is None


def test_day_that_is_no_date_is_passed_over() -> None:
    assert by_day([part("", "a", 1.0)], "dag", "cost", TODAY, 30) is not None


def test_limit_is_a_line_within_the_scale_unless_bars_would_be_flat() -> None:
    parts = [part("2026-11-27", "a", 3.0)]
    chart = by_day(parts, "dag", "cost", TODAY, 30, 6.0)
    assert chart is not None
    assert (chart.limit, chart.lines[-1][0], chart.bars[-1].pieces[0].height) == (0.0, 6.0, 50.0)
    assert (by_day(parts, "dag", "cost", TODAY, 30, 1.0) or chart).limit == 75.0
    assert (by_day(parts, "dag", "cost", TODAY, 30, 40.0) or chart).limit is None


def test_tokens_of_answers_and_prompts_stand_on_each_other() -> None:
    chart = tokens_by_day([{"day": "2026-11-27", "input_tokens": 300, "output_tokens": 100}], TODAY, 7)
    assert chart is not None
    assert sorted((name, value) for _, name, value in chart.legend) == [("in", 300), ("out", 100)]
    assert tokens_by_day([{"day": "2026-11-27", "input_tokens": 0, "output_tokens": 0}], TODAY, 7) is None


def test_what_was_not_paid_is_told_by_reason_where_manifests_tell_it() -> None:
    old = {"cost": 7.0}
    new = {"cost": 2.0, "single_calls": 4.5, "saved": 1.0}
    assert unpaid([old]) == []
    assert unpaid([old, new, {"cost": 1.0, "single_calls": 0, "saved": 0}]) == [
        ("Batch instead of single calls", 2.5),
        ("Earlier answers taken, same request asked once", 1.0),
    ]


def test_rows_of_unknown_cost_save_nothing_that_is_told() -> None:
    # Ten rows asked twice at 0.1 dollars a time, 0.2 in a single call; of one, the second answer has no price. Its cost
    # is not told, and its first answer counts among the single calls: 9 rows have saved 1.8.
    part = {"rows": 10, "unknown": 1, "cost": 1.8, "single_calls": 3.8, "saved": 0.0}
    ((_, dollars),) = unpaid([part])
    assert 1.5 < dollars <= 1.8


def test_month_is_summed_up_and_carried_on_at_its_pace() -> None:
    parts = [part("2026-11-30", "a", 5.0), part("2026-11-02", "a", 10.0), part("2026-10-31", "a", 99.0)]
    month = month_of(parts, datetime(2026, 11, 11, tzinfo=UTC), 60.0)
    assert (month.name, month.spent, month.pace, month.a_day, month.left) == ("November", 15.0, 45.0, 2.0, 15.0)
    first = month_of(parts, datetime(2026, 11, 1, 9, tzinfo=UTC), 60.0)
    assert (first.pace, first.left) == (None, 45.0)
    nameless = month_of([{**part("2026-11-02", "a", 0.0), "unknown": 3}], datetime(2026, 11, 11, tzinfo=UTC), 60.0)
    assert (first.is_known, nameless.is_known) == (True, False)


@pytest.mark.parametrize(
    ("text", "budget"), [("1200", 1200.0), ("", None), ("much", None), ("-3", None), ("inf", None)]
)
def test_budget_is_a_number_or_said_to_be_none(
    monkeypatch: pytest.MonkeyPatch, text: str, budget: float | None
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__MONTHLY_BUDGET", text)
    found, fault = monthly_budget()
    assert found == budget
    assert bool(fault) == (text not in ("", "1200"))


@pytest.mark.newest_airflow
def test_spend_is_drawn_without_markup_from_names(page: PageServer) -> None:
    cost = {"actual": 2.5, "rows_of_unknown_cost": 0}
    manifest = {"output_path": "/x.parquet", "total": 1, "counts": {"succeeded": 1}, "cost": cost,
                "model_versions": {"flash-001": 1},
                "tokens": {"prompt": 1, "output": 1, "thoughts": 0, "cached": 0}}  # fmt: skip
    dag = "chart<script>"
    page.fill(tasks=[{"dag_id": dag, "task_id": "t", "xcoms": {"gemini_batch_manifest": manifest}}])
    html = page.client("viewer").get(spend_path()).text
    assert '<rect class="s' in html
    assert "chart&lt;script&gt;" in html
    assert "Tokens a day" in html
    assert " so far</dt><dd>$" in html
    assert "budget $1,200.00" in html
    assert "style=" not in html, "the content policy allows no style attribute"


@pytest.mark.newest_airflow
def test_month_without_spend_shows_its_budget_and_no_chart(page: PageServer) -> None:
    """To a person who may read no DAG, no month has spent anything."""
    reply = page.client("stranger").get(spend_path())
    html = " ".join(reply.text.split())
    assert reply.status_code == 200
    month = datetime.now(UTC).strftime("%B")
    assert f"<dt>{month} so far</dt><dd>$0.00<small>budget $1,200.00</small>" in html
    assert "No spend in these 30 days" in html
    assert "<rect" not in html
    assert page.client("stranger").get("/spend.csv").text.splitlines() == [",".join(COLUMNS)]
    empty = month_of([], datetime(2026, 11, 11, tzinfo=UTC), 60.0)
    assert (empty.spent, empty.pace, empty.left) == (0, 0, 60.0)
