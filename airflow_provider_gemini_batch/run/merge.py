# SPDX-License-Identifier: Apache-2.0
"""
Snapshot and answers -> the table, as Parquet parts on local disk, one row for each input row, in the input's order.

Theory of operation
===================

Whatever joins or sorts over all rows sees only narrow columns: which answer of a row counts, what it cost, how often it
was asked. Bodies are never sorted as a whole, which takes more memory than there is. They are appended to *buckets* of
consecutive rows in one pass over the answer files, and each bucket, some 16 MB, is joined and ordered alone. The
buckets in order are the table.

Example: ten million rows with 140 bytes of answer each make 90 buckets of 114,000 rows. A job's answers come in any
order, but a line that begins ``{"n":250001,`` goes to bucket 2, and nothing more has to be known of it.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.answers import RECORD_COLUMNS, SOURCES
from airflow_provider_gemini_batch.run.plan import STATUSES
from airflow_provider_gemini_batch.run.schema import quoted
from airflow_provider_gemini_batch.run.sources import ROW
from airflow_provider_gemini_batch.run.spec import META
from airflow_provider_gemini_batch.run.tables import (
    BUCKET_BYTES,
    copy_to_parquet,
    names,
    row_group_size,
    rows_of,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.snapshot import Snapshot
    from airflow_provider_gemini_batch.run.spec import RunSpec

_FLUSH_BYTES = 64 * 1024
_DUPLICATE = SOURCES.index("duplicate")
_NONE = 0xFFFF


@dataclass(frozen=True)
class AnswerFile:
    """
    A file of answers with its outcomes.

    :param number: Of the round, 0 for answers that were carried over.
    """

    answers: str
    outcomes: str
    number: int
    bytes: int
    longest: int

    @classmethod
    def read(cls, note: Mapping[str, Any], number: int) -> AnswerFile:
        """Read what :meth:`~.answers.AnswerWriter.finish` said."""
        return cls(note["answers"], note["outcomes"], number, int(note["bytes"]), int(note["longest"]))


class Merge:
    """
    Brings snapshot and answers together.

    :param folder: Local, for what is being written.
    :param files: All answers of the generation.
    """

    def __init__(
        self,
        engine: DuckDBPyConnection,
        checkpoint: Checkpoint,
        snapshot: Snapshot,
        spec: RunSpec,
        files: Sequence[AnswerFile],
        folder: str,
    ) -> None:
        self._engine = engine
        self._checkpoint = checkpoint
        self._snapshot = snapshot
        self._spec = spec
        self._files = list({file.answers: file for file in files}.values())
        self._folder = folder
        self._narrow = checkpoint.folder.fetch(snapshot.narrow, folder)
        self._data = checkpoint.folder.fetch(snapshot.data, folder)
        total = sum(file.bytes for file in self._files) + snapshot.data_bytes
        self.bytes_a_row = max(1.0, total / max(1, snapshot.total_rows))
        self.bucket_rows = max(1, int(BUCKET_BYTES / self.bytes_a_row))

    @property
    def columns(self) -> dict[str, str]:
        """The table's columns with their types, in order."""
        return self._spec.output_columns(self._snapshot.keys, self._snapshot.kept)

    def parts(self) -> list[str]:
        """Write the table, and return its local Parquet files in order."""
        chosen = self._choose()
        buckets = self._fill_buckets(chosen)
        found = []
        for number in range(-(-self._snapshot.total_rows // self.bucket_rows)):
            part = os.path.join(self._folder, f"table-{number:05d}.parquet")
            if self._write_part(number, chosen, buckets.get(number), part):
                found.append(part)
        return found

    # --- narrow -------------------------------------------------------------------------------------------------------

    def _choose(self) -> str:
        """Write which file's answer counts for each row: the latest usable one, else the latest of all."""
        path = os.path.join(self._folder, "chosen.parquet")
        if not self._files:
            outcomes = "SELECT NULL::BIGINT AS n, 0 AS s, 0 AS rank, FALSE AS asked, NULL::DOUBLE AS cost LIMIT 0"
        else:
            last = max(file.number for file in self._files)
            outcomes = " UNION ALL ".join(
                f"SELECT n, s, (CASE WHEN s = 0 THEN 0 ELSE 1 END::BIGINT << 40) + {last - file.number << 16 | place} "
                f"AS rank, asked, cost FROM read_parquet({text(self._fetched(file.outcomes))})"
                for place, file in enumerate(self._files)
            )
        query = (
            "SELECT n, (min(rank) & 65535)::USMALLINT AS file, count(*) FILTER (asked)::INTEGER AS attempts, "
            "CASE WHEN count(*) FILTER (asked AND cost IS NULL) > 0 THEN NULL ELSE coalesce(sum(cost), 0) END AS cost, "
            f"count(*) FILTER (asked AND s = 0)::INTEGER AS answers FROM ({outcomes}) GROUP BY n ORDER BY n"
        )
        copy_to_parquet(self._engine, query, path, bytes_a_row=40)
        return path

    def _fetched(self, name: str) -> str:
        return self._checkpoint.folder.fetch(name, self._folder)

    @property
    def paid_twice(self) -> int:
        """Answers that were paid for although the row had one; after :meth:`parts`."""
        path = os.path.join(self._folder, "chosen.parquet")
        found = self._engine.execute(
            f"SELECT coalesce(sum(answers - 1), 0)::BIGINT FROM read_parquet({text(path)}) WHERE answers > 1"
        ).fetchone()
        return int(found[0]) if found else 0

    def _duplicates(self) -> tuple[array[int], array[int]]:
        """Return the first row and the row itself of each row whose request was asked for another, by first row."""
        firsts, rows = array("Q"), array("Q")
        if self._spec.deduplicate:
            read = f"read_parquet({text(self._narrow)})"
            query = (
                f"SELECT first, n FROM {read} JOIN (SELECT d, min(n) AS first FROM {read} GROUP BY d "
                "HAVING count(*) > 1) USING (d) WHERE n <> first ORDER BY first, n"
            )
            for first, n in rows_of(self._engine, query):
                firsts.append(first)
                rows.append(n)
        return firsts, rows

    # --- bodies -------------------------------------------------------------------------------------------------------

    def _fill_buckets(self, chosen: str) -> dict[int, str]:
        """Append each answer that counts to its row's bucket; return the buckets' paths."""
        wanted = array("H", b"\xff\xff" * self._snapshot.total_rows)
        for n, file in rows_of(self._engine, f"SELECT n, file FROM read_parquet({text(chosen)})"):
            wanted[n] = file
        firsts, rows = self._duplicates()
        buckets = _Buckets(self._folder, self.bucket_rows)
        with contextlib.closing(buckets):
            for place, file in enumerate(self._files):
                path = self._checkpoint.folder.fetch(file.answers, self._folder)
                for line in _unpacked_lines(path):
                    n = int(line[5 : line.index(b",")])
                    if wanted[n] != place:
                        continue
                    wanted[n] = _NONE  # a file that holds two records of a row counts once
                    buckets.add(n, line)
                    if firsts:
                        for other in _equal_range(firsts, rows, n):
                            buckets.add(other, _as_duplicate(line, other))
        return buckets.paths

    def _write_part(self, number: int, chosen: str, bucket: str | None, part: str) -> int:
        low, high = number * self.bucket_rows, (number + 1) * self.bucket_rows - 1
        within = f"BETWEEN {low} AND {high}"
        answers = self._spec.answer_columns
        kinds = [kind.sql for kind in answers.values()]
        read = _bucket_reader(bucket, kinds, max((file.longest for file in self._files), default=0))
        values = "".join(f"a.v{place} AS {quoted(name)}, " for place, name in enumerate(answers))
        carried = names([*self._snapshot.keys, *self._snapshot.kept], "i.")
        query = (
            f"SELECT {carried}, {values}{self._meta()} "
            f"FROM (SELECT * FROM read_parquet({text(self._narrow)}) WHERE n {within}) AS x "
            f"JOIN (SELECT * FROM read_parquet({text(self._data)}) WHERE {ROW} {within}) AS i ON i.{ROW} = x.n "
            f"LEFT JOIN (SELECT * FROM read_parquet({text(chosen)}) WHERE n {within}) AS c ON c.n = x.n "
            f"LEFT JOIN {read} AS a ON a.n = x.n ORDER BY x.n"
        )
        return copy_to_parquet(self._engine, query, part, bytes_a_row=self.bytes_a_row + 200)

    def _meta(self) -> str:
        """Return the select list of our own columns."""
        shown = {
            "status": f"coalesce({text_array(STATUSES)}[a.s + 1], 'missing')",
            "error_code": "a.c",
            "error_message": "CASE WHEN a.n IS NULL THEN 'the row was not asked' ELSE a.m END",
            "finish_reason": "a.f",
            "answer_source": f"{text_array(SOURCES)}[a.q + 1]",
            "attempts": "coalesce(c.attempts, 0)",
            "model_version": "a.w",
            "prompt_tokens": "a.p",
            "output_tokens": "a.o",
            "thoughts_tokens": "a.t",
            "cached_tokens": "a.k",
            "cost": "CASE WHEN c.n IS NULL THEN 0 ELSE c.cost END",
            "request_digest": "lower(hex(x.d))",
            "job_name": "a.j",
            "answered_at": "a.e",
        }
        return ", ".join(
            f"CAST({shown[name]} AS {sql}) AS {quoted(self._spec.meta(name))}" for name, sql in META.items()
        )


def text_array(values: Iterable[str]) -> str:
    """Return texts as an SQL list."""
    return "[" + ", ".join(text(value) for value in values) + "]"


def _bucket_reader(bucket: str | None, kinds: Sequence[str], longest: int) -> str:
    columns = {**RECORD_COLUMNS, **{f"v{place}": sql for place, sql in enumerate(kinds)}}
    if bucket is None:
        nothing = ", ".join(f"NULL::{sql} AS {name}" for name, sql in columns.items())
        return f"(SELECT {nothing} LIMIT 0)"
    typed = ", ".join(f"{name}: {text(sql)}" for name, sql in columns.items())
    size = max(2_000_000, longest + 1024)
    return (
        f"read_json({text(bucket)}, format='newline_delimited', auto_detect=false, columns={{{typed}}}, "
        f"maximum_object_size={size})"
    )


def _as_duplicate(line: bytes, n: int) -> bytes:
    """Return an answer's record for another row with the same request: it was asked once, and paid for there."""
    rest = line[line.index(b',"q":') + 5 :]
    return b'{"n":%d,"q":%d%b' % (n, _DUPLICATE, rest[rest.index(b",") :])


def _equal_range(firsts: array[int], rows: array[int], n: int) -> Iterator[int]:
    from bisect import bisect_left

    place = bisect_left(firsts, n)
    while place < len(firsts) and firsts[place] == n:
        yield rows[place]
        place += 1


class _Buckets:
    """Files that lines are appended to, each buffered a little: there may be hundreds."""

    def __init__(self, folder: str, rows: int) -> None:
        self.paths: dict[int, str] = {}
        self._folder = folder
        self._rows = rows
        self._pending: dict[int, list[bytes]] = {}
        self._sizes: dict[int, int] = {}

    def add(self, n: int, line: bytes) -> None:
        """Append a line to the bucket of row *n*."""
        bucket = n // self._rows
        self._pending.setdefault(bucket, []).append(line)
        size = self._sizes.get(bucket, 0) + len(line)
        self._sizes[bucket] = size
        if size >= _FLUSH_BYTES:
            self._flush(bucket)

    def _flush(self, bucket: int) -> None:
        path = self.paths.get(bucket)
        if path is None:
            path = self.paths[bucket] = os.path.join(self._folder, f"bucket-{bucket:05d}.jsonl")
        with open(path, "ab") as file:
            file.write(b"".join(self._pending.pop(bucket)))
        self._sizes[bucket] = 0

    def close(self) -> None:
        """Write what is pending."""
        for bucket in list(self._pending):
            self._flush(bucket)


def _unpacked_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a compressed file, with their newlines."""
    import zstandard

    with open(path, "rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
        rest = b""
        while piece := stream.read(1 << 20):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line + b"\n"


def group_size(parts: Sequence[str], rows: int, bytes_a_row: float = 0.0) -> int:
    """
    Return a row group's rows for a file made of all *parts*.

    :param bytes_a_row: What a row took before it was compressed, if that is known: vectors shrink a lot.
    """
    return row_group_size(max(bytes_a_row, 4.0 * sum(map(os.path.getsize, parts)) / max(1, rows)))
