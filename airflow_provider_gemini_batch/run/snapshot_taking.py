# SPDX-License-Identifier: Apache-2.0
"""How does an input become a snapshot? Read once, its keys checked, its requests made, and published as one note."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError, EmptyInputError
from airflow_provider_gemini_batch.run.answers import MAX_MESSAGE, NO_SOURCE, AnswerWriter, Record
from airflow_provider_gemini_batch.run.digest import RequestDigester
from airflow_provider_gemini_batch.run.input_columns import InputColumns
from airflow_provider_gemini_batch.run.input_table import ROW
from airflow_provider_gemini_batch.run.plan import STATUSES
from airflow_provider_gemini_batch.run.request_chunks import RequestChunks
from airflow_provider_gemini_batch.run.snapshot import NUMBERED_KEY, Snapshot
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, names, quoted, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.input_table import Table
    from airflow_provider_gemini_batch.run.sources import Source
    from airflow_provider_gemini_batch.run.spec import RunSpec

Carry = Callable[["DuckDBPyConnection", str], Sequence[Mapping[str, Any]]]
"""Given the engine and the narrow file's path, brings in answers that are there already; returns their files."""


Check = Callable[[Mapping[str, str], Mapping[str, str], "str | None"], None]
"""
Given types of the key columns and of the kept ones, raises ConfigurationError if the outputs cannot take them; the last
argument is a file with these columns once the input is known to be good, so that an output may be made.
"""


def take(
    source: Source,
    spec: RunSpec,
    checkpoint: Checkpoint,
    engine: DuckDBPyConnection,
    folder: str,
    variables: Mapping[str, Any],
    carry: Carry = lambda engine, narrow: (),
    warn: Callable[[str], None] = lambda text: None,
    host: str = "",
    check: Check = lambda keys, kept, data: None,
    count: Callable[[Sequence[bytes]], Sequence[tuple[int, int]]] = lambda requests: (),
) -> Snapshot:
    """
    Read the input and publish it as the generation's snapshot; what another worker has published first wins.

    :param folder: Local, for what is being written.
    :param variables: For the template, see :data:`~.prompts.VARIABLES`.
    :param host: Who writes it.
    :param check: Of the outputs.
    :param count: Given a few of the requests, returns bytes and tokens of each.
    :raises EmptyInputError: If there are no rows.
    :raises ConfigurationError: Naming column, row and key.
    """
    # Read once. All that follows, also in later attempts, reads what is published here: a source may change at any
    # time, and a row's number has to mean the same row in each round.
    table = source.read(engine, folder)
    if not table.rows:
        raise EmptyInputError("The input has no rows.")
    columns = InputColumns.choose(spec, table)
    keys = columns.keys or {NUMBERED_KEY: "VARCHAR"}
    check(keys, columns.kept, None)  # told before millions of rows are rendered
    _check_keys(engine, table, columns.keys)
    for oddity in _oddities(spec, table, columns):
        warn(oddity)
    data = os.path.join(folder, "data.parquet")
    data_bytes = _write_data(engine, table, columns, data)
    writer = RequestChunks(checkpoint, folder, RequestDigester(spec.kind, spec.model))
    unsent = Unsent(folder)
    with contextlib.closing(writer), contextlib.closing(unsent):
        _sort_out(columns.bodies(engine, table, spec, variables), writer, unsent)
        narrow, rows, input_bytes = writer.finish(engine, spec.sample)
        # After the narrow file, which says what a sample left out.
        left_out = unsent.finish(checkpoint, engine, narrow)
    carried = [*carry(engine, narrow), *left_out]
    if unsent.rows:
        warn(f"{unsent.rows} of {table.rows} rows cannot be sent, and land as failed. The first: {unsent.first}")
    # Before the snapshot is published: an attempt that finds one goes on without looking at the outputs again.
    check(keys, columns.kept, data)
    snapshot = Snapshot(
        rows=rows,
        total_rows=table.rows,
        data=checkpoint.put("data", ".parquet", data),
        narrow=checkpoint.put("narrow", ".parquet", narrow),
        chunks=tuple(writer.chunks),
        keys=keys,
        kept=columns.kept,
        fingerprint=spec.fingerprint,
        input_bytes=input_bytes,
        data_bytes=data_bytes,
        created=time.time(),
        host=host,
        carried=tuple(carried),
        asked=spec.request_fingerprint,
        rows_digest=spec.rows_digest,
        unsent=unsent.kept,
        json_columns=tuple(name for name in (*keys, *columns.kept) if name in table.json_columns),
        changing=columns.changing,
        has_media=writer.watch.has_media,
        counted=tuple(count(writer.sample)) if rows > _answered(carried) else (),
    )
    # Who loses this race throws its own work away, and goes on with the files of the winner.
    return Snapshot.read(checkpoint.create("snapshot.json", snapshot.header()))


def _oddities(spec: RunSpec, table: Table, columns: InputColumns) -> Iterator[str]:
    """Yield what a template does that its author may not have meant."""
    if columns.changing:
        yield (
            f"{spec.argument} uses {', '.join(columns.changing)}, whose value differs in the next DAG run: "
            "reuse_answers will find nothing there."
        )
    if spec.prompt is not None and not columns.used and table.rows > 1 and not spec.deduplicate:
        yield (
            f"{spec.argument} shows no column, so that all {table.rows:,} rows ask for the same, and each is paid for. "
            f"Write {{{{ row.{next(iter(table.columns))} }}}} where a row's value belongs, or set deduplicate=True."
        )


def _sort_out(bodies: Iterable[tuple[int, bytes | Exception]], writer: RequestChunks, unsent: Unsent) -> None:
    """Keep each row's request, or the reason why it has none; both are numbered in the narrow file."""
    for n, body in bodies:
        if isinstance(body, bytes):
            writer.add(n, body)
        else:
            writer.add_unsent(n)
            unsent.add(n, body)


def _answered(carried: Sequence[Mapping[str, Any]]) -> int:
    """Return how many rows are not asked."""
    return sum(sum(note["counts"].values()) for note in carried)


def _check_keys(engine: DuckDBPyConnection, table: Table, keys: Mapping[str, str]) -> None:
    """Refuse null and repeated keys, and numbers that no JSON has; keys are compared as text, over all parts."""
    if not keys:
        return
    for name, sql in keys.items():
        column = quoted(name)
        missing = f"{column} IS NULL" + (f" OR NOT isfinite({column})" if sql in ("DOUBLE", "FLOAT") else "")
        found = engine.execute(f"SELECT {ROW}, {column} FROM ({table.query}) WHERE {missing} LIMIT 1").fetchone()
        if found is not None:
            shown = "null" if found[1] is None else found[1]
            raise ConfigurationError(
                f"row {found[0] + 1}: the key column {name!r} is {shown}; every row needs its key."
            )
    as_text = ", ".join(f"CAST({quoted(name)} AS VARCHAR)" for name in keys)
    # By hash first, 8 bytes a row, as the keys themselves may be long; equal hashes are rare enough to look at one by
    # one.
    hashed = f"SELECT hash({as_text}) AS h FROM ({table.query})"
    suspects = engine.execute(f"SELECT h FROM ({hashed}) GROUP BY h HAVING count(*) > 1 LIMIT 100").fetchall()
    if not suspects:
        return
    wanted = ", ".join(str(row[0]) for row in suspects)
    repeated = engine.execute(
        f"SELECT list({ROW} + 1 ORDER BY {ROW})[:3], {as_text} FROM ({table.query}) "
        f"WHERE hash({as_text}) IN ({wanted}) GROUP BY {as_text} HAVING count(*) > 1 ORDER BY min({ROW}) LIMIT 3"
    ).fetchall()
    if repeated:
        shown = "; ".join(f"{', '.join(map(repr, key))} in rows {', '.join(map(str, rows))}" for rows, *key in repeated)
        raise ConfigurationError(f"The key ({', '.join(keys)}) must be unique, and is not: {shown}.")


def _write_data(engine: DuckDBPyConnection, table: Table, columns: InputColumns, path: str) -> int:
    keys = names(list(columns.keys)) if columns.keys else f"'row-' || ({ROW} + 1) AS {quoted(NUMBERED_KEY)}"
    kept = f", {names(list(columns.kept))}" if columns.kept else ""
    size = sum(map(os.path.getsize, table.parts))
    query = f"SELECT {ROW}, {keys}{kept} FROM ({table.query})"
    copy_to_parquet(engine, query, path, bytes_a_row=4.0 * size / table.rows)
    return 4 * os.path.getsize(path)


class Unsent:
    """
    Rows that cannot be sent: answers of a kind, which say why, and which nobody asks for again.

    :param folder: Local, for what is being written.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._writer: AnswerWriter | None = None
        self.rows = 0
        self.kept = 0
        """Those of them that get a row in the output, once that is known."""
        self.first = ""

    def add(self, n: int, why: Exception) -> None:
        """Take a row in."""
        if self._writer is None:
            self._writer = AnswerWriter(self._folder, "unsent")
            self.first = str(why)
        self.rows += 1
        record = Record(n, NO_SOURCE, STATUSES.index("failed"), c=3, m=f"not sent: {why}"[:MAX_MESSAGE])
        self._writer.add(record, "", passing=False, cost=0.0, asked=False)

    def finish(self, checkpoint: Checkpoint, engine: DuckDBPyConnection, narrow: str) -> list[Mapping[str, Any]]:
        """Publish the rows of a sample, or all, and return what a note says of their file; none without rows."""
        if self._writer is None:
            return []
        found = engine.execute(f"SELECT count(*) FROM read_parquet({text(narrow)}) WHERE d IS NULL").fetchone()
        self.kept = int(found[0]) if found else 0
        note = self._writer.finish(checkpoint, engine, narrow)
        return [{**note, "counts": {"failed": self.kept}, "unsent": True}] if self.kept else []

    def close(self) -> None:
        """Close what is open."""
        if self._writer is not None:
            self._writer.__exit__()
