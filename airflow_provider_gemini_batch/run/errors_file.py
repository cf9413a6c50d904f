# SPDX-License-Identifier: Apache-2.0
"""Rows without a usable answer, with what they were asked, in a file of their own."""

from __future__ import annotations

import os
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.outputs import Table
from airflow_provider_gemini_batch.run.sources import RowsSource
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, names, quoted, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.snapshot import Snapshot
    from airflow_provider_gemini_batch.run.spec import RunSpec

_SHOWN = ("status", "error_code", "error_message", "finish_reason", "attempts", "request_digest", "job_name")


PROMPT = "prompt"
"""Name of the column with what was asked."""


def check_columns(columns: Iterable[str]) -> None:
    """Refuse key and kept columns that are called as the column with what was asked."""
    if clash := [name for name in columns if name.lower() == PROMPT]:
        raise ConfigurationError(
            f"The file of errors_path has a column {PROMPT!r} with what was asked, and the input has {clash[0]!r}: "
            "leave it out by keep_columns, or rename it."
        )


def write_errors(
    table: Table, spec: RunSpec, checkpoint: Checkpoint, snapshot: Snapshot, place: str, folder: str
) -> None:
    """
    Write the errors file: key, kept columns, prompt, and why there is no answer, in the input's order.

    The prompt is the text that was asked, or the request where that is more than one text. The table is read one part
    after the other, since all of its rows may have failed.
    """
    own = os.path.join(folder, "errors")
    os.makedirs(own, exist_ok=True)
    shown = [*snapshot.keys, *snapshot.kept]
    meta = [spec.meta(name) for name in _SHOWN]
    columns = {name: table.columns[name] for name in shown}
    columns[PROMPT] = "VARCHAR"
    columns |= {name: table.columns[name] for name in meta}
    work = _Errors(table.engine, checkpoint, snapshot, quoted(spec.meta("status")), shown, meta, own)
    parts, offset = [], 0
    for part in table.parts:
        written, rows = work.part(part, offset)
        parts += written
        offset += rows
    Table(table.engine, parts or [work.empty(columns)], columns, ()).write(place, own)


class _Errors:
    """
    Finds the rows without an answer, and what they were asked, a part of the table at a time.

    :param status: Column, quoted.
    :param shown, meta: Columns before and after the prompt.
    """

    def __init__(
        self,
        engine: DuckDBPyConnection,
        checkpoint: Checkpoint,
        snapshot: Snapshot,
        status: str,
        shown: Sequence[str],
        meta: Sequence[str],
        folder: str,
    ) -> None:
        self._engine = engine
        self._checkpoint = checkpoint
        self._snapshot = snapshot
        self._status = status
        self._shown = shown
        self._meta = meta
        self._folder = folder
        self._narrow = checkpoint.folder.fetch(snapshot.narrow, folder)

    def part(self, part: str, offset: int) -> tuple[list[str], int]:
        """
        Write the rows of a part that have no answer.

        :param offset: Number of the table's rows before it.
        :return: The files written, none or one, and the number of the part's rows.
        """
        # Only of rows that failed are requests read: a request is by far the largest thing that is kept of a row.
        failed = os.path.join(self._folder, "failed.parquet")
        found = self._engine.execute(f"SELECT count(*) FROM read_parquet({text(part)})").fetchone()
        rows = int(found[0]) if found else 0
        query = (
            f"SELECT {self._number} AS __gemini_n, {names([*self._shown, *self._meta], 't.')} "
            f"FROM (SELECT *, file_row_number + {offset} AS __gemini_place FROM "
            f"read_parquet({text(part)}, file_row_number=true) WHERE {self._status} <> 'succeeded') t "
            f"{self._numbered(offset, offset + rows - 1)} ORDER BY __gemini_n"
        )
        if not copy_to_parquet(self._engine, query, failed):
            return [], rows
        target = os.path.join(self._folder, f"errors-{offset:012d}.parquet")
        staged = RowsSource(self._prompts(failed)).read(self._engine, self._folder)
        prompts = staged.query if staged.parts else "SELECT NULL::BIGINT AS n, NULL::VARCHAR AS prompt LIMIT 0"
        query = (
            f"SELECT {names(self._shown, 'f.')}, p.prompt, {names(self._meta, 'f.')} "
            f"FROM read_parquet({text(failed)}) f LEFT JOIN ({prompts}) p ON p.n = f.__gemini_n "
            "ORDER BY f.__gemini_n"
        )
        copy_to_parquet(self._engine, query, target, bytes_a_row=1000)
        return [target], rows

    def empty(self, columns: Mapping[str, str]) -> str:
        """Write a part without rows."""
        path = os.path.join(self._folder, "errors-none.parquet")
        nothing = ", ".join(f"NULL::{sql} AS {quoted(name)}" for name, sql in columns.items())
        copy_to_parquet(self._engine, f"SELECT {nothing} LIMIT 0", path)
        return path

    # A row's number is its place in the table, but for a sample.

    @property
    def _number(self) -> str:
        return "t.__gemini_place" if self._is_whole else "x.n"

    @property
    def _is_whole(self) -> bool:
        return self._snapshot.rows == self._snapshot.total_rows

    def _numbered(self, first: int, last: int) -> str:
        if self._is_whole:
            return ""
        return (
            "JOIN (SELECT n, file_row_number AS place FROM "
            f"read_parquet({text(self._narrow)}, file_row_number=true) "
            f"WHERE file_row_number BETWEEN {first} AND {last}) x ON x.place = t.__gemini_place"
        )

    def _prompts(self, failed: str) -> Iterator[dict[str, Any]]:
        """Yield number and prompt of the failed rows, reading only the chunks that hold one."""
        query = f"SELECT __gemini_n FROM read_parquet({text(failed)}) ORDER BY 1"
        numbers = (int(row[0]) for row in self._engine.execute(query).fetchall())
        # Chunk by chunk, each unpacked once; those in which no row failed are not even fetched.
        for _, group in groupby(numbers, key=lambda n: self._snapshot.chunks_of(n, n)):
            wanted = set(group)
            requests = self._snapshot.requests(self._checkpoint, self._folder, min(wanted), max(wanted))
            for n, _, body in requests:
                if n in wanted:
                    yield {"n": n, "prompt": prompt_of(body)}


def prompt_of(body: bytes) -> str:
    """Return the one text of a request, or the request as JSON text where it is more than that."""
    request = msgspec.json.decode(body)
    contents = request.get("contents") or [request.get("content")]
    try:
        (content,) = contents
        (part,) = content["parts"]
        if set(part) == {"text"}:
            return str(part["text"])
    except (TypeError, ValueError, KeyError):
        pass
    return body.decode()
