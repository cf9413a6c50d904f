# SPDX-License-Identifier: Apache-2.0
"""Airflow's SQL connections as a run needs them: rows streamed out, and a database to write to."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.compat import AirflowException, BaseHook
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError
from airflow_provider_gemini_batch.run.input_table import Table
from airflow_provider_gemini_batch.run.sources import CursorSource
from airflow_provider_gemini_batch.run.sql_faults import passes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.sql import SqlTarget

_DIALECTS = {"postgres": "postgresql", "sqlite": "sqlite"}


@dataclass(frozen=True)
class HookSource:
    """
    A query over an Airflow connection; its rows are streamed by a server-side cursor where there is one.

    :param may_be_absent: Whether a table that is not there yet means no rows.
    """

    conn_id: str
    sql: str
    parameters: Any = None
    may_be_absent: bool = False

    def read(self, engine: DuckDBPyConnection, folder: str) -> Table:
        """Run the query and read all rows."""
        with _cursor(self.conn_id) as cursor:
            try:
                cursor.execute(self.sql, self.parameters) if self.parameters else cursor.execute(self.sql)
            except Exception as fault:
                if self.may_be_absent and _is_absent(fault):
                    return Table()
                text = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
                kind = GeminiBatchError if passes(fault) else ConfigurationError  # a retry is for what passes
                raise kind(f"sql over {self.conn_id}: {text}") from fault
            return CursorSource(cursor).read(engine, folder)


def _is_absent(fault: Exception) -> bool:
    """Whether a database says that a table, or its schema, is not there."""
    code = getattr(fault, "pgcode", None) or getattr(fault, "sqlstate", None)
    return code in ("42P01", "3F000") or "no such table" in str(fault)


def table_source(conn_id: str, table: str) -> HookSource:
    """Return a reader of a whole table, which may not be there yet."""
    from airflow_provider_gemini_batch.run.sql import qualified

    return HookSource(conn_id, f"SELECT * FROM {qualified(table)}", may_be_absent=True)


def sql_target(conn_id: str) -> SqlTarget:
    """
    Return the database of a connection, to write to.

    :raises ConfigurationError: For a database on which no tests run.
    """
    from airflow_provider_gemini_batch.run.sql import SqlTarget

    kind = str(BaseHook.get_connection(conn_id).conn_type or "")
    return SqlTarget(lambda: _connect(conn_id), _DIALECTS.get(kind, kind))


def connect_to_read(conn_id: str, seconds: int) -> Any:
    """
    Open a DB-API connection that can only read, and ends a statement by itself.

    :param seconds: Of one statement at most.
    :raises ConfigurationError: For a database on which no tests run.
    """
    kind = str(BaseHook.get_connection(conn_id).conn_type or "")
    if kind not in _DIALECTS:
        raise ConfigurationError(f"The connection {conn_id} is of type {kind!r}: read the table there.")
    connection = _connect(conn_id)
    try:
        only_read(connection, _DIALECTS[kind], seconds)
    except BaseException:
        connection.close()
        raise
    return connection


def only_read(connection: Any, dialect: str, seconds: int) -> None:
    """
    Let a new DB-API connection read alone, and end each statement after some seconds.

    :param dialect: ``postgresql`` or ``sqlite``.
    """
    with contextlib.closing(connection.cursor()) as cursor:
        if dialect == "sqlite":
            cursor.execute("PRAGMA query_only = ON")
            until = time.monotonic() + seconds
            connection.set_progress_handler(lambda: int(time.monotonic() > until), 100_000)
        else:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute(f"SET LOCAL statement_timeout = {seconds * 1000}")


def _connect(conn_id: str) -> Any:
    """Open a DB-API connection, as the connection's own hook does."""
    connection = BaseHook.get_connection(conn_id)
    try:
        hook = connection.get_hook()
    except AirflowException as fault:
        if connection.conn_type == "sqlite":  # needs no provider: Python brings it
            return sqlite3.connect(f"file:{connection.host}", uri=True)
        raise ConfigurationError(f"The connection {conn_id}: {fault}. Install the provider of its database.") from fault
    if not hasattr(hook, "get_conn"):
        raise ConfigurationError(f"The connection {conn_id} is none of a SQL database.")
    return hook.get_conn()


@contextlib.contextmanager
def _cursor(conn_id: str) -> Iterator[Any]:
    kind = BaseHook.get_connection(conn_id).conn_type
    connection = _connect(conn_id)
    try:
        # A named cursor of PostgreSQL stays on the server; without one the driver fetches all rows at once.
        yield connection.cursor("gemini_batch") if kind == "postgres" else connection.cursor()
    finally:
        connection.close()
