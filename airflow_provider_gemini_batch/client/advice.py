# SPDX-License-Identifier: Apache-2.0
"""Warnings before a job is submitted: one for each kind of thing, with where it is and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_gemini_batch.rows.notes import RowReport


def row_advice(report: RowReport) -> Iterator[str]:
    """Yield what is worth a word about rows that are sent."""
    for (path, meant), line in report.unknown.items():
        place, _, name = path.rpartition(".")
        guess = f"; {meant} may be meant" if meant else ""
        yield f"{_where(line, place)}: {name!r} is not known here and is sent as it is{guess}."


def _where(line: int, place: str) -> str:
    """Name a place in the settings of all rows (line 0), or in a row."""
    if line:
        return f"line {line}, {place}" if place else f"line {line}"
    first, dot, rest = place.partition(".")
    return {"generationConfig": "generation_config"}.get(first, first) + dot + rest
