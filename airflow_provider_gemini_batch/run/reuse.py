# SPDX-License-Identifier: Apache-2.0
"""Answers that are there already, taken instead of asked for: of older generations, and of earlier outputs."""

# An answer is taken if its request has an equal digest, so that it can never stand beside another prompt. It is copied
# into the snapshot, since the output that it comes from may be overwritten by this very run.

from __future__ import annotations

import os
import time
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Self

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.paths import normalise_path
from airflow_provider_gemini_batch.run.answers import SOURCES, AnswerWriter, Record
from airflow_provider_gemini_batch.run.buckets import number_of, unpacked_lines
from airflow_provider_gemini_batch.run.input_table import ROW, Table
from airflow_provider_gemini_batch.run.plan import STATUSES
from airflow_provider_gemini_batch.run.row_numbers import RowSet
from airflow_provider_gemini_batch.run.sources import FileSource, Source, files_of
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, quoted, row_group_size, rows_of, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.spec import RunSpec

CARRIED_ROWS = 200_000
"""Answers in a file of those that are carried over."""

_REUSED = SOURCES.index("reused")
_SUCCEEDED = STATUSES.index("succeeded")
_META = ("model_version", "prompt_tokens", "output_tokens", "thoughts_tokens", "cached_tokens", "answered_at")


class Carrier:
    """
    Copies answers for the rows of a new snapshot.

    :param checkpoint: The generation that begins.
    :param tables: Readers of database tables by the word that stands for them in ``reuse_answers``.
    :param older: The generations whose answers count; default those before *checkpoint*.
    :param siblings: Returns generations of other indexes of a mapped task that have rows of ours.
    """

    def __init__(
        self,
        spec: RunSpec,
        checkpoint: Checkpoint,
        folder: str,
        tables: Mapping[str, Source] | None = None,
        say: Callable[[str], None] = lambda text: None,
        older: Sequence[Checkpoint] | None = None,
        siblings: Callable[[DuckDBPyConnection, str], Iterable[Checkpoint]] = lambda engine, narrow: (),
    ) -> None:
        self._older = list(checkpoint.older()) if older is None else older
        self._spec = spec
        self._checkpoint = checkpoint
        self._folder = folder
        self._tables = tables or {}
        self._say = say
        self._siblings = siblings

    def __call__(self, engine: DuckDBPyConnection, narrow: str) -> list[Mapping[str, Any]]:
        """Copy what there is, and return what notes say of the files."""
        found = engine.execute(f"SELECT max(n) FROM read_parquet({text(narrow)})").fetchone()
        # Who comes first wins: this run's own answers, then those of other indexes, then outputs in the order of the
        # argument.
        taken = RowSet(0, int(found[0]) if found and found[0] is not None else -1)
        files: list[Mapping[str, Any]] = []
        for older in self._older:
            files += self._from_generation(engine, narrow, older, taken)
        for number, other in enumerate(self._siblings(engine, narrow)):
            files += self._from_generation(engine, narrow, other, taken, f"of-another-index-{number}")
        for place in self._spec.reuse:
            files += self._from_output(engine, narrow, place, taken)
        return files

    def _from_generation(
        self, engine: DuckDBPyConnection, narrow: str, older: Checkpoint, taken: RowSet, name: str = "carried"
    ) -> Iterator[Mapping[str, Any]]:
        header = older.snapshot
        if header is None:
            return
        for place, note in enumerate([*(header.get("carried") or ()), *older.collected()]):
            if not note.get("answers"):
                continue
            outcomes = older.folder.fetch(note["outcomes"], self._folder)
            # Two columns of numbers, ordered for a binary search: 16 bytes a row, a fraction of what a list of tuples
            # takes.
            olds, news = array("Q"), array("Q")
            query = (
                "SELECT o.n, x.n FROM "
                f"(SELECT d, min(n) AS n FROM read_parquet({text(outcomes)}) WHERE s = 0 GROUP BY d) o "
                # Of several rows with equal requests one answer is enough, and it may stand for several rows of ours.
                f"JOIN read_parquet({text(narrow)}) x USING (d) ORDER BY o.n, x.n"
            )
            for old, new in rows_of(engine, query):
                olds.append(old)
                news.append(new)
            if not olds:
                continue
            answers = older.folder.fetch(note["answers"], self._folder)
            with self._files(engine, narrow, f"{name}-{older.number}-{place}") as files:
                for record in _wanted(answers, olds, news, taken):
                    files.add(record)
                    files.close_full()
            yield from files.found

    def _files(self, engine: DuckDBPyConnection, narrow: str, name: str) -> RecordFiles:
        return RecordFiles(self._folder, name, lambda writer: writer.finish(self._checkpoint, engine, narrow))

    # --- outputs ------------------------------------------------------------------------------------------------------

    def _from_output(
        self, engine: DuckDBPyConnection, narrow: str, place: str, taken: RowSet
    ) -> Iterator[Mapping[str, Any]]:
        sources: list[tuple[str, Source]] = []
        if place in self._tables:
            sources.append((place, self._tables[place]))
        else:
            as_json = frozenset(name for name, kind in self._spec.answer_columns.items() if kind.kind == "json")
            # One after the other, as another night's columns may be others; of two answers the later night's counts.
            # Names of nightly files sort by date, as a rule.
            for file in reversed(files_of(normalise_path(place, "reuse_answers"))):
                sources.append((file, FileSource(file, as_json=as_json, is_own=True)))
            if not sources:
                self._say(f"reuse_answers: there is nothing at {place} yet.")
                return
        own = os.path.join(self._folder, "reused")
        os.makedirs(own, exist_ok=True)
        count = rows = 0
        with self._files(engine, narrow, "reused-answers") as files:
            for name, source in sources:
                table = source.read(engine, own)
                rows += table.rows
                for block in self._blocks(engine, narrow, name, table) if table.rows else ():
                    for record in block:
                        if record.n not in taken:
                            taken.add(record.n)
                            files.add(record)
                            count += 1
                    # Not within a block: the engine answers one query at a time.
                    files.close_full()
                for part in table.parts:
                    os.unlink(part)
        self._say(f"reuse_answers: {count} of {taken.size} rows take an answer of {place} ({rows} rows).")
        yield from files.found

    def _blocks(self, engine: DuckDBPyConnection, narrow: str, place: str, table: Table) -> Iterator[Iterator[Record]]:
        """
        Yield the records of an output, some 16 MB at a time.

        Which row takes which answer is found from digests alone: a join that carried the answers along would hold them.
        """
        columns = {name.lower(): name for name in table.columns}

        def meta(name: str) -> str | None:
            return columns.get(self._spec.meta(name).lower()) or columns.get(name)

        digest, status, answered = meta("request_digest"), meta("status"), meta("answered_at")
        if digest is None or status is None:
            raise ConfigurationError(f"reuse_answers: {place} has no column request_digest; it is no output of a run.")
        answers = self._spec.answer_columns
        if any(name.lower() not in columns for name in answers):
            return  # another schema: its requests have other digests, too
        casts, checks = [], []
        for name, kind in answers.items():
            column = quoted(columns[name.lower()])
            cast = _cast(column, table.columns[columns[name.lower()]], kind.sql)
            casts.append(f"CAST({cast} AS VARCHAR)" if kind.sql == "FLOAT[]" else cast)
            checks.append(f"({column} IS NULL OR {cast} IS NOT NULL)")
        facts = ", ".join(f"CAST({quoted(found)} AS VARCHAR)" if (found := meta(name)) else "NULL" for name in _META)
        young = ""
        if self._spec.reuse_max_age is not None and answered is not None:
            since = time.time() - self._spec.reuse_max_age
            young = f"AND TRY_CAST({quoted(answered)} AS TIMESTAMPTZ) >= to_timestamp({since})"
        pairs = os.path.join(self._folder, "reused-rows.parquet")
        query = (
            f"SELECT r, x.n FROM (SELECT min({ROW}) AS r, TRY(unhex(CAST({quoted(digest)} AS VARCHAR))) AS d "
            f"FROM ({table.query}) WHERE {quoted(status)} = 'succeeded' {young} AND {' AND '.join(checks)} GROUP BY d) "
            f"JOIN read_parquet({text(narrow)}) x USING (d) ORDER BY r, x.n"
        )
        copy_to_parquet(engine, query, pairs, bytes_a_row=16)
        vectors = [kind.sql == "FLOAT[]" for kind in answers.values()]
        size = 4.0 * sum(map(os.path.getsize, table.parts)) / table.rows
        rows = row_group_size(size)
        for first in range(0, table.rows, rows):
            within = f"BETWEEN {first} AND {first + rows - 1}"
            query = (
                f"SELECT p.n, {facts}, {', '.join(casts)} FROM (SELECT * FROM ({table.query}) WHERE {ROW} {within}) t "
                f"JOIN (SELECT * FROM read_parquet({text(pairs)}) WHERE r {within}) p ON p.r = t.{ROW}"
            )
            yield (_record(row, vectors) for row in rows_of(engine, query))
        os.unlink(pairs)


class RecordFiles:
    """
    Records in files of *most* rows or little more, so that whoever reads one holds no more.

    :param publish: Finishes a file and returns what its note says.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        publish: Callable[[AnswerWriter], Mapping[str, Any]],
        most: int = CARRIED_ROWS,
    ) -> None:
        self._most = most
        self.found: list[Mapping[str, Any]] = []
        self._folder = folder
        self._name = name
        self._publish = publish
        self._writer: AnswerWriter | None = None
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._writer is not None:
            with self._writer:
                if kind is None:
                    self._close()

    def add(self, record: Record) -> None:
        """Take a record in."""
        if self._writer is None:
            self._writer = AnswerWriter(self._folder, f"{self._name}-{len(self.found)}")
        self._writer.add(record, "", passing=False, cost=0.0, asked=False)
        self._rows += 1

    def close_full(self) -> None:
        """End the file if it is full."""
        if self._rows >= self._most:
            self._close()

    def _close(self) -> None:
        assert self._writer is not None
        with self._writer as writer:
            self.found.append(self._publish(writer))
        self._writer, self._rows = None, 0


def _wanted(path: str, olds: array[int], news: array[int], taken: RowSet) -> Iterator[Record]:
    """
    Yield the records of a file of answers that a new row takes.

    :param olds, news: Rows of the file and the rows that take their answers, ordered by the former.
    """
    for line in unpacked_lines(path):
        old = number_of(line)
        place = bisect_left(olds, old)
        while place < len(olds) and olds[place] == old:
            if news[place] not in taken:
                record = _reused(line, news[place])
                if record is not None:
                    taken.add(news[place])
                    yield record
            place += 1


def _record(row: Sequence[Any], vectors: Sequence[bool]) -> Record:
    """Return a row of an output as the record of a row that takes its answer."""
    n, version, *rest = row
    tokens, when, values = rest[:4], rest[4], rest[5:]
    shown = [
        msgspec.Raw(value.encode()) if is_vector and value is not None else _plain(value)
        for value, is_vector in zip(values, vectors, strict=True)
    ]
    counts = [int(token) if token not in (None, "") else None for token in tokens]
    return Record(n, _REUSED, _SUCCEEDED, shown, w=version, p=counts[0], o=counts[1], t=counts[2], k=counts[3], e=when)


def _cast(column: str, present: str, wanted: str) -> str:
    nested = wanted.endswith("[]") or wanted.startswith("STRUCT")
    if nested and present == "VARCHAR":
        return f"TRY_CAST(TRY_CAST({column} AS JSON) AS {wanted})"
    return f"TRY_CAST({column} AS {wanted})"


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _reused(line: bytes, n: int) -> Record | None:
    """Return an older generation's record as a reused one of row *n*."""
    facts = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    if bytes(facts["s"]) != b"0":
        return None
    values: list[Any] = []
    while (value := facts.pop(f"v{len(values)}", None)) is not None:
        values.append(value)
    record = msgspec.json.decode(line, type=Record)
    record.n, record.q, record.v = n, _REUSED, list(values)
    return record
