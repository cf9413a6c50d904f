# SPDX-License-Identifier: Apache-2.0
"""
Where rows come from -> Parquet parts on local disk, each row numbered in the input's order.

* CSV, Parquet and a query over files go through DuckDB. CSV columns are text as written, since guessing would make
  ``01/02/2026`` a date and ``1.10`` a number; an empty field is null.
* JSONL, rows in memory and SQL cursors go through Python (:class:`Stager`): the type of a column is found from all of
  its values, so that a million integers and one text are an error that names the column, not a guess.

The source is read once. Everything later reads the parts.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import decimal
import gzip
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.folder import list_files
from airflow_provider_gemini_batch.files.paths import local_path, normalise_path, open_read
from airflow_provider_gemini_batch.run.schema import quoted
from airflow_provider_gemini_batch.run.tables import columns_of, copy_to_parquet, names, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ROW = "__gemini_row"
"""Name of the column with a row's number, counted from 0."""

MAX_ROW_BYTES = 32_000_000
_LONG_LINE = 2_000_000
_LONG_CSV_LINE = 20_000_000

Format = str
_FORMATS: Mapping[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
}  # fmt: skip
_COMPRESSED = (".gz", ".zst")
_INT64 = 1 << 63
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(\(\d+(\s*,\s*\d+)?\))?(\[\])*")

_encode = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical").encode
_decode = msgspec.json.Decoder().decode


@dataclass
class Table:
    """
    An input at rest.

    :param parts: Local Parquet files in order; their rows are numbered in :data:`ROW`.
    :param columns: DuckDB types by name, without :data:`ROW`.
    :param json_columns: Columns that hold JSON text; a template sees their values.
    :param mixed: What is wrong with a column whose values have several types; an error once it is used.
    """

    parts: list[str] = field(default_factory=list)
    rows: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    json_columns: frozenset[str] = frozenset()
    mixed: dict[str, str] = field(default_factory=dict)

    @property
    def query(self) -> str:
        """The rows in order, as a query."""
        files = ", ".join(map(text, self.parts))
        return f"SELECT * FROM read_parquet([{files}])"


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
        _check_names(columns, "sql")
        number = 0
        with Stager(folder, columns) as stager:
            while batch:
                for values in batch:
                    number += 1
                    stager.add(dict(zip(columns, values, strict=True)), f"sql: row {number}")
                batch = self.cursor.fetchmany(1000)
            return stager.table(engine)


class _Facts:
    """What the values of one column have been."""

    __slots__ = ("digits", "kinds", "scale")

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        """Kind of value -> where it was first seen."""
        self.digits = 0
        self.scale = 0


class Stager:
    """
    Rows of Python values -> one Parquet part, through a JSONL file and types found from all values.

    Used as a context; the JSONL file is removed with it.
    """

    def __init__(self, folder: str, columns: Sequence[str] = ()) -> None:
        self._folder = folder
        self._path = os.path.join(folder, "staged.jsonl")
        self._out = open(self._path, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by the context
        self._columns: dict[str, _Facts] = {name: _Facts() for name in columns}
        self._lowered = {name.lower(): name for name in columns}
        self._rows = 0
        self._longest = 0

    def __enter__(self) -> Stager:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Take a row in."""
        values = {}
        for name, value in row.items():
            facts = self._columns.get(name)
            if facts is None:
                facts = self._new_column(name, where)
            if value is None:
                continue
            kind = _KINDS.get(type(value)) or _kind_of(value, name, where)
            if kind == "integer":
                if not -_INT64 <= value < _INT64:
                    kind, value = "big integer", str(value)
            elif kind != "text":
                value = _storable(value, kind, facts, name, where)
            if kind not in facts.kinds:
                facts.kinds[kind] = where
            values[name] = value
        try:
            line = _encode(values)
        except (TypeError, ValueError, RecursionError) as fault:
            raise ConfigurationError(f"{where}: cannot be written as JSON ({fault}).") from None
        if len(line) > MAX_ROW_BYTES:
            raise ConfigurationError(f"{where}: has more than {MAX_ROW_BYTES:,} bytes.")
        self._longest = max(self._longest, len(line))
        self._out.write(line)
        self._out.write(b"\n")
        self._rows += 1

    def _new_column(self, name: Any, where: str) -> _Facts:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{where}: a column's name must be a text that is not empty, not {name!r}.")
        other = self._lowered.setdefault(name.lower(), name)
        if other != name:
            raise ConfigurationError(f"{where}: the columns {name!r} and {other!r} differ in case alone; rename one.")
        facts = self._columns[name] = _Facts()
        return facts

    def table(self, engine: DuckDBPyConnection) -> Table:
        """Write the part, and return the table."""
        self._out.flush()
        if not self._rows:
            return Table()
        types = {name: _type_of(facts) for name, facts in self._columns.items()}
        stored = ", ".join(f"{text(name)}: {text(_STORED.get(sql, sql))}" for name, (sql, _) in types.items())
        values = ", ".join(_loaded(name, sql) for name, (sql, _) in types.items())
        size = max(_LONG_LINE, self._longest + 1024)
        source = (
            f"read_json({text(self._path)}, format='newline_delimited', columns={{{stored}}}, "
            f"maximum_object_size={size}, auto_detect=false)"
        )
        part = os.path.join(self._folder, "part-00000.parquet")
        average = self._out.tell() / self._rows
        query = f"SELECT row_number() OVER () - 1 AS {ROW}, {values} FROM {source}"
        copy_to_parquet(engine, query, part, bytes_a_row=average)
        return Table(
            [part],
            self._rows,
            {name: "VARCHAR" if sql == "JSON" else sql for name, (sql, _) in types.items()},
            frozenset(name for name, (sql, _) in types.items() if sql == "JSON"),
            {name: why for name, (_, why) in types.items() if why},
        )


_KINDS: Mapping[type, str] = {
    str: "text", int: "integer", float: "number", bool: "true or false", dict: "an object", list: "a list",
    decimal.Decimal: "decimal", datetime.date: "date", datetime.time: "time", uuid.UUID: "uuid", bytes: "binary",
}  # fmt: skip


def _kind_of(value: Any, name: str, where: str) -> str:
    if isinstance(value, datetime.datetime):
        return "time without zone" if value.tzinfo is None else "time with zone"
    if isinstance(value, (memoryview, bytearray)):
        return "binary"
    if isinstance(value, tuple):
        return "a list"
    if isinstance(value, datetime.timedelta):
        return "duration"
    for kind, word in _KINDS.items():
        if isinstance(value, kind):
            return word
    raise ConfigurationError(f"{where}: column {name!r} holds {type(value).__name__}, which no table can; convert it.")


def _storable(value: Any, kind: str, facts: _Facts, name: str, where: str) -> Any:
    """Return a value as the JSONL file holds it."""
    if kind == "number":
        if value - value != 0:
            raise ConfigurationError(f"{where}: column {name!r} holds {value}, which is no number of JSON.")
    elif kind == "decimal":
        if not value.is_finite():
            raise ConfigurationError(f"{where}: column {name!r} holds {value}, which is no number.")
        _, digits, exponent = value.as_tuple()
        scale = max(0, -int(exponent))
        facts.scale = max(facts.scale, scale)
        facts.digits = max(facts.digits, len(digits) + max(0, int(exponent)) - scale)
        return format(value, "f")
    elif kind == "time with zone":
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
    elif kind == "time without zone":
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    elif kind == "binary":
        return bytes(value).hex()
    elif kind == "duration":
        return f"{value.total_seconds():.6f} seconds"
    return value


# Types that JSON has no word for are stored as text and cast.
_STORED = {
    "BLOB": "VARCHAR", "UUID": "VARCHAR", "DATE": "VARCHAR", "TIME": "VARCHAR", "TIMESTAMP": "VARCHAR",
    "TIMESTAMPTZ": "VARCHAR", "INTERVAL": "VARCHAR",
}  # fmt: skip
_SQL = {
    "text": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "true or false": "BOOLEAN", "an object": "JSON",
    "a list": "JSON", "date": "DATE", "time": "TIME", "uuid": "UUID", "binary": "BLOB", "big integer": "VARCHAR",
    "time without zone": "TIMESTAMP", "time with zone": "TIMESTAMPTZ", "duration": "INTERVAL",
}  # fmt: skip
# Kinds that one column may hold together.
_TOGETHER: Mapping[frozenset[str], str] = {
    frozenset({"integer", "number"}): "DOUBLE",
    frozenset({"integer", "big integer"}): "VARCHAR",
    frozenset({"an object", "a list"}): "JSON",
}


def _type_of(facts: _Facts) -> tuple[str, str]:
    """Return a column's type, and what is wrong with it."""
    kinds = frozenset(facts.kinds)
    if not kinds:
        return "VARCHAR", ""
    if kinds <= {"decimal", "integer"} and "decimal" in kinds:
        digits = max(facts.digits, 19 if "integer" in kinds else 1) + facts.scale
        return (f"DECIMAL({digits},{facts.scale})" if digits <= 38 else "VARCHAR"), ""
    if len(kinds) == 1:
        return _SQL[next(iter(kinds))], ""
    if kinds in _TOGETHER:
        return _TOGETHER[kinds], ""
    (one, first), (other, second) = list(facts.kinds.items())[:2]
    return "VARCHAR", f"{one} ({first}) and {other} ({second})"


def _loaded(name: str, sql: str) -> str:
    column = quoted(name)
    if sql == "BLOB":
        return f"unhex({column}) AS {column}"
    if sql == "JSON":
        return f"CAST({column} AS VARCHAR) AS {column}"
    return f"CAST({column} AS {sql}) AS {column}" if sql in _STORED or sql.startswith("DECIMAL") else column


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileSource:
    """
    A file, a folder or a glob, local or in object storage.

    :param place: Files of a folder whose names begin with ``_`` or ``.`` are passed over.
    :param format: ``jsonl``, ``csv``, ``tsv`` or ``parquet``; None goes by the suffix, before ``.gz`` and ``.zst``.
    :param types: Types of CSV columns, in DuckDB's words; the others are text.
    """

    place: Any
    format: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    def read(self, engine: DuckDBPyConnection, folder: str) -> Table:
        """Read all files, in the order of their names."""
        place = normalise_path(self.place, "input_path")
        files = list_files(place, suffixes=tuple(_FORMATS) if self.format is None else None)
        if not files:
            raise ConfigurationError(f"There is no file {place!r}.")
        formats = {self.format or _format_of(file) for file in files}
        if len(formats) > 1:
            raise ConfigurationError(f"{place!r} holds files of several formats: {', '.join(sorted(formats))}.")
        kind = formats.pop()
        if kind == "jsonl":
            return self._read_jsonl(engine, files, folder)
        if kind not in ("csv", "tsv", "parquet"):
            raise ConfigurationError(f"input_format must be jsonl, csv, tsv or parquet, not {kind!r}.")
        return self._read_columns(engine, files, folder, kind)

    def _read_jsonl(self, engine: DuckDBPyConnection, files: Sequence[str], folder: str) -> Table:
        with Stager(folder) as stager:
            for file in files:
                with _unpacked(file) as stream:
                    for number, line in enumerate(stream, 1):
                        body = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
                        if body:
                            stager.add(_object(body, file, number), f"{file}: line {number}")
            return stager.table(engine)

    def _read_columns(self, engine: DuckDBPyConnection, files: Sequence[str], folder: str, kind: str) -> Table:
        table = Table()
        for place, file in enumerate(files):
            part = os.path.join(folder, f"part-{place:05d}.parquet")
            with _fetched(file, folder) as local:
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
        _check_names(list(_described(engine, f"SELECT * FROM {read}", file)), file)
        return read

    def _csv(self, local: str, file: str, kind: str) -> str:
        delimiter = "\t" if kind == "tsv" else ","
        header = _header(local, file, delimiter)
        _check_names(header, file)
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
            f"max_line_size={_LONG_CSV_LINE}, buffer_size={_LONG_CSV_LINE}, "
            f"compression={text(compression)})"
        )


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
        query = self.sql.strip().rstrip(";")
        part = os.path.join(folder, "part-00000.parquet")
        with _naming("sql"):
            if self.parameters:
                engine.execute(f"CREATE OR REPLACE TEMP TABLE gemini_query AS {query}", self.parameters)
                query = "SELECT * FROM gemini_query"
            columns = columns_of(engine, query)
            _check_names(list(columns), "sql")
            numbered = f"SELECT row_number() OVER () - 1 AS {ROW}, {names(list(columns))} FROM ({query})"
            rows = copy_to_parquet(engine, numbered, part, bytes_a_row=1000)
            engine.execute("DROP TABLE IF EXISTS gemini_query")
        return Table([part], rows, columns) if rows else Table()


def _bytes_a_row(engine: DuckDBPyConnection, read: str, size: int, kind: str) -> float:
    if kind == "parquet":
        rows = engine.execute(f"SELECT count(*) FROM {read}").fetchone()
        return 4.0 * size / max(1, rows[0] if rows else 1)
    sample = engine.execute(f"SELECT avg(length(CAST(r AS VARCHAR))) FROM (SELECT r FROM {read} AS r LIMIT 1000)")
    found = sample.fetchone()
    return float(found[0] or 100) if found else 100.0


def _format_of(file: str) -> str:
    name = file.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    found = _FORMATS.get(os.path.splitext(name)[1])
    if found is None:
        raise ConfigurationError(
            f"The format of {file!r} does not show in its name: give input_format (jsonl, csv, tsv or parquet)."
        )
    return found


def _check_names(columns: Sequence[str], where: str) -> None:
    """Refuse names that are empty, or equal ignoring case."""
    seen: dict[str, str] = {}
    for name in columns:
        if not name:
            raise ConfigurationError(f"{where}: a column has no name.")
        other = seen.setdefault(name.lower(), name)
        if list(columns).count(name) > 1:
            raise ConfigurationError(f"{where}: the column {name!r} is there twice; rename one.")
        if other != name:
            raise ConfigurationError(f"{where}: the columns {name!r} and {other!r} differ in case alone; rename one.")


def _header(local: str, file: str, delimiter: str) -> list[str]:
    with _unpacked(local) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            header = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
        except UnicodeDecodeError as fault:
            raise ConfigurationError(f"{file!r} is not UTF-8 ({fault.reason}): convert it first.") from None
        except csv.Error as fault:
            raise ConfigurationError(f"{file!r}: the header cannot be read: {fault}.") from None
        finally:
            with contextlib.suppress(ValueError):
                lines.detach()
    if not header:
        raise ConfigurationError(f"{file!r} is empty: a CSV file begins with a line of column names.")
    return header


def _object(body: bytes, file: str, number: int) -> dict[str, Any]:
    try:
        row = _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as fault:
        raise ConfigurationError(f"{file}: line {number} is no JSON ({fault}).") from None
    if not isinstance(row, dict):
        raise ConfigurationError(f"{file}: line {number} must be a JSON object, not {type(row).__name__}.")
    return row


@contextlib.contextmanager
def _unpacked(file: str) -> Iterator[BinaryIO]:
    """Open a file of lines, uncompressed by its suffix."""
    with open_read(file) as raw:
        suffix = os.path.splitext(file)[1].lower()
        try:
            if suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as unzipped:
                    yield cast("BinaryIO", io.BufferedReader(cast("Any", unzipped), 1 << 20))
            elif suffix == ".zst":
                import zstandard

                with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as unpacked:
                    yield cast("BinaryIO", io.BufferedReader(cast("Any", unpacked), 1 << 20))
            else:
                yield raw
        except (gzip.BadGzipFile, EOFError) as fault:
            raise ConfigurationError(f"{file!r} cannot be unpacked: {fault}.") from None


@contextlib.contextmanager
def _fetched(file: str, folder: str) -> Iterator[str]:
    """Yield a local path of a file; what was fetched for that is removed."""
    local = local_path(file)
    if local is not None:
        with open_read(local):
            pass  # says what is wrong with it better than the engine does
        yield local
        return
    copy = os.path.join(folder, "fetched-" + file.rstrip("/").rsplit("/", 1)[-1])
    try:
        with open_read(file) as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        yield copy
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)


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


def _first_lines(fault: Exception) -> str:
    told = re.split(r"Possible (?:fixes|solutions)|This type was", str(fault))[0]
    shown = " ".join(told.split())
    return shown if len(shown) <= 500 else shown[:497] + "..."
