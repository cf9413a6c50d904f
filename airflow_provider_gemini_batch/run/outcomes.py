# SPDX-License-Identifier: Apache-2.0
"""Outcomes of all answers, a span of rows at a time."""

# Grouping all outcomes by row at once takes memory that grows with the rows: the engine cannot spill the state of every
# aggregate. A job's outcomes are of rows that lie close together, so that a span of a million rows needs few files.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.run.tables import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from duckdb import DuckDBPyConnection

SPAN = 1_000_000
"""Rows of a span."""

_COLUMNS = "n, s, passing, asked, cost"
_NOTHING = (
    "SELECT NULL::BIGINT AS n, 0::UTINYINT AS s, FALSE AS passing, FALSE AS asked, NULL::DOUBLE AS cost, "
    "0::BIGINT AS rank LIMIT 0"
)


@dataclass(frozen=True)
class OutcomeFile:
    """
    A local file of outcomes.

    :param first, last: Bounds of its rows' numbers.
    """

    path: str
    first: int
    last: int

    @classmethod
    def open(cls, engine: DuckDBPyConnection, path: str) -> OutcomeFile:
        """Look into a file."""
        found = engine.execute(f"SELECT min(n), max(n) FROM read_parquet({text(path)})").fetchone()
        if not found or found[0] is None:
            return cls(path, 0, -1)
        return cls(path, int(found[0]), int(found[1]))


def spans(rows: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last number of each span of so many rows."""
    for first in range(0, rows, SPAN):
        yield first, min(first + SPAN, rows) - 1


def outcomes_within(files: Sequence[OutcomeFile], first: int, last: int, rank: Callable[[int], int]) -> str:
    """
    Return a query for the outcomes of the rows *first* to *last*.

    :param rank: Value of the column ``rank`` by the place of a file.
    """
    chosen = [
        f"SELECT {_COLUMNS}, {rank(place)}::BIGINT AS rank FROM read_parquet({text(file.path)})"
        for place, file in enumerate(files)
        if file.first <= last and file.last >= first
    ]
    if not chosen:
        return _NOTHING
    return f"SELECT * FROM ({' UNION ALL '.join(chosen)}) WHERE n BETWEEN {first} AND {last}"
