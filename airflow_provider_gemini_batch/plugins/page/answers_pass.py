# SPDX-License-Identifier: Apache-2.0
"""All rows of an output that fit a filter, in one pass: each file is opened, and fetched, once."""

# Theory of operation. A page is found by what is kept of the search before; a download is no page. It reads from the
# first row to the last, however long that takes. So that it holds no thread meanwhile, it comes as pieces: each stands
# for a bounded piece of work, and is empty where none of the rows of that piece fits. The first piece is always empty:
# it says that the columns are ours, before anything is sent.
#
# Worked example: 20 of 100,000 rows of CSV are failing. The pieces are `b""`, then one for each 500 rows, at most 20 of
# which hold lines.

from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.files.kinds import open_lines
from airflow_provider_gemini_batch.files.paths import local_path
from airflow_provider_gemini_batch.plugins.page import answers_lines, answers_tables
from airflow_provider_gemini_batch.plugins.page.answers_rows import is_wanted, prefix_in
from airflow_provider_gemini_batch.plugins.page.answers_search import blocks, candidates, decoded, finder_of
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.plugins.page.storage_reads import note_progress

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from airflow_provider_gemini_batch.plugins.page.answers_rows import Wanted

ROWS = 500
"""Rows of a piece."""


def pieces_of(files: Sequence[str], kind: str, wanted: Wanted) -> Generator[bytes, None, None]:
    """
    Yield the rows that fit as JSON lines, after an empty piece.

    :param kind: ``.jsonl``, ``.csv`` or ``.parquet``.
    :raises PageError: Before the first piece, if these are no answers of ours or cannot be read.
    """
    is_local = all(local_path(each) is not None for each in files)
    if kind == ".jsonl":
        return _of_lines(files, wanted)
    if answers_tables.has_duckdb() and (kind == ".parquet" or is_local):
        return _of_table(files, kind, wanted)
    if kind == ".parquet":
        raise PageError(501, *answers_tables.NO_DUCKDB)
    return _of_csv(files, wanted)


def csv_rows(files: Sequence[str]) -> Generator[Mapping[str, Any], None, None]:
    """Yield the rows of CSV files."""
    for each in files:
        stream, _ = open_lines(each)
        with io.TextIOWrapper(stream, "utf-8", errors="replace", newline="") as text:
            for row in csv.DictReader(text):
                note_progress()
                yield row


def _of_lines(files: Sequence[str], wanted: Wanted) -> Generator[bytes, None, None]:
    prefix: str | None = None
    finder, words = None, wanted.words
    for each in files:
        stream, _ = open_lines(each)
        with stream:
            for _, block in blocks(stream, 0, answers_lines.BLOCK):
                if prefix is None:
                    first = next(candidates(block, None), None)
                    if first is None:
                        continue
                    prefix = prefix_in(list(decoded(first[1])))
                    finder = finder_of(wanted, prefix, block)
                    yield b""
                if any(wanted.filters):
                    found = (line for _, line in candidates(block, finder))
                    yield _joined(line for line in found if is_wanted(decoded(line), prefix, wanted, words))
                else:
                    yield block if block.endswith(b"\n") else block + b"\n"


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(line.rstrip(b"\r") + b"\n" for line in lines)


def _of_csv(files: Sequence[str], wanted: Wanted) -> Generator[bytes, None, None]:
    prefix, words = None, wanted.words
    with closing(csv_rows(files)) as source:
        while rows := list(islice(source, ROWS)):
            if prefix is None:
                prefix = prefix_in(list(rows[0]))
                yield b""
            yield _encoded(row for row in rows if is_wanted(row, prefix, wanted, words))


def _of_table(files: Sequence[str], kind: str, wanted: Wanted) -> Generator[bytes, None, None]:
    with answers_tables.fetched(files, kind) as paths, answers_tables.asked() as cursor:
        columns, query, values = answers_tables.query_of(cursor, paths, kind, wanted)
        yield b""
        result = cursor.execute(query, values)
        while rows := result.fetchmany(ROWS):
            yield _encoded(dict(zip(columns, row, strict=True)) for row in rows)


def _encoded(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n" for row in rows)
