# SPDX-License-Identifier: Apache-2.0
"""The table -> a database: upserted by key, in one transaction."""

# Rows go to a staging table of this connection first. One statement then moves them in key order, so that two writers
# take their locks in the same order; a deadlock is tried again, three times in all. A reader sees all of it or nothing.

from __future__ import annotations

import re
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.sql_faults import first_line, is_deadlock, passes, without_values
from airflow_provider_gemini_batch.run.sql_fit import Fit
from airflow_provider_gemini_batch.run.sql_values import CsvStream, copy_in, type_in, values_of
from airflow_provider_gemini_batch.run.tables import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_gemini_batch.run.outputs import Table
    from airflow_provider_gemini_batch.run.sql_fit import Written

TRIES = 3
VALUES_ROWS = 500
STAGING = "gemini_batch_staging"

_NAME = re.compile(r"[^\x00.\"]+")


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

    def check(self, table: str, written: Written, *, may_create: bool = True) -> None:
        """
        Make sure that the table can take the rows, and create it if it is not there.

        :param written: What comes there.
        :param may_create: False changes nothing: a table that is not there is fine.
        :raises ConfigurationError: Naming the column, the index or the right that is missing, or the type that does not
            fit.
        """
        name, columns, keys = qualified(table), written.columns, written.keys
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
            # A table is never altered: what a user's table looks like is the user's business, and the error names every
            # column.
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
            self._try_values(connection, name, written)
        finally:
            connection.close()

    def _create(self, connection: Any, table: str, columns: Mapping[str, str], keys: Sequence[str]) -> None:
        typed = ", ".join(
            f"{quoted(name)} {type_in(self._dialect, sql)}{' NOT NULL' if name in keys else ''}"
            for name, sql in columns.items()
        )
        key = ", ".join(map(quoted, keys))
        try:
            connection.cursor().execute(f"CREATE TABLE IF NOT EXISTS {qualified(table)} ({typed}, PRIMARY KEY ({key}))")
            connection.commit()
        except Exception as fault:
            connection.rollback()
            if passes(fault):
                raise without_values(fault) from None
            raise ConfigurationError(
                f"The table {table} can be neither read nor created: {first_line(fault)}. Create it with the columns "
                f"{', '.join(columns)} and a unique index on ({', '.join(keys)}), and grant the right to write it."
            ) from None

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
                raise without_values(fault) from None
            raise ConfigurationError(f"{name} cannot be written: {first_line(fault)}.") from None
        finally:
            connection.rollback()

    def _try_values(self, connection: Any, name: str, written: Written) -> None:
        try:
            cursor = connection.cursor()
            if self._dialect == "sqlite":
                cursor.execute("BEGIN")  # the driver begins none before a SAVEPOINT, which then would commit
            Fit(cursor, self._dialect, name).check(written)
        except ConfigurationError:
            raise
        except Exception as fault:
            raise without_values(fault) from None
        finally:
            connection.rollback()

    def _on_conflict(self, columns: Mapping[str, str], keys: Sequence[str]) -> str:
        updates = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in columns if name not in keys)
        return f"ON CONFLICT ({', '.join(map(quoted, keys))}) DO UPDATE SET {updates}"

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, table: str, rows: Table, keys: Sequence[str]) -> None:
        """Upsert all rows, in one transaction."""
        # A new connection for each try: after a deadlock the old one's transaction, and its staging table, are gone.
        for attempt in range(1, TRIES + 1):
            connection = self._connect()
            try:
                self._write(connection, qualified(table), rows, keys)
                connection.commit()
                return
            except Exception as fault:
                connection.rollback()
                if attempt == TRIES or not is_deadlock(fault):
                    # A driver's text may hold a row's values, which are nobody's business in a log.
                    raise without_values(fault) from None
            finally:
                connection.close()
            self._sleep(attempt * 1.0)

    def _write(self, connection: Any, name: str, rows: Table, keys: Sequence[str]) -> None:
        cursor = connection.cursor()
        listed = ", ".join(map(quoted, rows.columns))
        cursor.execute(f"CREATE TEMPORARY TABLE {STAGING} AS SELECT {listed} FROM {name} WHERE 1 = 0")
        if self._dialect == "postgresql":
            copy_in(
                cursor,
                f"COPY {STAGING} ({listed}) FROM STDIN WITH (FORMAT csv, NULL '\\N')",
                CsvStream(values_of(rows, self._dialect)),
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
        # SQLite takes 32,766 variables in a statement (https://www.sqlite.org/limits.html#max_variable_number).
        per_statement = max(1, min(VALUES_ROWS, 30_000 // max(1, len(rows.columns))))
        values = values_of(rows, self._dialect)
        while batch := list(islice(values, per_statement)):
            flat = [value for row in batch for value in row]
            cursor.execute(f"INSERT INTO {STAGING} ({listed}) VALUES {', '.join([marks] * len(batch))}", flat)


def _columns_of(connection: Any, name: str) -> list[str] | None:
    """Return a table's columns; None if it cannot be read."""
    cursor = connection.cursor()
    try:
        cursor.execute(f"SELECT * FROM {name} WHERE 1 = 0")
    except Exception as fault:
        if passes(fault):
            raise without_values(fault) from None
        connection.rollback()
        return None
    return [str(column[0]) for column in cursor.description]


def qualified(table: str) -> str:
    """
    Return a table's name as SQL writes it, so that case and odd characters stay.

    :raises ConfigurationError: If it is no name.
    """
    parts = table.split(".")
    if len(parts) > 3 or not all(_NAME.fullmatch(part) for part in parts):
        raise ConfigurationError(f"output_table must be a table's name, as table or schema.table, not {table!r}.")
    return ".".join(map(quoted, parts))
