# SPDX-License-Identifier: Apache-2.0
"""Does a table that is there take the values that a run will write?"""

# The database is asked itself, before anything is paid for: of a column whose type is not the one that the run would
# give it, values are put into a staging table that goes with the transaction. Of columns of the input these are all
# values that the input has; of an answer's columns, and of our own, they are examples: the members of an `enum`, the
# ends of a range, a text as long as an answer may be. Example: the schema says `{"type": "integer", "maximum": 5}` and
# the column is `smallint`: 5 goes in, and the table is taken; a free text does not go into `varchar(50)`.

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.outputs import Table
from airflow_provider_gemini_batch.run.schema_reading import one_type
from airflow_provider_gemini_batch.run.sql_faults import passes
from airflow_provider_gemini_batch.run.sql_values import CsvStream, copy_in, type_in, values_of
from airflow_provider_gemini_batch.run.tables import quoted, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.spec import RunSpec

_WANTED, _TRIAL = "gemini_batch_wanted", "gemini_batch_trial"
_LONG_TEXT = 10_000
"""Characters of an answer that no ``maxLength`` bounds."""

_OF_OURS: Mapping[str, Sequence[Any]] = {
    "status": ("succeeded",), "error_code": (13,), "error_message": ("x" * 500,), "finish_reason": ("x" * 40,),
    "answer_source": ("duplicate",), "attempts": (3,), "model_version": ("x" * 60,), "prompt_tokens": (1_000_000,),
    "output_tokens": (100_000,), "thoughts_tokens": (100_000,), "cached_tokens": (1_000_000,), "cost": (0.000123,),
    "request_digest": ("f" * 32,), "job_name": ("x" * 120,), "answered_at": ("2026-01-31 12:00:00.000000+00",),
}  # fmt: skip
_OF_A_LENGTH = ("vector", "halfvec")
"""Types of vectors; how long the model's are is not known before."""
_NEVER_NULL = ("status", "attempts")


@dataclass(frozen=True)
class Written:
    """
    What a run will write into a table.

    :param columns: DuckDB types by name, in order.
    :param keys: Key columns.
    :param examples: Values of answers and of our own columns; none where they cannot be told.
    :param nullable: Columns that are null in a row without an answer.
    :param data: Local Parquet file with the input's columns; None while it is not read.
    """

    columns: Mapping[str, str]
    keys: Sequence[str]
    examples: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    nullable: frozenset[str] = frozenset()
    data: str | None = None
    engine: DuckDBPyConnection | None = None


def written_by(
    spec: RunSpec, keys: Mapping[str, str], kept: Mapping[str, str], engine: DuckDBPyConnection, data: str | None
) -> Written:
    """Return what a run will write; *keys* and *kept* are types by column."""
    ours = {spec.meta(name): values for name, values in _OF_OURS.items()}
    answers = {name: list(_examples(spec, name)) for name in spec.answer_columns}
    never = {spec.meta(name) for name in _NEVER_NULL}
    nullable = frozenset({*ours, *answers} - never)
    return Written(spec.output_columns(keys, kept), list(keys), {**ours, **answers}, nullable, data, engine)


def _examples(spec: RunSpec, name: str) -> Iterator[Any]:
    """Yield values of an answer's column as a database is given them; none where a schema leaves too much open."""
    kind = spec.answer_columns[name]
    schema: Mapping[str, Any] = {}
    if spec.schema is not None:
        _, _, schema = one_type(spec.schema.schema["properties"][name] if spec.schema.is_object else spec.schema.schema)
    if kind.kind != "scalar":
        yield "[]" if kind.kind == "list" else '{"a": 1}'
    elif values := [value for value in schema.get("enum") or [schema.get("const")] if value is not None]:
        yield from values
    elif kind.sql == "VARCHAR":
        if not {"pattern", "format"} & set(schema):
            yield "x" * int(schema.get("maxLength", _LONG_TEXT))
    elif kind.sql in ("BIGINT", "DOUBLE"):
        ends = [schema[end] for end in ("minimum", "maximum") if isinstance(schema.get(end), (int, float))]
        yield from ends or [7 if kind.sql == "BIGINT" else 0.5]  # 1 would pass for true
    else:
        yield {"BOOLEAN": True, "DATE": "2026-01-31"}.get(kind.sql, "2026-01-31 12:00:00.000000+00")


@dataclass(frozen=True)
class Column:
    """A column of a table as the database tells it."""

    type: str
    is_not_null: bool
    has_default: bool
    is_row_id: bool = False


class Fit:
    """
    Compares a table with what will be written.

    :param cursor: In a transaction that is rolled back.
    :param dialect: ``postgresql`` or ``sqlite``.
    :param table: Its name, quoted.
    """

    def __init__(self, cursor: Any, dialect: str, table: str) -> None:
        self._cursor = cursor
        self._dialect = dialect
        self._table = table
        self._is_strict = True

    def check(self, written: Written) -> None:
        """
        Refuse a table that cannot take what will be written.

        :raises ConfigurationError: Naming the columns, both types, and the way out.
        """
        present = self._columns()
        problems = [*self._nulls(present, written), *self._types(present, written)]
        if problems:
            raise ConfigurationError(f"The table {self._table} cannot take what the run writes: {'; '.join(problems)}.")

    # --- nulls --------------------------------------------------------------------------------------------------------

    def _nulls(self, present: Mapping[str, Column], written: Written) -> Iterator[str]:
        for name, column in present.items():
            if not column.is_not_null or name in written.keys:
                continue
            if name not in written.columns:
                if not column.has_default:
                    yield f"its column {name} is NOT NULL without a default, and the run does not write it"
            elif name in written.nullable:
                yield (
                    f"its column {name} is NOT NULL, and a row without an answer has none "
                    f"(ALTER TABLE ... ALTER COLUMN {quoted(name)} DROP NOT NULL)"
                )
            elif self._has_null(name, written):
                yield f"its column {name} is NOT NULL, and the input has a row without a value there"

    def _has_null(self, name: str, written: Written) -> bool:
        if written.data is None or written.engine is None:
            return False
        query = f"SELECT 1 FROM read_parquet({text(written.data)}) WHERE {quoted(name)} IS NULL LIMIT 1"
        return written.engine.execute(query).fetchone() is not None

    # --- types --------------------------------------------------------------------------------------------------------

    def _types(self, present: Mapping[str, Column], written: Written) -> Iterator[str]:
        wanted = self._wanted(written)
        for name, sql in written.columns.items():
            column = present[name]
            if (column.type == wanted[name] or not self._is_strict) and not column.is_row_id:
                continue
            if column.type.startswith(_OF_A_LENGTH):
                continue
            values = self._values(name, sql, written)
            if values is not None and not self._takes(column, values):
                yield (
                    f"its column {name} is of type {column.type}, and not all that comes there fits, which is "
                    f"{wanted[name]} (ALTER the column's type, or leave it out or rename it by keep_columns, "
                    "response_schema or meta_prefix)"
                )

    def _values(self, name: str, sql: str, written: Written) -> Iterable[tuple[Any, ...]] | None:
        """Return values of a column as rows of one; None where there is nothing to try."""
        if name in written.examples:
            return [(value,) for value in written.examples[name]] or None
        if written.data is None or written.engine is None:
            return None
        return values_of(Table(written.engine, [written.data], {name: sql}, ()), self._dialect)

    def _takes(self, column: Column, values: Iterable[tuple[Any, ...]]) -> bool:
        """Try values in a table of one column."""
        cursor = self._cursor
        cursor.execute("SAVEPOINT gemini_batch_fit")
        try:
            if self._dialect == "postgresql":
                cursor.execute(f"CREATE TEMPORARY TABLE {_TRIAL} (v {column.type})")
                copy_in(cursor, f"COPY {_TRIAL} (v) FROM STDIN WITH (FORMAT csv, NULL '\\N')", CsvStream(iter(values)))
            else:
                key = " PRIMARY KEY" if column.is_row_id else ""
                strict = "" if column.is_row_id else " STRICT"
                cursor.execute(f"CREATE TEMPORARY TABLE {_TRIAL} (v {column.type}{key}){strict}")
                cursor.executemany(f"INSERT OR IGNORE INTO {_TRIAL} VALUES (?)", values)
        except Exception as fault:
            if passes(fault):
                raise
            return False
        finally:
            cursor.execute("ROLLBACK TO SAVEPOINT gemini_batch_fit")
        return True

    # --- what the database tells --------------------------------------------------------------------------------------

    def _columns(self) -> dict[str, Column]:
        if self._dialect == "postgresql":
            return self._described(f"{self._table}")
        return self._sqlite_columns()

    def _described(self, table: str) -> dict[str, Column]:
        self._cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod), attnotnull, "
            "atthasdef OR attidentity <> '' OR attgenerated <> '' FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (table,),
        )
        return {str(name): Column(str(kind), *facts) for name, kind, *facts in self._cursor.fetchall()}

    def _wanted(self, written: Written) -> dict[str, str]:
        """Return the types that the run would give its columns, in the database's words."""
        types = {name: type_in(self._dialect, sql) for name, sql in written.columns.items()}
        if self._dialect != "postgresql":
            return types
        typed = ", ".join(f"{quoted(name)} {sql}" for name, sql in types.items())
        self._cursor.execute(f"CREATE TEMPORARY TABLE {_WANTED} ({typed})")
        return {name: column.type for name, column in self._described(f"pg_temp.{_WANTED}").items()}

    def _sqlite_columns(self) -> dict[str, Column]:
        schema, _, name = self._table.rpartition(".")
        prefix = f"{schema}." if schema else ""
        self._cursor.execute(f"PRAGMA {prefix}table_info({name})")
        found = self._cursor.fetchall()
        keys = [row for row in found if row[5]]
        # Without STRICT, SQLite stores what it is given, whatever the column's type; a row id alone is always a number.
        self._cursor.execute("SELECT sql FROM " + f"{prefix}sqlite_master WHERE type = 'table' AND name = ?",
                             (name.strip('"').replace('""', '"'),))  # fmt: skip
        made = self._cursor.fetchone()
        self._is_strict = bool(made and re.search(r"\)[^)]*\bSTRICT\b[^)]*$", str(made[0]), re.IGNORECASE))
        return {
            str(row[1]): Column(
                str(row[2]), bool(row[3]), row[4] is not None,
                is_row_id=len(keys) == 1 and bool(row[5]) and str(row[2]).upper() == "INTEGER",
            )
            for row in found
        }  # fmt: skip
