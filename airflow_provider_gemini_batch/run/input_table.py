# SPDX-License-Identifier: Apache-2.0
"""What does an input look like once it is read? Parquet parts with numbered rows, and columns whose names differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.tables import text

RESERVED = "__gemini_"

ROW = "__gemini_row"
"""Name of the column with a row's number, counted from 0."""


@dataclass
class Table:
    """
    An input at rest.

    :param parts: Local Parquet files in order; their rows are numbered in :data:`ROW`.
    :param columns: DuckDB types by name, without :data:`ROW`.
    :param json_columns: Columns that hold JSON text; a template sees their values.
    :param mixed: What is wrong with a column whose values have several types; an error once it is used.
    """

    parts: list[str] = field(default_factory=list)
    rows: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    json_columns: frozenset[str] = frozenset()
    mixed: dict[str, str] = field(default_factory=dict)

    @property
    def query(self) -> str:
        """The rows in order, as a query."""
        files = ", ".join(map(text, self.parts))
        return f"SELECT * FROM read_parquet([{files}])"


def check_reserved(name: str, where: str) -> None:
    """Refuse a name that a run gives to columns of its own on the way."""
    if name.lower().startswith(RESERVED):
        raise ConfigurationError(f"{where}: no column may be called {name!r}: {RESERVED}... is for a run itself.")


def check_names(columns: Sequence[str], where: str) -> None:
    """Refuse names that are empty, or equal ignoring case."""
    seen: dict[str, str] = {}
    for name in columns:
        if not name:
            raise ConfigurationError(f"{where}: a column has no name.")
        check_reserved(name, where)
        other = seen.setdefault(name.lower(), name)
        if list(columns).count(name) > 1:
            raise ConfigurationError(f"{where}: the column {name!r} is there twice; rename one.")
        if other != name:
            raise ConfigurationError(f"{where}: the columns {name!r} and {other!r} differ in case alone; rename one.")
