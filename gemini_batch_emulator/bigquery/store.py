# SPDX-License-Identifier: Apache-2.0
"""
Datasets and tables, kept in memory. A dataset exists once created; ``emulator`` is there in every project from the
start.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.errors import GoogleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gemini_batch_emulator.state import EmulatorState

_REASONS = {400: "invalid", 403: "accessDenied", 404: "notFound", 409: "duplicate"}


class BigQueryError(GoogleError):
    """An error reply as BigQuery writes it: both ``errors`` and ``status``."""

    def __init__(self, status: int, message: str) -> None:
        detail = {"message": message, "domain": "global", "reason": _REASONS.get(status, "invalid")}
        super().__init__(status, message, errors=[detail])

    def body(self) -> dict[str, Any]:
        """Return the reply's JSON."""
        body = super().body()
        body["error"]["status"] = self.status
        return body


@dataclass
class Table:
    """
    A table.

    :param schema: ``{"name", "type", "mode"}`` a column.
    :param rows: One dict a row; an absent column is NULL. A column of type JSON holds JSON text.
    """

    project: str
    dataset: str
    name: str
    created: float
    schema: list[dict[str, str]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    location: str = "us-central1"


class TableStore:
    """Datasets and tables."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state
        self.lock = threading.RLock()
        self.datasets: dict[tuple[str, str], str] = {}
        self.tables: dict[tuple[str, str, str], Table] = {}

    def has_dataset(self, project: str, dataset: str) -> bool:
        """Whether a dataset exists."""
        if dataset == "emulator" or self._state.config.bigquery_any_dataset:
            return True
        return (project, dataset) in self.datasets

    def create_dataset(self, project: str, dataset: str, location: str = "us-central1") -> None:
        """Make a dataset; one that exists stays as it is."""
        self.datasets.setdefault((project, dataset), location)

    def create_table(
        self,
        project: str,
        dataset: str,
        name: str,
        *,
        schema: list[dict[str, str]] | None = None,
        rows: Iterable[dict[str, Any]] = (),
    ) -> Table:
        """
        Make a table, and its dataset where there is none.

        :param schema: Columns; taken from the first rows' members (all STRING but ``request``, JSON) unless given.
        """
        self.create_dataset(project, dataset)
        kept = list(rows)
        if schema is None:
            names = dict.fromkeys(column for row in kept for column in row)
            schema = [{"name": column, "type": "JSON" if column == "request" else "STRING"} for column in names]
        table = Table(project, dataset, name, self._state.now(), [_column(entry) for entry in schema], kept)
        with self.lock:
            self.tables[(project, dataset, name)] = table
        return table

    def find(self, uri: str) -> Table | None:
        """Return the table of ``bq://project.dataset.table``, None if there is none."""
        parts = split_table(uri)
        return self.tables.get(parts) if parts else None


def table_store(state: EmulatorState) -> TableStore:
    """Return the store of *state*; a new, empty one after a reset."""
    return state.room("bigquery", lambda: TableStore(state))


def split_table(uri: str) -> tuple[str, str, str] | None:
    """``bq://project.dataset.table`` -> its parts, None for anything else; a project may hold ``domain.com:``."""
    match = re.fullmatch(r"bq://([^.]+(?:\.[^.:]+:[^.]+)?)\.([^.]+)\.([^.]+)", uri)
    return (match[1], match[2], match[3]) if match else None


def _column(entry: dict[str, Any]) -> dict[str, str]:
    kind = str(entry.get("type", "STRING")).upper()
    return {"name": str(entry["name"]), "type": kind, "mode": str(entry.get("mode", "NULLABLE")).upper()}


def cell(value: Any, column: dict[str, str], *, microseconds: bool) -> Any:
    """A value in the ``v`` of a row."""
    # A list is a list of cells again: https://cloud.google.com/bigquery/docs/reference/rest/v2/tabledata/list.
    if column["mode"] == "REPEATED":
        single = {**column, "mode": "NULLABLE"}
        return [{"v": cell(entry, single, microseconds=microseconds)} for entry in value or ()]
    if value is None:
        return None
    kind = column["type"]
    if kind == "TIMESTAMP":
        when = value
        if isinstance(value, str):
            when = datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
        return str(int(when * 1_000_000)) if microseconds else repr(float(when))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    # Every scalar is text in this form, numbers as well.
    return str(value)
