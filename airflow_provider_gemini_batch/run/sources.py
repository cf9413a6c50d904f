# SPDX-License-Identifier: Apache-2.0
"""Where rows come from -> Parquet parts on local disk, each row numbered in the input's order."""

# * CSV, Parquet and a query over files go through DuckDB. CSV columns are text as written, since guessing would make
#   `01/02/2026` a date and `1.10` a number; an empty field is null.
# * JSONL, rows in memory and SQL cursors go through Python (`Stager`): the type of a column is the one that the
#   database declares, or else is found from all of its values, so that a million integers and one text are an error
#   that names the column, not a guess.
#
# The source is read once. Everything later reads the parts.

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.folder import list_files
from airflow_provider_gemini_batch.files.paths import normalise_path, not_found
from airflow_provider_gemini_batch.rows.line_batches import LineTooLongError, file_blocks
from airflow_provider_gemini_batch.run.cursor_types import declared_types
from airflow_provider_gemini_batch.run.input_files import FORMATS, fetched, format_of, header_of, object_of, unpacked
from airflow_provider_gemini_batch.run.input_table import ROW, Table, check_names
from airflow_provider_gemini_batch.run.parts import parts_in
from airflow_provider_gemini_batch.run.stager import Stager
from airflow_provider_gemini_batch.run.tables import columns_of, copy_to_parquet, quoted, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LONG_CSV_LINE = 20_000_000

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(\(\d+(\s*,\s*\d+)?\))?(\[\])*")


class Source(Protocol):
    """What can be read once into a :class:`Table`."""

    def read(self, engine: DuckDBPyConnection, folder: str) -> Table:
        """
        Read everything into Parquet parts below *folder*.

        :raises ConfigurationError: Naming file, line and column.
        """
        ...


# --- through Python -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowsSource:
    """
    Rows in memory, or from a generator.

    :param rows: Dicts; values may be what JSON knows, and dates, times, decimals, UUIDs and bytes.
    """

    rows: Iterable[Mapping[str, Any]]

    def read(self, engine: DuckDBPyConnection, folder: str) -> Table:
        """Read the rows."""
        # Frames are no lists of rows: iterated, they give columns, or names of columns.
        for way_out in ("to_dicts()", "to_dict('records')"):
            if hasattr(self.rows, "columns") and hasattr(self.rows, way_out.partition("(")[0]):
                raise ConfigurationError(
                    f"rows must be dicts, not a {type(self.rows).__name__}: give rows=frame.{way_out}."
                )
        with Stager(folder) as stager:
            for number, row in enumerate(self.rows, 1):
                if not isinstance(row, Mapping):
                    raise ConfigurationError(f"rows: row {number} must be a dict, not {row!r:.80}.")
                stager.add(row, f"rows: row {number}")
            return stager.table(engine)


@dataclass(frozen=True)
class CursorSource:
    """
    An open DB-API cursor whose query has been executed; a server-side one where the database has such.

    :param cursor: Has ``description`` and ``fetchmany``.
    """

    cursor: Any

    def read(self, engine: DuckDBPyConnection, folder: str) -> Table:
        """Read all rows, a thousand at a time."""
        batch = self.cursor.fetchmany(1000)
        if self.cursor.description is None:
            raise ConfigurationError("sql must be a query that returns rows.")
        columns = [str(column[0]) for column in self.cursor.description]
        # Before any row is read: a join may bring two columns of one name, of which a row as a dict would keep the last
        # alone.
        check_names(columns, "sql")
        number = 0
        with Stager(folder, columns, declared=declared_types(self.cursor)) as stager:
            while batch:
                for values in batch:
                    number += 1
                    stager.add(dict(zip(columns, values, strict=True)), f"sql: row {number}")
                batch = self.cursor.fetchmany(1000)
            return stager.table(engine)


# --- files ----------------------------------------------------------------------------------------------------------


def _lines(stream: BinaryIO, file: str) -> Iterator[bytes]:
    """Yield the lines of a file; the length of one is bounded, as a file without line ends would be read whole."""
    try:
        for block in file_blocks(stream):
            yield from block
    except LineTooLongError as fault:
        raise ConfigurationError(f"{file}: {fault}") from None


@dataclass(frozen=True)
class FileSource:
    """
    A file, a folder or a glob, local or in object storage.

    :param place: Files of a folder whose names begin with ``_`` or ``.`` are passed over.
    :param format: ``jsonl``, ``csv``, ``tsv`` or ``parquet``; None goes by the suffix, before ``.gz`` and ``.zst``.
    :param types: Types of CSV columns, in DuckDB's words; the others are text.
    :param as_json: Columns of JSON lines whose values are read as JSON text, whatever they are.
    :param is_own: Whether a run has written it: a quoted CSV field without a character is a text, not null.
    """

    place: Any
    format: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    as_json: frozenset[str] = frozenset()
    is_own: bool = False

    def read(self, engine: DuckDBPyConnection, folder: str) -> Table:
        """Read all files, in the order of their names."""
        place = normalise_path(self.place, "input_path")
        files = files_of(place, self.format)
        if not files:
            raise not_found(place)
        formats = {self.format or format_of(file) for file in files}
        if len(formats) > 1:
            raise ConfigurationError(f"{place!r} holds files of several formats: {', '.join(sorted(formats))}.")
        kind = formats.pop()
        if kind == "jsonl":
            return self._read_jsonl(engine, files, folder)
        if kind not in ("csv", "tsv", "parquet"):
            raise ConfigurationError(f"input_format must be jsonl, csv, tsv or parquet, not {kind!r}.")
        return self._read_columns(engine, files, folder, kind)

    def _read_jsonl(self, engine: DuckDBPyConnection, files: Sequence[str], folder: str) -> Table:
        with Stager(folder, as_json=self.as_json) as stager:
            for file in files:
                with unpacked(file) as stream:
                    for number, line in enumerate(_lines(stream, file), 1):
                        body = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
                        if body:
                            stager.add(object_of(body, file, number), f"{file}: line {number}")
            return stager.table(engine)

    def _read_columns(self, engine: DuckDBPyConnection, files: Sequence[str], folder: str, kind: str) -> Table:
        table = Table()
        for place, file in enumerate(files):
            part = os.path.join(folder, f"part-{place:05d}.parquet")
            with fetched(file, folder) as local:
                read = self._parquet(engine, local, file) if kind == "parquet" else self._csv(local, file, kind)
                columns = _described(engine, f"SELECT * FROM {read}", file)
                if table.parts and list(columns) != list(table.columns):
                    raise ConfigurationError(
                        f"{file!r} has the columns {', '.join(columns)}, and {files[0]!r} has "
                        f"{', '.join(table.columns)}: the files of one input must have the same ones."
                    )
                table.columns = table.columns or columns
                query = f"SELECT row_number() OVER () - 1 + {table.rows} AS {ROW}, * FROM {read}"
                size = os.path.getsize(local)
                with _naming(file):
                    rows = copy_to_parquet(engine, query, part, bytes_a_row=_bytes_a_row(engine, read, size, kind))
            if rows:
                table.parts.append(part)
                table.rows += rows
        return table

    def _parquet(self, engine: DuckDBPyConnection, local: str, file: str) -> str:
        if self.types:
            raise ConfigurationError("input_types is for CSV: Parquet brings its own types.")
        read = f"read_parquet({text(local)})"
        check_names(list(_described(engine, f"SELECT * FROM {read}", file)), file)
        return read

    def _csv(self, local: str, file: str, kind: str) -> str:
        delimiter = "\t" if kind == "tsv" else ","
        header = header_of(local, file, delimiter)
        check_names(header, file)
        if strange := [name for name in self.types if name not in header]:
            raise ConfigurationError(
                f"input_types names {', '.join(map(repr, strange))}, which {file!r} does not have."
            )
        for name, sql in self.types.items():
            if not isinstance(sql, str) or not _TYPE.fullmatch(sql):
                raise ConfigurationError(f"input_types[{name!r}] must be a type such as DATE or BIGINT, not {sql!r}.")
        columns = ", ".join(f"{text(name)}: {text(self.types.get(name, 'VARCHAR'))}" for name in header)
        compression = {".gz": "gzip", ".zst": "zstd"}.get(os.path.splitext(local)[1].lower(), "none")
        return (
            f"read_csv({text(local)}, auto_detect=false, columns={{{columns}}}, header=true, delim={text(delimiter)}, "
            f"quote='\"', escape='\"', nullstr='', strict_mode=true, "
            f"allow_quoted_nulls={str(not self.is_own).lower()}, "
            f"max_line_size={_LONG_CSV_LINE}, buffer_size={_LONG_CSV_LINE}, "
            f"compression={text(compression)})"
        )


def files_of(place: str, format: str | None = None) -> list[str]:
    """
    Return the files of an input, by name.

    A folder that a run has written is what its manifest names: parts that it does not name were never finished.
    """
    parts = parts_in(place) if format in (None, "parquet") else None
    return parts if parts is not None else list_files(place, suffixes=tuple(FORMATS) if format is None else None)


@dataclass(frozen=True)
class QuerySource:
    """
    A query that DuckDB runs over the worker's files: ``SELECT * FROM 'reviews.csv'``.

    :param parameters: For its placeholders.
    """

    sql: str
    parameters: Sequence[Any] | Mapping[str, Any] = ()

    def read(self, engine: DuckDBPyConnection, folder: str) -> Table:
        """Run the query."""
        query = self.sql.strip().rstrip(";").strip()
        if not query:
            raise ConfigurationError(f"sql must be a query, such as SELECT * FROM 'rows.csv', not {self.sql!r}.")
        part = os.path.join(folder, "part-00000.parquet")
        with _naming("sql"):
            if self.parameters:
                engine.execute(f"CREATE OR REPLACE TEMP TABLE gemini_query AS {query}", self.parameters)
                query = "SELECT * FROM gemini_query"
            columns = columns_of(engine, query)
            check_names(list(columns), "sql")
            rows = _copy_query(engine, query, columns, part)
            engine.execute("DROP TABLE IF EXISTS gemini_query")
            stored = columns_of(engine, f"SELECT * EXCLUDE {ROW} FROM read_parquet({text(part)})")
        return Table([part], rows, stored) if rows else Table()


_HUGE = re.compile(r"\bU?HUGEINT\b")


def _copy_query(engine: DuckDBPyConnection, query: str, columns: Mapping[str, str], part: str) -> int:
    """
    Write a query's rows to a Parquet part, and return their number.

    Parquet has no integers beyond 64 bits, and DuckDB would store 6.0 for a sum of 6: they become integers of 64 bits,
    or text where one does not fit.
    """
    import duckdb

    def selected(huge: str) -> str:
        shown = []
        for name, sql in columns.items():
            stored = "VARCHAR" if sql == '"NULL"' else _HUGE.sub(huge, sql)
            column = quoted(name)
            shown.append(column if stored == sql else f"CAST({column} AS {stored}) AS {column}")
        return f"SELECT row_number() OVER () - 1 AS {ROW}, {', '.join(shown)} FROM ({query})"

    try:
        return copy_to_parquet(engine, selected("BIGINT"), part, bytes_a_row=1000)
    except (duckdb.ConversionException, duckdb.OutOfRangeException):
        if not any(map(_HUGE.search, columns.values())):
            raise
        return copy_to_parquet(engine, selected("VARCHAR"), part, bytes_a_row=1000)


def _bytes_a_row(engine: DuckDBPyConnection, read: str, size: int, kind: str) -> float:
    if kind == "parquet":
        rows = engine.execute(f"SELECT count(*) FROM {read}").fetchone()
        return 4.0 * size / max(1, rows[0] if rows else 1)
    sample = engine.execute(f"SELECT avg(length(CAST(r AS VARCHAR))) FROM (SELECT r FROM {read} AS r LIMIT 1000)")
    found = sample.fetchone()
    return float(found[0] or 100) if found else 100.0


def _described(engine: DuckDBPyConnection, query: str, file: str) -> dict[str, str]:
    with _naming(file):
        return columns_of(engine, query)


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Put a file's name before what the engine says of it."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.IOException as fault:
        if "No space left" in str(fault):
            raise
        raise ConfigurationError(f"{what}: {_first_lines(fault)}") from None
    except duckdb.Error as fault:
        raise ConfigurationError(f"{what}: {_first_lines(fault)}") from None


# Advice about options that nobody can set here, and the query that we made of a file's name.
_AFTER_THE_FAULT = re.compile(r"Possible (?:fixes|[Ss]olutions?)|This type was|LINE \d+: DESCRIBE SELECT \* FROM read_")


def _first_lines(fault: Exception) -> str:
    told = _AFTER_THE_FAULT.split(str(fault))[0]
    shown = " ".join(told.split())
    return shown if len(shown) <= 500 else shown[:497] + "..."
