# SPDX-License-Identifier: Apache-2.0
"""Spend as bars."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.plugins.page.charts import by_day
from airflow_provider_gemini_batch.plugins.page.urls import spend_path

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
    assert "style=" not in html, "the content policy allows no style attribute"
