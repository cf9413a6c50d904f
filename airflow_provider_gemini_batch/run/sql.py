# SPDX-License-Identifier: Apache-2.0
"""
The table -> a database: upserted by key, in one transaction.

Rows go to a staging table of this connection first. One statement then moves them in key order, so that two writers
take their locks in the same order; a deadlock is tried again, three times in all. A reader sees all of it or nothing.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import re
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.tables import quoted, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_provider_gemini_batch.run.outputs import Table

TRIES = 3
VALUES_ROWS = 500
_COPY_BYTES = 1 << 16
STAGING = "gemini_batch_staging"

_INT64 = 1 << 63
_DIGITS = re.compile(r"DECIMAL\((\d+),")
_NAME = re.compile(r"[^\x00.\"]+")
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


class SqlTarget:
    """
    A database that a run writes to.

    :param connect: Returns a new DB-API connection.
    :param dialect: ``postgresql`` or ``sqlite``.
    """

    def __init__(
        self, connect: Callable[[], Any], dialect: str, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if dialect not in ("postgresql", "sqlite"):
            raise ConfigurationError(
                f"output_table cannot be in a {dialect} database: PostgreSQL and SQLite are tested, others are not. "
                "Write Parquet by output_path and load it with the database's own operator."
            )
        self._connect = connect
        self._dialect = dialect
        self._sleep = sleep

    def check(self, table: str, columns: Mapping[str, str], keys: Sequence[str], *, may_create: bool = True) -> None:
        """
        Make sure that the table can take the rows, and create it if it is not there.

        :param may_create: False changes nothing: a table that is not there is fine.
        :raises ConfigurationError: Naming the column, the index or the right that is missing.
        """
        name = qualified(table)
        connection = self._connect()
        try:
            present = _columns_of(connection, name)
            if present is None:
                if not may_create:
                    return
                self._create(connection, table, columns, keys)
                present = _columns_of(connection, name)
            if present is None:
                raise ConfigurationError(
                    f"The table {table} is there and cannot be read, which the upsert has to. Grant the right (SELECT)."
                )
            if absent := [column for column in columns if column not in present]:
                raise ConfigurationError(
                    f"The table {table} has no column {', '.join(absent)}. Add it, leave it out by keep_columns, or "
                    "change our columns' names by meta_prefix."
                )
            if not self._has_unique_index(connection, table, keys):
                raise ConfigurationError(
                    f"The table {table} needs a unique index on ({', '.join(keys)}) and nothing else, for the upsert."
                )
            self._try_writing(connection, name, columns, keys)
        finally:
            connection.close()

    def _create(self, connection: Any, table: str, columns: Mapping[str, str], keys: Sequence[str]) -> None:
        typed = ", ".join(
            f"{quoted(name)} {self._type(sql)}{' NOT NULL' if name in keys else ''}" for name, sql in columns.items()
        )
        key = ", ".join(map(quoted, keys))
        try:
            connection.cursor().execute(f"CREATE TABLE IF NOT EXISTS {qualified(table)} ({typed}, PRIMARY KEY ({key}))")
            connection.commit()
        except Exception as fault:
            connection.rollback()
            if passes(fault):
                raise _without_values(fault) from None
            raise ConfigurationError(
                f"The table {table} can be neither read nor created: {_first_line(fault)}. Create it with the columns "
                f"{', '.join(columns)} and a unique index on ({', '.join(keys)}), and grant the right to write it."
            ) from None

    def _type(self, sql: str) -> str:
        """Return a column's type; one that the database lacks is text, which loses nothing."""
        if self._dialect == "postgresql":
            known = _POSTGRES.get(sql) or (sql if sql.startswith("DECIMAL") else "TEXT")
            return "JSONB" if _is_nested(sql) else known
        digits = _DIGITS.match(sql)
        if digits is not None and int(digits[1]) <= SQLITE_DIGITS:
            return "NUMERIC"
        return _SQLITE.get(sql, "TEXT")

    def _has_unique_index(self, connection: Any, table: str, keys: Sequence[str]) -> bool:
        cursor = connection.cursor()
        if self._dialect == "sqlite":
            return sorted(keys) in self._sqlite_indices(cursor, table)
        cursor.execute(
            "SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_index i "
            "JOIN pg_attribute a ON a.attrelid = i.indrelid "
            "AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]) "
            "WHERE i.indrelid = %s::regclass AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL "
            "GROUP BY i.indexrelid",
            (qualified(table),),
        )
        return sorted(keys) in [sorted(row[0]) for row in cursor.fetchall()]

    def _sqlite_indices(self, cursor: Any, table: str) -> list[list[str]]:
        schema, _, name = table.rpartition(".")
        prefix = f"{quoted(schema)}." if schema else ""
        cursor.execute(f"PRAGMA {prefix}table_info({quoted(name)})")
        primary = sorted(str(row[1]) for row in cursor.fetchall() if row[5])
        cursor.execute(f"PRAGMA {prefix}index_list({quoted(name)})")
        found = [primary]
        for index in [str(row[1]) for row in cursor.fetchall() if row[2] and not (len(row) > 4 and row[4])]:
            cursor.execute(f"PRAGMA {prefix}index_info({quoted(index)})")
            found.append(sorted(str(row[2]) for row in cursor.fetchall()))
        return found

    def _try_writing(self, connection: Any, name: str, columns: Mapping[str, str], keys: Sequence[str]) -> None:
        listed = ", ".join(map(quoted, columns))
        try:
            cursor = connection.cursor()
            cursor.execute(f"CREATE TEMPORARY TABLE {STAGING} AS SELECT {listed} FROM {name} WHERE 1 = 0")
            # No row comes of it, but the database looks at the rights and types of all that the upsert will do.
            cursor.execute(
                f"INSERT INTO {name} ({listed}) SELECT {listed} FROM {STAGING} WHERE 1 = 0 "
                + self._on_conflict(columns, keys)
            )
        except Exception as fault:
            if passes(fault):
                raise _without_values(fault) from None
            raise ConfigurationError(f"{name} cannot be written: {_first_line(fault)}.") from None
        finally:
            connection.rollback()

    def _on_conflict(self, columns: Mapping[str, str], keys: Sequence[str]) -> str:
        updates = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in columns if name not in keys)
        return f"ON CONFLICT ({', '.join(map(quoted, keys))}) DO UPDATE SET {updates}"

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, table: str, rows: Table, keys: Sequence[str]) -> None:
        """Upsert all rows, in one transaction."""
        for attempt in range(1, TRIES + 1):
            connection = self._connect()
            try:
                self._write(connection, qualified(table), rows, keys)
                connection.commit()
                return
            except Exception as fault:
                connection.rollback()
                if attempt == TRIES or not _is_deadlock(fault):
                    # A driver's text may hold a row's values, which are nobody's business in a log.
                    raise _without_values(fault) from None
            finally:
                connection.close()
            self._sleep(attempt * 1.0)

    def _write(self, connection: Any, name: str, rows: Table, keys: Sequence[str]) -> None:
        cursor = connection.cursor()
        listed = ", ".join(map(quoted, rows.columns))
        cursor.execute(f"CREATE TEMPORARY TABLE {STAGING} AS SELECT {listed} FROM {name} WHERE 1 = 0")
        if self._dialect == "postgresql":
            _copy(
                cursor,
                f"COPY {STAGING} ({listed}) FROM STDIN WITH (FORMAT csv, NULL '\\N')",
                _CsvStream(self._values(rows)),
            )
        else:
            self._insert(cursor, rows, listed)
        order = ", ".join(map(quoted, keys))
        # SQLite takes ON CONFLICT after a SELECT only behind a WHERE.
        cursor.execute(
            f"INSERT INTO {name} ({listed}) SELECT {listed} FROM {STAGING} WHERE TRUE ORDER BY {order} "
            f"{self._on_conflict(rows.columns, keys)}"
        )
        cursor.execute(f"DROP TABLE {STAGING}")

    def _insert(self, cursor: Any, rows: Table, listed: str) -> None:
        marks = f"({', '.join('?' * len(rows.columns))})"
        per_statement = max(1, min(VALUES_ROWS, 30_000 // max(1, len(rows.columns))))
        values = self._values(rows)
        while batch := list(islice(values, per_statement)):
            flat = [value for row in batch for value in row]
            cursor.execute(f"INSERT INTO {STAGING} ({listed}) VALUES {', '.join([marks] * len(batch))}", flat)

    def _values(self, rows: Table) -> Iterator[tuple[Any, ...]]:
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
            yield tuple(map(_plain, row)) if self._dialect == "sqlite" else row


def _columns_of(connection: Any, name: str) -> list[str] | None:
    """Return a table's columns; None if it cannot be read."""
    cursor = connection.cursor()
    try:
        cursor.execute(f"SELECT * FROM {name} WHERE 1 = 0")
    except Exception as fault:
        if passes(fault):
            raise _without_values(fault) from None
        connection.rollback()
        return None
    return [str(column[0]) for column in cursor.description]


def _is_nested(sql: str) -> bool:
    return "[" in sql or sql.startswith(("STRUCT", "MAP", "UNION"))


def _plain(value: Any) -> Any:
    """Return a value as SQLite's driver takes it."""
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    is_long = isinstance(value, int) and not -_INT64 <= value < _INT64
    return str(value) if is_long or isinstance(value, decimal.Decimal) else value


class _CsvStream(io.RawIOBase):
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


def _copy(cursor: Any, statement: str, rows: _CsvStream) -> None:
    """Send rows by COPY, which psycopg2 and psycopg 3 spell differently; Airflow's hook may have either."""
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(statement, rows, _COPY_BYTES)
        return
    with cursor.copy(statement) as copy:
        while block := rows.read(_COPY_BYTES):
            copy.write(block)


def _csv_value(value: Any) -> Any:
    if value is None:
        return "\\N"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, str) and "\x00" in value:
        return value.replace("\x00", "")
    return value


def qualified(table: str) -> str:
    """
    Return a table's name as SQL writes it, so that case and odd characters stay.

    :raises ConfigurationError: If it is no name.
    """
    parts = table.split(".")
    if len(parts) > 3 or not all(_NAME.fullmatch(part) for part in parts):
        raise ConfigurationError(f"output_table must be a table's name, as table or schema.table, not {table!r}.")
    return ".".join(map(quoted, parts))


def _is_deadlock(fault: Exception) -> bool:
    code = getattr(fault, "pgcode", None) or getattr(fault, "sqlstate", None)
    return code in ("40P01", "40001") or "database is locked" in str(fault)


_PASSING_CLASSES = ("08", "40", "53", "57", "58")
"""Classes of SQLSTATE: connection, rollback, resources, an operator's intervention, the system."""
_LOCK_NOT_AVAILABLE = "55P03"


def passes(fault: Exception) -> bool:
    """Say whether a database's fault may be gone at the next attempt: a lock, a lost connection, a full server."""
    code = getattr(fault, "pgcode", None) or getattr(fault, "sqlstate", None)
    if code:
        return code[:2] in _PASSING_CLASSES or code == _LOCK_NOT_AVAILABLE
    if type(fault).__module__.startswith("psycopg"):
        return type(fault).__name__ in ("OperationalError", "InterfaceError")  # no code: the link itself
    return "database is locked" in str(fault)


def _first_line(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0].rstrip(".")


def _without_values(fault: Exception) -> Exception:
    """Return a database's error without the lines in which it shows values."""
    from airflow_provider_gemini_batch.errors import GeminiBatchError

    if isinstance(fault, GeminiBatchError):
        return fault
    return GeminiBatchError(f"The database refused; nothing was changed: {_first_line(fault)}.")
