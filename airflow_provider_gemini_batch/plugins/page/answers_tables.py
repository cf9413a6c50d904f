# SPDX-License-Identifier: Apache-2.0
"""Pages of Parquet and CSV, read by DuckDB: only the columns and row groups that are asked for."""

# One database in memory serves all requests, each with a cursor of its own: to make one costs as much as a page. It is
# closed with all else that the page keeps (`kept.py`). What a filter of Parquet has found are numbers of rows, so that
# the next page, and the next person, need no second search.

from __future__ import annotations

import os
import tempfile
import threading
from array import array
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.files.paths import local_path, open_read, remote_path
from airflow_provider_gemini_batch.plugins.page.answers_rows import PAGE, AnswerPage, Wanted, condition, prefix_in
from airflow_provider_gemini_batch.plugins.page.errors import PageError
from airflow_provider_gemini_batch.plugins.page.storage_reads import ReadLock, note_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NO_DUCKDB = (
    "Parquet cannot be read here",
    "Install airflow-provider-gemini-batch[tables] where the API server runs.",
)

MOST_FETCHED = 512 * 1024 * 1024
"""Bytes that are copied from object storage."""

KEPT_ROWS = 5_000
"""Rows of a filter whose numbers are kept; pages after them are searched for anew."""


class TableIndex:
    """
    What is known of the rows of one filter.

    :param files: Paths or URIs, in order.
    :param kind: ``.parquet`` or ``.csv``.
    """

    def __init__(self, files: Sequence[str], kind: str, wanted: Wanted) -> None:
        self.files, self.kind, self.wanted = files, kind, wanted
        self.lock = ReadLock()
        self._numbers: array[int] | None = None
        self._shared: dict[int, AnswerPage] = {}
        self._waiting = 0

    @property
    def size(self) -> int:
        """Bytes that this holds, roughly."""
        return 2000 + 8 * len(self._numbers or ())

    def read(self, page: int, seconds: float) -> AnswerPage:
        """
        Read a page. Those who ask for the same one meanwhile get what the first one reads; then it is forgotten.

        :raises PageError: If these are no answers of ours, or cannot be read.
        """
        self._waiting += 1
        try:
            with self.lock:
                if page not in self._shared:
                    self._shared[page] = self._read(page)
                return self._shared[page]
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._shared.clear()

    def _read(self, page: int) -> AnswerPage:
        wanted = Wanted(self.wanted.status, self.wanted.search, self.wanted.version, page)
        with fetched(self.files, self.kind) as paths, asked() as cursor:
            return self._queried(cursor, paths, wanted)

    def _queried(self, cursor: Any, paths: Sequence[str], wanted: Wanted) -> AnswerPage:
        """Ask for one row more than a page has: that there are more is known without counting them."""
        source, columns, prefix, where, values = _asked_for(cursor, paths, self.kind, wanted)
        first = (wanted.page - 1) * PAGE
        if any(wanted.filters) and self.kind == ".parquet" and len(paths) == 1 and first + PAGE < KEPT_ROWS:
            numbered = _source(paths, self.kind, ", file_row_number=true")
            return self._numbered(cursor, numbered, where, values, columns, prefix, first)
        query = f"SELECT * FROM {source} WHERE {where} LIMIT {PAGE + 1} OFFSET {first}"
        rows = cursor.execute(query, values).fetchall()
        return _page(rows[:PAGE], columns, prefix, len(rows) > PAGE)

    def _numbered(
        self,
        cursor: Any,
        source: str,
        where: str,
        values: Sequence[Any],
        columns: Sequence[str],
        prefix: str,
        first: int,
    ) -> AnswerPage:
        """Read rows by their numbers, which are searched for once."""
        if self._numbers is None:
            query = f"SELECT file_row_number FROM {source} WHERE {where} LIMIT {KEPT_ROWS}"
            self._numbers = array("Q", (row[0] for row in cursor.execute(query, values).fetchall()))
        numbers = self._numbers[first : first + PAGE]
        rows: list[Any] = []
        if numbers:
            listed = ", ".join(map(str, numbers))
            rows = cursor.execute(f"SELECT * FROM {source} WHERE file_row_number IN ({listed})").fetchall()
        found = len(self._numbers) if len(self._numbers) < KEPT_ROWS else None
        return _page(rows, columns, prefix, len(self._numbers) > first + PAGE, found)


def _page(rows: Sequence[Any], columns: Sequence[str], prefix: str, more: bool, found: int | None = None) -> AnswerPage:
    # Rows by number carry that number behind the columns.
    named = [dict(zip(columns, row, strict=False)) for row in rows]
    return AnswerPage(named, prefix, more, columns=columns, found=found)


# --- DuckDB -----------------------------------------------------------------------------------------------------------


@dataclass
class _Database:
    """DuckDB's connection, which takes its cursors along when it is closed: whoever reads is waited for."""

    connection: Any
    users: int = 0
    is_dropped: bool = False

    def close_if_unused(self) -> None:
        if self.is_dropped and not self.users:
            self.connection.close()


_databases: list[_Database] = []
_making = threading.Lock()


def has_duckdb() -> bool:
    """Say whether DuckDB is installed."""
    from importlib.util import find_spec

    return find_spec("duckdb") is not None


@contextmanager
def asked() -> Iterator[Any]:
    """
    Give a cursor.

    :raises PageError: For what DuckDB cannot read.
    """
    import duckdb

    with _making:
        if not _databases:
            # Small on purpose: this is the API server's process. A query that needs more fails with an error on the
            # page.
            config: dict[str, Any] = {"memory_limit": "128MB", "threads": "1", "temp_directory": ""}
            _databases.append(_Database(duckdb.connect(config=config)))
        database = _databases[0]
        made = database.connection.cursor()
        database.users += 1
    try:
        with closing(made) as cursor:
            yield cursor
    except duckdb.Error as error:
        raise PageError(502, "The results file cannot be read", str(error).splitlines()[0][:300]) from error
    finally:
        with _making:
            database.users -= 1
            database.close_if_unused()


def query_of(cursor: Any, paths: Sequence[str], kind: str, wanted: Wanted) -> tuple[list[str], str, list[Any]]:
    """
    Return the columns of local files, the query of the rows that fit, and its values.

    :raises PageError: If these are no answers of ours.
    """
    source, columns, _, where, values = _asked_for(cursor, paths, kind, wanted)
    return columns, f"SELECT * FROM {source} WHERE {where}", values


def _asked_for(
    cursor: Any, paths: Sequence[str], kind: str, wanted: Wanted
) -> tuple[str, list[str], str, str, list[Any]]:
    source = _source(paths, kind)
    columns = [str(row[0]) for row in cursor.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    prefix = prefix_in(columns)
    return source, columns, prefix, *_condition(columns, prefix, wanted)


def close() -> None:
    """Close the database, once nobody reads with it any more; the next request makes another."""
    with _making:
        for each in _databases:
            each.is_dropped = True
            each.close_if_unused()
        _databases.clear()


def _source(paths: Sequence[str], kind: str, more: str = "") -> str:
    """Return what DuckDB reads files by; *more* are further options of Parquet."""
    listed = "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + "]"
    if kind == ".parquet":
        return f"read_parquet({listed}, union_by_name=true{more})"
    # As text: a type that DuckDB guesses from the first rows may not hold for a later page.
    return f"read_csv({listed}, all_varchar=true, header=true)"


def _condition(columns: Sequence[str], prefix: str, wanted: Wanted) -> tuple[str, list[Any]]:
    if f"{prefix}model_version" not in columns:
        wanted = replace(wanted, version="")
    where, values = condition(columns, prefix, wanted, "?", "contains(lower(CAST({} AS VARCHAR)), ?)", str)
    return where or "TRUE", values


@contextmanager
def fetched(files: Sequence[str], kind: str) -> Iterator[list[str]]:
    """
    Give local paths of files: copies of those in object storage, for the time of the block.

    :raises PageError: If that would be more than half a gigabyte.
    """
    if all(local_path(each) is not None for each in files):
        yield [local_path(each) or each for each in files]
        return
    # Asked before anything is fetched, since a request that runs for minutes is cut off by proxies.
    sizes = [int(remote_path(each).stat().st_size) for each in files]
    if sum(sizes) > MOST_FETCHED:
        raise PageError(
            413, "These answers are too large to be shown", "More than 512 MB in object storage: read them there."
        )
    with tempfile.TemporaryDirectory(prefix="gemini-batch-page-") as folder:
        paths = []
        for number, each in enumerate(files):
            paths.append(os.path.join(folder, f"{number}{kind}"))
            with open_read(each) as source, open(paths[-1], "wb") as target:
                while piece := source.read(1 << 20):
                    note_progress()
                    target.write(piece)
        yield paths
