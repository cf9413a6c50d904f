# SPDX-License-Identifier: Apache-2.0
"""Which rows a round asks, and how they are cut into shards."""

# Round 1 asks every row that has no answer yet: not those that were carried over, and with `deduplicate` only the first
# of several with equal requests. Each later round asks again what has no answer and may get one.
#
# Example, `max_row_attempts=3`. Row 1 succeeded in round 1. Row 2 failed with code 8 (quota), row 3 was blocked. Round
# 2 asks row 2 alone; it breaks the schema this time, which another answer may not. Round 3 asks it for the last time.
#
# A round that is published never changes, and names the notes by which it was cut. Who reads it knows these, also where
# a slow disk does not list them yet; otherwise a row that is answered could pass for one that is open.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.outcomes import OutcomeFile, outcomes_within, spans
from airflow_provider_gemini_batch.run.plan import Limits, cut, round_of
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, rows_of, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.rows.settings import RowSettings
    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.snapshot import Snapshot
    from airflow_provider_gemini_batch.run.spec import RunSpec

MAX_ROWS = 200_000
FLEX_ROWS = 500
"""Rows of a flex shard, before which a cap is looked at."""

KEY_BYTES = 80
"""What key and punctuation add to a request on the wire, at most."""


def job_limits(spec: RunSpec, settings: RowSettings) -> Limits:
    """Return what one job may hold: the backend's limits, with a tenth to spare, and the user's."""
    rows = min(settings.max_rows or MAX_ROWS, MAX_ROWS, spec.rows_per_job or MAX_ROWS)
    return Limits(rows, settings.rules.max_file_bytes * 9 // 10)


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

    def cut(
        self,
        number: int,
        tier: str,
        limits: Limits,
        small: Callable[[int, int, Limits], Limits | None] = lambda rows, size, limits: None,
    ) -> dict[str, Any]:
        """
        Cut a round and publish it, unless another worker has.

        :param small: Given the round's rows, their bytes and *limits*, returns limits of the first shards where money
            allows no larger ones.
        :return: The round that counts.
        """
        if tier == "flex":
            limits = Limits(FLEX_ROWS, limits.input_bytes)
        # Written out first, as it is read twice: summed up for the cap, then cut.
        asked = self._rows_again() if number > 1 else self._first_rows()
        query, rows_file = f"SELECT n, size FROM {self._narrow}", None
        if asked is not None:
            path = os.path.join(self._folder, "rows.parquet")
            copy_to_parquet(self._engine, asked, path, bytes_a_row=16)
            query = f"SELECT n, size FROM read_parquet({text(path)})"
            rows_file = self._checkpoint.put("rows", ".parquet", path)
        found = self._engine.execute(f"SELECT count(*), coalesce(sum(size), 0) FROM ({query})").fetchone()
        assert found is not None
        first = small(int(found[0]), int(found[1]) + KEY_BYTES * int(found[0]), limits)
        sizes = ((n, size + KEY_BYTES) for n, size in rows_of(self._engine, query))
        shards = [
            {
                "id": f"r{number}.s{place}",
                "first": one.first,
                "last": one.last,
                "rows": one.rows,
                "bytes": one.input_bytes,
            }
            for place, one in enumerate(cut(sizes, limits, first))
        ]
        # Taken after the rows were chosen, so that it names at least what they were chosen by.
        notes = self._checkpoint.noted()
        header = {"number": number, "tier": tier, "rows": rows_file, "shards": shards, "notes": notes}
        return self._checkpoint.create(f"round-{number}.json", header)

    @property
    def _narrow(self) -> str:
        return f"read_parquet({text(self._fetched(self._snapshot.narrow))})"

    def _fetched(self, name: str) -> str:
        return self._checkpoint.folder.fetch(name, self._folder)

    def _first_rows(self) -> str | None:
        """Return an ordered query for the rows that have no answer yet, None if these are all rows."""
        query, is_whole = f"SELECT n, size, d FROM {self._narrow}", True
        if carried := [text(self._fetched(note["outcomes"])) for note in self._snapshot.carried]:
            query += f" WHERE n NOT IN (SELECT n FROM read_parquet([{', '.join(carried)}]))"
            is_whole = False
        if self._spec.deduplicate:
            query = f"SELECT min(n) AS n, any_value(size) AS size FROM ({query}) GROUP BY d"
            is_whole = False
        return None if is_whole else f"SELECT n, size FROM ({query}) ORDER BY n"

    def _rows_again(self) -> str:
        """Return an ordered query for rows that were asked, failed each time, and failed last for a passing reason."""
        notes = [note for found in self._checkpoint.notes()["collected"].values() for note in found]
        files = [OutcomeFile.open(self._engine, self._fetched(note["outcomes"])) for note in notes]
        rounds = [round_of(str(note.get("shard", "r0."))) for note in notes]
        parts = []
        # A span at a time: grouped at once, ten million rows of three rounds would have to fit into memory.
        for first, last in spans(self._snapshot.total_rows):
            outcomes = outcomes_within(files, first, last, rounds.__getitem__)
            # A row is asked again if it never succeeded, if its last answer failed for a passing reason, and if it was
            # asked at all: one that cannot be sent, or that a cap has closed, stays as it is.
            again = (
                f"SELECT n FROM ({outcomes}) GROUP BY n "
                "HAVING bool_and(s <> 0) AND arg_max(passing, rank) AND count(*) FILTER (asked) > 0"
            )
            path = os.path.join(self._folder, f"again-{first:012d}.parquet")
            query = (
                f"SELECT n, size FROM {self._narrow} WHERE n BETWEEN {first} AND {last} AND n IN ({again}) ORDER BY n"
            )
            copy_to_parquet(self._engine, query, path, bytes_a_row=16)
            parts.append(text(path))
        return f"SELECT n, size FROM read_parquet([{', '.join(parts)}])"
