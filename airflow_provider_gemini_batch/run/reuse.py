# SPDX-License-Identifier: Apache-2.0
"""
Answers that are there already, taken instead of asked for: of older generations, and of earlier outputs.

An answer is taken if its request has an equal digest, so that it can never stand beside another prompt. It is copied
into the snapshot, since the output that it comes from may be overwritten by this very run.
"""

from __future__ import annotations

import os
import time
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.folder import list_files
from airflow_provider_gemini_batch.files.paths import normalise_path
from airflow_provider_gemini_batch.run.answers import SOURCES, AnswerWriter, Record
from airflow_provider_gemini_batch.run.merge import unpacked_lines
from airflow_provider_gemini_batch.run.plan import STATUSES
from airflow_provider_gemini_batch.run.schema import quoted
from airflow_provider_gemini_batch.run.sources import FileSource, Source, Table
from airflow_provider_gemini_batch.run.tables import rows_of, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.spec import RunSpec

_REUSED = SOURCES.index("reused")
_SUCCEEDED = STATUSES.index("succeeded")
_META = ("model_version", "prompt_tokens", "output_tokens", "thoughts_tokens", "cached_tokens", "answered_at")


class Carrier:
    """
    Copies answers for the rows of a new snapshot.

    :param checkpoint: The generation that begins.
    :param tables: Readers of database tables by the word that stands for them in ``reuse_answers``.
    """

    def __init__(
        self,
        spec: RunSpec,
        checkpoint: Checkpoint,
        folder: str,
        tables: Mapping[str, Source] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._folder = folder
        self._tables = tables or {}
        self._say = say

    def __call__(self, engine: DuckDBPyConnection, narrow: str) -> list[Mapping[str, Any]]:
        """Copy what there is, and return what notes say of the files."""
        found = engine.execute(f"SELECT max(n) + 1 FROM read_parquet({text(narrow)})").fetchone()
        taken = bytearray(int(found[0] or 0) if found else 0)
        files: list[Mapping[str, Any]] = []
        for older in self._checkpoint.older():
            files += self._from_generation(engine, narrow, older, taken)
        for place in self._spec.reuse:
            files += self._from_output(engine, narrow, place, taken)
        return files

    def _from_generation(
        self, engine: DuckDBPyConnection, narrow: str, older: Checkpoint, taken: bytearray
    ) -> Iterator[Mapping[str, Any]]:
        header = older.snapshot
        if header is None:
            return
        notes = [note for found in older.notes()["collected"].values() for note in found]
        for place, note in enumerate([*(header.get("carried") or ()), *notes]):
            if not note.get("answers"):
                continue
            outcomes = older.folder.fetch(note["outcomes"], self._folder)
            olds, news = array("I"), array("I")
            query = (
                f"SELECT o.n, x.n FROM read_parquet({text(outcomes)}) o JOIN read_parquet({text(narrow)}) x USING (d) "
                "WHERE o.s = 0 ORDER BY o.n, x.n"
            )
            for old, new in rows_of(engine, query):
                olds.append(old)
                news.append(new)
            if olds:
                yield from self._copy(
                    engine, older, note["answers"], olds, news, taken, narrow, f"carried-{older.number}-{place}"
                )

    def _copy(
        self,
        engine: DuckDBPyConnection,
        older: Checkpoint,
        answers: str,
        olds: array[int],
        news: array[int],
        taken: bytearray,
        narrow: str,
        name: str,
    ) -> Iterator[Mapping[str, Any]]:
        with AnswerWriter(self._folder, name) as writer:
            self._copy_lines(writer, older.folder.fetch(answers, self._folder), olds, news, taken)
            facts = writer.finish(self._checkpoint, engine, narrow)
        if sum(facts["counts"].values()):
            yield facts

    def _copy_lines(
        self, writer: AnswerWriter, path: str, olds: array[int], news: array[int], taken: bytearray
    ) -> None:
        for line in unpacked_lines(path):
            old = int(line[5 : line.index(b",")])
            place = bisect_left(olds, old)
            while place < len(olds) and olds[place] == old:
                if not taken[news[place]]:
                    record = _reused(line, news[place])
                    if record is not None:
                        taken[news[place]] = 1
                        writer.add(record, "", passing=False, cost=0.0, asked=False)
                place += 1

    # --- outputs ------------------------------------------------------------------------------------------------------

    def _from_output(
        self, engine: DuckDBPyConnection, narrow: str, place: str, taken: bytearray
    ) -> Iterator[Mapping[str, Any]]:
        source = self._tables.get(place)
        if source is None:
            path = normalise_path(place, "reuse_answers")
            if not list_files(path):
                self._say(f"reuse_answers: there is nothing at {place} yet.")
                return
            source = FileSource(path)
        own = os.path.join(self._folder, "reused")
        os.makedirs(own, exist_ok=True)
        table = source.read(engine, own)
        if not table.rows:
            return
        with AnswerWriter(self._folder, "reused-answers") as writer:
            for record in self._records(engine, narrow, place, table):
                if not taken[record.n]:
                    taken[record.n] = 1
                    writer.add(record, "", passing=False, cost=0.0, asked=False)
            facts = writer.finish(self._checkpoint, engine, narrow)
        for part in table.parts:
            os.unlink(part)
        count = sum(facts["counts"].values())
        self._say(f"reuse_answers: {count} of {len(taken)} rows take an answer of {place} ({table.rows} rows).")
        if count:
            yield facts

    def _records(self, engine: DuckDBPyConnection, narrow: str, place: str, table: Table) -> Iterator[Record]:
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
        query = (
            f"SELECT x.n, {facts}, {', '.join(casts)} FROM ({table.query}) t JOIN read_parquet({text(narrow)}) x "
            f"ON x.d = TRY(unhex(CAST({quoted(digest)} AS VARCHAR))) "
            f"WHERE {quoted(status)} = 'succeeded' {young} AND {' AND '.join(checks)}"
        )
        vectors = [kind.sql == "FLOAT[]" for kind in answers.values()]
        for n, version, *rest in rows_of(engine, query):
            tokens, when, values = rest[:4], rest[4], rest[5:]
            shown = [
                msgspec.Raw(value.encode()) if is_vector and value is not None else _plain(value)
                for value, is_vector in zip(values, vectors, strict=True)
            ]
            counts = [int(token) if token not in (None, "") else None for token in tokens]
            yield Record(
                n, _REUSED, _SUCCEEDED, shown, w=version, p=counts[0], o=counts[1], t=counts[2], k=counts[3], e=when
            )


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
