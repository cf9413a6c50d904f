# SPDX-License-Identifier: Apache-2.0
"""
Snapshot and answers -> the table, as Parquet parts on local disk, one row for each input row, in the input's order.
"""

# Theory of operation
# ===================
#
# Nothing here holds or sorts all rows at once. Which answer of a row counts, what it cost and how often it was asked is
# found for a million rows at a time, from narrow columns alone. Bodies are never sorted as a whole, which takes more
# memory than there is. They are appended to buckets of consecutive rows in one pass over the answer files, and each
# bucket, some 16 MB, is joined and ordered alone. The buckets in order are the table.
#
# Example: ten million rows with 140 bytes of answer each make 90 buckets of 114,000 rows. A job's answers come in any
# order, but a line that begins `{"n":250001,` goes to bucket 2, and nothing more has to be known of it.
#
# Two things make a bucket larger than the average says. Answers may be long in one place and short elsewhere: such a
# bucket is split before it is joined. And with `deduplicate` an answer stands in several rows. It is asked for the
# first of them, so that a bucket which is due holds all answers that the later ones copy: each bucket passes its
# answers on to later ones (or to itself) right before it is joined.

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.answers import RECORD_COLUMNS, SOURCES
from airflow_provider_gemini_batch.run.buckets import Buckets, lines_of, number_of, unpacked_lines
from airflow_provider_gemini_batch.run.input_table import ROW
from airflow_provider_gemini_batch.run.outcomes import OutcomeFile, outcomes_within, spans
from airflow_provider_gemini_batch.run.plan import STATUSES
from airflow_provider_gemini_batch.run.row_numbers import RowSet
from airflow_provider_gemini_batch.run.spec import META
from airflow_provider_gemini_batch.run.tables import (
    BUCKET_BYTES,
    FEWEST_ROWS,
    copy_to_parquet,
    names,
    quoted,
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

_LARGEST_BUCKET = 2 * BUCKET_BYTES
_DUPLICATE = SOURCES.index("duplicate")
_LATER = 1 << 32


@dataclass(frozen=True)
class AnswerFile:
    """
    A file of answers with its outcomes.

    :param number: Of the round, 0 for answers that were carried over.
    :param rows: Number of answers.
    """

    answers: str
    outcomes: str
    number: int
    bytes: int
    longest: int
    rows: int

    @classmethod
    def read(cls, note: Mapping[str, Any], number: int) -> AnswerFile:
        """Read what :meth:`~.answers.AnswerWriter.finish` said."""
        rows = sum(note["counts"].values())
        return cls(note["answers"], note["outcomes"], number, int(note["bytes"]), int(note["longest"]), rows)


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
        # Two attempts may have noted the same job; files are named by their content.
        distinct = {file.answers: file for file in files}.values()
        # Later rounds first: of two answers of one kind, that of the first file counts.
        self._files = sorted(distinct, key=lambda file: -file.number)
        self._folder = folder
        self._narrow = checkpoint.folder.fetch(snapshot.narrow, folder)
        self._data = checkpoint.folder.fetch(snapshot.data, folder)
        answers = sum(file.bytes for file in self._files) / max(1, sum(file.rows for file in self._files))
        average = max(1.0, answers + snapshot.data_bytes / max(1, snapshot.total_rows))
        self.bucket_rows = max(1, int(BUCKET_BYTES / average))
        self._chosen: list[str] = []
        self._outcomes: list[OutcomeFile] = []
        self._densest = average
        self._average = average

    @property
    def columns(self) -> dict[str, str]:
        """The table's columns with their types, in order."""
        return self._spec.output_columns(self._snapshot.keys, self._snapshot.kept)

    @property
    def bytes_a_row(self) -> float:
        """What a row takes uncompressed where rows take most, halved, or on average; after :meth:`parts`."""
        return max(self._average, self._densest / 2)

    def parts(self) -> list[str]:
        """Write the table, and return its local Parquet files in order."""
        self._outcomes = [OutcomeFile.open(self._engine, self._fetched(file.outcomes)) for file in self._files]
        self._chosen = [self._choose(*span) for span in spans(self._snapshot.total_rows)]
        duplicates = self._write_duplicates() if self._spec.deduplicate else None
        found: list[str] = []
        with contextlib.closing(Buckets(self._folder, self.bucket_rows)) as buckets:
            self._fill(buckets)
            for first in range(0, self._snapshot.total_rows, self.bucket_rows):
                last = first + self.bucket_rows - 1
                if duplicates is not None:
                    self._pass_on(buckets, first, last, duplicates)
                found += self._write_bucket(first, last, buckets.take(first))
        return found

    # --- narrow -------------------------------------------------------------------------------------------------------

    def _choose(self, first: int, last: int) -> str:
        """Write which file's answer counts for each row of a span: the latest usable one, else the latest of all."""
        path = os.path.join(self._folder, f"chosen-{first:012d}.parquet")
        outcomes = outcomes_within(self._outcomes, first, last, lambda place: place)
        query = (
            f"SELECT n, (min(rank + CASE WHEN s = 0 THEN 0 ELSE {_LATER} END) % {_LATER})::UINTEGER AS file, "
            "count(*) FILTER (asked)::INTEGER AS attempts, "
            "CASE WHEN count(*) FILTER (asked AND cost IS NULL) > 0 THEN NULL ELSE coalesce(sum(cost), 0) END AS cost, "
            f"count(*) FILTER (asked AND s = 0)::INTEGER AS answers FROM ({outcomes}) GROUP BY n ORDER BY n"
        )
        copy_to_parquet(self._engine, query, path, bytes_a_row=40)
        return path

    @property
    def _choice(self) -> str:
        """What :meth:`_choose` wrote, as a table."""
        return f"read_parquet([{', '.join(map(text, self._chosen))}])"

    def _fetched(self, name: str) -> str:
        return self._checkpoint.folder.fetch(name, self._folder)

    @property
    def paid_twice(self) -> int:
        """Answers that were paid for although the row had one; after :meth:`parts`."""
        found = self._engine.execute(
            f"SELECT coalesce(sum(answers - 1), 0)::BIGINT FROM {self._choice} WHERE answers > 1"
        ).fetchone()
        return int(found[0]) if found else 0

    def _write_duplicates(self) -> str:
        """Write each row that has no answer of its own because its request was asked for another one, the first."""
        path = os.path.join(self._folder, "duplicates.parquet")
        read = f"read_parquet({text(self._narrow)})"
        query = (
            f"SELECT first, n FROM {read} x JOIN (SELECT d, min(n) AS first FROM {read} GROUP BY d "
            f"HAVING count(*) > 1) USING (d) WHERE n <> first AND n NOT IN (SELECT n FROM {self._choice}) "
            "ORDER BY first, n"
        )
        copy_to_parquet(self._engine, query, path, bytes_a_row=16)
        return path

    # --- bodies -------------------------------------------------------------------------------------------------------

    def _fill(self, buckets: Buckets) -> None:
        """Append each answer that counts to its row's bucket."""
        for place, (file, outcomes) in enumerate(zip(self._files, self._outcomes, strict=True)):
            wanted = RowSet(outcomes.first, outcomes.last)
            within = f"n BETWEEN {outcomes.first} AND {outcomes.last}"
            for (n,) in rows_of(self._engine, f"SELECT n FROM {self._choice} WHERE file = {place} AND {within}"):
                wanted.add(n)
            for line in unpacked_lines(self._fetched(file.answers)):
                n = number_of(line)
                if n in wanted:
                    wanted.discard(n)  # a file that holds two records of a row counts once
                    buckets.add(n, line)
            buckets.flush()

    def _pass_on(self, buckets: Buckets, first: int, last: int, duplicates: str) -> None:
        """Copy a bucket's answers for the rows whose requests they answer, too."""
        read = f"read_parquet({text(duplicates)}) WHERE first BETWEEN {first} AND {last}"
        firsts = {int(row[0]) for row in rows_of(self._engine, f"SELECT DISTINCT first FROM {read}")}
        if not firsts:
            return
        answers = {n: line for line in buckets.lines(first) if (n := number_of(line)) in firsts}
        for asked, n in rows_of(self._engine, f"SELECT first, n FROM {read} ORDER BY first, n"):
            line = answers.get(asked)
            if line is not None:
                buckets.add(n, _as_duplicate(line, n))
        buckets.flush()

    def _write_bucket(self, first: int, last: int, bucket: str | None) -> Iterator[str]:
        """Write a bucket's rows, in several parts if they are many bytes; yield the parts."""
        size = os.path.getsize(bucket) if bucket is not None else 0
        if bucket is not None and size > _LARGEST_BUCKET and last > first:
            smaller = Buckets(self._folder, -(-(last - first + 1) // -(-size // BUCKET_BYTES)), first)
            for line in lines_of(bucket):
                smaller.add(number_of(line), line)
            smaller.flush()
            os.unlink(bucket)
            for begin in range(first, last + 1, smaller.rows):
                yield from self._write_bucket(begin, min(last, begin + smaller.rows - 1), smaller.take(begin))
            return
        part = os.path.join(self._folder, f"table-{first:012d}.parquet")
        bytes_a_row = max(self._average, size / (last - first + 1))
        rows = self._write_part(first, last, bucket, part, bytes_a_row + 200)
        if bucket is not None:
            os.unlink(bucket)
        if rows:
            if rows >= FEWEST_ROWS:
                self._densest = max(self._densest, bytes_a_row)
            yield part

    def _write_part(self, first: int, last: int, bucket: str | None, part: str, bytes_a_row: float) -> int:
        within = f"BETWEEN {first} AND {last}"
        answers = self._spec.answer_columns
        kinds = [kind.sql for kind in answers.values()]
        read = _bucket_reader(bucket, kinds, max((file.longest for file in self._files), default=0))
        values = "".join(f"a.v{place} AS {quoted(name)}, " for place, name in enumerate(answers))
        carried = names([*self._snapshot.keys, *self._snapshot.kept], "i.")
        query = (
            f"SELECT {carried}, {values}{self._meta()} "
            f"FROM (SELECT * FROM read_parquet({text(self._narrow)}) WHERE n {within}) AS x "
            f"JOIN (SELECT * FROM read_parquet({text(self._data)}) WHERE {ROW} {within}) AS i ON i.{ROW} = x.n "
            f"LEFT JOIN (SELECT * FROM {self._choice} WHERE n {within}) AS c ON c.n = x.n "
            f"LEFT JOIN {read} AS a ON a.n = x.n ORDER BY x.n"
        )
        return copy_to_parquet(self._engine, query, part, bytes_a_row=bytes_a_row)

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


def group_size(parts: Sequence[str], rows: int, bytes_a_row: float = 0.0) -> int:
    """
    Return a row group's rows for a file made of all *parts*.

    :param bytes_a_row: What a row took before it was compressed, if that is known: vectors shrink a lot.
    """
    return row_group_size(max(bytes_a_row, 4.0 * sum(map(os.path.getsize, parts)) / max(1, rows)))
