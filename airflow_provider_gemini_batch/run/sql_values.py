# SPDX-License-Identifier: Apache-2.0
"""Which type has a column in a database, and how does a value get there?"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.run.tables import quoted, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_gemini_batch.run.outputs import Table


COPY_BYTES = 1 << 16

_INT64 = 1 << 63
_DIGITS = re.compile(r"DECIMAL\((\d+),")
_ZONED = ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")
# What is in neither list is text.
_POSTGRES = {
    "BLOB": "BYTEA", "DOUBLE": "DOUBLE PRECISION", "FLOAT": "REAL", "BOOLEAN": "BOOLEAN", "TINYINT": "SMALLINT",
    "UTINYINT": "SMALLINT", "SMALLINT": "SMALLINT", "USMALLINT": "INTEGER", "INTEGER": "INTEGER", "UINTEGER": "BIGINT",
    "BIGINT": "BIGINT", "UBIGINT": "NUMERIC(20)", "HUGEINT": "NUMERIC(39)", "UHUGEINT": "NUMERIC(39)", "DATE": "DATE",
    "TIME": "TIME", "TIMESTAMP": "TIMESTAMP", "TIMESTAMP_NS": "TIMESTAMP", "INTERVAL": "INTERVAL", "UUID": "UUID",
    "JSON": "JSON", "TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE": "TIMESTAMP WITH TIME ZONE",
}  # fmt: skip
_SQLITE = {
    "BOOLEAN": "INTEGER", "DOUBLE": "REAL", "FLOAT": "REAL", "BLOB": "BLOB", "TINYINT": "INTEGER",
    "UTINYINT": "INTEGER", "SMALLINT": "INTEGER", "USMALLINT": "INTEGER", "INTEGER": "INTEGER", "UINTEGER": "INTEGER",
    "BIGINT": "INTEGER",
}  # fmt: skip
_AS_THEY_ARE = frozenset({*_SQLITE, "VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMP_NS", "UBIGINT", "JSON"})
"""Types whose values a driver takes; the values of all others are given as text."""

SQLITE_DIGITS = 15
"""Digits of a number that SQLite keeps; decimals with more are text there."""


def type_in(dialect: str, sql: str) -> str:
    """Return the type of a column of DuckDB's type *sql*; one that the database lacks is text, which loses nothing."""
    if dialect == "postgresql":
        known = _POSTGRES.get(sql) or (sql if sql.startswith("DECIMAL") else "TEXT")
        return "JSONB" if _is_nested(sql) else known
    digits = _DIGITS.match(sql)
    if digits is not None and int(digits[1]) <= SQLITE_DIGITS:
        return "NUMERIC"
    return _SQLITE.get(sql, "TEXT")


def values_of(rows: Table, dialect: str) -> Iterator[tuple[Any, ...]]:
    """Yield rows as the database takes them: lists and structs as JSON text, times in UTC."""
    selected = []
    for name, sql in rows.columns.items():
        column = quoted(name)
        if _is_nested(sql):
            selected.append(f"CAST(to_json({column}) AS VARCHAR)")
        elif sql in _ZONED:
            selected.append(f"strftime(CAST({column} AS TIMESTAMP), '%Y-%m-%d %H:%M:%S.%f+00')")
        elif sql in _AS_THEY_ARE or sql.startswith("DECIMAL"):
            selected.append(column)
        else:
            selected.append(f"CAST({column} AS VARCHAR)")
    for row in rows_of(rows.engine, f"SELECT {', '.join(selected)} FROM ({rows.query})"):
        yield tuple(map(_plain, row)) if dialect == "sqlite" else row


def _is_nested(sql: str) -> bool:
    return "[" in sql or sql.startswith(("STRUCT", "MAP", "UNION"))


def _plain(value: Any) -> Any:
    """Return a value as SQLite's driver takes it."""
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    is_long = isinstance(value, int) and not -_INT64 <= value < _INT64
    return str(value) if is_long or isinstance(value, decimal.Decimal) else value


class CsvStream(io.RawIOBase):
    """Rows as a CSV file that is read while it is made."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        super().__init__()
        self._rows = rows
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to *size* bytes."""
        while size < 0 or len(self._rest) < size:
            batch = list(islice(self._rows, 500))
            if not batch:
                break
            for row in batch:
                self._writer.writerow([_csv_value(value) for value in row])
            self._rest = memoryview(bytes(self._rest) + self._text.getvalue().encode())
            self._text.seek(0)
            self._text.truncate()
        end = len(self._rest) if size < 0 else size
        found, self._rest = bytes(self._rest[:end]), self._rest[end:]  # a view: what is left is not copied at each read
        return found


def copy_in(cursor: Any, statement: str, rows: CsvStream) -> None:
    """Send rows by COPY, which psycopg2 and psycopg 3 spell differently; Airflow's hook may have either."""
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(statement, rows, COPY_BYTES)
        return
    with cursor.copy(statement) as copy:
        while block := rows.read(COPY_BYTES):
            copy.write(block)


def _csv_value(value: Any) -> Any:
    if value is None:
        return "\\N"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, str) and "\x00" in value:
        # PostgreSQL has no text with a zero byte, and would refuse the whole COPY for one answer.
        return value.replace("\x00", "")
    return value
