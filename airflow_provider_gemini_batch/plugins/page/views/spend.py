# SPDX-License-Identifier: Apache-2.0
"""What was spent: by day, and by DAG, task or model version; and as CSV."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.spend import unpaid
from airflow_provider_gemini_batch.plugins.page import charts, spend_query
from airflow_provider_gemini_batch.plugins.page.month import month_of, monthly_budget
from airflow_provider_gemini_batch.plugins.page.needs import signed_in
from airflow_provider_gemini_batch.plugins.page.rendering import plain
from airflow_provider_gemini_batch.plugins.page.visit import Route, Visit

if TYPE_CHECKING:
    from starlette.responses import Response

BY = {"dag": "DAG", "model": "model version", "task": "task"}
COLUMNS = ("day", "dag", "task", "model", "rows", "input_tokens", "output_tokens", "cost", "unknown")


def show(visit: Visit) -> Response:
    """Show sums over the DAGs that the viewer may read."""
    by = visit.text("by") if visit.text("by") in BY else "dag"
    now = datetime.now(UTC)
    days, month_parts, hidden = _parts(visit, now.day)
    first = (now - timedelta(days=days - 1)).date().isoformat()
    parts = [part for part in month_parts if part["day"] >= first]
    budget, budget_fault = monthly_budget()
    month = month_of(month_parts, now, budget)
    by_day = sorted(spend_query.summed(parts, "day"), key=lambda row: row["name"], reverse=True)
    by_name = sorted(spend_query.summed(parts, by), key=lambda row: -row["cost"])
    return visit.page(
        "spend.html",
        by=by,
        choices=BY,
        days=days,
        hidden=hidden,
        by_day=by_day,
        month=month,
        unpaid=unpaid(parts),
        budget_fault=budget_fault,
        money=charts.by_day(parts, by, "cost", now.date(), days, month.a_day),
        tokens=charts.tokens_by_day(parts, now.date(), days),
        by_name=by_name[:200],
        more=max(0, len(by_name) - 200),
        highest=max((row["cost"] for row in by_day), default=0.0),
        total={name: sum(row[name] for row in by_day) for name in COLUMNS[4:]},
    )


def export(visit: Visit) -> Response:
    """Give the parts as CSV."""
    from starlette.responses import Response as Answer

    days, parts, _ = _parts(visit)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for part in sorted(parts, key=lambda part: (part["day"], part["dag"], part["task"])):
        writer.writerow([_cell(part[name]) for name in COLUMNS])
    headers = {"Content-Disposition": f'attachment; filename="gemini-batch-spend-{days}-days.csv"'}
    return Answer(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _parts(visit: Visit, at_least: int = 0) -> tuple[int, list[dict[str, Any]], int]:
    """Return the days that are asked for, and the parts of these days, or of *at_least* so many."""
    days = visit.number("days", 30, least=1, most=400)
    with visit.session() as session:
        found = spend_query.entries(session, max(days, at_least))
        parts, hidden = spend_query.parts(found, visit.viewer.readable)
    return days, parts, hidden


def _cell(value: Any) -> Any:
    """Keep a spreadsheet from taking a name for a formula."""
    if isinstance(value, (int, float)):
        return value
    text = plain(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


ROUTES = [Route("/spend", show, signed_in), Route("/spend.csv", export, signed_in)]
