# SPDX-License-Identifier: Apache-2.0
"""One page of landed answers, read from where they were landed; never the whole."""

# JSON lines are read by `answers_lines.py`, Parquet and CSV by `answers_tables.py`; CSV also without DuckDB. What they
# find is kept for a while (`kept.py`). Few read at once (`storage_reads.py`), so that Airflow's own routes go on.
#
# A path comes from an XCom, which people may write who may not read this server's disk. So nothing is shown of a file
# that is not one of ours: its name must end as an output does, and its rows must carry our own columns.

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.files.folder import list_files
from airflow_provider_gemini_batch.files.paths import local_path, remote_path
from airflow_provider_gemini_batch.plugins.page import answers_lines, answers_tables
from airflow_provider_gemini_batch.plugins.page.answers_pass import csv_rows
from airflow_provider_gemini_batch.plugins.page.answers_rows import PAGE, AnswerPage, Wanted, is_wanted, prefix_in
from airflow_provider_gemini_batch.plugins.page.errors import NotHere, PageError
from airflow_provider_gemini_batch.plugins.page.kept import Kept
from airflow_provider_gemini_batch.plugins.page.storage_reads import note_progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST = 4_000
"""Characters of a value that are shown."""

KINDS = (".jsonl", ".csv", ".parquet")

_kept: Kept[Any] = Kept(answers_tables.close)


def read_page(place: str, wanted: Wanted) -> AnswerPage:
    """
    Read a page.

    :param place: Path, folder or URI.
    :raises PageError: If there is nothing, or nothing of ours.
    """
    began = time.monotonic()
    files = files_of(place)
    kind = kind_of(files[0])
    state = tuple((each, *_state_of(each)) for each in files)
    if kind == ".jsonl":
        index: Any = _kept.get((state, wanted.filters), lambda: answers_lines.LineIndex(files, wanted))
    elif answers_tables.has_duckdb() and (kind == ".parquet" or all(local_path(each) is not None for each in files)):
        index = _kept.get((state, wanted.filters), lambda: answers_tables.TableIndex(files, kind, wanted))
    elif kind == ".parquet":
        raise PageError(501, *answers_tables.NO_DUCKDB)
    else:
        return replace(_by_csv(files, wanted), took=time.monotonic() - began)
    found: AnswerPage = index.read(wanted.page, answers_lines.SECONDS)
    return replace(found, took=time.monotonic() - began)


def release() -> None:
    """Drop all that is kept of files, at once."""
    _kept.drop()


def touch() -> None:
    """Have all that is kept dropped some time after now, as after a page."""
    _kept.touch()


def kind_of(path: str) -> str:
    """Return which of :data:`KINDS` a file is of, by its name."""
    return next(suffix for suffix in KINDS if _plain(path).endswith(suffix))


def _state_of(path: str) -> tuple[Any, ...]:
    """Return what changes when a file is written anew."""
    note_progress()
    local = local_path(path)
    if local is not None:
        found = os.stat(local)
        return found.st_size, found.st_mtime_ns, found.st_ino
    target = remote_path(path)
    target.fs.invalidate_cache()
    told = target.fs.info(target.path)
    names = ("size", "ETag", "etag", "generation", "md5Hash", "LastModified", "updated", "mtime", "last_modified")
    return tuple(str(told.get(name)) for name in names)


def files_of(place: str) -> list[str]:
    """
    Return the files of an output.

    :raises PageError: If there are none.
    """
    if any(mark in place for mark in "*?["):
        raise PageError(400, "These answers cannot be shown", "Their place is no single file or folder.")
    files = [each for each in list_files(place, KINDS) if _plain(each).endswith(KINDS)][:1000]
    if not files:
        raise NotHere(
            "These answers are no longer here",
            f"The API server does not see {place}: it was removed or replaced, or lies on a disk of the workers.",
        )
    return files


def _plain(name: str) -> str:
    return name.lower().removesuffix(".gz").removesuffix(".zst")


# --- CSV without DuckDB -----------------------------------------------------------------------------------------------


def _by_csv(files: Sequence[str], wanted: Wanted) -> AnswerPage:
    until = time.monotonic() + answers_lines.SECONDS
    skip = (wanted.page - 1) * PAGE
    prefix: str | None = None
    rows: list[Mapping[str, Any]] = []
    columns: list[str] = []
    with closing(csv_rows(files)) as source:
        for seen, row in enumerate(source, start=1):
            if prefix is None:
                columns = list(row)
                prefix = prefix_in(columns)
            if is_wanted(row, prefix, wanted, wanted.words):
                if skip:
                    skip -= 1
                elif len(rows) == PAGE:
                    return AnswerPage(rows, prefix, True, columns=columns)
                else:
                    rows.append(row)
            if seen % 500 == 0 and time.monotonic() > until:
                return AnswerPage(rows, prefix, stopped=seen, columns=columns)
    return AnswerPage(rows, prefix or "", False, columns=columns)
