# SPDX-License-Identifier: Apache-2.0
"""
One page of landed answers, read from where they were landed; never the whole.

Two readers give the same page. DuckDB reads Parquet, and with it JSONL and CSV, from a local disk: only the columns and
row groups that are asked for. Without DuckDB, and for lines in object storage, the file is streamed and read for a few
seconds at most; what was not reached is said.

A path comes from an XCom, which people may write who may not read this server's disk. So nothing is shown of a file
that is not one of ours: its name must end as an output does, and its rows must carry our own columns.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.files.folder import list_files
from airflow_provider_gemini_batch.files.kinds import open_lines
from airflow_provider_gemini_batch.files.paths import local_path
from airflow_provider_gemini_batch.plugins.page.errors import NotHere, PageError

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = 50
SECONDS = 5.0
"""For how long lines are read for one page."""

LONGEST = 4_000
"""Characters of a value that are shown."""

KINDS = (".jsonl", ".csv", ".parquet")
_OURS = ("error_message", "finish_reason", "model_version")


@dataclass(frozen=True)
class Wanted:
    """
    Which rows.

    :param status: An outcome, ``failing`` for all but succeeded, or empty for all.
    :param search: Words that one of the row's values holds, whatever their case.
    """

    status: str = ""
    search: str = ""
    version: str = ""
    page: int = 1


@dataclass(frozen=True)
class AnswerPage:
    """
    Rows of a page, each a mapping of columns to values.

    :param prefix: Before the names of our own columns (``meta_prefix``).
    :param more: Whether there is a page after this one.
    :param stopped: Lines that were read when the time was over; 0 if it was not.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    prefix: str = ""
    more: bool = False
    stopped: int = 0
    took: float = 0.0
    columns: Sequence[str] = field(default_factory=list)


def read_page(place: str, wanted: Wanted) -> AnswerPage:
    """
    Read a page.

    :param place: Path, folder or URI.
    :raises PageError: If there is nothing, or nothing of ours.
    """
    began = time.monotonic()
    files = _files(place)
    kind = next(suffix for suffix in KINDS if _plain(files[0]).endswith(suffix))
    local = all(local_path(each) is not None for each in files)
    if _has_duckdb() and (local or kind == ".parquet"):
        found = _by_duckdb(files, kind, wanted, local)
    elif kind == ".parquet":
        raise PageError(
            501,
            "Parquet cannot be read here",
            "Install airflow-provider-gemini-batch[tables] where the API server runs.",
        )
    else:
        found = _by_lines(files, kind, wanted)
    return AnswerPage(**{**found.__dict__, "took": time.monotonic() - began})


def _files(place: str) -> list[str]:
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


def prefix_in(columns: Sequence[str]) -> str:
    """
    Return what stands before the names of our columns.

    :raises PageError: If these are not the columns of an output of ours.
    """
    names = set(columns)
    for name in columns:
        prefix = name.removesuffix("status")
        if name.endswith("status") and ({"error", "response"} & names or all(prefix + own in names for own in _OURS)):
            return prefix
    raise PageError(415, "These are no answers", "The file has not the columns that this provider writes.")


# --- DuckDB -----------------------------------------------------------------------------------------------------------


def _has_duckdb() -> bool:
    from importlib.util import find_spec

    return find_spec("duckdb") is not None


def _by_duckdb(files: Sequence[str], kind: str, wanted: Wanted, local: bool) -> AnswerPage:
    import tempfile

    import duckdb

    with tempfile.TemporaryDirectory(prefix="gemini-batch-page-") as folder:
        paths = [local_path(each) or each for each in files] if local else _fetched(files, folder)
        config: dict[str, Any] = {"memory_limit": "256MB", "threads": "1", "temp_directory": folder}
        with closing(duckdb.connect(config=config)) as database:
            return _queried(database, _source(paths, kind), wanted)


def _source(paths: Sequence[str], kind: str) -> str:
    listed = "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + "]"
    if kind == ".parquet":
        return f"read_parquet({listed}, union_by_name=true)"
    if kind == ".csv":
        return f"read_csv({listed}, all_varchar=true, header=true)"
    return f"read_json({listed}, format='newline_delimited', maximum_object_size=67108864, sample_size=2000)"


def _queried(database: Any, source: str, wanted: Wanted) -> AnswerPage:
    """Ask for one row more than a page has: that there are more is known without counting them."""
    import duckdb

    try:
        columns = [str(row[0]) for row in database.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
        prefix = prefix_in(columns)
        where, values = _condition(columns, prefix, wanted)
        query = f"SELECT * FROM {source} WHERE {where} LIMIT {PAGE + 1} OFFSET {(wanted.page - 1) * PAGE}"
        rows = database.execute(query, values).fetchall()
    except duckdb.Error as error:
        raise PageError(502, "The results file cannot be read", str(error).splitlines()[0][:300]) from error
    shown = [dict(zip(columns, row, strict=True)) for row in rows[:PAGE]]
    return AnswerPage(shown, prefix, len(rows) > PAGE, columns=columns)


def _condition(columns: Sequence[str], prefix: str, wanted: Wanted) -> tuple[str, list[Any]]:
    def name(column: str) -> str:
        return '"' + column.replace('"', '""') + '"'

    parts = ["TRUE"]
    values: list[Any] = []
    if wanted.status == "failing":
        parts.append(f"{name(prefix + 'status')} <> 'succeeded'")
    elif wanted.status:
        parts.append(f"{name(prefix + 'status')} = ?")
        values.append(wanted.status)
    if wanted.version and f"{prefix}model_version" in columns:
        parts.append(f"{name(prefix + 'model_version')} = ?")
        values.append(wanted.version)
    for word in wanted.search.split()[:8]:
        texts = [f"contains(lower(CAST({name(each)} AS VARCHAR)), ?)" for each in columns if each not in ("embedding",)]
        parts.append("(" + " OR ".join(texts) + ")")
        values += [word.lower()] * len(texts)
    return " AND ".join(parts), values


def _fetched(files: Sequence[str], folder: str) -> list[str]:
    """Copy files of object storage to *folder*, up to half a gigabyte."""
    import os
    import shutil

    from airflow_provider_gemini_batch.files.paths import open_read, remote_path

    sizes = [int(remote_path(each).stat().st_size) for each in files]
    if sum(sizes) > 512 * 1024 * 1024:
        raise PageError(
            413, "These answers are too large to be shown", "More than 512 MB in object storage: read them there."
        )
    paths = []
    for number, each in enumerate(files):
        paths.append(os.path.join(folder, f"{number}.parquet"))
        with open_read(each) as source, open(paths[-1], "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    return paths


# --- lines ------------------------------------------------------------------------------------------------------------


def _by_lines(files: Sequence[str], kind: str, wanted: Wanted) -> AnswerPage:
    until = time.monotonic() + SECONDS
    skip = (wanted.page - 1) * PAGE
    prefix: str | None = None
    rows: list[Mapping[str, Any]] = []
    columns: list[str] = []
    words = wanted.search.lower().split()[:8]
    for seen, row in enumerate(_rows(files, kind), start=1):
        if prefix is None:
            columns = list(row)
            prefix = prefix_in(columns)
        if _is_wanted(row, prefix, wanted, words):
            if skip:
                skip -= 1
            elif len(rows) == PAGE:
                return AnswerPage(rows, prefix, True, columns=columns)
            else:
                rows.append(row)
        if seen % 500 == 0 and time.monotonic() > until:
            return AnswerPage(rows, prefix, stopped=seen, columns=columns)
    return AnswerPage(rows, prefix or "", False, columns=columns)


def _rows(files: Sequence[str], kind: str) -> Iterator[Mapping[str, Any]]:
    for each in files:
        stream, _ = open_lines(each)
        with stream:
            if kind == ".csv":
                text = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="")
                yield from csv.DictReader(text)
                continue
            for line in stream:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    raise PageError(415, "These are no answers", "The file is not JSON, line by line.") from None
                if not isinstance(row, dict):
                    raise PageError(
                        415, "These are no answers", "The file has not the columns that this provider writes."
                    )
                yield row


def _is_wanted(row: Mapping[str, Any], prefix: str, wanted: Wanted, words: Sequence[str]) -> bool:
    status = row.get(f"{prefix}status")
    if wanted.status == "failing":
        if status == "succeeded":
            return False
    elif wanted.status and status != wanted.status:
        return False
    if wanted.version and row.get(f"{prefix}model_version") != wanted.version:
        return False
    if not words:
        return True
    text = json.dumps([value for name, value in row.items() if name != "embedding"], ensure_ascii=False, default=str)
    return all(word in text.lower() for word in words)
