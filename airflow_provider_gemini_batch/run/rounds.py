# SPDX-License-Identifier: Apache-2.0
"""Which rows a round asks, and how they are cut into shards."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.rows.settings import MAX_FILE_BYTES, RowSettings
from airflow_provider_gemini_batch.run.plan import Limits, cut
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, rows_of, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.snapshot import Snapshot
    from airflow_provider_gemini_batch.run.spec import RunSpec

MAX_ROWS = 200_000
FLEX_ROWS = 500
"""Rows of a flex shard: what a crash in the middle may cost."""

_KEY_BYTES = 80
"""What key and punctuation add to a request on the wire, at most."""


def job_limits(spec: RunSpec, settings: RowSettings) -> Limits:
    """Return what one job may hold: the backend's limits, with a tenth to spare, and the user's."""
    rows = min(settings.max_rows or MAX_ROWS, MAX_ROWS, spec.rows_per_job or MAX_ROWS)
    return Limits(rows, MAX_FILE_BYTES[settings.backend] * 9 // 10)


class RoundCutter:
    """Cuts rounds of one generation."""

    def __init__(
        self, spec: RunSpec, checkpoint: Checkpoint, snapshot: Snapshot, engine: DuckDBPyConnection, folder: str
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._snapshot = snapshot
        self._engine = engine
        self._folder = folder

    def cut(self, number: int, tier: str, limits: Limits) -> dict[str, Any]:
        """
        Cut a round and publish it, unless another worker has.

        :return: The round that counts.
        """
        query, is_whole = self._asked(number)
        if tier == "flex":
            limits = Limits(FLEX_ROWS, limits.input_bytes)
        rows_file = None
        if not is_whole:
            path = os.path.join(self._folder, "rows.parquet")
            copy_to_parquet(self._engine, f"SELECT n, size FROM ({query}) ORDER BY n", path, bytes_a_row=16)
            query = f"SELECT n, size FROM read_parquet({text(path)})"
            rows_file = self._checkpoint.put("rows", ".parquet", path)
        sizes = ((n, size + _KEY_BYTES) for n, size in rows_of(self._engine, f"SELECT n, size FROM ({query})"))
        shards = [
            {
                "id": f"r{number}.s{place}",
                "first": one.first,
                "last": one.last,
                "rows": one.rows,
                "bytes": one.input_bytes,
            }
            for place, one in enumerate(cut(sizes, limits))
        ]
        header = {"number": number, "tier": tier, "rows": rows_file, "shards": shards}
        return self._checkpoint.create(f"round-{number}.json", header)

    def _asked(self, number: int) -> tuple[str, bool]:
        """Return a query for the rows to ask, and whether these are all rows of the snapshot."""
        narrow = f"read_parquet({text(self._checkpoint.folder.fetch(self._snapshot.narrow, self._folder))})"
        if number > 1:
            return self._failed(narrow), False
        query = f"SELECT n, size, d FROM {narrow}"
        is_whole = True
        if self._snapshot.carried:
            known = self._outcomes(self._snapshot.carried)
            query += f" WHERE n NOT IN (SELECT n FROM ({known}))"
            is_whole = False
        if self._spec.deduplicate:
            query = f"SELECT min(n) AS n, any_value(size) AS size FROM ({query}) GROUP BY d"
            is_whole = False
        return query, is_whole

    def _failed(self, narrow: str) -> str:
        """Return a query for rows that were asked, failed each time, and failed last for a passing reason."""
        notes = [note for found in self._checkpoint.notes()["collected"].values() for note in found]
        outcomes = self._outcomes(notes)
        again = (
            f"SELECT n FROM ({outcomes}) GROUP BY n "
            "HAVING bool_and(s <> 0) AND arg_max(passing, number) AND count(*) FILTER (asked) > 0"
        )
        return f"SELECT n, size FROM {narrow} WHERE n IN ({again})"

    def _outcomes(self, notes: Any) -> str:
        found = []
        for note in notes:
            path = self._checkpoint.folder.fetch(note["outcomes"], self._folder)
            number = _round_of(note)
            found.append(f"SELECT n, s, passing, asked, {number} AS number FROM read_parquet({text(path)})")
        return " UNION ALL ".join(found)


def _round_of(note: Mapping[str, Any]) -> int:
    shard = str(note.get("shard", "r0."))
    return int(shard[1:].split(".", 1)[0])
